"""The comparisons of adapters on pretrained models, on tiny ones: what is computed once, the loss, the search."""

import argparse
import importlib
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers", reason="transformers is not installed")

from transformers import BertConfig, BertModel, Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM

TABLES = Path(__file__).parents[1] / "scripts" / "tables"
SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, str(TABLES))
    names = ("adapter_sweep", "adapters_language", "adapters_encoders")
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(str(TABLES))


@pytest.fixture
def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, **SIZES)).eval()


@pytest.fixture
def pieces():
    torch.manual_seed(0)
    return {name: torch.randint(0, 30, (n, 8)) for name, n in (("train", 6), ("validation", 3), ("test", 4))}


def test_the_last_layers_alone_have_the_whole_models_loss(scripts, llama, pieces):
    logits = llama(input_ids=pieces["test"]).logits[:, :-1].flatten(0, 1)
    truth = F.cross_entropy(logits, pieces["test"][:, 1:].flatten()).item()
    task = scripts["adapters_language"].make_task(llama, pieces, ["q_proj"], 1)
    assert task.score() == pytest.approx(truth, rel=1e-5)
    used = torch.cat([p.flatten() for p in pieces.values()]).unique()
    assert len(used) < 40
    index = torch.searchsorted(used, pieces["test"][:, 1:].flatten())
    smaller = F.cross_entropy(logits[:, used], index).item()
    torch.manual_seed(0)
    again = LlamaForCausalLM(llama.config).eval()
    task = scripts["adapters_language"].make_task(again, pieces, ["q_proj"], 2, whole=False)
    assert task.score() == pytest.approx(smaller, rel=1e-5) and smaller < truth


def test_the_loss_in_parts_has_its_gradient(scripts, monkeypatch):
    nats = scripts["adapters_language"].Nats
    monkeypatch.setattr(nats, "ROWS", 3)
    torch.manual_seed(0)
    hidden, head = torch.randn(8, 5).double().requires_grad_(), torch.randn(11, 5).double()
    tokens, weights = torch.randint(0, 11, (8,)), torch.rand(8).double()
    found = nats.apply(hidden, head, tokens).double()
    truth = F.cross_entropy(hidden @ head.T, tokens, reduction="none")
    assert torch.allclose(found, truth, atol=1e-5)
    (ours,) = torch.autograd.grad((found * weights).sum(), hidden)
    (theirs,) = torch.autograd.grad((truth * weights).sum(), hidden)
    assert torch.allclose(ours, theirs, atol=1e-5)


def options(tmp_path, **changes):
    usual = {
        "out": tmp_path,
        "kinds": ["lora", "sine"],
        "ranks": [1, 2],
        "bits": [2, 32],
        "choose_at": [2, 32],
        "choose_seeds": 2,
        "report": False,
    }
    return argparse.Namespace(**(usual | {"seeds": 2, "steps": 2, "batch": 2} | changes))


