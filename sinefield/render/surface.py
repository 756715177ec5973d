"""Rays against the surface of a function, found on the function itself: no mesh in between.

A grid over the box says in which cells the surface may lie, and how far the nearest such cell is. Rays skip what is
empty by that distance, ask the function only inside such cells, and close in on the first change of side by the
secant method. The same grid, as a distance field, gives soft shadows for next to nothing.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sinefield.errors import SinefieldError
from sinefield.kernels.cpu.surface import skip

COARSE = 4
"""Cells along the side of a coarse cell, whose own bound decides whether its cells are looked at one by one."""
LEAST = 1 / 3
"""In cells: the shortest step, and every step of a function that is no distance."""
SECANTS, CLOSE = 8, 1e-3
"""Most steps of the secant method, and the share of a cell at which it ends."""
SCOUT, OVERSHOOT = 0.4, 1.15
"""In cells: how near by the grid's distance the function is asked. How much further than expected a ray then goes, so
that the next value lies inside."""
TETRAHEDRON = (1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)
SHADOW_STEPS, SHADOW_SOFTNESS = 24, 6.0
OCCLUSION_STEPS = 5


class Hits(NamedTuple):
    """First meetings of rays with a surface.

    t: distances along the rays in world units; infinite where nothing is met. mask: whether something is.
    """

    t: Float[Tensor, "r"]
    mask: Bool[Tensor, "r"]


class CastSurface:
    """The level set of a function inside a box, to be met by rays.

    Args:
        evaluate: values (n,) float32 at float64 points (n, 3).
        box: (6,) xmin ymin zmin xmax ymax zmax; outside it counts as empty.
        level: the value on the surface.
        inside: "below" where the function is smaller inside, as a distance is, or "above".
        resolution: cells along the longest side.
        slope: the largest change of the function per unit length, if known. With it nothing is missed, and steps are
            as long as the value allows; without, a piece of the surface that touches no corner and no centre of a cell
            may be.

    Raises:
        SinefieldError: the function is NaN or infinite somewhere, or does not reach the level in the box.
    """

    def __init__(
        self,
        evaluate: Callable[[Tensor], Tensor],
        box: Float[np.ndarray, "6"] | Float[Tensor, "6"],
        level: float = 0.0,
        inside: str = "below",
        resolution: int = 128,
        slope: float | None = None,
    ) -> None:
        box = torch.as_tensor(box, dtype=torch.float64).cpu()
        sign = 1.0 if inside == "below" else -1.0
        self.outside = lambda points: sign * (evaluate(points).cpu().double() - level)
        self.slope = slope
        self.low, extent = box[:3], box[3:] - box[:3]
        self.cell = float(extent.max()) / resolution
        # Whole coarse cells: the grid may reach a little beyond the box.
        self.shape = (torch.ceil(extent / self.cell / COARSE - 1e-9).long().clamp(min=1) * COARSE).tolist()
        self.high = self.low + self.cell * torch.tensor(self.shape)
        self._look()

    def _centres(self, cells: Int[Tensor, "n 3"], side: float) -> Tensor:
        return self.low + (cells.double() + 0.5) * side

    def _look(self) -> None:
        """Find the cells that may hold surface, the distance to the nearest of them, and a signed distance."""
        shape = [n // COARSE for n in self.shape]
        coarse = _corners(shape)
        side = COARSE * self.cell
        values = self._checked(self._centres(coarse, side))
        reach = None if self.slope is None else self.slope * side * 3**0.5 / 2
        if reach is None:
            corners = _corners([n + 1 for n in shape])
            at = self._checked(self.low + corners * side).view(*(n + 1 for n in shape))
            mixed = _mixed(at, values.view(shape))
            # A neighbour's surface may reach over: without a bound, look one coarse cell further.
            active = F.max_pool3d(mixed[None, None].float(), 3, 1, 1)[0, 0].bool().flatten()
        else:
            active = values.abs() <= reach
        offsets = _corners([COARSE] * 3)
        cells = (coarse[active][:, None] * COARSE + offsets).reshape(-1, 3)
        fine = self._checked(self._centres(cells, self.cell))
        value = values.view(shape)
        for axis in range(3):
            value = value.repeat_interleave(COARSE, axis)
        value[tuple(cells.T)] = fine
        negative = value < 0
        if self.slope is None:
            # Where centres change sign there is surface between them, in either cell.
            pooled = [F.max_pool3d(s[None, None].float(), 3, 1, 1)[0, 0] > 0 for s in (negative, ~negative)]
            seeds = pooled[0] & pooled[1]
        else:
            seeds = torch.zeros(self.shape, dtype=torch.bool)
            seeds[tuple(cells.T)] = fine.abs() <= self.slope * self.cell * 3**0.5 / 2
        # Beyond the box counts as empty: what is inside at its wall is surface.
        wall = torch.ones(self.shape, dtype=torch.bool)
        wall[1:-1, 1:-1, 1:-1] = False
        seeds |= wall & negative
        if not (negative.any() and seeds.any()):
            kind = "smallest" if self.slope is not None else "extreme"
            raise SinefieldError(
                f"the field has no surface: its {kind} distance to the level is {float(values.abs().min()):.4g}; "
                "train longer"
            )
        from scipy.ndimage import distance_transform_edt

        found = distance_transform_edt(~seeds.numpy(), sampling=self.cell, return_indices=True)
        away, nearest = cast("tuple[np.ndarray, np.ndarray]", found)  # two arrays, as indices are asked for
        self.seeds, self.away = seeds.numpy(), (away / self.cell).astype(np.float32)
        # Beyond the cells at the surface: as far as the nearest of these, and from there by the function's own word.
        near = value.abs().clamp(max=2 * self.cell) if self.slope is not None else torch.full_like(value, self.cell / 2)
        signed = torch.where(negative, -1.0, 1.0) * (
            torch.from_numpy(away) + near[tuple(torch.from_numpy(nearest).long())]
        )
        self.signed = signed.float()[None, None]

    def _checked(self, points: Tensor) -> Tensor:
        values = self.outside(points)
        if not torch.isfinite(values).all():
            bad = points[int((~torch.isfinite(values)).nonzero()[0, 0])].tolist()
            raise SinefieldError(f"the field is NaN or infinite at {bad}; train again, with a lower rate")
        return values

    def cast(self, rays_o: Float[Tensor, "r 3"], rays_d: Float[Tensor, "r 3"]) -> Hits:
        """Where each ray first is inside.

        Arguments:
            rays_o, rays_d: (r, 3) origins in world units and unit directions. A ray that begins inside meets the
                surface where it begins, or enters the box.

        Returns:
            float64 distances; the error is far below a cell where the function is smooth.
        """
        # In cells from the grid's corner, distances along the rays too.
        o, d = (rays_o.double().cpu() - self.low) / self.cell, rays_d.double().cpu()
        slabs = torch.stack([-o, torch.tensor(self.shape) - o]) / torch.where(d.abs() < 1e-12, 1e-12, d)
        enter, leave = slabs.amin(0).amax(1).clamp(min=0), slabs.amax(0).amin(1)
        found = torch.full_like(enter, torch.inf)
        at_home = ((enter == 0) & (leave > 0)).nonzero()[:, 0]
        home = at_home[self._along(o, d, at_home, enter[at_home]) <= 0]
        found[home], leave[home] = 0.0, 0.0
        ray = (leave > enter).nonzero()[:, 0]
        t, before = enter[ray], torch.full((len(ray),), torch.nan, dtype=torch.float64)
        value_before = torch.ones_like(before)
        grids = self.signed[0, 0].numpy() / np.float32(self.cell), self.away, self.seeds
        scout = SCOUT if self.slope is not None else np.inf
        brackets = []
        while len(ray):
            ahead = skip(o[ray].numpy(), d[ray].numpy(), t.numpy(), leave[ray].numpy(), *grids, LEAST, scout)
            going = torch.isfinite(t)
            ray, t, before, value_before = ray[going], t[going], before[going], value_before[going]
            if not len(ray):
                break
            values = self._along(o, d, ray, t)
            crossed = values <= 0
            brackets.append([x[crossed] for x in (ray, before, value_before, t, values)])
            step = self._stride(torch.from_numpy(ahead)[going], values)[~crossed]
            ray, before, value_before = ray[~crossed], t[~crossed], values[~crossed]
            t = before + step
        if brackets:
            ray, *ends = (torch.cat(parts) for parts in zip(*brackets, strict=True))
            # First asked when already inside: the surface is within the cell before, or where the ray begins.
            first = ends[0].isnan()
            ends[0] = torch.where(first, torch.maximum(ends[2] - 1, enter[ray]), ends[0])
            ends[1][first] = self._along(o, d, ray[first], ends[0][first])
            found[ray] = self._refined(o, d, ray, *ends) * self.cell
        return Hits(found, torch.isfinite(found))

    def _along(self, o: Tensor, d: Tensor, ray: Tensor, t: Tensor) -> Tensor:
        """The function, positive outside, in cells where it is a distance."""
        return self.outside(self.low + self.cell * (o[ray] + t[:, None] * d[ray])) / self.cell

    def _stride(self, ahead: Tensor, values: Tensor) -> Tensor:
        """How far to go on from outside: a little beyond where the surface is expected, by the slope ahead."""
        if self.slope is None:
            return torch.full_like(values, LEAST)
        expected = torch.where(ahead < -0.1, -OVERSHOOT * values / ahead.clamp(max=-0.1), values / self.slope)
        return expected.clamp(LEAST, 1)

    def _refined(self, o: Tensor, d: Tensor, ray: Tensor, t0: Tensor, v0: Tensor, t1: Tensor, v1: Tensor) -> Tensor:
        """The zero between outside at t0 and inside at t1: the secant method, an end that stays halved (Illinois).

        Where t0 is inside too, it is the answer.
        """
        t0, v0, t1, v1 = t0.clone(), v0.clone(), t1.clone(), v1.clone()
        side = torch.zeros_like(t0)
        best, going = t0.clone(), (v0 > 0).nonzero()[:, 0]
        for _ in range(SECANTS):
            a, b, va, vb = t0[going], t1[going], v0[going], v1[going]
            t = b + (a - b) * (vb / (vb - va).clamp(max=-1e-300))
            t = torch.where((t >= a) & (t <= b), t, (a + b) / 2)
            value = self._along(o, d, ray[going], t)
            best[going] = t
            inside, was = value <= 0, side[going]
            v0[going] = torch.where(inside, torch.where(was < 0, va / 2, va), value)
            v1[going] = torch.where(inside, value, torch.where(was > 0, vb / 2, vb))
            t0[going], t1[going] = torch.where(inside, a, t), torch.where(inside, t, b)
            side[going] = torch.where(inside, -1.0, 1.0).double()
            # A distance says itself how close it is; other functions, by how little the guess still moves.
            left = value.abs() if self.slope is not None else t1[going] - t0[going]
            going = going[left > CLOSE]
            if not len(going):
                break
        return best

    def normals(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Unit vectors out of the surface: differences of the function at a tetrahedron's corners, an eighth of a cell
        along each axis from the point. Off by about that over the surface's radius of curvature, at four values a
        point."""
        slopes = torch.zeros(len(points), 3, dtype=torch.float64)
        for corner in torch.tensor(TETRAHEDRON, dtype=torch.float64):
            slopes += self.outside(points.double().cpu() + self.cell / 8 * corner)[:, None] * corner
        return F.normalize(slopes, dim=1, eps=1e-300)

    def distance(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """About how far the surface is, negative inside, float32; beyond the outermost centres by way of these."""
        points = points.double().cpu()
        within = torch.minimum(torch.maximum(points, self.low + self.cell / 2), self.high - self.cell / 2)
        unit = ((within - self.low) / (self.high - self.low) * 2 - 1).float().flip(1)
        got = F.grid_sample(self.signed, unit[None, None, None], padding_mode="border", align_corners=False)
        return got.view(-1) + (points - within).norm(dim=1).float()

    def shadow(self, points: Float[Tensor, "n 3"], toward: Float[Tensor, "3"]) -> Float[Tensor, "n"]:
        """How much of a soft light in a direction the points see, 0 to 1: the narrowest gap on the way, as an angle."""
        light = torch.ones(len(points))
        reach = float((self.high - self.low).norm()) / 2
        t = torch.full((len(points),), 2 * self.cell)
        for _ in range(SHADOW_STEPS):
            gap = self.distance(points + t[:, None] * toward)
            light = torch.minimum(light, SHADOW_SOFTNESS * gap / t)
            t = t + gap.clamp(0.75 * self.cell, reach / 6)
        light = light.clamp(0, 1)
        return light * light * (3 - 2 * light)

    def openness(self, points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """How much of the sky the points see, 0 to 1: the room above them, against what a plane would leave."""
        reach = 0.1 * float((self.high - self.low).max())
        missing, weights = torch.zeros(len(points)), 0.0
        for step in range(1, OCCLUSION_STEPS + 1):
            height = reach * step / OCCLUSION_STEPS
            weight = 0.75**step / height
            room = self.distance(points + height * normals)
            missing += weight * (height - room).clamp(0, height)
            weights += weight * height
        return 1 - missing / weights


def _corners(shape: Sequence[int]) -> Tensor:
    """(n, 3) whole numbers: every place of a grid of this shape, the first axis slowest."""
    return torch.from_numpy(np.moveaxis(np.indices(shape), 0, -1).reshape(-1, 3))


def _mixed(corners: Tensor, centres: Tensor) -> Tensor:
    """Cells whose corners and centre lie on both sides of zero."""
    ends = [(slice(0, -1), slice(1, None))] * 3
    parts = torch.stack([centres, *(corners[place] for place in itertools.product(*ends))])
    return (parts < 0).any(0) & (parts >= 0).any(0)
