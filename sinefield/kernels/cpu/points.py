"""The compiled loops behind `nn.points.farthest_points`."""

import numba
import numpy as np
import torch
from torch import Tensor

from sinefield.kernels.cpu.marks import check_done


def farthest_points(points: Tensor, k: int) -> Tensor:
    """Places (b, k) of points (b, n, 3) on the CPU."""
    chosen = np.empty((len(points), k), np.int64)
    _farthest(np.ascontiguousarray(points.detach().float().numpy()), chosen)
    return torch.from_numpy(chosen)


@numba.njit(cache=True, parallel=True, fastmath=True)
def _farthest(points, chosen):
    b, n, _ = points.shape
    done = np.zeros(b, np.uint8)
    for i in numba.prange(b):
        mean = np.zeros(3)
        for j in range(n):
            for a in range(3):
                mean[a] += points[i, j, a] / n
        nearest = np.full(n, np.inf, np.float32)
        x, y, z = np.float32(mean[0]), np.float32(mean[1]), np.float32(mean[2])
        for place in range(chosen.shape[1]):
            best, far = 0, np.float32(-1.0)
            for j in range(n):
                dx, dy, dz = points[i, j, 0] - x, points[i, j, 1] - y, points[i, j, 2] - z
                # The mean is no point: it only says where to begin.
                d = dx * dx + dy * dy + dz * dz
                if place > 1:
                    d = min(d, nearest[j])
                if place > 0:
                    nearest[j] = d
                if d > far:
                    best, far = j, d
            chosen[i, place] = best
            x, y, z = points[i, best, 0], points[i, best, 1], points[i, best, 2]
        done[i] = 1
    check_done(done)
