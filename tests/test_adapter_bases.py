"""Layers that are more than their class in torch: adapted ones start as their base, learn, and merge or say why not."""

import copy
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from sinefield import adapters
from sinefield.adapters import AdapterSpec
from sinefield.errors import SinefieldError

KINDS = ("sine", "lora", "sine-dora", "dora")


class Int8Linear(nn.Linear):
    """Its weight is whole numbers and a scale, as 8-bit bases are."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        scale = self.weight.detach().abs().max() / 127
        levels = (self.weight.detach() / scale).round().to(torch.int8)
        self.weight = nn.Parameter(levels, requires_grad=False)
        self.scale = scale

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


class FakeQuantised(nn.Linear):
    """Rounds its weight to steps in every pass."""

    def forward(self, x):
        return F.linear(x, (self.weight * 8).round() / 8, self.bias)


class Scaled(nn.Linear):
    """Multiplies by its weight, and then does something that is none of the weight's business."""

    def forward(self, x):
        return torch.tanh(2 * x) if x.shape[-1] != self.in_features else F.linear(x, self.weight, self.bias) + 1


class SamePadding(nn.Conv2d):
    """Pads by its input's size, as TensorFlow does."""

    def forward(self, x):
        sides = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            sides += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, sides), self.weight, self.bias, self.stride)


def hooked():
    layer = nn.Linear(7, 5)
    layer.register_forward_hook(lambda _, args, y: 3 * y)
    return layer


LAYERS = {
    "int8": (lambda: Int8Linear(7, 5), (3, 7)),
    "fake quantised": (lambda: FakeQuantised(7, 5), (3, 7)),
    "scaled": (lambda: Scaled(7, 5), (3, 7)),
    "weight_norm": (lambda: weight_norm(nn.Linear(7, 5)), (3, 7)),
    "hooked": (hooked, (3, 7)),
    "same padding": (lambda: SamePadding(4, 6, 3, stride=2), (2, 4, 7, 6)),
}
MERGES = {"scaled", "hooked", "same padding"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAYERS)
def test_starts_as_its_base_and_learns(name, kind):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    model, x = nn.Sequential(make()), torch.randn(shape)
    wanted = model(x)
    spec = AdapterSpec(kind, 2, 4.0, 9.0 if kind.startswith("sine") else None)
    if name == "int8" and kind.endswith("dora"):
        with pytest.raises(SinefieldError, match=r"0: DoRA reads the lengths of rows.*Int8Linear is quantised"):
            adapters.attach(model, "0", spec)
        assert type(model[0]) is Int8Linear
        return
    adapters.attach(model, "0", spec)
    assert torch.allclose(model(x), wanted, atol=1e-6)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.03)
    target = torch.randn_like(wanted)
    first = last = F.mse_loss(model(x), target)
    for _ in range(30):
        optimizer.zero_grad()
        last = F.mse_loss(model(x), target)
        last.backward()
        optimizer.step()
    assert last.item() < 0.9 * first.item()
    trained = model(x).detach()
    if name in MERGES:
        adapters.merge(model)
        assert torch.allclose(model(x), trained, atol=1e-4)
        adapters.unmerge(model)
    else:
        with pytest.raises(SinefieldError, match=r"0: .*run it unmerged"):
            adapters.merge(model)
    assert torch.allclose(model(x), trained, atol=1e-6)
    adapters.detach(model)
    assert torch.equal(model(x), wanted)


def test_a_refused_merge_leaves_none_merged():
    model = nn.Sequential(nn.Linear(7, 7), Int8Linear(7, 5))
    adapters.attach(model, "*", AdapterSpec(rank=2))
    with pytest.raises(SinefieldError, match="1: the weight of a Int8Linear is quantised"):
        adapters.merge(model)
    assert not model[0].merged
    with pytest.raises(SinefieldError, match="there is none with the adapter in it"):
        _ = model[1].weight


