"""Adapters against the formula under autograd, finite differences, PEFT's own LoRA, and themselves merged."""

import copy
import json
import math
import struct
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from second_decoder import decode as second_decode
from test_compress import mutations
from torch import nn

from sinefield import adapters
from sinefield.adapters import AdapterSpec
from sinefield.adapters.deltas import ROWS
from sinefield.adapters.file import describe_adapter, load_adapter, load_packed, merge_files, pack_adapter
from sinefield.adapters.layers import Adapted
from sinefield.commands.cli import main
from sinefield.compress.adapter_table import ADAPTER_KINDS, table_out, tensor_shapes
from sinefield.compress.container import decode
from sinefield.errors import SinefieldError
from sinefield.store.sine_files import load_packed as load_field_file


class Conv1D(nn.Module):
    """Stands in for Hugging Face's where that is absent: y = x W + b, W (in, out)."""

    def __init__(self, nf, nx):
        super().__init__()
        self.weight, self.bias = nn.Parameter(0.1 * torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


Conv1D.__module__ = "transformers.pytorch_utils"

BASES = {
    "linear": (lambda: nn.Linear(7, 5), (3, 4, 7)),
    "linear, one vector": (lambda: nn.Linear(7, 5, bias=False), (7,)),
    "Conv1D": (lambda: Conv1D(5, 7), (3, 4, 7)),
    "1×1": (lambda: nn.Conv2d(6, 4, 1), (2, 6, 3, 5)),
    "strided, grouped": (lambda: nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2), (2, 4, 7, 8)),
    "circular, same": (lambda: nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular"), (4, 6, 5)),
}


def adapted(base, kind="sine", rank=2, alpha=3.0, omega=9.0, trained=True):
    layer = Adapted(base)
    layer.adapters["default"] = layer.make("default", AdapterSpec(kind, rank, alpha, omega))
    layer.activate(["default"])
    if trained:
        with torch.no_grad():
            for p in layer.adapters.parameters():
                p.add_(torch.randn_like(p) / 3)
    return layer


def naive(layer, base, x):
    """The issue's formula in plain torch, from the factors and the base alone."""
    total = base.weight.T if type(base) is Conv1D else base.weight.flatten(1)
    for name in layer.active:
        d = layer.adapters[name]
        s, fan = d.spec, d.a.shape[1]
        if s.kind.startswith("sine"):
            total = total + s.alpha / s.rank * torch.sin(s.omega * d.b @ d.a) / math.sqrt(fan)
        else:
            total = total + s.alpha / s.rank * d.b @ d.a
        if s.kind.endswith("dora"):
            total = d.magnitude[:, None] * total / total.square().sum(1, keepdim=True).sqrt().detach()
    if isinstance(base, nn.Conv2d):
        return base._conv_forward(x, total.view_as(base.weight), base.bias)
    return F.linear(x, total, base.bias)


@pytest.mark.parametrize("kind", ADAPTER_KINDS)
@pytest.mark.parametrize("name", BASES)
def test_values_and_gradients_are_the_formulas(kind, name, monkeypatch):
    monkeypatch.setitem(ROWS, "cpu", 3)  # several blocks, the last one short
    torch.manual_seed(0)
    make, shape = BASES[name]
    base, x = make().double(), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    layer = adapted(base, kind)
    y, expected = layer(x), naive(layer, base, x)
    assert torch.allclose(y, expected, rtol=1e-12, atol=1e-12)
    wanted = [x, *layer.parameters()]
    direction = torch.randn_like(y)
    ours, truth = (torch.autograd.grad(v, wanted, direction) for v in (y, expected))
    for o, t in zip(ours, truth, strict=True):
        assert t.abs().max() > 0
        assert torch.allclose(o, t, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", ["linear", "strided, grouped"])
def test_gradients_by_finite_differences(name):
    torch.manual_seed(0)
    make, shape = BASES[name]
    layer = adapted(make().double())
    a, b = layer.adapters["default"].a, layer.adapters["default"].b
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def run(x, a, b):
        return torch.func.functional_call(layer, {"adapters.default.a": a, "adapters.default.b": b}, (x,))

    assert torch.autograd.gradcheck(run, (x, a, b))


@pytest.mark.parametrize("kind", ADAPTER_KINDS)
def test_starts_as_the_base(kind):
    base = nn.Linear(9, 6)
    x = torch.randn(4, 9)
    layer = adapted(base, kind, trained=False)
    assert torch.allclose(layer(x), base(x), atol=1e-6)
    a = layer.adapters["default"].a
    assert a.abs().max() <= 1 / 3 and not layer.adapters["default"].b.any()
    layer(x).square().sum().backward()
    assert layer.adapters["default"].b.grad.any()  # and it can leave that start


def test_several_adapters_add_up():
    torch.manual_seed(0)
    base = nn.Linear(7, 5).double()
    layer = adapted(base)
    layer.adapters["two"] = layer.make("two", AdapterSpec("lora", 3))
    nn.init.normal_(layer.adapters["two"].b)
    x = torch.randn(4, 7, dtype=torch.float64)
    for active in (["two"], ["default"], ["default", "two"], []):
        layer.activate(active)
        assert torch.allclose(layer(x), naive(layer, base, x), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ADAPTER_KINDS)
def test_merged_is_adapted(kind, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 48), nn.GELU(), Conv1D(32, 48)).to(dtype)
    adapters.attach(model, "*", AdapterSpec(kind, 4, omega=40.0))
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    x = torch.randn(64, 32).to(dtype)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    y = model(x)
    adapters.merge(model)
    merged = model(x)
    # One rounding of each weight against one of each output: a few units in the last place of the largest.
    assert (y - merged).abs().max() <= 4 * torch.finfo(dtype).eps * y.abs().max()
    adapters.unmerge(model)
    assert torch.equal(model(x), y)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    adapters.merge(model)
    adapters.detach(model)
    assert type(model[0]) is nn.Linear and torch.equal(model(x), merged)


def test_bf16_gradient_is_near():
    torch.manual_seed(0)
    base = nn.Linear(64, 64)
    layer = adapted(base)
    x, direction = torch.randn(512, 64), torch.randn(512, 64)
    exact = torch.autograd.grad(layer(x), list(layer.adapters.parameters()), direction)
    layer.bf16_gradient = True
    near = torch.autograd.grad(layer(x), list(layer.adapters.parameters()), direction)
    for e, n in zip(exact, near, strict=True):
        assert 0 < (e - n).norm() < 0.01 * e.norm()


def test_autocast_computes_in_bf16():
    torch.manual_seed(0)
    layer = adapted(nn.Linear(32, 32))
    x = torch.randn(16, 32)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.float(), layer(x), atol=0.05)
    y.sum().backward()
    assert layer.adapters["default"].a.grad.dtype == torch.float32


