"""A shape field as a camera sees it: its colours, or clay, under soft light, its surface found on the field itself."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sinefield.cameras.cameras import Cameras, orbit
from sinefield.cameras.orbits import pinholes
from sinefield.data.made.synthetic import BOUNCE, FILL, GROUND, SKY, SUN
from sinefield.data.surfaces.parts import CLAY
from sinefield.fields.base import Painter
from sinefield.fields.shape.surface import MARGIN, SLOPE
from sinefield.render.channels import Layers
from sinefield.render.surface import CastSurface

SIZE, ELEVATION = 256, 20.0
RESOLUTION = 128
"""Cells along a shape's box."""
CORNERS = [(-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125)]
"""Where a pixel on an edge is sampled, from its centre: no two on one row or column."""
BENT = 0.85
"""Cosine between neighbours' normals below which there is an edge between them."""


class ShapePainter(Painter):
    """Pictures of a shape; up is y."""

    def __init__(self, field: Any) -> None:
        self.field = field
        box = field.aabb.double().cpu()
        margin = MARGIN * float((box[3:] - box[:3]).max())
        box = torch.cat([box[:3] - margin, box[3:] + margin])
        self.surface = self._surface(field, box)
        self.background = np.ones(3, np.float32)
        up, across = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([-0.45, 0.0, 0.75])
        self.up, self.sun = up, F.normalize(across + up, dim=0)
        self.fill = F.normalize(0.35 * up - across, dim=0)

    def _surface(self, field: Any, box: Float[Tensor, "6"]) -> CastSurface:
        """What rays meet."""
        side, slope = ("below", SLOPE) if field.distance else ("above", None)
        return CastSurface(field.evaluate, box, field.default_level, side, RESOLUTION, slope)

    def orbit(self, frames: int, size: tuple[int | None, int | None], elevation: float | None = None) -> Cameras:
        """One turn with all of the box in every picture."""
        width = size[0] or size[1] or SIZE
        height = size[1] or width
        low, high = self.field.aabb[:3].cpu(), self.field.aabb[3:].cpu()
        least = min(width, height)
        focal = 1.35 * least
        distance = float((high - low).norm()) / 2 * float(np.hypot(2 * focal, least)) / least * 1.02
        degrees = ELEVATION if elevation is None else elevation
        poses = orbit(frames, ((low + high) / 2).tolist(), distance, degrees, (0.0, 1.0, 0.0))
        return pinholes(poses, focal / width, (width, height))

    def span(self, cameras: Cameras) -> tuple[float, float]:
        """Of a ball around the box, from any of the cameras."""
        low, high = self.field.aabb[:3].double().cpu(), self.field.aabb[3:].double().cpu()
        away = torch.linalg.norm(cameras.c2w[:, :, 3].double() - (low + high) / 2, dim=1)
        half = float((high - low).norm()) / 2
        return max(float(away.min()) - half, 0.0), float(away.max()) + half

    @torch.no_grad()
    def layers(self, cameras: Cameras, index: int, normals: bool = True) -> Layers:
        """What camera `index` sees. Pixels on an edge are the mean of several rays, others one ray through their
        centre."""
        width, height = cameras.size(index)
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
        values[hit, :3] = (self._paint(points) * light[:, None]).clamp(max=1)
        values[hit, 3] = 1
        values[hit, 4] = t[hit].float()
        values[hit, 5:] = normals
        return values

    def _paint(self, points: Tensor) -> Tensor:
        """(n, 3) what the surface is coloured there, or (3,) clay."""
        coloured = getattr(self.field, "colour_network", None) is not None
        return self.field.colours_at(points).cpu() if coloured else torch.tensor(CLAY)

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
