"""The compiled twin of `nn.hashgrid.HashGrid.reference`: the same sums whatever the number of threads."""

from collections.abc import Sequence

import numba
import numpy as np
import torch
from torch import Tensor

from sinefield.kernels.cpu.marks import check_done
from sinefield.kernels.inputs import Levels
from sinefield.kernels.shell import Pull, differentiable

BLOCK, SPAN = 64, 4096
"""Points whose entries are found at once, by whole vectors, and points that go through all levels before others do."""
SECOND, THIRD = np.uint32(2654435761), np.uint32(805459861)
HALF, ONE, ZERO = np.float32(0.5), np.float32(1), np.float32(0)


@numba.njit(error_model="numpy")
def _corners(x, first, count, n, size, entries, weights):
    """Entries within a level, and weights, of the eight corners around each of `count` points from `first` on.

    Found apart from what is done with them: this is vectors of arithmetic, that is waiting for memory.
    """
    every, scale, top = size == (n + 1) ** 3, np.float32(n), np.int32(n - 1)
    row, mask = np.uint32(n + 1), np.uint32(size - 1)
    plane = row * row
    # 0 comes first in `max`, which then turns what is no number into 0 as well.
    for q in range(count):
        u = min(max(ZERO, x[first + q, 0] * HALF + HALF), ONE) * scale
        v = min(max(ZERO, x[first + q, 1] * HALF + HALF), ONE) * scale
        w = min(max(ZERO, x[first + q, 2] * HALF + HALF), ONE) * scale
        low_u, low_v, low_w = min(np.int32(u), top), min(np.int32(v), top), min(np.int32(w), top)
        u, v, w = u - np.float32(low_u), v - np.float32(low_v), w - np.float32(low_w)
        i, j, k = np.uint32(low_u), np.uint32(low_v), np.uint32(low_w)
        if every:
            left, low, front = i * plane, j * row, k
            right, high, behind = left + plane, low + row, k + np.uint32(1)
            entries[0, q], entries[1, q] = left + low + front, right + low + front
            entries[2, q], entries[3, q] = left + high + front, right + high + front
            entries[4, q], entries[5, q] = left + low + behind, right + low + behind
            entries[6, q], entries[7, q] = left + high + behind, right + high + behind
        else:
            left, low, front = i, j * SECOND, k * THIRD
            right, high, behind = left + np.uint32(1), low + SECOND, front + THIRD
            entries[0, q], entries[1, q] = (left ^ low ^ front) & mask, (right ^ low ^ front) & mask
            entries[2, q], entries[3, q] = (left ^ high ^ front) & mask, (right ^ high ^ front) & mask
            entries[4, q], entries[5, q] = (left ^ low ^ behind) & mask, (right ^ low ^ behind) & mask
            entries[6, q], entries[7, q] = (left ^ high ^ behind) & mask, (right ^ high ^ behind) & mask
        a, b, c, d = (ONE - u) * (ONE - v), u * (ONE - v), (ONE - u) * v, u * v
        weights[0, q], weights[1, q], weights[2, q], weights[3, q] = (
            a * (ONE - w), b * (ONE - w), c * (ONE - w), d * (ONE - w),
        )  # fmt: skip
        weights[4, q], weights[5, q], weights[6, q], weights[7, q] = a * w, b * w, c * w, d * w


@numba.njit(error_model="numpy")
def found_at(x, first, count, n, size, held, level, entries, weights, out):
    """What a level holds at `count` points from `first` on, into its two columns of `out`."""
    _corners(x, first, count, n, size, entries, weights)
    for q in range(count):
        one, other = ZERO, ZERO
        for c in range(8):
            entry = np.uint64(entries[c, q])  # unsigned: no negative index to ask for
            one += weights[c, q] * held[entry, 0]
            other += weights[c, q] * held[entry, 1]
        out[first + q, 2 * level] = one
        out[first + q, 2 * level + 1] = other


@numba.njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def look_up(x, table, resolutions, sizes, offsets):
    levels = len(resolutions)
    out = np.empty((len(x), 2 * levels), np.float32)
    done = np.zeros((len(x) + SPAN - 1) // SPAN, np.uint8)
    for span in numba.prange(len(done)):
        entries, weights = np.empty((8, BLOCK), np.uint32), np.empty((8, BLOCK), np.float32)
        end = min((span + 1) * SPAN, len(x))
        for level in range(levels):
            n, size = resolutions[level], sizes[level]
            held = table[offsets[level] : offsets[level] + size]
            for p in range(span * SPAN, end, BLOCK):
                found_at(x, p, min(BLOCK, end - p), n, size, held, level, entries, weights, out)
        done[span] = 1
    check_done(done)
    return out


@numba.njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def scatter(x, grad, resolutions, sizes, offsets, total):
    # One level, one thread: entries of a level are no other's, so that no sum depends on a race.
    found = np.zeros((total, 2), np.float32)
    levels = len(resolutions)
    half = (levels + 1) // 2
    done = np.zeros(levels, np.uint8)
    for turn in numba.prange(levels):
        # Coarse and fine levels alternate, so that equal shares of the turns are equal work.
        level = turn // 2 if turn % 2 == 0 else half + turn // 2
        entries, weights = np.empty((8, BLOCK), np.uint32), np.empty((8, BLOCK), np.float32)
        n, size = resolutions[level], sizes[level]
        held = found[offsets[level] : offsets[level] + size]
        for p in range(0, len(x), BLOCK):
            count = min(BLOCK, len(x) - p)
            _corners(x, p, count, n, size, entries, weights)
            for q in range(count):
                first, second = grad[p + q, 2 * level], grad[p + q, 2 * level + 1]
                if first == 0.0 and second == 0.0:
                    continue
                for c in range(8):
                    entry = np.uint64(entries[c, q])  # unsigned: no negative index to ask for
                    held[entry, 0] += weights[c, q] * first
                    held[entry, 1] += weights[c, q] * second
        done[turn] = 1
    check_done(done)
    return found


def hashgrid(x: Tensor, table: Tensor, levels: Levels, found: Tensor | None = None) -> Tensor:
    """Interpolated features of points, float32, or `found` where they are known; the gradient reaches the table."""
    of_levels = levels.resolutions, levels.sizes, levels.offsets
    points, cells, sizes, offsets = (v.detach().contiguous().numpy() for v in (x, *of_levels))

    def step(wanted: Sequence[bool], table: Tensor) -> tuple[Tensor, Pull]:
        entries = len(table)

        def pull(grad: Tensor) -> tuple[Tensor]:
            learned = scatter(points, grad.detach().contiguous().numpy(), cells, sizes, offsets, entries)
            return (torch.from_numpy(learned),)

        if found is not None:
            return found, pull
        return torch.from_numpy(look_up(points, table.detach().numpy(), cells, sizes, offsets)), pull

    return differentiable(step, table)
