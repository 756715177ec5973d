"""Polynomial attention in Triton, for CUDA: what launches the kernels, and whether they run."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sinefield.kernels.cuda.trial import tried
from sinefield.kernels.shell import Pull, differentiable

QUERIES, KEYS = 64, 64
"""Rows and columns of the block of scores that a program holds at a time."""


@cache
def why_not(dtype: torch.dtype | None = None) -> str | None:
    """None where the kernels do on CUDA what torch does, else the reason. Found by trying, which compiles them."""
    return tried("sinefield.kernels.cuda.attention_kernels", _try_on)


def _try_on(device: torch.device) -> str | None:
    """Two heads, more tokens than a block holds: the same values and gradients as the quadratic form's?"""
    wave = torch.arange(2 * 70 * 20, device=device).reshape(1, 2, 70, 20).float()
    upper = torch.ones(70, 70, dtype=torch.bool, device=device).triu(1)
    factor = torch.full((1,), 70**-0.5, device=device)

    def quadratic(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT / 20**0.5).pow(3).masked_fill(upper, 0) @ v * factor

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, factor, 3, None, True, 20**-0.5)

    results = []
    for function in (ours, quadratic):
        q, k, v = (torch.sin(wave * step).requires_grad_() for step in (0.7, 1.3, 2.1))
        out = function(q, k, v)
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), [q, k, v])])
    close = all(
        torch.allclose(a, b, rtol=1e-2, atol=1e-2 * float(b.abs().max())) for a, b in zip(*results, strict=True)
    )
    return None if close else "its values or gradients are not torch's"


def attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b h m d"],
    v: Float[Tensor, "b h m c"],
    factor: Float[Tensor, "b"],
    power: int,
    mask: Bool[Tensor, "#b #h #n #m"] | None,
    causal: bool,
    scale: float,
) -> Float[Tensor, "b h n c"]:
    """factor·(scale·q·kᵀ)^power·v where `mask` and `causal` let attend; see `transformers.attention`."""
    from sinefield.kernels.cuda import attention_kernels

    kernels: Any = attention_kernels  # launched, not called
    kind = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    # bf16 runs as float32: Triton's interpreter gets products of bf16 wrong, so kernels on them could not be tested.
    kind = torch.float16 if kind == torch.float16 else torch.float32
    factor = factor.float()

    def step(wanted: Sequence[bool], *inputs: Tensor) -> tuple[Tensor, Pull]:
        q, k, v = (x.detach().contiguous() for x in inputs)
        out, programs = q.new_empty(*q.shape[:3], v.shape[-1]), q.shape[0] * q.shape[1]
        values, fixed = _arguments(q, k, v, mask, power, causal, scale)
        if out.numel():
            by_queries = -(-q.shape[2] // QUERIES), programs
            kernels.forward[by_queries](q, k, v, factor, values[0], out, *values[1:], **fixed)

        def pull(grad: Tensor) -> tuple[Tensor, ...]:
            by_q, by_k, by_v = (torch.zeros_like(x) for x in (q, k, v))
            given = (q, k, v, factor, values[0], grad.to(q.dtype).contiguous())
            if grad.numel() and by_k.numel():
                by_queries, by_keys = (-(-q.shape[2] // QUERIES), programs), (-(-k.shape[2] // KEYS), programs)
                kernels.backward_queries[by_queries](*given, by_q, *values[1:], **fixed)
                kernels.backward_keys[by_keys](*given, by_k, by_v, *values[1:], **fixed)
            return by_q, by_k, by_v

        return out, pull

    return differentiable(step, *(x.to(kind) for x in (q, k, v))).to(q.dtype)


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