def test_no_dense_delta_is_kept_for_backward():
    layer = adapted(nn.Linear(64, 64), rank=2)
    kept = []

    def pack(t):
        kept.append(t)
        return t

    x = torch.randn(8, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(x)
    own = {p.data_ptr() for p in layer.parameters()} | {x.data_ptr()}
    assert kept and all(t.data_ptr() in own for t in kept)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj, self.v_proj, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.tokens = nn.Embedding(5, 8)

    def forward(self, x):
        x = self.norm(self.q_proj(x) + self.v_proj(x))
        return self.attention(x, x, x)[0]


def test_attach_chooses_by_name_and_reports():
    model = nn.ModuleList([Block(), Block()])
    report = adapters.attach(model, ["q_proj", "1.v_*"], AdapterSpec(rank=2), exclude=["0.q_proj"])
    assert report.targets == ["1.q_proj", "1.v_proj"]
    total = sum(p.numel() for p in Block().parameters()) * 2 + 2 * 2 * (8 + 8)
    assert (report.trainable, report.total) == (64, total)
    assert report.share == pytest.approx(64 / total)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        f"1.{layer}.adapters.default.{part}" for layer in ("q_proj", "v_proj") for part in "ab"
    }
    everything = adapters.attach(nn.ModuleList([Block()]), "*", AdapterSpec(rank=2))
    assert everything.targets == ["0.q_proj", "0.v_proj", "0.attention.out_proj"]
    assert everything.passed_over == {
        **{"0.norm": "LayerNorm", "0.tokens": "Embedding"},
        "0.attention.in_proj_weight": "MultiheadAttention",
    }


