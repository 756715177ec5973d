"""Rays into samples through nested occupancy grids, with samples that grow with distance: unbounded scenes.

Names and conventions are those of `march`. The lattice differs: it is the same for all rays, but for jitter, and starts
at the near plane, t₀ = near + jitter · δ(near), tₖ₊₁ = tₖ + δ(tₖ), where δ(t) = max(step, cone_angle · t) is the length
of the sample that starts at t (Müller et al., SIGGRAPH 2022, appendix E.1). A point is looked up in the smallest box
that holds it. `march_nested_reference` is that in plain torch.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sinefield.kernels.inputs import SOLID_DEPTH, FlatSamples, Grid, March


def locate(
    x: Float[Tensor, "*n 3"], aabb: Float[Tensor, "6"], levels: int
) -> tuple[Float[Tensor, "*n 3"], Int[Tensor, "*n"]]:
    """Where points lie in the smallest of the nested boxes that holds them, [0, 1]³, and which that is.

    Boxes 2ⁱ times as large as `aabb` share its centre. Outside all of them the level is `levels`.
    """
    centre, half = (aabb[:3] + aabb[3:]) / 2, (aabb[3:] - aabb[:3]) / 2
    place = (x - centre) / half
    widths = 2.0 ** torch.arange(levels, device=x.device)
    level = (place.abs().amax(-1, keepdim=True) > widths).sum(-1)
    return (place / 2.0 ** level.clamp(max=levels - 1)[..., None] + 1) / 2, level


def lattice(first: Float[Tensor, "r"], farthest: float, step: float, cone_angle: float) -> Float[Tensor, "r k"]:
    """The lattice of rays from their first position until all are beyond `farthest`, the end of the last sample too."""
    rows = [first]
    while bool((rows[-1] < farthest).any()):
        rows.append(rows[-1] + (cone_angle * rows[-1]).clamp(min=step))
    return torch.stack(rows, 1)


def _farthest(rays_o: Tensor, aabb: Tensor, levels: int, far_plane: float) -> float:
    """A distance beyond which no ray can be in the largest box."""
    if len(rays_o) == 0:
        return 0.0
    centre, half = (aabb[:3] + aabb[3:]) / 2, (aabb[3:] - aabb[:3]) / 2
    return min(float((rays_o - centre).norm(dim=1).max() + half.norm() * 2 ** (levels - 1)), far_plane)


def march_nested_reference(
    rays_o: Float[Tensor, "r 3"],
    rays_d: Float[Tensor, "r 3"],
    grid: Grid,
    settings: March,
    jitter: Float[Tensor, "r"] | None = None,
    clear: Float[Tensor, "r"] | None = None,
) -> FlatSamples:
    """Samples in nested grids in plain torch, on any device: every lattice position is looked up."""
    r, levels, binaries = grid.binaries.shape[1], grid.levels, grid.binaries
    step, cone_angle, near, far = (
        settings.render_step_size, settings.cone_angle, settings.near_plane, settings.far_plane,
    )  # fmt: skip
    shift = torch.zeros_like(rays_o[:, 0]) if jitter is None else jitter
    first = near + shift * max(step, cone_angle * near)
    t = lattice(first, _farthest(rays_o, grid.aabb, levels, far), step, cone_angle)
    length = (cone_angle * t).clamp(min=step)
    middle = t + length / 2
    place, level = locate(rays_o[:, None] + middle[..., None] * rays_d[:, None], grid.aabb, levels)
    cell = (place * r).long().clamp(0, r - 1)
    row = cell[..., 0] + level.clamp(max=levels - 1) * r
    hit = (level < levels) & (middle < far) & binaries[row, cell[..., 1], cell[..., 2]]
    if grid.solid is not None:
        hit &= (hit & grid.solid[row, cell[..., 1], cell[..., 2]]).cumsum(1) <= SOLID_DEPTH
    return flatten(hit, t, t + length, settings.max_samples)


def flatten(
    hit: Bool[Tensor, "r k"], t_starts: Float[Tensor, "r k"], t_ends: Float[Tensor, "r k"], max_samples: int
) -> FlatSamples:
    """The chosen ones of every ray's lattice positions, capped as `March.max_samples` says."""
    counts = hit.sum(1)
    keep = int((counts.cumsum(0) <= max_samples).sum())
    if keep == 0 and len(hit):
        keep, counts = 1, counts[:1].clamp(max=max_samples)
        hit = hit[:1] & (hit[:1].cumsum(1) <= max_samples)
    counts, hit = counts[:keep], hit[:keep]
    ray_indices = torch.arange(keep, device=hit.device)[:, None].expand_as(hit)[hit]
    packed = torch.stack([counts.cumsum(0) - counts, counts], dim=1)
    return FlatSamples(ray_indices, t_starts[:keep][hit], t_ends[:keep][hit], packed)
