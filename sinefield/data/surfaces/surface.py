"""A user's surface, its place in the field's box, and which side of it a point lies on.

Inside is where the generalised winding number is above one half (Jacobson et al., SIGGRAPH 2013; Barill et al.,
SIGGRAPH 2018), so that holes, overlaps and loose pieces still leave a sensible inside.
"""

import atexit
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import igl
import numpy as np
from jaxtyping import Bool, Float, Int, Int32, UInt8
from numpy.typing import ArrayLike
from scipy.spatial import KDTree
from tqdm import tqdm

from sinefield.data.surfaces.cloud_normals import (
    ASKED,
    CURVED,
    Planes,
    against_winding,
    curved,
    oriented,
    planes_through,
)
from sinefield.data.surfaces.curve import curve_order
from sinefield.data.surfaces.dipoles import Dipoles
from sinefield.data.surfaces.mesh_files import read_shape
from sinefield.data.surfaces.mesh_repair import Repaired, repair_cloud, repair_mesh
from sinefield.data.surfaces.nearest import nearest
from sinefield.data.surfaces.parts import CLAY, Paint, Part, ShapeFile
from sinefield.data.surfaces.pieces import CONTAINERS
from sinefield.data.surfaces.placement import Normalisation
from sinefield.errors import SinefieldError

CHUNK = 250_000  # points handed to libigl at once: large beside the cost of building its tree
BAR = 200_000  # points from which a progress bar is worth its line
FEWEST = 50
"""Points that normals can be estimated from."""
FLIPPED = 0.02
"""Share of a cloud's normals against the winding number from which they are oriented anew."""
NOISY = 0.7
"""Scatter of a cloud's points across its surface, over their distance, from which they are moved."""
NAMED = 5
"""Turned pieces that are named one by one."""


_with_trees: "weakref.WeakSet[Surface]" = weakref.WeakSet()


@atexit.register
def _drop_trees() -> None:
    """libigl's bindings complain of what is still there when the interpreter has ended."""
    for surface in _with_trees:
        for name in ("winding_tree", "distance_tree"):
            vars(surface).pop(name, None)


@dataclass(frozen=True, eq=False)
class Surface:
    """What a user gave, in the input's own coordinates: a triangle mesh or an oriented point cloud.

    Attributes:
        vertices: (v, 3) without doubles, each of them used.
        faces: (f, 3) counter-clockwise seen from outside; None for a point cloud.
        normals: (v, 3) unit length, outward; None for a mesh.
        colours: (v, 3) of a cloud's points, or None.
        source: the file, for messages.
        report: counts, and what was repaired; see `load_surface`.
        paint: colours of a mesh's faces, or None.
        part_of: (f,) or (v,) which part of the file each face, or point of a cloud, comes from.
        part_names: of the parts.
        with_inside: (f,) whether a face belongs to a piece that has an inside, see `pieces`; None for all.
        point_areas: (v,) that the points of a cloud stand for; None to have them measured.
        unit: of length, where the file says.
        notes: what was guessed, left out, repaired or turned, a sentence each.
    """

    vertices: Float[np.ndarray, "v 3"]
    faces: Int32[np.ndarray, "f 3"] | None
    normals: Float[np.ndarray, "v 3"] | None
    colours: UInt8[np.ndarray, "v 3"] | None
    source: str
    report: dict[str, Any]
    paint: Paint | None = None
    part_of: Int[np.ndarray, "n"] | None = None
    part_names: tuple[str, ...] = ()
    with_inside: Bool[np.ndarray, "f"] | None = None
    point_areas: Float[np.ndarray, "v"] | None = None
    unit: str | None = None
    notes: tuple[str, ...] = ()

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
        areas = planes_through(self.vertices).areas if self.point_areas is None else self.point_areas
        return areas[:, None] * self.cloud_normals()

    @cached_property
    def winding_tree(self) -> tuple[Any, Normalisation]:
        """Of a mesh that has an inside: what answers winding numbers, and the box around the origin that it is in.

        libigl sums in single precision, which loses nothing there. Building it takes as long as 60,000 answers.
        """
        unit, tree, faces = Normalisation.fit(self.aabb, margin=0.0), igl.FastWindingNumberBVH(), self.mesh_faces()
        kept = faces if self.with_inside is None else faces[self.with_inside]
        tree.init(unit.apply(self.vertices), kept.astype(np.int64))
        _with_trees.add(self)
        return tree, unit

    @cached_property
    def dipoles(self) -> tuple[Dipoles, Normalisation]:
        """Of a cloud: what answers winding numbers, and the box around the origin that it is in."""
        unit = Normalisation.fit(self.aabb, margin=0.0)
        return Dipoles(unit.apply(self.vertices), self.cloud_normals(), self.areas * unit.scale**2), unit

    @cached_property
    def distance_tree(self) -> tuple[Any, Int[np.ndarray, "f 3"]]:
        """Of a mesh: what answers distances, and its faces as that takes them."""
        tree, faces = igl.AABB(), self.mesh_faces().astype(np.int64)
        tree.init(self.vertices, faces)
        _with_trees.add(self)
        return tree, faces

    @cached_property
    def areas(self) -> Float[np.ndarray, "n"]:
        """Area of each face or point, input units squared."""
        return np.linalg.norm(self.area_vectors, axis=1)


