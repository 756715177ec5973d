"""A field's surface as a cloud of coloured points with normals."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import trimesh
from jaxtyping import Float, UInt8
from tqdm import tqdm

from sinefield.errors import SinefieldError
from sinefield.export.mesh import load_shown
from sinefield.export.sights import sights, surface_points
from sinefield.fields.base import kind_of
from sinefield.fields.origins import origin_of
from sinefield.files import atomic_path, check_output
from sinefield.meshing.named_mesh import NamedMesh
from sinefield.meshing.read_back import MOST_FACES
from sinefield.meshing.write_plain import write_ply
from sinefield.version import __version__

COUNT, MOST = 100_000, 10_000_000
VIEWS, LONGEST = 48, 640
"""Cameras that look at a field, and pixels along the longer side of their pictures."""


def export_points(
    run: str | Path,
    out: str | Path,
    count: int = COUNT,
    data: str | None = None,
    overwrite: bool = False,
    adapters: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Write about `count` points of a field's surface as a binary .ply; returns run, out, kind, points, views, notes,
    seconds.

    A point is where a ray of one of the cameras meets the field (opacity at least one half, at the mean depth), with
    the colour seen there, sRGB of 8 bits, and the normal out of the surface. Coordinates are the input's. Of a field of
    photographs the cameras are those of its training views, of others turns around it.

    Arguments:
        count: points at most; there are fewer where less is seen.
        data: the photographs of a `.sine` file that does not name them.

    Raises:
        SinefieldError: another ending, a count out of range, `out` exists, nothing opaque is seen; see `load_shown` and
            `sights`.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = export_points("example:toys", Path(folder) / "toys.ply", 500)
        >>> report["points"]
        500
    """
    out, begin = Path(out), time.perf_counter()
    if out.suffix.lower() != ".ply":
        raise SinefieldError(f"{out}: points are written as a .ply; name it so")
    if not 1 <= count <= MOST:
        raise SinefieldError(f"--count {count}: 1 to {MOST:,} points")
    check_output(out, overwrite)
    field = load_shown(run, adapters)
    painter = kind_of(field).painter(field)
    # No more pixels than it takes to have some to choose from.
    longest = int(np.clip(round(np.sqrt(4 * count / VIEWS)), 128, LONGEST))
    seen = sights(run, field, painter, VIEWS, longest, data, adapters)
    found = []
    for i in tqdm(range(len(seen.cameras)), desc="views", unit="view"):
        layers = painter.layers(seen.cameras, i, normals=True)
        points, colours, pixels = surface_points(seen.cameras, i, layers)
        assert layers.normals is not None  # asked for
        found.append((points, colours, layers.normals.reshape(-1, 3)[pixels]))
    points, colours, normals = (np.concatenate(parts) for parts in zip(*found, strict=True))
    if not len(points):
        raise SinefieldError(f"{run}: no camera sees anything opaque in it; train it longer")
    kept = evenly(points, count)
    cloud = NamedMesh(
        "", points[kept] + origin_of(field), np.zeros((0, 3), np.int64), to_bytes(colours[kept]), normals=normals[kept]
    )
    about = {"generator": f"sinefield {__version__}", "frame": "axes, origin and unit of length are the input's"}
    with atomic_path(out, overwrite) as temporary:
        write_ply(temporary, [cloud], about)
    return {
        "run": str(run),
        "out": str(out),
        "kind": field.kind,
        "points": _read_back(out, len(kept)),
        "views": len(seen.cameras),
        "notes": [seen.note],
        "seconds": round(time.perf_counter() - begin, 2),
    }


def _read_back(out: Path, written: int) -> int:
    """How many points another reader finds; of very many, how many were written."""
    return written if written > MOST_FACES else len(np.asarray(cast(Any, trimesh.load(out)).vertices))


def evenly(points: Float[np.ndarray, "n 3"], count: int) -> np.ndarray:
    """Indices of at most `count` of the points, as even in space as cells of one size make them.

    Each cell that has points gives one of them before any gives a second.
    """
    if len(points) <= count:
        return np.arange(len(points))
    order = np.random.default_rng(0).permutation(len(points))
    low, reach = points.min(axis=0), max(float(np.ptp(points, axis=0).max()), 1e-30)
    small, large = reach * 1e-6, reach
    for _ in range(24):  # the largest cells that still give enough points, one each
        cell = np.sqrt(small * large)
        first = _firsts(points[order], low, cell)
        small, large = (cell, large) if len(first) >= count else (small, cell)
    first = _firsts(points[order], low, small)
    return np.sort(order[first[:count]])


def _firsts(points: np.ndarray, low: np.ndarray, cell: float) -> np.ndarray:
    """The first point of each cell, in their order."""
    places = np.floor((points - low) / cell).astype(np.int64)
    return np.sort(np.unique(places[:, 0] + (places[:, 1] << 21) + (places[:, 2] << 42), return_index=True)[1])


def to_bytes(colours: Float[np.ndarray, "n 3"]) -> UInt8[np.ndarray, "n 3"]:
    """sRGB in [0, 1] as 8 bits."""
    return np.round(colours.clip(0, 1) * 255).astype(np.uint8)
