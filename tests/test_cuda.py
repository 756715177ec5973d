"""The CUDA path held against its CPU twin; skipped where there is no device."""

import pytest
import torch
from small import radiance_config

from sinefield.config import make_config
from sinefield.render.composite_triton import composite_triton
from sinefield.render.march import march
from sinefield.render.march_cuda import why_not_nerfacc
from sinefield.render.march_triton import why_not_triton
from sinefield.render.occupancy import marcher
from sinefield.render.volume import composite, composite_reference
from sinefield.training.train import train

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def rays(generator, n=500):
    o = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=1) * 3
    target = torch.rand(n, 3, generator=generator) - 0.5
    return o, torch.nn.functional.normalize(target - o, dim=1)


def need(which):
    if why := {"nerfacc": why_not_nerfacc, "triton": why_not_triton}.get(which, lambda: None)():
        pytest.skip(f"{which}: {why}")


@pytest.mark.parametrize("which", ["reference", "nerfacc", "triton"])
def test_marchers_agree_with_the_cpu(generator, which):
    need(which)
    o, d = rays(generator)
    box, jitter = torch.tensor([-1.0, -1, -1, 1, 1, 1]), torch.rand(len(o), generator=generator)
    cells = torch.rand(16, 16, 16, generator=generator) < 0.3
    truth = march(o, d, box, cells, 0.03, jitter=jitter)
    ours = marcher(torch.device("cuda"), which)(
        o.cuda(), d.cuda(), box.cuda(), cells.cuda(), 0.03, jitter=jitter.cuda()
    )
    counts, expected = ours.packed_info[:, 1].cpu(), truth.packed_info[:, 1]
    # Rounding moves single samples across cell walls.
    assert (counts - expected).abs().max() <= 2 and (counts == expected).float().mean() > 0.9
    sigmas = torch.full_like(truth.t_starts, 0.7)
    pixels = composite(sigmas, torch.ones(len(sigmas), 3), truth)
    other = composite(torch.full_like(ours.t_starts, 0.7), torch.ones(len(ours.t_starts), 3, device="cuda"), ours)
    assert (pixels.opacities - other.opacities.cpu()).abs().max() < 0.05


@pytest.mark.parametrize("which", ["reference", "triton"])
def test_compositing_gradients_agree_with_the_cpu(generator, which):
    need(which)
    o, d = rays(generator, 50)
    box, cells = torch.tensor([-1.0, -1, -1, 1, 1, 1]), torch.ones(4, 4, 4, dtype=torch.bool)
    samples = march(o, d, box, cells, 0.05)
    sigmas, colours = torch.rand(len(samples.t_starts), generator=generator), torch.rand(len(samples.t_starts), 3)
    grads = []
    on_cuda = composite_triton if which == "triton" else composite_reference
    for device, function in (("cpu", composite), ("cuda", on_cuda)):
        s, c = (x.detach().to(device).requires_grad_() for x in (sigmas, colours))
        pixels = function(s, c, type(samples)(*(x.to(device) for x in samples)))
        (pixels.colours.square().sum() + pixels.opacities.sum() + pixels.depths.sum()).backward()
        grads.append((s.grad.cpu(), c.grad.cpu()))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_shape_trains_on_the_device(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    trimesh.creation.icosphere(3).export(tmp_path / "ball.ply")
    config = make_config(
        {
            "kind": "shape",
            "data": {"path": str(tmp_path / "ball.ply"), "points": 20_000},
            "training": {"steps": 150, "batch": 4096, "device": "cuda"},
        },
        "test",
    )
    assert train(config, tmp_path / "run")["iou"] > 0.95


@pytest.mark.parametrize("which", ["reference", "nerfacc", "triton"])
def test_photographs_train_on_the_device(photographs, tmp_path, which):
    need(which)
    config = radiance_config(photographs, steps=150, device="cuda", marcher=which)
    assert train(config, tmp_path / "run")["psnr"] > 20
