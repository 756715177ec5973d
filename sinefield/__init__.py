"""sinefield: 3D scenes, shapes and images as small, fast neural fields with sine-activated low-rank weights.

>>> import sinefield as sf
>>> field = sf.load("example:knot")
>>> bool(field.inside([[50.0, 0.0, 0.0]])[0])
False
"""

import os
from typing import TYPE_CHECKING, Any

from sinefield.errors import SinefieldError
from sinefield.version import __version__

# Threads that wait for each other sleep instead of spinning: 1.7 times the steps beside a busy process, a little fewer
# on an idle machine (docs/results/waiting.md). Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from sinefield.api import Field, fit, load, look_at
    from sinefield.example_files import example, examples
    from sinefield.field_set import FieldSet


__all__ = ["Field", "FieldSet", "SinefieldError", "__version__", "example", "examples", "fit", "load", "look_at"]
_HOME = {"FieldSet": "sinefield.field_set", "example": "sinefield.example_files", "examples": "sinefield.example_files"}


def __getattr__(name: str) -> Any:
    """Import what is asked for, and no more: torch takes a second."""
    if name in __all__:
        from importlib import import_module

        return getattr(import_module(_HOME.get(name, "sinefield.api")), name)
    raise AttributeError(f"module 'sinefield' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
