"""Plain adapters against PEFT's own LoRA and DoRA; the sine through PEFT's own interface against the formula."""

import copy
import json
import warnings

import pytest
import torch
from torch import nn

peft = pytest.importorskip("peft", reason="PEFT is absent; pip install 'sinefield[adapters]'")
pytest.importorskip("transformers")

from peft.utils.hotswap import hotswap_adapter  # noqa: E402
from transformers.pytorch_utils import Conv1D  # noqa: E402

from sinefield import adapters  # noqa: E402
from sinefield.adapters import AdapterSpec  # noqa: E402
from sinefield.adapters.file import pack_adapter  # noqa: E402
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


class Wide(Net):
    def __init__(self):
        super().__init__()
        self.tokens, self.line, self.volume = nn.Embedding(5, 4), nn.Conv1d(4, 4, 1), nn.Conv3d(4, 4, 1)
        self.attention = nn.MultiheadAttention(4, 2)


@pytest.mark.parametrize("target", ["tokens", "line", "volume", "attention"])
def test_layers_without_a_sine_are_refused(target):
    """PEFT's own layers would be plain LoRA, saved as SINELORA."""
    with pytest.raises(SinefieldError, match="takes no sine adapter"):
        peft.get_peft_model(Wide(), SineLoraConfig(r=2, target_modules=[target]))
    assert peft.get_peft_model(Wide(), peft.LoraConfig(r=2, target_modules=[target]))


def test_target_parameters_are_refused():
    with pytest.raises(SinefieldError, match="takes no target_parameters"):
        SineLoraConfig(target_modules=[], target_parameters=["experts.gate_up_proj"])


def test_factors_are_not_added_up(both):
    _, _, theirs = both
    theirs.add_adapter("other", SineLoraConfig(r=3, lora_alpha=5, omega=20.0, target_modules=TARGETS))
    with pytest.raises(SinefieldError, match="a sum of sines is no sine of a sum"):
        theirs.add_weighted_adapter(["default", "other"], [0.5, 0.5], "sum", combination_type="linear")
    plain = peft.get_peft_model(Net(), peft.LoraConfig(r=3, target_modules=["q"]))
    plain.add_weighted_adapter(["default"], [1.0], "again", combination_type="linear")


def test_swapping_under_another_omega_is_refused(both, tmp_path):
    net, _, theirs = both
    other = peft.get_peft_model(
        copy.deepcopy(net), SineLoraConfig(r=3, lora_alpha=5, omega=7.0, target_modules=TARGETS)
    )
    for name, model in (("same", theirs), ("other", other)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.save_pretrained(tmp_path / name)
    with pytest.raises(ValueError, match=r"for omega, 7\.0 != 20\.0"):
        hotswap_adapter(other, tmp_path / "same", "default", torch_device="cpu")
    x = torch.randn(7, 12)
    again = peft.PeftModel.from_pretrained(copy.deepcopy(net), tmp_path / "same")
    wanted = again(x)
    nn.init.normal_(again.base_model.model.q.lora_B["default"].weight)
    assert not torch.allclose(again(x), wanted, atol=0.1)
    hotswap_adapter(again, tmp_path / "same", "default", torch_device="cpu")
    assert torch.allclose(again(x), wanted, atol=1e-6)


class Tripled(nn.Linear):
    def forward(self, x):
        return 3 * super().forward(x)


class Rounded(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, (8 * self.weight).round() / 8, self.bias)


@pytest.mark.parametrize("kind", [Tripled, Rounded])
def test_a_base_with_its_own_forward(kind):
    torch.manual_seed(0)
    net, x = nn.Sequential(kind(6, 5)), torch.randn(4, 6)
    wanted = net(x)
    model = peft.get_peft_model(net, SineLoraConfig(r=2, omega=9.0, target_modules=["0"]))
    assert torch.allclose(model(x), wanted, atol=1e-6)
    nn.init.normal_(model.base_model.model[0].lora_B["default"].weight)
    with pytest.raises(SinefieldError, match="does more with its weight"):
        model.merge_adapter()
    assert not torch.allclose(model(x), wanted, atol=0.1)


SAVED = {
    "sine": (lambda: SineLoraConfig(r=3, lora_alpha=5, omega=20.0, target_modules=["q", "conv"]), ["q", "conv"]),
    "lora": (lambda: peft.LoraConfig(r=3, lora_alpha=5, use_rslora=True, target_modules=["q", "conv"]), ["q", "conv"]),
    "dora": (lambda: peft.LoraConfig(r=3, use_dora=True, alpha_pattern={"q": 7}, target_modules=["q"]), ["q"]),
    "sine on Conv1D": (lambda: SineLoraConfig(r=3, omega=20.0, target_modules=["c"]), ["c"]),
}


@pytest.mark.parametrize("name", SAVED)
def test_what_peft_saved_is_read_packed_and_merged(net, name, tmp_path):
    make, layers = SAVED[name]
    theirs = peft.get_peft_model(copy.deepcopy(net), make())
    with torch.no_grad():
        for key, p in theirs.named_parameters():
            if "lora_" in key:
                p.add_(0.2 * torch.randn_like(p))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.save_pretrained(tmp_path / "saved")
    x = torch.randn(7, 12)
    adapters.restore(ours := copy.deepcopy(net), tmp_path / "saved")
    assert sorted(adapters.adapted_layers(ours)) == sorted(layers)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)
    file = tmp_path / "saved" / "adapter_model.safetensors"
    assert pack_adapter(file, tmp_path / "a.sine", 8)["delta_error"] < 0.1
    adapters.restore(packed := copy.deepcopy(net), tmp_path / "a.sine")
    assert torch.allclose(packed(x), theirs(x), atol=0.5) and not torch.equal(packed(x), net(x))


