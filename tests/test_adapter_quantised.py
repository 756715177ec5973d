"""Layers that bitsandbytes and torchao really quantised: adapters run their own forward, with the delta beside it."""

import copy
import warnings

import pytest
import torch
from torch import nn

from sinefield import adapters
from sinefield.adapters import AdapterSpec
from sinefield.adapters.attach import train_only
from sinefield.adapters.deltas import delta
from sinefield.adapters.file import pack_adapter
from sinefield.errors import SinefieldError


def eight_bits(base):
    bnb = pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes quantises")
    layer = bnb.nn.Linear8bitLt(base.in_features, base.out_features, has_fp16_weights=False)
    layer.load_state_dict(base.state_dict())
    return layer.to("cpu")


def four_bits(base):
    bnb = pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes quantises")
    layer = bnb.nn.Linear4bit(base.in_features, base.out_features, compute_dtype=torch.float32)
    layer.load_state_dict(base.state_dict())
    return layer.to("cpu")


def by_torchao(name):
    def make(base):
        quantization = pytest.importorskip("torchao.quantization", reason="pip install torchao quantises")
        model = nn.Sequential(copy.deepcopy(base))
        quantization.quantize_(model, getattr(quantization, name)())
        return model[0]

    return make


MAKERS = {
    **{"bitsandbytes 8": eight_bits, "bitsandbytes 4": four_bits},
    "torchao weights": by_torchao("Int8WeightOnlyConfig"),
    "torchao weights and inputs": by_torchao("Int8DynamicActivationInt8WeightConfig"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MAKERS)
def test_a_quantised_base(name, tmp_path):
    torch.manual_seed(0)
    base, x = nn.Linear(64, 48), torch.randn(5, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make = MAKERS[name]
        model, fresh = nn.Sequential(make(base)), nn.Sequential(make(base))
    wanted = model(x).detach()
    assert 0 < (wanted - base(x)).norm() < 0.2 * base(x).norm()  # it is quantised
    for kind in ("dora", "sine-dora"):
        with pytest.raises(SinefieldError, match="DoRA reads the lengths of rows"):
            adapters.attach(model, "0", AdapterSpec(kind, 2))
    adapters.attach(model, "0", AdapterSpec("lora", 4, 8.0), "plain")
    adapters.attach(model, "0", AdapterSpec("sine", 4, 8.0, 20.0), "sine")
    for kind in ("plain", "sine"):
        adapters.set_active(model, [kind])
        train_only(model, [kind])
        assert torch.equal(model(x), wanted)
        adapter = model[0].adapter(kind)
        nn.init.normal_(adapter.b, std=0.05)
        truth = wanted + x @ delta(adapter.spec, adapter.a, adapter.b).T
        assert torch.allclose(model(x), truth, atol=1e-4) and not torch.allclose(truth, wanted, atol=0.1)
        model(x).square().sum().backward()
        assert (adapter.a.grad != 0).any() and (adapter.b.grad != 0).any()
    with pytest.raises(SinefieldError, match="is quantised, or in a form of its own, so that nothing can be merged"):
        adapters.merge(model)
    adapters.save_adapter(model, tmp_path / "a.safetensors", "sine")
    adapters.restore(fresh, tmp_path / "a.safetensors")
    assert torch.allclose(fresh(x), model(x), atol=1e-5)
    adapters.remove(fresh, "default")
    pack_adapter(tmp_path / "a.safetensors", tmp_path / "a.sine", 8)
    adapters.restore(fresh, tmp_path / "a.sine")
    assert (fresh(x) - model(x)).norm() < 0.1 * (model(x) - wanted).norm()
    adapters.detach(fresh)
    assert torch.equal(fresh(x), wanted)
