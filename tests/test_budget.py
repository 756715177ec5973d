"""A number of bytes decides: the network's size, what a too large run becomes, and a mesh in its place."""

import json

import pytest
from small import write_ball

import sinefield as sf
from sinefield.commands.cli import main
from sinefield.config import make_config
from sinefield.errors import SinefieldError
from sinefield.learning import budget
from sinefield.learning.budget import packed_best
from sinefield.learning.pack_mesh import Found
from sinefield.learning.sizes import HEAD, LEAST_TABLE, sized
from sinefield.store.run import Run

SHORT = {"steps": 20, "batch": 1024, "points": 3000}


def of_width(width, **field):
    return make_config({"kind": "shape", "data": {"path": "a.ply"}, "field": {"width": width, **field}}, "a")


def numbers(config):
    field = config.field
    size = 3 + 6 * field.frequencies
    hidden = field.width**2 if field.weights == "dense" else 2 * field.width * field.rank
    return size * field.width + (field.depth - 1) * hidden + field.depth * field.width + field.width + 1


@pytest.mark.parametrize("weights", ["sine", "dense"])
def test_as_large_as_the_bytes_allow(weights):
    found = [sized(of_width(128, weights=weights), size) for size in (1000, 2000, 4000, 8000)]
    widths = [config.field.width for config in found]
    assert widths == sorted(set(widths))
    for config, size in zip(found, (1000, 2000, 4000, 8000), strict=True):
        bits = 8 * (size - HEAD) / numbers(config)
        assert 5 < bits < 8, (size, config.field.width)
        assert config.field.weights == weights and config.training == of_width(128).training


def test_too_few_bytes_say_how_many_would_do():
    with pytest.raises(SinefieldError, match=r"--max-bytes 50: the smallest field .* takes about (\d+)") as error:
        sized(of_width(128), 50)
    least = int(str(error.value).split("about ")[1].split(" bytes")[0])
    assert sized(of_width(128), least + 1).field.width == 8


def test_tables_of_feature_grids_are_as_large_as_the_bytes_allow():
    settings = {"encoding": "hash", "depth": 1, "weights": "dense", "log2_table": 16}
    config = make_config({"kind": "radiance", "data": {"path": "a"}, "field": settings}, "a")
    found = [sized(config, size).field.log2_table for size in (20_000, 50_000, 150_000, 10**8)]
    assert found == sorted(found) and len(set(found[:3])) == 3 and found[-1] == 16
    with pytest.raises(SinefieldError, match=r"takes about (\d+)") as error:
        sized(config, 2000)
    least = int(str(error.value).split("about ")[1].split(" bytes")[0])
    assert sized(config, least).field.log2_table == LEAST_TABLE


@pytest.fixture(scope="module")
def ball(tmp_path_factory):
    return write_ball(tmp_path_factory.mktemp("ball"))


@pytest.mark.slow
def test_training_to_a_size_leaves_a_file_that_fits(ball, tmp_path, capsys):
    settings = [f"--training.steps={SHORT['steps']}", "--training.batch=1024", "--data.points=3000"]
    assert main(["train", str(ball), "--out", str(tmp_path / "run"), "--max-bytes", "1200", *settings, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    packed = report["packed"]
    file = tmp_path / "run.sine"
    assert file.stat().st_size == packed["bytes"] <= 1200 and Run(tmp_path / "run").field_path.exists()
    # Of 20 steps no field is better than a mesh of a ball.
    assert packed["kind"] == "mesh" and packed["instead"]["kind"] == "shape"
    assert packed["iou"] > packed["instead"]["iou"] + 0.001
    assert sf.load(file).kind == "mesh"


@pytest.mark.slow
def test_a_field_stays_where_a_mesh_is_hardly_better(ball, tmp_path, monkeypatch):
    sf.fit(ball, out=tmp_path / "run", width=16, rank=4, **SHORT)
    made = budget.pack(tmp_path / "run", tmp_path / "a.sine", max_bytes=1000, steps=0)
    field = sf.load(tmp_path / "a.sine")._torch()
    monkeypatch.setattr(budget.MeshSearch, "run", lambda search: Found(None, b"x", search.judge(field) + 0.0005))
    packed = packed_best(tmp_path / "run", tmp_path / "b.sine", 1000, 0)
    assert packed["kind"] == "shape" and packed["bytes"] == made["bytes"] and packed["instead"]["kind"] == "mesh"
    assert (tmp_path / "b.sine").read_bytes() == (tmp_path / "a.sine").read_bytes()


@pytest.mark.slow
def test_a_run_that_is_too_large_gets_a_narrower_network(ball, tmp_path, capsys):
    sf.fit(ball, out=tmp_path / "run", width=128, weights="dense", **SHORT)
    words = ["pack", str(tmp_path / "run"), str(tmp_path / "a.sine"), "--max-bytes", "900", "--steps", "60"]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (tmp_path / "a.sine").stat().st_size == report["bytes"] <= 900
    assert report["narrower"] == sf.load(tmp_path / "a.sine").params < 2000


def test_splitting_and_a_size_exclude_each_other(ball, tmp_path, capsys):
    assert main(["train", str(ball), "--out", str(tmp_path / "r"), "--max-bytes", "900", "--split"]) == 2
    assert "--split exclude" in capsys.readouterr().err and not (tmp_path / "r").exists()
