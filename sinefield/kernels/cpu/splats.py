"""The compiled, multi-threaded twin of `render.splats.blend_reference`.

The picture is cut into bands of rows. A band goes through the splats from front to back and touches only the pixels
that each one reaches. Gradients are kept for each splat of each band and added up in one order: equal inputs, equal
bits.
"""

from collections.abc import Sequence

import numba
import numpy as np
import torch
from torch import Tensor

from sinefield.kernels.cpu.marks import check_done
from sinefield.kernels.inputs import LEAST_ALPHA, LEAST_TRANSMITTANCE, MOST_ALPHA
from sinefield.kernels.shell import Pull, differentiable

HALF = np.float32(0.5)
ROWS = 8
"""Rows of a band."""


def blend(
    centres: Tensor, conics: Tensor, colours: Tensor, opacities: Tensor, reach: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Colours (height, width, 3) and transmittances (height, width); gradients reach the first four tensors."""

    def step(wanted: Sequence[bool], *inputs: Tensor) -> tuple[tuple[Tensor, Tensor], Pull]:
        places, shapes, shades, shares, sides = (x.detach().contiguous().numpy() for x in (*inputs, reach))
        starts = _starts(places, sides, height)
        listed = _listed(places, sides, height, starts)
        given = places, shapes, shades, shares, sides, starts, listed

        def pull(*grads: Tensor) -> tuple[Tensor, ...]:
            grad_colour, grad_left = (x.contiguous().numpy() for x in grads)
            parts = _backward(*given, grad_colour, grad_left, *picture)
            found = _summed(parts, listed, len(places))
            return tuple(torch.from_numpy(x.copy()) for x in (found[:, :2], found[:, 2:5], found[:, 5:8], found[:, 8]))

        picture = _forward(*given, height, width)
        colour, left = (torch.from_numpy(x) for x in picture)
        return (colour, left), pull

    return differentiable(step, centres, conics, colours, opacities)


@numba.njit(cache=True, nogil=True)
def _rows(centre, reach, height):
    """First and last row, exclusive, whose pixels' centres a splat reaches."""
    first = max(int(np.ceil(centre - reach - 0.5)), 0)
    last = min(int(np.floor(centre + reach - 0.5)) + 1, height)
    return first, last


@numba.njit(cache=True, nogil=True)
def _starts(centres, reach, height):
    """Where each band's splats begin in one list of them all."""
    bands = (height + ROWS - 1) // ROWS
    starts = np.zeros(bands + 1, np.int64)
    for i in range(len(centres)):
        first, last = _rows(centres[i, 1], reach[i, 1], height)
        if first < last:
            for band in range(first // ROWS, (last - 1) // ROWS + 1):
                starts[band + 1] += 1
    return np.cumsum(starts)


@numba.njit(cache=True, nogil=True)
def _listed(centres, reach, height, starts):
    place = starts[:-1].copy()
    listed = np.empty(starts[-1], np.int64)
    for i in range(len(centres)):
        first, last = _rows(centres[i, 1], reach[i, 1], height)
        if first < last:
            for band in range(first // ROWS, (last - 1) // ROWS + 1):
                listed[place[band]] = i
                place[band] += 1
    return listed


@numba.njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def _forward(centres, conics, colours, opacities, reach, starts, listed, height, width):
    colour = np.zeros((height, width, 3), np.float32)
    left = np.ones((height, width), np.float32)
    for band in numba.prange(len(starts) - 1):
        for k in range(starts[band], starts[band + 1]):
            i = listed[k]
            first, last = _rows(centres[i, 1], reach[i, 1], height)
            start, stop = _rows(centres[i, 0], reach[i, 0], width)
            for row in range(max(first, band * ROWS), min(last, band * ROWS + ROWS)):
                dy = (np.float32(row) + HALF) - centres[i, 1]
                for column in range(start, stop):
                    trans = left[row, column]
                    if trans < LEAST_TRANSMITTANCE:
                        continue
                    dx = (np.float32(column) + HALF) - centres[i, 0]
                    power = -HALF * (conics[i, 0] * dx * dx + conics[i, 2] * dy * dy) - conics[i, 1] * dx * dy
                    alpha = np.float32(min(opacities[i] * np.exp(power), MOST_ALPHA))
                    if alpha < LEAST_ALPHA:
                        continue
                    weight = trans * alpha
                    for c in range(3):
                        colour[row, column, c] += weight * colours[i, c]
                    left[row, column] = trans - weight
    return colour, left


@numba.njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def _backward(centres, conics, colours, opacities, reach, starts, listed, grad_colour, grad_left, colour, left):
    """Gradients of each splat of each band: centre, conic, colour, opacity."""
    height, width = left.shape
    out = np.zeros((len(listed), 9), np.float32)
    done = np.zeros(len(starts) - 1, np.uint8)
    for band in numba.prange(len(starts) - 1):
        top = band * ROWS
        trans = np.ones((ROWS, width), np.float32)
        # What a pixel's gradient still weighs behind the splat that is looked at.
        behind = np.empty((ROWS, width), np.float32)
        for row in range(top, min(top + ROWS, height)):
            for column in range(width):
                total = grad_left[row, column] * left[row, column]
                for c in range(3):
                    total += grad_colour[row, column, c] * colour[row, column, c]
                behind[row - top, column] = total
        for k in range(starts[band], starts[band + 1]):
            i = listed[k]
            grad = out[k]
            first, last = _rows(centres[i, 1], reach[i, 1], height)
            start, stop = _rows(centres[i, 0], reach[i, 0], width)
            for row in range(max(first, top), min(last, top + ROWS)):
                dy = (np.float32(row) + HALF) - centres[i, 1]
                for column in range(start, stop):
                    before = trans[row - top, column]
                    if before < LEAST_TRANSMITTANCE:
                        continue
                    dx = (np.float32(column) + HALF) - centres[i, 0]
                    power = -HALF * (conics[i, 0] * dx * dx + conics[i, 2] * dy * dy) - conics[i, 1] * dx * dy
                    bell = np.float32(np.exp(power))
                    alpha = np.float32(min(opacities[i] * bell, MOST_ALPHA))
                    if alpha < LEAST_ALPHA:
                        continue
                    weight = before * alpha
                    seen = np.float32(0)
                    for c in range(3):
                        seen += grad_colour[row, column, c] * colours[i, c]
                        grad[5 + c] += weight * grad_colour[row, column, c]
                    behind[row - top, column] -= weight * seen
                    trans[row - top, column] = before - weight
                    if alpha >= MOST_ALPHA:
                        continue
                    # L changes with alpha by what the splat shows less what it hides.
                    slope = before * seen - behind[row - top, column] / (1 - alpha)
                    grad[8] += slope * bell
                    slope *= alpha
                    grad[0] += slope * (conics[i, 0] * dx + conics[i, 1] * dy)
                    grad[1] += slope * (conics[i, 2] * dy + conics[i, 1] * dx)
                    grad[2] -= slope * HALF * dx * dx
                    grad[3] -= slope * dx * dy
                    grad[4] -= slope * HALF * dy * dy
        done[band] = 1
    check_done(done)
    return out


@numba.njit(cache=True, nogil=True)
def _summed(parts, listed, count):
    total = np.zeros((count, 9), np.float32)
    for k in range(len(listed)):
        for j in range(9):
            total[listed[k], j] += parts[k, j]
    return total
