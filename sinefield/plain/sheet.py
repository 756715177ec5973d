"""Distances of a stored sheet: a shape field that holds nothing inside."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from sinefield.config import ShapeFieldConfig
from sinefield.data.surfaces.curve import curve_order
from sinefield.errors import SinefieldError
from sinefield.meshing.sheet import sheet_mesh
from sinefield.plain.distance import TrueDistance, shaped_points
from sinefield.plain.network import PlainNetwork

MARGIN = 2
"""Cells around the box."""
FAR = 1e4
"""Longest sides of the box from which on distances are to the nearest place as seen from there."""
CLOSE = 1e-6
"""Longest sides of the box from the sheet within which a gradient is the face's normal."""


class SheetDistance(TrueDistance):
    """Distance to a sheet anywhere in space, never negative: to its mesh, which is extracted at the first question.

    Args:
        evaluate: side and beyond (n, 2) at float64 points (n, 3), input coordinates and units.
        aabb: (6,) the sheet's box, input units.
        resolution: cells along the box's longest side.

    Examples:
        >>> import numpy as np
        >>> box = np.array([-1.1, -0.1, -1.1, 1.1, 0.1, 1.1])
        >>> square = SheetDistance(lambda p: np.stack([p[:, 1], np.abs(p).max(axis=1) - 1], axis=1), box)
        >>> square.sdf(np.array([[0, 0.5, 0], [2.0, 0, 0]])).round(3)
        array([0.5, 1. ])
    """

    def __init__(
        self,
        evaluate: Callable[[Float[np.ndarray, "n 3"]], Float[np.ndarray, "n 2"]],
        aabb: Float[np.ndarray, "6"],
        resolution: int = 160,
    ) -> None:
        super().__init__(evaluate, aabb, resolution=resolution)

    @property
    def capped(self) -> bool:
        """A sheet has no lids."""
        return False

    @cached_property
    def mesh(self) -> tuple[Float[np.ndarray, "v 3"], np.ndarray]:
        """Vertices and faces, in coordinates whose origin is the box's centre and whose unit is its longest side.

        Raises:
            SinefieldError: the field has no sheet in the box, or is not finite.
        """
        pitch = 1.0 / self.resolution
        shape = np.ceil((self.high - self.low) / self.unit / pitch).astype(np.int64) + 2 * MARGIN + 1
        found = sheet_mesh(self._values, -(shape - 1) * pitch / 2, shape, pitch)
        if not len(found.faces):
            raise SinefieldError("the field has no sheet in its box; train longer")
        return found.vertices, found.faces

    @cached_property
    def _tree(self) -> Any:
        import igl  # no part of importing sinefield: it takes a quarter of a second

        tree = igl.AABB()
        tree.init(*self.mesh)
        return tree

    def _answer(self, points: np.ndarray, distances: np.ndarray, directions: np.ndarray | None) -> None:
        """Fill in distances, never negative, and directions of one chunk; those are unit vectors away from the sheet,
        on the sheet itself to the side that its faces look to."""
        vertices, faces = self.mesh
        places = points / self.unit - self.centre / self.unit
        largest = np.abs(places).max(axis=1, initial=0)
        asked = np.where((largest > FAR)[:, None], places * (FAR / np.maximum(largest, FAR))[:, None], places)
        order, which, closest = curve_order(asked), np.zeros(len(places), np.int64), np.zeros(places.shape)
        if len(places):
            _, which[order], closest[order] = self._tree.squared_distance(vertices, faces, asked[order])
        away = places - closest
        size = np.hypot(np.hypot(away[:, 0], away[:, 1]), away[:, 2])
        distances[:] = size * self.unit
        if directions is None:
            return
        a, b, c = (vertices[faces[which, i]] for i in range(3))
        normals = np.cross(b - a, c - a)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
        directions[:] = np.where((size < CLOSE)[:, None], normals, away / np.maximum(size, 1e-300)[:, None])

    def inside(self, points: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, "n"]:
        """False for all points (n, 3): a sheet holds nothing inside; raises as `sdf` does for points."""
        return np.zeros(len(shaped_points(points)), np.bool_)


def distances_of(config: ShapeFieldConfig, arrays: Mapping[str, np.ndarray]) -> TrueDistance:
    """Distances of a stored shape field of any sort, by NumPy alone.

    Args:
        arrays: by name, those of the state dict of `fields.shape.ShapeField`.

    Raises:
        SinefieldError: see `PlainNetwork`.
    """
    if config.represents != "sheet":
        return TrueDistance.of_arrays(config, arrays)
    network = PlainNetwork(config, arrays)
    centre, scale, aabb = (np.asarray(arrays[name], np.float64) for name in ("centre", "scale", "aabb"))

    def evaluate(points: np.ndarray) -> np.ndarray:
        return network((points - centre) * scale).astype(np.float64) * (config.band / scale)

    return SheetDistance(evaluate, aabb)
