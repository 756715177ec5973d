"""Sheets: surfaces that hold nothing inside, as two smooth functions that a network can learn.

`side` is the distance to the sheet, with the sign of the side that its nearest face looks to; it passes through zero on
the sheet and on the sheet's continuation beyond its rim. `beyond` is negative on a slab around the sheet and positive
everywhere else: past the rim, and further from the sheet than half the slab's thickness. The sheet is where side is
zero and beyond is negative. The sign of a side jumps half-way between two parts of a sheet that look the same way, and
at the seam of a strip with one side only; all such places but those within the slab are cut away by `beyond`.
"""

from typing import NamedTuple

import igl
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

from sinefield.data.surfaces.curve import curve_order
from sinefield.data.surfaces.nearest import nearest
from sinefield.data.surfaces.pieces import area_vectors, edges_of
from sinefield.data.surfaces.surface import Surface

SLAB = 1 / 3
"""Half the slab's thickness, as a share of the band within which distances are learned."""
FADE = 3.0
"""Half thicknesses of the slab from which on `side` is zero: what it jumps by further out costs a network nothing."""
ON = 1e-6
"""Share of a face's height, and of the box's diagonal, within which a place is on an edge."""
STEP = 1e-4
"""Shares of the diagonal at which an edge of one face is searched for other faces that go on there."""
DISC = 2.0
"""Radii of the disc that a cloud's point stands for at which its sheet ends: discs of half the area leave gaps."""


class SheetValues(NamedTuple):
    """Of points, in input units; see the module."""

    side: Float[np.ndarray, "n"]
    beyond: Float[np.ndarray, "n"]


def sheet_values(
    surface: Surface, points: Float[np.ndarray, "n 3"], half: float, rim: "Rim | None" = None
) -> SheetValues:
    """Side and beyond of points (n, 3) in input coordinates.

    With d the distance to the sheet, c the nearest place on it and n the normal there (of an edge or a vertex the sum
    of those around it, by angle: Baerentzen and Aanaes, IEEE TVCG 2005): side is ±d with the sign of (p − c)·n, and
    fades to zero from d = half to 3 half. Where c is on the rim, side is (p − c)·n, and what remains of p − c counts as
    `beyond`.

    Arguments:
        half: half the slab's thickness, input units.
        rim: of the surface, where the caller has it already.
    """
    points = np.ascontiguousarray(points, np.float64)
    if surface.faces is None:
        away, along, past = _to_discs(surface, points)
    else:
        away, along, past = (rim or Rim(surface)).asked(points)
    fade = np.clip((FADE - away / half) / (FADE - 1), 0, 1)
    return SheetValues(along * fade, np.maximum(past, away - half))


