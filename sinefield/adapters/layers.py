"""One layer with small trained deltas on its frozen weight: W + (α/r)·sin(ω·B A)/√in, plain LoRA, and DoRA of both.

The reference is `delta` and three lines of torch; `_Folded` computes the same without keeping a matrix of the weight's
size from the forward pass to the backward pass.
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sinefield.adapters.layouts import Layout, layout_of
from sinefield.compress.adapter_table import ADAPTER_KINDS
from sinefield.errors import SinefieldError

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
    omega: float | None = 200.0

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
    return spec.scale(a.shape[1]) * (product if spec.omega is None else torch.sin(spec.omega * product))


class Adapter(nn.Module):
    """The trained numbers of one delta: `a` (rank, in), `b` (out, rank), of DoRA also `magnitude` (out,); float32.

    A starts Kaiming-uniform (a=√5, so U(±1/√in)), B zero, the magnitudes as the lengths of the weight's rows: an
    adapted layer starts as its base.
    """

    def __init__(self, spec: AdapterSpec, matrix: Float[Tensor, "out in"]) -> None:
        super().__init__()
        out_features, in_features = matrix.shape
        if spec.rank > min(out_features, in_features):
            raise SinefieldError(
                f"rank {spec.rank} does not fit a {out_features} × {in_features} weight; "
                f"choose 1 to {min(out_features, in_features)}"
            )
        self.spec = spec
        where = {"device": matrix.device, "dtype": torch.promote_types(matrix.dtype, torch.float32)}
        self.a = nn.Parameter(torch.empty(spec.rank, in_features, **where).uniform_(-1, 1) / math.sqrt(in_features))
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


class Adapted(nn.Module):
    """A layer and the deltas on it, by name. Active ones add up; DoRA's can only be active alone.

    `weight` is the effective weight in the base's own shape, so that code which reads it in place of calling the layer
    (attention does) sees the adapter too. Other attributes are those of the base.

    Args:
        base: `nn.Linear`, `nn.Conv2d` or Hugging Face's `Conv1D`.
        bf16_gradient: round inputs and output gradients to bf16 for the gradient of the factors; the rest stays as it
            is. On a processor with bf16 products that makes a float32 step about a sixth shorter.

    Raises:
        SinefieldError: any other layer.
    """

    base: Any

    def __init__(self, base: nn.Module, bf16_gradient: bool = False) -> None:
        super().__init__()
        self.layout: Layout = layout_of(base)
        self.base = base
        self.adapters = nn.ModuleDict()
        self.active: tuple[str, ...] = ()
        self.bf16_gradient = bf16_gradient
        self._kept: nn.Parameter | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base" or name.startswith("_"):
                raise
            return getattr(self.base, name)

    @property
    def merged(self) -> bool:
        return self._kept is not None

    @property
    def weight(self) -> Tensor:
        chosen = self._chosen()
        if self.merged or not chosen:
            return self.base.weight
        matrix = self.layout.matrix(self.base.weight)
        whole = matrix.to(chosen[0].a.dtype) + sum(delta(c.spec, c.a, c.b) for c in chosen)
        if chosen[0].magnitude is not None:
            whole = whole * (chosen[0].magnitude / whole.detach().norm(dim=1))[:, None]
        return self.layout.shaped(whole.to(matrix.dtype), self.base.weight)

    def _chosen(self) -> list[Adapter]:
        return [self.adapter(name) for name in self.active]

    def adapter(self, name: str) -> Adapter:
        """The adapter of that name; raises KeyError where there is none."""
        return cast(Adapter, self.adapters[name])

    def make(self, name: str, spec: AdapterSpec) -> Adapter:
        """A new adapter that leaves the layer as it is, for `adapters[name]`; not put there yet.

        Raises:
            SinefieldError: the name is taken or no identifier, the rank does not fit, or the adapters are merged.
        """
        if not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise SinefieldError(f"{name!r} cannot name an adapter; use letters, digits and _")
        if name in self.adapters:
            raise SinefieldError(f"there is an adapter named {name} already; choose another name")
        if self.merged:
            raise SinefieldError("adapters are merged into the weight; unmerge them first")
        return Adapter(spec, self.layout.matrix(self.base.weight))

    def activate(self, names: Iterable[str]) -> None:
        """Make these adapters the active ones; those a layer does not have are passed over.

        Raises:
            SinefieldError: adapters are merged, or DoRA would be active beside another.
        """
        if self.merged:
            raise SinefieldError("adapters are merged into the weight; unmerge them first")
        active = tuple(name for name in names if name in self.adapters)
        if len(active) > 1 and any(self.adapter(name).spec.dora for name in active):
            raise SinefieldError(
                f"DoRA sets the lengths of rows, so it is active alone; not {', '.join(active)} at once"
            )
        self.active = active

    def merge(self) -> None:
        """Put the effective weight in place of the base's, which is kept for `unmerge`."""
        if not self.merged and self.active:
            with torch.no_grad():
                chosen = self._chosen()
                matrix = effective(self.layout.matrix(self.base.weight), *_parts(chosen), self.base.weight.dtype)
                merged = self.layout.shaped(matrix, self.base.weight)
            # A new parameter, not a change in place: a tied weight elsewhere must not change along.
            self._kept, self.base.weight = self.base.weight, nn.Parameter(merged, requires_grad=False)

    def unmerge(self) -> None:
        """Put the base's own weight back, to the bit."""
        if self.merged:
            self.base.weight, self._kept = self._kept, None

    def _apply(self, fn, recurse=True):
        if self._kept is not None:  # the kept weight is nobody's parameter, yet must move along
            self._kept = nn.Parameter(fn(self._kept.data), requires_grad=self._kept.requires_grad)
        return super()._apply(fn, recurse)

    def forward(self, x: Tensor) -> Tensor:
        chosen = self._chosen()
        if self.merged or not chosen:
            return self.base(x)
        if self.layout.factored and all(c.spec.kind == "lora" for c in chosen):
            y = self.base(x)
            for c in chosen:
                h = F.linear(x.to(y.dtype), c.a.to(y.dtype))
                y = y + F.linear(h, c.b.to(y.dtype) * c.spec.scale(x.shape[-1]))
            return y
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.base.weight.dtype
        bias = None if self.base.bias is None else self.base.bias.to(dtype)
        return folded(
            x.to(dtype), self.base.weight, bias, chosen, self.layout, low_gradient=self.bf16_gradient, dtype=dtype
        )


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

    Arguments:
        weight: of the base, in its own shape; None for the deltas' output alone.
        low_gradient: round to bf16 what the factors' gradient is computed from.
        dtype: of the product; that of x when None.
    """
    specs, magnitude, factors = _parts(adapters)
    options = (specs, layout, low_gradient, dtype or x.dtype)
    return _Folded.apply(options, x, weight, bias, magnitude, *(t for pair in factors for t in pair))


def _parts(adapters: Sequence[Adapter | Part]):
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
            part.mul_((magnitude[rows] / part.norm(dim=1))[:, None])
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
    @once_differentiable
    def backward(ctx, grad):
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
                        of_magnitude[rows] = (part * value).sum(1) / length
                        part = part * (magnitude[rows] / length)[:, None]
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
