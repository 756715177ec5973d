"""How true a field's distances are: what reports say against a ball's formula, and trainings that reach far."""

import json

import numpy as np
import pytest
import torch
from small import shape_config

import sinefield as sf
from sinefield.commands.cli import main
from sinefield.store.fields import load_field


@pytest.fixture(scope="module")
def placed(ball_run):
    """A ball's field, its middle, its radius, and points uniform in twice its box."""
    field = sf.load(ball_run[0])
    low, high = np.reshape(field.bounds, (2, 3))
    points = (low + high) / 2 + 2 * (np.random.default_rng(3).random((3000, 3)) - 0.5) * (high - low)
    return field, (low + high) / 2, float((high - low).mean()) / 2, points


def test_reports_say_how_true_distances_are(ball_run, placed):
    field, middle, radius, points = placed
    away = points - middle
    truth = np.linalg.norm(away, axis=1) - radius
    distances, gradients = field.sdf(points, gradient=True)
    off = 100 * np.abs(distances - truth) / (2 * radius * 3**0.5)
    report = ball_run[1]
    assert report["sdf_error_far"] == pytest.approx(off.mean(), rel=0.3)  # of other points, and a mesh of flat faces
    assert report["sdf_error"] <= report["sdf_error_worst"] and report["sdf_error_far"] <= report["sdf_error_far_worst"]
    cosines = (gradients * away).sum(1) / np.linalg.norm(away, axis=1)
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    assert report["gradient_error"] == pytest.approx(np.median(angles), rel=0.3, abs=0.1)
    assert report["gradient_error"] <= report["gradient_error_95"] and 0 <= report["eikonal_error"] < 10


def test_what_has_no_distances_has_no_such_scores(ball, tmp_path):
    field = sf.fit(ball, steps=3, width=16, rank=2, points=2000, represents="occupancy")
    assert "sdf_error" not in field.scores and "iou" in field.scores


@pytest.mark.slow
def test_far_reach_learns_the_distance_itself(ball, tmp_path, capsys):
    """The network's own value, as it goes into headers and shaders."""
    errors, reports = {}, {}
    for reach in ("near", "far"):
        run = tmp_path / reach
        settings = ["--training.steps", "300", "--training.batch", "2048", "--field.width", "32", "--field.rank", "4"]
        assert main(["train", str(ball), "--out", str(run), "--training.reach", reach, *settings, "--json"]) == 0
        reports[reach] = json.loads(capsys.readouterr().out.splitlines()[-1])
        field, _ = load_field(run)
        low, high = field.aabb.view(2, 3)
        points = low + torch.rand(4000, 3, generator=torch.Generator().manual_seed(5)) * (high - low)
        truth = (points - (low + high) / 2).norm(dim=1) - (high - low).mean() / 2
        errors[reach] = float((field.evaluate(points) - truth).abs().mean() / (high - low).norm())
    assert errors["far"] < 0.01 < errors["near"]
    assert reports["far"]["eikonal_error"] < reports["near"]["eikonal_error"] and reports["far"]["iou"] > 0.97
    header = tmp_path / "ball.h"
    assert main(["code", str(tmp_path / "far"), str(header)]) == 0
    assert "In the box" in header.read_text() and "Within about" not in header.read_text()


def test_what_cannot_reach_far_is_refused(ball, tmp_path, capsys):
    settings = ["--training.reach", "far", "--field.represents", "occupancy", "--training.steps", "2"]
    assert main(["train", str(ball), "--out", str(tmp_path / "run"), *settings]) == 2
    assert "training.reach is far" in capsys.readouterr().err.splitlines()[-1]
    assert shape_config(ball, steps=1).training.reach == "near"
