"""Settings by the data's kind and size."""

import json

import pytest
from conftest import ROOT

import sinefield as sf
from sinefield.commands.cli import main
from sinefield.config import load_config
from sinefield.data.photographs.capture_settings import network_for
from sinefield.errors import SinefieldError
from sinefield.learning.fit import data_config


def numbers(config):
    """How many numbers a field of these settings has, feature grids' among them."""
    return sf.fields.base.kind_of(config).numbers(config.field)


def test_photographs_choose_their_network_by_their_size(photographs):
    usual = data_config(str(photographs), {})
    assert (usual.field.encoding, usual.data.downscale) == ("frequency", 1)  # they are small
    config = data_config(str(photographs), {}, "balanced")
    assert config.field.encoding == "hash" and config.field.log2_table < network_for("balanced", 800)["log2_table"]


@pytest.mark.parametrize("side", [400, 800])
def test_scenes_write_down_what_balanced_chooses(side, monkeypatch, tmp_path):
    monkeypatch.setenv("SINEFIELD_DATA", str(tmp_path))
    scene = load_config(ROOT / "scenes" / f"lego_{side}.yaml")
    assert {key: getattr(scene.field, key) for key in network_for("balanced", side)} == network_for("balanced", side)
    assert scene.data.downscale * side == 800


@pytest.mark.parametrize("side", [64, 200, 504, 800])
def test_a_larger_preset_has_more_numbers(side):
    balanced, best = (network_for(name, side)["log2_table"] for name in ("balanced", "best"))
    assert balanced < best and network_for("small", side) == {}


def test_presets_of_shapes_are_in_order(ball):
    found = [numbers(data_config(str(ball), {}, name)) for name in ("small", "balanced", "best")]
    assert found == sorted(found) and len(set(found)) == 3
    assert data_config(str(ball), {}) == data_config(str(ball), {}, "balanced")


def test_what_is_given_counts(photographs, ball):
    given = data_config(str(photographs), {"field.width": "32"})
    assert (given.field.width, given.field.encoding) == (32, "frequency")
    assert data_config(str(ball), {"training.seconds": "3"}, "best").training.seconds == 3
    config = data_config(str(photographs), {"data.downscale": "2", "field.space": "contracted"}, "best")
    assert (config.data.downscale, config.field.space, config.field.grid_levels) == (2, "contracted", 4)


def test_presets_that_cannot_be_had(ball, tmp_path, capsys):
    for arguments, says in (
        ([str(ball), "--preset", "bset"], "did you mean 'best'"),
        ([str(ball), "--preset", "best", "--field.width", "12"], "sets field.width to 192"),
        ([str(ball), "--preset", "best", "--max-bytes", "2000"], "leave out one"),
        (["families:", "--preset", "best"], "has no presets"),
        (["scenes/demo.yaml", "--preset", "best"], "has its settings"),
    ):
        assert main(["train", *arguments, "--out", str(tmp_path / "run")]) == 2
        assert says in capsys.readouterr().err.splitlines()[-1]
    for given, says in (({"preset": "big"}, "no preset"), ({"preset": "small", "max_bytes": 900}, "leave out one")):
        with pytest.raises(SinefieldError, match=says):
            sf.fit(ball, steps=1, out=tmp_path / "run", **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_preset_is_what_is_trained_with(ball, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", str(ball), "--out", str(out), "--preset", "small", "--training.steps", "3", "--json"]) == 0
    trained, usual = json.loads(capsys.readouterr().out.splitlines()[-1])["params"], data_config(str(ball), {})
    assert trained == sf.load(out).params == sf.fit(ball, steps=3, preset="small", points=2000).params
    assert trained < numbers(usual)
