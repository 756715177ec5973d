"""The CUDA path held against its CPU twin; skipped where there is no device."""

import dataclasses
import warnings
from contextlib import contextmanager

import pytest
import torch
from small import radiance_config, shape_config

from sinefield.config import make_config
from sinefield.data.surfaces.surface import load_surface
from sinefield.fields.base import step_generator
from sinefield.fields.radiance.training import RadianceTask, load_scene
from sinefield.fields.shape.training import ShapeTask
from sinefield.kernels.cuda import nerfacc, tinycudann
from sinefield.kernels.cuda import rays as tritons
from sinefield.learning.loop import make_optimizers
from sinefield.learning.train import train
from sinefield.nn.hashgrid import HashGrid
from sinefield.nn.mlp import MLP
from sinefield.nn.weights import WeightSpec
from sinefield.render.march import Grid, March, march
from sinefield.render.volume import composite, composite_reference

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def rays(generator, n=500):
    o = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=1) * 3
    target = torch.rand(n, 3, generator=generator) - 0.5
    return o, torch.nn.functional.normalize(target - o, dim=1)


def need(which):
    if why := {"nerfacc": nerfacc.why_not, "triton": tritons.why_not}.get(which, lambda: None)():
        pytest.skip(f"{which}: {why}")


@pytest.mark.parametrize("which", ["reference", "nerfacc", "triton"])
def test_marchers_agree_with_the_cpu(generator, which):
    need(which)
    o, d = rays(generator)
    box, jitter = torch.tensor([-1.0, -1, -1, 1, 1, 1]), torch.rand(len(o), generator=generator)
    cells = torch.rand(16, 16, 16, generator=generator) < 0.3
    truth = march(o, d, Grid(box, cells), March(0.03), jitter)
    there = Grid(box.cuda(), cells.cuda())
    ours = march(o.cuda(), d.cuda(), there, March(0.03), jitter.cuda(), asked=which)
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
    samples = march(o, d, Grid(box, cells), March(0.05))
    sigmas, colours = torch.rand(len(samples.t_starts), generator=generator), torch.rand(len(samples.t_starts), 3)
    grads = []
    on_cuda = tritons.composite if which == "triton" else composite_reference
    for device, function in (("cpu", composite), ("cuda", on_cuda)):
        s, c = (x.detach().to(device).requires_grad_() for x in (sigmas, colours))
        seen, opacities, depths = function(s, c, type(samples)(*(x.to(device) for x in samples)))
        (seen.square().sum() + opacities.sum() + depths.sum()).backward()
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


HASHED = {"encoding": "hash", "levels": 5, "log2_table": 10, "coarsest": 4, "finest": 60, "weights": "dense"}


