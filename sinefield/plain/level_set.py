"""The surface where a function is zero, found quickly on a coarse grid, and the nearest place on it."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

from sinefield.data.surfaces.curve import curve_order
from sinefield.errors import SinefieldError

BLOCK = 4
"""Cells along each side of a block; a block is evaluated as a whole or at its corners only."""
MARGIN = 2
"""Cells around the box, so that a surface that lies a little outside of it is closed."""
HALF_DIAGONAL = 0.5 * 3**0.5
"""Cells between any point and the grid point nearest to it, at most."""
ROOTS = 4
"""Evaluations of each vertex on its way along its edge to the zero."""


class LevelSet:
    """A closed triangle mesh around the places where a function is negative, in a grid of cubic cells.

    Every grid point lies on the side of the mesh that the function's sign there says, and no mesh is further from the
    zero than along one edge of a cell. Details thinner than a cell may be missed.

    Attributes:
        vertices: (v, 3).
        faces: (f, 3) counter-clockwise seen from outside.
        pitch: side of a cell.
        capped: whether the inside reaches the grid's wall, where a lid closes it.
    """

    def __init__(
        self,
        vertices: Float[np.ndarray, "v 3"],
        faces: Int[np.ndarray, "f 3"],
        origin: Float[np.ndarray, "3"],
        pitch: float,
        negative: Bool[np.ndarray, "x y z"],
        capped: bool,
    ) -> None:
        import igl  # no part of importing sinefield: it takes a quarter of a second

        self.vertices, self.faces, self.origin, self.pitch = vertices, faces, origin, pitch
        self.negative, self.capped = negative, capped
        self._tree = igl.AABB()
        self._tree.init(vertices, faces)

    @classmethod
    def extract(
        cls, evaluate: Callable[[np.ndarray], np.ndarray], sides: Float[np.ndarray, "3"], resolution: int
    ) -> "LevelSet":
        """The zero level within a box around the origin.

        Args:
            evaluate: values (n,) at points (n, 3).
            sides: (3,) of the box.
            resolution: cells along its longest side.

        Raises:
            SinefieldError: the function has one sign all over the box.
        """
        # From the file itself, which brings no other part of scikit-image.
        from skimage.measure._marching_cubes_lewiner import marching_cubes

        pitch = float(sides.max()) / resolution
        blocks = np.ceil((np.ceil(sides / pitch) + 2 * MARGIN) / BLOCK).astype(np.int64)
        origin = -blocks * BLOCK * pitch / 2
        volume = _sampled(lambda cells: evaluate(origin + cells * pitch), blocks)
        if (volume < 0).all() or not (volume < 0).any():
            where = "inside" if volume[0, 0, 0] < 0 else "outside"
            raise SinefieldError(f"the field has no surface: it is {where} all over its box; train longer")
        capped = _closed(volume, pitch)
        corners, faces, _, _ = marching_cubes(volume, 0.0, gradient_direction="descent")
        corners = _on_zero(lambda cells: evaluate(origin + cells * pitch), volume, corners.astype(np.float64))
        return cls(origin + corners * pitch, faces.astype(np.int64), origin, pitch, volume < 0, capped)

    def nearest(self, points: Float[np.ndarray, "n 3"]) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n 3"]]:
        """Distance (n,) from points to the mesh, never negative, and the nearest places (n, 3) on it."""
        distances, places = np.zeros(len(points)), np.zeros((len(points), 3))
        if len(points):
            order = curve_order(points)
            squares, _, found = self._tree.squared_distance(self.vertices, self.faces, points[order])
            distances[order], places[order] = np.sqrt(squares), found
        return distances, places

    def covers(self, points: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, "n"]:
        """Whether points lie within the grid's outermost cells, where the function's sign counts."""
        cells = (points - self.origin) / self.pitch
        return np.asarray(((cells >= 1) & (cells <= np.array(self.negative.shape) - 2)).all(axis=1))

    def side(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
        """−1 inside and 1 outside, for points further from the mesh than half a cell's diagonal."""
        last = np.array(self.negative.shape) - 1
        # Whatever is further out falls on the grid's outermost points, which are outside.
        cells = np.rint(np.clip((points - self.origin) / self.pitch, 0, last)).astype(np.int64)
        return np.where(self.negative[tuple(cells.T)], -1.0, 1.0)


