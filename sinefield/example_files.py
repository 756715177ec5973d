"""Small fields that the package brings, to be looked at before anything is trained."""

from importlib.resources import files
from pathlib import Path

from sinefield.errors import SinefieldError
from sinefield.strict import nearest

SUFFIX = ".sine"
EXAMPLE = "example:"
"""What names one of them wherever a run folder or a `.sine` file is asked for."""


def examples() -> list[str]:
    """Names of the example fields."""
    return sorted(path.name.removesuffix(".sine") for path in _folder().glob("*.sine"))


def example(name: str) -> Path:
    """The `.sine` file of an example field.

    Raises:
        SinefieldError: there is none of that name.
    """
    path = _folder() / f"{name}.sine"
    if name not in examples():
        raise SinefieldError(f"{EXAMPLE}{name}: no such example; {nearest(name, examples())}")
    return path


def is_sine(path: str | Path) -> bool:
    """Whether a path names a packed field rather than a run folder."""
    return str(path).startswith(EXAMPLE) or Path(path).suffix.lower() == SUFFIX


def file_of(path: str | Path) -> Path:
    """A path as it is, of `example:NAME` that of its file."""
    text = str(path)
    return example(text.removeprefix(EXAMPLE)) if text.startswith(EXAMPLE) else Path(path)


def _folder() -> Path:
    return Path(str(files("sinefield"))) / "example_fields"
