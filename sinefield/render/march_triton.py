"""The marcher in Triton, for CUDA without nvcc: `march` in two passes, one that counts and one that fills.

Written against the reference in `march.py`; docs/results/gpu.md says what of it has run on a GPU.
"""

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from sinefield.kernels.cpu.march import BLOCK, SOLID_DEPTH
from sinefield.kernels.cuda.triton_trial import tried
from sinefield.render.march import Samples, march_reference
from sinefield.render.march_cuda import pack

RAYS = 32
"""Rays a program walks in step: one warp, so that no ray waits for those of another."""
MAX_STEPS = 2**24
"""Lattice positions beyond which float32 counts no more; a direction of length zero would never leave the box."""


@cache
def why_not_triton() -> str | None:
    """None where these kernels and those of `composite_triton` do on CUDA what the reference does, else the reason.

    Found by trying; the first call compiles them, seconds, and Triton keeps them on disk.
    """
    return tried("sinefield.kernels.cuda.triton_kernels", _try_on)


def _try_on(device: torch.device) -> str | None:
    """Three rays, one of them past the box: the same samples, pixels and gradients as the references'?"""
    from sinefield.render.composite_triton import composite_triton
    from sinefield.render.volume import composite_reference

    rays_o = torch.tensor([[0.5, 0.2, -2.0], [-2.0, 0.3, 0.4], [3.0, 0.0, -2.0]], device=device)
    rays_d = torch.tensor([[0.0, 0.0, 1.0], [0.96, 0.0, -0.28], [0.0, 0.0, 1.0]], device=device)
    cells = torch.ones(5, 5, 5, dtype=torch.bool, device=device)
    cells[2] = False
    box = torch.tensor([-1.0, -1, -1, 1, 1, 1], device=device)
    ours, truth = (f(rays_o, rays_d, box, cells, 0.0571) for f in (march_triton, march_reference))
    if not torch.equal(ours.packed_info, truth.packed_info) or not torch.allclose(ours.t_starts, truth.t_starts):
        return "its samples are not the reference's"
    results = []
    for function in (composite_triton, composite_reference):
        sigmas = torch.linspace(0, 9, len(truth.t_starts), device=device).requires_grad_()
        colours = torch.linspace(0, 1, 3 * len(sigmas), device=device).view(-1, 3).requires_grad_()
        pixels = function(sigmas, colours, truth)
        results.append([*pixels, *torch.autograd.grad(sum(p.square().sum() for p in pixels), [sigmas, colours])])
    close = all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*results, strict=True))
    return None if close else "its pixels or gradients are not the reference's"


def march_triton(
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
    """`march` by Triton: the same arguments and the same samples."""
    from sinefield.kernels.cuda.triton_kernels import walk

    o, d, box = (x.detach().float().contiguous() for x in (rays_o, rays_d, aabb))
    occupied = binaries.contiguous().view(torch.uint8)
    # Which blocks of BLOCK³ cells hold an occupied one.
    blocks = F.max_pool3d(binaries[None].float(), BLOCK, ceil_mode=True).to(torch.uint8)
    blocked = occupied if solid is None else solid.contiguous().view(torch.uint8)
    shift = o if jitter is None else jitter.float().contiguous()
    counts = torch.empty(len(o), dtype=torch.int64, device=o.device)
    inputs = (o, d, box, occupied, blocks, blocked, shift)
    settings = (float(render_step_size), float(near_plane), float(far_plane), *binaries.shape)
    fixed = {"BLOCK": BLOCK, "SOLID_DEPTH": SOLID_DEPTH, "MAX_STEPS": MAX_STEPS, "RAYS": RAYS}
    fixed |= {"SOLID": solid is not None, "JITTER": jitter is not None, "num_warps": 1, "enable_fp_fusion": False}

    def launch(rays: int, *outputs: Tensor, fill: bool) -> None:
        if rays:
            walk[(-(-rays // RAYS),)](*inputs, *outputs, rays, *settings, **fixed, FILL=fill)

    launch(len(o), counts, counts, counts, o, o, fill=False)
    packed, total = pack(counts, max_samples)
    ray_indices = torch.empty(total, dtype=torch.int64, device=o.device)
    t_starts, t_ends = torch.empty(total, device=o.device), torch.empty(total, device=o.device)
    launch(len(packed), packed, counts, ray_indices, t_starts, t_ends, fill=True)
    return Samples(ray_indices, t_starts, t_ends, packed)