def test_a_comparison_from_start_to_page(scripts, llama, pieces, tmp_path, monkeypatch):
    sweep, language = scripts["adapter_sweep"], scripts["adapters_language"]
    monkeypatch.setattr(sweep, "FURTHEST", 1)
    task = language.make_task(llama, pieces, ["q_proj"], 1)
    base = task.score()
    runs = sweep.Runs(task, options(tmp_path))
    rows = sweep.compare(runs, language.STARTS)
    assert len(rows) == 2 * 2 * 2 * 2 and task.score() == base
    assert {r["bytes"] for r in rows if r["bits"] == 32 and r["rank"] == 2} == {4 * 2 * 32}
    page = sweep.tables(runs, rows, 3)
    assert "| 1 | lora" in " ".join(page.split()) and "BD-rate" in page

    def refuse(*_):
        raise AssertionError("finished runs are kept")

    task.score = task.worth = refuse
    again = sweep.compare(sweep.Runs(task, options(tmp_path)), language.STARTS)
    assert [r["score"] for r in again] == pytest.approx([r["score"] for r in rows], rel=1e-5)
    sweep.plot(rows, base, runs, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    # A file of the cut model is one of the whole.
    fresh = LlamaForCausalLM(llama.config)
    sweep.restore(fresh, runs.saved(replace(language.STARTS["sine"], rank=1, **_found(rows, "sine", 1))))


def _found(rows, kind, rank):
    row = next(r for r in rows if (r["kind"], r["rank"]) == (kind, rank))
    return {k: row[k] for k in ("alpha", "omega", "lr")}


class Hill:
    """Worth of a setting that is best at one rate, ω and α."""

    def __init__(self, options):
        self.options, self.asked = options, []

    def worth(self, s):
        self.asked.append(s)
        off = [math.log(s.lr / 1e-2), math.log(s.alpha / 16), math.log((s.omega or 50) / 50)]
        return -sum(o**2 for o in off)


def test_the_search_climbs(scripts, tmp_path):
    sweep = scripts["adapter_sweep"]
    hill = Hill(options(tmp_path, ranks=[1, 4, 16]))
    found = sweep.search(hill, sweep.Setting("lora", 4, 16.0, None, 1e-3))
    assert {k: (s.rank, s.lr, s.alpha) for k, s in found.items()} == {k: (k, 9e-3, 16.0) for k in (1, 4, 16)}
    found = sweep.search(hill, sweep.Setting("sine", 4, 16.0, 200.0, 3e-3))
    assert found[4].omega == 50.0


class Shelf(Hill):
    """A little better at a higher rate than here, far better at a lower one."""

    def worth(self, s):
        return {1e-3: 0.0, 3e-3: 0.1, 3.33e-4: 1.0, 1.11e-4: 2.0}.get(s.lr, -1.0)


def test_the_search_goes_the_better_way_of_two(scripts, tmp_path):
    sweep = scripts["adapter_sweep"]
    found = sweep.climb(Shelf(options(tmp_path)), sweep.Setting("lora", 4, 16.0, None, 1e-3), sweep._rate, 3.0)
    assert found.lr == 1.11e-4


def test_a_setting_is_judged_by_several_seeds(scripts, tmp_path, monkeypatch):
    sweep = scripts["adapter_sweep"]
    runs = sweep.Runs.__new__(sweep.Runs)
    runs.options = options(tmp_path, choose_seeds=2)
    monkeypatch.setattr(sweep.Runs, "score", lambda self, s, bits, split: -1.0 if s.seed else bits / 34)
    assert runs.worth(sweep.Setting("lora", 4, 16.0, None, 1e-3)) == pytest.approx(-0.25)


def test_bd_rate_of_half_the_bytes(scripts):
    sweep = scripts["adapter_sweep"]
    rows = [
        {"kind": kind, "rank": rank, "seed": seed, "bits": 2, "bytes": size * 100 * rank, "score": 5 - rank / 10}
        for kind, size in (("lora", 2), ("sine", 1))
        for rank in (1, 2, 4)
        for seed in range(3)
    ]
    assert sweep.change(rows, 2, "sine", higher=False) == pytest.approx((-50, -50, -50))


def test_stable_rank(scripts, llama, pieces, tmp_path):
    sweep, language = scripts["adapter_sweep"], scripts["adapters_language"]
    runs = sweep.Runs(language.make_task(llama, pieces, ["q_proj"], 1), options(tmp_path))
    setting = replace(language.STARTS["sine"], rank=2, lr=0.1)
    target = next(iter(sweep.load_adapter(runs.saved(setting)).values()))
    dense = np.sin(setting.omega * (target.b.double() @ target.a.double()).numpy())
    values = np.linalg.svd(dense, compute_uv=False)
    assert sweep.stable_ranks(runs, setting, 32) == pytest.approx(((values**2).sum() / values[0] ** 2, 0), rel=1e-4)


@pytest.mark.parametrize("kind", ["pictures", "texts"])
def test_encoders_from_the_last_layers(scripts, kind, tmp_path):
    encoders, sweep = scripts["adapters_encoders"], scripts["adapter_sweep"]
    torch.manual_seed(0)
    labels = torch.arange(20) % 2
    if kind == "pictures":
        sizes = {k: v for k, v in SIZES.items() if k != "intermediate_size"}
        model = Dinov2Model(Dinov2Config(image_size=28, patch_size=14, mlp_ratio=1, **sizes)).eval()
        examples = encoders.Examples(torch.randn(20, 3, 28, 28) + labels[:, None, None, None], labels, None, "")
        whole = model(examples.inputs).last_hidden_state
        rest = whole[:, 1:].mean(1)
        targets = ["q_proj"]
    else:
        model = BertModel(BertConfig(vocab_size=30, **SIZES), add_pooling_layer=False).eval()
        mask = (torch.arange(6) < torch.randint(2, 7, (20, 1))).long()
        examples = encoders.Examples(torch.randint(0, 30, (20, 6)), labels, mask, "")
        whole = model(input_ids=examples.inputs, attention_mask=mask).last_hidden_state
        rest = torch.stack([row[1 : int(m.sum())].mean(0) for row, m in zip(whole, mask, strict=True)])
        targets = ["query"]
    task = encoders.make_task(model, examples, targets, 1)
    chosen = encoders.parts_of(examples)["test"]
    logits = task.head(torch.cat([whole[:, 0], rest], 1))[chosen]
    assert task.score() == pytest.approx(100 * float((logits.argmax(1) == labels[chosen]).float().mean()))
    parts = encoders.parts_of(examples)["validation"]
    truth = F.cross_entropy(task.head(torch.cat([whole[:, 0], rest], 1))[parts], labels[parts])
    assert -task.worth() == pytest.approx(truth.item(), rel=1e-4)
    runs = sweep.Runs(task, options(tmp_path))
    first = runs.score(replace(encoders.STARTS["lora"], rank=1), 32, "validation")
    nn_head = task.head.weight.clone()
    task.head.reset_parameters()
    runs.rows.clear()
    assert runs.score(replace(encoders.STARTS["lora"], rank=1), 32, "validation") == pytest.approx(first, rel=1e-5)
    assert torch.equal(task.head.weight, nn_head)
