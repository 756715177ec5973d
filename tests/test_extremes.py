"""Training where there is hardly anything to train on, or too much; and numbers that are none."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from small import radiance_config, shape_config

from sinefield.config import make_config, make_field_config
from sinefield.data.surfaces.surface import load_surface
from sinefield.errors import SinefieldError
from sinefield.fields.radiance.training import RadianceTask, load_scene
from sinefield.fields.shape.training import ShapeTask
from sinefield.learning.loop import optimise
from sinefield.learning.train import train
from sinefield.store.fields import load_field
from sinefield.store.run import Run
from sinefield.tensor_files import load_tensors


def only_views(folder, source, n, size=None):
    """The first n photographs of a data set, shrunk to a size (w, h)."""
    meta = json.loads((source / "transforms_train.json").read_text())
    meta["frames"] = meta["frames"][:n]
    folder.mkdir()
    for frame in meta["frames"]:
        name = f"{frame['file_path']}.png"
        picture = Image.open(source / name)
        (folder / name).parent.mkdir(exist_ok=True)
        (picture.resize(size) if size else picture).save(folder / name)
    (folder / "transforms_train.json").write_text(json.dumps(meta))
    return folder


@pytest.mark.parametrize("kind", ["shape", "radiance"])
def test_rank_one_of_one_unit(kind, ball, photographs, tmp_path):
    config = shape_config(ball, steps=4) if kind == "shape" else radiance_config(photographs, steps=4)
    config.field = dataclasses.replace(config.field, rank=1, width=1, depth=2)
    report = train(config, tmp_path / "run")
    assert report["steps"] == 4 and np.isfinite(report["iou" if kind == "shape" else "psnr"])


@pytest.mark.parametrize(("views", "size"), [(1, None), (1, (1, 1)), (3, (1, 1)), (2, (1, 7))])
def test_few_photographs_of_few_pixels(views, size, photographs, tmp_path):
    data = only_views(tmp_path / "data", photographs, views, size)
    report = train(radiance_config(data, steps=20), tmp_path / "run")
    assert report["steps"] == 20 and np.isfinite(report["psnr"]) and report["split"] == "train"


def test_an_image_of_one_pixel(tmp_path):
    Image.new("RGB", (1, 1), (200, 100, 50)).save(tmp_path / "a.png")
    config = make_config(
        {
            "kind": "image",
            "data": {"path": str(tmp_path / "a.png")},
            "field": {"width": 8, "weights": "sine", "rank": 2},
            "training": {"steps": 40, "batch": 16},
        },
        "test",
    )
    assert train(config, tmp_path / "run")["psnr"] > 25


@pytest.mark.parametrize(("box", "sees"), [([-1, -1, 9, 1, 1, 11], False), ([-0.01] * 3 + [0.01] * 3, True)])
def test_boxes_that_hold_nothing(box, sees, photographs, tmp_path):
    """Behind every camera's back, or smaller than a pixel: steps without samples are skipped."""
    data = only_views(tmp_path / "data", photographs, 2)
    config = radiance_config(data, steps=20)
    config.data.aabb = [float(side) for side in box]
    report = train(config, tmp_path / "run")
    assert report["steps"] == 20 and np.isfinite(report["psnr"])


@pytest.mark.parametrize("occupied", [False, True])
def test_a_grid_all_empty_or_all_full(occupied, photographs, tmp_path):
    config = radiance_config(photographs, steps=6, hull=False)
    task = RadianceTask(config, load_scene(config))
    task.grid_moves = False
    task.field.grid.binaries.fill_(occupied)
    before = {k: v.clone() for k, v in task.field.named_parameters()}
    result = optimise(task, config.training, Run.prepare(tmp_path / "run", config), 0)
    assert result["steps"] == 6 and np.isfinite(result["loss"])
    moved = any(not torch.equal(before[k], v) for k, v in task.field.named_parameters())
    assert moved == occupied  # without samples there is nothing to learn
    # Memory and time stay bounded: no more samples than twice the batch.
    o, d = task.cameras.view(0)
    samples = task.field.sampling(o, d, task.step_size, torch.rand(len(o)), 2 * config.training.batch, 0.0)
    assert len(samples.t_starts) <= 2 * config.training.batch


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_is_never_saved(where, ball, tmp_path):
    """From step 3 on NaN: one line, and the state from before it stays."""
    config = shape_config(ball, steps=10, save_seconds=1e-9)
    task = ShapeTask(config, load_surface(ball))
    config, step = task.config, task.step

    def broken(index, generator):
        loss = step(index, generator)
        if index == 3:
            if where == "loss":
                return float("nan")
            next(task.field.parameters()).grad[0] = float("inf")
        return loss

    task.step = broken
    run = Run.prepare(tmp_path / "run", config)
    with pytest.raises(
        SinefieldError, match=r"(the loss is nan at step 3|the field is not finite at step 4); the last"
    ):
        optimise(task, config.training, run, 0)
    tensors, note = load_tensors(run.state_path, "state")
    assert note["step"] == 3 and all(t.isfinite().all() for t in tensors.values())
    run.release()
    assert train(config, tmp_path / "run", resume=True)["steps"] == 10


def test_a_field_that_is_not_finite_is_refused(ball_run, tmp_path):
    tensors, note = load_tensors(ball_run[0] / "field.safetensors", "field")
    from sinefield.tensor_files import save_tensors

    for name, value in (("scale", 0.0), ("aabb", float("nan")), ("network.weights.0.weight", float("inf"))):
        damaged = {k: v.clone() for k, v in tensors.items()}
        damaged[name].view(-1)[0] = value
        save_tensors(tmp_path / "a.safetensors", damaged, note)
        with pytest.raises(SinefieldError, match=r"no finite number|no box"):
            load_field(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["depth", "head_depth"])
def test_a_network_of_more_layers_than_any_is_refused_before_it_is_made(name):
    """Millions of layers of one number each: a file of 2 kB that claimed them took more than ten seconds to refuse."""
    with pytest.raises(SinefieldError, match=f"{name} is 3000000; at most 64"):
        make_field_config("radiance", {name: 3_000_000, "width": 1, "rank": 1, "head_width": 1}, "it")
