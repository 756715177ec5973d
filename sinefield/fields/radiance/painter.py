"""A radiance field as a camera sees it, by volume rendering."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sinefield.cameras.cameras import Cameras
from sinefield.cameras.orbits import Orbit
from sinefield.errors import SinefieldError
from sinefield.fields.base import Painter
from sinefield.fields.radiance.field import RadianceField
from sinefield.render.channels import Layers

SPREAD = 1 / 40
"""How far from a point its density is asked for its slope, as a share of the box's longest side: nearer, and what
training leaves ragged shows as noise."""
BESIDE = -20.0, 0.0, 20.0
"""Degrees of turns about the photographs' own height."""
FAINT = 1e-3
"""Opacity below which a ray has met nothing that has a normal."""


ALONG = {"ndc": "spiral", "contracted": "walk"}
"""Paths through spaces that go on beyond what their photographs show: an orbit would leave it."""


class RadiancePainter(Painter):
    """Pictures of a radiance field."""

    def __init__(self, field: RadianceField) -> None:
        self.field = field
        self.background = field.background.cpu().numpy()
        self.usual_path = ALONG.get(field.config.space, "orbit")
        near, far = field.span(torch.zeros(1, 3))
        bounded = field.config.space != "ndc"
        self.length = float((field.aabb[3:] - field.aabb[:3]).max()) if bounded else (far - near) / 4

    def orbit(self, frames: int, size: tuple[int | None, int | None], elevation: float | None = None) -> Cameras:
        """One turn as the scene's photographs saw it."""
        usual = Orbit.of(self.field.view)
        return (usual if elevation is None else usual._replace(elevation=elevation)).cameras(frames, size)

    def around(self, frames: int, size: tuple[int | None, int | None]) -> list[Cameras]:
        """Turns at and about the height of the photographs: from elsewhere a field has never been seen."""
        if self.field.config.space == "ndc":
            raise SinefieldError("its photographs all look one way: give them, as --data FOLDER")
        usual = Orbit.of(self.field.view)
        heights = [min(max(usual.elevation + degrees, -80), 80) for degrees in BESIDE]
        return [usual._replace(elevation=e).cameras(-(-frames // len(heights)), size) for e in heights]

    def span(self, cameras: Cameras) -> tuple[float, float]:
        return self.field.span(cameras.c2w[:, :, 3])

    def layers(self, cameras: Cameras, index: int, normals: bool = False) -> Layers:
        """What camera `index` sees; normals are those of the density at the mean depth."""
        field, shape = self.field, cameras.size(index)[::-1]
        rays_o, rays_d = (rays.to(field.aabb.device) for rays in cameras.view(index))
        pixels = field.render(rays_o, rays_d)
        depths = pixels.depths / pixels.opacities.clamp(min=1e-6)
        directions = None
        if normals:
            directions = torch.zeros_like(rays_d)
            seen = pixels.opacities > FAINT
            points = rays_o[seen] + depths[seen, None] * rays_d[seen]
            directions[seen] = density_normals(field, points, SPREAD * self.length)
            directions = directions.view(*shape, 3).cpu().numpy()
        parts = (pixels.colours.view(*shape, 3), pixels.opacities.view(shape), depths.view(shape))
        colours, opacities, distances = (part.cpu().numpy() for part in parts)
        return Layers(colours, opacities, distances, directions)


@torch.no_grad()
def density_normals(field: RadianceField, points: Tensor, spread: float) -> Tensor:
    """(n, 3) unit vectors against the slope of the logarithm of the density, by central differences over 2 `spread`.

    Points and vectors are the world's.

    The logarithm, since density grows a thousandfold within a surface and its own slope is that of the inner side.
    """
    slopes = []
    for axis in range(3):
        shift = torch.zeros(3, device=points.device)
        shift[axis] = spread
        ends = [
            torch.cat(
                [field.density(field.place(part + s)).clamp(min=1e-10).log() for part in points.split(1 << 15)]
                or [points[:, 0]]
            )
            for s in (shift, -shift)
        ]
        slopes.append(ends[1] - ends[0])
    return F.normalize(torch.stack(slopes, 1), dim=1)
