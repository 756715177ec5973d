"""`sinefield train` on data without a scene file."""

import json
import shutil

import pytest
import torch
import trimesh
from PIL import Image
from safetensors.torch import load_file

import sinefield
from sinefield.commands.cli import main
from sinefield.errors import SinefieldError


def run(capfd, *arguments):
    """Exit code, standard output and standard error of one command."""
    code = main([str(a) for a in arguments])
    return code, *capfd.readouterr()


def last_json(out):
    return json.loads(out.splitlines()[-1])


def refused(capfd, tmp_path, *arguments, says):
    """The command is refused in one line that says all of `says`, and nothing is written."""
    code, _, err = run(capfd, *arguments)
    assert code == 2 and len(err.splitlines()) == 1
    for text in says:
        assert str(text) in err
    assert not (tmp_path / "out").exists()


def test_train_takes_data_without_a_scene_file(tmp_path, capfd):
    """It says as what, trains as `sf.fit` does with the same settings, and goes on with --resume."""
    mesh = tmp_path / "ball of mine.obj"
    trimesh.creation.icosphere(3, 2.0).export(mesh)
    small = {"field.width": 16, "field.rank": 2, "data.points": 5000, "training.batch": 1024}
    words = [f"--{name}={value}" for name, value in small.items()]
    command = ["train", mesh, "--out", tmp_path / "run", *words, "--seed", 3, "--json"]
    code, out, err = run(capfd, *command, "--training.steps=20")
    assert code == 0 and last_json(out)["steps"] == 20 and last_json(out)["kind"] == "shape"
    assert f"{mesh}: trained as kind shape, with the settings usual for it" in err.splitlines()
    fitted = sinefield.fit(mesh, steps=20, seed=3, out=tmp_path / "fitted", **small)
    assert (tmp_path / "run" / "config.yaml").read_text() == (tmp_path / "fitted" / "config.yaml").read_text()
    ours, theirs = (load_file(tmp_path / name / "field.safetensors") for name in ("run", "fitted"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert fitted.scores["iou"] == last_json(out)["iou"]
    code, out, _ = run(capfd, *command, "--training.steps=30", "--resume")
    assert code == 0 and last_json(out)["steps"] == 30


@pytest.mark.parametrize(("data", "kind"), [("data", "radiance"), ("dots.png", "image")])
def test_the_kind_follows_from_the_data(tmp_path, photographs, capfd, monkeypatch, data, kind):
    """Nothing but the choice of settings is asked here: no training."""
    Image.new("RGB", (8, 8)).save(tmp_path / "dots.png")
    shutil.copytree(photographs, tmp_path / "data")
    seen = []

    def noted(config, out, *_):
        seen.append((config.kind, config.data.path, out))
        raise SinefieldError("enough")

    monkeypatch.setattr("sinefield.learning.train.train", noted)
    code, _, err = run(capfd, "train", tmp_path / data)
    assert code == 2 and "enough" in err
    assert seen == [(kind, str(tmp_path / data), f"runs/{data.removesuffix('.png')}")]


def test_data_that_train_cannot_take(tmp_path, capfd):
    """A mistyped mesh, an unknown kind of file, and data named twice."""
    (tmp_path / "part.step").write_text("hello")
    out = ["--out", tmp_path / "out"]
    refused(capfd, tmp_path, "train", tmp_path / "bunni.obj", *out, says=["bunni.obj", "no such file"])
    refused(capfd, tmp_path, "train", tmp_path / "part.step", *out, says=["part.step", "a mesh or point cloud"])
    refused(capfd, tmp_path, "train", "a.obj", *out, "--data.path", "b.obj", says=["--data.path", "a.obj"])