def _sampled(evaluate: Callable[[np.ndarray], np.ndarray], blocks: np.ndarray) -> Float[np.ndarray, "x y z"]:
    """Values on a grid of so many blocks: true ones wherever the sign may change, elsewhere that of a block's corner.

    Blocks whose corners differ in sign are evaluated, and then the surface is followed: wherever it leaves the blocks
    that are known, the next ones are. A piece is missed only if it lies wholly within one block and touches no corner.
    """
    coarse = np.stack(np.meshgrid(*[np.arange(n + 1) * BLOCK for n in blocks], indexing="ij"), axis=-1)
    values = evaluate(coarse.reshape(-1, 3)).astype(np.float32).reshape(coarse.shape[:3])
    volume = values
    for axis in range(3):
        volume = volume.repeat(BLOCK, axis)
    volume = np.ascontiguousarray(volume[tuple(slice(n * BLOCK + 1) for n in blocks)])
    known = np.zeros(volume.shape, np.bool_)
    known[::BLOCK, ::BLOCK, ::BLOCK] = True
    offsets = np.stack(np.meshgrid(*[np.arange(BLOCK + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    looked_into = np.zeros(blocks, np.bool_)
    while True:
        crossed = _any(known & (volume < 0)) & _any(known & (volume >= 0)) & ~looked_into
        if not crossed.any():
            return volume
        looked_into |= crossed
        wanted = np.zeros(volume.shape, np.bool_)
        wanted[tuple((np.argwhere(crossed)[:, None] * BLOCK + offsets).reshape(-1, 3).T)] = True
        cells = np.argwhere(wanted & ~known)
        volume[tuple(cells.T)] = evaluate(cells)
        known |= wanted


def _any(mask: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "a b c"]:
    """Whether any point of each block is set, those that it shares with the next block included."""
    for axis in range(3):
        lines = np.moveaxis(mask, axis, 0)
        own = lines[:-1].reshape(-1, BLOCK, *lines.shape[1:]).any(axis=1)
        mask = np.moveaxis(own | lines[BLOCK::BLOCK], 0, axis)
    return mask


def _closed(volume: Float[np.ndarray, "x y z"], outside: float) -> bool:
    """Put the grid's outermost points outside; whether one of them was inside."""
    touched = False
    for axis in range(3):
        lines = np.moveaxis(volume, axis, 0)
        for wall in (lines[0], lines[-1]):
            touched |= bool((wall < 0).any())
            wall[:] = np.maximum(wall, np.float32(outside))
    return touched


def _on_zero(
    evaluate: Callable[[np.ndarray], np.ndarray], volume: np.ndarray, vertices: Float[np.ndarray, "v 3"]
) -> Float[np.ndarray, "v 3"]:
    """Vertices on edges of the grid moved along them to the function's zero, by regula falsi (Illinois).

    A cell's zero is far from where a straight line through the values of its corners has it, where a function is steep
    near its zero and flat beyond. Vertices stay on their edges, so that no face turns over.
    """
    first, last = np.floor(vertices).astype(np.int64), np.ceil(vertices).astype(np.int64)
    wall = (first == 0).any(axis=1) | (last == np.array(volume.shape) - 1).any(axis=1)
    moved = np.flatnonzero(((last - first).sum(axis=1) == 1) & ~wall)
    a, b = first[moved].astype(np.float64), last[moved].astype(np.float64)
    # float64: weights are halved again and again.
    of_a, of_b = (volume[tuple(end[moved].T)].astype(np.float64) for end in (first, last))
    for _ in range(ROOTS):
        middle = a + (b - a) * (of_a / (of_a - of_b))[:, None]
        value = evaluate(middle)
        left = (value < 0) == (of_a < 0)
        a, b = np.where(left[:, None], middle, a), np.where(left[:, None], b, middle)
        of_a, of_b = np.where(left, value, of_a / 2), np.where(left, of_b / 2, value)
    vertices[moved] = a + (b - a) * (of_a / (of_a - of_b))[:, None]
    return vertices