def _to_discs(surface: Surface, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance, distance along the normal, and distance past the rim, of the disc of the nearest point of a cloud."""
    away, which = nearest(KDTree(surface.vertices), points)
    along = np.einsum("ij,ij->i", points - surface.vertices[which], surface.cloud_normals()[which])
    across = np.sqrt(np.maximum(away**2 - along**2, 0))
    past = across - DISC * np.sqrt(surface.areas / np.pi)[which]
    return np.hypot(along, np.maximum(past, 0)), along, past


class Rim:
    """A mesh with its normals at edges and vertices, and the curve at which it ends.

    Attributes:
        ends: (k, 2) the edges of the rim, empty for a closed mesh.
    """

    ends: Int[np.ndarray, "k 2"]

    def __init__(self, surface: Surface) -> None:
        self.vertices, self.faces = surface.vertices, surface.mesh_faces().astype(np.int64)
        self.diagonal = _diagonal(surface)
        self.tree = igl.AABB()
        self.tree.init(self.vertices, self.faces)
        edges, which, count, _ = edges_of(self.faces)
        vectors = area_vectors(self.vertices, self.faces)
        self.normals = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-300)
        of_edges = np.stack([np.bincount(which, np.repeat(self.normals[:, i], 3)) for i in range(3)], axis=1)
        # Of each face's edges 01, 12, 20; where both sides cancel, its own.
        self.of_edges = _or_own(of_edges[which].reshape(-1, 3, 3), self.normals)
        self.of_corners = _or_own(self._at_vertices()[self.faces], self.normals)
        alone = np.flatnonzero(count[which] == 1)
        alone = alone[~self._goes_on(alone // 3, alone % 3)]
        self.ends = edges[which[alone]].astype(np.int64)
        self.curve = igl.AABB()
        if len(self.ends):
            self.curve.init(self.vertices, self.ends)

    def asked(
        self, points: Float[np.ndarray, "n 3"]
    ) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
        """Of points (n, 3): the distance; the distance along the normal, with its sign; the distance past the rim,
        negative on this side of it, −∞ without one."""
        away, along, past = np.empty(len(points)), np.empty(len(points)), np.empty(len(points))
        order = curve_order(points)
        for part in np.array_split(order, -(-len(points) // 250_000)) if len(points) else []:
            away[part], along[part], past[part] = self._asked(points[part])
        return away, along, past

    def _asked(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        squared, face, closest = map(np.asarray, self.tree.squared_distance(self.vertices, self.faces, points))
        away, offset = np.sqrt(squared), points - closest
        along = np.einsum("ij,ij->i", offset, self._normals_at(closest, face))
        signed = np.where(along < 0, -away, away)
        if not len(self.ends):
            return away, signed, np.full(len(points), -np.inf)
        inward = np.sqrt(self.curve.squared_distance(self.vertices, self.ends, np.ascontiguousarray(closest))[0])
        on_rim = inward <= ON * self.diagonal
        along = np.where(on_rim, along, signed)
        across = np.sqrt(np.maximum(away**2 - along**2, 0))
        return away, along, np.where(on_rim, across, -inward)

    def _normals_at(self, places: np.ndarray, face: np.ndarray) -> np.ndarray:
        """Unit normals at places on faces, of the edge or the vertex that a place is on."""
        a, b, c = (self.vertices[self.faces[face, i]] for i in range(3))
        weights = np.clip(igl.barycentric_coordinates(places, a, b, c), 0, 1)
        near = weights < ON
        normals, at_edge = self.normals[face].copy(), near.sum(axis=1) == 1
        # Opposite corner 0 is edge 12, opposite 1 is 20, opposite 2 is 01.
        opposite = np.array([1, 2, 0])[near[at_edge].argmax(axis=1)]
        normals[at_edge] = self.of_edges[face[at_edge], opposite]
        at_corner = near.sum(axis=1) >= 2
        normals[at_corner] = self.of_corners[face[at_corner], weights[at_corner].argmax(axis=1)]
        return normals

    def _at_vertices(self) -> Float[np.ndarray, "v 3"]:
        """Sums of the normals around each vertex, each by its face's angle there."""
        angles = np.asarray(igl.internal_angles(self.vertices, self.faces))
        sums = np.zeros(self.vertices.shape)
        for i in range(3):
            np.add.at(sums, self.faces[:, i], angles[:, i : i + 1] * self.normals)
        return sums

    def _goes_on(self, face: np.ndarray, edge: np.ndarray) -> Bool[np.ndarray, "k"]:
        """Whether another face lies at the middle of an edge that only one face has: tiles whose vertices differ, a
        wall that stands on a floor."""
        if not len(face):
            return np.zeros(0, bool)
        a, b = (self.vertices[self.faces[face, (edge + i) % 3]] for i in range(2))
        along = (b - a) / np.linalg.norm(b - a, axis=1, keepdims=True)
        out, up = np.cross(along, self.normals[face]), self.normals[face]
        step, found = STEP * self.diagonal, np.zeros(len(face), bool)
        for angle in np.arange(-3, 4) * np.pi / 4:  # an eighth of a turn apart, all but into the face itself
            probe = (a + b) / 2 + step * (np.cos(angle) * out + np.sin(angle) * up)
            squared = np.asarray(self.tree.squared_distance(self.vertices, self.faces, probe)[0])
            found |= squared < (0.4 * step) ** 2
        return found

    def samples(self, n: int, rng: np.random.Generator) -> Float[np.ndarray, "n 3"]:
        """Points uniform on the rim."""
        a, b = (self.vertices[self.ends[:, i]] for i in range(2))
        total = np.cumsum(np.linalg.norm(b - a, axis=1))
        chosen = np.searchsorted(total, rng.random(n) * total[-1], side="right").clip(max=len(total) - 1)
        t = rng.random((n, 1))
        return (1 - t) * a[chosen] + t * b[chosen]


def _or_own(sums: Float[np.ndarray, "f 3 3"], own: Float[np.ndarray, "f 3"]) -> Float[np.ndarray, "f 3 3"]:
    """Unit vectors along sums of normals, and the face's own where they cancel, as where two faces disagree."""
    length = np.linalg.norm(sums, axis=2, keepdims=True)
    return np.where(length > 1e-3, sums / np.maximum(length, 1e-300), own[:, None])


def _diagonal(surface: Surface) -> float:
    return float(np.linalg.norm(surface.aabb[3:] - surface.aabb[:3]))
