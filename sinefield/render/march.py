"""Rays into samples, through an occupancy grid.

Samples are flat, in nerfacc's names: `ray_indices, t_starts, t_ends`, all (n_samples,), ordered by ray and
front to back. A sample exists on ray r for every step k of the lattice
t = t_min + (k + jitter_r)·step whose midpoint lies inside the box, before `far_plane`, and in an occupied cell.
`march_reference` is that sentence in plain torch; `march` is what runs in its place.
"""

import itertools
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sinefield.kernels.choose import choose
from sinefield.kernels.inputs import SOLID_DEPTH, FlatSamples, Grid, March
from sinefield.render.march_nested import flatten, march_nested_reference

__all__ = ["Grid", "March", "Samples", "first_meeting", "march", "march_reference"]


class Samples(FlatSamples):
    """Flat samples of the first `n_rays` rays that were asked for.

    `packed_info` (n_rays, 2) holds each ray's first sample and number of samples. `n_rays` is smaller than the
    number of rays given when the cap on samples was reached.
    """

    __slots__ = ()

    def points(self, rays_o: Float[Tensor, "r 3"], rays_d: Float[Tensor, "r 3"]) -> Float[Tensor, "n_samples 3"]:
        """Midpoint of each sample, in the rays' coordinates."""
        learns = rays_o.requires_grad or rays_d.requires_grad
        run = choose("sample_points", rays_o.device, rays_o.dtype, int(learns)).function
        if run is not None and rays_d.dtype == self.t_starts.dtype == rays_o.dtype:
            return run(rays_o, rays_d, self.ray_indices, self.t_starts, self.t_ends)
        middle = (self.t_starts + self.t_ends)[:, None] / 2
        return rays_o[self.ray_indices] + middle * rays_d[self.ray_indices]

    def first(self, n: int) -> "Samples":
        """Those of the first `n` rays."""
        end = int(self.packed_info[n - 1].sum()) if n else 0
        return Samples(self.ray_indices[:end], self.t_starts[:end], self.t_ends[:end], self.packed_info[:n])

    def within(self, most: int) -> "Samples":
        """Those of the first rays that have no more than `most` together, or of the first alone."""
        if len(self.t_starts) <= most:
            return self
        return self.first(max(int((self.packed_info.sum(1) <= most).sum()), 1))

    def stretch(self, rays: Int[Tensor, "k"], begin: int, most: int) -> "Samples":
        """Of some rays, numbered anew, up to `most` samples each from the one that is number `begin` there."""
        first, count = self.packed_info[rays].unbind(1)
        count = (count - begin).clamp(0, most)
        packed = torch.stack([count.cumsum(0) - count, count], dim=1)
        owner = torch.repeat_interleave(torch.arange(len(rays), device=rays.device), count)
        index = torch.arange(len(owner), device=rays.device) + (first + begin - packed[:, 0])[owner]
        return Samples(owner, self.t_starts[index], self.t_ends[index], packed)

    def where(self, wanted: Bool[Tensor, "n_samples"]) -> "Samples":
        """Those that are wanted, of the same rays."""
        owner = self.ray_indices[wanted]
        count = torch.bincount(owner, minlength=self.n_rays)
        packed = torch.stack([count.cumsum(0) - count, count], dim=1)
        return Samples(owner, self.t_starts[wanted], self.t_ends[wanted], packed)

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
    grid: Grid,
    settings: March,
    jitter: Float[Tensor, "r"] | None = None,
    clear: Float[Tensor, "r"] | None = None,
    asked: str = "auto",
) -> Samples:
    """Samples of the given rays in the occupied cells of a grid.

    Of nested grids, or with samples that grow with distance, the lattice is that of `march_nested`.

    Args:
        rays_d: unit directions; t is in world units along them.
        jitter: shift of each ray's lattice in steps, in [0, 1); 0 when absent.
        clear: how far each ray meets no occupied cell, where that is known: it need not look there.
        asked: the implementation, as `training.marcher` has it; of those there is for one box only.

    Raises:
        SinefieldError: what was asked for does not work on the rays' device.
    """
    nested = grid.levels > 1 or settings.cone_angle > 0
    op, definition = ("march_nested", march_nested_reference) if nested else ("march", march_reference)
    run = choose(op, rays_o.device, asked="auto" if nested else asked).function or definition
    return Samples(*run(rays_o, rays_d, grid, settings, jitter, clear))


def first_meeting(
    rays_o: Float[Tensor, "r 3"], rays_d: Float[Tensor, "r 3"], grid: Grid, settings: March
) -> Float[Tensor, "r"]:
    """Where the first sample of each ray's `march` without jitter begins, infinite where there is none."""
    run = choose("first_meeting", rays_o.device).function or first_meeting_reference
    return run(rays_o, rays_d, grid, settings)


def first_meeting_reference(rays_o: Tensor, rays_d: Tensor, grid: Grid, settings: March) -> Tensor:
    """`first_meeting` in plain torch."""
    samples = march_reference(rays_o, rays_d, grid._replace(solid=None), settings)
    first, count = samples.packed_info.unbind(1)
    starts = torch.cat([samples.t_starts, samples.t_starts.new_zeros(1)])  # so that there is one after the last ray's
    return torch.where(count > 0, starts[first], torch.inf)


def march_reference(
    rays_o: Float[Tensor, "r 3"],
    rays_d: Float[Tensor, "r 3"],
    grid: Grid,
    settings: March,
    jitter: Float[Tensor, "r"] | None = None,
    clear: Float[Tensor, "r"] | None = None,
) -> FlatSamples:
    """`march` of one box in plain torch, on any device: every lattice position is looked up, memory rays × steps."""
    aabb, binaries, step = grid.aabb, grid.binaries, settings.render_step_size
    planes = [settings.near_plane, settings.far_plane]
    near, far = torch.as_tensor(planes, dtype=torch.float32, device=rays_o.device)
    inverse = 1 / rays_d
    t0, t1 = (aabb[:3] - rays_o) * inverse, (aabb[3:] - rays_o) * inverse
    outside = ((rays_d == 0) & ((rays_o < aabb[:3]) | (rays_o > aabb[3:]))).any(1)
    flat = rays_d == 0
    t_min = torch.minimum(t0, t1).masked_fill(flat, -torch.inf).amax(1).clamp(min=near)
    t_max = torch.maximum(t0, t1).masked_fill(flat, torch.inf).amin(1).clamp(max=far)
    t_max = torch.where(outside, t_min, t_max)
    steps = int(((t_max - t_min).max() / step).ceil().clamp(min=0)) + 1 if len(rays_o) else 0
    shift = torch.zeros_like(t_min) if jitter is None else jitter
    k = torch.arange(steps, dtype=torch.float32, device=rays_o.device)
    t = t_min[:, None] + (k + shift[:, None]) * step
    middle = t + 0.5 * step
    resolution = torch.tensor(binaries.shape, device=rays_o.device)
    position = rays_o[:, None] + middle[..., None] * rays_d[:, None]
    cell = ((position - aabb[:3]) * (resolution / (aabb[3:] - aabb[:3]))).nan_to_num().long()
    x, y, z = torch.minimum(cell.clamp(min=0), resolution - 1).unbind(-1)
    hit = (middle < t_max[:, None]) & (t_min < t_max)[:, None] & binaries[x, y, z]
    if grid.solid is not None:
        hit &= (hit & grid.solid[x, y, z]).cumsum(1) <= SOLID_DEPTH
    return flatten(hit, t, t + step, settings.max_samples)
