"""From where a field is looked at when it is turned into points, splats or depth maps."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.ndimage import maximum_filter, minimum_filter

from sinefield.cameras.cameras import Cameras, joined
from sinefield.cameras.orbits import Size, pinholes
from sinefield.data.photographs.capture_cameras import load_capture
from sinefield.errors import SinefieldError
from sinefield.export.flight import photographed
from sinefield.fields.base import Field, Painter, kind_of
from sinefield.fields.origins import origin_of
from sinefield.render.channels import Layers

SOLID = 0.5
"""Opacity from which on a pixel shows a surface."""


JUMP = 10.0
"""Difference in depth between neighbours, in widths of a pixel there, above which there is an edge between them."""


class Sights(NamedTuple):
    """Pinhole cameras in the field's coordinates (see `fields.origins`), and where they come from, for people."""

    cameras: Cameras
    note: str


def sights(
    run: str | Path,
    trained: Field,
    painter: Painter,
    count: int,
    longest: int,
    data: str | None = None,
    adapters: Sequence[str | Path] = (),
) -> Sights:
    """About `count` pinhole cameras that see all of a field: those of its photographs, else turns around it.

    Arguments:
        longest: pixels along the longer side of a picture, at most; photographs are not enlarged.
        data: the photographs of a `.sine` file that does not name them.

    Raises:
        SinefieldError: `data` that cannot be read or do not belong; a field that no turn shows.
    """
    note = "seen from turns around it"
    if kind_of(trained).has_photographs:
        try:
            return Sights(
                _photographed(run, trained, count, longest, data, adapters), "seen by its photographs' cameras"
            )
        except SinefieldError as error:
            if data is not None:
                raise
            note = f"seen from turns at the height of its photographs, which cannot be read: {error}"
    elif data is not None:
        raise SinefieldError(f"--data: a field of kind {trained.kind} has no photographs; leave it out")
    size = _fitted(painter.orbit(1, (None, None)), longest)
    turns = painter.around(count, size)
    return Sights(joined(turns), note)


def _photographed(
    run: str | Path, trained: Field, count: int, longest: int, data: str | None, adapters: Sequence[str | Path]
) -> Cameras:
    source = photographed(run, trained, data, adapters, "", "").data
    cameras = load_capture(source.path, source.downscale, source.holdout, origin_of(trained)).cameras
    chosen = np.unique(np.linspace(0, len(cameras) - 1, min(count, len(cameras))).round().astype(int)).tolist()
    cameras = cameras[chosen]
    focal = cameras.relative_focal[:, 0]
    return pinholes(cameras.c2w, focal, (cameras.width, cameras.height), _fitted(cameras, longest))


def _fitted(cameras: Cameras, longest: int) -> Size:
    """Width and height, made smaller where they are longer."""
    share = min(longest / max(cameras.width, cameras.height), 1.0)
    return max(round(cameras.width * share), 1), max(round(cameras.height * share), 1)


def _range(depths: Float[np.ndarray, "h w"], solid: np.ndarray) -> Float[np.ndarray, "h w"]:
    """Farthest less nearest of the solid pixels among each one and its eight neighbours."""
    farthest = maximum_filter(np.where(solid, depths, -np.inf), 3, mode="nearest")
    with np.errstate(invalid="ignore"):  # where no neighbour is solid nobody asks
        return farthest - minimum_filter(np.where(solid, depths, np.inf), 3, mode="nearest")


def surface_points(
    cameras: Cameras, index: int, layers: Layers
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"], np.ndarray]:
    """What camera `index` sees of surfaces: points (n, 3) of the world, straight sRGB (n, 3), and its pixels (n,).

    Pixels where one surface ends before another are left out: their mean depth is that of neither.
    """
    rays_o, rays_d = (rays.double().numpy() for rays in cameras.view(index))
    opacity, depth = layers.opacities.ravel(), layers.depths.ravel().astype(float)
    solid = (layers.opacities >= SOLID) & np.isfinite(layers.depths)
    pixel = layers.depths / float(cameras.focal[index].mean())
    pixels = np.flatnonzero(solid & (_range(layers.depths, solid) <= JUMP * pixel))
    colours = layers.colours.reshape(-1, 3)[pixels] / opacity[pixels, None]
    return rays_o[pixels] + depth[pixels, None] * rays_d[pixels], colours.clip(0, 1), pixels
