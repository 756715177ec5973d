"""Where the masks of photographs let an object be."""

from jaxtyping import Bool, Float
from torch import Tensor

from sinefield.cameras.lenses import FISHEYE, PERSPECTIVE
from sinefield.data.photographs.views import Views
from sinefield.render.occupancy import visual_hull

NARROW = (PERSPECTIVE, FISHEYE)
"""Projections in which nothing is larger than focal length times size over depth."""


def hull_of(points: Float[Tensor, "n 3"], views: Views, radius: float) -> Bool[Tensor, "n"]:
    """Which balls of a radius around points no view rules out; see `visual_hull`.

    Pixels that do not count rule out nothing, nor do views by a lens that stretches what it sees.

    Arguments:
        points: world units.
        views: with alpha.
        radius: world units.
    """
    cameras = views.cameras
    kinds = [PERSPECTIVE] * len(views) if cameras.projection is None else cameras.projection.tolist()
    chosen = [index for index, kind in enumerate(kinds) if kind in NARROW]
    return visual_hull(
        points,
        lambda index, some: cameras.project(chosen[index], some),
        (_mask(views, index) for index in chosen),
        radius * cameras.focal[chosen].amax(1),
    )


def _mask(views: Views, index: int) -> Bool[Tensor, "h w"]:
    seen, kept = views.image(index)[..., 3] != 0, views.kept_of(index)
    return seen if kept is None else seen | ~kept
