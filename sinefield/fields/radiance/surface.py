"""A radiance field whose density comes from a signed distance: its zero level is a surface.

NeuS (Wang et al., NeurIPS 2021): with Φ(d) = 1/(1 + exp(−d/β)), light that passes from distance a to distance b < a
keeps the share Φ(b)/Φ(a). However a ray meets the surface, half of it is left where d = 0, so that neither slanting
rays nor silhouettes push the surface outward, as they do with a density that is a function of position alone.
"""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sinefield.config import RadianceFieldConfig
from sinefield.fields.radiance.field import RadianceField
from sinefield.nn.weights import Dense
from sinefield.render.march import Samples
from sinefield.render.volume import Pixels, composite

SPHERE = 0.5
"""Radius of the sphere that every field starts as, in halves of the box's longest side."""


class SurfaceField(RadianceField):
    """A `RadianceField` that learns a signed distance in place of a density; colours are made as there.

    The trunk's first output is added to the distance from a sphere, and starts as 0. Lengths inside are in halves of
    the box's longest side, which is what β is given in.

    Attributes:
        beta: β now; the config's, except while training narrows it.
    """

    one_kernel = by_stretches = False

    def __init__(self, config: RadianceFieldConfig, aabb: Float[Tensor, "6"]) -> None:
        super().__init__(config, aabb)
        self.beta = config.beta
        with torch.no_grad():
            cast("Dense", self.trunk.weights[-1]).weight[0] = 0  # a last layer is dense
            self.trunk.biases[-1][0] = 0

    def set_dtype(self, dtype: torch.dtype) -> None:
        """As for any radiance field, but the trunk never computes in bf16: it would round distances to 1/256."""
        super().set_dtype(dtype)
        if dtype == torch.bfloat16:
            self.encoding.dtype = self.trunk.dtype = torch.float32

    def _distances(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distances in halves of the box, and the features of the colour head."""
        low, high = self.aabb[:3], self.aabb[3:]
        x = (x - (low + high) / 2) / self.half
        out = self.trunk(self.encoding(x))
        return out[:, 0] + (x.norm(dim=1) - SPHERE), out[:, 1:]

    @property
    def half(self) -> Tensor:
        """Half of the box's longest side, world units."""
        return (self.aabb[3:] - self.aabb[:3]).max() / 2

    def distance(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """Signed distance in world units, negative inside."""
        return self._distances(x)[0] * self.half

    def _trunk(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # The density of which Φ(b)/Φ(a) is the transmittance along a ray that meets the surface head on.
        d, features = self._distances(x)
        return torch.sigmoid(-d / self.beta) / (self.beta * self.half), features

    def shade(self, rays_o: Float[Tensor, "r 3"], rays_d: Float[Tensor, "r 3"], samples: Samples) -> Pixels:
        """As `RadianceField.shade`, with what each sample stops taken from the distance at the next one too."""
        d, features = self._distances(samples.points(rays_o, rays_d))
        directions = self.directions(rays_d[: samples.n_rays]).to(self.head.input_dtype)[samples.ray_indices]
        return composite(*crossings(d / self.beta, self._colours(features, directions), samples))


def crossings(
    d: Float[Tensor, "n_samples"], colours: Float[Tensor, "n_samples c"], samples: Samples
) -> tuple[Float[Tensor, "n_samples"], Float[Tensor, "n_samples c"], Samples]:
    """Densities, colours and places of the stretches that end at the samples, as `composite` takes them.

    A stretch from distance a to b stops 1 − Φ(b)/Φ(a) of the light that reaches it, none where the distance grows. Its
    colour and its place are those of the point where a line from a to b crosses 0, or of the end that is nearer to 0.
    The first sample's stretch comes from afar, where no surface is: a ray that enters the occupied cells, or the hull
    of the masks, right at a surface has no sample before it. What it stops, it stops at that sample.

    Arguments:
        d: signed distances at the samples' midpoints, in units of β.
    """
    if len(d) == 0:
        return d, colours, samples
    middle = (samples.t_starts + samples.t_ends) / 2
    within = torch.zeros_like(d, dtype=torch.bool)
    within[1:] = samples.ray_indices[1:] == samples.ray_indices[:-1]
    before, earlier, log_phi = d.roll(1), colours.roll(1, 0), F.logsigmoid(d)
    falls = within & (d < before)
    depth = torch.where(falls, log_phi.roll(1) - log_phi, torch.where(within, 0.0, -log_phi))
    back = (-d / torch.where(falls, before - d, 1.0)).clamp(0, 1) * falls  # share of the way to the sample before
    length = samples.t_ends - samples.t_starts
    with torch.no_grad():
        start = samples.t_starts + back * (middle.roll(1) - middle)
        moved = samples._replace(t_starts=start, t_ends=start + length)
    return depth / length, colours + back[:, None] * (earlier - colours), moved


def make_radiance_field(config: RadianceFieldConfig, aabb: Float[Tensor, "6"]) -> RadianceField:
    """The kind of radiance field that `config.density` names, in the box `aabb` (6,)."""
    return (SurfaceField if config.density == "distance" else RadianceField)(config, aabb)
