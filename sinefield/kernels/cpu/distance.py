# pyright: reportArgumentType=false, reportIndexIssue=false, reportCallIssue=false
# numba gives what it compiles types of its own.
"""True distances of a shape field, compiled: the twin of `plain.distance.TrueDistance` within twice the object's box.

Many points are first put in the order of the blocks of space that they are in, so that neighbours read the same part
of the mesh; without it they wait for memory half of the time. A chunk of them goes by in three passes: the nearest
place of the surface's mesh; the network, tile by tile, for the points that ask it; and what becomes of both. Points
beyond the grid of `nearest` are left to the definition.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core import config

from sinefield.kernels.cpu.nearest import nearest, triangles_of, within_seeds
from sinefield.kernels.cpu.perceptron import Perceptron, evaluate_tile, lay_out, perceptron_room
from sinefield.kernels.cpu.products import TILE

CHUNK = 1024
"""Points that go through the passes together, so that what is between them stays in the cache."""
PER_THREAD = 8192
"""Points that are worth a thread of their own."""
AT_ONCE = 1 << 20
"""Points that are put in order together, at most."""
ORDERED = 4096
"""Points that are worth being put in order."""
BLOCK = 4
"""Cells along each side of a block of the grid of nearest places."""
KINDS = {"relu": 0, "leaky_relu": 0, "gaussian": 1, "sine": 2, "softplus": 3}


class Place(NamedTuple):
    """Where the surface is, and what its distances mean.

    Attributes:
        low, high: (3,) corners of the object's box, input coordinates.
        centre, unit: of the coordinates in which the surface is.
        origin, pitch, negative: of the grid from which the surface was extracted: first point, spacing, signs.
        to_centre, to_scale: from input coordinates to the network's.
        level, factor: a value is (network − level) · factor, in the surface's units.
        learned: whether values are distances near the surface.
        close, trusted, values, slopes: see `plain.distance`, in the surface's units but for `values` and `slopes`,
            which are in cells.
    """

    low: np.ndarray
    high: np.ndarray
    centre: np.ndarray
    unit: float
    origin: np.ndarray
    pitch: float
    negative: np.ndarray
    to_centre: np.ndarray
    to_scale: float
    level: float
    factor: float
    learned: bool
    close: float
    trusted: float
    values: tuple[float, float]
    slopes: tuple[float, float]


def why_not(dtype: Any) -> str | None:
    """None where numba compiles for this processor."""
    told: Any = config  # its names come from the environment
    if told.CPU_NAME or told.CPU_FEATURES or told.DISABLE_JIT:
        return "numba is told of another processor, or not to compile"
    return None


class Distances:
    """Distances near a mesh and a network, compiled.

    Args:
        vertices, faces: the surface; its coordinates have their origin at the box's centre, its longest side as unit.
        place: where it is.
        layers: matrices (out, in) and biases of the network, its skips, octaves, activation, and what that needs.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, place: Place, layers: tuple[Any, ...]) -> None:
        half = (place.high - place.low) / place.unit
        matrices, biases, skips, octaves, activation, bend = layers
        self.mesh = triangles_of(vertices, faces, -half - place.pitch, half + place.pitch)
        self.network: Perceptron = lay_out(matrices, biases, skips, octaves, KINDS[activation], bend)
        self.place = place

    def __call__(
        self, points: np.ndarray, distances: np.ndarray, directions: np.ndarray | None, threads: int = 1
    ) -> np.ndarray:
        """Fill in distances (n,) and directions (n, 3) of points (n, 3), all float32 or all float64.

        Returns:
            (n,) 1 where a point is too far out, or not finite, and nothing has been filled in.
        """
        left = np.zeros(len(points), np.uint8)
        wanted = directions is not None
        to = directions if directions is not None else np.empty((0, 3), points.dtype)

        def part(one: slice) -> None:
            of = to[one] if wanted else to
            _answer(points[one], distances[one], of, wanted, self.place, self.mesh, self.network, left[one])

        if threads > 1 and len(points) > PER_THREAD:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(part, _parts(len(points), max(-(-len(points) // (4 * threads)), PER_THREAD))))
        else:
            for one in _parts(len(points), len(points)):
                part(one)
        return left


def _parts(n: int, size: int) -> Iterator[slice]:
    size = min(size, AT_ONCE)
    return (slice(start, start + size) for start in range(0, n, size))


@numba.njit(error_model="numpy")
def _in_order(points, place, mesh):
    """Indices of points (n, 3), those in the same block of the grid together; a counting sort."""
    order = np.empty(len(points), np.int32)
    if len(points) < ORDERED:
        for r in range(len(points)):
            order[r] = r
        return order
    ny, nz = mesh.shape[1] // BLOCK + 1, mesh.shape[2] // BLOCK + 1
    count = (mesh.shape[0] // BLOCK + 1) * ny * nz + 1
    keys, first = np.empty(len(points), np.int32), np.zeros(count + 1, np.int32)
    low, cell, shape = mesh.low, mesh.cell, mesh.shape
    for r in range(len(points)):
        x = np.float32((np.float64(points[r, 0]) - place.centre[0]) / place.unit)
        y = np.float32((np.float64(points[r, 1]) - place.centre[1]) / place.unit)
        z = np.float32((np.float64(points[r, 2]) - place.centre[2]) / place.unit)
        key = count - 1
        if within_seeds(low, cell, shape, x, y, z):
            a, b, c = np.int64((x - low[0]) / cell), np.int64((y - low[1]) / cell), np.int64((z - low[2]) / cell)
            key = ((a // BLOCK) * ny + b // BLOCK) * nz + c // BLOCK
        keys[r] = key
        first[key + 1] += 1
    for key in range(count):
        first[key + 1] += first[key]
    for r in range(len(points)):
        order[first[keys[r]]] = r
        first[keys[r]] += 1
    return order


@numba.njit(error_model="numpy")
def _fade(x, one, zero):
    """1 up to `one`, 0 from `zero` on, smooth between."""
    t = min(max((zero - x) / (zero - one), 0.0), 1.0)
    return t * t * (3 - 2 * t)


@numba.njit(error_model="numpy")
def _look(points, n, place, mesh, left, where, size, side, asked):
    """The mesh's answer for `n` points: the way from it, its length, the side; and which points ask the network:
    1 those in the box, 2 those close to the surface."""
    origin, pitch, last = place.origin, place.pitch, place.negative.shape
    # One by one: a tuple handed to a function counts references of all it holds.
    corners, beyond, low, cell = mesh.corners, mesh.beyond, mesh.low, mesh.cell
    shape, seeds, feet = mesh.shape, mesh.seeds, mesh.feet
    for r in range(n):
        x = (points[r, 0] - place.centre[0]) / place.unit
        y = (points[r, 1] - place.centre[1]) / place.unit
        z = (points[r, 2] - place.centre[2]) / place.unit
        asked[r] = 0
        fx, fy, fz = np.float32(x), np.float32(y), np.float32(z)
        if not within_seeds(low, cell, shape, fx, fy, fz):
            left[r] = 1
            continue
        _, _, cx, cy, cz = nearest(corners, beyond, low, cell, shape, seeds, feet, fx, fy, fz)
        dx, dy, dz = x - cx, y - cy, z - cz
        where[r, 0], where[r, 1], where[r, 2] = dx, dy, dz
        size[r] = np.sqrt(dx * dx + dy * dy + dz * dz)
        i, j, k = (x - origin[0]) / pitch, (y - origin[1]) / pitch, (z - origin[2]) / pitch
        a = np.int64(np.rint(min(max(i, 0.0), last[0] - 1.0)))
        b = np.int64(np.rint(min(max(j, 0.0), last[1] - 1.0)))
        c = np.int64(np.rint(min(max(k, 0.0), last[2] - 1.0)))
        side[r] = -1.0 if place.negative[a, b, c] else 1.0
        covered = (i >= 1) & (j >= 1) & (k >= 1) & (i <= last[0] - 2) & (j <= last[1] - 2) & (k <= last[2] - 2)
        inside = True
        for d in range(3):
            inside &= (points[r, d] >= place.low[d]) & (points[r, d] <= place.high[d])
        if covered & (size[r] < place.close):
            asked[r] = 2
        elif inside:
            asked[r] = 1


@numba.njit(error_model="numpy")
def _mix(r, where, size, side, asked, value, slope, wanted, place):
    """The distance of a point that asked the network, and its direction into `where`; both in the surface's units."""
    length = size[r]
    own = -1.0 if value < 0 else 1.0
    missed = (own != side[r]) & (asked[r] == 1)
    side[r] = own
    cells = length / place.pitch
    if wanted:
        back = own / max(length, 1e-300)
        x, y, z = where[r, 0] * back, where[r, 1] * back, where[r, 2] * back
        if cells < place.slopes[1]:
            share = _fade(cells, place.slopes[0], place.slopes[1])
            norm = np.sqrt(slope[0] * slope[0] + slope[1] * slope[1] + slope[2] * slope[2])
            norm = norm if norm > 0 else 1.0
            x, y, z = (
                share * slope[0] / norm + (1 - share) * x,
                share * slope[1] / norm + (1 - share) * y,
                share * slope[2] / norm + (1 - share) * z,
            )
            norm = np.sqrt(x * x + y * y + z * z)
            if norm < 1e-6:
                x, y, z, norm = 0.0, 0.0, 1.0, 1.0
            x, y, z = x / norm, y / norm, z / norm
        where[r, 0], where[r, 1], where[r, 2] = x, y, z
    if not place.learned:
        return length
    value = abs(value)
    if missed:
        return min(length, value)
    allowed = place.pitch * place.trusted * _fade(cells, place.values[0], place.values[1])
    return length + min(max(value - length, -allowed), allowed)


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _answer(points, distances, directions, wanted, place, mesh, network, left):
    """Distances, and directions where wanted, of points (n, 3), a chunk at a time."""
    room = perceptron_room(network)
    most = min(CHUNK, len(points))
    chunk, where, size, side = np.empty((most, 3)), np.empty((most, 3)), np.empty(most), np.empty(most)
    asked, missing = np.empty(most, np.int8), np.empty(most, np.uint8)
    x, values, gradients = np.empty(3 * TILE, np.float32), np.empty(TILE, np.float32), np.empty(3 * TILE, np.float32)
    which, slope = np.empty(TILE, np.int64), np.zeros(3)
    steered = place.slopes[1] * place.pitch
    order = _in_order(points, place, mesh)
    for start in range(0, len(points), CHUNK):
        n = min(CHUNK, len(points) - start)
        for r in range(n):
            at = order[start + r]
            chunk[r, 0], chunk[r, 1], chunk[r, 2] = points[at, 0], points[at, 1], points[at, 2]
            missing[r] = 0
        _look(chunk, n, place, mesh, missing, where, size, side, asked)
        r, rows, steep = 0, 0, False
        while r < n:
            if asked[r] > 0:
                for a in range(3):
                    x[a * TILE + rows] = np.float32((chunk[r, a] - place.to_centre[a]) * place.to_scale)
                which[rows] = r
                steep |= size[r] < steered
                rows += 1
            r += 1
            if rows == TILE or (r == n and rows > 0):
                evaluate_tile(rows, x, network, room, values, gradients, wanted & steep)
                for q in range(rows):
                    at = which[q]
                    value = (np.float64(values[q]) - place.level) * place.factor
                    for a in range(3):
                        slope[a] = gradients[a * TILE + q] * np.sign(place.factor) if steep else 0.0
                    size[at] = _mix(at, where, size, side, asked, value, slope, wanted, place)
                rows, steep = 0, False
        for r in range(n):
            at = order[start + r]
            left[at] = missing[r]
            if missing[r] == 0:
                distances[at] = side[r] * size[r] * place.unit
                if wanted:
                    back = 1.0 if asked[r] > 0 else side[r] / max(size[r], 1e-300)
                    for a in range(3):
                        directions[at, a] = where[r, a] * back
