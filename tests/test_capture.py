"""`sinefield capture`: from photographs to a field, one step after the other, none of them twice."""

import json

import numpy as np
import pytest
import textured
from captures import names, poses, write_images, write_model

from sinefield.commands.cli import main
from sinefield.data.photographs.capture_settings import capture_settings
from sinefield.data.photographs.images import load_posed
from sinefield.export import capture as module

SMALL = {
    "data.downscale": 4, "field.log2_table": 10, "field.levels": 4, "field.grid": 16, "field.steps": 32,
    "training.batch": 2048, "training.steps": 5,
}  # fmt: skip
OPTIONS = ["--threads", "1", "--json", *(f"--{name}={value}" for name, value in SMALL.items())]


@pytest.fixture
def quick(monkeypatch):
    """A short video and a coarse mesh; the page, which has tests of its own, is a stand-in."""
    monkeypatch.setattr(module, "FRAMES_SHOWN", 2)
    monkeypatch.setattr(module, "LONGER_SIDE", 32)
    monkeypatch.setattr(module, "RESOLUTION", 16)
    monkeypatch.setattr(module, "write_report", lambda run, out, overwrite, video: out.write_text("a page"))


@pytest.mark.slow
def test_from_photographs_to_a_field(tmp_path, quick, capsys):
    pytest.importorskip("pycolmap")
    arc, out = textured.arc(12)[2:10], tmp_path / "out"
    textured.write_photographs(tmp_path / "photos", arc)
    command = ["capture", str(tmp_path / "photos"), "--out", str(out), *OPTIONS]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["images"], report["placed"], report["steps"], report["skipped"]) == (8, 8, 5, [])
    assert report["downscale"] == 4 and report["space"] in ("box", "contracted") and len(report["box"]) == 6
    made = set(report["files"]) | set(report["left_out"])  # five steps may leave no surface for the mesh
    assert made == {"run", "video", "mesh", "report"} and "video" in report["files"]
    found = load_posed(out / "photographs", holdout=0).train.cameras.c2w.double().numpy()
    assert textured.misplacement(found, arc)[0] < 0.01
    before = {path: path.stat().st_mtime_ns for path in (out / "run").iterdir() if path.is_file()}
    assert main(command) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"poses", "training", "video", "report"} <= set(again["skipped"])
    assert before == {path: path.stat().st_mtime_ns for path in (out / "run").iterdir() if path.is_file()}
    assert main([*command, "--training.steps=8"]) == 0
    more = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert more["steps"] == 8 and more["skipped"] == ["poses"]
    assert main([*command, "--field.levels=3"]) == 2
    assert "field.levels was 4 and is now 3" in capsys.readouterr().err


def test_posed_photographs_are_taken_as_they_are(tmp_path, quick, capsys):
    write_images(tmp_path / "posed" / "images", names(9), (48, 32))
    write_model(tmp_path / "posed" / "sparse" / "0", poses(9), size=(48, 32))
    command = ["capture", str(tmp_path / "posed"), "--out", str(tmp_path / "out"), *OPTIONS, "--data.downscale=1"]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["placed"] is None and report["space"] == "box"
    assert sorted(path.name for path in (tmp_path / "posed").iterdir()) == ["images", "sparse"]
    (tmp_path / "posed").rename(tmp_path / "moved")
    command[1] = str(tmp_path / "moved")
    assert main(command) == 2 and "holds a capture of" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["skipped"] == []


@pytest.mark.parametrize(
    ("spread", "turn", "space"), [(0.5, False, "box"), (30.0, False, "contracted"), (0.5, True, "ndc")]
)
def test_space_follows_the_points(tmp_path, monkeypatch, spread, turn, space):
    """A ring of cameras round points within it, round points far beyond it, and cameras side by side."""
    import captures

    # Beside one another, cameras see points as far as their ring's radius is wide: two at most a tenth apart.
    around = poses(9)
    if turn:
        around = np.repeat(around[:1], 9, 0)
        around[:, :, 3] += np.linspace(0, 0.4, 9)[:, None] * around[0, :, 0]
    cloud = np.random.default_rng(0).uniform(-0.5, 0.5, (40, 3))
    cloud[::4] *= spread / 0.5
    monkeypatch.setattr(captures, "POINTS", cloud)
    monkeypatch.setattr(captures, "observe", lambda c2w, model: np.zeros((40, 2)))
    write_images(tmp_path / "images", names(9))
    write_model(tmp_path / "sparse" / "0", around)
    assert capture_settings(tmp_path)["field"]["space"] == space


def test_bad_input_is_one_line(tmp_path, capsys):
    write_images(tmp_path / "photos", names(3))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").write_text("x")
    for source, out, said in (
        ("none", "out", "no such video"),
        ("photos", "photos/out", "must lie beside"),
        ("photos", "other", "something other than a capture"),
    ):
        assert main(["capture", str(tmp_path / source), "--out", str(tmp_path / out), *OPTIONS]) == 2
        error = capsys.readouterr().err.strip()
        assert said in error and len(error.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "photos"]


@pytest.mark.parametrize("source", ["clip.mp4", "none", "posed"])
def test_a_source_that_cannot_be_read_costs_no_earlier_capture(tmp_path, source, capsys):
    (tmp_path / "clip.mp4").write_bytes(b"no video at all")
    (tmp_path / "none").mkdir()
    (tmp_path / "posed").mkdir()
    (tmp_path / "posed" / "transforms.json").write_text("{")
    assert main(["capture", str(tmp_path / source), "--out", str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "capture.json").write_text(json.dumps({"source": str(tmp_path / source)}))
    (tmp_path / "old" / "video.mp4").write_bytes(b"earlier")
    assert main(["capture", str(tmp_path / source), "--out", str(tmp_path / "old"), "--overwrite"]) == 2
    assert (tmp_path / "old" / "video.mp4").read_bytes() == b"earlier"
    assert capsys.readouterr().err.count("sinefield:") == 2
