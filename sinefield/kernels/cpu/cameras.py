"""The compiled twin of what `Cameras.rays` ends with, whose many small operations cost more than their arithmetic."""

import numba
import numpy as np
import torch
from torch import Tensor


def camera_rays(local: Tensor, camera_indices: Tensor, c2w: Tensor) -> tuple[Tensor, Tensor]:
    """Origins and unit directions of rays that leave cameras along directions in their axes."""
    rays_o, rays_d = rays_along(*(x.contiguous().numpy() for x in (local, camera_indices, c2w)))
    return torch.from_numpy(rays_o), torch.from_numpy(rays_d)


@numba.njit(cache=True, error_model="numpy", nogil=True)
def rays_along(local, cameras, c2w):
    n, one = len(local), np.float32(1)
    rays_o, rays_d = np.empty((n, 3), np.float32), np.empty((n, 3), np.float32)
    for r in range(n):
        pose, x, y, z = c2w[cameras[r]], local[r, 0], local[r, 1], local[r, 2]
        length = np.float32(0)
        for a in range(3):
            value = pose[a, 0] * x + pose[a, 1] * y + pose[a, 2] * z
            rays_o[r, a], rays_d[r, a] = pose[a, 3], value
            length += value * value
        inverse = one / np.sqrt(length)
        for a in range(3):
            rays_d[r, a] *= inverse
    return rays_o, rays_d
