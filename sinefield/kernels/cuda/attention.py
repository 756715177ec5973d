"""Polynomial attention in Triton, for CUDA: what launches the kernels, and whether they run."""

import math
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sinefield.kernels.cuda.triton_trial import tried

QUERIES, KEYS = 64, 64
"""Rows and columns of the block of scores that a program holds at a time."""


@cache
def why_not_triton() -> str | None:
    """None where the kernels do on CUDA what torch does, else the reason. Found by trying, which compiles them."""
    return tried("sinefield.kernels.cpu.attention", _try_on)


def _try_on(device: torch.device) -> str | None:
    """Two heads, more tokens than a block holds: the same values and gradients as the quadratic form's?"""
    from sinefield.transformers.attention import attention

    wave = torch.arange(2 * 70 * 20, device=device).reshape(1, 2, 70, 20).float()
    results = []
    for method in ("triton", "quadratic"):
        q, k, v = (torch.sin(wave * step).requires_grad_() for step in (0.7, 1.3, 2.1))
        out = attention(q, k, v, 3, causal=True, method=method)
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), [q, k, v])])
    close = all(
        torch.allclose(a, b, rtol=1e-2, atol=1e-2 * float(b.abs().max())) for a, b in zip(*results, strict=True)
    )
    return None if close else "its values or gradients are not torch's"


def attention_triton(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b h m d"],
    v: Float[Tensor, "b h m c"],
    factor: Float[Tensor, "b"],
    power: int,
    mask: Bool[Tensor, "#b #h #n #m"] | None,
    causal: bool,
    scale: float,
) -> Float[Tensor, "b h n c"]:
    """factor·(scale·q·kᵀ)^power·v where `mask` and `causal` let attend; see `attention`. Differentiable once."""
    kind = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    # bf16 runs as float32: Triton's interpreter gets products of bf16 wrong, so kernels on them could not be tested.
    kind = torch.float16 if kind == torch.float16 else torch.float32
    out = _Attention.apply(*(x.to(kind) for x in (q, k, v)), factor.float(), mask, power, causal, scale)
    return out.to(q.dtype)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, factor, mask, power, causal, scale):
        from sinefield.kernels.cpu import attention as attention_kernels

        ctx.settings = power, causal, scale
        q, k, v = (x.detach().contiguous() for x in (q, k, v))
        ctx.save_for_backward(q, k, v, factor, mask)
        out = q.new_empty(*q.shape[:3], v.shape[-1])
        if out.numel():
            values, fixed = _arguments(q, k, v, mask, *ctx.settings)
            grid = (-(-q.shape[2] // QUERIES), q.shape[0] * q.shape[1])
            attention_kernels.forward[grid](q, k, v, factor, values[0], out, *values[1:], **fixed)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        from sinefield.kernels.cpu import attention as attention_kernels

        q, k, v, factor, mask = ctx.saved_tensors
        values, fixed = _arguments(q, k, v, mask, *ctx.settings)
        by_q, by_k, by_v = (torch.zeros_like(x) for x in (q, k, v))
        grad, programs = grad.to(q.dtype).contiguous(), q.shape[0] * q.shape[1]
        inputs = (q, k, v, factor, values[0], grad)
        if grad.numel() and by_k.numel():
            attention_kernels.backward_queries[(-(-q.shape[2] // QUERIES), programs)](
                *inputs, by_q, *values[1:], **fixed
            )
            attention_kernels.backward_keys[(-(-k.shape[2] // KEYS), programs)](
                *inputs, by_k, by_v, *values[1:], **fixed
            )
        return by_q, by_k, by_v, None, None, None, None, None


def _arguments(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, power: int, causal: bool, scale: float):
    """What every kernel takes after its tensors, and its constants. An expanded mask has strides of zero: no memory."""
    (b, h, n, d), m, c = q.shape, k.shape[2], v.shape[-1]
    view = q if mask is None else mask.expand(b, h, n, m)
    strides = (0, 0, 0, 0) if mask is None else view.stride()
    pad_d, pad_c = (max(16, 1 << math.ceil(math.log2(x))) for x in (d, c))
    fixed: dict[str, Any] = {"D": d, "C": c, "PAD_D": pad_d, "PAD_C": pad_c, "P": power, "CAUSAL": causal}
    fixed |= {"MASKED": mask is not None, "QUERIES": QUERIES, "KEYS": KEYS}
    # Where inputs are fp16, tf32 has as many digits as they; where float32, all of them count.
    fixed |= {"PRECISION": "ieee" if q.dtype == torch.float32 else "tf32", "num_warps": 4, "num_stages": 2}
    view = view if mask is None else view.view(torch.uint8)
    return (view, h, n, m, float(scale), *strides), fixed
