"""Rays into samples by compiled loops on all threads; `render.march` and `render.march_nested` have the definitions."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from sinefield.kernels.cpu.walk import (
    Cells,
    NestedCells,
    Steps,
    coarsen,
    first_steps,
    inner_box,
    middles,
    walk_nested,
    walk_rays,
)
from sinefield.kernels.inputs import Grid, March

SCRATCH = 1 << 24
"""Lattice positions that a batch of rays may have room for at once."""
_COARSE = WeakIdKeyDictionary()
"""Of grids that were marched through: what they held, the blocks of it and the box around them."""
Found = tuple[Tensor, Tensor, Tensor, Tensor]
"""ray_indices, t_starts, t_ends and packed_info; see `inputs.FlatSamples`."""


def march(
    rays_o: Tensor,
    rays_d: Tensor,
    grid: Grid,
    settings: March,
    jitter: Tensor | None = None,
    clear: Tensor | None = None,
) -> Found:
    """Samples of rays in a grid of one level; see `render.march.march`."""
    o, d = _arrays(rays_o, rays_d)
    shift = np.zeros(len(o), np.float32) if jitter is None else jitter.numpy()
    known = np.empty(0, np.float32) if clear is None else clear.numpy()
    cells, steps = _cells(grid), _steps(settings)
    diagonal = math.dist(cells.box[:3], cells.box[3:])
    most = max(int(min(diagonal, settings.far_plane - settings.near_plane) / settings.render_step_size) + 2, 1)

    def walk(part: slice, room: int, first: bool) -> tuple[np.ndarray, ...]:
        return walk_rays(o[part], d[part], tuple(cells), tuple(steps), shift[part], known[part], most, room, first)

    return _gather(walk, len(o), most, settings.max_samples)


def march_nested(
    rays_o: Tensor,
    rays_d: Tensor,
    grid: Grid,
    settings: March,
    jitter: Tensor | None = None,
    clear: Tensor | None = None,
) -> Found:
    """Samples of rays in nested grids; see `render.march_nested`. `clear` is of no use here."""
    o, d = _arrays(rays_o, rays_d)
    shift = np.zeros(len(o), np.float32) if jitter is None else jitter.numpy()
    box = grid.aabb.numpy().astype(np.float32)
    cells = NestedCells((box[:3] + box[3:]) / 2, (box[3:] - box[:3]) / 2, grid.binaries.numpy(), _solid(grid))
    steps, most = _steps(settings), _most_nested(rays_o, grid, settings)

    def walk(part: slice, room: int, first: bool) -> tuple[np.ndarray, ...]:
        return walk_nested(o[part], d[part], tuple(cells), tuple(steps), shift[part], most, room, first)

    return _gather(walk, len(o), most, settings.max_samples)


def first_meeting(rays_o: Tensor, rays_d: Tensor, grid: Grid, settings: March) -> Tensor:
    """Where the first sample of each ray begins without jitter; see `render.march.first_meeting`."""
    cells = _cells(grid._replace(solid=None))
    o, d = _arrays(rays_o, rays_d)
    return torch.from_numpy(first_steps(o, d, tuple(cells), tuple(_steps(settings))))


def sample_points(rays_o: Tensor, rays_d: Tensor, ray_indices: Tensor, t_starts: Tensor, t_ends: Tensor) -> Tensor:
    """The middles of samples on rays."""
    given = rays_o, rays_d, ray_indices, t_starts, t_ends
    return torch.from_numpy(middles(*(x.contiguous().numpy() for x in given)))


def _arrays(*rays: Tensor) -> tuple[np.ndarray, ...]:
    return tuple(np.ascontiguousarray(x.detach().numpy(), np.float32) for x in rays)


def _steps(settings: March) -> Steps:
    given = settings.render_step_size, settings.cone_angle, settings.near_plane, settings.far_plane
    return Steps(*(np.float32(x) for x in given))


def _solid(grid: Grid) -> np.ndarray:
    return np.zeros((1, 1, 1), np.bool_) if grid.solid is None else grid.solid.numpy()


def _cells(grid: Grid) -> Cells:
    """A grid as `walk_rays` takes it; what is found about its occupied cells is held until these change."""
    box, occupied = grid.aabb.numpy().astype(np.float32), grid.binaries.numpy()
    state = grid.binaries._version, box.tobytes()
    held = _COARSE.get(grid.binaries)
    if held is None or held[0] != state:
        blocks = coarsen(occupied)
        _COARSE[grid.binaries] = held = state, blocks, inner_box(blocks, box, occupied.shape)
    return Cells(box, held[2], occupied, held[1], _solid(grid))


def _most_nested(rays_o: Tensor, grid: Grid, settings: March) -> int:
    """Lattice positions until no ray can be in the largest box."""
    if len(rays_o) == 0:
        return 1
    centre, half = (grid.aabb[:3] + grid.aabb[3:]) / 2, (grid.aabb[3:] - grid.aabb[:3]) / 2
    reach = float((rays_o - centre).norm(dim=1).max() + half.norm() * 2 ** (grid.levels - 1))
    farthest, most, t = min(reach, settings.far_plane), 2, np.float32(settings.near_plane)
    while t < farthest:
        t += max(np.float32(settings.cone_angle) * t, np.float32(settings.render_step_size))
        most += 1
    return most


def _gather(
    walk: Callable[[slice, int, bool], tuple[np.ndarray, ...]], n_rays: int, most: int, max_samples: int
) -> Found:
    """Samples of all rays, part by part, as scratch allows, until the cap is reached.

    Args:
        walk: from which rays, how many samples at most and whether a ray's may be cut off for it, to ray_indices,
            t_starts, t_ends and packed_info of the rays whose samples all fit, from the first on.
        most: how many samples a ray can have.
    """
    parts, start, room = [], 0, max_samples
    while start < n_rays:
        asked = slice(start, min(start + max(SCRATCH // most, 1), n_rays))
        index, t0, t1, packed = walk(asked, room, not parts)
        if parts:
            index += start
            packed[:, 0] += max_samples - room
        parts.append((index, t0, t1, packed))
        start, room = start + len(packed), room - len(t0)
        if start < asked.stop:
            break
    if len(parts) != 1:
        empty = (np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.float32), np.empty((0, 2), np.int64))
        parts = [tuple(np.concatenate(x) for x in zip(empty, *parts, strict=True))]
    index, t0, t1, packed = (torch.from_numpy(x) for x in parts[0])
    return index, t0, t1, packed
