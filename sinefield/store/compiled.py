"""Which compiled kernels numba has stored on this machine, so that a short training need not wait for the others.

numba keeps what it compiled on disk, and reads it in an instant. What it has is noted here by operations rather than
asked from numba, whose import alone takes as long as reading a mesh. Where a note is wrong, a kernel is compiled once
more, or the definition in torch runs once more: nothing else depends on it.
"""

import os
import platform
import zlib
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from sinefield.errors import SinefieldError
from sinefield.files import cache_folder, read_text, write_text

if TYPE_CHECKING:
    from sinefield.plain.distance import TrueDistance

_SOURCES = Path(__file__).parents[1] / "kernels" / "cpu"
MOST = 1 << 16
"""Bytes of a note; there are some dozens of kernels."""


def stored() -> frozenset[str]:
    """The kernels that were compiled before, by names that `note_stored` was given."""
    try:
        return frozenset(read_text(_note(), MOST, "note of kernels").split("\n")) - {""}
    except SinefieldError:
        return frozenset()


def note_stored(names: Iterable[str]) -> None:
    """Add kernels that were compiled, or read from where they are stored."""
    before = stored()
    if not (new := frozenset(names) - before):
        return
    with suppress(SinefieldError):  # a note is a convenience
        write_text(_note(), "\n".join(sorted(before | new)) + "\n", overwrite=True)


def quickened(distance: "TrueDistance", compiling: bool) -> int:
    """Have a stored field's distances found by compiled kernels, which are noted as stored; how many threads they take.

    Args:
        compiling: also where nothing is stored yet.
    """
    import numpy as np
    import torch

    from sinefield.kernels.choose import choose, only_stored_kernels
    from sinefield.plain.quick import quicken

    with nullcontext() if compiling else only_stored_kernels(stored()):
        choice = choose("true_distance", torch.device("cpu"), gradients=1)
    threads = quicken(distance, choice)
    if distance.quick is not None and choice.stored_as is not None:
        for kind in (np.float32, np.float64):  # compiled now rather than in the midst of a question
            point = distance.centre[None].astype(kind)
            distance.quick(point, np.empty(1, kind), np.empty((1, 3), kind), 1)
        note_stored([choice.stored_as])
    return threads


def _note() -> Path:
    """The file of notes: another for other kernels, another numba, processor, place of its files, or package."""
    sources = b"".join(path.read_bytes() for path in sorted(_SOURCES.glob("*.py")))
    try:
        numba = version("numba")
    except PackageNotFoundError:
        numba = ""
    place = os.environ.get("NUMBA_CACHE_DIR", ""), str(_SOURCES), platform.python_version()
    told = repr((numba, place, platform.machine(), _processor(), zlib.crc32(sources)))
    return cache_folder() / f"kernels-{zlib.crc32(told.encode()):08x}.txt"


def _processor() -> str:
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "".join([line for line in lines if line.startswith(("model name", "flags"))][:2])
    return platform.processor()
