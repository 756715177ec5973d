"""Small trained deltas on a weight: W + (α/r)·sin(ω·B A)/√in, plain LoRA, and DoRA of both.

The reference is `delta` and three lines of torch; `_Folded` computes the same without keeping a matrix of the weight's
size from the forward pass to the backward pass.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad

from sinefield.adapters.layouts import Layout
from sinefield.compress.adapter_table import ADAPTER_KINDS
from sinefield.errors import SinefieldError
from sinefield.nn.weights import drawn

ROWS = {"cpu": 256, "cuda": 2048}
"""Rows of a weight that are worked on at a time, by device, so that what is between two matrices stays small: on the
CPU within the cache, on CUDA not so small that its launches take the time."""


@dataclass(frozen=True)
class AdapterSpec:
    """How a delta is stored: `rank`·(out + in) numbers, and with DoRA one more for each row.

    Attributes:
        kind: "sine" (α/r)·sin(ω·B A)/√in; "lora" (α/r)·B A; "sine-dora" and "dora" add that to the weight and then give
            each row a learned length (Liu et al., ICML 2024, arXiv 2402.09353).
        rank: r, columns of B and rows of A.
        alpha: α.
        omega: ω of the sine kinds, None for the others. For a small B A a sine adapter is LoRA times ω/√in: learning
            rates carry over from LoRA only where ω is about √in.

    Raises:
        SinefieldError: an unknown kind, a rank below 1, or an alpha or omega that is not positive and finite.
    """

    kind: str = "sine"
    rank: int = 8
    alpha: float = 16.0
    omega: float | None = 50.0

    def __post_init__(self) -> None:
        if self.kind not in ADAPTER_KINDS:
            raise SinefieldError(f"unknown kind of adapter {self.kind!r}; one of {', '.join(ADAPTER_KINDS)}")
        if self.rank < 1:
            raise SinefieldError(f"an adapter's rank is {self.rank}; it must be at least 1")
        if not self.sine:
            object.__setattr__(self, "omega", None)
        for name, value in (("alpha", self.alpha), ("omega", self.omega)):
            if (value is None and self.sine) or (value is not None and not 0 < value < math.inf):
                raise SinefieldError(f"an adapter's {name} is {value}; it must be a positive number")

    @property
    def sine(self) -> bool:
        return self.kind.startswith("sine")

    @property
    def dora(self) -> bool:
        return self.kind.endswith("dora")

    def scale(self, in_features: int) -> float:
        """The constant factor: α/r, of a sine divided by √in."""
        return self.alpha / self.rank / (math.sqrt(in_features) if self.sine else 1.0)


def delta(spec: AdapterSpec, a: Float[Tensor, "rank in"], b: Float[Tensor, "out rank"]) -> Float[Tensor, "out in"]:
    """The delta before DoRA's lengths, differentiable in both factors: the formula itself."""
    product = b @ a
    return spec.scale(int(a.shape[1])) * (product if spec.omega is None else torch.sin(spec.omega * product))


class Adapter(nn.Module):
    """The trained numbers of one delta: `a` (rank, in), `b` (out, rank), of DoRA also `magnitude` (out,); float32.

    A starts Kaiming-uniform (a=√5, so U(±1/√in)), B zero, the magnitudes as the lengths of the weight's rows: an
    adapted layer starts as its base. A row of zeros has the length 0, and stays zero.

    Args:
        matrix: of the base; without DoRA its numbers are not read, and it may be on the meta device.
        device: of the numbers, the matrix's by default.
    """

    def __init__(
        self, spec: AdapterSpec, matrix: Float[Tensor, "out in"], device: torch.device | str | int | None = None
    ) -> None:
        super().__init__()
        out_features, in_features = matrix.shape
        if spec.rank > min(out_features, in_features):
            raise SinefieldError(
                f"rank {spec.rank} does not fit a {out_features} × {in_features} weight; "
                f"choose 1 to {min(out_features, in_features)}"
            )
        self.spec = spec
        where: Any = {
            "device": matrix.device if device is None else device,
            "dtype": torch.promote_types(matrix.dtype, torch.float32),
        }
        self.a = nn.Parameter(drawn(torch.empty(spec.rank, in_features, **where), 1, math.sqrt(in_features)))
        self.b = nn.Parameter(torch.zeros(out_features, spec.rank, **where))
        lengths = torch.linalg.vector_norm(matrix.detach(), dim=1, dtype=where["dtype"]) if spec.dora else None
        self.magnitude = None if lengths is None else nn.Parameter(lengths)

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v}" for k, v in vars(self.spec).items() if v is not None)


