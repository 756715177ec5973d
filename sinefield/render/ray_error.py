"""The error of a radiance field's pixels, from its samples on: in one kernel where there is one for its networks."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sinefield.kernels.choose import choose
from sinefield.kernels.inputs import Light, Lines, Places
from sinefield.nn.encodings import Frequency
from sinefield.nn.mlp import MLP
from sinefield.render.march import Samples
from sinefield.render.volume import composite

__all__ = ["Lines", "Places", "fits", "fused_error", "lit", "lit_reference", "ray_error_reference"]


def fits(trunk: MLP, head: MLP, device: torch.device) -> bool:
    """Whether `fused_error` can stand for two networks under autograd, in the precision that they are set to now."""
    same = trunk.dtype == head.dtype and trunk.backend == head.backend == "auto"
    return same and all(net.choice("ray_error", net.dtype, device).function is not None for net in (trunk, head))


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
    errors: Float[Tensor, "r"] | None = None,
) -> Float[Tensor, ""]:
    """Σ (pixel − target)², differentiable once in `seen` and the networks; see `RadianceField.squared_error`.

    Args:
        seen: what the trunk sees of the samples, in the networks' precision; or what makes it.
        inverse_units: that densities are multiplied with; one, or one a sample.
        highest: logarithm of density at which it is cut off.
        directions: encoded directions of the rays, in the networks' precision.
        errors: filled with each ray's part of the sum, where it is given.
    """
    light = Light(inverse_units, highest, directions, background, target, errors)
    run = trunk.choice("ray_error", trunk.dtype, target.device).function
    if run is None or not fits(trunk, head, target.device):
        return ray_error_reference(trunk, head, seen, samples, light)
    return run(seen, samples, trunk.tensors(), head.tensors(), light)


def ray_error_reference(
    trunk: MLP, head: MLP, seen: Float[Tensor, "n e"] | Lines, samples: Samples, light: Light
) -> Float[Tensor, ""]:
    """`fused_error` in plain torch, on any device."""
    x = _encoded(seen, samples).to(trunk.dtype) if isinstance(seen, Lines) else seen
    out = trunk.reference(x)
    sigmas = torch.exp(out[:, 0].clamp(max=light.highest)) * light.inverse_units
    given = torch.cat([out[:, 1:].to(head.dtype), light.directions[samples.ray_indices].to(head.dtype)], dim=1)
    pixels = composite(sigmas, torch.sigmoid(head.reference(given)), samples)
    return summed_error(pixels.over(light.background), light.target, light.errors)


def lit(
    trunk: MLP,
    seen: Places,
    inverse_units: Float[Tensor, "m"],
    highest: float,
    samples: Samples,
    least: float,
) -> tuple[Bool[Tensor, "n_samples"], Float[Tensor, "n_samples e"]] | None:
    """Which samples more than `least` of their ray's light reaches, and what the hash grid holds at these.

    None where no kernel can tell sooner than the samples can be learned from.
    """
    device = samples.t_starts.device
    run = choose("lit", device, trunk.dtype, needs=trunk.needs).function
    return None if run is None else run(seen, samples, trunk.tensors(), inverse_units, highest, -math.log(least))


def lit_reference(
    trunk: MLP,
    seen: Float[Tensor, "n e"],
    inverse_units: Float[Tensor, "m"],
    highest: float,
    samples: Samples,
    least: float,
) -> Bool[Tensor, "n_samples"]:
    """Of `lit` which samples, in plain torch, on any device, given what the trunk sees of them."""
    sigmas = torch.exp(trunk.reference(seen)[:, 0].clamp(max=highest)) * inverse_units
    depths = sigmas.double() * (samples.t_ends - samples.t_starts)
    before = depths.cumsum(0) - depths
    first = samples.packed_info[samples.ray_indices, 0]
    return before - before[first] < -math.log(least)


def summed_error(
    colours: Float[Tensor, "r 3"], target: Float[Tensor, "r 3"], errors: Float[Tensor, "r"] | None = None
) -> Float[Tensor, ""]:
    """Σ (colour − target)² over rays and channels; `errors` is filled with each ray's part, where it is given."""
    squared = (colours - target).square()
    if errors is not None:
        errors.copy_(squared.detach().sum(1))
    return squared.sum()


def _encoded(lines: Lines, samples: Samples) -> Float[Tensor, "n e"]:
    points = samples.points(lines.rays_o, lines.rays_d)
    return Frequency(3, lines.octaves).to(points.device).reference((points - lines.centre) / lines.half)
