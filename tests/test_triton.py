"""Triton's marcher and compositing against their definitions: on CUDA where there is one, else in Triton's interpreter.

The interpreter (conftest.py switches it on) takes CPU tensors and runs the kernels' text; that the compiler takes the
same text is tried for itself.
"""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from test_render import BOX, rays

from sinefield.kernels.cuda import rays as launching
from sinefield.render.march import Grid, March, Samples, march_reference
from sinefield.render.volume import composite_reference

triton = pytest.importorskip("triton", reason="Triton is not installed; it has wheels for Linux")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = [pytest.mark.cuda] if DEVICE.type == "cuda" else []


@pytest.fixture(autouse=True)
def large_programs(monkeypatch):
    """The interpreter's time goes by operations, however many lanes each has."""
    if DEVICE.type == "cpu":
        monkeypatch.setattr(launching, "RAYS", 1024)
        monkeypatch.setattr(launching, "CHUNK", 64)


def on_device(x):
    return x.to(DEVICE) if isinstance(x, torch.Tensor) else x


def march_triton(o, d, grid, settings, jitter=None):
    there = Grid(*map(on_device, grid))
    return Samples(*launching.march(on_device(o), on_device(d), there, settings, on_device(jitter)))


def composite_triton(sigmas, colours, samples):
    return launching.composite(sigmas, colours, samples)


def both(o, d, cells, step, jitter=None, solid=None, **settings):
    """Triton's samples in a grid over `BOX`, and the reference's on the CPU."""
    given = o, d, Grid(BOX, cells, solid), March(step, **settings), jitter
    return Samples(*(x.cpu() for x in march_triton(*given))), march_reference(*given)


