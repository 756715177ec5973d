"""Sines, cosines and exponentials of many numbers by plain arithmetic, of which the compiler makes vectors."""

import math

import numba
import numpy as np

# sin(π r) and cos(π r) for |r| ≤ 1/4 by their Taylor series: the next terms are below 3e-9.
S1, S3, S5, S7, S9 = (np.float32((-1) ** (n // 2) * math.pi**n / math.factorial(n)) for n in range(1, 10, 2))
C2, C4, C6, C8, C10 = (np.float32((-1) ** (n // 2) * math.pi**n / math.factorial(n)) for n in range(2, 11, 2))
# exp(r) for |r| ≤ ln 2 / 2: the next term is below 6e-9.
E2, E3, E4, E5, E6 = (np.float32(1 / math.factorial(n)) for n in range(2, 7))
LOG2E, LN2 = np.float32(1 / math.log(2)), np.float32(math.log(2))


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


@numba.njit(cache=True, error_model="numpy")
def falls(x, out, bits):
    """exp(x) of x ≤ 0 into `out`, to 2e-7 of itself; `bits`: as many int32 to work with. NaN stays NaN."""
    powers = bits.view(np.float32)
    for j in range(len(x)):
        t = max(x[j] * LOG2E, np.float32(-126.0))
        k = np.floor(t + np.float32(0.5))
        r = (t - k) * LN2
        bits[j] = (np.int32(k) + np.int32(127)) << np.int32(23)
        out[j] = np.float32(1) + r * (np.float32(1) + r * (E2 + r * (E3 + r * (E4 + r * (E5 + r * E6)))))
    for j in range(len(x)):
        out[j] *= powers[j]
