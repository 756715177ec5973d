"""Rays into samples through nested occupancy grids, with samples that grow with distance: unbounded scenes.

Names and conventions are those of `march`. The lattice differs: it is the same for all rays, but for jitter, and starts
at the near plane, t₀ = near + jitter · δ(near), tₖ₊₁ = tₖ + δ(tₖ), where δ(t) = max(step, cone_angle · t) is the length
of the sample that starts at t (Müller et al., SIGGRAPH 2022, appendix E.1). A point is looked up in the smallest box
that holds it. `march_nested_reference` is that in plain torch; `march_nested` is its compiled twin.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sinefield.kernels.cpu.march import SOLID_DEPTH, walk_nested
from sinefield.render.march import Samples, flatten, gather


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
    aabb: Float[Tensor, "6"],
    binaries: Bool[Tensor, "lx y z"],
    render_step_size: float,
    cone_angle: float = 0.0,
    near_plane: float = 0.0,
    far_plane: float = 1e10,
    jitter: Float[Tensor, "r"] | None = None,
    solid: Bool[Tensor, "lx y z"] | None = None,
    max_samples: int = 2**31,
) -> Samples:
    """`march_nested` in plain torch, on any device: every lattice position is looked up, memory rays × steps."""
    r = binaries.shape[1]
    levels = len(binaries) // r
    shift = torch.zeros_like(rays_o[:, 0]) if jitter is None else jitter
    first = near_plane + shift * max(render_step_size, cone_angle * near_plane)
    t = lattice(first, _farthest(rays_o, aabb, levels, far_plane), render_step_size, cone_angle)
    length = (cone_angle * t).clamp(min=render_step_size)
    middle = t + length / 2
    place, level = locate(rays_o[:, None] + middle[..., None] * rays_d[:, None], aabb, levels)
    cell = (place * r).long().clamp(0, r - 1)
    row = cell[..., 0] + level.clamp(max=levels - 1) * r
    hit = (level < levels) & (middle < far_plane) & binaries[row, cell[..., 1], cell[..., 2]]
    if solid is not None:
        hit &= (hit & solid[row, cell[..., 1], cell[..., 2]]).cumsum(1) <= SOLID_DEPTH
    return flatten(hit, t, t + length, max_samples)


def march_nested(
    rays_o: Float[Tensor, "r 3"],
    rays_d: Float[Tensor, "r 3"],
    aabb: Float[Tensor, "6"],
    binaries: Bool[Tensor, "lx y z"],
    render_step_size: float,
    cone_angle: float = 0.0,
    near_plane: float = 0.0,
    far_plane: float = 1e10,
    jitter: Float[Tensor, "r"] | None = None,
    solid: Bool[Tensor, "lx y z"] | None = None,
    max_samples: int = 2**31,
) -> Samples:
    """Samples of the given rays in the occupied cells of nested grids; arguments as of `march`, and:

    Args:
        aabb: the smallest box; each further one is twice as large about the same centre.
        binaries: the levels' cells stacked along x; a level is as long as it is wide.
        cone_angle: a sample that starts at t is max(render_step_size, cone_angle · t) long.
    """
    o, d = (np.ascontiguousarray(x.detach().numpy(), np.float32) for x in (rays_o, rays_d))
    box = aabb.numpy().astype(np.float32)
    shift = np.zeros(len(o), np.float32) if jitter is None else jitter.numpy()
    blocked = np.zeros((1, 1, 1), np.bool_) if solid is None else solid.numpy()
    step, cone = np.float32(render_step_size), np.float32(cone_angle)
    farthest = _farthest(rays_o, aabb, len(binaries) // binaries.shape[1], far_plane)
    start = torch.tensor([near_plane])
    most = lattice(start, farthest, render_step_size, cone_angle).shape[1] + 1
    centre, half = (box[:3] + box[3:]) / 2, (box[3:] - box[:3]) / 2
    settings = (step, cone, np.float32(near_plane), np.float32(far_plane))

    def walk(part: slice, room: int, first: bool) -> tuple[np.ndarray, ...]:
        grid = centre, half, binaries.numpy(), blocked
        return walk_nested(o[part], d[part], *grid, shift[part], *settings, most, room, first)

    return gather(walk, len(o), most, max_samples)