def load_surface(path: str | Path) -> Surface:
    """Read a mesh or oriented point cloud, whatever its format, and repair it gently.

    Vertices at equal positions become one. Repeated faces and faces without three corners go; faces that disagree with
    their neighbours follow the majority of their patch; then each piece that is inside out is turned, see `pieces`.
    The report of a mesh counts vertices, faces, pieces, closed_pieces, turned_pieces, duplicate_faces,
    degenerate_faces, reoriented_faces and boundary_edges, and says watertight: every edge is walked as often one way as
    the other. open_fraction is missing / (given + missing) area, where each hole is taken as closed by the smallest
    flat lid; open_share is the share of the area that belongs to pieces without an inside. The report of a point cloud
    has points and dropped_points (doubles, or without a normal). `notes` say the same in words.

    Raises:
        SinefieldError: missing, empty, damaged or unknown file; no faces and no normals; coordinates that are not
            finite; a face that names no vertex; nothing of any extent.
    """
    return make_surface(read_shape(path), str(path))


def make_surface(shape: ShapeFile, source: str) -> Surface:
    """`load_surface` of what a file held; `source` names it in messages."""
    parts = shape.parts
    vertices = shape.vertices
    if not np.isfinite(vertices).all():
        bad = int((~np.isfinite(vertices)).any(axis=1).sum())
        raise SinefieldError(f"{source}: {bad:,} of {len(vertices):,} vertices are NaN or infinite; repair the mesh")
    longest = float(np.ptp(vertices, axis=0).max())
    if longest == 0:
        raise SinefieldError(f"{source}: all vertices are at one place; export a shape with some extent")
    if not 1e-30 < longest < 1e30:
        raise SinefieldError(f"{source}: its extent is {longest:g}; rescale it to between 1e-30 and 1e30")
    names = tuple(part.name for part in parts)
    surface = _cloud(parts, vertices, source) if parts[0].faces is None else _mesh(parts, vertices, source)
    return replace(surface, part_names=names, unit=shape.unit, notes=(*shape.notes, *surface.notes))


def _mesh(parts: Sequence[Part], vertices: np.ndarray, source: str) -> Surface:
    meshes = [part for part in parts if part.faces is not None]
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    given = [part.faces + start for part, start in zip(parts, starts, strict=False) if part.faces is not None]
    sizes = [len(faces) for faces in given]
    mesh = repair_mesh(source, vertices, np.concatenate(given))
    paint = None
    if any(part.paint is not None for part in meshes):
        clay = np.array(CLAY, np.float32)
        paints = [part.paint or Paint.plain(np.tile(clay, (n, 3, 1))) for part, n in zip(meshes, sizes, strict=True)]
        paint = Paint.joined(paints).followed(mesh.kept, mesh.corner)
    part_of = np.repeat(np.arange(len(meshes)), sizes)[mesh.kept]
    names = [part.name for part in meshes]
    notes = _notes(mesh, part_of, names)
    bodies = mesh.pieces.bodies
    with_inside = None if bodies.all() else bodies[mesh.pieces.of_face]
    found = Surface(mesh.vertices, mesh.faces, None, None, source, mesh.report, paint, part_of, notes=notes)
    return replace(found, with_inside=with_inside)


def _notes(mesh: Repaired, part_of: np.ndarray, names: Sequence[str]) -> tuple[str, ...]:
    """What a person should know of a mesh that was repaired or is incomplete."""
    report, pieces, notes = mesh.report, mesh.pieces, []
    for key, what in (
        ("duplicate_faces", "repeated faces dropped"),
        ("degenerate_faces", "faces without an area dropped"),
        ("reoriented_faces", "faces turned to agree with their neighbours"),
    ):
        if report[key]:
            notes.append(f"{report[key]:,} {what}")
    for piece in np.flatnonzero(pieces.turned)[:NAMED]:
        faces = np.flatnonzero(pieces.of_face == piece)
        name = names[int(part_of[faces[0]])]
        of = f" ({name})" if name else ""
        notes.append(f"piece {piece + 1} of {len(pieces.turned)}{of}, {len(faces):,} faces, was inside out: turned")
    if pieces.turned.any() and len(pieces.turned) > CONTAINERS:
        notes.append(f"only the {CONTAINERS:,} largest pieces were asked what lies in them")
    if (more := int(pieces.turned.sum()) - NAMED) > 0:
        notes.append(f"{more:,} more pieces were inside out: turned")
    if report["boundary_edges"]:
        share = 100 * report["open_fraction"]
        notes.append(
            f"the mesh is open: {report['boundary_edges']:,} boundary edges, about {share:.1f} % of its surface "
            "missing; inside is where the winding number exceeds one half"
        )
    sheets = int((~pieces.bodies).sum())
    if sheets and pieces.bodies.any():
        notes.append(
            f"{sheets:,} of {len(pieces.bodies):,} pieces are open or flat: they hold nothing inside, "
            "and a field of a distance or an occupancy leaves them out; field.represents sheet keeps every face"
        )
    return tuple(notes)


