"""Hugging Face's language models with powers in softmax's place: what is hidden stays hidden, or is refused by name."""

import pytest
import torch

from sinefield.errors import SinefieldError
from sinefield.transformers.convert import convert

transformers = pytest.importorskip("transformers", reason="transformers is absent; pip install 'sinefield[adapters]'")

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 23}


def llama():
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SIZES, num_key_value_heads=1, initializer_range=0.3)
    )


def gpt2():
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 23, "n_positions": 32}
    dropout = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **dropout, initializer_range=0.3))


def bert():
    return transformers.BertForMaskedLM(transformers.BertConfig(**SIZES, initializer_range=0.3))


def clip_text():
    return transformers.CLIPTextModel(transformers.CLIPTextConfig(**SIZES, max_position_embeddings=32))


def whisper():
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2}
    more = {"decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "vocab_size": 23}
    places = {"num_mel_bins": 8, "max_source_positions": 6, "max_target_positions": 32}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(**sizes, **more, **places, **tokens, suppress_tokens=None, init_std=0.3)
    )


MODELS = {"llama": llama, "gpt2": gpt2, "bert": bert, "clip text": clip_text, "whisper": whisper}
CAUSAL = ["llama", "gpt2", "clip text", "whisper"]


def make(name):
    torch.manual_seed(0)
    return MODELS[name]().eval()


@torch.no_grad()
def answer(name, model, tokens, mask=None):
    if name == "whisper":
        sound = torch.randn(1, 8, 12, generator=torch.Generator().manual_seed(3)).expand(len(tokens), -1, -1)
        return model(input_features=sound, decoder_input_ids=tokens, decoder_attention_mask=mask).logits
    out = model(input_ids=tokens, attention_mask=mask)
    return out.last_hidden_state if name == "clip text" else out.logits


TOKENS = torch.tensor([[3, 7, 4, 9, 5, 11]])


def close(a, b):
    return torch.allclose(a, b, atol=1e-4 * float(b.abs().max()))


@pytest.mark.parametrize("name", MODELS)
def test_softmax_changes_nothing(name):
    model = make(name)
    padded = torch.cat([TOKENS, torch.tensor([[8, 6, 4, 0, 0, 0]])])
    mask = torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]])
    wanted = answer(name, model, padded, mask)
    convert(model, attention="softmax")
    found = answer(name, model, padded, mask)
    assert close(found[0], wanted[0]) and close(found[1, :3], wanted[1, :3])


@pytest.mark.parametrize("power", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_nothing(name, power):
    model = make(name)
    convert(model, attention=power)
    alone = answer(name, model, TOKENS[:, :4], torch.ones(1, 4, dtype=torch.int64))
    padded = torch.cat([TOKENS, torch.tensor([[*TOKENS[0, :4].tolist(), 0, 0]])])
    both = answer(name, model, padded, torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]]))
    assert close(both[1, :4], alone[0])
    assert not close(both[0, :4], alone[0]) or name in CAUSAL  # BERT sees what follows


@pytest.mark.parametrize("power", [1, 3])
@pytest.mark.parametrize("name", CAUSAL)
def test_later_tokens_change_nothing(name, power):
    model = make(name)
    convert(model, attention=power)
    assert close(answer(name, model, TOKENS)[:, :3], answer(name, model, TOKENS[:, :3]))


@pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated")
@pytest.mark.parametrize("name", ["llama", "gpt2", "whisper"])
def test_the_cache_changes_nothing(name):
    """Token by token, each seeing its own past through the cache, against one pass over all of them."""
    model = make(name)
    convert(model, attention=3)
    whole = answer(name, model, TOKENS)
    past, parts = None, []
    with torch.no_grad():
        for i in range(TOKENS.shape[1]):
            given = {"decoder_input_ids" if name == "whisper" else "input_ids": TOKENS[:, i : i + 1]}
            if name == "whisper":
                given["input_features"] = torch.randn(1, 8, 12, generator=torch.Generator().manual_seed(3))
            out = model(**given, past_key_values=past, use_cache=True)
            past = out.past_key_values
            parts.append(out.logits)
    assert close(torch.cat(parts, dim=1), whole)


def t5():
    return transformers.T5Model(
        transformers.T5Config(vocab_size=23, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    )


def gemma2():
    return transformers.Gemma2Model(transformers.Gemma2Config(**SIZES, num_key_value_heads=1, head_dim=8))


def mistral():
    return transformers.MistralModel(transformers.MistralConfig(**SIZES, num_key_value_heads=1, sliding_window=4))


@pytest.mark.parametrize(
    ("build", "words"),
    [(t5, "has position_bias"), (gemma2, "has s(liding_window|oftcap)"), (mistral, "sliding_window")],
)
def test_what_has_more_than_a_mask_is_refused_before_it_is_changed(build, words):
    model = build()
    with pytest.raises(SinefieldError, match=words) as caught:
        convert(model, attention=3)
    assert "\n" not in str(caught.value) and model.config._attn_implementation != "sinefield"


def test_a_window_that_is_none_is_no_window():
    config = transformers.MistralConfig(**SIZES, num_key_value_heads=1, sliding_window=None)
    assert convert(transformers.MistralModel(config), attention=3).count("attention") == 2


@pytest.mark.parametrize("name", CAUSAL)
def test_graying_would_show_what_comes_later(name):
    model = make(name)
    with pytest.raises(SinefieldError, match="is causal, and graying would show"):
        convert(model, graying="dct")
    assert not any(hasattr(module, "gray") for module in model.modules())


def test_graying_of_padded_text_is_refused():
    model = make("bert")
    convert(model, graying="dct")
    plain = answer("bert", model, TOKENS)
    assert close(answer("bert", model, TOKENS, torch.ones_like(TOKENS)), plain)
    with pytest.raises(SinefieldError, match="the mask hides some"):
        answer("bert", model, TOKENS, torch.tensor([[1, 1, 1, 1, 0, 0]]))


def test_graying_reaches_every_tower():
    vision = {k: v for k, v in SIZES.items() if k != "vocab_size"} | {"image_size": 8, "patch_size": 4}
    config = transformers.SiglipConfig(text_config=SIZES, vision_config=vision)
    model = transformers.SiglipModel(config)
    assert convert(model, graying="svd").count("graying") == 2
    clip = transformers.CLIPModel(transformers.CLIPConfig(text_config=SIZES, vision_config=vision))
    with pytest.raises(SinefieldError, match=r"text_model.*is causal"):
        convert(clip, graying="svd")
    assert convert(clip.vision_model, graying="svd").count("graying") == 1
