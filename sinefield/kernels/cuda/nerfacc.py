"""The marcher on CUDA by nerfacc's `OccGridEstimator`.

Written against the definition in `render.march`; docs/results/gpu.md says what of it has run on a GPU.
"""

from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sinefield.kernels.inputs import SOLID_DEPTH, FlatSamples, Grid, March


@cache
def why_not(dtype: torch.dtype | None = None) -> str | None:
    """None where nerfacc's kernels can be called, else the reason in one line. The first call may compile minutes."""
    try:
        from nerfacc.cuda import _backend
    except ImportError as error:
        return f"not installed ({error})"
    except Exception as error:  # its import compiles: any compiler failure surfaces here
        return f"its kernels do not compile ({' '.join(str(error).split())[:120]})"
    return None if _backend._C is not None else "its kernels did not compile; it needs nvcc and CUDA_HOME"


@cache
def _estimator(resolution: tuple[int, int, int], device: torch.device) -> Any:
    from nerfacc import OccGridEstimator

    return OccGridEstimator([0.0, 0.0, 0.0, 1.0, 1.0, 1.0], list(resolution), levels=1).to(device)


def march(
    rays_o: Float[Tensor, "r 3"],
    rays_d: Float[Tensor, "r 3"],
    grid: Grid,
    settings: March,
    jitter: Float[Tensor, "r"] | None = None,
    clear: Float[Tensor, "r"] | None = None,
) -> FlatSamples:
    """The samples of `render.march.march_reference` up to rounding at cell walls; `clear` is of no use here.

    nerfacc anchors a ray's lattice at its near plane and keeps a sample where its midpoint is in an occupied cell, as
    the definition does; given the entry into the box plus the jitter as near plane, the two lattices are one.
    """
    aabb, step = grid.aabb, settings.render_step_size
    estimator = _estimator(tuple(grid.binaries.shape), rays_o.device)
    estimator.aabbs, estimator.binaries = aabb[None].float(), grid.binaries[None]
    inverse = 1 / rays_d
    t0, t1 = (aabb[:3] - rays_o) * inverse, (aabb[3:] - rays_o) * inverse
    # 0 · ∞ where a ray runs along a wall it starts on: such an axis bounds nothing.
    entry = torch.minimum(t0, t1).nan_to_num(-torch.inf, torch.inf, -torch.inf).amax(1).clamp(min=settings.near_plane)
    if jitter is not None:
        entry = entry + jitter * step
    ray_indices, t_starts, t_ends = estimator.sampling(
        rays_o.float().contiguous(),
        rays_d.float().contiguous(),
        near_plane=settings.near_plane,
        far_plane=settings.far_plane,
        t_min=entry.clamp(max=1e9),  # rays beside the box
        render_step_size=step,
    )
    counts = torch.bincount(ray_indices, minlength=len(rays_o))
    if grid.solid is not None and len(ray_indices):
        middle = rays_o[ray_indices] + ((t_starts + t_ends) / 2)[:, None] * rays_d[ray_indices]
        kept = _before_solid(middle, ray_indices, counts, grid, grid.solid)
        ray_indices, t_starts, t_ends = ray_indices[kept], t_starts[kept], t_ends[kept]
        counts = torch.bincount(ray_indices, minlength=len(rays_o))
    packed, total = pack_info(counts, settings.max_samples)
    return FlatSamples(ray_indices[:total], t_starts[:total], t_ends[:total], packed)


def _before_solid(middle: Tensor, ray_indices: Tensor, counts: Tensor, grid: Grid, solid: Tensor) -> Tensor:
    """Which samples have no more than `SOLID_DEPTH` in solid cells up to themselves on their ray."""
    size = grid.aabb[3:] - grid.aabb[:3]
    last = torch.tensor(solid.shape, device=middle.device) - 1
    cell = torch.minimum(((middle - grid.aabb[:3]) / size * (last + 1)).long().clamp(min=0), last)
    within = solid[cell[:, 0], cell[:, 1], cell[:, 2]].long()
    total = within.cumsum(0)
    first = counts.cumsum(0) - counts
    before = (total - within)[first.clamp(max=len(total) - 1)]
    return total - before[ray_indices] <= SOLID_DEPTH


def pack_info(counts: Int[Tensor, "r"], max_samples: int) -> tuple[Int[Tensor, "n_rays 2"], int]:
    """`packed_info` of rays with so many samples each, cut as `March.max_samples` says, and how many are left."""
    keep = int((counts.cumsum(0) <= max_samples).sum())
    if keep == 0 and len(counts):
        keep, counts = 1, counts[:1].clamp(max=max_samples)
    counts = counts[:keep]
    ends = counts.cumsum(0)
    return torch.stack([ends - counts, counts], dim=1), int(ends[-1]) if keep else 0
