"""Gaussian splats drawn as today's viewers draw them (Kerbl et al., ACM TOG 2023), differentiable.

A splat is a Gaussian in space with an opacity and a colour that depends on the direction it is seen from. Its picture
is a Gaussian too (EWA splatting, Zwicker et al., VIS 2001): the perspective of its covariance at its centre, made wider
by `BLUR` pixels² so that none falls between pixels. Splats are blended from front to back by the depth of their
centres.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sinefield.cameras.cameras import Cameras
from sinefield.errors import SinefieldError
from sinefield.kernels.choose import choose
from sinefield.kernels.inputs import LEAST_ALPHA, LEAST_TRANSMITTANCE, MOST_ALPHA
from sinefield.nn.encodings import SphericalHarmonics

BLUR = 0.3
"""Variance in pixels² that every splat's picture gains."""
FARTHEST = 8.0
"""Squared distance in standard deviations beyond which viewers do not draw a splat."""
NEAREST = 0.01
"""Depth before which a splat is not drawn, as a share of the splats' median depth."""
FLAT = 1e-12


class Splats(NamedTuple):
    """n Gaussians in world coordinates.

    Attributes:
        means: (n, 3) centres, world units.
        log_scales: (n, 3) logarithms of their standard deviations along their own axes, world units.
        turns: (n, 4) quaternions w x y z of any length that turn their axes to the world's.
        logits: (n,) logits of their opacities.
        harmonics: (n, k, 3) coefficients of sRGB by real spherical harmonics of the direction from camera to splat,
            k = 1, 4, 9 or 16; a colour is 0.5 + their sum, 0 at least.
    """

    means: Float[Tensor, "n 3"]
    log_scales: Float[Tensor, "n 3"]
    turns: Float[Tensor, "n 4"]
    logits: Float[Tensor, "n"]
    harmonics: Float[Tensor, "n k 3"]


class Flat(NamedTuple):
    """Splats as one camera sees them, from front to back, those behind it left out.

    Attributes:
        centres: (n, 2) x, y in pixels.
        conics: (n, 3) a, b, c of the inverse covariance [[a, b], [b, c]], 1 / pixels².
        colours: (n, 3) sRGB.
        opacities: (n,) in [0, 1].
        reach: (n, 2) half the sides of the rectangle in which a splat is drawn, pixels.
    """

    centres: Float[Tensor, "n 2"]
    conics: Float[Tensor, "n 3"]
    colours: Float[Tensor, "n 3"]
    opacities: Float[Tensor, "n"]
    reach: Float[Tensor, "n 2"]


def draw(
    splats: Splats, cameras: Cameras, index: int, thinned: bool = False
) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w"]]:
    """What camera `index` sees: sRGB premultiplied by opacity, and the light that passes (1 − opacity).

    Gradients reach all of the splats' numbers. Lens distortion is not drawn.

    Arguments:
        thinned: see `flatten`.

    Raises:
        SinefieldError: cameras with distortion.
    """
    if cameras.has_bent_lens:
        raise SinefieldError("splats are drawn without lens distortion; give pinhole cameras")
    flat = flatten(splats, cameras, index, thinned)
    run = choose("splats", flat.centres.device, flat.centres.dtype, 1).function or blend_reference
    return run(*flat, cameras.height, cameras.width)


