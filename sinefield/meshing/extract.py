"""A field's level set as a triangle mesh, in the input's coordinates.

The field is evaluated in chunks into one volume, and one marching cubes runs over all of it: chunks leave no seams.
"""

import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, Real, UInt8
from skimage.measure import marching_cubes
from torch import Tensor

from sinefield.data.surfaces.pieces import component_of_faces
from sinefield.errors import SinefieldError
from sinefield.meshing.grid import GridFiller

MAX_BYTES = 7 << 29
"""So that a whole process, its libraries and field included, stays below 4 GiB."""
SURFACE_BYTES = 12 * 140
"""Mesh buffers for each of N² cells of a face of the grid: about 12 vertices, twice a smooth closed object's."""


def extract(
    evaluate: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]],
    aabb: Float[np.ndarray, "6"],
    resolution: int,
    level: float,
    inside: Literal["above", "below"],
    chunk: int = 1 << 18,
    progress: bool = True,
    max_bytes: int = MAX_BYTES,
    block: int = 1,
    slope: float | None = None,
) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"], dict[str, Any]]:
    """The surface where `evaluate` equals `level` within a box; closed, faces counter-clockwise seen from outside.

    Where the inside reaches the box's wall, the mesh gets a lid half a voxel outside it, and `capped` says so.

    Arguments:
        evaluate: values (n,) at float64 points (n, 3) in input coordinates.
        aabb: (6,) xmin ymin zmin xmax ymax zmax, input coordinates.
        resolution: samples along the box's longest side; voxels are cubes.
        level: value of the surface, in the units of `evaluate`.
        inside: on which side of the level the object is: "above" (density, occupancy), "below" (distance).
        chunk: points given to `evaluate` at once.
        max_bytes: refuse what is estimated to need more memory.
        block: above 1, blocks of so many cells are looked into only where the surface may be; see `GridFiller.near`.
        slope: largest change of `evaluate` per unit length, where it is known: then no piece can be missed.

    Returns:
        vertices (v, 3) float64 in input coordinates, faces (f, 3) int32, and shape, pitch, evaluations, minimum and
        maximum of what was evaluated, level, capped, seconds, bytes of the grid.

    Raises:
        SinefieldError: an empty box, a resolution too small or too large for memory, a value that is not finite, a
            level that the field does not cross.
    """
    begin = time.perf_counter()
    aabb = np.asarray(aabb, np.float64)
    low, side = aabb[:3], aabb[3:] - aabb[:3]
    if aabb.shape != (6,) or not np.isfinite(aabb).all() or not (side >= 0).all() or side.max() == 0:
        raise SinefieldError(f"box {aabb.tolist()} is empty; give xmin ymin zmin xmax ymax zmax")
    if resolution < 2:
        raise SinefieldError(f"resolution is {resolution}; give at least 2, better 128 to 512")
    pitch = side.max() / (resolution - 1)
    # The small excess keeps rounding from adding a layer to a cube.
    shape = np.maximum(np.ceil(side / pitch - 1e-6).astype(np.int64) + 1, 2)
    needed = estimate_bytes(shape)
    if needed > max_bytes:
        fitting = resolution
        while fitting > 2 and estimate_bytes(np.ceil(shape * fitting / resolution)) > max_bytes:
            fitting = int(fitting * 0.97)
        raise SinefieldError(
            f"resolution {resolution} needs about {needed / 2**30:.1f} GiB, more than {max_bytes / 2**30:.1f}; "
            f"try --resolution {fitting}"
        )
    # Centred: voxels rarely divide the shorter sides.
    origin = low + (side - (shape - 1) * pitch) / 2
    volume = np.empty(shape + 2, np.float32)
    core = volume[1:-1, 1:-1, 1:-1]
    filler = GridFiller(core, evaluate, origin, float(pitch), chunk, progress)
    with filler.bar:
        if block > 1:
            filler.near(level, block, slope)
        else:
            filler.everywhere()
    minimum, maximum = float(core.min()), float(core.max())
    if not minimum < level < maximum:
        raise SinefieldError(_no_surface(core, level, inside, minimum, maximum))
    capped = _surround(volume, level, inside)
    # skimage's "ascent" has faces look towards smaller values.
    direction = "ascent" if inside == "above" else "descent"
    vertices, faces, _, _ = marching_cubes(volume, level, gradient_direction=direction)
    statistics = {
        "shape": shape.tolist(),
        "pitch": float(pitch),
        "evaluations": filler.evaluations,
        "minimum": minimum,
        "maximum": maximum,
        "level": float(level),
        "capped": capped,
        "bytes": volume.nbytes,
        "seconds": time.perf_counter() - begin,
    }
    return origin + (vertices.astype(np.float64) - 1) * pitch, faces.astype(np.int32), statistics


