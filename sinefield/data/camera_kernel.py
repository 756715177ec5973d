"""The compiled twin of the last lines of `Cameras.rays`: so many small operations cost more than their arithmetic."""

import numba
import numpy as np


@numba.njit(cache=True, error_model="numpy", parallel=True, nogil=True)
def rays_through(plane, cameras, c2w):
    """Origins and unit directions of rays that leave cameras through points of the plane before them."""
    n, one = len(plane), np.float32(1)
    rays_o, rays_d = np.empty((n, 3), np.float32), np.empty((n, 3), np.float32)
    for r in numba.prange(n):
        pose, x, y = c2w[cameras[r]], plane[r, 0], plane[r, 1]
        length = np.float32(0)
        for a in range(3):
            value = pose[a, 0] * x - pose[a, 1] * y - pose[a, 2]
            rays_o[r, a], rays_d[r, a] = pose[a, 3], value
            length += value * value
        inverse = one / np.sqrt(length)
        for a in range(3):
            rays_d[r, a] *= inverse
    return rays_o, rays_d
