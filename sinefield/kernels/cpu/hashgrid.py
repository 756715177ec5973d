"""The compiled twin of `nn.hashgrid.HashGrid.reference`: the same sums whatever the number of threads."""

from collections.abc import Sequence

import numba
import numpy as np
import torch
from torch import Tensor

from sinefield.kernels.cpu.marks import check_done
from sinefield.kernels.inputs import Levels
from sinefield.kernels.shell import Pull, differentiable


@numba.njit(cache=True, inline="always")
def _corners(x, n, size, offset, entries, weights):
    """Entries and weights of the eight corners around one point, on one level."""
    low = np.empty(3, np.int64)
    part = np.empty(3, np.float32)
    for a in range(3):
        u = min(max(x[a] * np.float32(0.5) + np.float32(0.5), np.float32(0.0)), np.float32(1.0)) * np.float32(n)
        low[a] = min(int(u), n - 1)
        part[a] = u - np.float32(low[a])
    every = size == (n + 1) ** 3
    for corner in range(8):
        weight = np.float32(1.0)
        for a in range(3):
            weight *= part[a] if corner >> a & 1 else np.float32(1.0) - part[a]
        i, j, k = low[0] + (corner & 1), low[1] + (corner >> 1 & 1), low[2] + (corner >> 2 & 1)
        if every:
            entries[corner] = offset + (i * (n + 1) + j) * (n + 1) + k
        else:
            entries[corner] = offset + ((i ^ (j * 2654435761) ^ (k * 805459861)) & (size - 1))
        weights[corner] = weight


@numba.njit(cache=True, parallel=True, nogil=True)
def look_up(x, table, resolutions, sizes, offsets):
    levels = len(resolutions)
    out = np.empty((len(x), 2 * levels), np.float32)
    done = np.zeros((len(x) + 511) // 512, np.uint8)
    for block in numba.prange(len(done)):
        entries = np.empty(8, np.int64)
        weights = np.empty(8, np.float32)
        for level in range(levels):
            n, size, offset = resolutions[level], sizes[level], offsets[level]
            for p in range(block * 512, min((block + 1) * 512, len(x))):
                _corners(x[p], n, size, offset, entries, weights)
                first, second = np.float32(0.0), np.float32(0.0)
                for c in range(8):
                    first += weights[c] * table[entries[c], 0]
                    second += weights[c] * table[entries[c], 1]
                out[p, 2 * level] = first
                out[p, 2 * level + 1] = second
        done[block] = 1
    check_done(done)
    return out


@numba.njit(cache=True, parallel=True, nogil=True)
def scatter(x, grad, resolutions, sizes, offsets, total):
    # One level, one thread: entries of a level are no other's, so that no sum depends on a race.
    found = np.zeros((total, 2), np.float32)
    levels = len(resolutions)
    half = (levels + 1) // 2
    done = np.zeros(levels, np.uint8)
    for turn in numba.prange(levels):
        # Coarse and fine levels alternate, so that equal shares of the turns are equal work.
        level = turn // 2 if turn % 2 == 0 else half + turn // 2
        entries = np.empty(8, np.int64)
        weights = np.empty(8, np.float32)
        n, size, offset = resolutions[level], sizes[level], offsets[level]
        for p in range(len(x)):
            first, second = grad[p, 2 * level], grad[p, 2 * level + 1]
            if first == 0.0 and second == 0.0:
                continue
            _corners(x[p], n, size, offset, entries, weights)
            for c in range(8):
                found[entries[c], 0] += weights[c] * first
                found[entries[c], 1] += weights[c] * second
        done[turn] = 1
    check_done(done)
    return found


def hashgrid(x: Tensor, table: Tensor, levels: Levels) -> Tensor:
    """Interpolated features of points, float32; the gradient reaches the table."""
    of_levels = levels.resolutions, levels.sizes, levels.offsets
    points, cells, sizes, offsets = (v.detach().contiguous().numpy() for v in (x, *of_levels))

    def step(wanted: Sequence[bool], table: Tensor) -> tuple[Tensor, Pull]:
        entries = len(table)

        def pull(grad: Tensor) -> tuple[Tensor]:
            found = scatter(points, grad.detach().contiguous().numpy(), cells, sizes, offsets, entries)
            return (torch.from_numpy(found),)

        return torch.from_numpy(look_up(points, table.detach().numpy(), cells, sizes, offsets)), pull

    return differentiable(step, table)