def test_attention_reads_the_effective_weight():
    """`nn.MultiheadAttention` never calls its output layer, it takes its weight."""
    torch.manual_seed(0)
    model = Block()
    x = torch.randn(3, 4, 8)
    start = model(x)
    adapters.attach(model, "out_proj", AdapterSpec(rank=2))
    assert torch.allclose(model(x), start, atol=1e-6)
    nn.init.normal_(model.attention.out_proj.adapters["default"].b)
    changed = model(x)
    assert not torch.allclose(changed, start, atol=1e-2)
    adapters.merge(model)
    assert torch.allclose(model(x), changed, atol=1e-5)


def test_names_and_life_of_adapters():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    x = torch.randn(3, 6)
    start = model(x)
    adapters.attach(model, "0", AdapterSpec(rank=1), name="one")
    nn.init.normal_(model[0].adapters["one"].b)
    one = model(x)
    adapters.attach(model, "*", AdapterSpec("lora", rank=1), name="two")
    assert torch.equal(model(x), start)  # the new one alone is active, and does nothing yet
    assert not any(p.requires_grad for p in model[0].adapters["one"].parameters())
    adapters.set_active(model, ["one"])
    assert torch.equal(model(x), one)
    adapters.set_active(model, [])
    assert torch.equal(model(x), start)
    adapters.remove(model, "two")
    assert type(model[1]) is nn.Linear and set(model[0].adapters) == {"one"}
    adapters.remove(model, "one")
    assert type(model[0]) is nn.Linear and torch.equal(model(x), start)


def test_shared_and_tied_layers():
    torch.manual_seed(0)
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(4, 6, bias=False))
    tokens = nn.Embedding(6, 4)
    tokens.weight = model[3].weight
    report = adapters.attach(model, "*", AdapterSpec(rank=1))
    assert model[0] is model[2] and report.trainable == 8 + 10
    nn.init.normal_(model[3].adapters["default"].b)
    before = tokens.weight.clone()
    adapters.merge(model)
    assert torch.equal(tokens.weight, before) and not torch.equal(model[3].weight, before)
    adapters.unmerge(model)
    assert model[3].base.weight is tokens.weight


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda m: adapters.attach(m, "k_proj"), "'k_proj' matches no layer.*q_proj"),
        (lambda m: adapters.attach(m, "tokens"), "only Embedding"),
        (lambda m: adapters.attach(m, "q_proj", AdapterSpec(rank=9)), "q_proj: rank 9 does not fit"),
        (lambda m: adapters.attach(m, "q_proj", name="a.b"), "cannot name"),
        (lambda m: adapters.attach(m, "q_proj", name="keys"), "cannot name"),
        (lambda m: adapters.set_active(m, ["defualt"]), "no adapter named defualt"),
        (lambda m: adapters.remove(m, "x"), "no adapter named x"),
        (lambda m: adapters.save_adapter(m, "never.safetensors"), "no adapter named default"),
        (lambda m: AdapterSpec("cosine"), "unknown kind"),
        (lambda m: AdapterSpec(omega=None), "omega is None"),
        (lambda m: AdapterSpec(omega=math.nan), "omega is nan"),
        (lambda m: AdapterSpec(alpha=0.0), "alpha is 0"),
        (lambda m: AdapterSpec(rank=0), "at least 1"),
        (lambda m: Adapted(m.norm), "LayerNorm cannot be adapted"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(act, words):
    model = Block()
    names = [n for n, _ in model.named_modules()]
    with pytest.raises(SinefieldError, match=words) as caught:
        act(model)
    assert "\n" not in str(caught.value)
    assert [n for n, _ in model.named_modules()] == names


def test_what_cannot_be_combined():
    model = nn.Sequential(nn.Linear(4, 4))
    adapters.attach(model, "0", AdapterSpec("dora", rank=1), name="long")
    adapters.attach(model, "0", AdapterSpec(rank=1), name="wave")
    with pytest.raises(SinefieldError, match="active alone"):
        adapters.set_active(model, ["long", "wave"])
    assert model[0].active == ("wave",)
    with pytest.raises(SinefieldError, match="there is an adapter named wave already"):
        adapters.attach(model, "0", AdapterSpec(rank=1), name="wave")
    adapters.merge(model)
    for act in (
        lambda: adapters.attach(model, "0", AdapterSpec(rank=1), name="late"),
        lambda: adapters.set_active(model, []),
        lambda: adapters.remove(model, "wave"),
    ):
        with pytest.raises(SinefieldError, match="unmerge"):
            act()


def test_training_moves_only_the_adapter():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    adapters.attach(model, "*", AdapterSpec(rank=1, alpha=1.0, omega=20.0))
    frozen = {k: v.clone() for k, v in model.state_dict().items() if ".base." in k}
    optimizer = torch.optim.Adam(adapters.train_only(model, ["default"]), 1e-2)
    x = torch.randn(256, 8)
    target = x[:, :1] * x[:, 1:2]
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(model.state_dict()[k], v) for k, v in frozen.items())


