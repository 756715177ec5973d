"""`sinefield cameras`: the pose file holds the cameras that a run was trained on."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from small import radiance_config

from sinefield.commands.cli import main
from sinefield.data.photographs.images import load_posed
from sinefield.fields.base import make_task, read_data
from sinefield.store.fields import save_field
from sinefield.store.run import Run


def write_run(config, folder):
    """A run whose field was not trained: its cameras are those of its data all the same."""
    with Run.prepare(folder, config):
        save_field(folder / "field.safetensors", make_task(config, read_data(config)).field)


@pytest.fixture(scope="module")
def scene(photographs, tmp_path_factory):
    """A run and its photographs, in a folder that this file may write to."""
    folder = tmp_path_factory.mktemp("cameras")
    data = folder / "data"
    shutil.copytree(photographs, data)
    write_run(radiance_config(data), folder / "run")
    return data, folder / "run"


def by_name(views, name):
    return views.cameras.view(views.names.index(name))


def test_the_file_is_read_again_with_the_same_rays_splits_and_box(scene, capfd):
    data, run = scene
    out = data / "transforms.json"
    assert main(["cameras", str(run), str(out), "--json"]) == 0
    report = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert report["views"] == {"train": 24, "test": 3} and report["notes"] == []
    before, after = load_posed(data), load_posed(out)
    assert torch.allclose(before.aabb, after.aabb, atol=1e-6)
    assert before.val is None and after.val is None
    for old, new in ((before.train, after.train), (before.test, after.test)):
        assert old is not None and new is not None and set(old.names) == set(new.names)
        for name in old.names:
            for one, other in zip(by_name(old, name), by_name(new, name), strict=True):
                assert (one - other).abs().max() < 1e-5


def test_poses_and_lenses_are_those_of_the_input(scene):
    """Against the input's own JSON, read here: the matrix to double precision, the focal length from its angle."""
    data, run = scene
    out = data / "again.json"
    assert main(["cameras", str(run), str(out)]) == 0
    given = json.loads((data / "transforms_test.json").read_text())
    written = {frame["file_path"]: frame for frame in json.loads(out.read_text())["frames"]}
    for frame in given["frames"]:
        found = written[frame["file_path"].removeprefix("./") + ".png"]
        assert np.abs(np.subtract(found["transform_matrix"], frame["transform_matrix"])).max() < 1e-6
        assert found["fl_x"] == pytest.approx(16 / np.tan(given["camera_angle_x"] / 2)) and found["cx"] == 16


def test_a_lens_and_a_box_come_through(scene, tmp_path, capfd):
    """Distortion, a principal point off the centre, a shrunken training and a box that is no cube, which is said."""
    data, _ = scene
    folder = tmp_path / "data"
    shutil.copytree(data / "train", folder / "train")
    frames = json.loads((data / "transforms_train.json").read_text())["frames"]
    lens = {"fl_x": 40.0, "fl_y": 41.0, "cx": 15.0, "cy": 17.5, "k1": 0.05, "k2": -0.01, "p1": 0.002, "p2": 0.001}
    (folder / "poses.json").write_text(json.dumps({**lens, "frames": frames}))
    settings = radiance_config(folder / "poses.json")
    box = [-2.0, -1.0, -1.0, 1.0, 1.0, 1.5]
    config = replace(settings, data=replace(settings.data, downscale=2, aabb=box))
    write_run(config, tmp_path / "run")
    out = folder / "out.json"
    assert main(["cameras", str(tmp_path / "run"), str(out)]) == 0
    text = capfd.readouterr().out
    assert "data.aabb -2 -1 -1 1 1 1.5" in text and "data.downscale 2" in text
    before, after = load_posed(folder / "poses.json", 2), load_posed(out, 2)
    assert before.train is not None and after.train is not None and len(after.train) == len(before.train)
    for name in before.train.names:
        for one, other in zip(by_name(before.train, name), by_name(after.train, name), strict=True):
            assert (one - other).abs().max() < 1e-5


def test_what_cannot_be_is_refused_in_one_line(scene, tmp_path, capfd):
    data, run = scene
    there = data / "there.json"
    there.write_text("{}")
    for source, out, words in (
        ("example:knot", data / "x.json", "a shape has none"),
        (run, tmp_path / "x.json", "write the file there"),
        (run, data / "x.txt", "written as a .json"),
        (run, data / "transforms_train.json", "name it transforms.json"),
        (run, there, "--overwrite"),
    ):
        assert main(["cameras", str(source), str(out)]) == 2
        error = capfd.readouterr().err.strip().splitlines()
        assert words in error[-1] and error[-1].startswith("sinefield: ")
    assert there.read_text() == "{}" and not (data / "x.json").exists() and not (tmp_path / "x.json").exists()