def assert_same(ours, truth):
    for a, b in zip(ours, truth, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize(
    ("fill", "with_solid", "cap"),
    [(0.0, True, 2**31), (0.01, False, 2**31), (0.5, True, 2**31), (0.5, False, 200), (1.0, True, 5), (1.0, False, 3)],
)
def test_marcher_is_the_reference(fill, with_solid, cap):
    g = torch.Generator().manual_seed(1)
    o, d = rays(600)
    cells = torch.rand(13, 17, 11, generator=g) < fill
    solid = cells & (torch.rand(13, 17, 11, generator=g) < 0.4) if with_solid else None
    jitter = torch.rand(600, generator=g)
    ours, truth = both(o, d, cells, 0.061, jitter, solid, near_plane=0.3, far_plane=3.0, max_samples=cap)
    assert_same(ours, truth)
    assert len(ours.t_starts) <= cap and (len(ours.t_starts) > 0) == (fill > 0)


def test_rays_along_the_axes_and_on_the_walls():
    along = torch.cat([torch.eye(3), -torch.eye(3)]).repeat_interleave(4, 0)
    o = torch.tensor([[0.1, 0.0, 0.0], [-1.0, -1.2, -0.8], [1.0, 1.0, 1.0], [-1.0, 0.3, 1.7]]).repeat(6, 1)
    cells = torch.rand(9, 6, 7, generator=torch.Generator().manual_seed(4)) < 0.6
    ours, truth = both(o, along, cells, 0.11)
    assert_same(ours, truth)
    assert len(ours.t_starts) > 50


def test_many_programs(monkeypatch):
    """More rays than one program walks, the last program not full."""
    monkeypatch.setattr(launching, "RAYS", 16)
    o, d = rays(40, seed=5)
    assert_same(*both(o, d, torch.ones(5, 5, 5, dtype=torch.bool), 0.41))


def test_no_rays_and_rays_that_miss():
    cells = torch.ones(2, 2, 2, dtype=torch.bool)
    none, truth = both(torch.zeros(0, 3), torch.zeros(0, 3), cells, 0.1)
    assert none.n_rays == 0 and [x.shape for x in none] == [x.shape for x in truth]
    miss, truth = both(torch.tensor([[9.0, 9, 9]]), torch.tensor([[0.0, 0, 1]]), cells, 0.1)
    assert_same(miss, truth)
    assert miss.n_rays == 1 and len(miss.t_starts) == 0


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_rays_that_are_none_end(monkeypatch):
    """Not a number: no sample. A direction of length zero: an end, if not a sensible one."""
    monkeypatch.setattr(launching, "MAX_STEPS", 20)
    o, d = torch.tensor([[0.0, 0, -3]]).repeat(4, 1), torch.tensor([[0.0, 0, 1]]).repeat(4, 1)
    o[1, 0] = d[2, 0] = math.nan
    o[3] = d[3] = 0.0
    cells = torch.ones(3, 3, 3, dtype=torch.bool)
    full, empty = (march_triton(o, d, Grid(BOX, c), March(0.2)).packed_info[:, 1].tolist() for c in (cells, ~cells))
    assert full == [9, 0, 0, 20] and empty == [0, 0, 0, 0]


def pixels_and_gradients(function, sigmas, colours, samples, outer, dtype):
    device = DEVICE if function is composite_triton else torch.device("cpu")
    s, c = (x.to(device, dtype).requires_grad_() for x in (sigmas, colours))
    pixels = function(s, c, Samples(*(x.to(device) for x in samples)))
    total = sum((p * w.to(p)).sum() for p, w in zip(pixels, outer, strict=True))
    return [x.cpu().double() for x in (*pixels, *torch.autograd.grad(total, [s, c]))]


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_and_gradients_against_float64(channels):
    """Rays without samples, with fewer and with more than are taken at once; nothing, fog and walls."""
    o, d = rays(30)
    samples = march_reference(o, d, Grid(BOX, torch.ones(9, 9, 9, dtype=torch.bool)), March(0.02))
    counts = samples.packed_info[:, 1]
    assert counts.min() == 0 and counts.max() > launching.CHUNK
    g = torch.Generator().manual_seed(0)
    density = 10 ** (torch.rand(30, generator=g) * 4 - 1)
    sigmas = torch.rand(len(samples.t_starts), generator=g) * density[samples.ray_indices]
    sigmas[::7], sigmas[5::331] = 0.0, 1e30
    colours = torch.rand(len(sigmas), channels, generator=g)
    outer = [torch.randn(30, channels, generator=g), torch.randn(30, generator=g), torch.randn(30, generator=g)]
    ours = pixels_and_gradients(composite_triton, sigmas, colours, samples, outer, torch.float32)
    truth = pixels_and_gradients(composite_reference, sigmas, colours, samples, outer, torch.float64)
    for a, b in zip(ours, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=3e-6)


def test_long_rays_lose_nothing_in_float32(monkeypatch):
    """Thousands of thin samples, then thousands of dense ones in front of a ray of eight."""
    monkeypatch.setattr(launching, "CHUNK", 512)
    g = torch.Generator().manual_seed(0)
    counts = torch.tensor([20_000, 20_000, 8])
    first = counts.cumsum(0) - counts
    t = torch.cat([torch.arange(int(n)) * 1e-3 for n in counts])
    index = torch.repeat_interleave(torch.arange(3), counts)
    samples = Samples(index, t, t + 1e-3, torch.stack([first, counts], 1))
    sigmas = torch.rand(len(t), generator=g) * torch.tensor([0.05, 5000.0, 20.0])[index]
    colours = torch.rand(len(t), 3, generator=g)
    outer = [torch.ones(3, 3), torch.ones(3), torch.ones(3)]
    ours = pixels_and_gradients(composite_triton, sigmas, colours, samples, outer, torch.float32)
    truth = pixels_and_gradients(composite_reference, sigmas, colours, samples, outer, torch.float64)
    for a, b in zip(ours, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6)


def test_no_samples_and_no_rays():
    for n in (0, 3):
        samples = Samples(torch.zeros(0).long(), torch.zeros(0), torch.zeros(0), torch.zeros(n, 2).long())
        outer = [torch.ones(n, 3), torch.ones(n), torch.ones(n)]
        colours, opacities, depths, *gradients = pixels_and_gradients(
            composite_triton, torch.zeros(0), torch.zeros(0, 3), samples, outer, torch.float32
        )
        assert colours.shape == (n, 3) and not colours.any() and not opacities.any() and not depths.any()
        assert [len(x) for x in gradients] == [0, 0]


def test_the_trial_tells_right_from_wrong(monkeypatch):
    assert launching._try_on(DEVICE) is None
    with monkeypatch.context() as patch:
        patch.setattr(launching, "MAX_DEPTH", 0.01)
        assert "pixels or gradients" in launching._try_on(DEVICE)
    monkeypatch.setattr(launching, "MAX_STEPS", 3)
    assert "samples" in launching._try_on(DEVICE)


COMPILE = """
import json, sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from sinefield.kernels.cuda import triton_kernels
for name, signature, constants, options in json.load(sys.stdin):
    kernel = getattr(triton_kernels, name)
    constants = {(kernel.arg_names.index(n),): value for n, value in constants.items()}
    source = ASTSource(kernel, signature, constants)
    built = compile(source, target=GPUTarget("cuda", 80, 32), options=options)
    print(name, len(built.asm["cubin"]), built.asm["ptx"].count("fma.rn"))
"""


@pytest.mark.skipif(DEVICE.type == "cuda", reason="the other tests have compiled them")
def test_what_is_launched_compiles_without_a_gpu(monkeypatch, tmp_path):
    """Every launch of a march and a compositing, built for compute capability 8.0; the assembler is Triton's own."""
    from sinefield.kernels.cuda import triton_kernels

    types = {torch.float32: "*fp32", torch.int64: "*i64", torch.uint8: "*u8", int: "i32", float: "fp32"}
    launches = []

    def record(name):
        kernel = getattr(triton_kernels, name)

        class Recorded:
            def __getitem__(self, grid):
                def launch(*values, **options):
                    given = dict(zip(kernel.arg_names, values, strict=False)) | options
                    fixed = {n for n, kind in kernel.fn.__annotations__.items() if "constexpr" in str(kind)}
                    signature = {
                        n: "constexpr" if n in fixed else types[getattr(given[n], "dtype", type(given[n]))]
                        for n in kernel.arg_names
                    }
                    rest = {n: value for n, value in options.items() if n not in signature}
                    launches.append((name, signature, {n: given[n] for n in fixed}, rest))
                    kernel[grid](*values, **options)

                return launch

        monkeypatch.setattr(triton_kernels, name, Recorded())

    for name in ("walk", "composite_forward", "composite_backward"):
        record(name)
    monkeypatch.setattr(launching, "RAYS", 32)
    monkeypatch.setattr(launching, "CHUNK", 32)
    assert launching._try_on(DEVICE) is None
    assert [name for name, *_ in launches] == ["walk", "walk", "composite_forward", "composite_backward"]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], input=json.dumps(launches), env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    built = [line.split() for line in done.stdout.splitlines()]
    assert len(built) == 4 and all(int(size) > 1000 for _, size, _ in built)
    # A fused multiply-add would round unlike the twins, and move samples across cell walls.
    assert [int(fused) for name, _, fused in built if name == "walk"] == [0, 0]
