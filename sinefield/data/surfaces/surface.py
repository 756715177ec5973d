"""A user's surface, its place in the field's box, and which side of it a point lies on.

Inside is where the generalised winding number is above one half (Jacobson et al., SIGGRAPH 2013; Barill et al.,
SIGGRAPH 2018), so that holes, overlaps and loose pieces still leave a sensible inside.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import igl
import numpy as np
from jaxtyping import Float, Int32, UInt8
from numpy.typing import ArrayLike
from scipy.spatial import KDTree
from tqdm import tqdm

from sinefield.data.surfaces.mesh_files import read_shape
from sinefield.data.surfaces.mesh_repair import repair_cloud, repair_mesh
from sinefield.data.surfaces.nearest import nearest
from sinefield.errors import SinefieldError

MARGIN = 0.1
CHUNK = 250_000  # points handed to libigl at once: large beside the cost of building its tree
NEIGHBOURS = 8  # whose distance tells a point of a cloud how much surface it stands for
BAR = 200_000  # points from which a progress bar is worth its line


@dataclass(frozen=True, eq=False)
class Surface:
    """What a user gave, in the input's own coordinates: a triangle mesh or an oriented point cloud.

    Attributes:
        vertices: (v, 3) without doubles, each of them used.
        faces: (f, 3) counter-clockwise seen from outside; None for a point cloud.
        normals: (v, 3) unit length, outward; None for a mesh.
        colours: (v, 3) of the vertices, or None.
        source: the file, for messages.
        report: counts, and what was repaired; see `load_surface`.
    """

    vertices: Float[np.ndarray, "v 3"]
    faces: Int32[np.ndarray, "f 3"] | None
    normals: Float[np.ndarray, "v 3"] | None
    colours: UInt8[np.ndarray, "v 3"] | None
    source: str
    report: dict[str, Any]

    def mesh_faces(self) -> Int32[np.ndarray, "f 3"]:
        """The faces of a mesh; raises SinefieldError for a point cloud."""
        if self.faces is None:
            raise SinefieldError(f"{self.source}: is a point cloud, without faces; give a mesh")
        return self.faces

    def cloud_normals(self) -> Float[np.ndarray, "v 3"]:
        """The normals of a point cloud; raises SinefieldError for a mesh."""
        if self.normals is None:
            raise SinefieldError(f"{self.source}: has no normals of its vertices; give an oriented point cloud")
        return self.normals

    @property
    def aabb(self) -> Float[np.ndarray, "6"]:
        """Box as xmin ymin zmin xmax ymax zmax, input units."""
        return np.concatenate([self.vertices.min(axis=0), self.vertices.max(axis=0)])

    @cached_property
    def area_vectors(self) -> Float[np.ndarray, "n 3"]:
        """Area times outward normal of each face, or of the disc that each point of a cloud stands for."""
        if self.faces is not None:
            a, b, c = (self.vertices[self.faces[:, i]] for i in range(3))
            return np.cross(b - a, c - a) / 2
        neighbours = min(NEIGHBOURS, len(self.vertices) - 1)
        radius = nearest(KDTree(self.vertices), self.vertices, [neighbours + 1])[0]
        return np.pi * radius**2 / neighbours * self.cloud_normals()

    @cached_property
    def areas(self) -> Float[np.ndarray, "n"]:
        """Area of each face or point, input units squared."""
        return np.linalg.norm(self.area_vectors, axis=1)


def load_surface(path: str | Path) -> Surface:
    """Read a mesh (.obj .ply .stl .off .glb .gltf) or oriented point cloud (.ply .xyz), repair it gently.

    Vertices at equal positions become one. Repeated faces and faces without three corners go; pieces whose faces
    disagree on the outside follow their majority; a surface that encloses a negative volume is turned inside out.
    The report of a mesh counts vertices, faces, components, duplicate_faces, degenerate_faces, reoriented_faces and
    boundary_edges, and says watertight: every edge is walked as often one way as the other. open_fraction is
    missing / (given + missing) area, where each hole is taken as closed by the smallest flat lid. The report of a
    point cloud has points and dropped_points (doubles, or without a normal).

    Raises:
        SinefieldError: missing, empty, damaged or unknown file; no faces and no normals; coordinates that are not
            finite; a face that names no vertex; nothing of any extent.
    """
    raw = read_shape(path)
    vertices = np.ascontiguousarray(raw.vertices, np.float64)
    if not np.isfinite(vertices).all():
        bad = int((~np.isfinite(vertices)).any(axis=1).sum())
        raise SinefieldError(f"{path}: {bad:,} of {len(vertices):,} vertices are NaN or infinite; repair the mesh")
    longest = float(np.ptp(vertices, axis=0).max())
    if longest == 0:
        raise SinefieldError(f"{path}: all vertices are at one place; export a shape with some extent")
    if not 1e-30 < longest < 1e30:
        raise SinefieldError(f"{path}: its extent is {longest:g}; rescale it to between 1e-30 and 1e30")
    if raw.faces is not None:
        vertices, faces, colours, report = repair_mesh(str(path), vertices, raw.faces, raw.colours)
        return Surface(vertices, faces, None, colours, str(path), report)
    if raw.normals is None:
        raise SinefieldError(f"{path}: has points but neither faces nor normals; add faces, or nx ny nz to each point")
    vertices, normals, colours, report = repair_cloud(str(path), vertices, raw.normals, raw.colours)
    surface = Surface(vertices, None, normals, colours, str(path), report)
    if np.einsum("ij,ij->", surface.area_vectors, vertices - _centre(surface.aabb)) < 0:
        surface = Surface(vertices, None, -normals, colours, str(path), report | {"turned": True})
    return surface


@dataclass(frozen=True)
class Normalisation:
    """x_field = (x − centre) · scale; stored with the field so that exports return to the input's coordinates."""

    centre: tuple[float, float, float]
    scale: float

    @classmethod
    def fit(cls, aabb: Float[np.ndarray, "6"], margin: float = MARGIN) -> "Normalisation":
        """Centre the box (6,) and make its longest side fill [−1, 1] / (1 + margin).

        Raises:
            SinefieldError: the box has no extent.
        """
        longest = float((aabb[3:] - aabb[:3]).max())
        if not longest > 0:
            raise SinefieldError(f"box {np.asarray(aabb).tolist()} has no extent; give minimum before maximum")
        x, y, z = (float(c) for c in _centre(aabb))
        return cls((x, y, z), 2 / ((1 + margin) * longest))

    def apply(self, x: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Input coordinates (n, 3) to field coordinates."""
        return (np.asarray(x, np.float64) - self.centre) * self.scale

    def invert(self, x: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Field coordinates (n, 3) to input coordinates."""
        return np.asarray(x, np.float64) / self.scale + self.centre


def winding_number(surface: Surface, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
    """Generalised winding number at points (n, 3) in input coordinates; inside is above 0.5.

    Near a whole number for closed surfaces, in between near holes; an approximation good to some thousandths. For
    point clouds each point weighs as much as the area around it.

    Raises:
        SinefieldError: a point is not finite.
    """
    # libigl sums in single precision: in a box around the origin that loses nothing.
    unit = Normalisation.fit(surface.aabb, margin=0.0)
    vertices = unit.apply(surface.vertices)
    if surface.faces is not None:
        faces = surface.faces.astype(np.int64)
        return _chunked(lambda q: igl.fast_winding_number(vertices, faces, unit.apply(q)), surface, points)
    areas = surface.areas * unit.scale**2
    normals = surface.cloud_normals()
    return _chunked(lambda q: igl.fast_winding_number(vertices, normals, areas, unit.apply(q)), surface, points)


def signed_distance(surface: Surface, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
    """Distance from points (n, 3) to the surface in input units, negative inside.

    The magnitude is exact for meshes; the sign is the winding number's. In a cloud each point stands for a disc across
    its normal, and the magnitude is the distance to the disc of the nearest point.

    Raises:
        SinefieldError: a point is not finite.
    """
    # igl.signed_distance with fast winding numbers scales |d| by 1 − 2w, w inexact: so the two are asked apart.
    sign = np.where(winding_number(surface, points) > 0.5, -1.0, 1.0)
    if surface.faces is not None:
        return sign * distance_to_mesh(surface, points)
    tree, radii, normals = KDTree(surface.vertices), np.sqrt(surface.areas / np.pi), surface.cloud_normals()

    def to_disc(q: np.ndarray) -> np.ndarray:
        distance, which = nearest(tree, q)
        along = np.einsum("ij,ij->i", q - surface.vertices[which], normals[which])
        across = np.sqrt(np.maximum(distance**2 - along**2, 0))
        return np.hypot(along, np.maximum(across - radii[which], 0))

    return sign * _chunked(to_disc, surface, points)


def distance_to_mesh(surface: Surface, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
    """Exact distance from points (n, 3) to a mesh, input units, never negative; raises as `signed_distance` does."""
    tree, faces = igl.AABB(), surface.mesh_faces().astype(np.int64)
    tree.init(surface.vertices, faces)
    squared = _chunked(lambda q: tree.squared_distance(surface.vertices, faces, q)[0], surface, points)
    return np.sqrt(squared)


def _chunked(
    function: Callable[[np.ndarray], ArrayLike], surface: Surface, points: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n"]:
    """`function` of the points, a chunk at a time, neighbours together: in cache its tree is twice as fast."""
    points = np.ascontiguousarray(points, np.float64)
    if not np.isfinite(points).all():
        raise SinefieldError("points to be compared with a surface are NaN or infinite; check where they come from")
    size = len(surface.vertices if surface.faces is None else surface.faces)
    chunk, order, result = max(CHUNK, size), _morton(points), np.empty(len(points))
    # disable=None: shown on a terminal only
    with tqdm(total=len(points), unit=" points", leave=False, disable=True if len(points) <= BAR else None) as bar:
        for start in range(0, len(points), chunk):
            part = order[start : start + chunk]
            result[part] = function(points[part])
            bar.update(len(part))
    return result


def _morton(points: Float[np.ndarray, "n 3"]) -> np.ndarray:
    """Order of the points along a Z-shaped curve through 1024³ cells."""
    if len(points) == 0:
        return np.zeros(0, np.int64)
    low = points.min(axis=0)
    cells = ((points - low) * (1023 / max(np.ptp(points, axis=0).max(), 1e-300))).astype(np.int64)
    code = np.zeros(len(points), np.int64)
    for bit in range(10):
        for axis in range(3):
            code |= (cells[:, axis] >> bit & 1) << (3 * bit + axis)
    return np.argsort(code, kind="stable")


def _centre(aabb: Float[np.ndarray, "6"]) -> Float[np.ndarray, "3"]:
    return (aabb[:3] + aabb[3:]) / 2
