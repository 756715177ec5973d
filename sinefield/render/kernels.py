"""The compiled, multi-threaded loops behind `march` and `volume`. The torch code there is their definition."""

import numba
import numpy as np

SOLID_DEPTH = 4
"""Samples a ray may take inside solid cells before it stops."""
BLOCK = 4
"""Cells along each side of the blocks that an empty ray leaves at once."""
MAX_OPTICAL_DEPTH = 700.0
"""exp(−700) is the smallest step a float64 transmittance can take; more absorption changes nothing."""


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
def _walk(o, d, box, occupied, blocks, solid, shift, step, near, far, t_starts, first, limit):
    """Walk one ray; write lattice positions into `t_starts[first:]` when it has room; return how many there are."""
    t_min, t_max = _span(o, d, box, near, far)
    if not t_min < t_max:
        return 0
    res = occupied.shape
    write = len(t_starts) > 0
    stops = solid.shape[0] == res[0]
    n, depth, k = 0, 0, 0
    per_step = np.float32(1.0) / step
    cell = np.empty(3, np.int64)
    scale = np.empty(3, np.float32)
    # Along each axis the cell's coordinate is start + t·rate; planes are left at t = (plane − start) / rate.
    start = np.empty(3, np.float32)
    rate = np.empty(3, np.float32)
    inverse = np.empty(3, np.float32)
    for a in range(3):
        scale[a] = res[a] / (box[a + 3] - box[a])
        start[a] = (o[a] - box[a]) * scale[a]
        rate[a] = d[a] * scale[a]
        inverse[a] = np.float32(1.0) / rate[a] if rate[a] != 0.0 else np.float32(0.0)
    while n < limit:
        t = t_min + (np.float32(k) + shift) * step
        middle = t + np.float32(0.5) * step
        if middle >= t_max:
            break
        for a in range(3):
            cell[a] = min(max(int((o[a] + middle * d[a] - box[a]) * scale[a]), 0), res[a] - 1)
        if occupied[cell[0], cell[1], cell[2]]:
            if stops and solid[cell[0], cell[1], cell[2]]:
                depth += 1
                if depth > SOLID_DEPTH:
                    break
            if write:
                t_starts[first + n] = t
            n += 1
            k += 1
            continue
        # Leave the empty cell, or the empty block around it: the nearest of three exit planes, less a hair so that
        # rounding never skips a sample.
        size = 1 if blocks[cell[0] // BLOCK, cell[1] // BLOCK, cell[2] // BLOCK] else BLOCK
        leave = t_max
        for a in range(3):
            if rate[a] != 0.0:
                plane = cell[a] // size * size + (size if rate[a] > 0.0 else 0)
                leave = min(leave, (np.float32(plane) - start[a]) * inverse[a])
        k = max(k + 1, int((leave - t_min) * per_step - shift - np.float32(0.502)))
    return n


@numba.njit(cache=True, parallel=True, nogil=True)
def count_samples(o, d, box, occupied, blocks, solid, shift, step, near, far):
    counts = np.empty(len(o), np.int64)
    nothing = np.empty(0, np.float32)
    for r in numba.prange(len(o)):
        counts[r] = _walk(o[r], d[r], box, occupied, blocks, solid, shift[r], step, near, far, nothing, 0, 2**31)
    return counts


@numba.njit(cache=True, parallel=True, nogil=True)
def fill_samples(o, d, box, occupied, blocks, solid, shift, step, near, far, packed, total):
    ray_indices = np.empty(total, np.int64)
    t_starts = np.empty(total, np.float32)
    t_ends = np.empty(total, np.float32)
    for r in numba.prange(len(packed)):
        first, count = packed[r]
        if count > 0:
            _walk(o[r], d[r], box, occupied, blocks, solid, shift[r], step, near, far, t_starts, first, count)
            for i in range(first, first + count):
                ray_indices[i] = r
                t_ends[i] = t_starts[i] + step
    return ray_indices, t_starts, t_ends


@numba.njit(cache=True, parallel=True, nogil=True)
def composite_forward(sigmas, colours, lengths, middle, packed):
    rays, channels = len(packed), colours.shape[1]
    out = np.zeros((rays, channels), np.float32)
    opacity = np.zeros(rays, np.float32)
    depth = np.zeros(rays, np.float32)
    for r in numba.prange(rays):
        total = np.zeros(channels, np.float64)
        trans, distance = 1.0, 0.0
        for i in range(packed[r, 0], packed[r, 0] + packed[r, 1]):
            left = trans * np.exp(-min(np.float64(sigmas[i]) * lengths[i], MAX_OPTICAL_DEPTH))
            weight = trans - left
            trans = left
            distance += weight * middle[i]
            for c in range(channels):
                total[c] += weight * colours[i, c]
        out[r] = total
        opacity[r] = 1.0 - trans
        depth[r] = distance
    return out, opacity, depth


@numba.njit(cache=True, parallel=True, nogil=True)
def composite_backward(sigmas, colours, lengths, middle, packed, grad_colour, grad_opacity, grad_depth):
    # w_i = T_i − T_{i+1}, hence dL/dσ_i = δ_i (T_{i+1} G_i − Σ_{j>i} w_j G_j) with G_i = dL/dw_i.
    grad_sigmas = np.empty_like(sigmas)
    grad_colours = np.empty_like(colours)
    channels = colours.shape[1]
    for r in numba.prange(len(packed)):
        first, count = packed[r]
        trans = np.empty(count + 1, np.float64)
        trans[0] = 1.0
        for i in range(count):
            s = first + i
            trans[i + 1] = trans[i] * np.exp(-min(np.float64(sigmas[s]) * lengths[s], MAX_OPTICAL_DEPTH))
        behind = 0.0
        for i in range(count - 1, -1, -1):
            s = first + i
            weight = trans[i] - trans[i + 1]
            g = np.float64(grad_opacity[r]) + np.float64(grad_depth[r]) * middle[s]
            for c in range(channels):
                g += np.float64(grad_colour[r, c]) * colours[s, c]
                grad_colours[s, c] = weight * grad_colour[r, c]
            grad_sigmas[s] = lengths[s] * (trans[i + 1] * g - behind)
            behind += weight * g
    return grad_sigmas, grad_colours