# Files


def trained_model(kind="sine", rank=2):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), Conv1D(16, 16), nn.Unflatten(1, (4, 2, 2)), nn.Conv2d(4, 6, 1))
    base = copy.deepcopy(model)
    adapters.attach(model, "*", AdapterSpec(kind, rank, omega=30.0))
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.2 * torch.randn_like(p))
    return model, base


@pytest.mark.parametrize("kind", ADAPTER_KINDS)
def test_saved_and_loaded(kind, tmp_path):
    model, base = trained_model(kind)
    x = torch.randn(5, 12)
    adapters.save_adapter(model, tmp_path / "a.safetensors")
    report = adapters.restore(base, tmp_path / "a.safetensors", name="again")
    assert report.targets == ["0", "2", "4"]
    assert torch.equal(model(x), base(x))
    assert base[0].adapters["again"].spec == AdapterSpec(kind, 2, omega=30.0)


def test_what_a_saved_adapter_must_hold(tmp_path):
    model, base = trained_model("dora")
    path = tmp_path / "a.safetensors"
    adapters.save_adapter(model, path)
    tensors = load_file(path)
    with safe_open(path, framework="pt") as stream:
        note = json.loads(stream.metadata()["sinefield"])

    def attempt(words, tensors=tensors, note=note, onto=base):
        save_file(tensors, path, metadata={"sinefield": json.dumps(note)})
        names = [n for n, _ in onto.named_modules()]
        with pytest.raises(SinefieldError, match=words) as caught:
            adapters.restore(onto, path)
        assert "\n" not in str(caught.value) and [n for n, _ in onto.named_modules()] == names

    row = note["targets"]["0"]
    attempt("lacks tensor 0.b", {k: v for k, v in tensors.items() if k != "0.b"})
    attempt("unknown tensor 7.a", {**tensors, "7.a": torch.zeros(2)})
    attempt("0.a is 3", {**tensors, "0.a": torch.zeros(3)})
    attempt("not finite", {**tensors, "0.b": tensors["0.b"] * math.nan})
    attempt("unknown key", note={**note, "targets": {**note["targets"], "0": {**row, "colour": 1}}})
    attempt("alpha is missing", note={**note, "targets": {"0": {k: v for k, v in row.items() if k != "alpha"}}})
    attempt("holds no adapter", note={"kind": "shape"})
    attempt("no layer 4 that can be adapted", onto=nn.Sequential(*list(copy.deepcopy(base))[:4]))
    attempt("0 is for a 16×12 matrix", onto=nn.Sequential(nn.Linear(9, 16), *list(copy.deepcopy(base))[1:]))
    square = nn.Linear(16, 16)  # of the same size, but held the other way round
    attempt("transpose", onto=nn.Sequential(base[0], base[1], square, base[3], base[4]))


