"""Rays into samples, through an occupancy grid.

Samples are flat, in nerfacc's names: `ray_indices, t_starts, t_ends`, all (n_samples,), ordered by ray and
front to back. A sample exists on ray r for every step k of the lattice
t = t_min + (k + jitter_r)·step whose midpoint lies inside the box, before `far_plane`, and in an occupied cell.
`march_reference` is that sentence in plain torch; `march` is the same in compiled, multi-threaded form.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from sinefield.kernels.cpu.march import SOLID_DEPTH, coarsen, first_steps, inner_box, sample_points, walk_rays

SCRATCH = 1 << 24
"""Lattice positions that a batch of rays may have room for at once."""
_COARSE = WeakIdKeyDictionary()
"""Of grids that were marched through: what they held, the blocks of it and the box around them."""


class Samples(NamedTuple):
    """Flat samples of the first `n_rays` rays that were asked for.

    `packed_info` (n_rays, 2) holds each ray's first sample and number of samples. `n_rays` is smaller than the
    number of rays given when the cap on samples was reached.
    """

    ray_indices: Int[Tensor, "n_samples"]
    t_starts: Float[Tensor, "n_samples"]
    t_ends: Float[Tensor, "n_samples"]
    packed_info: Int[Tensor, "n_rays 2"]

    @property
    def n_rays(self) -> int:
        return len(self.packed_info)

    def points(self, rays_o: Float[Tensor, "r 3"], rays_d: Float[Tensor, "r 3"]) -> Float[Tensor, "n_samples 3"]:
        """Midpoint of each sample, in the rays' coordinates."""
        plain = rays_o.dtype == rays_d.dtype == self.t_starts.dtype == torch.float32
        if plain and rays_o.device.type == "cpu" and not (rays_o.requires_grad or rays_d.requires_grad):
            given = rays_o, rays_d, self.ray_indices, self.t_starts, self.t_ends
            return torch.from_numpy(sample_points(*(x.contiguous().numpy() for x in given)))
        middle = (self.t_starts + self.t_ends)[:, None] / 2
        return rays_o[self.ray_indices] + middle * rays_d[self.ray_indices]

    def split(self, chunk: int) -> "Iterator[tuple[int, Samples]]":
        """Cut between rays into parts of about `chunk` samples: (index of the part's first ray, part)."""
        if self.n_rays == 0:
            return
        total = len(self.t_starts)
        parts = max(round(total / chunk), 1)
        if parts == 1:
            yield 0, self
            return
        ends = self.packed_info.sum(1)
        marks = torch.arange(1, parts, device=ends.device) * (total // parts)
        cuts = [0, *(torch.searchsorted(ends, marks) + 1).tolist(), self.n_rays]
        for first, last in itertools.pairwise(cuts):
            if first < last:
                packed = self.packed_info[first:last]
                begin, end = int(packed[0, 0]), int(packed[-1].sum())
                shifted = packed - torch.tensor([begin, 0], device=packed.device)
                part = slice(begin, end)
                yield first, Samples(self.ray_indices[part] - first, self.t_starts[part], self.t_ends[part], shifted)


def march(
    rays_o: Float[Tensor, "r 3"],
    rays_d: Float[Tensor, "r 3"],
    aabb: Float[Tensor, "6"],
    binaries: Bool[Tensor, "x y z"],
    render_step_size: float,
    near_plane: float = 0.0,
    far_plane: float = 1e10,
    jitter: Float[Tensor, "r"] | None = None,
    solid: Bool[Tensor, "x y z"] | None = None,
    max_samples: int = 2**31,
    clear: Float[Tensor, "r"] | None = None,
) -> Samples:
    """Samples of the given rays in the occupied cells of a grid over `aabb`.

    Args:
        rays_d: unit directions; t is in world units along them.
        jitter: shift of each ray's lattice in steps, in [0, 1); 0 when absent.
        solid: cells behind whose first `SOLID_DEPTH` samples a ray can see nothing; it stops there.
        max_samples: hard cap; rays from the first that would exceed it on are dropped
            (a first ray that alone exceeds it keeps its front samples).
        clear: how far each ray meets no occupied cell, where that is known: it need not look there.
    """
    o, d = (np.ascontiguousarray(x.detach().numpy(), np.float32) for x in (rays_o, rays_d))
    shift = np.zeros(len(o), np.float32) if jitter is None else jitter.numpy()
    blocked = np.zeros((1, 1, 1), np.bool_) if solid is None else solid.numpy()
    known = np.empty(0, np.float32) if clear is None else clear.numpy()
    grid = _coarse(aabb, binaries)
    diagonal = math.dist(grid[0][:3], grid[0][3:])
    most = max(int(min(diagonal, far_plane - near_plane) / render_step_size) + 2, 1)
    settings = (np.float32(render_step_size), np.float32(near_plane), np.float32(far_plane), most)

    def walk(part: slice, room: int, first: bool) -> tuple[np.ndarray, ...]:
        return walk_rays(o[part], d[part], *grid, blocked, shift[part], known[part], *settings, room, first)

    return gather(walk, len(o), most, max_samples)


def first_meeting(
    rays_o: Float[Tensor, "r 3"],
    rays_d: Float[Tensor, "r 3"],
    aabb: Float[Tensor, "6"],
    binaries: Bool[Tensor, "x y z"],
    render_step_size: float,
    near_plane: float = 0.0,
) -> Float[Tensor, "r"]:
    """Where the first sample of each ray's `march` without jitter begins, infinite where there is none."""
    o, d = (np.ascontiguousarray(x.detach().numpy(), np.float32) for x in (rays_o, rays_d))
    settings = (np.float32(render_step_size), np.float32(near_plane), np.float32(1e10))
    return torch.from_numpy(first_steps(o, d, *_coarse(aabb, binaries), *settings))


def _coarse(aabb: Tensor, binaries: Tensor) -> tuple[np.ndarray, ...]:
    """A grid as `walk_rays` takes it: box, the smaller box around what is occupied, cells, and blocks of them."""
    box, occupied = aabb.numpy().astype(np.float32), binaries.numpy()
    state = binaries._version, box.tobytes()
    held = _COARSE.get(binaries)
    if held is None or held[0] != state:
        blocks = coarsen(occupied)
        _COARSE[binaries] = held = state, blocks, inner_box(blocks, box, occupied.shape)
    return box, held[2], occupied, held[1]


def gather(
    walk: Callable[[slice, int, bool], tuple[np.ndarray, ...]], n_rays: int, most: int, max_samples: int
) -> Samples:
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
    return Samples(*(torch.from_numpy(x) for x in parts[0]))


def march_reference(
    rays_o: Float[Tensor, "r 3"],
    rays_d: Float[Tensor, "r 3"],
    aabb: Float[Tensor, "6"],
    binaries: Bool[Tensor, "x y z"],
    render_step_size: float,
    near_plane: float = 0.0,
    far_plane: float = 1e10,
    jitter: Float[Tensor, "r"] | None = None,
    solid: Bool[Tensor, "x y z"] | None = None,
    max_samples: int = 2**31,
) -> Samples:
    """`march` in plain torch, on any device: every lattice position is looked up, memory rays × steps."""
    near, far = torch.as_tensor([near_plane, far_plane], dtype=torch.float32, device=rays_o.device)
    inverse = 1 / rays_d
    t0, t1 = (aabb[:3] - rays_o) * inverse, (aabb[3:] - rays_o) * inverse
    outside = ((rays_d == 0) & ((rays_o < aabb[:3]) | (rays_o > aabb[3:]))).any(1)
    flat = rays_d == 0
    t_min = torch.minimum(t0, t1).masked_fill(flat, -torch.inf).amax(1).clamp(min=near)
    t_max = torch.maximum(t0, t1).masked_fill(flat, torch.inf).amin(1).clamp(max=far)
    t_max = torch.where(outside, t_min, t_max)
    steps = int(((t_max - t_min).max() / render_step_size).ceil().clamp(min=0)) + 1 if len(rays_o) else 0
    shift = torch.zeros_like(t_min) if jitter is None else jitter
    k = torch.arange(steps, dtype=torch.float32, device=rays_o.device)
    t = t_min[:, None] + (k + shift[:, None]) * render_step_size
    middle = t + 0.5 * render_step_size
    resolution = torch.tensor(binaries.shape, device=rays_o.device)
    position = rays_o[:, None] + middle[..., None] * rays_d[:, None]
    cell = ((position - aabb[:3]) * (resolution / (aabb[3:] - aabb[:3]))).nan_to_num().long()
    x, y, z = torch.minimum(cell.clamp(min=0), resolution - 1).unbind(-1)
    hit = (middle < t_max[:, None]) & (t_min < t_max)[:, None] & binaries[x, y, z]
    if solid is not None:
        hit &= (hit & solid[x, y, z]).cumsum(1) <= SOLID_DEPTH
    return flatten(hit, t, t + render_step_size, max_samples)


def flatten(
    hit: Bool[Tensor, "r k"], t_starts: Float[Tensor, "r k"], t_ends: Float[Tensor, "r k"], max_samples: int
) -> Samples:
    """The chosen ones of every ray's lattice positions, capped as `march` says."""
    counts = hit.sum(1)
    keep = int((counts.cumsum(0) <= max_samples).sum())
    if keep == 0 and len(hit):
        keep, counts = 1, counts[:1].clamp(max=max_samples)
        hit = hit[:1] & (hit[:1].cumsum(1) <= max_samples)
    counts, hit = counts[:keep], hit[:keep]
    ray_indices = torch.arange(keep, device=hit.device)[:, None].expand_as(hit)[hit]
    packed = torch.stack([counts.cumsum(0) - counts, counts], dim=1)
    return Samples(ray_indices, t_starts[:keep][hit], t_ends[:keep][hit], packed)
