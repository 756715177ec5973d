"""Plain adapters against PEFT's own LoRA and DoRA; the sine through PEFT's own interface against the formula."""

import copy
import json
import warnings

import pytest
import torch
from torch import nn

peft = pytest.importorskip("peft", reason="PEFT is absent; pip install 'sinefield[adapters]'")
pytest.importorskip("transformers")

from transformers.pytorch_utils import Conv1D  # noqa: E402

from sinefield import adapters  # noqa: E402
from sinefield.adapters import AdapterSpec  # noqa: E402
from sinefield.adapters.peft import SineLoraConfig  # noqa: E402
from sinefield.errors import SinefieldError  # noqa: E402


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.c = nn.Linear(12, 16), Conv1D(16, 16)
        self.conv = nn.Conv2d(4, 6, 3, padding=1)

    def forward(self, x):
        return self.conv(self.c(torch.tanh(self.q(x))).view(-1, 4, 2, 2))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


TARGETS = ["q", "c", "conv"]


def copy_factors(ours, theirs):
    """Random factors into PEFT's layers and ours alike."""
    layers = dict(theirs.base_model.model.named_modules())
    with torch.no_grad():
        for name, layer in adapters.adapted_layers(ours).items():
            adapter = layer.adapters["default"]
            for part, factor in ((adapter.a, "lora_A"), (adapter.b, "lora_B")):
                part.normal_(std=0.2)
                weight = getattr(layers[name], factor)["default"].weight
                weight.copy_(part.view_as(weight))
            if adapter.magnitude is not None:
                magnitude = layers[name].lora_magnitude_vector["default"].weight
                assert torch.allclose(magnitude.flatten(), adapter.magnitude)  # both start at the rows' lengths
                adapter.magnitude.mul_(1.1)
                magnitude.mul_(1.1)


@pytest.mark.parametrize(("kind", "targets"), [("lora", TARGETS), ("dora", ["q", "c"])])
def test_plain_kinds_are_pefts(net, kind, targets):
    ours = copy.deepcopy(net)
    adapters.attach(ours, targets, AdapterSpec(kind, rank=3, alpha=5.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets, use_dora=kind == "dora")
        theirs = peft.get_peft_model(net, config)
    copy_factors(ours, theirs)
    x = torch.randn(7, 12)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)
    ours(x).square().sum().backward()
    theirs(x).square().sum().backward()
    layers = dict(theirs.base_model.model.named_modules())
    for name, layer in adapters.adapted_layers(ours).items():
        for part, factor in (("a", "lora_A"), ("b", "lora_B")):
            truth = getattr(layers[name], factor)["default"].weight.grad
            grad = getattr(layer.adapters["default"], part).grad
            assert truth.any() and torch.allclose(grad, truth.view_as(grad), rtol=1e-3, atol=1e-4)


@pytest.fixture
def both(net):
    """The same sine adapter in our own layers and through PEFT."""
    ours = copy.deepcopy(net)
    adapters.attach(ours, TARGETS, AdapterSpec("sine", 3, 5.0, 20.0))
    theirs = peft.get_peft_model(
        copy.deepcopy(net), SineLoraConfig(r=3, lora_alpha=5, omega=20.0, target_modules=TARGETS)
    )
    assert torch.allclose(theirs(torch.ones(2, 12)), net(torch.ones(2, 12)), atol=1e-6)
    copy_factors(ours, theirs)
    return net, ours, theirs


def test_the_sine_through_peft_is_the_sine(both):
    net, ours, theirs = both
    x = torch.randn(7, 12)
    assert not torch.allclose(ours(x), net(x), atol=0.1)
    assert torch.equal(ours(x), theirs(x))
    assert {n.rsplit(".", 3)[-3] for n, p in theirs.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
    with theirs.disable_adapter():
        assert torch.equal(theirs(x), net(x))
    theirs(x).square().sum().backward()
    ours(x).square().sum().backward()
    assert torch.equal(theirs.base_model.model.c.lora_A["default"].weight.grad, ours.c.adapters["default"].a.grad)


def test_saved_and_loaded_by_peft(both, tmp_path):
    net, _, theirs = both
    x = torch.randn(7, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (saved["peft_type"], saved["omega"]) == ("SINELORA", 20.0)
    again = peft.PeftModel.from_pretrained(copy.deepcopy(net), tmp_path)
    assert torch.equal(again(x), theirs(x))
    config = peft.PeftConfig.from_pretrained(tmp_path)
    assert isinstance(config, SineLoraConfig) and config.omega == 20.0
    merged = again.merge_and_unload()
    assert isinstance(merged, Net) and type(merged.q) is nn.Linear
    assert torch.allclose(merged(x), theirs(x), atol=1e-5)


def test_merged_unmerged_and_several_through_peft(both):
    net, _, theirs = both
    x = torch.randn(7, 12)
    one = theirs(x)
    theirs.merge_adapter()
    assert torch.allclose(theirs(x), one, atol=1e-5)
    theirs.unmerge_adapter()
    assert torch.allclose(theirs(x), one, atol=1e-5)
    theirs.add_adapter("other", SineLoraConfig(r=2, omega=7.0, target_modules=["q"]))
    theirs.set_adapter("other")
    assert torch.allclose(theirs(x), net(x), atol=1e-6)  # PEFT starts it at zero
    theirs.base_model.set_adapter(["default", "other"])
    assert torch.allclose(theirs(x), one, atol=1e-6)


def test_bf16_through_peft():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 32)).bfloat16()
    model = peft.get_peft_model(net, SineLoraConfig(r=4, omega=30.0, target_modules=["0"]))
    nn.init.normal_(model.base_model.model[0].lora_B["default"].weight, std=0.1)
    x = torch.randn(8, 32).bfloat16()
    y = model(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(model.merge_and_unload()(x), y)


@pytest.mark.parametrize(
    "options", [{"use_dora": True}, {"lora_dropout": 0.1}, {"omega": -1.0}, {"init_lora_weights": "pissa"}]
)
def test_what_the_sine_cannot_honour_is_said(options):
    with pytest.raises(SinefieldError):
        SineLoraConfig(target_modules=["q"], **options)


def test_other_variants_are_refused_by_peft(net):
    with pytest.raises(ValueError, match="variant"):
        peft.get_peft_model(
            net, SineLoraConfig(target_modules=["q"], alora_invocation_tokens=[1], task_type="CAUSAL_LM")
        )
