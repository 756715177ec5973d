"""Attention against loops in float64, torch's own softmax and autograd; its fast ways against its plain one."""

import math
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

import sinefield.transformers.attention as ours
from sinefield.errors import SinefieldError
from sinefield.kernels import choose
from sinefield.kernels.cuda import attention as tritons
from sinefield.transformers.attention import Attention, attention, attention_matrix, choose_method
from sinefield.transformers.norms import attention_norms, bounds, condition_number

ROOT = Path(__file__).parents[1]


def tokens(b=2, h=4, n=5, m=7, d=3, c=2, g=None, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    g = h if g is None else g
    shapes = (b, h, n, d), (b, g, m, d), (b, g, m, c)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def coin(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.6


def loop(q, k, v, power=None, mask=None, keys=None, causal=False, bias=None, scale=None, divisor=None):
    """The definition, one pair of tokens at a time."""
    (b, h, n, d), (_, g, m, c) = q.shape, v.shape
    q, k, v = (x.numpy() for x in (q, k, v))
    scale = 1 / math.sqrt(d) if scale is None else scale
    mask = torch.ones(b, h, n, m, dtype=torch.bool) if mask is None else mask.expand(b, h, n, m)
    bias = torch.zeros(b, h, n, m) if bias is None else bias.expand(b, h, n, m)
    out = np.zeros((b, h, n, c))
    for s, a, i in product(range(b), range(h), range(n)):
        real = [j for j in range(m) if keys is None or keys[s, j]]
        seen = [j for j in real if mask[s, a, i, j] and (j <= i or not causal)]
        own = a * g // h
        x = {j: scale * float(np.dot(q[s, a, i], k[s, own, j])) + float(bias[s, a, i, j]) for j in seen}
        if power is None:
            total = sum(math.exp(value) for value in x.values())
            weight = {j: math.exp(value) / total for j, value in x.items()}
        else:
            weight = {j: value**power / (divisor or math.sqrt(len(seen))) for j, value in x.items()}
        for j in seen:
            out[s, a, i] += weight[j] * v[s, own, j]
    return torch.from_numpy(out)


SETTINGS = {
    "plain": {},
    "mask": {"mask": coin(2, 4, 5, 7)},
    "one mask for all": {"mask": coin(1, 1, 5, 7)},
    "padding": {"keys": coin(2, 7)},
    "causal": {"causal": True},
    "bias": {"bias": torch.randn(1, 4, 5, 7, generator=torch.Generator().manual_seed(2)).double()},
    "scale": {"scale": 0.3},
    "fixed divisor": {"divisor": 14.0},
}
SETTINGS["all"] = SETTINGS["mask"] | SETTINGS["padding"] | SETTINGS["causal"] | SETTINGS["bias"] | {"scale": 0.3}
OF_SOFTMAX = {name: s for name, s in SETTINGS.items() if "divisor" not in s}
LINEAR = {name: s for name, s in SETTINGS.items() if not {"mask", "bias"} & set(s)}
LINEAR["causal, padding"] = SETTINGS["causal"] | SETTINGS["padding"]


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("power", [1, 2, 3])
def test_powers_are_the_loop(power, name):
    q, k, v = tokens()
    truth = loop(q, k, v, power, **SETTINGS[name])
    torch.testing.assert_close(attention(q, k, v, power, **SETTINGS[name], method="quadratic"), truth)
    weights = attention_matrix(q, k, power, **SETTINGS[name])
    torch.testing.assert_close(weights @ v, truth)
    if name in LINEAR:
        torch.testing.assert_close(attention(q, k, v, power, **SETTINGS[name], method="linear"), truth)


@pytest.mark.parametrize("name", OF_SOFTMAX)
def test_softmax_is_the_loop(name):
    q, k, v = tokens()
    truth = loop(q, k, v, **OF_SOFTMAX[name])
    torch.testing.assert_close(attention(q, k, v, **OF_SOFTMAX[name]), truth)
    torch.testing.assert_close(attention_matrix(q, k, **OF_SOFTMAX[name]) @ v, truth)


@pytest.mark.parametrize(("h", "g", "d", "c"), [(1, 1, 4, 4), (4, 2, 3, 5), (6, 1, 1, 1)])
@pytest.mark.parametrize("power", [None, 1, 2, 3])
def test_heads_share_keys(power, h, g, d, c):
    q, k, v = tokens(h=h, g=g, d=d, c=c)
    truth = loop(q, k, v, power)
    torch.testing.assert_close(attention(q, k, v, power), truth)
    matrix = attention_matrix(q, k, power)
    torch.testing.assert_close(matrix @ v.repeat_interleave(h // g, 1), truth)
    assert attention_norms(q, k, power).matrix.shape == (2, h)


def test_softmax_is_torchs_with_gradients():
    q, k, v = (x.requires_grad_() for x in tokens(n=6, m=6, dtype=torch.float32))
    keys = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    for settings, given in [
        ({}, {}),
        ({"causal": True}, {"is_causal": True}),
        ({"keys": keys}, {"attn_mask": keys[:, None, None, :]}),
        ({"keys": keys, "causal": True}, {"attn_mask": keys[:, None, None, :] & torch.ones(6, 6).tril().bool()}),
    ]:
        a, b = attention(q, k, v, **settings), scaled_dot_product_attention(q, k, v, **given)
        torch.testing.assert_close(a, b)
        for x, y in zip(*(torch.autograd.grad(o.square().sum(), [q, k, v]) for o in (a, b)), strict=True):
            torch.testing.assert_close(x, y)


@pytest.mark.parametrize(("power", "method"), [(None, "quadratic"), *product((1, 2, 3), ("quadratic", "linear"))])
def test_queries_without_keys_get_zeros_and_finite_gradients(power, method):
    q, k, v = (x.requires_grad_() for x in tokens(dtype=torch.float32))
    keys = torch.tensor([[False] * 7, [True] * 7])
    mask = torch.ones(1, 1, 5, 7, dtype=torch.bool)
    mask[..., 2, :] = False
    if method == "linear":
        mask = None
    out = attention(q, k, v, power, mask=mask, keys=keys, method=method)
    assert not out[0].any() and out[1, :, [0, 1, 3, 4]].all()
    assert method == "linear" or not out[1, :, 2].any()
    gradients = torch.autograd.grad(out.square().sum(), [q, k, v])
    assert all(torch.isfinite(g).all() and not g[0].any() and g[1].any() for g in gradients)


@pytest.mark.parametrize("biased", [False, True])
def test_softmax_is_sound_with_kernels_that_are_not(monkeypatch, biased):
    """Of a row without keys some of torch's kernels make numbers that are none, as the textbook's formula does."""

    def textbook(q, k, v, attn_mask, scale):
        added = torch.where(attn_mask, 0.0, -math.inf) if attn_mask.dtype == torch.bool else attn_mask
        return torch.softmax(scale * q @ k.transpose(-1, -2) + added, -1) @ v

    q, k, v = (x.requires_grad_() for x in tokens())
    mask = coin(2, 4, 5, 7)
    mask[0, 1, 2] = mask[1, 3] = False
    bias = SETTINGS["bias"]["bias"] if biased else None
    truth = attention(q, k, v, mask=mask, bias=bias)
    monkeypatch.setattr(ours.F, "scaled_dot_product_attention", textbook)
    out = attention(q, k, v, mask=mask, bias=bias)
    torch.testing.assert_close(out, truth)
    gradients = torch.autograd.grad(out.sum(), [q, k, v])
    assert all(torch.isfinite(g).all() and g.any() for g in gradients)


@pytest.mark.parametrize("method", ["quadratic", "linear"])
def test_padding_changes_nothing(method):
    """A padded batch gives what its sequences give alone."""
    q, k, v = tokens(b=1, n=4, m=4)
    padded = [torch.cat([x, torch.full_like(x, 7.0)], dim=2) for x in (q, k, v)]
    keys = (torch.arange(8) < 4)[None]
    for power, causal in product((1, 2, 3), (False, True)):
        alone = attention(q, k, v, power, causal=causal, method=method)
        both = attention(*padded, power, keys=keys, causal=causal, method=method)
        torch.testing.assert_close(both[:, :, :4], alone)


@pytest.mark.parametrize("power", [None, 1, 2, 3])
def test_gradients_are_difference_quotients(power):
    q, k, v = (x.requires_grad_() for x in tokens(b=1, h=2, n=3, m=3, g=1))
    bias = torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64).requires_grad_()
    mask = torch.tensor([[True, False, True], [True, True, False], [False, True, True]])[None, None]
    assert torch.autograd.gradcheck(
        lambda *x: attention(*x[:3], power, mask=mask, causal=True, bias=x[3]), (q, k, v, bias)
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("method", ["quadratic", "linear"])
def test_second_derivatives(monkeypatch, method, causal):
    monkeypatch.setattr(ours, "CHUNK", 2)
    inputs = [x.requires_grad_() for x in tokens(b=1, h=1, n=3, m=3, d=2, c=1)]
    assert torch.autograd.gradgradcheck(lambda *x: attention(*x, 3, causal=causal, method=method), inputs)


@pytest.mark.parametrize(("n", "m"), [(0, 5), (5, 0)])
@pytest.mark.parametrize("method", ["auto", "quadratic", "linear"])
@pytest.mark.parametrize("causal", [False, True])
def test_no_tokens(n, m, method, causal):
    q, k, v = (x.requires_grad_() for x in tokens(n=n, m=m))
    out = attention(q, k, v, 3, causal=causal, method=method)
    assert out.shape == (2, 4, n, 2) and not out.any()
    out.sum().backward()
    assert not any(x.grad.any() for x in (q, k, v))


@pytest.mark.parametrize("power", [1, 2, 3])
@pytest.mark.parametrize(("n", "m"), [(23, 23), (9, 30), (30, 9)])
def test_linear_is_quadratic_with_gradients(monkeypatch, power, n, m):
    """Through several chunks and slices, the last ones not full."""
    monkeypatch.setattr(ours, "CHUNK", 7)
    monkeypatch.setattr(ours, "FEATURES", 4 * ours.monomials(5, power) * 4)
    inputs = [x.requires_grad_() for x in tokens(h=2, n=n, m=m, d=5, c=3)]
    outer = torch.randn(2, 2, n, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for settings in LINEAR.values():
        settings = settings | ({"keys": coin(2, m)} if "keys" in settings else {})
        results = []
        for method in ("linear", "quadratic"):
            out = attention(*inputs, power, **settings, method=method)
            results.append([out, *torch.autograd.grad((out * outer).sum(), inputs)])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)


def test_linear_holds_no_matrix_of_pairs():
    """All that autograd keeps of 4,096 tokens is smaller than one row in 16 of the n×n matrix."""
    q, k, v = (x.requires_grad_() for x in tokens(1, 1, 4096, 4096, 4, 4, dtype=torch.float32))
    kept = {}

    def keep(x):
        kept[x.data_ptr()] = x.numel()
        return x

    for causal in (False, True):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            attention(q, k, v, 2, causal=causal, method="linear")
        assert sum(kept.values()) < 4096 * 4096 / 16 + (4096 * ours.CHUNK * 4 if causal else 0)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_auto_takes_the_fewest_multiplications(power):
    """As torch's own counter finds them in products of matrices; forming monomials is one channel more."""
    chosen = set()
    cases = [(n, m, False) for n in (4, 64, 300, 1100) for m in (64, 1100)]
    cases += [(n, n, True) for n in (64, 128, 150, 230, 256, 400, 1100)]
    for (n, m, causal), d, c in product(cases, (2, 8, 16), (8, 24)):
        q, k, v = tokens(1, 1, n, m, d, c, dtype=torch.float32)
        counts = {}
        for method in ("quadratic", "linear"):
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                attention(q, k, v, power, causal=causal, method=method)
            counts[method] = counter.get_total_flops()
        choice = choose_method(q, k, v, power, causal)
        other = {"quadratic": "linear", "linear": "quadratic"}[choice]
        assert counts[choice] <= (1 + (power > 1) / c) * counts[other], (n, m, d, c, causal, counts)
        chosen.add((choice, causal))
        assert choose_method(q, k, v, power, causal, masked=True) == "quadratic"
        assert choose_method(q, k, v, power, causal, biased=True) == "quadratic"
    assert {choice for choice, _ in chosen} == {"quadratic", "linear"}


def test_auto_does_what_it_chose(monkeypatch):
    q, k, v = tokens(1, 1, 600, 600, 4, 4)
    used = []
    for name in ("_linear", "_linear_causal"):
        function = getattr(ours, name)
        monkeypatch.setattr(ours, name, lambda *a, f=function, n=name: (used.append(n), f(*a))[1])
    for settings in ({}, {"causal": True}, {"mask": coin(1, 1, 600, 600)}, {"bias": torch.zeros(1, 1, 1, 1).double()}):
        auto = attention(q, k, v, 2, **settings)
        torch.testing.assert_close(auto, attention(q, k, v, 2, **settings, method="quadratic"))
    assert used == ["_linear", "_linear_causal"]


def test_auto_on_cuda_asks_whether_triton_runs(monkeypatch):
    """With tensors that only say they are there."""
    with FakeTensorMode():
        q = torch.empty(1, 2, 196, 64, device="cuda", dtype=torch.float16)
        half, single = (torch.empty(1, 2, 196, 100, device="cuda", dtype=x) for x in (torch.float16, torch.float32))
        double = q.double()
    monkeypatch.setattr(tritons, "why_not", lambda dtype: None)
    choose.forget()
    assert choose_method(q, q, q, 3) == choose_method(q, q, q, 3, masked=True) == "triton"
    assert choose_method(q, q, q, 3, biased=True) == choose_method(double, double, double, 3) == "quadratic"
    assert choose_method(half, half, half, 3) == "triton" and choose_method(single, single, single, 3) == "quadratic"
    assert choose_method(q, q, q, 1) == "linear"
    monkeypatch.setattr(tritons, "why_not", lambda dtype: "no")
    choose.forget()
    assert choose_method(q, q, q, 3) == "quadratic"
    choose.forget()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("power", "method"), [(None, "auto"), *product((1, 2, 3), ("quadratic", "linear"))])
def test_low_precision_only_rounds_what_comes_in_and_out(dtype, power, method):
    q, k, v = (x.requires_grad_() for x in tokens(n=200, m=200, d=8, c=8, dtype=dtype))
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    for causal in (False, True):
        out = attention(q, k, v, power, causal=causal, method=method)
        truth = attention(*wide, power, causal=causal, method="quadratic")
        assert out.dtype == dtype
        eps = torch.finfo(dtype).eps
        pairs = [(out, truth)]
        if power is not None:  # of softmax, the backward pass is torch's
            pairs += zip(*(torch.autograd.grad(o.sum(), x) for o, x in ((out, (q, k, v)), (truth, wide))), strict=True)
        for a, b in pairs:
            assert (a.double() - b).abs().max() <= (1 if power else 4) * eps * b.abs().max()


def test_scores_may_exceed_fp16():
    """x = 64 cubed is four times fp16's largest number; the sum over keys comes back into its range."""
    q, k = (torch.full((1, 1, 2, 4), x, dtype=torch.float16) for x in (8.0, 4.0))
    v = torch.tensor([1.0, -0.9375], dtype=torch.float16).reshape(1, 1, 2, 1)
    for method in ("quadratic", "linear"):
        out = attention(q, k, v, 3, method=method)
        torch.testing.assert_close(out, torch.full_like(out, 64**3 * 0.0625 / math.sqrt(2)), rtol=1e-3, atol=0)


def test_under_autocast_sums_stay_float32():
    q, k, v = tokens(n=200, m=200, dtype=torch.float32)
    for method in ("quadratic", "linear"):
        plain = attention(q, k, v, 3, method=method)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(attention(q, k, v, 3, method=method), plain)


@pytest.mark.parametrize(
    ("power", "settings", "message"),
    [
        (4, {}, "power 4"),
        (3, {"method": "fast"}, "unknown method"),
        (None, {"method": "linear"}, "softmax has no method"),
        (None, {"divisor": 14.0}, "divisor"),
        (3, {"divisor": 0.0}, "divisor"),
        (3, {"method": "linear", "mask": coin(1, 1, 5, 7)}, "no mask"),
        (3, {"method": "linear", "bias": torch.zeros(1, 1, 1, 1)}, "no bias"),
        (3, {"method": "triton", "bias": torch.zeros(1, 1, 1, 1)}, "no bias"),
        (3, {"method": "triton"}, "no float64"),
    ],
)
def test_what_cannot_be_is_said(power, settings, message):
    with pytest.raises(SinefieldError, match=message):
        attention(*tokens(), power, **settings)


def test_heads_that_do_not_divide_are_said():
    with pytest.raises(SinefieldError, match="multiple of 3"):
        attention(*tokens(h=4, g=3), 3)
    for settings, message in [({"heads": 3}, "3 heads"), ({"heads": 4, "key_heads": 3}, "3 key heads")]:
        with pytest.raises(SinefieldError, match=message):
            Attention(16, **settings)


def test_module_is_multihead_attention():
    """torch's, with the same weights."""
    torch.manual_seed(0)
    peer = torch.nn.MultiheadAttention(12, 3, batch_first=True).double()
    torch.nn.init.normal_(peer.in_proj_bias)
    module = Attention(12, 3).double()
    parts = zip(peer.in_proj_weight.chunk(3), peer.in_proj_bias.chunk(3), strict=True)
    for layer, (weight, bias) in zip((module.query, module.key, module.value), parts, strict=True):
        layer.load_state_dict({"weight": weight, "bias": bias})
    module.out.load_state_dict(peer.out_proj.state_dict())
    x, context = torch.randn(2, 5, 12).double(), torch.randn(2, 7, 12).double()
    keys = coin(2, 7)
    lower = ~torch.ones(5, 5).tril().bool()
    torch.testing.assert_close(module(x), peer(x, x, x)[0])
    torch.testing.assert_close(module(x, causal=True), peer(x, x, x, attn_mask=lower)[0])
    torch.testing.assert_close(module(x, context, keys=keys), peer(x, context, context, key_padding_mask=~keys)[0])


def test_module_with_powers_shared_keys_and_context():
    torch.manual_seed(0)
    module = Attention(12, 4, head_dim=5, key_heads=2, context_dim=7, power=3, divisor=14.0, bias=False).double()
    assert [tuple(p.shape) for p in module.parameters()] == [(20, 12), (10, 7), (10, 7), (12, 20)]
    x, context, mask = torch.randn(2, 5, 12).double(), torch.randn(2, 6, 7).double(), coin(2, 1, 5, 6)
    q, k, v = module.heads(x, context)
    out = loop(q.detach(), k.detach(), v.detach(), 3, mask=mask, divisor=14.0)
    truth = out.permute(0, 2, 1, 3).reshape(2, 5, 20) @ module.out.weight.T
    torch.testing.assert_close(module(x, context, mask), truth)
    module(x, context).square().sum().backward()
    assert all(p.grad.any() for p in module.parameters())


@pytest.mark.parametrize(
    ("power", "name"), [(None, "plain"), (None, "all"), *product((1, 2, 3), ("plain", "all", "fixed divisor"))]
)
def test_norms_are_what_they_say(power, name):
    """‖A‖ entry by entry through the identity for values; ‖∂A/∂x‖ by autograd, through a bias added to the scores."""
    q, k, _ = tokens(g=2)
    identity = torch.eye(7).double().expand(2, 2, 7, 7)
    truth = loop(q, k, identity, power, **SETTINGS[name]).square().sum((-1, -2)).sqrt()
    settings = SETTINGS[name] | {"bias": SETTINGS[name].get("bias", torch.zeros(1, 4, 5, 7).double())}
    norms = attention_norms(q, k, power, **SETTINGS[name])
    torch.testing.assert_close(norms.matrix, truth)

    def matrix(bias):
        return attention_matrix(q, k, power, **(settings | {"bias": bias}))

    jacobian = torch.autograd.functional.jacobian(matrix, settings["bias"].expand(2, 4, 5, 7).clone())
    squares = jacobian.square().sum((-1, -2, -3, -4)).sum((-1, -2))
    torch.testing.assert_close(norms.jacobian, squares.sqrt())


def test_softmax_never_exceeds_its_bounds():
    """√N and 2√N whatever the scores; the first is reached where they are extreme."""
    for size in (0.01, 1.0, 100.0):
        q, k, _ = tokens(n=20, m=20, d=6)
        norms = attention_norms(size * q, size * k)
        assert norms.matrix_bound == math.sqrt(20) and norms.jacobian_bound == 2 * math.sqrt(20)
        assert (norms.matrix <= norms.matrix_bound + 1e-9).all() and (norms.jacobian <= norms.jacobian_bound).all()
    torch.testing.assert_close(norms.matrix, torch.full_like(norms.matrix, math.sqrt(20)), rtol=0.05, atol=0)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_bounds_of_powers_by_monte_carlo(power):
    """The root mean square over normal tokens is the bound, for n = m and n ≠ m, with √m and with a fixed divisor."""
    for n, m, d, divisor in [(16, 16, 4, None), (8, 24, 8, None), (8, 24, 8, 14.0)]:
        q, k, _ = tokens(b=20_000, h=1, n=n, m=m, d=d, c=1, dtype=torch.float32, seed=n)
        norms = attention_norms(q, k, power, divisor=divisor)
        for values, bound in (norms.matrix, norms.matrix_bound), (norms.jacobian, norms.jacobian_bound):
            assert values.double().square().mean().sqrt().item() == pytest.approx(bound, rel=0.03)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_powers_grow_like_the_root_of_n(power):
    """The paper's O(√N): √N is the whole of the growth, as it is softmax's bound."""
    for n in (16, 256):
        assert bounds(4 * n, 64, power) == pytest.approx([2 * x for x in bounds(n, 64, power)])
    sizes = []
    for n in (64, 256):
        q, k, _ = tokens(b=50, h=1, n=n, m=n, d=16, c=1)
        sizes.append(attention_norms(q, k, power).matrix.square().mean().sqrt().item())
    assert sizes[1] / sizes[0] == pytest.approx(2, rel=0.1)


def test_condition_numbers():
    x = torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        truth = np.linalg.cond(x.to(dtype).double().numpy())
        np.testing.assert_allclose(condition_number(x.to(dtype)).numpy(), truth, rtol=1e-9)
    x[0, :, 1] = x[0, :, 0]
    assert condition_number(x)[0] == math.inf and condition_number(torch.zeros(2, 2)) == math.inf


def test_the_documents_example_and_thresholds(capsys):
    """What docs/attention.md shows runs, and the lengths it names are those where the choice changes."""
    text = (ROOT / "docs" / "attention.md").read_text()
    names = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    assert names["y"].shape == names["x"].shape and "tensor(" in capsys.readouterr().out
    lengths = re.search(r"O\(N\) pays beyond ([\d,]+), ([\d,]+) and ([\d,]+) tokens", text).groups()
    for power, length in enumerate(int(x.replace(",", "")) for x in lengths):
        with FakeTensorMode():
            few, more = (torch.empty(1, 1, n, 64) for n in (length, length + 1))
        assert choose_method(few, few, few, power + 1) == "quadratic"
        assert choose_method(more, more, more, power + 1) == "linear"