def _cloud(parts: Sequence[Part], vertices: np.ndarray, source: str) -> Surface:
    part_of = np.repeat(np.arange(len(parts)), [len(part.vertices) for part in parts])
    given = [part.normals for part in parts if part.normals is not None]
    normals = np.concatenate(given) if len(given) == len(parts) else None
    coloured = [part.colours for part in parts if part.colours is not None]
    kept, report = repair_cloud(source, vertices, normals)
    notes = []
    if report["dropped_points"]:
        notes.append(f"{report['dropped_points']:,} points dropped (doubles, or without a normal)")
    points, planes = vertices[kept], planes_through(vertices[kept])
    if not (planes.areas > 0).any():
        raise SinefieldError(f"{source}: its points lie on a line or closer together than numbers tell; give a surface")
    if normals is None and len(points) < FEWEST:
        raise SinefieldError(
            f"{source}: has {len(points)} points and neither faces nor normals, too few to guess any; give a mesh, or "
            f"at least {FEWEST} points"
        )
    if normals is None:
        points, normals, more = _estimated(points, planes)
    else:
        unit = normals[kept] / np.linalg.norm(normals[kept], axis=1, keepdims=True)
        normals, more = _checked(points, unit, planes.areas)
    colours = np.concatenate(coloured)[kept] if len(coloured) == len(parts) else None
    found = Surface(points, None, normals, colours, source, report, part_of=part_of[kept], point_areas=planes.areas)
    return replace(found, notes=(*notes, *more))


def _estimated(points: np.ndarray, planes: Planes) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Points, normals and what was done to them, of a cloud that came without normals."""
    notes = [
        f"the points have no normals: estimated from {planes.neighbours} neighbours each and turned to the outside; "
        "look at the result, or give normals"
    ]
    if planes.thickness > NOISY * np.sqrt(np.median(planes.areas)):
        moved, count = planes.flattened(points), int(CURVED * planes.neighbours)
        planes = planes_through(moved)
        normals = oriented(moved, planes.normals, planes.areas, voted=False)
        moved, normals = curved(points, moved, normals, count)
        notes.append(
            f"the points scatter by about {np.linalg.norm(points - moved, axis=1).mean():.3g}: moved onto a smooth "
            f"surface through {count} neighbours of each"
        )
        return moved, normals, notes
    return points, oriented(points, planes.normals, planes.areas, voted=False), notes


def _checked(points: np.ndarray, normals: np.ndarray, areas: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Given normals, oriented anew where too many of them look inwards; and what was done."""
    notes, some = [], np.arange(len(points))
    if len(points) > ASKED:
        some = np.random.default_rng(0).choice(len(points), ASKED, replace=False)
    wrong = float(against_winding(points, normals, areas, some).mean())
    if FLIPPED < wrong < 1 - FLIPPED:
        turned = oriented(points, normals, areas, voted=True)
        share = float((np.einsum("ij,ij->i", turned, normals) < 0).mean())
        notes.append(f"{100 * share:.0f} % of the normals pointed against their neighbours: turned")
        normals = turned
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    if np.einsum("i,ij,ij->", areas, normals, points - middle) < 0:
        notes.append("the normals pointed inwards: all turned")
        normals = -normals
    return normals, notes


def winding_number(surface: Surface, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
    """Generalised winding number at points (n, 3) in input coordinates, of what has an inside; inside is above 0.5.

    Near a whole number for closed surfaces, in between near holes; an approximation good to some thousandths. For
    point clouds each point weighs as much as the area around it.

    Raises:
        SinefieldError: a point is not finite.
    """
    if surface.faces is not None:
        if surface.with_inside is not None and not surface.with_inside.any():
            return np.zeros(len(points))
        tree, placed = surface.winding_tree
        return _chunked(lambda q: tree.winding_number(placed.apply(q)), surface, points)
    dipoles, placed = surface.dipoles
    return _chunked(lambda q: dipoles.winding_number(placed.apply(q)), surface, points)


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
    tree, faces = surface.distance_tree
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
    chunk, order, result = max(CHUNK, size), curve_order(points), np.empty(len(points))
    # disable=None: shown on a terminal only
    with tqdm(total=len(points), unit=" points", leave=False, disable=True if len(points) <= BAR else None) as bar:
        for start in range(0, len(points), chunk):
            part = order[start : start + chunk]
            result[part] = function(points[part])
            bar.update(len(part))
    return result
