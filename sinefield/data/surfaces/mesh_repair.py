"""What a surface needs before inside and outside mean anything: one vertex a place, one way round, an account of holes.

Holes are counted, never filled.
"""

from typing import Any

import igl
import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from sinefield.errors import SinefieldError


def repair_mesh(
    source: str,
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    colours: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Clean a triangle soup: vertices, faces (int32), colours, report; see `geometry.load_surface`.

    Raises:
        SinefieldError: no face has an area.
    """
    given = len(faces)
    first, inverse = unique_rows(vertices + 0.0)  # + 0.0: −0 is 0
    faces = first[inverse][faces]
    corners = np.sort(faces, axis=1)
    faces = faces[(corners[:, 0] != corners[:, 1]) & (corners[:, 1] != corners[:, 2])]
    degenerate = given - len(faces)
    faces, duplicates = _drop_duplicates(faces)
    used, faces = np.unique(faces, return_inverse=True)
    faces = faces.reshape(-1, 3)
    vertices = vertices[used]
    colours = None if colours is None else colours[used]
    area = _area_vectors(vertices, faces)
    total = float(np.linalg.norm(area, axis=1).sum()) if len(faces) else 0.0
    extent = float(np.ptp(vertices, axis=0).max()) if len(faces) else 0.0
    if total <= 1e-14 * extent**2:
        raise SinefieldError(f"{source}: none of its {given:,} faces has an area; export a proper surface")
    faces, reoriented = _agree(faces)
    offset = vertices - (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    volume = float(np.einsum("ij,ij->", _area_vectors(vertices, faces), offset[faces].mean(axis=1)) / 3)
    turned = volume < -1e-6 * total * extent
    if turned:
        faces = faces[:, ::-1]
    boundary = _boundary(faces)
    lids = _lid_area(vertices, boundary)
    report = {
        "vertices": len(vertices),
        "faces": len(faces),
        "components": len(np.unique(component_of_faces(faces, len(vertices)))),
        "duplicate_faces": duplicates,
        "degenerate_faces": degenerate,
        "reoriented_faces": reoriented,
        "turned": turned,
        "watertight": len(boundary) == 0,
        "boundary_edges": len(boundary),
        "open_fraction": lids / (total + lids),
        "area": total,
    }
    return vertices, np.ascontiguousarray(faces, np.int32), colours, report


def repair_cloud(
    source: str, points: Float[np.ndarray, "v 3"], normals: Float[np.ndarray, "v 3"], colours: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Points without doubles, normals of unit length, colours, report.

    Raises:
        SinefieldError: fewer than four points have a normal.
    """
    length = np.linalg.norm(normals, axis=1)
    keep = np.flatnonzero(np.isfinite(length) & (length > 0))
    # Points closer than single precision tells apart would divide libigl's octree without end.
    cell = np.ptp(points, axis=0).max() * 1e-7
    first, _ = unique_rows(np.floor((points[keep] - points.min(axis=0)) / cell))
    kept = keep[np.sort(first)]
    if len(kept) < 4:
        raise SinefieldError(f"{source}: {len(kept)} distinct points have a normal; give at least 4, better thousands")
    report = {"points": len(kept), "dropped_points": len(points) - len(kept), "turned": False}
    colours = None if colours is None else colours[kept]
    return points[kept], normals[kept] / length[kept, None], colours, report


def unique_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the first of each distinct row, and which of them each row equals."""
    rows = np.ascontiguousarray(rows)
    packed = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).reshape(-1)
    _, first, inverse = np.unique(packed, return_index=True, return_inverse=True)
    return first, inverse


def component_of_faces(faces: Int[np.ndarray, "f 3"], n_vertices: int) -> Int[np.ndarray, "f"]:
    """A label for each face, equal for faces connected through shared vertices."""
    a, b = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    graph = coo_matrix((np.ones(len(a), np.int8), (a, b)), shape=(n_vertices, n_vertices))
    return connected_components(graph, directed=False)[1][faces[:, 0]]


def _drop_duplicates(faces: np.ndarray) -> tuple[np.ndarray, int]:
    """Each face once. Back to back, two faces cancel, rightly so between touching solids; but where more than half
    of a mesh is like that it was made double-sided, and one side stays."""
    once = faces[np.sort(unique_rows(_rotated(faces))[0])]
    sides, _ = unique_rows(np.sort(once, axis=1))
    if 2 * (len(once) - len(sides)) > len(once) / 2:
        once = once[np.sort(sides)]
    return once, len(faces) - len(once)


def _rotated(faces: np.ndarray) -> np.ndarray:
    """Faces that begin with their smallest corner, the same way round."""
    return np.take_along_axis(faces, (faces.argmin(axis=1)[:, None] + np.arange(3)) % 3, axis=1)


def _area_vectors(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return np.cross(b - a, c - a) / 2


def _edges(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct edges (e, 2) with smaller vertex first, how many faces use each, and by how many more one way."""
    directed = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    code = directed.min(axis=1) * (directed.max() + 1) + directed.max(axis=1)
    distinct, inverse, count = np.unique(code, return_inverse=True, return_counts=True)
    ways = np.where(directed[:, 0] < directed[:, 1], 1, -1)
    balance = np.bincount(inverse, weights=ways).astype(np.int64)
    return np.stack(np.divmod(distinct, directed.max() + 1), axis=1), count, balance


def _agree(faces: np.ndarray) -> tuple[np.ndarray, int]:
    """Turn the minority of each orientable patch, and say how many faces that was."""
    _, count, balance = _edges(faces)
    if not ((count == 2) & (balance != 0)).any():
        return faces, 0
    oriented, patch = (np.asarray(found) for found in igl.bfs_orient(faces.astype(np.int64)))
    differs = (_rotated(oriented) != _rotated(faces)).any(axis=1)
    against = np.bincount(patch, weights=differs) / np.bincount(patch) > 0.5
    turn = differs ^ against[patch]
    return np.where(turn[:, None], faces[:, ::-1], faces), int(turn.sum())


def _boundary(faces: np.ndarray) -> np.ndarray:
    """Directed edges (b, 2) that no opposite one answers, each as often as it lacks an answer."""
    edges, _, balance = _edges(faces)
    edges = np.where((balance < 0)[:, None], edges[:, ::-1], edges)
    return np.repeat(edges, np.abs(balance), axis=0)


def _lid_area(vertices: np.ndarray, boundary: np.ndarray) -> float:
    """Summed area of the smallest flat lids over the holes: the area vector of each boundary loop."""
    if len(boundary) == 0:
        return 0.0
    corners, compact = np.unique(boundary, return_inverse=True)
    a, b = compact.reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(a)), (a, b)), shape=(len(corners), len(corners)))
    loop = connected_components(graph, directed=False)[1][a]
    places = vertices[corners] - vertices[corners].mean(axis=0)
    vectors = np.cross(places[a], places[b]) / 2
    summed = np.stack([np.bincount(loop, weights=vectors[:, i]) for i in range(3)], axis=1)
    return float(np.linalg.norm(summed, axis=1).sum())
