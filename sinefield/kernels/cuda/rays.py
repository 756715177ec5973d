"""Marching and compositing in Triton, for CUDA without nvcc: what launches the kernels, and whether they run.

The marcher goes through the grid twice: it counts samples, then fills them in. Compositing has one program a ray, which
scans it by itself, so that no running sum over the batch can cancel and float32 is enough: the optical depth in front
of a sample that still receives light is small, and so is its rounding. Written against `render.march` and
`render.volume`; docs/results/gpu.md says what of this has run on a GPU.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sinefield.kernels.cuda.nerfacc import pack_info
from sinefield.kernels.cuda.trial import tried
from sinefield.kernels.inputs import SOLID_DEPTH, FlatSamples, Grid, March
from sinefield.kernels.shell import Pull, differentiable

RAYS = 32
"""Rays a program walks in step: one warp, so that no ray waits for those of another."""
MAX_STEPS = 2**24
"""Lattice positions beyond which float32 counts no more; a direction of length zero would never leave the box."""
BLOCK = 4
"""Cells along each side of the blocks that an empty ray leaves at once."""
CHUNK = 32
"""Samples of a ray that are composited at once, one a lane."""
MAX_DEPTH = 30.0
"""Optical depth of one step beyond which a float32 pixel changes no more; larger ones would cost the scan digits."""


@cache
def why_not(dtype: torch.dtype | None = None) -> str | None:
    """None where these kernels do on CUDA what the compiled ones do on the CPU, else the reason.

    Found by trying; the first call compiles them, seconds, and Triton keeps them on disk.
    """
    return tried("sinefield.kernels.cuda.triton_kernels", _try_on)


def _try_on(device: torch.device) -> str | None:
    """Three rays, one of them past the box: the same samples, pixels and gradients as on the CPU?"""
    from sinefield.kernels.cpu.composite import composite as composite_there
    from sinefield.kernels.cpu.march import march as march_there

    rays_o = torch.tensor([[0.5, 0.2, -2.0], [-2.0, 0.3, 0.4], [3.0, 0.0, -2.0]])
    rays_d = torch.tensor([[0.0, 0.0, 1.0], [0.96, 0.0, -0.28], [0.0, 0.0, 1.0]])
    cells = torch.ones(5, 5, 5, dtype=torch.bool)
    cells[2] = False
    grid, settings = Grid(torch.tensor([-1.0, -1, -1, 1, 1, 1]), cells), March(0.0571)
    there = Grid(grid.aabb.to(device), cells.to(device))
    truth = FlatSamples(*march_there(rays_o, rays_d, grid, settings))
    ours = march(rays_o.to(device), rays_d.to(device), there, settings)
    same = torch.equal(ours.packed_info.cpu(), truth.packed_info)
    if not same or not torch.allclose(ours.t_starts.cpu(), truth.t_starts):
        return "its samples are not those of the CPU"
    results = []
    for function, samples in ((composite, ours), (composite_there, truth)):
        sigmas = torch.linspace(0, 9, len(truth.t_starts)).to(samples.t_starts.device).requires_grad_()
        colours = torch.linspace(0, 1, 3 * len(sigmas)).to(sigmas.device).view(-1, 3).requires_grad_()
        pixels = function(sigmas, colours, samples)
        loss = sum((p.square().sum() for p in pixels), torch.zeros(()))
        found = [*pixels, *torch.autograd.grad(loss, [sigmas, colours])]
        results.append([x.detach().cpu() for x in found])
    close = all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*results, strict=True))
    return None if close else "its pixels or gradients are not those of the CPU"


def march(
    rays_o: Float[Tensor, "r 3"],
    rays_d: Float[Tensor, "r 3"],
    grid: Grid,
    settings: March,
    jitter: Float[Tensor, "r"] | None = None,
    clear: Float[Tensor, "r"] | None = None,
) -> FlatSamples:
    """The samples of `render.march.march_reference`; `clear` is of no use here."""
    from sinefield.kernels.cuda import triton_kernels

    walk: Any = triton_kernels.walk  # launched, not called
    o, d, box = (x.detach().float().contiguous() for x in (rays_o, rays_d, grid.aabb))
    occupied = grid.binaries.contiguous().view(torch.uint8)
    # Which blocks of BLOCK³ cells hold an occupied one.
    blocks = F.max_pool3d(grid.binaries[None].float(), BLOCK, ceil_mode=True).to(torch.uint8)
    blocked = occupied if grid.solid is None else grid.solid.contiguous().view(torch.uint8)
    shift = o if jitter is None else jitter.float().contiguous()
    counts = torch.empty(len(o), dtype=torch.int64, device=o.device)
    inputs = (o, d, box, occupied, blocks, blocked, shift)
    lattice = (float(settings.render_step_size), float(settings.near_plane), float(settings.far_plane))
    fixed = {"BLOCK": BLOCK, "SOLID_DEPTH": SOLID_DEPTH, "MAX_STEPS": MAX_STEPS, "RAYS": RAYS}
    fixed |= {"SOLID": grid.solid is not None, "JITTER": jitter is not None, "num_warps": 1, "enable_fp_fusion": False}

    def launch(rays: int, *outputs: Tensor, fill: bool) -> None:
        if rays:
            walk[(-(-rays // RAYS),)](*inputs, *outputs, rays, *lattice, *grid.binaries.shape, **fixed, FILL=fill)

    launch(len(o), counts, counts, counts, o, o, fill=False)
    packed, total = pack_info(counts, settings.max_samples)
    ray_indices = torch.empty(total, dtype=torch.int64, device=o.device)
    t_starts, t_ends = torch.empty(total, device=o.device), torch.empty(total, device=o.device)
    launch(len(packed), packed, counts, ray_indices, t_starts, t_ends, fill=True)
    return FlatSamples(ray_indices, t_starts, t_ends, packed)


def composite(
    sigmas: Float[Tensor, "n_samples"], colours: Float[Tensor, "n_samples c"], samples: FlatSamples
) -> tuple[Tensor, Tensor, Tensor]:
    """Colours, opacities and depths of rays, float32; gradients reach `sigmas` and `colours`."""
    from sinefield.kernels.cuda import triton_kernels

    kernels: Any = triton_kernels  # launched, not called
    rays, channels = samples.packed_info.shape[0], colours.shape[1]
    pad = 1 << (channels - 1).bit_length()
    fixed: dict[str, Any] = {"C": channels, "PAD": pad, "MAX_DEPTH": MAX_DEPTH, "CHUNK": CHUNK, "num_warps": 1}

    def step(wanted: Sequence[bool], *inputs: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Pull]:
        given = [x.detach().contiguous() for x in (*inputs, samples.t_starts, samples.t_ends, samples.packed_info)]
        sigmas, colours = given[:2]
        out, passed = colours.new_empty(rays, channels), torch.empty_like(sigmas)
        opacities, depths = colours.new_empty(rays), colours.new_empty(rays)
        if rays:
            kernels.composite_forward[(rays,)](*given, out, opacities, depths, passed, **fixed)

        def pull(*grads: Tensor) -> tuple[Tensor, Tensor]:
            grad_sigmas, grad_colours = torch.empty_like(sigmas), torch.empty_like(colours)
            if rays:
                from_pixels = [x.contiguous() for x in grads]
                kernels.composite_backward[(rays,)](*given, passed, *from_pixels, grad_sigmas, grad_colours, **fixed)
            return grad_sigmas, grad_colours

        return (out, opacities, depths), pull

    return differentiable(step, sigmas, colours)
