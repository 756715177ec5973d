"""What a surface needs before inside and outside mean anything: one vertex a place, one way round, an account of holes.

Holes are counted, never filled. Which way round is decided a piece at a time, see `pieces`.
"""

from typing import Any, NamedTuple

import igl
import numpy as np
from jaxtyping import Float, Int

from sinefield.data.surfaces.pieces import Pieces, area_vectors, edges_of, find_pieces
from sinefield.errors import SinefieldError


class Repaired(NamedTuple):
    """A clean mesh, and how it comes from what was given.

    Attributes:
        vertices: (v, 3), each at a place of its own and used.
        faces: (f, 3) int32.
        kept: (f,) which of the given faces each is.
        corner: (f, 3) which corner of that face each of its corners is.
        pieces: what hangs together.
        report: counts; see `surface.load_surface`.
    """

    vertices: np.ndarray
    faces: np.ndarray
    kept: np.ndarray
    corner: np.ndarray
    pieces: Pieces
    report: dict[str, Any]


def repair_mesh(source: str, vertices: Float[np.ndarray, "v 3"], given: Int[np.ndarray, "f 3"]) -> Repaired:
    """Clean a triangle soup.

    Raises:
        SinefieldError: no face has an area.
    """
    first, inverse = unique_rows(vertices + 0.0)  # + 0.0: −0 is 0
    faces = first[inverse][given]
    corners = np.sort(faces, axis=1)
    kept = np.flatnonzero((corners[:, 0] != corners[:, 1]) & (corners[:, 1] != corners[:, 2]))
    degenerate, distinct = len(given) - len(kept), len(kept)
    kept = kept[_distinct(faces[kept])]
    used, faces = np.unique(faces[kept], return_inverse=True)
    faces, vertices = faces.reshape(-1, 3), vertices[used]
    total = float(np.linalg.norm(area_vectors(vertices, faces), axis=1).sum()) if len(faces) else 0.0
    extent = float(np.ptp(vertices, axis=0).max()) if len(faces) else 0.0
    if total <= 1e-14 * extent**2:
        raise SinefieldError(f"{source}: none of its {len(given):,} faces has an area; export a proper surface")
    flipped = _against(faces)
    faces = np.where(flipped[:, None], faces[:, ::-1], faces)
    pieces = find_pieces(vertices, faces)
    turned = pieces.turned[pieces.of_face]
    faces = np.ascontiguousarray(np.where(turned[:, None], faces[:, ::-1], faces), np.int32)
    corner = np.where((flipped ^ turned)[:, None], [2, 1, 0], [0, 1, 2])
    report = {
        "vertices": len(vertices),
        "faces": len(faces),
        "duplicate_faces": distinct - len(kept),
        "degenerate_faces": degenerate,
        "reoriented_faces": int(flipped.sum()),
        **pieces.counts(),
        "area": total,
    }
    return Repaired(vertices, faces, kept, corner, pieces, report)


def repair_cloud(
    source: str, points: Float[np.ndarray, "v 3"], normals: Float[np.ndarray, "v 3"] | None
) -> tuple[Int[np.ndarray, "n"], dict[str, Any]]:
    """Which points stay, no two at one place and each with a normal where normals are given; and a report.

    Raises:
        SinefieldError: fewer than four points stay.
    """
    keep = np.arange(len(points))
    if normals is not None:
        length = np.linalg.norm(normals, axis=1)
        keep = np.flatnonzero(np.isfinite(length) & (length > 0))
    # Points closer than single precision tells apart would divide libigl's octree without end.
    cell = np.ptp(points, axis=0).max() * 1e-7
    first, _ = unique_rows(np.floor((points[keep] - points.min(axis=0)) / cell))
    kept = keep[np.sort(first)]
    if len(kept) < 4:
        what = (
            "distinct points have a normal" if normals is not None else "distinct points, and neither faces nor normals"
        )
        raise SinefieldError(f"{source}: {len(kept)} {what}; give a mesh, or at least 4 points, better thousands")
    return kept, {"points": len(kept), "dropped_points": len(points) - len(kept)}


def unique_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the first of each distinct row, and which of them each row equals."""
    rows = np.ascontiguousarray(rows)
    packed = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).reshape(-1)
    _, first, inverse = np.unique(packed, return_index=True, return_inverse=True)
    return first, inverse


def _distinct(faces: np.ndarray) -> np.ndarray:
    """Which faces stay, so that each is there once. Back to back, two faces cancel, rightly so between touching solids;
    but where more than half of a mesh is like that it was made double-sided, and one side stays."""
    once = np.sort(unique_rows(_rotated(faces))[0])
    sides, _ = unique_rows(np.sort(faces[once], axis=1))
    if 2 * (len(once) - len(sides)) > len(once) / 2:
        once = once[np.sort(sides)]
    return once


def _rotated(faces: np.ndarray) -> np.ndarray:
    """Faces that begin with their smallest corner, the same way round."""
    return np.take_along_axis(faces, (faces.argmin(axis=1)[:, None] + np.arange(3)) % 3, axis=1)


def _against(faces: np.ndarray) -> np.ndarray:
    """Which faces go the other way round than the majority of their orientable patch."""
    _, _, count, balance = edges_of(faces)
    if not ((count == 2) & (balance != 0)).any():
        return np.zeros(len(faces), bool)
    oriented, patch = (np.asarray(found) for found in igl.bfs_orient(faces.astype(np.int64)))
    differs = (_rotated(oriented) != _rotated(faces)).any(axis=1)
    against = np.bincount(patch, weights=differs) / np.bincount(patch) > 0.5
    return differs ^ against[patch]
