"""Attention's Triton kernels against their definition: on CUDA where there is one, else in Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch
from test_attention import coin, tokens

from sinefield.kernels.cuda import attention as launching
from sinefield.transformers.attention import attention

triton = pytest.importorskip("triton", reason="Triton is not installed; it has wheels for Linux")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = [pytest.mark.cuda] if DEVICE.type == "cuda" else []


def values_and_gradients(inputs, outer, method, dtype, **settings):
    device = DEVICE if method == "triton" else torch.device("cpu")
    q, k, v = (x.to(device, dtype).requires_grad_() for x in inputs)
    settings = {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in settings.items()}
    out = attention(q, k, v, **settings, method=method)
    assert out.dtype == dtype
    gradients = torch.autograd.grad(out, [q, k, v], outer.to(device, dtype))
    return [x.cpu().double() for x in (out, *gradients)]


def assert_same(inputs, digits, dtype=torch.float32, **settings):
    inputs = [x.to(dtype) for x in inputs]
    shape = (*inputs[0].shape[:3], inputs[2].shape[-1])
    outer = torch.randn(shape, generator=torch.Generator().manual_seed(5)).to(dtype)
    ours = values_and_gradients(inputs, outer, "triton", dtype, **settings)
    truth = values_and_gradients(inputs, outer, "quadratic", torch.float64, **settings)
    for a, b in zip(ours, truth, strict=True):
        assert torch.isfinite(a).all()
        assert (a - b).abs().max() <= 10.0**-digits * b.abs().max()


@pytest.mark.parametrize("power", [1, 2, 3])
@pytest.mark.parametrize(("n", "m"), [(70, 130), (130, 70), (16, 16)])
def test_kernels_are_the_quadratic_form(power, n, m):
    """More queries or keys than a block holds, the last block not full; fewer channels than are loaded."""
    assert_same(tokens(b=2, h=2, n=n, m=m, d=20, c=5), 5, power=power)


@pytest.mark.parametrize(("n", "m"), [(130, 130), (70, 130), (130, 70)])
def test_causal(n, m):
    assert_same(tokens(b=1, h=2, n=n, m=m, d=8, c=16), 5, power=3, causal=True)


@pytest.mark.parametrize("shape", [(2, 2, 70, 66), (1, 1, 70, 66), (2, 1, 1, 66), (1, 2, 70, 1)])
def test_masks_of_every_shape(shape):
    """And padding, causality, a scale and a divisor at once; heads share keys."""
    inputs = tokens(b=2, h=2, g=1, n=70, m=66, d=5, c=3)
    mask = coin(*shape)
    assert_same(inputs, 5, power=3, mask=mask)
    assert_same(inputs, 5, power=2, mask=mask, keys=coin(2, 66), causal=True, scale=0.3, divisor=14.0)


def test_a_block_of_other_size(monkeypatch):
    """Blocks that are not square, where causality cuts them elsewhere."""
    for queries, keys in (32, 16), (16, 32):
        monkeypatch.setattr(launching, "QUERIES", queries)
        monkeypatch.setattr(launching, "KEYS", keys)
        assert_same(tokens(b=1, h=1, n=70, m=70), 5, power=3, causal=True)


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float16, 2.7), (torch.bfloat16, 2.1)])
@pytest.mark.parametrize("power", [1, 2, 3])
def test_low_precision_only_rounds_what_comes_in_and_out(dtype, digits, power):
    assert_same(tokens(b=1, h=2, n=70, m=70, d=16, c=16), digits, dtype, power=power, causal=True)


def test_scores_may_exceed_fp16():
    """x = 64 cubed is four times fp16's largest number; the sum over keys comes back into its range."""
    q, k = (torch.full((1, 1, 2, 4), x, dtype=torch.float16, device=DEVICE) for x in (8.0, 4.0))
    v = torch.tensor([1.0, -0.9375], dtype=torch.float16, device=DEVICE).reshape(1, 1, 2, 1)
    out = attention(q, k, v, 3, method="triton")
    torch.testing.assert_close(out, torch.full_like(out, 64**3 * 0.0625 / 2**0.5), rtol=1e-3, atol=0)


def test_mixed_dtypes_and_tokens_that_are_not_contiguous():
    q, k, v = (x.float().to(DEVICE) for x in tokens(b=2, h=3, n=9, m=9, d=4, c=4))
    truth = attention(q, k, v, 3, method="quadratic")
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    torch.testing.assert_close(attention(*turned, 3, method="triton"), truth)
    low = attention(q.half(), k.float(), v.bfloat16(), 3, method="triton")
    assert low.dtype == torch.float16
    torch.testing.assert_close(low.float(), truth, rtol=0, atol=2e-2 * float(truth.abs().max()))


@pytest.mark.parametrize(("n", "m"), [(0, 5), (5, 0)])
def test_no_tokens(n, m):
    q, k, v = (x.float().to(DEVICE).requires_grad_() for x in tokens(n=n, m=m))
    out = attention(q, k, v, 3, method="triton")
    assert out.shape == (2, 4, n, 2) and not out.any()
    out.sum().backward()
    assert [tuple(x.grad.shape) for x in (q, k, v)] == [(2, 4, n, 3), (2, 4, m, 3), (2, 4, m, 2)]
    assert not any(x.grad.any() for x in (q, k, v))


def test_the_trial_tells_right_from_wrong(monkeypatch):
    assert launching._try_on(DEVICE) is None
    arguments = launching._arguments
    monkeypatch.setattr(launching, "_arguments", lambda *a: arguments(*a[:6], 1.01 * a[6]))
    assert "not torch's" in launching._try_on(DEVICE)


@pytest.mark.skipif(DEVICE.type == "cuda", reason="on CUDA the trial decides")
def test_without_a_device_the_reason_is_said():
    launching.why_not.cache_clear()
    assert launching.why_not() == "no CUDA device"


COMPILE = """
import sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from sinefield.kernels.cuda import attention_kernels
kind, pad, precision = sys.argv[1], int(sys.argv[2]), sys.argv[3]
fixed = {"D": pad - 4, "C": pad - 4, "PAD_D": pad, "PAD_C": pad, "P": 3, "CAUSAL": True, "MASKED": True}
fixed |= {"PRECISION": precision, "QUERIES": 64, "KEYS": 64}
types = {"factor": "*fp32", "mask": "*u8", "scale": "fp32"}
types |= {name: "*" + kind for name in "q k v out grad grad_q grad_k grad_v".split()}
for name in ("forward", "backward_queries", "backward_keys"):
    kernel = getattr(attention_kernels, name)
    signature = {n: "constexpr" if n in fixed else types.get(n, "i32") for n in kernel.arg_names}
    constants = {(kernel.arg_names.index(n),): value for n, value in fixed.items()}
    source = ASTSource(kernel, signature, constants)
    built = compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": 4, "num_stages": 2})
    print(name, len(built.asm["cubin"]), built.metadata.shared)
"""


@pytest.mark.skipif(DEVICE.type == "cuda", reason="the other tests have compiled them")
@pytest.mark.parametrize(("kind", "pad", "precision"), [("fp16", "64", "tf32"), ("fp32", "16", "ieee")])
def test_kernels_compile_without_a_gpu(tmp_path, kind, pad, precision):
    """For compute capability 8.0; the assembler is Triton's own. Blocks fit in what a small GPU's program may share."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE, kind, pad, precision]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    built = [line.split() for line in done.stdout.splitlines()]
    assert len(built) == 3 and all(int(size) > 1000 and int(shared) <= 99 * 1024 for _, size, shared in built)
