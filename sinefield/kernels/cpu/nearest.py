# pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# numba gives what it compiles types of its own.
"""The nearest place of a triangle mesh, quickly: a grid says where it is from nearby, a walk does the rest.

The grid's points know their own nearest places. A walk goes from the triangle of the one that is nearest to the asked
point to a neighbour as long as that is nearer. It ends where none is: on a rough surface, or halfway between two parts
of one, that may be a place a little further away than the nearest. It is never nearer. How much further it is,
`tests/test_quick_distance.py` measures against libigl.
"""

from typing import NamedTuple

import numba
import numpy as np

SEED_CELLS = 96
"""Cells of the grid along the longest side of what it covers."""
STEPS = 200
"""Of a walk; it comes nearer with each, so that this is no more than a guard."""
FAN = 16
"""Triangles round a corner, at most."""
TURNS = 8
"""Times that the grid's points learn from their neighbours, each from other three of them."""


class Triangles(NamedTuple):
    """A mesh, and a grid of its nearest places.

    Attributes:
        corners: (f · 9,) a, b, c of each triangle, float32.
        beyond: (f · 3,) the triangle across the edge ab, bc, ca; −1 where there is none.
        low, cell, shape: of the grid: first point, spacing, points along x, y, z.
        seeds: (x · y · z,) the triangle nearest to each of its points.
        feet: (x · y · z · 3,) the place on it.
    """

    corners: np.ndarray
    beyond: np.ndarray
    low: np.ndarray
    cell: np.float32
    shape: np.ndarray
    seeds: np.ndarray
    feet: np.ndarray


def triangles_of(vertices: np.ndarray, faces: np.ndarray, low: np.ndarray, high: np.ndarray) -> Triangles:
    """A mesh, and its grid over a box; half a second for a hundred thousand triangles."""
    corners = np.ascontiguousarray(vertices[faces], np.float32)
    cell = np.float32((high - low).max() / SEED_CELLS)
    shape = np.ceil((high - low) / cell).astype(np.int64) + 1
    count = int(shape.prod())
    seeds, feet = np.full(count, -1, np.int32), np.zeros(3 * count, np.float32)
    found = Triangles(corners.ravel(), across(faces).ravel(), low.astype(np.float32), cell, shape, seeds, feet)
    _fill(found, corners.mean(axis=1))
    return found


def across(faces: np.ndarray) -> np.ndarray:
    """(f, 3) the face across each edge ab, bc, ca; −1 where there is none, or more than one."""
    edges = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2), axis=1)
    keys = edges[:, 0] * (int(faces.max(initial=0)) + 1) + edges[:, 1]
    order = np.argsort(keys, kind="stable")
    same = keys[order][1:] == keys[order][:-1]
    alone = same & ~np.append(False, same[:-1]) & ~np.append(same[1:], False)
    first, second = order[:-1][alone], order[1:][alone]
    beyond = np.full(len(edges), -1, np.int32)
    beyond[first], beyond[second] = second // 3, first // 3
    return beyond.reshape(-1, 3)


@numba.njit(error_model="numpy")
def on_triangle(corners, t, x, y, z):
    """Square of the distance to a triangle; 0 where that is within, 1 2 3 on ab bc ca, 4 5 6 at a b c; the place.

    By Ericson, Real-Time Collision Detection, 2005, 5.1.5.
    """
    at = 9 * t
    ax, ay, az = corners[at], corners[at + 1], corners[at + 2]
    ux, uy, uz = corners[at + 3] - ax, corners[at + 4] - ay, corners[at + 5] - az
    vx, vy, vz = corners[at + 6] - ax, corners[at + 7] - ay, corners[at + 8] - az
    px, py, pz = x - ax, y - ay, z - az
    zero, one = np.float32(0), np.float32(1)
    d1, d2 = ux * px + uy * py + uz * pz, vx * px + vy * py + vz * pz
    uu, vv, uv = ux * ux + uy * uy + uz * uz, vx * vx + vy * vy + vz * vz, ux * vx + uy * vy + uz * vz
    d3, d4, d5, d6 = d1 - uu, d2 - uv, d1 - uv, d2 - vv
    vc, vb, va = d1 * d4 - d3 * d2, d5 * d2 - d1 * d6, d3 * d6 - d5 * d4
    where, s, w = 0, zero, zero
    if d1 <= 0 and d2 <= 0:
        where = 4
    elif d3 >= 0 and d4 <= d3:
        where, s = 5, one
    elif vc <= 0 and d1 >= 0 and d3 <= 0:
        where, s = 1, d1 / (d1 - d3)
    elif d6 >= 0 and d5 <= d6:
        where, w = 6, one
    elif vb <= 0 and d2 >= 0 and d6 <= 0:
        where, w = 3, d2 / (d2 - d6)
    elif va <= 0 and d4 - d3 >= 0 and d5 - d6 >= 0:
        w = (d4 - d3) / ((d4 - d3) + (d5 - d6))
        where, s = 2, one - w
    else:
        whole = va + vb + vc
        if whole > 0:
            s, w = vb / whole, vc / whole
        else:
            where = 4
    qx, qy, qz = s * ux + w * vx, s * uy + w * vy, s * uz + w * vz
    ex, ey, ez = px - qx, py - qy, pz - qz
    return ex * ex + ey * ey + ez * ez, where, ax + qx, ay + qy, az + qz


