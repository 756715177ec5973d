"""Learned corrections of poses and exposures, against what was put in."""

import json
import math

import numpy as np
import pytest
import torch
from small import radiance_config, write_photographs

from sinefield.errors import SinefieldError
from sinefield.fields.radiance.training import RadianceTask, load_scene
from sinefield.fields.radiance.view_fit import ViewFit
from sinefield.learning.pack import Packer
from sinefield.learning.train import train
from sinefield.store.run import Run


def test_it_changes_nothing_at_first_and_its_means_stay_out():
    fit = ViewFit(4, 2.0, poses=True, exposure=True)
    view, o, d = torch.tensor([0, 3, 1]), torch.randn(3, 3), torch.randn(3, 3)
    for ours, given in zip(fit.rays(view, o, d), (o, d), strict=True):
        torch.testing.assert_close(ours, given)
    torch.testing.assert_close(fit.exposures(view), torch.ones(3, 3))
    with torch.no_grad():
        for p in fit.parameters():
            p.copy_(torch.tensor([0.1, -0.2, 0.3]).expand(4, 3))  # the same for all views: of no effect
    torch.testing.assert_close(fit.rays(view, o, d)[1], d)
    torch.testing.assert_close(fit.exposures(view), torch.ones(3, 3))


def test_rotations_are_rodrigues():
    fit = ViewFit(2, 1.0, poses=True, exposure=False)
    angle = 0.4
    with torch.no_grad():
        fit.turns.copy_(torch.tensor([[0, 0, angle], [0, 0, -angle]]))
        fit.shifts.copy_(torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]))
    o, d = fit.rays(torch.tensor([0, 1]), torch.zeros(2, 3), torch.tensor([[1.0, 0, 0], [1.0, 0, 0]]))
    expected = torch.tensor([[math.cos(angle), math.sin(angle), 0], [math.cos(angle), -math.sin(angle), 0]])
    torch.testing.assert_close(d, expected)
    torch.testing.assert_close(o, torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]))


def test_the_step_s_gradients_are_those_of_the_whole_graph(tmp_path):
    """Chunk by chunk through leaves, against one pass by autograd, and against a difference quotient."""
    config = radiance_config(
        write_photographs(tmp_path), steps=1, fit_poses=True, fit_exposure=True, batch=2048, coarse=1
    )
    config.training.chunk = 300
    task = RadianceTask(config, load_scene(config))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in task.fit.parameters():
            p.copy_(0.02 * torch.randn(p.shape, generator=generator))
    task.step(0, torch.Generator().manual_seed(5))
    found = {name: p.grad.clone() for name, p in task.fit.named_parameters()}

    task.n_rays, task.config.training.chunk = 2048 // 16, 10**9
    task.field.zero_grad()
    draws = torch.Generator().manual_seed(5)
    view, o, d, target, background, *_ = task._draw(draws)
    o, d = task.fit.rays(view, o, d)
    jitter = torch.rand(len(o), generator=draws)
    samples = task.field.sampling(o.detach(), d.detach(), task.step_size, jitter, 2 * 2048)
    colours = task.field.shade(o, d, samples).over(background) * task.fit.exposures(view)
    loss = (colours - target).square().mean()
    grads = torch.autograd.grad(loss, list(task.fit.parameters()))
    for (name, grad), other in zip(found.items(), grads, strict=True):
        assert float(other.norm()) > 0
        torch.testing.assert_close(grad, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()), msg=name)


def perturb(folder, turn, shift, seed=0):
    """Wrong poses in a Blender data set: every camera turned and shifted at random."""
    path = folder / "transforms_train.json"
    meta = json.loads(path.read_text())
    g = np.random.default_rng(seed)
    for frame in meta["frames"]:
        pose = np.array(frame["transform_matrix"])
        axis = g.normal(size=3)
        x, y, z = axis / np.linalg.norm(axis) * turn
        skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
        pose[:3, :3] = torch.matrix_exp(skew).numpy() @ pose[:3, :3]
        pose[:3, 3] += shift * g.normal(size=3) / math.sqrt(3)
        frame["transform_matrix"] = pose.tolist()
    path.write_text(json.dumps(meta))


@pytest.mark.slow
def test_wrong_poses_are_found_again(tmp_path):
    write_photographs(tmp_path)
    truth = load_scene(radiance_config(tmp_path)).train.cameras.c2w
    perturb(tmp_path, math.radians(2), 0.08)
    scores, errors = {}, {}
    for fits in (False, True):
        config = radiance_config(tmp_path, steps=600, fit_poses=fits, hull=False)
        report = train(config, tmp_path / f"run{fits}")
        scores[fits] = report["psnr"]
        wrong = load_scene(config).train.cameras.c2w
        turns = torch.eye(3).expand(len(wrong), 3, 3)
        offsets = torch.zeros(len(wrong), 3)
        if fits:
            from sinefield.tensor_files import load_tensors

            settled, note = load_tensors(Run(tmp_path / "runTrue").photographs_path, "file")
            assert len(note["names"]) == len(wrong)
            fit = ViewFit.of(settled, list(range(len(wrong))))
            turns, offsets = fit.rotations(), fit.offsets()
        # The ball looks the same when turned about its axis; where a camera's axis meets the ball's plane does not.
        axis = -(turns @ wrong[:, :, 2:])[:, :, 0]
        centre = wrong[:, :, 3] + offsets
        nearest = centre - (centre * axis).sum(1, keepdim=True) * axis
        errors[fits] = float(nearest.norm(dim=1).mean())
    exact = truth[:, :, 3] - (truth[:, :, 3] * truth[:, :, 2]).sum(1, keepdim=True) * truth[:, :, 2]
    assert float(exact.norm(dim=1).max()) < 1e-4  # all looked at the centre
    assert errors[True] < 0.5 * errors[False] and scores[True] > scores[False] + 0.5, (errors, scores)


@pytest.mark.slow
def test_exposures_are_found_again_and_packing_uses_them(tmp_path):
    from PIL import Image

    write_photographs(tmp_path)
    gains = {}
    for i, path in enumerate(sorted((tmp_path / "train").glob("*.png"))):
        rgba = np.asarray(Image.open(path)).astype(np.float64)
        gains[path.name] = 0.75 if i % 2 else 1.0
        rgba[..., :3] *= gains[path.name]
        Image.fromarray(rgba.round().astype(np.uint8)).save(path)
    config = radiance_config(tmp_path, steps=500, fit_exposure=True, fit_lr=5e-3)
    config.data.background = "black"
    report = train(config, tmp_path / "run")
    run = Run(tmp_path / "run")
    packer = Packer(run, run.config())
    learned = packer.task.fit.exposures(torch.arange(len(packer.data.train)))
    bright = torch.tensor([gains[name.split("/")[-1]] == 1.0 for name in packer.data.train.names])
    # The scene is in the middle of the two; what separates them is known.
    ratio = learned[~bright].mean() / learned[bright].mean()
    assert float(ratio) == pytest.approx(0.75, abs=0.04)
    assert report["steps"] == 500


def test_hash_grids_do_not_fit_poses(tmp_path):
    config = radiance_config(write_photographs(tmp_path), fit_poses=True)
    config.field.encoding = "hash"
    with pytest.raises(SinefieldError, match="frequency"):
        RadianceTask(config, load_scene(config))
