"""Samples of rays through a radiance field's two networks to the error of their pixels, and the gradient of it, in one
go: a few rays at a time, so that what lies between is met again in the cache.

`RadianceField.squared_error` has the same in torch.
"""

import numba
import numpy as np

from sinefield.kernels.cpu.frequency import turns
from sinefield.kernels.cpu.march import ray_backward, transmittances
from sinefield.kernels.cpu.tiles import (
    LANES,
    ROWS,
    TILE,
    filled_up,
    give,
    narrow,
    one_of,
    pair,
    per_step_of,
    room,
    take,
    tile_backward,
    tile_forward,
    two_columns,
    widths,
)


@numba.njit(error_model="numpy")
def _encode(places, octaves, waves, target, tile_at, stepped):
    """A tile's frequency encoding by columns: x, y, z, 0, then the sine and the cosine of octave 0 of x, of y, …

    Args:
        places: coordinates of all rows, axis by axis, and zeros for one axis more.
        waves: room for three times as many.
        target, tile_at: where columns go, one after another.
        stepped: where they go as a product steps through them.
    """
    size, per_step = 4 * TILE, per_step_of(target)
    sines, cosines, angles = waves[:size], waves[size : 2 * size], waves[2 * size :]
    for at in range(0, size, 2 * TILE):
        for r in range(0, TILE, LANES):
            two_columns(places, at + r, places, at + TILE + r, target, tile_at + at + r, stepped, at + per_step * r)
    at = size
    for i in range(octaves):
        if i % 4 == 0:  # exact again, before errors that double with each octave show
            scale = np.float32(2.0**i)
            for j in range(size):
                angles[j] = places[j] * scale
            turns(angles, sines, cosines)
        else:
            for j in range(size):
                sine, cosine = sines[j], cosines[j]
                sines[j] = np.float32(2) * sine * cosine
                cosines[j] = np.float32(1) - np.float32(2) * sine * sine
        for j in range(0, 3 * TILE, TILE):
            for r in range(0, TILE, LANES):
                two_columns(sines, j + r, cosines, j + r, target, tile_at + at + r, stepped, at + per_step * r)
            at += 2 * TILE


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


@numba.njit(cache=True, error_model="numpy")
def ray_error(
    first, count, sigmas, lengths, middle, colours, background, target, share, trans, grad_sigmas, grad_colours
):
    """Squared difference of one ray's pixel from `target`; gradients of `share` times it.

    Args:
        first, count: which samples are the ray's.
        trans: room for one number more than that.
    """
    transmittances(sigmas, lengths, first, count, trans)
    through, grad_opacity, loss = np.float32(trans[count]), np.float32(0), 0.0
    grad_colour = np.empty(3, np.float32)
    for c in range(3):
        total = 0.0
        for i in range(count):
            total += (trans[i] - trans[i + 1]) * colours[first + i, c]
        error = np.float32(total) + through * background[c] - target[c]
        loss += np.float64(error) * error
        grad_colour[c] = np.float32(2) * share * error
        grad_opacity -= grad_colour[c] * background[c]
    ray_backward(
        colours, lengths, middle, first, count, trans, grad_colour, grad_opacity, np.float32(0), grad_sigmas,
        grad_colours,
    )  # fmt: skip
    return loss


