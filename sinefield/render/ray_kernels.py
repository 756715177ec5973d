"""Samples of rays through a radiance field's two networks to the error of their pixels, and the gradient of it, in one
go: a few rays at a time, so that what lies between is met again in the cache.

`RadianceField.squared_error` has the same in torch.
"""

import numba
import numpy as np
from numba.core import types
from numba.extending import overload

from sinefield.nn.tile_kernels import (
    ROWS,
    TILE,
    filled_up,
    give,
    one_of,
    per_step_of,
    room,
    take,
    tile_backward,
    tile_forward,
    widths,
)
from sinefield.render.kernels import ray_backward, transmittances


def _narrowed(source, at, n, target, to):
    """`n` float32 numbers of `source` as `target` has them: rounded to the nearest bf16, to the even one of two."""


@overload(_narrowed)
def _narrowed_of(source, at, n, target, to):
    if isinstance(target.dtype, types.Integer):

        def narrowed(source, at, n, target, to):
            bits = source.view(np.uint32)
            for j in range(n):
                b = bits[np.uint64(at + j)]
                odd = np.uint32(np.uint32(b >> np.uint32(16)) & np.uint32(1))
                up = np.uint32(np.uint32(b + np.uint32(0x7FFF)) + odd)
                nan = np.uint32(b & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
                up = np.uint32(0x7FC00000) if nan else up
                target[np.uint64(to + j)] = np.uint16(np.uint32(up >> np.uint32(16)))
    else:

        def narrowed(source, at, n, target, to):
            for j in range(n):
                target[np.uint64(to + j)] = source[np.uint64(at + j)]

    return narrowed


@numba.njit(error_model="numpy")
def _rays_of(packed, n, thread, threads):
    """First ray of a thread's and first of the next's, so that each has about as many samples."""
    ends = np.zeros(2, np.int64)
    for i in range(2):
        goal, low, high = n * (thread + i) // threads, 0, len(packed)
        while low < high:
            middle = (low + high) // 2
            if packed[middle, 0] < goal:
                low = middle + 1
            else:
                high = middle
        ends[i] = low if thread + i < threads else len(packed)
    return (ends[0] if thread else 0), ends[1]


@numba.njit(error_model="numpy")
def _ray_share(
    thread, threads, x, inverse_units, highest, features, samples, directions, background, target, share, trunk, head,
    group, of_trunk, of_head, of_x,
):  # fmt: skip
    """One thread's rays of `ray_errors`."""
    t_starts, t_ends, ray_indices, packed = samples
    sizes, forth, lifted, back, slope = trunk
    head_sizes, head_forth, head_lifted, head_back, head_slope = head
    n, n_in = len(t_starts), sizes[0]
    wanted = len(of_x) > 0
    begin, end = _rays_of(packed, n, thread, threads)
    most = group
    for r in range(begin, end):
        most = max(most, packed[r, 1])
    most = (most + TILE - 1) // TILE * TILE
    hidden, head_hidden = widths(sizes)[0], widths(head_sizes)[0]
    width, last = filled_up(n_in), filled_up(sizes[len(sizes) - 1])
    seen_width, head_last = filled_up(head_sizes[0]), filled_up(head_sizes[len(head_sizes) - 1])
    kept, head_kept = np.empty(most * hidden, x.dtype), np.empty(most * head_hidden, x.dtype)
    # Zeros: rows that fill up a block are multiplied, though with zeros only.
    head_x, taken = np.zeros(most * seen_width, x.dtype), np.zeros(TILE * width, x.dtype)
    sigmas, rises, grad_sigmas = np.empty(most, np.float32), np.empty(most, np.float32), np.empty(most, np.float32)
    lengths, middle = np.empty(most, np.float32), np.empty(most, np.float32)
    colours, grad_colours = np.empty((most, 3), np.float32), np.empty((most, 3), np.float32)
    trans, total, grad_colour = np.empty(most + 1, np.float64), np.empty(3, np.float64), np.empty(3, np.float32)
    result, lined = np.empty(TILE * max(last, head_last), np.float32), np.empty(TILE, x.dtype)
    buffers, head_buffers = room(sizes, x), room(head_sizes, x)
    seen, head_seen = np.empty(TILE * width, x.dtype), np.empty(TILE * seen_width, x.dtype)
    ones = np.full(per_step_of(x), one_of(x), x.dtype)
    n_directions = head_sizes[0] - features
    loss, r = 0.0, begin
    while r < end:
        first, at, m = r, packed[r, 0], 0
        while r < end and (m == 0 or m + packed[r, 1] <= group):
            m += packed[r, 1]
            r += 1
        for t in range(0, m, TILE):
            rows = min(TILE, m - t)
            filled = (rows + ROWS - 1) // ROWS * ROWS
            source, source_at, row = x, (at + t) * n_in, n_in
            if at + t + TILE >= n:  # what is read beyond it is not ours
                take(x, source_at, n_in, min(TILE, n - at - t), taken, width)
                source, source_at, row = taken, 0, width
            tile_forward(
                filled, source, source_at, row, forth, lifted, sizes, slope, True, kept, t * hidden, buffers, result
            )
            for q in range(rows):
                s = at + t + q
                raw = result[q * last]
                sigma = np.exp(highest if raw > highest else raw) * inverse_units[s if len(inverse_units) > 1 else 0]
                sigmas[t + q], rises[t + q] = sigma, (np.float32(0.0) if raw > highest else sigma)
                lengths[t + q], middle[t + q] = t_ends[s] - t_starts[s], (t_starts[s] + t_ends[s]) / np.float32(2)
                line = (t + q) * seen_width
                _narrowed(result, q * last + 1, features, head_x, line)
                for j in range(n_directions):
                    head_x[line + features + j] = directions[ray_indices[s] * n_directions + j]
            tile_forward(
                filled, head_x, t * seen_width, seen_width, head_forth, head_lifted, head_sizes, head_slope, True,
                head_kept, t * head_hidden, head_buffers, result,
            )  # fmt: skip
            for q in range(rows):
                for c in range(3):
                    colours[t + q, c] = np.float32(1) / (np.float32(1) + np.exp(-result[q * head_last + c]))
        for k in range(first, r):
            start, count = packed[k, 0] - at, packed[k, 1]
            transmittances(sigmas, lengths, start, count, trans)
            total[:] = 0.0
            for i in range(count):
                weight = trans[i] - trans[i + 1]
                for c in range(3):
                    total[c] += weight * colours[start + i, c]
            through = np.float32(trans[count])
            grad_opacity = np.float32(0)
            for c in range(3):
                error = np.float32(total[c]) + through * background[k, c] - target[k, c]
                loss += np.float64(error) * error
                grad_colour[c] = np.float32(2) * share * error
                grad_opacity -= grad_colour[c] * background[k, c]
            ray_backward(
                colours, lengths, middle, start, count, trans, grad_colour, grad_opacity, np.float32(0), grad_sigmas,
                grad_colours,
            )  # fmt: skip
        for t in range(0, m, TILE):
            rows = min(TILE, m - t)
            filled = (rows + ROWS - 1) // ROWS * ROWS
            result[: TILE * head_last] = 0
            for q in range(rows):
                for c in range(3):
                    rise = colours[t + q, c] * (np.float32(1) - colours[t + q, c])
                    result[q * head_last + c] = grad_colours[t + q, c] * rise
            _narrowed(result, 0, TILE * head_last, head_buffers[0], 0)
            g_seen = tile_backward(
                filled, head_x, t * seen_width, seen_width, head_back, head_sizes, head_slope, head_kept,
                (t + TILE) * head_hidden, of_head, True, head_seen, ones, head_buffers,
            )  # fmt: skip
            for q in range(rows):
                result[q] = grad_sigmas[t + q] * rises[t + q]
            _narrowed(result, 0, rows, lined, 0)
            g = buffers[0]
            g[: TILE * last] = 0
            for q in range(rows):
                g[q * last] = lined[q]
                for j in range(features):
                    g[q * last + 1 + j] = g_seen[q * seen_width + j]
            source, source_at, row = x, (at + t) * n_in, n_in
            if at + t + TILE >= n:
                take(x, source_at, n_in, min(TILE, n - at - t), taken, width)
                source, source_at, row = taken, 0, width
            g_x = tile_backward(
                filled, source, source_at, row, back, sizes, slope, kept, (t + TILE) * hidden, of_trunk, wanted, seen,
                ones, buffers,
            )  # fmt: skip
            if wanted:
                give(g_x, width, rows, of_x, (at + t) * n_in, n_in)
    return loss


@numba.njit(cache=True, error_model="numpy", parallel=True, nogil=True)
def ray_errors(
    x, inverse_units, highest, features, samples, directions, background, target, share, trunk, head, group, of_trunk,
    of_head, of_x,
):  # fmt: skip
    """Sum of squared differences between pixels and `target`; gradients of `share` times it.

    Args:
        x: rows of the trunk's input, one a sample, flat; float32 or the bits of bf16.
        inverse_units: of density, one or one a sample.
        highest: logarithm of density at which it is cut off.
        features: how many numbers the trunk hands to the head.
        samples: t_starts, t_ends, ray_indices, packed_info.
        directions: the rest of the head's input, one row a ray, flat, of the kind of `x`.
        background, target: (rays, 3).
        trunk, head: sizes, matrices forth, biases, matrices back (all as `pack` laid them out), activation's slope.
        group: samples at once, about.
        of_trunk, of_head: as `learned` of `tile_kernels.backward`.
        of_x: the gradient of `x`, or empty where it is not asked for.
    """
    threads = len(of_trunk)
    losses = np.zeros(threads)
    for thread in numba.prange(threads):
        losses[thread] = _ray_share(
            thread, threads, x, inverse_units, highest, features, samples, directions, background, target, share,
            trunk, head, group, of_trunk[thread], of_head[thread], of_x,
        )  # fmt: skip
    return losses.sum()
