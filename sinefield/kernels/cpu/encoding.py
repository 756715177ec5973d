"""The compiled, multi-threaded twin of `nn.encodings.Frequency.reference`."""

import numba
import numpy as np
import torch
from torch import Tensor

from sinefield.kernels.cpu.marks import check_done
from sinefield.kernels.cpu.turns import turns

BLOCK = 64
"""Points at once: enough for long vectors, few enough for the first cache."""


@numba.njit(cache=True, parallel=True, nogil=True)
def encode(x, octaves, out):
    """Rows of `out`: x, sin(2^i π x) for all axes of octave 0, of octave 1, …, then the cosines alike.

    Scaling by 2^i and taking off whole turns are exact in float32, so the highest octave is as good as the lowest.
    """
    n, d = x.shape
    m = d * octaves
    done = np.zeros((n + BLOCK - 1) // BLOCK, np.uint8)
    for b in numba.prange(len(done)):
        first = b * BLOCK
        rows = min(BLOCK, n - first)
        u = np.empty(rows * m, np.float32)
        sines = np.empty(rows * m, np.float32)
        cosines = np.empty(rows * m, np.float32)
        for s in range(rows):
            scale = np.float32(1.0)
            for i in range(octaves):
                for a in range(d):
                    u[s * m + i * d + a] = x[first + s, a] * scale
                scale *= np.float32(2.0)
        turns(u, sines, cosines)
        for s in range(rows):
            row = out[first + s]
            row[:d] = x[first + s]
            row[d : d + m] = sines[s * m : s * m + m]
            row[d + m :] = cosines[s * m : s * m + m]
        done[b] = 1
    check_done(done)


def encoding(x: Tensor, octaves: int) -> Tensor:
    """float32 rows of x, then its sines and cosines."""
    out = np.empty((len(x), x.shape[1] * (1 + 2 * octaves)), np.float32)
    encode(x.float().contiguous().numpy(), octaves, out)
    return torch.from_numpy(out)
