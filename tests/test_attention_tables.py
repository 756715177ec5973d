"""scripts/tables/attention.py: finished runs are kept, rates chosen alike, skips and norms as they are said to be."""

import importlib
import math
from pathlib import Path

import pytest
import torch

from sinefield.errors import SinefieldError

pytest.importorskip("transformers", reason="transformers is absent; pip install 'sinefield[adapters]'")
RATES, SEEDS = (1e-3, 3e-3, 1e-2), (0, 1, 2)


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    """Scripts import their neighbours."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts" / "tables")


@pytest.fixture
def runs():
    return importlib.import_module("attention_runs")


@pytest.fixture
def vit():
    return importlib.import_module("attention_vit")


def counted(calls, best=3e-3):
    def run(contender, lr, seed):
        calls.append((lr, seed))
        return {
            "validation": 0.9 if lr == best else 0.5,
            "validation_loss": 1.0,
            "test": 0.1 * seed,
            "list": [1.0, 2.5],
        }

    return run


def test_rates_are_chosen_by_the_first_seed(runs, tmp_path):
    calls = []
    store = runs.Store(tmp_path / "runs.csv", "a setup")
    rows = runs.swept(store, "a", RATES, SEEDS, counted(calls))
    assert calls == [(1e-3, 0), (3e-3, 0), (1e-2, 0), (3e-3, 1), (3e-3, 2)]
    assert [(r["lr"], r["seed"], float(r["test"])) for r in rows] == [
        ("0.003", "0", 0.0),
        ("0.003", "1", 0.1),
        ("0.003", "2", 0.2),
    ]
    assert runs.listed(rows[0], "list").tolist() == [1.0, 2.5]


def test_finished_runs_are_not_run_again(runs, tmp_path):
    calls = []

    def interrupted(contender, lr, seed):
        if len(calls) == 2:
            raise KeyboardInterrupt
        return counted(calls)(contender, lr, seed)

    with pytest.raises(KeyboardInterrupt):
        runs.swept(runs.Store(tmp_path / "runs.csv", "a setup"), "a", RATES, SEEDS, interrupted)
    again = runs.Store(tmp_path / "runs.csv", "a setup")
    assert len(again.rows) == 2 and runs.swept(again, "a", RATES, SEEDS, None) == []
    runs.swept(again, "a", RATES, SEEDS, counted(calls))
    assert len(calls) == 5 == len(runs.Store(tmp_path / "runs.csv", "a setup").rows)


def test_runs_of_another_setup_are_refused(runs, tmp_path):
    runs.Store(tmp_path / "runs.csv", "a setup").add("a", 1e-3, 0, {"test": 0.5})
    with pytest.raises(SinefieldError, match="other settings than another"):
        runs.Store(tmp_path / "runs.csv", "another")


@pytest.mark.parametrize(("attention", "feedforward"), [(True, True), (False, True), (True, False), (False, False)])
def test_skips_are_removed(vit, attention, feedforward):
    torch.manual_seed(0)
    setup = vit.Setup(dim=24, depth=1, heads=2)
    layer = (
        vit.make_vit(vit.Variant(skip_attention=attention, skip_feedforward=feedforward), setup).eval().vit.layers[0]
    )
    x = torch.randn(2, 17, 24)
    wanted = layer.attention(layer.layernorm_before(x))[0] + (x if attention else 0)
    wanted = layer.mlp(layer.layernorm_after(wanted)) + (wanted if feedforward else 0)
    assert torch.allclose(layer(x), wanted, atol=1e-6)


def test_softmax_over_the_root(vit):
    setup = vit.Setup(dim=24, depth=1, heads=2)
    found = []
    for divided in (False, True):
        torch.manual_seed(0)
        layer = vit.make_vit(vit.Variant(over_root=divided), setup).vit.layers[0].attention
        with torch.no_grad():
            layer.o_proj.bias.zero_()
            found.append(layer(torch.ones(1, 17, 24).cumsum(1))[0])
    assert torch.allclose(found[1] * math.sqrt(17), found[0], atol=1e-5)


def test_a_look_measures_what_enters_attention(vit):
    torch.manual_seed(0)
    setup = vit.Setup(dim=24, depth=2, heads=2)
    images = torch.randn(4, 1, 8, 8)
    variant = vit.Variant(graying="svd", epsilon=0.5, graying_at="attention")
    seen = vit.look(vit.make_vit(variant, setup), variant, images)
    assert len(seen.matrix) == 2 and all(m <= math.sqrt(17) for m in seen.matrix_max)
    # Singular values to the power of one half: so is their ratio.
    assert seen.grayed == pytest.approx([x / 2 for x in seen.tokens], rel=1e-3)


def test_equal_parameters(vit):
    script = importlib.import_module("attention")
    setup = vit.Setup(dim=24, depth=2, heads=2)
    variants = script.feedforward(setup)
    size = {name: sum(p.numel() for p in vit.make_vit(v, setup).parameters()) for name, v in variants.items()}
    for rank in script.RANKS:
        assert size[f"sine {rank}"] == size[f"low rank {rank}"]
        assert 0 <= size[f"sine {rank}"] - size[f"dense {rank}"] < 2 * (2 * 24 + 1)  # less than one unit in each layer


def test_networks_of_fewer_channels_are_no_larger(vit):
    script = importlib.import_module("attention")
    setup = vit.Setup(dim=24, depth=2, heads=2)
    variants = script.linears(setup)
    size = {name: sum(p.numel() for p in vit.make_vit(v, setup).parameters()) for name, v in variants.items()}
    wider = vit.Variant(dim=variants["dense 1"].dim + 2)
    assert sum(p.numel() for p in vit.make_vit(wider, setup).parameters()) > size["sine 1"] == size["low rank 1"]
    assert all(size[f"dense {rank}"] <= size[f"sine {rank}"] for rank in script.RANKS)
    model = vit.make_vit(variants["sine 4"], setup)
    assert sum(name.endswith("weight.u") for name, _ in model.named_parameters()) == 2 * 6


def test_a_whole_experiment(vit, tmp_path, monkeypatch, capsys):
    script = importlib.import_module("attention")
    pytest.importorskip("sklearn", reason="scikit-learn is absent; pip install 'sinefield[bench]'")
    tiny = vit.digits_setup(dim=24, depth=2, heads=2, steps=4, batch=8, looks=2)
    monkeypatch.setattr(script, "digits_setup", lambda steps: tiny)
    monkeypatch.setattr(script, "GRAYING", {name: script.GRAYING[name] for name in ("softmax", "DCT 0.95")})
    assert script.main(["graying", "--seeds", "2", "--out", str(tmp_path)]) == 0
    assert len((tmp_path / "attention_vit.csv").read_text().splitlines()) == 1 + 2 * 4
    page = (tmp_path / "attention_graying.md").read_text()
    (tmp_path / "attention_graying.md").unlink()
    assert script.main(["graying", "--seeds", "2", "--out", str(tmp_path), "--report"]) == 0
    assert (tmp_path / "attention_graying.md").read_text() == page and (tmp_path / "attention_graying.png").exists()


def test_bad_arguments(tmp_path, capsys):
    script = importlib.import_module("attention")
    for arguments, message in (
        (["skip"], "no experiment 'skip'"),
        (["--seeds", "0"], "count from 1"),
        (["--data", "x"], "--as"),
    ):
        assert script.main([*arguments, "--report"]) == 2
        assert message in capsys.readouterr().err
