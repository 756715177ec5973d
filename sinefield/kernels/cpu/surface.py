"""The compiled loop of `render.surface`: rays through a grid of distances, until the function itself must be asked."""

import math

import numpy as np
from numba import njit, prange


@njit(cache=True)
def _distance(signed, x, y, z):
    """Trilinear value at a position in cells, whose centres hold the values; beyond the outermost centres, theirs."""
    x = min(max(x - 0.5, 0.0), signed.shape[0] - 1.0)
    y = min(max(y - 0.5, 0.0), signed.shape[1] - 1.0)
    z = min(max(z - 0.5, 0.0), signed.shape[2] - 1.0)
    i, j, k = int(x), int(y), int(z)
    i1, j1, k1 = min(i + 1, signed.shape[0] - 1), min(j + 1, signed.shape[1] - 1), min(k + 1, signed.shape[2] - 1)
    u, v, w = x - i, y - j, z - k
    a = (signed[i, j, k] * (1 - w) + signed[i, j, k1] * w) * (1 - v)
    a += (signed[i, j1, k] * (1 - w) + signed[i, j1, k1] * w) * v
    b = (signed[i1, j, k] * (1 - w) + signed[i1, j, k1] * w) * (1 - v)
    b += (signed[i1, j1, k] * (1 - w) + signed[i1, j1, k1] * w) * v
    return a * (1 - u) + b * u


@njit(parallel=True, cache=True)
def skip(o, d, t, leave, signed, away, seeds, least, scout):
    """Move rays on, in place, to where the function must be asked.

    Args:
        o, d: (r, 3) origins and directions, in cells from the grid's corner.
        t: (r,) where each ray is; becomes infinite for a ray that gets out.
        leave: (r,) where it leaves the grid.
        signed: (x, y, z) approximate signed distance at the cells' centres, in cells.
        away: (x, y, z) distance from each cell's centre to that of the nearest cell with surface, in cells.
        seeds: (x, y, z) cells that may hold surface.
        least: shortest step, in cells.
        scout: approximate distance below which the function is asked; infinite where the approximation is too poor.

    Returns:
        (r,) slope of the approximate distance along each ray where it now is.
    """
    slope = np.zeros(len(t))
    nx, ny, nz = seeds.shape
    for r in prange(len(t)):
        s = t[r]
        while True:
            if not s < leave[r]:
                s = math.inf
                break
            x, y, z = o[r, 0] + s * d[r, 0], o[r, 1] + s * d[r, 1], o[r, 2] + s * d[r, 2]
            i = min(max(int(x), 0), nx - 1)
            j = min(max(int(y), 0), ny - 1)
            k = min(max(int(z), 0), nz - 1)
            if seeds[i, j, k]:
                here = _distance(signed, x, y, z)
                if here < scout:
                    ahead = s + least
                    there = _distance(
                        signed, o[r, 0] + ahead * d[r, 0], o[r, 1] + ahead * d[r, 1], o[r, 2] + ahead * d[r, 2]
                    )
                    slope[r] = (there - here) / least
                    break
                s += max(here - scout, 0.5 * least)
            else:
                # Nowhere in this cell is surface, nor within what is left between the cells' centres.
                wall = math.inf
                for axis in range(3):
                    at, low = (x, i) if axis == 0 else ((y, j) if axis == 1 else (z, k))
                    if d[r, axis] != 0.0:
                        wall = min(wall, ((low + 1 if d[r, axis] > 0 else low) - at) / d[r, axis])
                s += max(wall, away[i, j, k] - 1.7320508, 0.25 * least)
        t[r] = s
    return slope
