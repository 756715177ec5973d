"""Compositing in Triton, for CUDA: `volume.composite` forward and backward, one program a ray.

Each ray is scanned by itself, so no running sum over the batch can cancel and float32 is enough: the optical depth in
front of a sample that still receives light is small, and so is its rounding. docs/results/gpu.md says what of this has
run on a GPU.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sinefield.render.march import Samples
from sinefield.render.volume import Pixels

CHUNK = 32
"""Samples a ray takes at once, one a lane."""
MAX_DEPTH = 30.0
"""Optical depth of one step beyond which a float32 pixel changes no more; larger ones would cost the scan digits."""


def composite_triton(
    sigmas: Float[Tensor, "n_samples"], colours: Float[Tensor, "n_samples c"], samples: Samples
) -> Pixels:
    """`composite` by Triton; float32. Gradients reach `sigmas` and `colours`."""
    return Pixels(*_Composite.apply(sigmas, colours, samples.t_starts, samples.t_ends, samples.packed_info))


def _settings(colours: Tensor) -> dict[str, Any]:
    channels = colours.shape[1]
    pad = 1 << (channels - 1).bit_length()
    return {"C": channels, "PAD": pad, "MAX_DEPTH": MAX_DEPTH, "CHUNK": CHUNK, "num_warps": 1}


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        from sinefield.kernels.cuda.triton_kernels import composite_forward

        inputs = [x.detach().contiguous() for x in inputs]
        sigmas, colours, packed_info = inputs[0], inputs[1], inputs[-1]
        rays = len(packed_info)
        out, passed = colours.new_empty(rays, colours.shape[1]), torch.empty_like(sigmas)
        opacities, depths = colours.new_empty(rays), colours.new_empty(rays)
        if rays:
            composite_forward[(rays,)](*inputs, out, opacities, depths, passed, **_settings(colours))
        ctx.save_for_backward(*inputs, passed)
        return out, opacities, depths

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        from sinefield.kernels.cuda.triton_kernels import composite_backward

        sigmas, colours = ctx.saved_tensors[:2]
        grad_sigmas, grad_colours = torch.empty_like(sigmas), torch.empty_like(colours)
        rays = len(grads[1])
        if rays:
            grads = [x.contiguous() for x in grads]
            composite_backward[(rays,)](*ctx.saved_tensors, *grads, grad_sigmas, grad_colours, **_settings(colours))
        return grad_sigmas, grad_colours, None, None, None
