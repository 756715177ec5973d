"""Points through a network to the error of what it says of them, and the gradient of it, one tile at a time.

`point_error.errors` has the error in torch.
"""

import numba
import numpy as np

from sinefield.kernels.cpu.tiles import (
    LANES,
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
    widths,
)

TANH, L1, BCE, MSE = range(4)
ONE, TWO = np.float32(1), np.float32(2)


@numba.njit(error_model="numpy")
def _tanh(x):
    return ONE - TWO / (np.exp(TWO * x) + ONE)


@numba.njit(error_model="numpy")
def _sign(x):
    return np.float32(x > 0) - np.float32(x < 0) if x == x else x


@numba.njit(error_model="numpy")
def _error(raw, value, kind, sharpness):
    """Error of one number, and its slope."""
    if kind == TANH:
        bent = _tanh(raw * sharpness)
        difference = bent - _tanh(value * sharpness)
        return abs(difference), _sign(difference) * (ONE - bent * bent) * sharpness
    if kind == L1:
        scaled = raw * sharpness
        cut = -ONE if scaled < -ONE else (ONE if scaled > ONE else scaled)
        difference = cut - min(max(value * sharpness, -ONE), ONE)
        return abs(difference), _sign(difference) * (sharpness if abs(scaled) <= ONE else np.float32(0))
    if kind == BCE:
        small = np.exp(-abs(raw))
        share = ONE / (ONE + small) if raw >= 0 else small / (ONE + small)
        return max(raw, np.float32(0)) - raw * value + np.log1p(small), share - value
    difference = raw - value
    return difference * difference, TWO * difference


@numba.njit(error_model="numpy")
def _point_share(
    thread, threads, x, n, targets, kind, sharpness, sizes, forth, lifted, back, slope, mine, of_x
):  # fmt: skip
    """One thread's points of `point_errors`."""
    tiles, hidden = (n + TILE - 1) // TILE, widths(sizes)[0]
    n_in, n_out, per_step = sizes[0], sizes[len(sizes) - 1], np.int64(per_step_of(x))
    width, last = filled_up(n_in), filled_up(n_out)
    taken, columns = np.empty(TILE * width, x.dtype), np.empty(TILE * width, x.dtype)
    kept, buffers = np.empty(TILE * hidden, x.dtype), room(sizes, x)
    result, ones = np.empty(TILE * last, np.float32), np.full(per_step, one_of(x), x.dtype)
    # Plain integers: functions are compiled anew for each literal that they are given.
    loss, wanted, always, start, size = 0.0, len(of_x) > 0, len(mine) > 0, np.int64(0), np.int64(TILE)
    for tile in range(tiles * thread // threads, tiles * (thread + 1) // threads):
        rows = min(TILE, n - tile * TILE)
        source, at, row = x, tile * TILE * n_in, n_in
        if tile == tiles - 1:  # what is read beyond it is not ours
            take(x, at, n_in, rows, taken, width)
            source, at, row = taken, 0, width
        tile_forward(
            size, source, at, row, per_step, forth, lifted, sizes, slope, always, kept, start, buffers, result
        )  # fmt: skip
        for q in range(TILE):
            for c in range(last):
                rise = np.float32(0)
                if q < rows and c < n_out:
                    raw, value = result[q * last + c], targets[(tile * TILE + q) * n_out + c]
                    error, rise = _error(raw, value, kind, sharpness)
                    loss += np.float64(error)
                result[q * last + c] = rise
        for j in range(0, TILE * last, LANES):
            narrow(result, j, buffers[0], j)
        pair(n_in, source, at, row, columns, width)
        g = tile_backward(
            size, columns, start, per_step, width * per_step, back, sizes, slope, kept, TILE * hidden, mine, wanted,
            ones, buffers,
        )  # fmt: skip
        if wanted:
            give(g, width, rows, of_x, tile * TILE * n_in, n_in)
    return loss


@numba.njit(cache=True, error_model="numpy", parallel=True, nogil=True)
def point_errors(x, n, targets, kind, sharpness, sizes, forth, lifted, back, slope, learned, of_x):
    """Sum of the errors of `n` points, and its gradients, all arrays but `learned` flat.

    Args:
        x: rows of the input, float32 or the bits of bf16.
        targets: rows of what the network should say.
        kind: TANH, L1, BCE or MSE.
        sizes, forth, lifted, back: the network as `pack` laid it out.
        slope: of the hidden layers' activation below 0.
        learned: as of `tile_kernels.backward`.
        of_x: the gradient of `x`, or empty where it is not asked for.
    """
    threads = len(learned)
    losses = np.zeros(threads)
    for thread in numba.prange(threads):
        losses[thread] = _point_share(
            np.int64(thread),
            threads,
            x,
            n,
            targets,
            kind,
            sharpness,
            sizes,
            forth,
            lifted,
            back,
            slope,
            learned[thread],
            of_x,
        )
    return losses.sum()
