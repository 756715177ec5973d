"""Hugging Face's vision transformers and timm-like blocks with our parts, against the formulas written out."""

import copy
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sinefield.errors import SinefieldError
from sinefield.nn.weights import WeightSpec
from sinefield.transformers.convert import convert
from sinefield.transformers.graying import DCTGraying, SVDGraying, svd_graying

transformers = pytest.importorskip("transformers", reason="transformers is absent; pip install 'sinefield[adapters]'")


FLAT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
COMMON = {"image_size": 16, "num_labels": 3, "initializer_range": 0.3}


def vit():
    return transformers.ViTForImageClassification(transformers.ViTConfig(**FLAT, **COMMON, patch_size=4))


def deit():
    model = transformers.DeiTForImageClassification(transformers.DeiTConfig(**FLAT, **COMMON, patch_size=4))
    with torch.no_grad():  # they start as zeros, of which a norm makes rounding errors large
        for token in (model.deit.embeddings.cls_token, model.deit.embeddings.distillation_token):
            token.normal_()
    return model


def swin():
    sizes = {"patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
    config = transformers.SwinConfig(**sizes, **COMMON)
    model = transformers.SwinForImageClassification(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias_table"):
                parameter.normal_()
    return model


class Packed(nn.Module):
    """Built like timm's attention, and with `window` like Swin's there."""

    def __init__(self, dim=16, heads=2, window=0):
        super().__init__()
        self.num_heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.q_norm, self.k_norm = (nn.LayerNorm(dim // heads), nn.Identity()) if not window else (None, None)
        self.attn_drop, self.proj_drop = nn.Dropout(0.0), nn.Dropout(0.0)
        if window:
            self.relative_position_bias_table = nn.Parameter(torch.randn(5, heads))
            index = torch.arange(window)[:, None] - torch.arange(window)[None] + window - 1
            self.register_buffer("relative_position_index", index, persistent=False)

    def scores(self, x, mask):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        scores = q @ k.transpose(2, 3) * self.scale
        if hasattr(self, "relative_position_index"):
            scores = scores + self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if mask is not None:
            scores = scores + mask.repeat(b // len(mask), 1, 1)[:, None]
        return scores, v

    def out(self, matrix, v):
        return self.proj_drop(self.proj((self.attn_drop(matrix) @ v).transpose(1, 2).flatten(2)))

    def forward(self, x, mask=None):
        scores, v = self.scores(x, mask)
        return self.out(scores.softmax(-1), v)


class Mlp(nn.Module):
    def __init__(self, dim=16, hidden=24):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim, bias=False)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, window=0):
        super().__init__()
        self.attn, self.mlp = Packed(window=window), Mlp()

    def forward(self, x, mask=None):
        x = x + self.attn(x, mask=mask)
        return x + self.mlp(x)


def make(build):
    torch.manual_seed(0)
    return build().eval()


def answer(model, seed=1):
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model(images).logits


MODELS = pytest.mark.parametrize("build", [vit, deit, swin])


@MODELS
def test_softmax_changes_nothing(build):
    model = make(build)
    wanted, names = answer(model), list(model.state_dict())
    report = convert(model, attention="softmax")
    assert torch.allclose(answer(model), wanted, atol=2e-5)
    assert list(model.state_dict()) == names
    assert report.count("attention") == (4 if build is swin else 2) and report.count("graying") == 0
    assert model.config._attn_implementation == "sinefield"


@pytest.mark.parametrize("divisor", [None, 14.0])
@pytest.mark.parametrize("power", [1, 2, 3])
def test_powers_in_a_vit(power, divisor):
    model = make(vit)
    convert(model, attention=power, divisor=divisor)
    layer = model.vit.layers[1].attention
    x = torch.randn(2, 17, 32)
    q, k, v = (f(x).unflatten(-1, (4, 8)).double() for f in (layer.q_proj, layer.k_proj, layer.v_proj))
    y = torch.zeros(2, 17, 4, 8, dtype=torch.float64)
    for b in range(2):
        for h in range(4):
            for i in range(17):
                scores = (k[b, :, h] @ q[b, i, h]) / math.sqrt(8)
                y[b, i, h] = (scores**power / (divisor or math.sqrt(17))) @ v[b, :, h]
    wanted = layer.o_proj(y.flatten(2).float())
    assert torch.allclose(layer(x)[0], wanted, atol=1e-6 * float(wanted.detach().abs().max()))


def test_powers_in_a_swins_shifted_windows():
    model = make(swin)
    convert(model, attention=3)
    block = model.swin.encoder.layers[0].blocks[1]
    layer, mask = block.attention, block.get_attn_mask(8, 8, torch.float32, "cpu")
    assert mask.shape == (4, 16, 16) and mask.min() == -100  # the window's corners do not see each other
    x = torch.randn(8, 16, 16)  # two images of four windows
    q, k, v = (f(x).unflatten(-1, (2, 8)).transpose(1, 2) for f in (layer.q_proj, layer.k_proj, layer.v_proj))
    scores = q @ k.transpose(2, 3) / math.sqrt(8) + layer.relative_position_bias()
    seen = torch.cat([mask, mask])[:, None] == 0
    count = seen.sum(-1, keepdim=True)  # the keys that a query sees
    wanted = layer.o_proj(((scores**3 / count.sqrt() * seen) @ v).transpose(1, 2).flatten(2))
    assert torch.allclose(layer(x, mask)[0], wanted, atol=1e-4, rtol=1e-4)


def test_an_unconverted_model_beside_a_converted_one():
    config = make(vit).config
    first, second = (transformers.ViTForImageClassification(config).eval() for _ in range(2))
    wanted = answer(first)
    convert(second, attention=3)
    fresh = transformers.ViTForImageClassification(first.config).eval()
    fresh.load_state_dict(first.state_dict())
    assert torch.allclose(answer(first), wanted, atol=1e-5)
    assert torch.allclose(answer(fresh), wanted, atol=1e-5)


@MODELS
@pytest.mark.parametrize("place", ["input", "attention"])
@pytest.mark.parametrize("kind", ["dct", "svd"])
def test_graying(build, kind, place):
    module = {"dct": DCTGraying, "svd": SVDGraying}[kind](1.0)
    model = make(build)
    wanted, names = answer(model), list(model.state_dict())
    convert(model, graying=module, graying_at=place)
    assert torch.allclose(answer(model), wanted, atol=1e-3)  # ε = 1 is no graying
    report = convert(model, graying=kind, graying_at=place)
    assert report.count("graying") == (1 if place == "input" else 4 if build is swin else 2)
    assert list(model.state_dict()) == names
    assert (answer(model) - wanted).abs().max() > 1e-3
    assert convert(model, graying=kind, graying_at=place).changes[0].before.startswith(kind.upper())


def test_graying_is_of_the_input_tokens():
    """By default once, before the first block, as if the embedding had given other tokens."""
    plain, grayed = make(vit), make(vit)
    convert(grayed, graying="svd")
    images = torch.randn(2, 3, 16, 16)
    plain.vit.embeddings.register_forward_hook(lambda _, args, tokens: svd_graying(tokens, 0.7))
    assert torch.allclose(grayed(images).logits, plain(images).logits, atol=1e-5)


def test_one_graying_makes_room_for_another():
    model, wanted = make(vit), make(vit)
    convert(model, graying="svd", graying_at="attention")
    convert(model, graying="svd")
    convert(wanted, graying="svd")
    assert torch.equal(answer(model), answer(wanted))
    convert(model, graying=DCTGraying(0.9), graying_at="attention")
    convert(wanted, graying=DCTGraying(0.9), graying_at="attention")
    assert torch.equal(answer(model), answer(wanted))
    assert sum(hasattr(module, "gray") for module in model.modules()) == 2


def test_graying_of_a_map_of_tokens():
    """timm's Swin gives its blocks (b, height, width, d)."""
    block = make(lambda: Block(0))
    block.forward = lambda x: x
    convert(block, graying="svd")
    x = torch.randn(2, 3, 4, 16)
    assert torch.allclose(block(x), svd_graying(x.flatten(1, 2), 0.7).reshape(2, 3, 4, 16), atol=1e-6)


def test_graying_is_of_what_enters_attention():
    plain, grayed = make(vit).vit.layers[0].attention, make(vit)
    convert(grayed, graying="svd", graying_at="attention")
    x = torch.randn(2, 17, 32)
    wanted = plain(svd_graying(x, 0.7))[0]
    assert torch.allclose(grayed.vit.layers[0].attention(x)[0], wanted, atol=1e-5)
    assert torch.allclose(grayed.vit.layers[0].attention(hidden_states=x)[0], wanted, atol=1e-5)
    convert(grayed, attention=3)
    cube = make(vit)
    convert(cube, attention=3)
    assert torch.allclose(
        grayed.vit.layers[0].attention(x)[0], cube.vit.layers[0].attention(svd_graying(x, 0.7))[0], atol=1e-4
    )


@MODELS
def test_sine_feedforward(build):
    model = make(build)
    matrix = next(m for n, m in model.named_modules() if n.endswith("fc1")).weight.detach().numpy().astype(float)
    biases = {n: b.clone() for n, b in model.state_dict().items() if n.endswith(("fc1.bias", "fc2.bias"))}
    report = convert(model, feedforward=WeightSpec("sine", rank=4, omega=30.0))
    layer = next(m for n, m in model.named_modules() if n.endswith("fc1"))
    gain = math.sqrt(matrix.shape[1])
    u, s, vh = np.linalg.svd(np.arcsin(np.clip(gain * matrix, -1, 1)) / 30)
    wanted = np.sin(30 * (u[:, :4] * s[:4]) @ vh[:4]) / gain
    assert np.allclose(layer.weight().detach().numpy(), wanted, atol=1e-5)
    change = report.changes[0]
    assert math.isclose(change.error, np.linalg.norm(wanted - matrix) / np.linalg.norm(matrix), rel_tol=1e-4)
    assert math.isclose(change.clipped, (np.abs(gain * matrix) > 1).mean(), abs_tol=1e-9) and change.clipped > 0
    assert all(torch.equal(model.state_dict()[name], bias) for name, bias in biases.items())
    assert report.numbers_after == sum(p.numel() for p in model.parameters()) < report.numbers_before
    answer(model)
    with pytest.raises(SinefieldError, match="no MLP of linear layers"):
        convert(model, feedforward="sine")


def test_full_rank_keeps_the_output():
    """Where nothing is clipped and no rank is cut, the weights are the model's own."""
    model = make(vit)
    with torch.no_grad():
        for layer in model.vit.layers:
            layer.mlp.fc1.weight.mul_(0.05)
            layer.mlp.fc2.weight.mul_(0.05)
    wanted = answer(model)
    report = convert(model, feedforward=WeightSpec("sine", rank=32, omega=2.0))
    assert all(change.clipped == 0 and change.error < 1e-5 for change in report.changes)
    assert torch.allclose(answer(model), wanted, atol=1e-4)
    plain = make(vit)
    wanted = answer(plain)
    convert(plain, feedforward=WeightSpec("lowrank", rank=32))
    assert torch.allclose(answer(plain), wanted, atol=1e-4)


def test_every_linear_layer_of_the_blocks():
    """Six of each ViT layer; patches, head and what lies between blocks stay as they are."""
    model = make(vit)
    wanted, linear = answer(model), [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    inner = [name for name in linear if name.startswith("vit.layers.")]
    report = convert(model, attention="softmax", linears=WeightSpec("lowrank", rank=32))
    assert torch.allclose(answer(model), wanted, atol=1e-4)
    changed = [change.layer for change in report.changes if change.part == "linear"]
    assert sorted(changed) == sorted(inner) and len(inner) == 6 * len(model.vit.layers)
    assert [n for n, m in model.named_modules() if isinstance(m, nn.Linear)] == ["classifier"]
    assert {f"{name}.weight.u" for name in inner} < set(model.state_dict())
    with pytest.raises(SinefieldError, match="no linear layer in its blocks"):
        convert(model, linears="sine")
    low = make(vit)
    convert(low, linears=WeightSpec("sine", rank=2), keep=False)
    layer = low.vit.layers[1].attention.q_proj
    x = torch.randn(3, 32)
    matrix = torch.sin(layer.weight.omega * layer.weight.u @ layer.weight.v) / layer.weight.gain
    assert torch.allclose(layer(x), x @ matrix.T + layer.bias, atol=1e-5)


def test_packed_projections_are_factored_too():
    block = make(Block)
    x = torch.randn(2, 3, 16)
    wanted = block(x)
    report = convert(block, attention="softmax", linears=WeightSpec("lowrank", rank=16))
    assert torch.allclose(block(x), wanted, atol=1e-4)
    assert report.count("linear") == 4  # qkv, proj, fc1, fc2


def test_a_layer_that_computes_something_else_is_not_factored():
    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    for place in ("fc1", "q_proj"):
        model = make(vit)
        holder = model.vit.layers[0].mlp if place == "fc1" else model.vit.layers[0].attention
        old = getattr(holder, place)
        setattr(holder, place, Scaled(old.in_features, old.out_features))
        with pytest.raises(SinefieldError, match=f"{place}: Scaled is no plain linear layer"):
            convert(model, linears="sine")
    model = make(vit)
    model.vit.layers[0].mlp.fc2 = Scaled(64, 32)
    with pytest.raises(SinefieldError, match="fc2: Scaled is no plain linear layer"):
        convert(model, feedforward="sine")


def test_weights_anew():
    model = make(vit)
    old = model.vit.layers[0].mlp.fc1.bias.detach().clone()
    report = convert(model, feedforward="sine", keep=False)
    assert report.changes[0].error is None
    assert not torch.equal(model.vit.layers[0].mlp.fc1.bias, old)
    matrix = model.vit.layers[0].mlp.fc1.weight().detach()
    assert 0.6 < float(matrix.std()) * math.sqrt(32) < 0.8  # of a sine whose phase has settled: 0.707


ALL = {"attention": 3, "graying": "dct", "feedforward": "sine"}


@MODELS
def test_round_trip(build, tmp_path):
    model = make(build)
    convert(model, **ALL)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    torch.manual_seed(7)
    again = build().eval()
    convert(again, **ALL)
    assert not torch.allclose(answer(again), answer(model))
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(answer(again), answer(model))
    assert torch.equal(answer(copy.deepcopy(model)), answer(model))


@MODELS
def test_it_trains(build):
    model = make(build).train()
    convert(model, **ALL)
    loss = model(torch.randn(2, 3, 16, 16), labels=torch.tensor([0, 2])).loss
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(g is not None and torch.isfinite(g).all() for g in grads.values())
    assert grads[next(n for n in grads if n.endswith("weight.u"))].abs().max() > 0


def test_blocks_like_timms():
    for window in (0, 3):
        block = make(lambda window=window: Block(window))
        x = torch.randn(4, 3, 16)
        mask = torch.tensor([[[0.0, -100, 0], [-100, 0, 0], [0, 0, 0]], [[0.0] * 3] * 3]) if window else None
        wanted, names = block(x, mask), list(block.state_dict())
        original = block.attn
        scores, v = original.scores(x, mask)
        seen = scores > -50
        cubed = original.out(scores**3 / seen.sum(-1, keepdim=True).sqrt() * seen, v)
        convert(block, attention="softmax")
        assert torch.allclose(block(x, mask), wanted, atol=1e-5)
        report = convert(block, attention=3)
        assert torch.allclose(block.attn(x, mask=mask), cubed, atol=1e-5)
        assert list(block.state_dict()) == names and report.changes[0].after == "x^3/√N"
        convert(block, graying="svd", graying_at="attention")
        convert(block, attention=3)  # keeps it
        gray = svd_graying(x, 0.7)
        scores, v = original.scores(gray, mask)
        seen = scores > -50
        cubed = original.out(scores**3 / seen.sum(-1, keepdim=True).sqrt() * seen, v)
        assert torch.allclose(block.attn(x, mask=mask), cubed, atol=1e-5)
        assert copy.deepcopy(block).attn.gray is not block.attn.gray


def masked():
    """A masked autoencoder (MAE): two stacks of blocks, the second smaller."""
    config = transformers.ViTMAEConfig(
        **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
        **{"image_size": 16, "patch_size": 4, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1},
        **{"decoder_num_attention_heads": 2, "decoder_intermediate_size": 32},
    )
    return transformers.ViTMAEForPreTraining(config)


def placed():
    """BEiT with relative positions, which are added to the scores."""
    return transformers.BeitForImageClassification(
        transformers.BeitConfig(
            **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
            **{"image_size": 16, "patch_size": 4, "use_relative_position_bias": True},
        )
    )


@pytest.mark.parametrize(("build", "layers"), [(masked, 3), (placed, 2)])
def test_other_models_of_the_same_parts(build, layers):
    def run(model):
        torch.manual_seed(3)  # of the masks
        with torch.no_grad():
            return model(torch.randn(2, 3, 16, 16)).logits

    model = make(build)
    for name, parameter in model.named_parameters():
        if "bias_table" in name:
            torch.nn.init.normal_(parameter)
    wanted = run(model)
    assert convert(model, attention="softmax").count("attention") == layers
    assert torch.allclose(run(model), wanted, atol=1e-5)
    assert convert(model, attention=3, graying="dct", linears="sine", keep=False).count("linear") == 6 * layers
    assert run(model).isfinite().all() and not torch.allclose(run(model), wanted)


def test_cosine_attention_is_refused():
    sizes = {"image_size": 16, "patch_size": 2, "embed_dim": 16, "depths": [1], "num_heads": [2], "window_size": 4}
    model = transformers.Swinv2Model(transformers.Swinv2Config(**sizes))
    with pytest.raises(SinefieldError, match="Swinv2Model has no attention of a structure that is known"):
        convert(model, attention="softmax")


def test_attention_of_maps_is_refused():
    block = make(Block)
    convert(block, attention=3)
    with pytest.raises(SinefieldError, match=r"takes tokens \(b, n, dim\), and is given \(2, 3, 3, 16\)"):
        block.attn(torch.randn(2, 3, 3, 16))


def test_timm_itself():
    pytest.importorskip("torchvision", reason="timm imports torchvision, which a torch for the CPU alone does not have")
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": 16, "num_classes": 3}
    flat = VisionTransformer(**sizes, patch_size=4, embed_dim=32, depth=2, num_heads=4, qk_norm=True).eval()
    stages = {"depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
    swin = SwinTransformer(**sizes, patch_size=2, embed_dim=16, **stages).eval()
    images = torch.randn(2, 3, 16, 16)
    for model in (flat, swin):
        wanted, names = model(images), list(model.state_dict())
        convert(model, attention="softmax")
        assert torch.allclose(model(images), wanted, atol=1e-4) and list(model.state_dict()) == names
        convert(model, **ALL)
        model(images).sum().backward()


def test_the_report_is_a_table():
    text = str(convert(make(vit), **ALL))
    lines = text.splitlines()
    columns = lines[0].split()
    assert columns[:4] == ["layer", "part", "before", "after"] and columns[-2:] == ["error", "clipped"]
    assert "vit.layers.1.mlp.fc2" in text and "x^3/√N" in text and "sine, rank 8" in text
    assert lines[-1].endswith("numbers in all")


class Strange(Packed):
    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(1))


BAD = [
    (vit, {}, "nothing to convert"),
    (vit, {"attention": 4}, "no attention 4; softmax, or a power: 1, 2, 3"),
    (vit, {"attention": True}, "no attention True"),
    (vit, {"attention": "softmax", "divisor": 14.0}, "a divisor needs"),
    (vit, {"attention": 3, "divisor": -1.0}, "is positive, got -1"),
    (vit, {"graying": "dst"}, "no graying 'dst'; one of dct, svd"),
    (vit, {"graying": "dct", "graying_at": "blocks"}, "no place 'blocks' to gray at; one of input, attention"),
    (vit, {"feedforward": "dense"}, "no feedforward 'dense'"),
    (vit, {"linears": "dense"}, "no linears 'dense'"),
    (vit, {"linears": "sine", "feedforward": "sine"}, "give one of them"),
    (vit, {"attention": 3, "feedforward": WeightSpec("sine", rank=33)}, "fc1: rank 33 does not fit"),
    (Mlp, {"attention": 3}, "Mlp has no attention of a structure that is known; Hugging Face's ViT, DeiT and Swin"),
    (Packed, {"feedforward": "sine"}, "Packed has no MLP"),
    (lambda: nn.Sequential(Strange()), {"graying": "dct"}, "Strange has qkv like timm's attention, but also temp"),
]


@pytest.mark.parametrize(("build", "arguments", "line"), BAD)
def test_bad_input_leaves_the_model(build, arguments, line):
    model = make(build)
    before = repr(model)
    with pytest.raises(SinefieldError, match=line) as caught:
        convert(model, **arguments)
    assert "\n" not in str(caught.value) and repr(model) == before
    assert getattr(model, "config", None) is None or model.config._attn_implementation != "sinefield"


def test_dropout_is_refused():
    model = make(vit)
    model.config.attention_probs_dropout_prob = 0.1
    dropping = transformers.ViTForImageClassification(model.config).train()
    convert(dropping, attention=3)
    with pytest.raises(SinefieldError, match="drops 10 % of its attention"):
        dropping(torch.randn(1, 3, 16, 16))
    dropping.eval()(torch.randn(1, 3, 16, 16))