def test_offloaded_weights():
    """accelerate's: on the meta device but for the time of a pass."""
    accelerate = pytest.importorskip("accelerate", reason="accelerate is absent; pip install 'sinefield[adapters]'")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    plain = copy.deepcopy(model)
    x = torch.randn(4, 6)
    wanted = model(x)
    accelerate.cpu_offload(model, execution_device="cpu")
    assert model[0].weight.is_meta
    adapters.attach(model, "*", AdapterSpec("sine", 2, omega=20.0))
    assert torch.allclose(model(x), wanted, atol=1e-6)
    for layer in adapters.adapted_layers(model).values():
        nn.init.normal_(layer.adapters["default"].b)
    adapters.restore(plain, _targets(model))
    assert torch.allclose(model(x), plain(x), atol=1e-5)
    assert not torch.allclose(model(x), wanted, atol=0.1)
    with pytest.raises(SinefieldError, match="0: the weight of a Linear is offloaded"):
        adapters.merge(model)
    with pytest.raises(SinefieldError, match="0: its weight is on the meta device"):
        adapters.attach(nn.Sequential(nn.Linear(4, 4, device="meta")), "0", AdapterSpec(rank=1))


def _targets(model):
    from sinefield.adapters.file import targets_of

    return targets_of(model)


@pytest.mark.parametrize("kind", ["dora", "sine-dora"])
def test_dora_with_a_row_of_zeros(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5))
    with torch.no_grad():
        model[0].weight[2] = 0
    x = torch.randn(3, 7)
    wanted = model(x)
    adapters.attach(model, "0", AdapterSpec(kind, 2, omega=9.0))
    assert torch.allclose(model(x), wanted, atol=1e-6) and torch.isfinite(model[0].weight).all()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.01)
    for _ in range(5):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    adapters.merge(model)
    assert torch.isfinite(model[0].weight).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", ["linear", "convolution"])
def test_second_derivatives(layer, kind):
    """Of the formula in plain torch; DoRA's lengths are constants in both."""
    torch.manual_seed(0)
    base = nn.Linear(3, 3) if layer == "linear" else nn.Conv2d(2, 2, 2, padding=1)
    model = nn.Sequential(base).double()
    adapters.attach(model, "0", AdapterSpec(kind, 1, 2.0, 3.0))
    for p in model[0].adapters.parameters():
        nn.init.normal_(p)
    x = torch.randn(2, 3) if layer == "linear" else torch.randn(1, 2, 3, 3)
    x = x.double().requires_grad_()
    inputs = [x, *model[0].adapters.parameters()]

    def twice(y):
        first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in first), inputs)

    weight = model[0].weight
    plain = F.linear(x, weight, base.bias) if layer == "linear" else base._conv_forward(x, weight, base.bias)
    for ours, truth in zip(twice(model(x)), twice(plain), strict=True):
        assert truth.abs().max() > 0 and torch.allclose(ours, truth, rtol=1e-8, atol=1e-10)


def test_transforms_of_torch_func():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3)).double()
    adapters.attach(model, "0", AdapterSpec("sine", 2, 2.0, 5.0))
    for p in model[0].adapters.parameters():
        nn.init.normal_(p)
    parameters = {k: p.detach() for k, p in model.named_parameters() if ".adapters." in k}
    xs = torch.randn(5, 4).double()

    def loss(parameters, x):
        return torch.func.functional_call(model, parameters, (x,)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, xs)
    for i, x in enumerate(xs):
        model.zero_grad()
        model(x).square().sum().backward()
        for name, p in model.named_parameters():
            if name in parameters:
                assert torch.allclose(each[name][i], p.grad)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # forward mode compiles a few formulas by torch.jit, which is on its way out
        _, tangent = torch.func.jvp(lambda x: model(x), (xs,), (torch.ones_like(xs),))
    step = (model(xs + 1e-6) - model(xs - 1e-6)) / 2e-6
    assert torch.allclose(tangent, step, atol=1e-6)


def test_traced():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3))
    adapters.attach(model, "0", AdapterSpec("sine", 2, 2.0, 5.0))
    nn.init.normal_(model[0].adapters["default"].b)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out
        traced = torch.jit.trace(model, torch.randn(2, 4))
    x = torch.randn(5, 4)
    assert torch.allclose(traced(x), model(x), atol=1e-6)


def test_wrappers_have_no_names(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 2)))
    plain = copy.deepcopy(model)
    model[1] = torch.compile(model[1], backend="eager")
    wrapped = torch.compile(nn.DataParallel(model), backend="eager")
    report = adapters.attach(wrapped, "*", AdapterSpec("sine", 1, 2.0, 5.0))
    assert report.targets == ["0", "1.1"]
    for layer in adapters.adapted_layers(wrapped).values():
        nn.init.normal_(layer.adapters["default"].b)
    adapters.save_adapter(wrapped, tmp_path / "a.safetensors")
    adapters.restore(plain, tmp_path / "a.safetensors")
    x = torch.randn(3, 4)
    with torch._dynamo.config.patch(disable=True):
        assert torch.allclose(wrapped(x), plain(x), atol=1e-6)
    adapters.remove(wrapped, "default")
    assert not adapters.adapted_layers(wrapped)


