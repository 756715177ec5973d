"""The error of a radiance field's pixels and its gradient by the kernel of `ray_kernels`, as one function of torch."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sinefield.machine import keep_freed_memory
from sinefield.nn import tiled
from sinefield.nn.mlp import MLP
from sinefield.render.march import Samples

GROUP_BYTES = 1 << 18
"""What the layers of the samples that go together may take: they are to be met again in the second cache."""


def fits(trunk: MLP, head: MLP, device: torch.device) -> bool:
    """Whether `fused_error` can stand for two networks under autograd, in the precision that they are set to now."""
    networks = (trunk, head)
    plain = all(net.accelerated is None and not net.twice_differentiable and not net.skips for net in networks)
    known = all(net.activation.name in tiled.SLOPES for net in networks)
    return device.type == "cpu" and plain and known and tiled.works(trunk.dtype)


def fused_error(
    trunk: MLP,
    head: MLP,
    x: Float[Tensor, "n e"],
    inverse_units: Float[Tensor, "m"],
    highest: float,
    directions: Float[Tensor, "r c"],
    samples: Samples,
    background: Float[Tensor, "r 3"],
    target: Float[Tensor, "r 3"],
) -> Float[Tensor, ""]:
    """Σ (pixel − target)², differentiable once in `x` and the networks; see `RadianceField.squared_error`.

    Args:
        x: encoded positions, in the networks' precision.
        inverse_units: that densities are multiplied with; one, or one a sample.
        highest: logarithm of density at which it is cut off.
        directions: encoded directions of the rays.
    """
    networks = [[weight() for weight in net.weights] + list(net.biases) for net in (trunk, head)]
    slopes = [tiled.SLOPES[net.activation.name] for net in (trunk, head)]
    fixed = inverse_units, highest, directions, samples, background, target
    return _RayError.apply(slopes, len(networks[0]), fixed, x, *networks[0], *networks[1])


class _RayError(torch.autograd.Function):
    @staticmethod
    def forward(ctx, slopes, split, fixed, x, *parameters):
        import numba

        from sinefield.render.ray_kernels import ray_errors

        keep_freed_memory()
        inverse_units, highest, directions, samples, background, target = fixed
        features = parameters[split].shape[1] - directions.shape[1]
        both = parameters[:split], parameters[split:]
        nets = [tiled.lay_out(ps[0].shape[1], x.dtype, ps) for ps in both]
        hidden = sum(net.layout.hidden for net in nets) * x.element_size()
        tile = nets[0].layout.tile
        group = max(GROUP_BYTES // hidden // tile, 2) * tile
        threads = numba.get_num_threads()
        learned = [torch.zeros(threads, net.layout.learned) for net in nets]
        of_x = torch.empty(len(x) if ctx.needs_input_grad[3] else 0, x.shape[1], dtype=x.dtype)
        error = ray_errors(
            tiled.flat(x),
            tiled.flat(inverse_units),
            np.float32(highest),
            features,
            tuple(s.numpy() for s in (samples.t_starts, samples.t_ends, samples.ray_indices, samples.packed_info)),
            tiled.flat(directions),
            background.contiguous().numpy(),
            target.contiguous().numpy(),
            np.float32(1.0),
            *((n.layout.sizes, n.forth, n.biases, n.back, np.float32(s)) for n, s in zip(nets, slopes, strict=True)),
            group,
            *(part.numpy() for part in learned),
            tiled.flat(of_x),
        )
        ctx.found = nets, learned, of_x
        return torch.tensor(error, dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        if ctx.found is None:
            raise RuntimeError("the gradient of a fused error was asked for twice; it is gone after the first")
        (nets, learned, of_x), ctx.found = ctx.found, None
        parts: list[Tensor] = []
        for net, part in zip(nets, learned, strict=True):
            matrices, biases = net.layout.unpack(part.sum(0) * grad)
            parts += [*matrices, *biases]
        return (None, None, None, of_x * grad.to(of_x.dtype) if ctx.needs_input_grad[3] else None, *parts)
