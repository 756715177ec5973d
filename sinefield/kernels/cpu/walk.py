"""The compiled loops behind `march`: rays through grids, on all threads."""

from typing import NamedTuple

import numba
import numpy as np

from sinefield.kernels.cpu.marks import check_done
from sinefield.kernels.inputs import SOLID_DEPTH

BLOCK = 4
"""Cells along each side of the blocks that an empty ray leaves at once."""


class Cells(NamedTuple):
    """A grid: its box, the smaller box around what is occupied, occupied cells, blocks of them, and solid cells.

    Where rays end nowhere, `solid` is a single cell.
    """

    box: np.ndarray
    inner: np.ndarray
    occupied: np.ndarray
    blocks: np.ndarray
    solid: np.ndarray


class NestedCells(NamedTuple):
    """Nested grids: centre and half sides of the smallest box, and all boxes' cells stacked along x."""

    centre: np.ndarray
    half: np.ndarray
    occupied: np.ndarray
    solid: np.ndarray


class Steps(NamedTuple):
    """The lattice: length of a step, its growth with distance, and where it begins and ends."""

    step: np.float32
    cone_angle: np.float32
    near: np.float32
    far: np.float32


@numba.njit(cache=True, inline="always")
def _span(o, d, box, near, far):
    """Entry and exit of one ray through the box, clipped to near and far; empty when entry ≥ exit."""
    t_min, t_max = near, far
    for a in range(3):
        if d[a] == 0.0:
            if o[a] < box[a] or o[a] > box[a + 3]:
                return np.float32(1.0), np.float32(0.0)
            continue
        inverse = np.float32(1.0) / d[a]
        t0 = (box[a] - o[a]) * inverse
        t1 = (box[a + 3] - o[a]) * inverse
        t_min = max(t_min, min(t0, t1))
        t_max = min(t_max, max(t0, t1))
    return t_min, t_max