@contextmanager
def waiting(allowed):
    """Waiting for the device is an error, or is not."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remark that it does not see every wait
        torch.cuda.set_sync_debug_mode("default" if allowed else "error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def stepper(task, config):
    optimizers = make_optimizers(task, config.training)

    def step(index):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = task.step(index, step_generator(0, index, task.device))
        for optimizer in optimizers:
            optimizer.step()
        return loss

    return step


def shape_task(ball, captured=True, dtype=torch.bfloat16, chunk=None, **field):
    config = shape_config(ball, device="cuda")
    config.training.chunk = chunk
    config.field = dataclasses.replace(config.field, **field)
    task = ShapeTask(config, load_surface(ball))
    task.field.set_dtype(dtype)
    if not captured:
        task.graphed = None
    return task, config


@pytest.mark.parametrize("captured", [True, False])
@pytest.mark.parametrize("field", [{}, HASHED], ids=["sine", "hash"])
def test_a_shape_step_does_not_wait_for_the_device(ball, captured, field):
    step = stepper(*shape_task(ball, captured, **field))
    step(0)
    with waiting(False):
        losses = [step(index) for index in range(1, 5)]
    assert all(torch.isfinite(loss) for loss in losses)


def test_waiting_would_be_seen():
    with waiting(False), pytest.raises(RuntimeError, match="synchron"):
        torch.ones(3, device="cuda").sum().item()


@pytest.mark.parametrize("field", [{}, HASHED], ids=["sine", "hash"])
def test_a_captured_step_is_the_step(ball, field):
    (captured, _), (plain, _) = (shape_task(ball, c, torch.float32, **field) for c in (True, False))
    for index in range(4):
        found = []
        for task in (captured, plain):
            task.field.zero_grad()
            loss = task.step(index, step_generator(0, index, task.device))
            found.append([loss, *(p.grad.clone() for p in task.field.parameters())])
        assert captured.graphed.works
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))
            assert b.abs().max() > 0


def test_a_radiance_step_waits_in_the_marcher_only(photographs):
    config = radiance_config(photographs, device="cuda")
    config.training.chunk = None
    task = RadianceTask(config, load_scene(config))
    task.field.set_dtype(torch.bfloat16)
    task.grid_moves = False
    march_there = task.field.grid.sampling

    def sampling(*arguments, **settings):
        with waiting(True):
            return march_there(*arguments, **settings)

    task.field.grid.sampling = sampling
    step = stepper(task, config)
    step(0)
    with waiting(False):
        losses = [step(index) for index in range(1, 4)]
    assert all(torch.isfinite(loss) for loss in losses)


def test_hash_grids_agree_with_the_cpu(generator):
    torch.manual_seed(0)
    grid = HashGrid(levels=6, log2_table=12, coarsest=4, finest=300)
    x, weights = torch.rand(3000, 3, generator=generator) * 2 - 1, torch.randn(3000, 12, generator=generator)
    found = []
    for device in ("cpu", "cuda"):
        grid = grid.to(device)
        out = grid(x.to(device))
        (slope,) = torch.autograd.grad((out * weights.to(device)).sum(), [grid.table])
        found.append((out.detach().cpu(), slope.cpu()))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))


@pytest.fixture
def tiny():
    if why := tinycudann.why_not():
        pytest.skip(f"tinycudann: {why}")


@pytest.mark.parametrize("kind", ["sine", "lowrank", "dense"])
@pytest.mark.parametrize(("inputs", "width", "depth"), [(33, 15, 3), (32, 63, 4), (51, 127, 2), (48, 200, 3)])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_tinycudann_networks_agree_with_torch(tiny, kind, inputs, width, depth, activation):
    torch.manual_seed(0)
    net = MLP(inputs, 4, width, depth, WeightSpec(kind, rank=4), activation).cuda()
    x = torch.randn(5000, inputs, device="cuda", requires_grad=True)
    found = []
    for out in (tinycudann.network(x, net.tensors()), net.reference(x)):
        found.append([out.detach(), *torch.autograd.grad(out.square().mean(), [x, *net.parameters()])])
    for a, b in zip(*found, strict=True):
        # fp16 moves single points across a kink.
        assert float((a - b).norm() / b.norm()) < 0.03


def test_tinycudann_grids_agree_with_torch(tiny):
    torch.manual_seed(0)
    grid = HashGrid(levels=6, log2_table=12, coarsest=4, finest=300).cuda()
    x = torch.rand(5000, 3, device="cuda") * 2 - 1
    found = []
    for out in (tinycudann.hashgrid(x, grid.table, grid.given), grid.reference(x)):
        found.append([out.detach(), *torch.autograd.grad(out.square().sum(), [grid.table])])
    for a, b in zip(*found, strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-3


@pytest.mark.parametrize("backend", ["torch", "tinycudann"])
@pytest.mark.parametrize("encoding", ["frequency", "hash"])
@pytest.mark.parametrize("kind", ["shape", "radiance"])
def test_fields_are_learned_on_the_device(kind, encoding, backend, ball, photographs, tmp_path, request):
    if backend == "tinycudann":
        request.getfixturevalue("tiny")
    settings = {"steps": 250, "device": "cuda", "backend": backend}
    config = shape_config(ball, **settings) if kind == "shape" else radiance_config(photographs, **settings)
    config.field = dataclasses.replace(config.field, activation="relu", **(HASHED if encoding == "hash" else {}))
    report = train(config, tmp_path / "run")
    name, least = ("iou", 0.95) if kind == "shape" else ("psnr", 20)
    assert report[name] > least


@pytest.mark.parametrize("which", ["reference", "nerfacc", "triton"])
def test_photographs_train_on_the_device(photographs, tmp_path, which):
    need(which)
    config = radiance_config(photographs, steps=150, device="cuda", marcher=which)
    assert train(config, tmp_path / "run")["psnr"] > 20
