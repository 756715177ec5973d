"""Polygons as triangles: fans where a fan covers the polygon and no more, ears clipped where it would not."""

from collections.abc import Iterator

import mapbox_earcut
import numpy as np
from jaxtyping import Float, Int

from sinefield.data.surfaces.parts import Paint, Part
from sinefield.data.surfaces.readers.colours import part_paint
from sinefield.data.surfaces.readers.source import Source


def triangulate(
    counts: Int[np.ndarray, "p"], corners: Int[np.ndarray, "c"], vertices: Float[np.ndarray, "v 3"]
) -> tuple[Int[np.ndarray, "t 3"], Int[np.ndarray, "t"]]:
    """Cut polygons into triangles that face the same way.

    Arguments:
        counts: how many corners each polygon has; those of fewer than three are left out.
        corners: the vertices of all polygons, one after another.

    Returns:
        The places in `corners` of each triangle's corners, and the polygon that each comes from, in their order.
    """
    starts = np.cumsum(counts) - counts
    if len(counts) and (counts == 3).all():
        return np.arange(3 * len(counts)).reshape(-1, 3), np.arange(len(counts))
    places, owners = [], []
    for size in np.unique(counts[counts >= 3]):
        chosen = np.flatnonzero(counts == size)
        at = starts[chosen, None] + np.arange(size)
        if size > 3:
            at = _turned_to_fan(at, corners, vertices)
            plain = _fans(at, corners, vertices)
            clipped = [_clip(row, vertices[corners[row]]) for row in at[~plain]]
            places += clipped
            owners += [np.full(len(found), owner) for found, owner in zip(clipped, chosen[~plain], strict=True)]
            at, chosen = at[plain], chosen[plain]
        places.append(np.stack([np.repeat(at[:, :1], size - 2, 1), at[:, 1:-1], at[:, 2:]], -1).reshape(-1, 3))
        owners.append(np.repeat(chosen, size - 2))
    if not places:
        return np.empty((0, 3), np.int64), np.empty(0, np.int64)
    order = np.argsort(owner := np.concatenate(owners), kind="stable")
    return np.concatenate(places)[order], owner[order]


def faces_of(
    source: Source, counts: np.ndarray, corners: np.ndarray, vertices: np.ndarray
) -> tuple[Int[np.ndarray, "t 3"], Int[np.ndarray, "t"]]:
    """`triangulate` of polygons of a file: counted first, with a note of those that are none.

    Raises:
        SinefieldError: too many; a corner that is no vertex.
    """
    source.check_faces(int(np.maximum(counts - 2, 0).sum()))
    source.check_corners(corners, len(vertices))
    if few := int((counts < 3).sum()):
        source.note(f"{few:,} faces of fewer than three corners are left out.")
    return triangulate(counts, corners, vertices)


def split(
    names: list[str], part_of: np.ndarray, vertices: np.ndarray, faces: np.ndarray, paint: Paint | None
) -> Iterator[Part]:
    """One part for each name that has faces, with the vertices that they use; all vertices where there is one."""
    used = np.unique(part_of)
    if len(used) == 1:
        yield Part(names[used[0]], vertices, faces, paint=paint)
        return
    order = np.argsort(part_of, kind="stable")
    for number, rows in zip(used, np.split(order, np.flatnonzero(np.diff(part_of[order])) + 1), strict=True):
        kept, own = np.unique(faces[rows], return_inverse=True)
        yield Part(names[number], vertices[kept], own.reshape(-1, 3), paint=part_paint(paint, rows))


def _normal(points: np.ndarray) -> np.ndarray:
    """Newell's: twice the area vector of polygons (…, n, 3)."""
    points = points - points[..., :1, :]
    return np.cross(points, np.roll(points, -1, -2)).sum(-2)


def _fans(at: np.ndarray, corners: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """Which polygons (p, n) the fan from their first corner covers: where none of its triangles is turned over."""
    points = vertices[corners[at]]
    with np.errstate(all="ignore"):  # what is not finite is said later
        spokes = points[:, 1:] - points[:, :1]
        across = np.einsum("pij,pj->pi", np.cross(spokes[:, :-1], spokes[:, 1:]), _normal(points))
        return ~(across.min(1) < -1e-12 * np.abs(across).max(1))


def _turned_to_fan(at: np.ndarray, corners: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """Quadrilaterals that begin where a fan covers them: only one of two diagonals lies within a concave one."""
    if at.shape[1] != 4:
        return at
    bad = ~_fans(at, corners, vertices)
    at[bad] = np.roll(at[bad], 1, 1)
    return at


def _clip(at: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The triangles of one polygon by ear clipping; a fan where it is too twisted for that, or not finite."""
    fan = np.stack([np.repeat(at[0], len(at) - 2), at[1:-1], at[2:]], -1)
    normal = _normal(points)
    length = float(np.linalg.norm(normal))
    if not np.isfinite(length) or length == 0:
        return fan
    normal = normal / length
    side = np.cross(normal, np.eye(3)[np.abs(normal).argmin()])
    side /= np.linalg.norm(side)
    flat = np.ascontiguousarray((points - points[0]) @ np.stack([side, np.cross(normal, side)], 1))
    found = mapbox_earcut.triangulate_float64(flat, np.array([len(flat)], np.uint32)).reshape(-1, 3).astype(np.int64)
    if not len(found):
        return fan
    (ax, ay), (bx, by) = (flat[found[:, 1]] - flat[found[:, 0]]).T, (flat[found[:, 2]] - flat[found[:, 0]]).T
    turned = ax * by - ay * bx < 0
    found[turned] = found[turned, ::-1]
    return at[found]
