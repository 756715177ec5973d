"""The compiled twin of `nn.encodings.SphericalHarmonics.reference`.

There many small operations cost more than their arithmetic.
"""

import numba
import numpy as np
import torch
from torch import Tensor

ONE = np.float32(1)
THREE, FIVE = np.float32(3), np.float32(5)
# √(1/4π), √(3/4π), √(15/4π), √(5/16π), √(15/16π), √(35/32π), √(105/4π), √(21/32π), √(7/16π), √(105/16π)
A, B, C, D, E, F, G, H, K, L = (
    np.float32(np.sqrt(n / (m * np.pi)))
    for n, m in ((1, 4), (3, 4), (15, 4), (5, 16), (15, 16), (35, 32), (105, 4), (21, 32), (7, 16), (105, 16))
)


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _harmonics(d):
    out = np.empty((len(d), 16), np.float32)
    for r in range(len(d)):
        x, y, z = d[r, 0], d[r, 1], d[r, 2]
        xx, yy, zz = x * x, y * y, z * z
        row = out[r]
        row[0] = A
        row[1], row[2], row[3] = -B * y, B * z, -B * x
        row[4], row[5], row[6] = C * x * y, -C * y * z, D * (THREE * zz - ONE)
        row[7], row[8] = -C * x * z, E * (xx - yy)
        row[9], row[10] = -F * y * (THREE * xx - yy), G * x * y * z
        row[11], row[12] = -H * y * (FIVE * zz - ONE), K * z * (FIVE * zz - THREE)
        row[13], row[14] = -H * x * (FIVE * zz - ONE), L * z * (xx - yy)
        row[15] = -F * x * (xx - THREE * yy)
    return out


def harmonics(d: Tensor) -> Tensor:
    """16 numbers of each unit direction, float32."""
    return torch.from_numpy(_harmonics(d.float().contiguous().numpy()))