def flatten(splats: Splats, cameras: Cameras, index: int, thinned: bool = False) -> Flat:
    """Splats as camera `index` sees them.

    Arguments:
        thinned: a splat that `BLUR` makes wider becomes as much fainter (Yu et al., Mip-Splatting, CVPR 2024). Some
            viewers do this, some do not.
    """
    c2w, focal = cameras.c2w[index], cameras.focal[index]
    # To the camera's axes with y down and z forward.
    turn = c2w[:, :3] * c2w.new_tensor([1.0, -1.0, -1.0])
    offset = splats.means - c2w[:, 3]
    local = offset @ turn
    depth = local[:, 2].detach()
    kept = (depth > NEAREST * depth.abs().median().clamp(min=1e-9)).nonzero()[:, 0]
    order = kept[depth[kept].argsort(stable=True)]
    local, offset = local[order], offset[order]
    x, y, z = local.unbind(1)
    # Far beside the picture the linear perspective stretches without end; viewers hold it at 1.3 times the view.
    size = c2w.new_tensor([cameras.width, cameras.height])
    limit = 1.3 * 0.5 * size / focal
    shifted = torch.stack([(x / z).clamp(-limit[0], limit[0]), (y / z).clamp(-limit[1], limit[1])], 1)
    zero = torch.zeros_like(z)
    rows = [torch.stack([1 / z, zero, -shifted[:, 0] / z], 1), torch.stack([zero, 1 / z, -shifted[:, 1] / z], 1)]
    perspective = torch.stack(rows, 1) * focal[:, None]
    shape = rotations(splats.turns[order]) * splats.log_scales[order].exp()[:, None, :]
    half = perspective @ (turn.T @ shape)
    covariance = half @ half.transpose(1, 2)
    xx, xy, yy = covariance[:, 0, 0] + BLUR, covariance[:, 0, 1], covariance[:, 1, 1] + BLUR
    area = (xx * yy - xy * xy).clamp(min=FLAT)
    inverse = 1 / area
    conics = torch.stack([yy * inverse, -xy * inverse, xx * inverse], 1)
    centres = torch.stack([x / z, y / z], 1) * focal + cameras.centre[index]
    opacities = splats.logits[order].sigmoid()
    if thinned:
        own = (xx - BLUR) * (yy - BLUR) - xy * xy
        opacities = opacities * (own.clamp(min=FLAT) / area).sqrt()
    with torch.no_grad():
        away = (2 * (opacities / LEAST_ALPHA).log()).clamp(0, FARTHEST)
        reach = (away[:, None] * torch.stack([xx, yy], 1)).sqrt()
    return Flat(centres, conics, colours_from(splats.harmonics[order], offset), opacities, reach)


def colours_from(harmonics: Float[Tensor, "n k 3"], offset: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """sRGB of splats that are `offset` from the eye."""
    count = harmonics.shape[1]
    # Gradients by way of the direction are left out: a centre moves far less than the eye is away.
    basis = SphericalHarmonics()(F.normalize(offset.detach(), dim=1))[:, :count].to(harmonics.dtype)
    return ((basis[:, :, None] * harmonics).sum(1) + 0.5).clamp(min=0)


def rotations(turns: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 3"]:
    """Rotation matrices of quaternions w x y z of any length above 0."""
    w, x, y, z = F.normalize(turns, dim=1).unbind(1)
    return torch.stack(
        [
            torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], 1),
            torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], 1),
            torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], 1),
        ],
        1,
    )


def blend_reference(
    centres: Float[Tensor, "n 2"],
    conics: Float[Tensor, "n 3"],
    colours: Float[Tensor, "n 3"],
    opacities: Float[Tensor, "n"],
    reach: Float[Tensor, "n 2"],
    height: int,
    width: int,
) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w"]]:
    """Splats from front to back, one after the other, in plain torch: colours, and the light that passes."""
    rows, columns = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    y, x = torch.meshgrid(rows.to(centres), columns.to(centres), indexing="ij")
    colour, left = centres.new_zeros(height, width, 3), centres.new_ones(height, width)
    for i in range(len(centres)):
        dx, dy = x - centres[i, 0], y - centres[i, 1]
        a, b, c = conics[i]
        alpha = (opacities[i] * (-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy).exp()).clamp(max=MOST_ALPHA)
        drawn = (dx.abs() <= reach[i, 0]) & (dy.abs() <= reach[i, 1])
        drawn = drawn & (alpha >= LEAST_ALPHA) & (left >= LEAST_TRANSMITTANCE)
        weight = torch.where(drawn, alpha, 0) * left
        colour = colour + weight[..., None] * colours[i]
        left = left - weight
    return colour, left
