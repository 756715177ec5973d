"""The occupancy grid: which cells of the box are worth a sample."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from sinefield.kernels.choose import Choice, choose
from sinefield.render.march import Grid, March, Samples, march
from sinefield.render.march_nested import locate

SOLID_ALPHA_DEPTH = 2.5
"""Optical depth of one step above which a cell counts as solid; with `SOLID_DEPTH` steps exp(−10) is left."""


class OccupancyGrid(nn.Module):
    """Occupancy over `aabb` and boxes twice as large each, kept by an exponential moving maximum of density × step.

    The counterpart of nerfacc's `OccGridEstimator` (same names: `occs`, `binaries`, `occ_eval_fn`, `occ_thre`).
    A cell's value decays by `ema_decay` at each update and is raised to what the field says at a random point
    of the cell; the cell is occupied while its value exceeds min(occ_thre, mean value).

    A point belongs to the smallest box that holds it. The levels' cells are stacked along x, from the smallest box on.

    Args:
        levels: how many nested boxes.
        cone_angle: how samples grow with distance; see `march_nested`.

    Attributes:
        aabb: (6,) the smallest box, in the coordinates of the rays.
        occs: (levels · x, y, z) optical depth of one step.
        binaries: (levels · x, y, z) bool, cells that get samples.
        allowed: (levels · x, y, z) bool, cells that may ever be occupied; all of them unless a visual hull says
            otherwise, or a smaller box holds them.
        solid: (levels · x, y, z) bool, cells inside opaque matter, all 26 neighbours included; a ray ends there.
        marcher: which `march` `sampling` uses; see `marcher`. Not saved with a field.
        later: finds the solid cells, where that is put off until they are asked for; see `settle`.
    """

    aabb: Tensor
    occs: Tensor
    binaries: Tensor
    allowed: Tensor
    solid: Tensor

    def __init__(
        self, aabb: Float[Tensor, "6"], resolution: int = 64, levels: int = 1, cone_angle: float = 0.0
    ) -> None:
        super().__init__()
        shape = (levels * resolution, resolution, resolution)
        self.resolution, self.levels, self.cone_angle = resolution, levels, cone_angle
        self.marcher = "auto"
        self.later: Callable[[], None] | None = None
        self.register_buffer("aabb", torch.as_tensor(aabb, dtype=torch.float32))
        self.register_buffer("occs", torch.zeros(shape))
        self.register_buffer("binaries", torch.ones(shape, dtype=torch.bool))
        self.register_buffer("allowed", torch.ones(shape, dtype=torch.bool))
        self.register_buffer("solid", torch.zeros(shape, dtype=torch.bool))
        if levels > 1:
            middle = slice(resolution // 4, 3 * resolution // 4)
            self._by_level(self.allowed)[1:, middle, middle, middle] = False
            self.binaries.copy_(self.allowed)

    def _by_level(self, cells: Tensor) -> Tensor:
        return cells.view(self.levels, *(self.resolution,) * 3)

    @property
    def outer_box(self) -> Float[Tensor, "6"]:
        """The largest of the nested boxes."""
        if self.levels == 1:
            return self.aabb
        centre, half = (self.aabb[:3] + self.aabb[3:]) / 2, (self.aabb[3:] - self.aabb[:3]) / 2
        half = half * 2 ** (self.levels - 1)
        return torch.cat([centre - half, centre + half])

    def restrict(self, allowed: Bool[Tensor, "x y z"]) -> None:
        """Never sample outside `allowed`, and start with all of it occupied."""
        self.allowed.copy_(self.allowed & allowed)
        self.binaries.copy_(self.allowed)

    def centres(self, cells: Int[Tensor, "cells"] | None = None) -> Float[Tensor, "cells 3"]:
        """Centre of the given or of every cell in world units; cells are counted with x slowest."""
        every = torch.arange(self.occs.numel(), device=self.aabb.device)
        return self._points(every if cells is None else cells, 0.5)

    def _points(self, cells: Tensor, inside: Tensor | float) -> Tensor:
        r = self.resolution
        index = torch.stack([cells // (r * r) % r, cells // r % r, cells % r], dim=1)
        size, place = self.aabb[3:] - self.aabb[:3], (index + inside) / r
        if self.levels > 1:
            place = 0.5 + (place - 0.5) * 2.0 ** (cells // r**3)[:, None]
        return self.aabb[:3] + place * size

    @torch.no_grad()
    def update(
        self,
        occ_eval_fn: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]],
        generator: torch.Generator,
        occ_thre: float = 0.01,
        ema_decay: float = 0.95,
        everything: bool = True,
    ) -> None:
        """Move the grid towards the field.

        Args:
            occ_eval_fn: world points to density × render_step_size.
            generator: draws the point inside each cell.
            everything: evaluate all allowed cells; otherwise half of the occupied ones and a quarter of all, at
                random.
        """
        self.settle()
        cells = self.allowed.flatten().nonzero()[:, 0]
        if len(cells) == 0:
            return
        n, device = len(cells), cells.device
        flat = self.occs.view(-1)
        values, occupied = flat[cells] * ema_decay, self.binaries.view(-1)
        chosen = slice(None)
        if not everything:
            chosen = occupied[cells] & (torch.rand(n, generator=generator, device=device) < 0.5)
            chosen[torch.randint(n, (max(n // 4, 1),), generator=generator, device=device)] = True
            chosen = chosen.nonzero()[:, 0]
        looked_at = cells[chosen]
        inside = torch.rand(len(looked_at), 3, generator=generator, device=device)
        found = occ_eval_fn(self._points(looked_at, inside)).to(flat.dtype)
        values[chosen] = torch.maximum(values[chosen], found)
        flat[cells], occupied[cells] = values, values > values.mean().clamp(max=occ_thre)
        self.find_solid()

    def occupied(self, x: Float[Tensor, "n 3"]) -> Bool[Tensor, "n"]:
        """Whether world points lie in occupied cells; False outside the box."""
        place, level = locate(x, self.aabb, self.levels)
        cell = (place * self.resolution).floor().long().clamp(0, self.resolution - 1)
        row = cell[:, 0] + level.clamp(max=self.levels - 1) * self.resolution
        return (level < self.levels) & self.binaries[row, cell[:, 1], cell[:, 2]]

    def settle(self) -> None:
        """Find the solid cells now, if that was put off: a file is read without a look at what its network says."""
        later, self.later = self.later, None
        if later is not None:
            later()

    def _save_to_state_dict(self, *arguments: Any, **options: Any) -> None:
        self.settle()
        super()._save_to_state_dict(*arguments, **options)

    def find_solid(self) -> None:
        """Cells whose whole neighbourhood stops light within a few steps."""
        inside = F.pad(self._by_level(self.occs > SOLID_ALPHA_DEPTH), (1,) * 6)  # beyond a level's box counts as empty
        for axis in (1, 2, 3):
            before, here, after = (inside.narrow(axis, i, inside.shape[axis] - 2) for i in range(3))
            inside = before & here & after
        self.solid.copy_(inside.view(self.solid.shape))

    def sampling(
        self,
        rays_o: Float[Tensor, "r 3"],
        rays_d: Float[Tensor, "r 3"],
        render_step_size: float,
        jitter: Float[Tensor, "r"] | None = None,
        max_samples: int = 2**31,
        near_plane: float = 0.0,
        far_plane: float = 1e10,
        clear: Float[Tensor, "r"] | None = None,
    ) -> Samples:
        """Samples of the rays in occupied cells; see `march`."""
        self.settle()
        grid = Grid(self.aabb, self.binaries, self.solid, self.levels)
        settings = March(render_step_size, near_plane, far_plane, self.cone_angle, max_samples)
        return march(rays_o, rays_d, grid, settings, jitter, clear, self.marcher)


def marcher(device: torch.device, asked: str = "auto") -> Choice:
    """What marches through a grid of one box on a device, where `training.marcher` is `asked`.

    Raises:
        SinefieldError: what was asked for does not work there.
    """
    return choose("march", device, asked=asked)


def visual_hull(
    points: Float[Tensor, "n 3"],
    project: Callable[[int, Float[Tensor, "n 3"]], tuple[Float[Tensor, "n 2"], Float[Tensor, "n"]]],
    masks: Iterable[Shaped[Tensor, "h w"]],
    reach: Float[Tensor, "views"] | float,
) -> Bool[Tensor, "n"]:
    """Which points no view rules out: a point is ruled out where a view sees it on transparent pixels only.

    Args:
        points: world units, the centres of a grid's cells.
        project: view index and points to pixels and depth along the viewing axis.
        masks: a view's each, not zero where its image is not fully transparent; looked at one at a time.
        reach: radius in world units around a point that must be covered, half a cell's diagonal;
            turned into pixels by each view's depth and focal length, given here as focal × radius.
    """
    alive = torch.ones(len(points), dtype=torch.bool)
    for view, mask in enumerate(masks):
        height, width = mask.shape
        index = alive.nonzero()[:, 0]
        pixels, depth = project(view, points[index])
        radius = torch.as_tensor(reach)[view] if torch.as_tensor(reach).ndim else torch.as_tensor(reach)
        size = (radius / depth.clamp(min=1e-6)).ceil().clamp(1, max(height, width))
        # Summed-area table: any opaque pixel within the square that the cell's ball projects to?
        table = F.pad((mask != 0).float().cumsum(0).cumsum(1), (1, 0, 1, 0))
        x0, x1 = (pixels[:, 0] - size).floor().clamp(0, width), (pixels[:, 0] + size).ceil().clamp(0, width)
        y0, y1 = (pixels[:, 1] - size).floor().clamp(0, height), (pixels[:, 1] + size).ceil().clamp(0, height)
        x0, x1, y0, y1 = (v.long() for v in (x0, x1, y0, y1))
        covered = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
        seen = (x1 > x0) & (y1 > y0) & (depth > 0)
        # What a view does not see, it cannot rule out.
        alive[index[seen & (covered < 0.5)]] = False
    return alive
