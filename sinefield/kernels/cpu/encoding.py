"""The compiled, multi-threaded twin of `nn.encodings.Frequency.reference`."""

import math

import numba
import numpy as np
import torch
from torch import Tensor

# sin(π r) and cos(π r) for |r| ≤ 1/4 by their Taylor series: the next terms are below 3e-9.
S1, S3, S5, S7, S9 = (np.float32((-1) ** (n // 2) * math.pi**n / math.factorial(n)) for n in range(1, 10, 2))
C2, C4, C6, C8, C10 = (np.float32((-1) ** (n // 2) * math.pi**n / math.factorial(n)) for n in range(2, 11, 2))
BLOCK = 64
"""Points at once: enough for long vectors, few enough for the first cache."""


@numba.njit(cache=True, error_model="numpy")
def turns(u, sines, cosines):
    """sin(π u) and cos(π u), without a branch, so that the compiler makes vectors of it."""
    for c in range(len(u)):
        # u = q / 2 + r with |r| ≤ 1/4: q counts quarter turns of π u.
        q = np.floor(u[c] * np.float32(2.0) + np.float32(0.5))
        r = u[c] - q * np.float32(0.5)
        r2 = r * r
        sine = r * (S1 + r2 * (S3 + r2 * (S5 + r2 * (S7 + r2 * S9))))
        cosine = np.float32(1.0) + r2 * (C2 + r2 * (C4 + r2 * (C6 + r2 * (C8 + r2 * C10))))
        # 1 after an odd number of quarter turns, and the signs after 0 to 3 of them: + + − − and + − − +.
        odd = q - np.float32(2.0) * np.floor(q * np.float32(0.5))
        late = np.floor(q * np.float32(0.5)) - np.float32(2.0) * np.floor(q * np.float32(0.25))
        sign = np.float32(1.0) - np.float32(2.0) * late
        sines[c] = sign * (sine + odd * (cosine - sine))
        cosines[c] = sign * (cosine - odd * (cosine + sine))


@numba.njit(cache=True, parallel=True, nogil=True)
def encode(x, octaves, out):
    """Rows of `out`: x, sin(2^i π x) for all axes of octave 0, of octave 1, …, then the cosines alike.

    Scaling by 2^i and taking off whole turns are exact in float32, so the highest octave is as good as the lowest.
    """
    n, d = x.shape
    m = d * octaves
    for b in numba.prange((n + BLOCK - 1) // BLOCK):
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


def encoding(x: Tensor, octaves: int) -> Tensor:
    """float32 rows of x, then its sines and cosines."""
    out = np.empty((len(x), x.shape[1] * (1 + 2 * octaves)), np.float32)
    encode(x.float().contiguous().numpy(), octaves, out)
    return torch.from_numpy(out)