def test_what_of_peft_cannot_be_read_is_said(both, tmp_path):
    _, _, theirs = both
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    for change, words in [
        ({"peft_type": "LOHA"}, "is of the kind LOHA"),
        ({"bias": "all"}, "bias is 'all', which changes more than deltas do"),
        ({"modules_to_save": ["head"]}, "modules_to_save is"),
        ({"omega": None}, "has an omega"),
        ({"lora_alpha": "a"}, "no alpha that is a number"),
    ]:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(SinefieldError, match=words) as caught:
            adapters.load_adapter(tmp_path)
        assert "\n" not in str(caught.value)


def test_transformers_own_add_adapter(tmp_path, monkeypatch):
    """It asks for a PEFT of its time; with that check lifted, our configuration goes through it too, and is read."""
    import transformers.integrations.peft as integration
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils.peft_utils import check_peft_version

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=11, **sizes))
    plain = copy.deepcopy(model)
    tokens = torch.tensor([[1, 2, 3]])
    wanted = model(tokens).logits
    config = SineLoraConfig(r=2, omega=20.0, target_modules=["q_proj"])
    least = getattr(integration, "MIN_PEFT_VERSION", "0.0.0")
    try:
        check_peft_version(min_version=least)
    except (ValueError, ImportError):
        with pytest.raises((ValueError, ImportError), match="PEFT"):
            model.add_adapter(config)
        monkeypatch.setattr(integration, "MIN_PEFT_VERSION", "0.0.0")
    model.add_adapter(config)
    assert torch.allclose(model(tokens).logits, wanted, atol=1e-6)
    nn.init.normal_(model.model.layers[0].self_attn.q_proj.lora_B["default"].weight, std=9.0)
    changed = model(tokens).logits
    assert not torch.allclose(changed, wanted, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(tmp_path)
        again = copy.deepcopy(plain)
        assert adapters.restore(again, tmp_path).targets == ["model.layers.0.self_attn.q_proj"]
        assert torch.allclose(again(tokens).logits, changed, atol=1e-6)
        plain.load_adapter(tmp_path)
    assert torch.allclose(plain(tokens).logits, changed, atol=1e-6)


@pytest.mark.parametrize("factor", [0.0, -0.5, 2.0])
def test_scaled_layers(both, factor):
    """PEFT's scale_layer multiplies the delta, to nothing or to its opposite too."""
    net, _, theirs = both
    layer = theirs.base_model.model.q
    x = torch.randn(7, 12)
    base, one = net.q(x), layer(x)
    layer.scale_layer(factor)
    wanted = base + factor * (one - base)
    assert torch.allclose(layer(x), wanted, atol=1e-5)
    layer.merge()
    assert torch.allclose(layer(x), wanted, atol=1e-5)


@pytest.mark.parametrize("wrap", [torch.nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_names_of_wrappers_in_what_peft_saved(net, wrap, tmp_path):
    wrapped = peft.get_peft_model(
        wrap(copy.deepcopy(net)), SineLoraConfig(r=3, lora_alpha=5, omega=20.0, target_modules=["q"])
    )
    with torch.no_grad():
        for key, p in wrapped.named_parameters():
            if "lora_B" in key:
                p.normal_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped.save_pretrained(tmp_path / "saved")
    ours = copy.deepcopy(net)
    assert adapters.restore(ours, tmp_path / "saved").targets == ["q"]
    x = torch.randn(7, 12)
    with torch._dynamo.config.patch(disable=True):
        assert torch.allclose(ours(x), wrapped(x), atol=1e-5) and not torch.allclose(ours(x), net(x), atol=0.01)
