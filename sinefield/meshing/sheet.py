"""The mesh of a sheet: where one function is zero and another is negative. NumPy alone.

The first function, `side`, changes its sign across the sheet; the second, `beyond`, is negative near the sheet and
positive past its rim. `data.surfaces.sheet` has their definitions.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

BLOCK = 4
"""Cells along each side of a block; a block is evaluated as a whole or at its centre only."""
SLOPE = 1.5
"""What a learned distance is trusted to change by, per unit length; a true one by 1."""
ROOTS = 4
"""Evaluations of each vertex on its way along its edge to a zero."""
CHUNK = 1 << 18
SPECK = 24.0
"""Squares of a cell's side that a loose scrap of mesh has to cover to be kept, where there is a larger piece."""

Evaluate = Callable[[Float[np.ndarray, "n 3"]], Float[np.ndarray, "n 2"]]


class SheetMesh(NamedTuple):
    """vertices (v, 3); faces (f, 3), which look to the side that is positive; how many points were evaluated."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    evaluations: int


def sheet_mesh(
    evaluate: Evaluate, origin: Float[np.ndarray, "3"], shape: Int[np.ndarray, "3"], pitch: float
) -> SheetMesh:
    """The mesh within a grid of cubic cells; without faces where there is no sheet.

    Arguments:
        evaluate: side and beyond (n, 2) at points (n, 3), in units of length.
        origin: the grid's first point.
        shape: points along each axis.
        pitch: a cell's side; a sheet is found whole where that is below the thickness of the slab around it.
    """
    # From the file itself, which brings no other part of scikit-image.
    from skimage.measure._marching_cubes_lewiner import marching_cubes

    asked = _Asked(evaluate, origin, pitch)
    volume = _sides(asked, np.maximum(shape, 2))
    if not (volume < 0).any() or not (volume > 0).any():
        return SheetMesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64), asked.evaluations)
    corners, faces, _, _ = marching_cubes(volume, 0.0, gradient_direction="descent")
    corners, faces = corners.astype(np.float64), faces.astype(np.int64)
    near = asked(corners)[:, 1] < SLOPE * 2
    corners, faces = _used(corners, faces[near[faces].all(axis=1)])
    first, last = np.floor(corners), np.ceil(corners)
    moved = (last - first).sum(axis=1) == 1  # a few are within their cell, on none of its edges
    corners[moved] = _zero_between(lambda x: asked(x)[:, 0], first[moved], last[moved])
    corners, faces = _trimmed(lambda x: asked(x)[:, 1], corners, faces)
    corners, faces = _without_specks(corners, faces)
    return SheetMesh(origin + corners * pitch, faces, asked.evaluations)


class _Asked:
    """A function of points as one of a grid's cells, values too, and a count of what it was asked."""

    def __init__(self, evaluate: Evaluate, origin: np.ndarray, pitch: float) -> None:
        self.evaluate, self.origin, self.pitch, self.evaluations = evaluate, origin, pitch, 0

    def __call__(self, cells: np.ndarray) -> Float[np.ndarray, "n 2"]:
        values = np.empty((len(cells), 2))
        for start in range(0, len(cells), CHUNK):
            part = slice(start, start + CHUNK)
            values[part] = self.evaluate(self.origin + cells[part] * self.pitch)
        self.evaluations += len(cells)
        return values / self.pitch