def test_a_layer_that_is_compiled_alone():
    """What torch.compile holds is the old layer: it must not go on being called."""
    torch.manual_seed(0)
    model = nn.Sequential(torch.compile(nn.Linear(4, 4), backend="eager"), nn.Tanh())
    x = torch.randn(3, 4)
    with torch._dynamo.config.patch(disable=True):
        wanted = model(x)
    adapters.attach(model, "0", AdapterSpec("sine", 1, 2.0, 5.0))
    assert torch.allclose(model(x), wanted, atol=1e-6)
    nn.init.normal_(model[0].adapters["default"].b)
    assert not torch.allclose(model(x), wanted, atol=1e-2)


def test_restoring_leaves_a_head_that_trains(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    other = copy.deepcopy(model)
    adapters.attach(model, "0", AdapterSpec(rank=1))
    adapters.save_adapter(model, tmp_path / "a.safetensors")
    other.requires_grad_(False)
    other[1].requires_grad_(True)
    adapters.restore(other, tmp_path / "a.safetensors")
    assert {n for n, p in other.named_parameters() if p.requires_grad} == {
        *("1.weight", "1.bias"),
        *(f"0.adapters.default.{part}" for part in "ab"),
    }


def test_what_is_kept_while_merged_is_no_parameter():
    model = nn.Sequential(nn.Linear(4, 4))
    adapters.attach(model, "0", AdapterSpec(rank=1))
    names = [n for n, _ in model.named_parameters()]
    kept, count = model[0].base.weight, adapters.count(model)
    adapters.merge(model)
    assert [n for n, _ in model.named_parameters()] == names == list(model.state_dict())[:2] + names[2:]
    assert adapters.count(model) == count
    model.double().float()
    adapters.unmerge(model)
    assert torch.equal(model[0].base.weight, kept)


def test_tied_weights_of_an_adapted_head():
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))
    adapters.attach(model, "1", AdapterSpec(rank=1))
    model[1].weight = model[0].weight  # as transformers' tie_weights does
    assert model[1].base.weight is model[0].weight
    with pytest.raises(SinefieldError, match="cannot be replaced: an adapter on it has the old size"):
        model[1].weight = nn.Parameter(torch.zeros(7, 4))


def test_a_head_that_was_resized_is_said():
    """As transformers resizes tied embeddings: the numbers change, the parameter stays."""
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))
    model[1].weight = model[0].weight
    adapters.attach(model, "1", AdapterSpec(rank=1))
    model[0].weight.data = torch.randn(9, 4)
    for act in (lambda: model(torch.tensor([1])), lambda: model[1].weight, lambda: adapters.merge(model)):
        with pytest.raises(SinefieldError, match=r"weight is 9×4 now, the adapter on it is for 6×4; resize the model"):
            act()
    adapters.detach(model)
    assert model(torch.tensor([8])).shape == (1, 9)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_up_proj, self.act = nn.Parameter(torch.randn(2, 4, 6)), nn.SiLU()


def test_what_is_passed_over_is_named():
    model = nn.ModuleDict(
        {
            **{"attention": nn.MultiheadAttention(4, 2), "experts": Experts(), "tokens": nn.Embedding(3, 4)},
            **{"line": nn.Conv1d(4, 4, 1), "volume": nn.Conv3d(4, 4, 1), "head": nn.Linear(4, 4)},
        }
    )
    report = adapters.attach(model, "*", AdapterSpec(rank=1))
    assert report.targets == ["attention.out_proj", "head"]
    assert report.passed_over == {
        **{"attention.in_proj_weight": "MultiheadAttention", "experts.gate_up_proj": "Experts", "experts.act": "SiLU"},
        **{"tokens": "Embedding", "line": "Conv1d", "volume": "Conv3d"},
    }
    with pytest.raises(SinefieldError, match="'gate_up_proj' matches only Experts"):
        adapters.attach(model, "gate_up_proj", AdapterSpec(rank=1))