@pytest.mark.parametrize("quantiser", ["kmeans", "uniform"])
def test_packing_gets_nearer_with_every_bit(quantiser, tmp_path):
    model, base = trained_model("sine-dora", rank=4)
    adapters.save_adapter(model, tmp_path / "a.safetensors")
    errors, sizes = [], []
    for bits in range(1, 9):
        report = pack_adapter(tmp_path / "a.safetensors", tmp_path / f"{bits}.sine", bits, quantiser)
        errors.append(report["delta_error"])
        sizes.append(report["bytes"])
        for target in load_adapter(tmp_path / f"{bits}.sine").values():
            assert len(target.b.unique()) <= 2**bits
    assert errors[0] > errors[2] > errors[4] > errors[7] and errors[7] < 0.05
    assert sizes[0] < sizes[3] < sizes[5]
    x = torch.randn(5, 12)
    adapters.restore(base, tmp_path / "8.sine")
    assert torch.allclose(base(x), model(x), atol=0.1)


def test_kmeans_codebooks_are_a_fixed_point(tmp_path):
    """Lloyd's condition: each entry is the mean of the numbers that were given to it, each number has its nearest."""
    model, _ = trained_model(rank=4)
    adapters.save_adapter(model, tmp_path / "a.safetensors")
    pack_adapter(tmp_path / "a.safetensors", tmp_path / "a.sine", 2)
    for name, coded in load_packed(tmp_path / "a.sine").tensors.items():
        true = load_file(tmp_path / "a.safetensors")[name]
        entries = torch.from_numpy(coded.entries).double()
        nearest = (true.double()[..., None] - entries).abs().argmin(-1)
        assert np.mean(nearest.numpy() == coded.levels) > 0.97  # entries are rounded to float16 afterwards
        for k in range(len(entries)):
            assert true[torch.from_numpy(coded.levels) == k].mean() == pytest.approx(float(entries[k]), abs=2e-3)


@pytest.mark.parametrize("kind", ADAPTER_KINDS)
def test_the_text_of_the_format_reads_adapters(kind, tmp_path):
    model, _ = trained_model(kind)
    adapters.save_adapter(model, tmp_path / "a.safetensors")
    pack_adapter(tmp_path / "a.safetensors", tmp_path / "a.sine", 3, "uniform" if kind == "lora" else "kmeans")
    settings, _, values, _, _ = second_decode((tmp_path / "a.sine").read_bytes())
    packed = load_packed(tmp_path / "a.sine")
    assert settings == packed.settings["targets"]
    assert list(values) == list(packed.tensors)
    for name, coded in packed.tensors.items():
        assert np.array_equal(values[name], coded.values())


def test_merged_into_files(tmp_path):
    """A file, and a folder of two with an index, both against the model merged in memory."""
    model, base = trained_model("sine-dora")
    x = torch.randn(5, 12)
    adapters.save_adapter(model, tmp_path / "a.safetensors")
    state = {f"model.{k}": v for k, v in base.state_dict().items()}
    save_file(state, tmp_path / "base.safetensors", metadata={"format": "pt"})
    merge_files(tmp_path / "a.safetensors", tmp_path / "base.safetensors", tmp_path / "out.safetensors")
    folder = tmp_path / "base"
    folder.mkdir()
    save_file({k: v for k, v in state.items() if k < "model.2"}, folder / "1.safetensors")
    save_file({k: v for k, v in state.items() if k >= "model.2"}, folder / "2.safetensors")
    (folder / "config.json").write_text("{}")
    assert main(["adapter", "merge", *(str(tmp_path / n) for n in ("a.safetensors", "base", "out"))]) == 0
    assert (tmp_path / "out" / "config.json").exists()
    adapters.merge(model)
    adapters.detach(model)
    whole = {}
    for name in ("1", "2"):
        whole |= load_file(tmp_path / "out" / f"{name}.safetensors")
    for found in (load_file(tmp_path / "out.safetensors"), whole):
        assert found.keys() == state.keys()
        assert all(torch.equal(found[f"model.{k}"], v) for k, v in model.state_dict().items())
        base.load_state_dict({k.removeprefix("model."): v for k, v in found.items()})
        assert torch.equal(base(x), model(x))