@numba.njit(error_model="numpy")
def _walk(corners, beyond, t, x, y, z):
    """From triangle t to one whose neighbours are no nearer: square of the distance, triangle, place."""
    square, where, cx, cy, cz = on_triangle(corners, t, x, y, z)
    for _ in range(STEPS):
        if where == 0:
            break
        # Across an edge to its other triangle; at a corner round it, until one is nearer.
        at, edge, moved = t, where - 1 if where < 4 else where - 4, False
        for _ in range(1 if where < 4 else FAN):
            n = np.int64(beyond[3 * at + edge])
            if n < 0 or n == t:
                break
            square_n, where_n, x_n, y_n, z_n = on_triangle(corners, n, x, y, z)
            if square_n < square:
                t, square, where, cx, cy, cz, moved = n, square_n, where_n, x_n, y_n, z_n, True
                break
            # Seen from the next triangle the edge ends at the corner, where the next edge begins.
            edge = 1 if beyond[3 * n] == at else 2 if beyond[3 * n + 1] == at else 0
            at = n
        if not moved:
            break
    return square, t, cx, cy, cz


@numba.njit(error_model="numpy")
def within_seeds(low, cell, shape, x, y, z):
    """Whether a place is in the grid; not where it is no number."""
    i, j, k = (x - low[0]) / cell, (y - low[1]) / cell, (z - low[2]) / cell
    return (i >= 0) & (j >= 0) & (k >= 0) & (i < shape[0] - 1) & (j < shape[1] - 1) & (k < shape[2] - 1)


@numba.njit(error_model="numpy")
def nearest(corners, beyond, low, cell, shape, seeds, feet, x, y, z):
    """The nearest place to one within the grid, all float32: square of the distance, triangle, place."""
    a, b, c = np.int64((x - low[0]) / cell), np.int64((y - low[1]) / cell), np.int64((z - low[2]) / cell)
    least, begin = np.float32(np.inf), np.int64(0)
    for corner in range(8):
        at = ((a + (corner >> 2)) * shape[1] + b + ((corner >> 1) & 1)) * shape[2] + c + (corner & 1)
        dx, dy, dz = x - feet[3 * at], y - feet[3 * at + 1], z - feet[3 * at + 2]
        square = dx * dx + dy * dy + dz * dz
        if square < least:
            least, begin = square, at
    square, t, cx, cy, cz = _walk(corners, beyond, np.int64(seeds[begin]), x, y, z)
    return square, t, cx, cy, cz


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _fill(mesh, middles):
    """Find the grid's nearest places: of triangles at the points around them, from there on from neighbours'."""
    low, cell, seeds, feet = mesh.low, mesh.cell, mesh.seeds, mesh.feet
    nx, ny, nz = mesh.shape[0], mesh.shape[1], mesh.shape[2]
    squares = np.full(len(seeds), np.inf, np.float32)
    for t in range(len(middles)):
        a = np.int64((middles[t, 0] - low[0]) / cell)
        b = np.int64((middles[t, 1] - low[1]) / cell)
        c = np.int64((middles[t, 2] - low[2]) / cell)
        for corner in range(8):
            i, j, k = a + (corner >> 2), b + ((corner >> 1) & 1), c + (corner & 1)
            if 0 <= i < nx and 0 <= j < ny and 0 <= k < nz:
                at = (i * ny + j) * nz + k
                x, y, z = low[0] + i * cell, low[1] + j * cell, low[2] + k * cell
                square, _, cx, cy, cz = on_triangle(mesh.corners, t, np.float32(x), np.float32(y), np.float32(z))
                if square < squares[at]:
                    squares[at], seeds[at] = square, t
                    feet[3 * at], feet[3 * at + 1], feet[3 * at + 2] = cx, cy, cz
    for turn in range(TURNS):
        # Along each axis to one side, in all eight ways.
        si, sj, sk = 1 - 2 * (turn & 1), 1 - 2 * ((turn >> 1) & 1), 1 - 2 * ((turn >> 2) & 1)
        for i_ in range(nx):
            i = i_ if si > 0 else nx - 1 - i_
            for j_ in range(ny):
                j = j_ if sj > 0 else ny - 1 - j_
                for k_ in range(nz):
                    k = k_ if sk > 0 else nz - 1 - k_
                    at = (i * ny + j) * nz + k
                    x = np.float32(low[0] + i * cell)
                    y = np.float32(low[1] + j * cell)
                    z = np.float32(low[2] + k * cell)
                    for axis in range(3):
                        if axis == 0:
                            inside, beside = 0 <= i - si < nx, at - si * ny * nz
                        elif axis == 1:
                            inside, beside = 0 <= j - sj < ny, at - sj * nz
                        else:
                            inside, beside = 0 <= k - sk < nz, at - sk
                        if not inside or seeds[beside] < 0 or seeds[beside] == seeds[at]:
                            continue
                        # Its place is nearer, or near enough for a walk to come nearer.
                        dx, dy, dz = x - feet[3 * beside], y - feet[3 * beside + 1], z - feet[3 * beside + 2]
                        if dx * dx + dy * dy + dz * dz > np.float32(1.1) * squares[at]:
                            continue
                        square, t, cx, cy, cz = _walk(mesh.corners, mesh.beyond, np.int64(seeds[beside]), x, y, z)
                        if square < squares[at]:
                            squares[at], seeds[at] = square, t
                            feet[3 * at], feet[3 * at + 1], feet[3 * at + 2] = cx, cy, cz
