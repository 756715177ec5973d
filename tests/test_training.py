"""Training end to end on small analytic data: it learns, it repeats, it resumes, it stops cleanly."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import trimesh
from browser import PATIENCE, wait_for
from PIL import Image
from small import CENTRE, RADIUS, radiance_config, shape_config
from test_video import read

from sinefield.cameras.orbits import Orbit
from sinefield.config import load_config
from sinefield.data.surfaces.surface import load_surface
from sinefield.errors import SinefieldError
from sinefield.export.flight import Flight
from sinefield.export.info import describe
from sinefield.export.mesh import export_mesh, extract_field
from sinefield.export.video import export_video
from sinefield.fields.base import step_generator
from sinefield.fields.radiance.training import RadianceTask, load_scene
from sinefield.fields.shape.training import ShapeTask
from sinefield.learning.evaluate import evaluate, evaluate_file
from sinefield.learning.loop import Interrupted, optimise, rate
from sinefield.learning.pack import pack
from sinefield.learning.train import train
from sinefield.store.fields import load_field, pack_bits, save_field, unpack_bits
from sinefield.store.run import Run


def tensors(folder):
    return {k: v.clone() for k, v in load_field(folder)[0].state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_shape_is_learned(ball_run):
    folder, report = ball_run
    assert report["iou"] > 0.97
    assert report["params"] == (15 * 32 + 32) + 2 * (2 * 4 * 32 + 32) + 33
    assert report["chamfer_l1"] < 0.03 * RADIUS and report["fscore"] > 0.8
    for name in ("config.yaml", "field.safetensors", "metrics.jsonl", "report.json", "scores.csv"):
        assert (folder / name).stat().st_size > 0
    for name in ("curves.png", "shape.png"):
        assert np.asarray(Image.open(folder / "pictures" / name)).std() > 5


def test_a_mesh_comes_back_in_the_inputs_coordinates(ball_run, tmp_path):
    folder, _ = ball_run
    report = export_mesh(folder, tmp_path / "out.ply", resolution=48)
    mesh = trimesh.load(tmp_path / "out.ply")
    assert report["watertight"] and mesh.is_watertight
    assert np.allclose(mesh.bounds.mean(0), CENTRE, atol=0.05 * RADIUS)
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.05)


@pytest.mark.parametrize(
    ("field", "loss"), [("distance", "l1"), ("distance", "asinh"), ("occupancy", "bce"), ("occupancy", "mse")]
)
def test_other_losses_learn(ball, tmp_path, field, loss):
    config = shape_config(ball, steps=200)
    config.field.represents, config.field.loss = field, loss
    report = train(config, tmp_path / "run")
    assert report["iou"] > 0.93
    vertices, _, _ = extract_field(load_field(tmp_path / "run")[0], 40)
    assert np.linalg.norm(vertices - CENTRE, axis=1).mean() == pytest.approx(RADIUS, rel=0.06)


@pytest.mark.slow
def test_eikonal_keeps_the_slope(ball, tmp_path):
    """|∇d| = 1 also outside the band in which distances are learned, where nothing else asks for it."""
    slopes = {}
    for weight in (0.0, 1.0):
        train(shape_config(ball, steps=300, eikonal=weight), tmp_path / str(weight))
        field, _ = load_field(tmp_path / str(weight))
        direction = torch.nn.functional.normalize(torch.randn(500, 3), dim=1)
        point = (direction * 0.75 * field.scale.float() * RADIUS).requires_grad_()
        (slope,) = torch.autograd.grad((field(point) * field.config.band).sum(), point)
        slopes[weight] = slope.norm(dim=1).mean().item()
    assert abs(slopes[1.0] - 1) < 0.2 < abs(slopes[0.0] - 1)


@pytest.mark.slow
def test_point_cloud_is_learned(tmp_path):
    points = trimesh.creation.icosphere(4, radius=1.0).vertices
    np.savetxt(tmp_path / "cloud.xyz", np.hstack([points * RADIUS + CENTRE, points]))
    with pytest.raises(SinefieldError, match="eikonal"):
        train(shape_config(tmp_path / "cloud.xyz", steps=1, eikonal=0.0), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    report = train(shape_config(tmp_path / "cloud.xyz", steps=250), tmp_path / "run")  # decided by the data: 0.1
    assert report["iou"] > 0.93


def test_photographs_are_learned(photo_run):
    folder, report = photo_run
    assert report["psnr"] > 20 and report["ssim"] > 0.8 and report["views"] == 3
    assert report["psnr"] == pytest.approx(np.mean([row["psnr"] for row in report["per_view"]]))
    assert np.asarray(Image.open(folder / "pictures" / "view_000.png")).std() > 20
    assert json.loads((folder / "report.json").read_text())["psnr"] == report["psnr"]


@pytest.mark.parametrize("kind", ["shape", "radiance"])
def test_hash_fields_are_learned_packed_and_unpacked(kind, ball, photographs, tmp_path):
    hashed = {"encoding": "hash", "levels": 6, "log2_table": 11, "coarsest": 4, "finest": 48, "weights": "dense"}
    config = shape_config(ball, steps=120) if kind == "shape" else radiance_config(photographs, steps=150)
    config.field = dataclasses.replace(config.field, **hashed)
    report = train(config, tmp_path / "run")
    name, least = ("iou", 0.95) if kind == "shape" else ("psnr", 20)
    assert report[name] > least
    packed = pack(tmp_path / "run", tmp_path / "a.sine", bits=6, seconds=0)
    assert evaluate_file(tmp_path / "a.sine", str(ball if kind == "shape" else photographs))[name] == pytest.approx(
        packed[name], abs=1e-3
    )
    field, _ = load_field(tmp_path / "a.sine")
    settled = Run(tmp_path / "run").config().field  # as the data have decided it
    assert field.config == settled and field.config.encoding == "hash" and field.encoding.table.abs().max() > 1e-3


def test_a_batch_too_large_for_the_memory_is_halved(ball, tmp_path, capsys):
    config = shape_config(ball, steps=5)
    task = ShapeTask(config, load_surface(ball))
    step, asked = task.step, []

    def limited(index, generator):
        asked.append(task.config.training.batch)
        if task.config.training.batch > 600:
            # What torch's allocator says of more than there is.
            torch.empty(1 << 60)
        return step(index, generator)

    task.step = limited
    result = optimise(task, config.training, Run.prepare(tmp_path / "run", config), 0)
    assert asked == [2048, 1024, 512, 512, 512, 512, 512] and result["steps"] == 5
    assert "the batch is now 512" in capsys.readouterr().err and config.training.batch == 2048
    task.step = lambda index, generator: torch.zeros(2, 3) @ torch.zeros(2)
    with pytest.raises(RuntimeError, match="size"):
        optimise(task, config.training, Run.prepare(tmp_path / "other", config), 0)


def test_compiling_is_not_on_the_clock(ball, tmp_path, monkeypatch):
    """A first step that takes a minute, where others take a second, costs none of ten seconds of training."""
    config = shape_config(ball, seconds=10.0, score_seconds=1e9, save_seconds=1e9)
    task = ShapeTask(config, load_surface(ball))
    step, clock = task.step, [0.0]

    def slow(index, generator):
        clock[0] += 1.0 if index else 60.0
        return step(index, generator)

    task.step = slow
    monkeypatch.setattr("sinefield.learning.clock.time.perf_counter", lambda: clock[0])
    result = optimise(task, config.training, Run.prepare(tmp_path / "run", config), 0)
    assert result["steps"] == 11 and result["seconds"] == 10.0


def test_evaluation_repeats(photo_run):
    folder, report = photo_run
    assert evaluate(Run(folder))["psnr"] == report["psnr"]


def test_a_radiance_mesh_is_the_ball(photo_run, tmp_path):
    folder, _ = photo_run
    report = export_mesh(folder, tmp_path / "ball.glb", resolution=48, largest=True)
    mesh = trimesh.load(tmp_path / "ball.glb", force="mesh")
    assert report["faces"] > 100
    # What lies inside an opaque ball no photograph shows: hold the outermost surface against it.
    directions = mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True)
    radius = np.linalg.norm(mesh.vertices, axis=1)
    outermost = [radius[directions @ axis > 0.97].max() for axis in np.vstack([np.eye(3), -np.eye(3)])]
    assert np.allclose(outermost, 1.0, atol=0.12)
    top, bottom = (
        np.asarray(mesh.visual.vertex_colors)[m, :3] for m in (mesh.vertices[:, 2] > 0.5, mesh.vertices[:, 2] < -0.5)
    )
    assert top[:, 0].mean() > 150 > 100 > top[:, 2].mean()
    assert bottom[:, 2].mean() > 150 > 100 > bottom[:, 0].mean()


def test_videos(photo_run, ball_run, tmp_path):
    report = export_video(photo_run[0], tmp_path / "a.mp4", Flight(frames=5, size=(33, 31)))
    assert (report["width"], report["height"], report["frames"]) == (33, 31, 5)
    _, frames = read(tmp_path / "a.mp4")
    assert frames.shape == (5, 32, 34, 3) and frames.std() > 10
    export_video(photo_run[0], tmp_path / "depth.gif", Flight(frames=3), channel="depth")
    export_video(ball_run[0], tmp_path / "shape.mp4", Flight(frames=3, size=(64, None)))
    assert read(tmp_path / "shape.mp4")[1].shape == (3, 64, 64, 3)
    with pytest.raises(SinefieldError, match="channel"):
        export_video(ball_run[0], tmp_path / "no.mp4", channel="heat")


def test_a_field_remembers_how_it_was_photographed(photo_run):
    usual = Orbit.of(load_field(photo_run[0])[0].view)
    assert math.hypot(*usual.centre) < 1e-3 and abs(usual.distance - 4) < 1e-3  # the photographs look at the origin
    assert usual.up == (0, 0, 1) and (usual.width, usual.height) == (32, 32)
    assert abs(usual.focal - 0.5 / math.tan(0.4)) < 1e-5


def test_describe_counts(ball_run):
    report, text = describe(ball_run[0])
    assert report["params"] == sum(t["params"] for t in report["tensors"])
    assert [w["weight"] for w in report["weights"]] == ["Dense", "SineLowRank", "SineLowRank", "Dense"]
    assert "SineLowRank" in text


@pytest.mark.parametrize("kind", ["shape", "radiance"])
def test_same_seed_same_field_and_resume_is_exact(kind, ball, photographs, tmp_path):
    """Stopped half-way and resumed must equal uninterrupted, to the bit."""
    data, make = (ball, shape_config) if kind == "shape" else (photographs, radiance_config)
    short = 24 if kind == "shape" else 40  # past an update of the occupancy grid
    train(make(data, steps=2 * short), tmp_path / "whole")
    whole = tensors(tmp_path / "whole")
    train(make(data, steps=2 * short), tmp_path / "again")
    assert same(whole, tensors(tmp_path / "again"))

    import sinefield.learning.loop as loop

    original = loop.step_generator

    def counting(seed, step, device="cpu"):
        if step == short:
            os.kill(os.getpid(), signal.SIGINT)
        return original(seed, step, device)

    loop.step_generator = counting
    try:
        with pytest.raises(Interrupted):
            train(make(data, steps=2 * short), tmp_path / "half")
    finally:
        loop.step_generator = original
    assert not (tmp_path / "half" / "field.safetensors").exists()
    with pytest.raises(SinefieldError, match="go on with --resume"):
        load_field(tmp_path / "half")
    report = train(make(data, steps=2 * short), tmp_path / "half", resume=True)
    assert report["steps"] == 2 * short
    assert same(whole, tensors(tmp_path / "half"))
    steps = [m["step"] for m in Run(tmp_path / "half").read_metrics()]
    assert steps == sorted(set(steps))


def test_another_seed_another_field(ball, tmp_path):
    for seed in (0, 1):
        config = shape_config(ball, steps=3)
        config.seed = seed
        train(config, tmp_path / str(seed))
    assert not same(tensors(tmp_path / "0"), tensors(tmp_path / "1"))


def test_run_folder_rules(ball, tmp_path):
    config = shape_config(ball, steps=2)
    with pytest.raises(SinefieldError, match="no run to resume"):
        train(config, tmp_path / "run", resume=True)
    train(config, tmp_path / "run")
    with pytest.raises(SinefieldError, match="--overwrite"):
        train(config, tmp_path / "run")
    train(config, tmp_path / "run", overwrite=True)
    changed = shape_config(ball, steps=2)
    changed.field.width = 48
    with pytest.raises(SinefieldError, match=r"field\.width was 32 and is now 48"):
        train(changed, tmp_path / "run", resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("mine")
    with pytest.raises(SinefieldError, match="not empty"):
        train(config, tmp_path / "other", overwrite=True)
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["precious.txt"]


def test_resuming_a_finished_run_goes_on_to_a_longer_budget(ball, tmp_path):
    train(shape_config(ball, steps=5), tmp_path / "run")
    assert train(shape_config(ball, steps=8), tmp_path / "run", resume=True)["steps"] == 8


def test_loss_that_explodes_is_one_line(ball, tmp_path):
    config = shape_config(ball, steps=500, adam_lr=1e30, lr=1e30, warmup=0.0)
    config.field.loss = "l1"
    config.field.activation = "relu"
    config.training.precision = "fp32"
    config.training.optimizer = "adam"
    with pytest.raises(SinefieldError, match="the loss is"):
        train(config, tmp_path / "run")


def test_empty_scene_trains_without_samples(photographs, tmp_path):
    """A box that no ray meets: steps are skipped, not fatal."""
    config = radiance_config(photographs, steps=3, hull=False)
    config.data.aabb = [50.0, 50, 50, 51, 51, 51]
    assert train(config, tmp_path / "run")["psnr"] > 0


def test_a_batch_sees_more_rays_at_first(photographs):
    """As many samples on rays that have a quarter as many each; a field that was learned before has its own length."""
    config = radiance_config(photographs, steps=10, coarse=4.0)
    scene = load_scene(config)

    def rays(progress, field=None):
        task = RadianceTask(config, scene, field)
        task.progress = progress
        for step in range(5):  # the number settles
            task.step(step, step_generator(0, step))
        return task.n_rays

    last = rays(1.0)
    assert rays(0.0) == pytest.approx(4 * last, rel=0.15)
    assert rays(0.45) == pytest.approx(2.5 * last, rel=0.15)
    assert rays(0.9) == pytest.approx(last, rel=0.05)
    assert rays(0.0, RadianceTask(config, scene).field) == pytest.approx(last, rel=0.05)


def test_schedule():
    config = shape_config("x", steps=10).training
    assert rate(0.0, config) == pytest.approx(1e-3 / config.warmup)
    assert rate(config.warmup, config) == pytest.approx(1.0, abs=0.01)
    assert rate(1.0, config) == pytest.approx(config.final_lr)


def test_bits_round_trip():
    for shape in [(3, 3, 3), (8, 8, 8), (1, 1, 1)]:
        mask = torch.rand(shape) < 0.5
        assert torch.equal(unpack_bits(pack_bits(mask), mask.shape), mask)


def test_damaged_fields_are_one_line(ball_run, tmp_path):
    folder, _ = ball_run
    good = (folder / "field.safetensors").read_bytes()
    cases = {"short": good[: len(good) // 2], "empty": b"", "text": b"hello", "flipped": b"\xff" * 16 + good[16:]}
    for name, content in cases.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(SinefieldError, match=name):
            load_field(path)
    field, note = load_field(folder)
    field.config.width = 31
    save_field(tmp_path / "misfit.safetensors", field, note)
    with pytest.raises(SinefieldError, match="misfit"):
        load_field(tmp_path / "misfit.safetensors")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_say_how_to_resume(ball, tmp_path, signum, code):
    scene = tmp_path / "ball.yaml"
    scene.write_text(
        f"kind: shape\ndata:\n  path: {ball}\n  points: 20000\ntraining:\n"
        "  steps: 1000000\n  batch: 1024\n  score_seconds: 0.2\n"
    )
    command = [sys.executable, "-m", "sinefield", "train", str(scene), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    wait_for((tmp_path / "run" / "metrics.jsonl").exists)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert "--resume" in errors.splitlines()[-1]
    assert (tmp_path / "run" / "state" / "state.safetensors").exists()
    assert load_config(tmp_path / "run" / "config.yaml").training.steps == 1_000_000


def test_pixels_that_are_never_drawn_never_have_samples(photographs):
    """Rays are drawn from the pixels that meet the masks' hull; what the others could teach is nothing."""
    scene = load_scene(radiance_config(photographs, steps=5))
    task = RadianceTask(radiance_config(photographs, steps=5), scene)
    cameras, n = scene.train.cameras, len(task.pixels)
    never = torch.ones(n, dtype=torch.bool)
    never[task.drawn] = False
    assert 0.05 < float(never.float().mean()) < 0.95
    rays_o, rays_d = (torch.cat(x) for x in zip(*(cameras.view(i) for i in range(len(cameras))), strict=True))
    generator = torch.Generator().manual_seed(0)
    seen = torch.zeros(n)
    for _ in range(8):
        jitter = torch.rand(n, generator=generator)
        seen += (task.field.sampling(rays_o, rays_d, task.step_size, jitter).packed_info[:, 1] > 0) / 8
    assert float(seen[never].mean()) < 1e-3 < float(seen[~never].mean())
    assert RadianceTask(radiance_config(photographs, steps=5, hull=False), scene).drawn is None


@pytest.mark.parametrize(("cost", "steps"), [(0.0, [*range(10, 151, 10)]), (20.0, [10, 110, 150])])
def test_slow_scores_come_less_often(cost, steps, ball, tmp_path, monkeypatch):
    """By a clock of its own: a step takes a second, a score `cost`; in 150 s there are 15 times 10 s, and the end."""
    clock = [0.0]
    step, score = ShapeTask.step, ShapeTask.quick_score
    monkeypatch.setattr("sinefield.learning.clock.time.perf_counter", lambda: clock[0])

    def takes(method, seconds):
        def timed(self, *arguments):
            clock[0] += seconds
            return method(self, *arguments)

        return timed

    monkeypatch.setattr(ShapeTask, "step", takes(step, 1.0))
    monkeypatch.setattr(ShapeTask, "quick_score", takes(score, cost))
    train(shape_config(ball, steps=150, save_seconds=1e9), tmp_path / "run")
    assert [line["step"] for line in Run(tmp_path / "run").read_metrics()] == steps