def _sides(asked: _Asked, shape: np.ndarray) -> Float[np.ndarray, "x y z"]:
    """`side` on the grid, in blocks that the slab may reach; 1 elsewhere."""
    volume = np.ones(shape, np.float32)
    blocks = -(-(shape - 1) // BLOCK)
    cells = np.moveaxis(np.indices(tuple(blocks.tolist())), 0, -1).reshape(-1, 3) * BLOCK
    reach = SLOPE * (BLOCK / 2) * 3**0.5
    cells = cells[asked(cells + BLOCK / 2)[:, 1] <= reach]
    offsets = np.moveaxis(np.indices([BLOCK + 1] * 3), 0, -1).reshape(-1, 3)
    for part in np.array_split(cells, -(-len(cells) * len(offsets) // (4 * CHUNK)) or 1):
        points = (part[:, None] + offsets).reshape(-1, 3)
        points = points[(points < shape).all(axis=1)]
        flat = np.unique(np.ravel_multi_index(tuple(points.T), tuple(shape)))
        points = np.stack(np.unravel_index(flat, tuple(shape)), axis=1)
        volume.reshape(-1)[flat] = asked(points)[:, 0]
    return volume


def _zero_between(
    function: Callable[[np.ndarray], np.ndarray], a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 3"]:
    """Places between a and b where the function is zero, by regula falsi (Illinois); where it has one sign, the end
    that is nearer to zero."""
    of_a, of_b = function(a), function(b)
    same = (of_a < 0) == (of_b < 0)
    ends = np.where((np.abs(of_a) < np.abs(of_b))[:, None], a, b)
    for _ in range(ROOTS):
        middle = a + (b - a) * _share(of_a, of_b)[:, None]
        value = function(middle)
        left = (value < 0) == (of_a < 0)
        a, b = np.where(left[:, None], middle, a), np.where(left[:, None], b, middle)
        of_a, of_b = np.where(left, value, of_a / 2), np.where(left, of_b / 2, value)
    return np.where(same[:, None], ends, a + (b - a) * _share(of_a, of_b)[:, None])


def _share(of_a: np.ndarray, of_b: np.ndarray) -> np.ndarray:
    """Where a straight line between two values is zero, 0 to 1."""
    fall = of_a - of_b
    return np.clip(of_a / np.where(fall == 0, 1, fall), 0, 1)


def _trimmed(
    beyond: Callable[[np.ndarray], np.ndarray], vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> tuple[Float[np.ndarray, "w 3"], Int[np.ndarray, "g 3"]]:
    """What of a mesh lies where `beyond` is negative; faces that lie across its zero are cut along it."""
    within = beyond(vertices) < 0
    count = within[faces].sum(axis=1)
    # Turned so that the corner that differs from the two others comes first.
    one, two = faces[count == 1], faces[count == 2]
    one = _turned_to(one, within[one].argmax(axis=1))
    two = _turned_to(two, within[two].argmin(axis=1))
    cut = np.concatenate([one[:, [0, 1]], one[:, [0, 2]], two[:, [0, 1]], two[:, [0, 2]]])
    edges, which = np.unique(np.sort(cut, axis=1), axis=0, return_inverse=True)
    made = _zero_between(beyond, vertices[edges[:, 0]], vertices[edges[:, 1]]) if len(edges) else np.zeros((0, 3))
    first, second, third, fourth = np.split(
        which.reshape(-1) + len(vertices), np.cumsum([len(one), len(one), len(two)])
    )
    pieces = [
        faces[count == 3],
        np.stack([one[:, 0], first, second], axis=1),
        np.stack([third, two[:, 1], two[:, 2]], axis=1),
        np.stack([third, two[:, 2], fourth], axis=1),
    ]
    return _used(np.concatenate([vertices, made]), np.concatenate(pieces))


def _turned_to(faces: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Faces, the same way round, from a corner on."""
    return np.take_along_axis(faces, (first[:, None] + np.arange(3)) % 3, axis=1)


def _without_specks(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without loose pieces of a few cells, the largest one kept in any case."""
    if not len(faces):
        return vertices, faces
    from sinefield.data.surfaces.pieces import component_of_faces

    label = component_of_faces(faces, len(vertices))
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    area = np.bincount(label, np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2)
    return _used(vertices, faces[(area >= min(SPECK, area.max()))[label]])


def _used(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A mesh without the vertices that no face has."""
    used, renumbered = np.unique(faces, return_inverse=True)
    return vertices[used], renumbered.reshape(-1, 3)