@numba.njit(error_model="numpy")
def _ray_share(
    thread, threads, x, lines, inverse_units, highest, features, samples, directions, background, target, share, trunk,
    head, group, of_trunk, of_head, of_x,
):  # fmt: skip
    """One thread's rays of `ray_errors`."""
    t_starts, t_ends, ray_indices, packed = samples
    sizes, forth, lifted, back, slope = trunk
    head_sizes, head_forth, head_lifted, head_back, head_slope = head
    rays_o, rays_d, centre, inverse_half, octaves = lines
    # Plain integers: functions are compiled anew for each literal that they are given.
    n, n_in, per_step, start = len(t_starts), sizes[0], np.int64(per_step_of(x)), np.int64(0)
    wanted, always = len(of_x) > 0, len(of_head) > 0
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
    columns, stepped = np.zeros((most if octaves else TILE) * width, x.dtype), np.zeros(TILE * width, x.dtype)
    places, waves = np.zeros(4 * TILE, np.float32), np.empty(12 * TILE, np.float32)
    sigmas, rises, grad_sigmas = np.empty(most, np.float32), np.empty(most, np.float32), np.empty(most, np.float32)
    lengths, middle = np.empty(most, np.float32), np.empty(most, np.float32)
    colours, grad_colours = np.empty((most, 3), np.float32), np.empty((most, 3), np.float32)
    trans = np.empty(most + 1, np.float64)
    result, lined = np.empty(TILE * max(last, head_last) + LANES, np.float32), np.empty(TILE, x.dtype)
    buffers, head_buffers = room(sizes, x), room(head_sizes, x)
    head_columns = np.empty(TILE * seen_width, x.dtype)
    ones = np.full(per_step, one_of(x), x.dtype)
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
            source, source_at, row, step = x, (at + t) * n_in, n_in, per_step
            if octaves:
                for q in range(rows):
                    s = at + t + q
                    k, m_t = ray_indices[s], (t_starts[s] + t_ends[s]) * np.float32(0.5)
                    for a in range(3):
                        places[a * TILE + q] = (rays_o[k, a] + m_t * rays_d[k, a] - centre[a]) * inverse_half
                _encode(places, octaves, waves, columns, t * width, stepped)
                source, source_at, row, step = stepped, 0, per_step, per_step * TILE
            elif at + t + TILE >= n:  # what is read beyond it is not ours
                take(x, source_at, n_in, min(TILE, n - at - t), taken, width)
                source, source_at, row = taken, 0, width
            tile_forward(
                filled,
                source,
                source_at,
                row,
                step,
                forth,
                lifted,
                sizes,
                slope,
                always,
                kept,
                t * hidden,
                buffers,
                result,
            )
            for q in range(rows):
                s = at + t + q
                raw = result[q * last]
                sigma = np.exp(highest if raw > highest else raw) * inverse_units[s if len(inverse_units) > 1 else 0]
                sigmas[t + q], rises[t + q] = sigma, (np.float32(0.0) if raw > highest else sigma)
                lengths[t + q], middle[t + q] = t_ends[s] - t_starts[s], (t_starts[s] + t_ends[s]) / np.float32(2)
                line = (t + q) * seen_width
                for j in range(0, features, LANES):  # what is too much is overwritten with directions
                    narrow(result, q * last + 1 + j, head_x, line + j)
                for j in range(n_directions):
                    head_x[line + features + j] = directions[ray_indices[s] * n_directions + j]
            tile_forward(
                filled, head_x, t * seen_width, seen_width, per_step, head_forth, head_lifted, head_sizes, head_slope,
                always, head_kept, t * head_hidden, head_buffers, result,
            )  # fmt: skip
            for q in range(rows):
                for c in range(3):
                    colours[t + q, c] = np.float32(1) / (np.float32(1) + np.exp(-result[q * head_last + c]))
        for k in range(first, r):
            loss += ray_error(
                packed[k, 0] - at, packed[k, 1], sigmas, lengths, middle, colours, background[k], target[k], share,
                trans, grad_sigmas, grad_colours,
            )  # fmt: skip
        for t in range(0, m, TILE):
            rows = min(TILE, m - t)
            filled = (rows + ROWS - 1) // ROWS * ROWS
            result[: TILE * head_last] = 0
            for q in range(rows):
                for c in range(3):
                    rise = colours[t + q, c] * (np.float32(1) - colours[t + q, c])
                    result[q * head_last + c] = grad_colours[t + q, c] * rise
            for j in range(0, TILE * head_last, LANES):
                narrow(result, j, head_buffers[0], j)
            pair(seen_width, head_x, t * seen_width, seen_width, head_columns, seen_width)
            g_seen = tile_backward(
                filled, head_columns, start, per_step, seen_width * per_step, head_back, head_sizes, head_slope,
                head_kept, (t + TILE) * head_hidden, of_head, always, ones, head_buffers,
            )  # fmt: skip
            for q in range(rows):
                result[q] = grad_sigmas[t + q] * rises[t + q]
            for j in range(0, TILE, LANES):
                narrow(result, j, lined, j)
            g = buffers[0]
            g[: TILE * last] = 0
            for q in range(rows):
                g[q * last] = lined[q]
                for j in range(features):
                    g[q * last + 1 + j] = g_seen[q * seen_width + j]
            source, source_at, row, step = columns, t * width, TILE, per_step
            if not octaves:
                seen, seen_at, seen_row = x, (at + t) * n_in, n_in
                if at + t + TILE >= n:
                    take(x, seen_at, n_in, min(TILE, n - at - t), taken, width)
                    seen, seen_at, seen_row = taken, 0, width
                pair(n_in, seen, seen_at, seen_row, columns, width)
                source_at, row, step = 0, per_step, width * per_step
            g_x = tile_backward(
                filled, source, source_at, row, step, back, sizes, slope, kept, (t + TILE) * hidden, of_trunk, wanted,
                ones, buffers,
            )  # fmt: skip
            if wanted:
                give(g_x, width, rows, of_x, (at + t) * n_in, n_in)
    return loss


@numba.njit(cache=True, error_model="numpy", parallel=True, nogil=True)
def ray_errors(
    x, lines, inverse_units, highest, features, samples, directions, background, target, share, trunk, head, group,
    of_trunk, of_head, of_x,
):  # fmt: skip
    """Sum of squared differences between pixels and `target`; gradients of `share` times it.

    Args:
        x: rows of the trunk's input, one a sample, flat; float32 or the bits of bf16, all that counts with octaves.
        lines: rays_o, rays_d, a centre and the inverse of a half that make coordinates of their points, and octaves of
            the encoding that the trunk's input is then, its columns in the order of `_encode`; none for `x` itself.
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
            np.int64(thread), threads, x, lines, inverse_units, highest, features, samples, directions, background,
            target, share, trunk, head, group, of_trunk[thread], of_head[thread], of_x,
        )  # fmt: skip
    return losses.sum()
