"""The error of a radiance field's pixels and its gradient by the kernel of `ray_kernels`, as one function of torch."""

from functools import cache
from typing import NamedTuple

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


class Lines(NamedTuple):
    """Where samples lie, for a trunk that sees the frequency encoding of (point − centre) / half."""

    rays_o: Float[Tensor, "r 3"]
    rays_d: Float[Tensor, "r 3"]
    centre: Float[Tensor, "3"]
    half: Float[Tensor, ""]
    octaves: int


def fits(trunk: MLP, head: MLP, device: torch.device) -> bool:
    """Whether `fused_error` can stand for two networks under autograd, in the precision that they are set to now."""
    networks = (trunk, head)
    plain = all(net.accelerated is None and not net.twice_differentiable and not net.skips for net in networks)
    known = all(net.activation.name in tiled.SLOPES for net in networks)
    same = trunk.dtype == head.dtype
    return device.type == "cpu" and plain and known and same and tiled.works(trunk.dtype)


def fused_error(
    trunk: MLP,
    head: MLP,
    seen: Float[Tensor, "n e"] | Lines,
    inverse_units: Float[Tensor, "m"],
    highest: float,
    directions: Float[Tensor, "r c"],
    samples: Samples,
    background: Float[Tensor, "r 3"],
    target: Float[Tensor, "r 3"],
) -> Float[Tensor, ""]:
    """Σ (pixel − target)², differentiable once in `seen` and the networks; see `RadianceField.squared_error`.

    Args:
        seen: what the trunk sees of the samples, in the networks' precision; or what makes it.
        inverse_units: that densities are multiplied with; one, or one a sample.
        highest: logarithm of density at which it is cut off.
        directions: encoded directions of the rays, in the networks' precision.
    """
    networks = [[weight() for weight in net.weights] + list(net.biases) for net in (trunk, head)]
    slopes = [tiled.SLOPES[net.activation.name] for net in (trunk, head)]
    lines, x = (seen, directions[:0]) if isinstance(seen, Lines) else (None, seen)
    fixed = lines, inverse_units, highest, directions, samples, background, target
    return _RayError.apply(slopes, len(networks[0]), fixed, x, *networks[0], *networks[1])


@cache
def _columns(octaves: int) -> tuple[Tensor, Tensor]:
    """Which column of the trunk's first matrix each of the kernel's is, the last for zeros; and the other way round."""
    waves = 3 * octaves
    order = torch.cat(
        [torch.tensor([0, 1, 2, 3 + 2 * waves]), 3 + torch.arange(2 * waves).view(2, waves).t().flatten()]
    )
    return order, order.argsort()[:-1]


class _RayError(torch.autograd.Function):
    @staticmethod
    def forward(ctx, slopes, split, fixed, x, *parameters):
        import numba

        from sinefield.kernels.cpu.rays import ray_errors

        keep_freed_memory()
        lines, inverse_units, highest, directions, samples, background, target = fixed
        features = parameters[split].shape[1] - directions.shape[1]
        first = parameters[0]
        nowhere = torch.zeros(0, 3)
        ways, octaves = (nowhere, nowhere, torch.zeros(3), torch.ones(())), 0
        if lines is not None:
            *ways, octaves = lines
            first = torch.cat([first, first.new_zeros(len(first), 1)], dim=1)[:, _columns(octaves)[0]]
        both = (first, *parameters[1:split]), parameters[split:]
        nets = [tiled.lay_out(ps[0].shape[1], x.dtype, ps) for ps in both]
        hidden = sum(net.layout.hidden for net in nets) * x.element_size()
        tile = nets[0].layout.tile
        group = max(GROUP_BYTES // hidden // tile, 2) * tile
        threads = numba.get_num_threads()
        learned = [torch.zeros(threads, net.layout.learned) for net in nets]
        of_x = torch.empty(len(x) if ctx.needs_input_grad[3] else 0, x.shape[1], dtype=x.dtype)
        rays_o, rays_d, centre, half = (way.contiguous().numpy() for way in ways)
        error = ray_errors(
            tiled.flat(x),
            (rays_o, rays_d, centre, np.float32(1 / half), octaves),
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
        ctx.found = nets, learned, of_x, octaves
        return torch.tensor(error, dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        if ctx.found is None:
            raise RuntimeError("the gradient of a fused error was asked for twice; it is gone after the first")
        (nets, learned, of_x, octaves), ctx.found = ctx.found, None
        parts: list[Tensor] = []
        for net, part in zip(nets, learned, strict=True):
            matrices, biases = net.layout.unpack(part.sum(0) * grad)
            parts += [*matrices, *biases]
        if octaves:
            parts[0] = parts[0][:, _columns(octaves)[1]]
        return (None, None, None, of_x * grad.to(of_x.dtype) if ctx.needs_input_grad[3] else None, *parts)