class Part(NamedTuple):
    """What `folded` needs of an adapter, wherever its numbers live; see `Adapter`."""

    spec: AdapterSpec
    a: Tensor
    b: Tensor
    magnitude: Tensor | None = None


def whole(matrix: Float[Tensor, "out in"] | None, parts: Sequence[Adapter | Part]) -> Float[Tensor, "out in"]:
    """W + Σ ΔW in the factors' dtype, with DoRA's lengths, in plain torch: differentiable as often as one likes."""
    with _plain(parts[0].a):
        total: Any = sum(delta(part.spec, part.a, part.b) for part in parts)
        if matrix is not None:
            total = matrix.to(total.dtype) + total
        if parts[0].magnitude is not None:  # the rows' lengths count as constants: DoRA, section 4.3
            total = total * _ratio(parts[0].magnitude, total.detach().norm(dim=1))[:, None]
        return total


def _ratio(magnitude: Tensor, length: Tensor) -> Tensor:
    """What rows are multiplied by; rows of zeros by a finite number."""
    return magnitude / length.clamp_min(torch.finfo(length.dtype).tiny)


def folded(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    adapters: Sequence[Adapter | Part],
    layout: Layout,
    low_gradient: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The layer's output with the adapters folded into its weight; backward keeps inputs, weight and factors alone.

    Where what differentiates is not autograd's backward pass (torch.func, forward mode, tracing), and for second
    derivatives, it is computed by `whole`, which keeps a matrix of the weight's size.

    Arguments:
        weight: of the base, in its own shape; None for the deltas' output alone.
        low_gradient: round to bf16 what the factors' gradient is computed from.
        dtype: of the product; that of x when None.
    """
    if _otherwise_differentiated():
        matrix = None if weight is None else layout.matrix(weight)
        with _plain(x):
            return layout.apply(x, whole(matrix, adapters).to(dtype or x.dtype), bias)
    specs, magnitude, factors = parts_of(adapters)
    options = (specs, layout, low_gradient, dtype or x.dtype)
    return _Folded.apply(options, x, weight, bias, magnitude, *(t for pair in factors for t in pair))


def _otherwise_differentiated() -> bool:
    tracing = torch._C._get_tracing_state() is not None
    return tracing or forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def parts_of(adapters: Sequence[Adapter | Part]):
    """Specs, magnitude and pairs of factors, as `effective` takes them."""
    return [c.spec for c in adapters], adapters[0].magnitude, [(c.a, c.b) for c in adapters]


def _rows(matrix: Tensor | None, specs, factors, rows: slice) -> Tensor:
    """Rows of W + Σ ΔW in the factors' dtype."""
    total: Any = None
    for spec, (a, b) in zip(specs, factors, strict=True):
        part = b[rows] @ a
        if spec.sine:
            part.mul_(spec.omega).sin_()
        part.mul_(spec.scale(a.shape[1]))
        total = part if total is None else total.add_(part)
    return total if matrix is None else total.add_(matrix[rows])


def _blocks(b: Tensor) -> list[slice]:
    rows = ROWS.get(b.device.type, ROWS["cuda"])
    return [slice(i, i + rows) for i in range(0, len(b), rows)]


def effective(
    matrix: Tensor | None, specs, magnitude, factors, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "out in"]:
    """The whole effective weight, rounded once to `dtype`."""
    (a, b), *_ = factors
    out = torch.empty(len(b), a.shape[1], dtype=dtype, device=a.device)
    for rows in _blocks(b):
        part = _rows(matrix, specs, factors, rows)
        if magnitude is not None:
            part.mul_(_ratio(magnitude[rows], part.norm(dim=1))[:, None])
        out[rows] = part
    return out


def _plain(tensor: Tensor) -> AbstractContextManager:
    """Autocast off: the factors' product is small and its phase must not be rounded."""
    return torch.autocast(tensor.device.type, enabled=False)


class _Folded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, options, x, weight, bias, magnitude, *factors):
        specs, layout, _, dtype = options
        ctx.options = options
        ctx.save_for_backward(x, weight, magnitude, *factors)
        pairs = list(zip(factors[::2], factors[1::2], strict=True))
        with _plain(x):
            matrix = None if weight is None else layout.matrix(weight)
            return layout.apply(x, effective(matrix, specs, magnitude, pairs, dtype), bias)

    @staticmethod
    def backward(ctx, grad):
        if torch.is_grad_enabled():  # this pass is to be differentiated too
            return _Folded.again(ctx, grad)
        specs, layout, low, dtype = ctx.options
        x, weight, magnitude, *factors = ctx.saved_tensors
        pairs = list(zip(factors[::2], factors[1::2], strict=True))
        needs = ctx.needs_input_grad
        of_x = of_weight = of_bias = None
        of_magnitude: Any = None
        of_factors: list[Any] = [None] * len(factors)
        with _plain(x):
            matrix = None if weight is None else layout.matrix(weight)
            if needs[2] or any(needs[4:]):
                small = (grad.bfloat16(), x.bfloat16()) if low else (grad, x)
                whole = layout.grad_matrix(*small)
                of_factors = [torch.zeros_like(t) for t in factors]
                of_magnitude = None if magnitude is None else torch.empty_like(magnitude)
                for rows in _blocks(factors[1]):
                    part = whole[rows].to(factors[0].dtype)
                    if magnitude is not None:  # the rows' lengths count as constants: DoRA, section 4.3
                        value = _rows(matrix, specs, pairs, rows)
                        length = value.norm(dim=1)
                        of_magnitude[rows] = _ratio((part * value).sum(1), length)
                        part = part * _ratio(magnitude[rows], length)[:, None]
                        whole[rows] = part
                    for i, (spec, (a, b)) in enumerate(zip(specs, pairs, strict=True)):
                        scale = spec.scale(a.shape[1])
                        if spec.sine:
                            slope = (b[rows] @ a).mul_(spec.omega).cos_().mul_(scale * spec.omega).mul_(part)
                        else:
                            slope = part * scale
                        of_factors[2 * i].addmm_(b[rows].T, slope)
                        torch.mm(slope, a.T, out=of_factors[2 * i + 1][rows])
                of_weight = layout.shaped(whole.to(weight.dtype), weight) if needs[2] and weight is not None else None
                del small, whole, part  # before the input's gradient, the largest thing here, is made
            if needs[1]:
                of_x = layout.grad_input(grad, x, effective(matrix, specs, magnitude, pairs, dtype))
            if needs[3]:
                of_bias = layout.grad_bias(grad)
        return None, of_x, of_weight, of_bias, of_magnitude, *of_factors

    @staticmethod
    def again(ctx, grad):
        """The gradients by plain torch, in a graph."""
        specs, layout, _, dtype = ctx.options
        x, weight, magnitude, *factors = ctx.saved_tensors
        pairs = zip(specs, factors[::2], factors[1::2], strict=True)
        parts = [Part(*pair, magnitude if i == 0 else None) for i, pair in enumerate(pairs)]
        with _plain(x):
            matrix = None if weight is None else layout.matrix(weight)
            y = layout.apply(x, whole(matrix, parts).to(dtype), None)
        given = [x, weight, None, magnitude, *factors]
        needs = ctx.needs_input_grad[1:]
        wanted = [t for t, need in zip(given, needs, strict=True) if need and t is not None]
        found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True) if wanted else ())
        grads = [next(found) if need and t is not None else None for t, need in zip(given, needs, strict=True)]
        if needs[2]:
            grads[2] = layout.grad_bias(grad)
        return None, *grads