def test_commands(tmp_path, capsys):
    model, _ = trained_model()
    adapters.save_adapter(model, tmp_path / "a.safetensors")
    a, s, b = (str(tmp_path / n) for n in ("a.safetensors", "a.sine", "b.safetensors"))
    assert main(["adapter", "pack", a, s, "--bits", "3", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["bytes"] == (tmp_path / "a.sine").stat().st_size
    assert main(["adapter", "--json", "info", s]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [r["layer"] for r in report["layers"]] == ["0", "2", "4"]
    assert report["params"] == 2 * (12 + 16 + 16 + 16 + 4 + 6)
    assert describe_adapter(a)[0]["params"] == report["params"]
    save_file({"x.weight": torch.zeros(2, 2)}, b)
    for words, argv in {
        "exists already": ["pack", a, s, "--bits", "3"],
        "1 to 8": ["pack", a, s, "--bits", "9", "--overwrite"],
        "unknown quantiser": ["pack", a, s, "--bits", "3", "--quantiser", "x", "--overwrite"],
        "ends in .sine": ["pack", a, b, "--bits", "3", "--overwrite"],
        "no such adapter": ["info", str(tmp_path / "c.sine")],
        "not a saved adapter": ["info", b],
        "the base has no 0.weight": ["merge", s, b, str(tmp_path / "out.safetensors")],
        "see sinefield adapter --help": ["turn", a],
        "required: --bits": ["pack", a, s],
    }.items():
        assert main(["adapter", *argv]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and any(w in error for w in words.split("|")), error


def test_each_reader_refuses_the_others_files(tmp_path):
    model, _ = trained_model()
    adapters.save_adapter(model, tmp_path / "a.safetensors")
    pack_adapter(tmp_path / "a.safetensors", tmp_path / "a.sine", 4)
    with pytest.raises(SinefieldError, match="holds an adapter, not a field; see sinefield adapter info"):
        load_field_file(tmp_path / "a.sine")


def test_damaged_files_are_one_line(tmp_path):
    good = []
    for kind in ADAPTER_KINDS:
        model, _ = trained_model(kind)
        adapters.save_adapter(model, tmp_path / "a.safetensors")
        pack_adapter(
            tmp_path / "a.safetensors", tmp_path / "a.sine", 3, "kmeans" if "dora" in kind else "uniform", True
        )
        good.append((tmp_path / "a.sine").read_bytes())
    opened = 0
    for data in mutations(good, 500):
        (tmp_path / "bad.sine").write_bytes(data)
        try:
            load_adapter(tmp_path / "bad.sine")
            opened += 1  # a changed level or step is still an adapter
        except SinefieldError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
    assert opened < 400


def test_a_lie_about_sizes_takes_no_memory(tmp_path):
    """A million rows and columns claimed in a hundred bytes."""
    model, _ = trained_model()
    adapters.save_adapter(model, tmp_path / "a.safetensors")
    pack_adapter(tmp_path / "a.safetensors", tmp_path / "a.sine", 1)
    packed = load_packed(tmp_path / "a.sine")
    huge = {n: {**t, "rows": 1 << 20, "columns": 1 << 20} for n, t in packed.settings["targets"].items()}
    body = b"\4" + table_out({"targets": huge}) + b"\0" + bytes(60)
    data = b"SINE\1" + struct.pack("<I", zlib.crc32(body)) + body
    with pytest.raises(SinefieldError, match="claims"):
        decode(data, lambda kind, settings: tensor_shapes(settings), "lie.sine")
