"""The colours of a shape's surface: points to learn them at, how far off they are, and how the input says them."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sinefield.config import ShapeConfig
from sinefield.data.surfaces.sampling import JUDGED_SEED, REPORTED_SEED, surface_places
from sinefield.data.surfaces.surface import Normalisation, Surface
from sinefield.errors import SinefieldError
from sinefield.fields.shape.field import GREY, ShapeField
from sinefield.nn.point_error import error_sum
from sinefield.team import ALONE, Team

PREPARED = 200_000
"""Surface points whose colours are prepared before training."""
SHARE = 0.25
"""Points of colours in a step, as a share of its batch."""
OFF = 0.002
"""Standard deviation, in field units, of where a colour is learned along the normal: a mesh's vertices lie a little off
the surface, and so does a picture's."""
WEIGHT = 4.0
"""Of the colours' mean square error beside the loss of the shape: they share no weight, so it says only how packing
shares out the bits between them."""
PROBED = 0.5
"""How much a change of colour counts beside one of tanh(distance / band) where packing weighs tensors."""
COMPARED = 50_000
WORTH = 0.1
"""IoU that is worth as much as an RMS error of colour, where packing decides."""


def has_colours(surface: Surface) -> bool:
    """Whether the input has colours: a mesh paint, a cloud colours of its points."""
    return surface.paint is not None or surface.colours is not None


def with_colours(config: ShapeConfig, surface: Surface) -> ShapeConfig:
    """The settings with `field.colours` yes or no, as the input asks for.

    Raises:
        SinefieldError: `yes`, and the input has none.
    """
    asked, found = config.field.colours, has_colours(surface)
    if asked == "yes" and not found:
        raise SinefieldError(f"{surface.source}: has no colours, and field.colours is yes; set it to auto or no")
    said = {"auto": "yes" if found else "no"}.get(asked, asked)
    return config if said == asked else replace(config, field=replace(config.field, colours=said))


def coloured_points(
    surface: Surface, n: int, seed: int | np.random.SeedSequence
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """Area-uniform points on the surface, their outward unit normals, and their colours, sRGB in [0, 1]; input
    coordinates."""
    places = surface_places(surface, n, seed)
    if surface.paint is not None:
        colours = surface.paint.at(places.chosen, places.weights)
    else:
        assert surface.colours is not None  # `has_colours`
        colours = surface.colours[places.chosen].astype(np.float32) / np.float32(255)
    return places.points(surface), places.normals(surface), colours


class ColourPoints:
    """Points at which a field learns its colours."""

    def __init__(self, surface: Surface, normalisation: Normalisation, seed: int, device: torch.device) -> None:
        points, normals, colours = coloured_points(surface, PREPARED, np.random.SeedSequence((seed, 3)))
        off = OFF * np.random.default_rng((seed, 4)).standard_normal((len(points), 1))
        placed = (normalisation.apply(points) + off * normals).astype(np.float32)
        self.points, self.colours = (torch.from_numpy(x).to(device) for x in (placed, colours - np.float32(GREY)))

    def loss(self, field: ShapeField, batch: int, index: int, team: Team = ALONE) -> Tensor:
        """The colours' share of a step's loss: a run of the points, which are in random order, another each step."""
        assert field.colour_network is not None and field.colour_encoding is not None
        n = min(max(round(SHARE * batch), 1), len(self.points))
        # Without a random number, so that the shape's own are the same with colours and without.
        start = index * n % len(self.points)
        n = min(n, len(self.points) - start)
        own = team.part(n)
        part = slice(start + own.start, start + own.stop)
        seen, wanted = field.colour_encoding(self.points[part]), self.colours[part]
        return error_sum(field.colour_network, seen, wanted, "mse") * (WEIGHT / (3 * n))


def colour_rms(field: ShapeField, surface: Surface, seed: int = REPORTED_SEED) -> float | None:
    """Root mean square error of sRGB in [0, 1] at surface points that training does not see; None without colours on
    either side."""
    if field.colour_network is None or not has_colours(surface):
        return None
    points, _, colours = coloured_points(surface, COMPARED, seed)
    found = field.colours_at(torch.from_numpy(points)).double().cpu().numpy()
    return float(np.sqrt(np.square(found - colours).mean()))


class ColourJudge:
    """What errors of colour count in packing, in units of IoU, on other points than are reported."""

    def __init__(self, surface: Surface) -> None:
        self.surface = surface

    def __call__(self, field: ShapeField) -> float:
        return WORTH * (colour_rms(field, self.surface, JUDGED_SEED) or 0.0)


def remarks(field: ShapeField, surface: Surface) -> list[str]:
    """What a person should know of the field's colours beside the input's."""
    if field.colour_network is not None:
        return [] if has_colours(surface) else ["the data have no colours to compare the field's with"]
    return ["the colours of the data are left out (field.colours is no)"] if has_colours(surface) else []
