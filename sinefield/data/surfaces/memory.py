"""What reading and repairing a large file takes, said, or refused, before it begins."""

import sys
from pathlib import Path

from sinefield.data.surfaces.readers.source import Source
from sinefield.errors import harmless
from sinefield.machine import free_memory

SAID = 1 << 30
"""Bytes of memory from which it is said."""
TAKEN = {"ply": 32, "stl": 16, "obj": 40, "off": 16, "glb": 36, "gltf": 36, "3mf": 40}
"""Bytes of memory for each byte of an unpacked file, about: the peak of `load_surface` of a closed mesh of a million
faces, rounded up. What is packed within the file (Draco, zips) may take more."""
CLOUDS = {"npy": 100, "npz": 100, "laz": 200}
"""The same of clouds, reckoned and not measured: points without normals take about 1.2 kB each, as measured of half a
million in an .xyz file, and a point takes 12 bytes of these files or 6 to 8 packed ones."""
OTHERS = 50
"""Of all other clouds; measured of .xyz, 46."""


def state_memory(source: Source, kind: str) -> None:
    """Say what a large file will take, on standard error; raises SinefieldError where the machine has less.

    Arguments:
        source: the file, unpacked.
        kind: what it is read as.
    """
    needed = (TAKEN | CLOUDS).get(kind, OTHERS) * len(source.data)
    if needed < SAID:
        return
    free = free_memory()
    what = f"{len(source.data) / 1e6:,.0f} MB of {kind.upper()}"
    takes = f"reading and repairing it takes about {needed / 1e9:.1f} GB of memory"
    if free is not None and needed > free:
        raise source.wrong(f"{what}: {takes}, and {free / 1e9:.1f} GB are free", "decimate it first, or free memory")
    there = "" if free is None else f" ({free / 1e9:.1f} GB are free)"
    print(harmless(f"note: {Path(source.path).name}: {what}: {takes}{there}"), file=sys.stderr, flush=True)
