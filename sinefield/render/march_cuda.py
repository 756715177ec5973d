"""The marcher on CUDA: nerfacc's `OccGridEstimator` behind the call of `march.march`.

Written against the reference in `march.py`; docs/results/gpu.md says what of it has run on a GPU.
"""

from functools import cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sinefield.kernels.cpu.march import SOLID_DEPTH
from sinefield.render.march import Samples


@cache
def why_not_nerfacc() -> str | None:
    """None where nerfacc's kernels can be called, else the reason in one line. The first call may compile minutes."""
    try:
        from nerfacc.cuda import _backend
    except ImportError as error:
        return f"not installed ({error})"
    except Exception as error:  # its import compiles: any compiler failure surfaces here
        return f"its kernels do not compile ({' '.join(str(error).split())[:120]})"
    return None if _backend._C is not None else "its kernels did not compile; it needs nvcc and CUDA_HOME"


@cache
def _estimator(resolution: tuple[int, int, int], device: torch.device):
    from nerfacc import OccGridEstimator

    return OccGridEstimator([0.0, 0.0, 0.0, 1.0, 1.0, 1.0], list(resolution), levels=1).to(device)


def march_nerfacc(
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
    """`march` by nerfacc: the same arguments, and the same samples up to rounding at cell walls.

    nerfacc anchors a ray's lattice at its near plane and keeps a sample where its midpoint is in an occupied cell, as
    `march` does; given the entry into the box plus the jitter as near plane, the two lattices are one.
    """
    estimator = _estimator(tuple(binaries.shape), rays_o.device)
    estimator.aabbs, estimator.binaries = aabb[None].float(), binaries[None]
    inverse = 1 / rays_d
    t0, t1 = (aabb[:3] - rays_o) * inverse, (aabb[3:] - rays_o) * inverse
    # 0 · ∞ where a ray runs along a wall it starts on: such an axis bounds nothing.
    entry = torch.minimum(t0, t1).nan_to_num(-torch.inf, torch.inf, -torch.inf).amax(1).clamp(min=near_plane)
    if jitter is not None:
        entry = entry + jitter * render_step_size
    ray_indices, t_starts, t_ends = estimator.sampling(
        rays_o.float().contiguous(),
        rays_d.float().contiguous(),
        near_plane=near_plane,
        far_plane=far_plane,
        t_min=entry.clamp(max=1e9),  # rays beside the box
        render_step_size=render_step_size,
    )
    counts = torch.bincount(ray_indices, minlength=len(rays_o))
    if solid is not None and len(ray_indices):
        size = aabb[3:] - aabb[:3]
        middle = rays_o[ray_indices] + ((t_starts + t_ends) / 2)[:, None] * rays_d[ray_indices]
        last = torch.tensor(binaries.shape, device=rays_o.device) - 1
        cell = torch.minimum(((middle - aabb[:3]) / size * (last + 1)).long().clamp(min=0), last)
        within = solid[cell[:, 0], cell[:, 1], cell[:, 2]].long()
        total = within.cumsum(0)
        first = counts.cumsum(0) - counts
        before = (total - within)[first.clamp(max=len(total) - 1)]
        kept = total - before[ray_indices] <= SOLID_DEPTH
        ray_indices, t_starts, t_ends = ray_indices[kept], t_starts[kept], t_ends[kept]
        counts = torch.bincount(ray_indices, minlength=len(rays_o))
    return cap_samples(ray_indices, t_starts, t_ends, counts, max_samples)


def cap_samples(ray_indices: Tensor, t_starts: Tensor, t_ends: Tensor, counts: Tensor, max_samples: int) -> Samples:
    """Drop rays from the first that would exceed `max_samples` on; a first ray that alone does keeps its front."""
    packed, total = pack(counts, max_samples)
    return Samples(ray_indices[:total], t_starts[:total], t_ends[:total], packed)


def pack(counts: Int[Tensor, "r"], max_samples: int) -> tuple[Int[Tensor, "n_rays 2"], int]:
    """`packed_info` of rays with so many samples each, cut as `cap_samples` says, and the number of samples left."""
    keep = int((counts.cumsum(0) <= max_samples).sum())
    if keep == 0 and len(counts):
        keep, counts = 1, counts[:1].clamp(max=max_samples)
    counts = counts[:keep]
    ends = counts.cumsum(0)
    return torch.stack([ends - counts, counts], dim=1), int(ends[-1]) if keep else 0