def cropped(box: Float[np.ndarray, "6"], crop: Float[np.ndarray, "6"] | None) -> Float[np.ndarray, "6"]:
    """What two boxes xmin ymin zmin xmax ymax zmax share.

    Raises:
        SinefieldError: nothing, or `crop` is no box.
    """
    if crop is None:
        return box
    if not np.isfinite(crop).all() or not (crop[:3] < crop[3:]).all():
        raise SinefieldError(f"--crop {_numbers(crop)}: give xmin ymin zmin xmax ymax zmax, each min below its max")
    shared = np.concatenate([np.maximum(box[:3], crop[:3]), np.minimum(box[3:], crop[3:])])
    if not (shared[:3] < shared[3:]).all():
        raise SinefieldError(f"--crop {_numbers(crop)} lies outside the field's box {_numbers(box)}; move it there")
    return shared


def _numbers(box: np.ndarray) -> str:
    return " ".join(f"{value:g}" for value in box)


def estimate_bytes(shape: Real[np.ndarray, "3"]) -> int:
    """Memory that `extract` takes at its peak for a grid of this shape, without what the field itself takes."""
    x, y, z = (int(s) + 2 for s in shape)
    return 4 * x * y * z + SURFACE_BYTES * (x * y + y * z + z * x) // 3


def largest_component(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], colours: UInt8[np.ndarray, "v 3"] | None = None
) -> tuple[np.ndarray, ...]:
    """Vertices and faces of the connected piece with most faces, and its colours where colours are given."""
    label = component_of_faces(faces, len(vertices))
    kept = faces[label == np.bincount(label).argmax()] if len(faces) else faces
    used, renumbered = np.unique(kept, return_inverse=True)
    piece = vertices[used], renumbered.reshape(-1, 3).astype(np.int32)
    return piece if colours is None else (*piece, colours[used])


def without_strays(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], box: Float[np.ndarray, "6"]
) -> tuple[Float[np.ndarray, "kept 3"], Int[np.ndarray, "left 3"], int]:
    """The mesh without its pieces that lie wholly outside a box, and how many those were; all of it if all do."""
    if ((vertices >= box[:3]) & (vertices <= box[3:])).all():
        return vertices, faces, 0
    label = np.unique(component_of_faces(faces, len(vertices)), return_inverse=True)[1].reshape(-1)
    low, high = (np.full((label.max() + 1, 3), fill) for fill in (np.inf, -np.inf))
    corners, labels = vertices[faces].reshape(-1, 3), np.repeat(label, 3)
    np.minimum.at(low, labels, corners)
    np.maximum.at(high, labels, corners)
    outside = np.any(np.logical_or(high < box[:3], low > box[3:]), axis=1)
    if not outside.any() or outside.all():
        return vertices, faces, 0
    used, renumbered = np.unique(faces[~outside[label]], return_inverse=True)
    return vertices[used], renumbered.reshape(-1, 3).astype(faces.dtype), int(outside.sum())


def strays_said(strays: int) -> str:
    """That pieces were left out by `without_strays`, and why."""
    pieces = "1 piece" if strays == 1 else f"{strays:,} pieces"
    return f"left out {pieces} wholly outside the box of the data, where the field errs"


def _surround(volume: np.ndarray, level: float, inside: str) -> bool:
    """Fill the outermost layer with outside values; whether the inside touched it.

    Each value is that of its neighbour mirrored at the level, which puts lids half a voxel outside the box.
    """
    touched, outer = False, np.minimum if inside == "above" else np.maximum
    for axis in range(3):
        view = np.moveaxis(volume, axis, 0)
        # Sides first, then edges and corners, from neighbours that exist by then.
        rest = tuple(slice(None) if other < axis else slice(1, -1) for other in range(3) if other != axis)
        for edge, neighbour in ((0, 1), (-1, -2)):
            values = view[neighbour][rest]
            outside = outer(values, np.float32(2 * level) - values)
            touched |= bool((outside != values).any())
            view[edge][rest] = outside
    return touched


def _no_surface(core: np.ndarray, level: float, inside: str, minimum: float, maximum: float) -> str:
    if minimum == maximum:
        return f"the field is {minimum:.4g} all over the box, so it has no surface; train longer"
    step = max(1, round((core.size / 1e6) ** (1 / 3)))
    quantile = float(np.quantile(core[::step, ::step, ::step], 0.95 if inside == "above" else 0.05))
    suggested = quantile if minimum < quantile < maximum else (minimum + maximum) / 2
    return (
        f"level {level:g} is outside the field's range {minimum:.4g} to {maximum:.4g}, so it has no surface; "
        f"try --level {suggested:.3g}"
    )
