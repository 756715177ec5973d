"""Fields as a camera sees them: colours, opacities, depths and normals, a picture at a time."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sinefield.cameras.cameras import Cameras
from sinefield.data.made.synthetic import BOUNCE, FILL, GROUND, SKY, SUN
from sinefield.data.surfaces.coloured import CLAY
from sinefield.fields.radiance.field import RadianceField
from sinefield.fields.shape.field import ShapeField
from sinefield.render.channels import Layers
from sinefield.render.surface import Surface

SPREAD = 1 / 40
"""How far from a point its density is asked for its slope, as a share of the box's longest side: nearer, and what
training leaves ragged shows as noise."""
FAINT = 1e-3
"""Opacity below which a ray has met nothing that has a normal."""
MARGIN = 0.04
"""How far a shape is searched beyond its box, as a share of the longest side."""
RESOLUTION, SLOPE = 128, 1.5
"""Cells along a shape's box, and the slope a learned distance is trusted to stay below: a true one has 1."""
CORNERS = [(-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125)]
"""Where a pixel on an edge is sampled, from its centre: no two on one row or column."""
BENT = 0.85
"""Cosine between neighbours' normals below which there is an edge between them."""


class RadianceViews:
    """A radiance field, seen by volume rendering."""

    def __init__(self, field: RadianceField) -> None:
        self.field = field
        self.background = field.background.cpu().numpy()
        near, far = field.span(torch.zeros(1, 3))
        bounded = field.config.space != "ndc"
        self.length = float((field.aabb[3:] - field.aabb[:3]).max()) if bounded else (far - near) / 4

    def layers(self, cameras: Cameras, index: int, normals: bool = False) -> Layers:
        """What camera `index` sees; normals are those of the density at the mean depth."""
        field, shape = self.field, (cameras.height, cameras.width)
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
        return Layers(*(part.cpu().numpy() for part in parts), directions)


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


class ShapeViews:
    """A shape field of clay under soft light, its surface found on the field itself."""

    def __init__(self, field: ShapeField) -> None:
        box = field.aabb.double().cpu()
        margin = MARGIN * float((box[3:] - box[:3]).max())
        box = torch.cat([box[:3] - margin, box[3:] + margin])
        side, slope = ("below", SLOPE) if field.distance else ("above", None)
        self.surface = Surface(field.evaluate, box, field.default_level, side, RESOLUTION, slope)
        self.background = np.ones(3, np.float32)
        up, across = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([-0.45, 0.0, 0.75])
        self.up, self.sun = up, F.normalize(across + up, dim=0)
        self.fill = F.normalize(0.35 * up - across, dim=0)

    @torch.no_grad()
    def layers(self, cameras: Cameras, index: int, normals: bool = True) -> Layers:
        """What camera `index` sees. Pixels on an edge are the mean of several rays, others one ray through their
        centre."""
        height, width = cameras.height, cameras.width
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        centres = torch.stack([x, y], -1).reshape(-1, 2)
        values = self._seen(cameras, index, centres)
        edge = _edges(values.view(height, width, 8)).flatten().nonzero()[:, 0]
        if len(edge):
            around = (centres[edge, None] + torch.tensor(CORNERS)).reshape(-1, 2)
            values[edge] = self._seen(cameras, index, around).view(len(edge), len(CORNERS), 8).mean(1)
        values = values.view(height, width, 8)
        opacity = values[..., 3]
        depth = values[..., 4] / opacity.clamp(min=1e-6)
        return Layers(*(v.numpy() for v in (values[..., :3], opacity, depth, F.normalize(values[..., 5:], dim=-1))))

    def _seen(self, cameras: Cameras, index: int, pixels: Tensor) -> Tensor:
        """(p, 8) colour, opacity, depth and normal of the rays through some pixels, zeros where they meet nothing."""
        values = torch.zeros(len(pixels), 8)
        rays_o, rays_d = cameras.rays(torch.full((len(pixels),), index), pixels)
        t, hit = self.surface.cast(rays_o, rays_d)
        points = rays_o[hit].double() + t[hit, None] * rays_d[hit].double()
        if not len(points):
            return values
        normals = self.surface.normals(points).float()
        light = self._light(points.float(), normals)
        values[hit, :3] = (torch.tensor(CLAY) * light[:, None]).clamp(max=1)
        values[hit, 3] = 1
        values[hit, 4] = t[hit].float()
        values[hit, 5:] = normals
        return values

    def _light(self, points: Tensor, normals: Tensor) -> Tensor:
        """(n,) brightness as `data.synthetic` has it: soft sun, unshadowed fill, a sky that hollows see less of."""
        open_ = self.surface.openness(points, normals)
        sky = (GROUND + (SKY - GROUND) * (0.5 + 0.5 * normals @ self.up)) * (BOUNCE + (1 - BOUNCE) * open_)
        sun = (normals @ self.sun).clamp(min=0)
        lit = (sun > 0).nonzero()[:, 0]
        sun[lit] *= self.surface.shadow(points[lit] + self.surface.cell * normals[lit], self.sun)
        return sky + SUN * sun + FILL * (normals @ self.fill).clamp(min=0)


def _edges(values: Tensor) -> Tensor:
    """(h, w) pixels beside an outline or a crease of an (h, w, 8) picture."""
    hit, depth, normal = values[..., 3] > 0, values[..., 4], values[..., 5:]
    edge = torch.zeros_like(hit)
    for axis in (0, 1):
        n = hit.shape[axis]
        a, b = (
            (slice(0, n - 1), slice(1, n))
            if axis == 0
            else ((slice(None), slice(0, n - 1)), (slice(None), slice(1, n)))
        )
        both = hit[a] & hit[b]
        jump = (depth[a] - depth[b]).abs() > 0.02 * torch.maximum(depth[a], depth[b])
        apart = (hit[a] != hit[b]) | (both & (jump | ((normal[a] * normal[b]).sum(-1) < BENT)))
        edge[a] |= apart
        edge[b] |= apart
    return edge
