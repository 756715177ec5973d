"""Short trainings: what they prepare, score, compile and import."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from small import shape_config

from sinefield.config import make_config
from sinefield.data.made.synthetic import _labels
from sinefield.data.surfaces.surface import load_surface
from sinefield.errors import SinefieldError
from sinefield.fields.shape.scores import score_shape
from sinefield.fields.shape.training import points_a_step, prepared_points
from sinefield.kernels import choose
from sinefield.learning.train import train
from sinefield.store.compiled import note_stored, stored
from sinefield.store.fields import load_field
from sinefield.store.run import Run

CPU = torch.device("cpu")


def of(**training):
    return make_config({"kind": "shape", "data": {"path": "a.obj"}, "training": training}, "test")


def test_a_batch_grows_with_the_seconds_and_not_with_the_steps():
    assert [points_a_step(of(seconds=s)) for s in (0.1, 2.0, 4.3, 8.0, 16.0, 180.0)] == [
        *(2048, 2048, 4096, 8192, 16384, 16384)
    ]
    assert points_a_step(of(steps=10)) == points_a_step(of(steps=10, seconds=1.0)) == 16384
    assert points_a_step(of(seconds=1.0, batch=777)) == 777
    assert prepared_points(of(seconds=2.0)) < prepared_points(of(seconds=10.0)) < prepared_points(of(seconds=180.0))
    assert prepared_points(of(steps=8000)) == 2_000_000
    with pytest.raises(SinefieldError, match="batch"):
        of(batch=0)


@pytest.mark.slow
def test_a_short_training_is_scored_on_less_and_says_so(ball, tmp_path, capsys):
    config = shape_config(ball, seconds=0.3, device="cpu")
    quick = train(config, tmp_path / "quick")
    assert quick["scores"] == "quick" and quick["points"] == 60_000
    assert any("quick scores" in line for line in quick["remarks"])
    assert Run(tmp_path / "quick").config().training.batch == 2048
    full = train(config, tmp_path / "full", full_scores=True)
    assert full["scores"] == "full" and full["points"] == 50_000  # see conftest
    assert not any("quick scores" in line for line in full["remarks"])
    steps = train(shape_config(ball, steps=3, seconds=0.3, device="cpu"), tmp_path / "steps")
    assert steps["scores"] == "full"


def test_quick_scores_of_a_trained_field_are_near_the_full_ones(ball, ball_run, tmp_path):
    field, surface = load_field(ball_run[0])[0], load_surface(ball)
    quick, full = (score_shape(field, surface, tmp_path, quick=quick) for quick in (True, False))
    assert (tmp_path / "shape.png").exists()
    assert quick["iou"] == pytest.approx(full["iou"], abs=0.005)
    assert quick["chamfer_l1"] == pytest.approx(full["chamfer_l1"], rel=0.2)


def test_trees_of_a_surface_are_gone_when_the_interpreter_looks_for_leaks(ball):
    made = f"from sinefield.data.surfaces.surface import *\ns = load_surface({str(ball)!r})\n"
    made += "import sys; sys.keep = s; print(float(abs(signed_distance(s, s.vertices[:5])).max()))"
    told = subprocess.run([sys.executable, "-c", made], capture_output=True, text=True, check=True)
    assert float(told.stdout) < 1e-12 and "leak" not in told.stderr


def test_nothing_is_compiled_where_only_stored_kernels_are_wanted():
    wish = {"gradients": 1, "needs": frozenset({"relu"})}
    usual = choose.choose("network", CPU, **wish)
    with choose.only_stored_kernels(frozenset()) as missed:
        spared = choose.choose("network", CPU, **wish)
        assert choose.choose("encoding", CPU).name == choose.DEFINITION
    assert usual.name == "tiles" and spared.name == "layers" and missed == {"network", "encoding"}
    assert choose.choose("network", CPU, **wish).name == "tiles"
    assert usual.stored_as in choose.used_kernels()
    with choose.only_stored_kernels(frozenset([str(usual.stored_as)])) as missed:
        assert choose.choose("network", CPU, **wish).name == "tiles" and not missed


def test_notes_of_stored_kernels_add_up_and_are_of_one_place(tmp_path, monkeypatch):
    monkeypatch.setenv("SINEFIELD_CACHE", str(tmp_path))
    assert stored() == frozenset()
    note_stored(["a 1"])
    note_stored(["b 2", "a 1"])
    assert stored() == {"a 1", "b 2"}
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "elsewhere"))
    assert stored() == frozenset()


def test_a_short_training_imports_no_more_than_it_needs(ball, tmp_path):
    command = ["train", str(ball), "--out", str(tmp_path / "run"), "--training.seconds", "0.2", "--field.width", "32"]
    made = f"import sys; from sinefield.commands.cli import main\nassert main({command}) == 0\n"
    made += "print('has', *(m for m in ('torch._dynamo', 'trimesh', 'matplotlib', 'networkx') if m in sys.modules))"
    told = subprocess.run([sys.executable, "-c", made], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1] == "has"


def test_corners_at_one_place_have_one_number():
    points = np.random.default_rng(0).integers(0, 4, (500, 3)).astype(np.float32)
    points[7] = -points[7] * 0  # minus zero is zero
    expected = np.unique(points, axis=0, return_inverse=True)[1].reshape(-1)
    assert np.array_equal(_labels(points), expected)
