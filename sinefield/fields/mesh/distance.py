"""True distances of a mesh: those of its faces, anywhere in space."""

import numpy as np
from jaxtyping import Bool, Float

from sinefield.data.surfaces.curve import curve_order
from sinefield.data.surfaces.surface import Surface, winding_number
from sinefield.plain.distance import TrueDistance, checked_points


class MeshDistance(TrueDistance):
    """`TrueDistance` of a mesh, exact: nothing is extracted. On the mesh itself gradients are the faces' normals.

    Args:
        mesh: closed, in input coordinates.
    """

    def __init__(self, mesh: Surface) -> None:
        super().__init__(lambda points: self._signed(points)[0], mesh.aabb)
        self.mesh = mesh

    @property
    def capped(self) -> bool:
        return False

    def inside(self, points: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, "n"]:
        return winding_number(self.mesh, checked_points(points)) > 0.5

    def _answer(self, points: np.ndarray, distances: np.ndarray, directions: np.ndarray | None) -> None:
        distances[:], ways = self._signed(points)
        if directions is not None:
            directions[:] = ways

    def _signed(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not len(points):
            return np.zeros(0), np.zeros((0, 3))
        tree, faces = self.mesh.distance_tree
        order = curve_order(points)
        squares, which, places = tree.squared_distance(self.mesh.vertices, faces, points[order])
        sign = np.where(winding_number(self.mesh, points[order]) > 0.5, -1.0, 1.0)
        size = np.sqrt(squares)
        away = (points[order] - places) * sign[:, None]
        areas = self.mesh.area_vectors[which]
        normals = areas / np.maximum(np.linalg.norm(areas, axis=1, keepdims=True), 1e-300)
        tiny = size <= 1e-9 * self.unit
        away = np.where(tiny[:, None], normals, away / np.maximum(size, 1e-300)[:, None])
        distances, directions = np.empty(len(points)), np.empty((len(points), 3))
        distances[order], directions[order] = sign * size, away
        return distances, directions
