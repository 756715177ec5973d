"""The compiled, multi-threaded twin of `render.volume.composite_reference`."""

from collections.abc import Sequence

import numba
import numpy as np
import torch
from torch import Tensor

from sinefield.kernels.cpu.marks import check_done
from sinefield.kernels.inputs import MAX_OPTICAL_DEPTH, FlatSamples
from sinefield.kernels.shell import Pull, differentiable


def composite(sigmas: Tensor, colours: Tensor, samples: FlatSamples) -> tuple[Tensor, Tensor, Tensor]:
    """Colours, opacities and depths of rays; gradients reach `sigmas` and `colours`."""
    lengths = samples.t_ends - samples.t_starts
    middle = (samples.t_starts + samples.t_ends) / 2

    def step(wanted: Sequence[bool], *inputs: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Pull]:
        arrays = [x.detach().contiguous().numpy() for x in (*inputs, lengths, middle, samples.packed_info)]

        def pull(*grads: Tensor) -> tuple[Tensor, ...]:
            found = composite_backward(*arrays, *(x.contiguous().numpy() for x in grads))
            return tuple(torch.from_numpy(x) for x in found)

        colour, opacity, depth = (torch.from_numpy(x) for x in composite_forward(*arrays))
        return (colour, opacity, depth), pull

    return differentiable(step, sigmas, colours)


@numba.njit(cache=True, parallel=True, nogil=True)
def composite_forward(sigmas, colours, lengths, middle, packed):
    rays, channels = len(packed), colours.shape[1]
    out = np.zeros((rays, channels), np.float32)
    opacity = np.zeros(rays, np.float32)
    depth = np.zeros(rays, np.float32)
    done = np.zeros(rays, np.uint8)
    for r in numba.prange(rays):
        total = np.zeros(channels, np.float64)
        trans, distance = 1.0, 0.0
        for i in range(packed[r, 0], packed[r, 0] + packed[r, 1]):
            left = trans * np.exp(-min(np.float64(sigmas[i]) * lengths[i], MAX_OPTICAL_DEPTH))
            weight = trans - left
            trans = left
            distance += weight * middle[i]
            for c in range(channels):
                total[c] += weight * colours[i, c]
        out[r] = total
        opacity[r] = 1.0 - trans
        depth[r] = distance
        done[r] = 1
    check_done(done)
    return out, opacity, depth


@numba.njit(cache=True)
def transmittances(sigmas, lengths, first, count, trans):
    """What is left of a ray's light before each of its samples, and after the last."""
    trans[0] = 1.0
    for i in range(count):
        s = first + i
        trans[i + 1] = trans[i] * np.exp(-min(np.float64(sigmas[s]) * lengths[s], MAX_OPTICAL_DEPTH))


@numba.njit(cache=True)
def ray_backward(
    colours, lengths, middle, first, count, trans, grad_colour, grad_opacity, grad_depth, grad_sigmas, grad_colours
):
    """Gradients of one ray's samples, from `transmittances` and those of its pixel."""
    # w_i = T_i − T_{i+1}, hence dL/dσ_i = δ_i (T_{i+1} G_i − Σ_{j>i} w_j G_j) with G_i = dL/dw_i.
    behind = 0.0
    for i in range(count - 1, -1, -1):
        s = first + i
        weight = trans[i] - trans[i + 1]
        g = np.float64(grad_opacity) + np.float64(grad_depth) * middle[s]
        for c in range(colours.shape[1]):
            g += np.float64(grad_colour[c]) * colours[s, c]
            grad_colours[s, c] = weight * grad_colour[c]
        grad_sigmas[s] = lengths[s] * (trans[i + 1] * g - behind)
        behind += weight * g


@numba.njit(cache=True, parallel=True, nogil=True)
def composite_backward(sigmas, colours, lengths, middle, packed, grad_colour, grad_opacity, grad_depth):
    grad_sigmas = np.empty_like(sigmas)
    grad_colours = np.empty_like(colours)
    done = np.zeros(len(packed), np.uint8)
    for r in numba.prange(len(packed)):
        first, count = packed[r]
        trans = np.empty(count + 1, np.float64)
        transmittances(sigmas, lengths, first, count, trans)
        ray_backward(
            colours, lengths, middle, first, count, trans, grad_colour[r], grad_opacity[r], grad_depth[r], grad_sigmas,
            grad_colours,
        )  # fmt: skip
        done[r] = 1
    check_done(done)
    return grad_sigmas, grad_colours