@numba.njit(cache=True)
def coarsen(occupied):
    """Which blocks of `BLOCK`³ cells hold an occupied one."""
    x, y, z = occupied.shape
    blocks = np.zeros(((x + BLOCK - 1) // BLOCK, (y + BLOCK - 1) // BLOCK, (z + BLOCK - 1) // BLOCK), np.bool_)
    for i in range(x):
        for j in range(y):
            row = blocks[i // BLOCK, j // BLOCK]
            for k in range(z):
                row[k // BLOCK] |= occupied[i, j, k]
    return blocks


@numba.njit(cache=True)
def inner_box(blocks, box, shape):
    """The smallest box around the occupied blocks, and a little more for rounding's sake; inside out without any."""
    low, high = np.full(3, 1 << 30), np.zeros(3, np.int64)
    for x in range(blocks.shape[0]):
        for y in range(blocks.shape[1]):
            for z in range(blocks.shape[2]):
                if blocks[x, y, z]:
                    for a, i in enumerate((x, y, z)):
                        low[a] = min(low[a], i)
                        high[a] = max(high[a], i + 1)
    inner = np.empty(6, np.float32)
    for a in range(3):
        cell = (box[a + 3] - box[a]) / shape[a]
        inner[a] = box[a] + (min(low[a], high[a]) * BLOCK - 0.01) * cell
        inner[a + 3] = box[a] + (high[a] * BLOCK + (0.01 if high[a] else -0.01)) * cell
    return inner


@numba.njit(cache=True, inline="always")
def _leave(cell, size, start, rate, inverse, until):
    """When a ray leaves the cell, or the block of `size` (a power of two) cells around it, along one axis."""
    if rate == 0.0:
        return until
    plane = (cell & -size) + (size if rate > 0.0 else 0)
    return min(until, (np.float32(plane) - start) * inverse)


@numba.njit(cache=True)
def _walk(o, d, cells, steps, shift, clear, t_starts):
    """Walk one ray; write its lattice positions into `t_starts`; return how many there are."""
    box, inner, occupied, blocks, solid = cells
    step, _, near, far = steps
    t_min, t_max = _span(o, d, box, near, far)
    if not t_min < t_max:
        return 0
    entry, t_max = _span(o, d, inner, max(t_min, clear), t_max)
    if not entry < t_max:
        return 0
    nx, ny, nz = occupied.shape
    stops = solid.shape[0] == nx
    zero, one, half = np.float32(0.0), np.float32(1.0), np.float32(0.5)
    per_step = one / step
    n, depth, k = 0, 0, max(int((entry - t_min) * per_step - shift - np.float32(0.502)), 0)
    # Along each axis the cell's coordinate is start + t·rate; planes are left at t = (plane − start) / rate.
    sx, sy, sz = nx / (box[3] - box[0]), ny / (box[4] - box[1]), nz / (box[5] - box[2])
    sx, sy, sz = np.float32(sx), np.float32(sy), np.float32(sz)
    ax, ay, az = (o[0] - box[0]) * sx, (o[1] - box[1]) * sy, (o[2] - box[2]) * sz
    rx, ry, rz = d[0] * sx, d[1] * sy, d[2] * sz
    ix = one / rx if rx != zero else zero
    iy = one / ry if ry != zero else zero
    iz = one / rz if rz != zero else zero
    while n < len(t_starts):
        t = t_min + (np.float32(k) + shift) * step
        middle = t + half * step
        if middle >= t_max:
            break
        x = min(max(int(ax + middle * rx), 0), nx - 1)
        y = min(max(int(ay + middle * ry), 0), ny - 1)
        z = min(max(int(az + middle * rz), 0), nz - 1)
        if occupied[x, y, z]:
            if stops and solid[x, y, z]:
                depth += 1
                if depth > SOLID_DEPTH:
                    break
            t_starts[n] = t
            n += 1
            k += 1
            continue
        # Leave the empty cell, or the empty block around it: the nearest of three exit planes, less a hair so that
        # rounding never skips a sample.
        size = 1 if blocks[x // BLOCK, y // BLOCK, z // BLOCK] else BLOCK
        leave = _leave(x, size, ax, rx, ix, t_max)
        leave = _leave(y, size, ay, ry, iy, leave)
        leave = _leave(z, size, az, rz, iz, leave)
        k = max(k + 1, int((leave - t_min) * per_step - shift - np.float32(0.502)))
    return n


@numba.njit(cache=True)
def _kept(counts, room, first):
    """How many rays from the first on have at most `room` samples together, and where each one's begin and how many
    there are; with `first`, one ray's front samples where they alone are more."""
    total, n = 0, 0
    while n < len(counts) and total + counts[n] <= room:
        total += counts[n]
        n += 1
    if n == 0 and first and len(counts):
        n, total, counts[0] = 1, room, room
    packed = np.empty((n, 2), np.int64)
    at = 0
    for r in range(n):
        packed[r, 0], packed[r, 1] = at, counts[r]
        at += counts[r]
    return packed, total


@numba.njit(cache=True, parallel=True, nogil=True)
def _pack(rows, packed, step, cone_angle, total):
    """The rows end to end: ray_indices, t_starts, t_ends, and each ray's first sample and number of samples."""
    ray_indices = np.empty(total, np.int64)
    t_starts = np.empty(total, np.float32)
    t_ends = np.empty(total, np.float32)
    for r in numba.prange(len(packed)):
        first, count = packed[r]
        for i in range(count):
            ray_indices[first + i] = r
            t_starts[first + i] = rows[r, i]
            t_ends[first + i] = rows[r, i] + max(step, cone_angle * rows[r, i])
    return ray_indices, t_starts, t_ends, packed


@numba.njit(cache=True, parallel=True, nogil=True)
def first_steps(o, d, cells, steps):
    """Where each ray's first lattice position is, infinite where there is none."""
    found = np.full(len(o), np.inf, np.float32)
    done = np.zeros(len(o), np.uint8)
    for r in numba.prange(len(o)):
        row = np.empty(1, np.float32)
        if _walk(o[r], d[r], cells, steps, np.float32(0), steps[2], row):
            found[r] = row[0]
        done[r] = 1
    check_done(done)
    return found


@numba.njit(cache=True, parallel=True, nogil=True)
def walk_rays(o, d, cells, steps, shift, clear, most, room, first):
    """Samples of some rays, each of which has at most `most`; see `_pack` for what comes back.

    Args:
        cells, steps: `Cells` and `Steps` as plain tuples, which is what parallel loops pass on.
        clear: before it a ray meets no occupied cell; one for each, or none.
        room, first: see `_kept`.
    """
    counts = np.empty(len(o), np.int64)
    rows = np.empty((len(o), most), np.float32)
    for r in numba.prange(len(o)):
        before = clear[r] if len(clear) else steps[2]
        counts[r] = _walk(o[r], d[r], cells, steps, shift[r], before, rows[r])
    packed, total = _kept(counts, room, first)
    return _pack(rows, packed, steps[0], steps[1], total)


@numba.njit(cache=True)
def _walk_nested(o, d, cells, steps, shift, t_starts):
    """Walk one ray through nested boxes, whose cells are stacked along x; as `_walk`."""
    centre, half, occupied, solid = cells
    step, cone_angle, near, far = steps
    r = occupied.shape[1]
    levels = occupied.shape[0] // r
    stops = solid.shape[0] == occupied.shape[0]
    scale = np.float32(2.0 ** (levels - 1))
    outer = np.empty(6, np.float32)
    for a in range(3):
        outer[a] = centre[a] - scale * half[a]
        outer[a + 3] = centre[a] + scale * half[a]
    entry, t_max = _span(o, d, outer, near, far)
    zero, one, two = np.float32(0.0), np.float32(1.0), np.float32(2.0)
    n, depth = 0, 0
    t = near + shift * max(step, cone_angle * near)
    if not entry < t_max:
        return 0
    until = entry  # nothing before it needs a look
    place = np.empty(3, np.float32)
    rate = np.empty(3, np.float32)
    cell = np.empty(3, np.int64)
    while n < len(t_starts):
        length = max(step, cone_angle * t)
        middle = t + length / two
        if middle >= t_max:
            break
        if middle < until:
            t += length
            continue
        reach = zero
        for a in range(3):
            place[a] = (o[a] + middle * d[a] - centre[a]) / half[a]
            reach = max(reach, abs(place[a]))
        level, wide = 0, one
        while reach > wide and level < levels - 1:
            wide *= two
            level += 1
        for a in range(3):
            cell[a] = min(max(int((place[a] / wide + one) / two * np.float32(r)), 0), r - 1)
        row = cell[0] + level * r
        if occupied[row, cell[1], cell[2]]:
            if stops and solid[row, cell[1], cell[2]]:
                depth += 1
                if depth > SOLID_DEPTH:
                    break
            t_starts[n] = t
            n += 1
        else:
            # Until the ray leaves the cell there is nothing to look for; a hair less for rounding's sake.
            until = t_max
            for a in range(3):
                rate[a] = d[a] / half[a]
                if rate[a] != zero:
                    wall = cell[a] + (1 if rate[a] > zero else 0)
                    beyond = (np.float32(wall) / np.float32(r) * two - one) * wide - place[a]
                    until = min(until, middle + beyond / rate[a])
            until -= np.float32(1e-3) * length
        t += length
    return n


@numba.njit(cache=True, parallel=True, nogil=True)
def walk_nested(o, d, cells, steps, shift, most, room, first):
    """As `walk_rays`, with `NestedCells`."""
    counts = np.empty(len(o), np.int64)
    done = np.zeros(len(o), np.uint8)
    rows = np.empty((len(o), most), np.float32)
    for r in numba.prange(len(o)):
        counts[r] = _walk_nested(o[r], d[r], cells, steps, shift[r], rows[r])
        done[r] = 1
    check_done(done)
    packed, total = _kept(counts, room, first)
    return _pack(rows, packed, steps[0], steps[1], total)


@numba.njit(cache=True, parallel=True, nogil=True)
def middles(o, d, ray_indices, t_starts, t_ends):
    """Points halfway between the ends of samples."""
    out = np.empty((len(ray_indices), 3), np.float32)
    for i in numba.prange(len(ray_indices)):
        r, middle = ray_indices[i], (t_starts[i] + t_ends[i]) * np.float32(0.5)
        for a in range(3):
            out[i, a] = o[r, a] + middle * d[r, a]
    return out
