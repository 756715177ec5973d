"""Flat samples into pixels: the volume rendering integral as exact scans over each ray's samples.

With α_i = 1 − exp(−σ_i δ_i) and T_i = Π_{j<i} (1 − α_j), a sample weighs w_i = T_i α_i
(Max, 1995; Mildenhall et al., ECCV 2020, eq. 3). Scans run in float64, ray by ray, so that a batch of a million
samples loses nothing to the cancellation of a running sum. `composite_reference` is the definition
in plain torch; `composite` is what runs in its place.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sinefield.kernels.choose import choose
from sinefield.kernels.inputs import MAX_OPTICAL_DEPTH
from sinefield.render.march import Samples


class Pixels(NamedTuple):
    """What the rays see, without any background.

    colours: Σ w c, premultiplied by opacity. opacities: Σ w in [0, 1]. depths: Σ w t, divide by opacities for the
    mean distance.
    """

    colours: Float[Tensor, "n_rays c"]
    opacities: Float[Tensor, "n_rays"]
    depths: Float[Tensor, "n_rays"]

    def over(self, background: Float[Tensor, "*n_rays c"]) -> Float[Tensor, "n_rays c"]:
        """Colours composited on a background, in the same colour space."""
        return self.colours + (1 - self.opacities)[:, None] * background


def render_weights(
    sigmas: Float[Tensor, "n_samples"],
    t_starts: Float[Tensor, "n_samples"],
    t_ends: Float[Tensor, "n_samples"],
    packed_info: Int[Tensor, "n_rays 2"],
) -> tuple[Float[Tensor, "n_samples"], Float[Tensor, "n_samples"]]:
    """Weights and transmittances of flat samples, float64, differentiable; any device."""
    first, count = packed_info.unbind(1)
    depth = (sigmas.double() * (t_ends - t_starts).double()).clamp(max=MAX_OPTICAL_DEPTH)
    before = depth.cumsum(0) - depth
    start = first.clamp(max=max(len(depth) - 1, 0))
    base = before[start] if len(depth) else torch.zeros_like(first, dtype=torch.float64)
    before = before - torch.repeat_interleave(base, count, output_size=len(depth))
    trans = torch.exp(-before)
    return trans * -torch.expm1(-depth), trans


def composite_reference(
    sigmas: Float[Tensor, "n_samples"], colours: Float[Tensor, "n_samples c"], samples: Samples
) -> Pixels:
    """`composite` in plain torch, differentiable by autograd, on any device."""
    weights, _ = render_weights(sigmas, samples.t_starts, samples.t_ends, samples.packed_info)
    middle = (samples.t_starts + samples.t_ends).double() / 2
    values = torch.cat([colours.double(), torch.ones_like(middle)[:, None], middle[:, None]], dim=1)
    out = torch.zeros(samples.n_rays, values.shape[1], dtype=torch.float64, device=sigmas.device)
    out = out.index_add(0, samples.ray_indices, weights[:, None] * values).to(colours.dtype)
    return Pixels(out[:, :-2], out[:, -2], out[:, -1])


def composite(sigmas: Float[Tensor, "n_samples"], colours: Float[Tensor, "n_samples c"], samples: Samples) -> Pixels:
    """Composite densities (per world unit) and colours of flat samples into one pixel a ray.

    Rays without samples give zeros. Gradients reach `sigmas` and `colours`.
    """
    dtype = sigmas.dtype if sigmas.dtype == colours.dtype else torch.float64
    run = choose("composite", sigmas.device, dtype, gradients=1).function
    return composite_reference(sigmas, colours, samples) if run is None else Pixels(*run(sigmas, colours, samples))
