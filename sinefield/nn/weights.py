"""A weight is a thing: modules whose call returns an (out, in) matrix.

A network asks each of its weights for the matrix and does not know how it is stored, so a new
factorisation is one class, registered by `register_weight`, and nothing elsewhere.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sinefield.config.settings import WEIGHTS
from sinefield.errors import SinefieldError

_CLASSES: dict[str, "type[Weight]"] = {}


@dataclass(frozen=True)
class WeightSpec:
    """How the square hidden matrices of a network are stored.

    `kind` names a registered weight: "sine" (sin(ω·UV)/g), "lowrank" (UV) or "dense". `rank` is k. For "sine" give
    `omega`, or `phase` (see `SineLowRank`), not both. `bound` is the largest entry of a sine weight in units of 1/√in,
    so that g = √in/bound; the first paper has 1.
    """

    kind: str = "sine"
    rank: int = 8
    omega: float | None = None
    phase: float | None = None
    bound: float = 1.0

    def make(self, out_features: int, in_features: int, activation: str, omega0: float) -> "Weight":
        """A new hidden weight.

        Arguments:
            activation, omega0: of the network; a SIREN's preactivations start as its paper has them.
        """
        return weight_class(self.kind).start(out_features, in_features, self, omega0 if activation == "sine" else None)


class Weight(nn.Module):
    """Base of all weights: `weight()` returns the (out, in) matrix, differentiable in its parameters.

    Within `materialised(module)` the matrix is computed once and handed out again and again. A class that is to be
    named in a scene file's `field.weights` has a `start` and a `numbers`, and is registered. Its parameters are all
    that is saved; they may be of any shape.
    """

    @classmethod
    def start(cls, out_features: int, in_features: int, spec: WeightSpec, omega0: float | None) -> "Weight":
        """A new weight as a network begins with it.

        Arguments:
            omega0: ω₀ of a network with sine activation, None of others. A SIREN's hidden matrix has entries of
                standard deviation √2/(√in·ω₀) (Sitzmann et al., NeurIPS 2020).
        """
        raise NotImplementedError

    @staticmethod
    def numbers(out_features: int, in_features: int, rank: int) -> int:
        """How many numbers such a weight stores, or fewer: a file that holds less is refused unread."""
        raise NotImplementedError

    def __init__(self, out_features: int, in_features: int) -> None:
        super().__init__()
        if out_features < 1 or in_features < 1:
            raise SinefieldError(f"a weight needs at least one row and column, got {out_features} × {in_features}")
        self.out_features = out_features
        self.in_features = in_features
        self._leaf: Tensor | None = None

    def matrix(self) -> Tensor:
        """Compute the (out, in) matrix from the parameters."""
        raise NotImplementedError

    def forward(self) -> Float[Tensor, "out_features in_features"]:
        return self.matrix() if self._leaf is None else self._leaf


class Dense(Weight):
    """An ordinary matrix, out·in parameters, U(±1/√in) at the start (torch's own `nn.Linear` rule)."""

    def __init__(self, out_features: int, in_features: int, bound: float | None = None) -> None:
        super().__init__(out_features, in_features)
        bound = 1 / math.sqrt(in_features) if bound is None else bound
        self.weight = nn.Parameter(drawn(torch.empty(out_features, in_features), bound))

    @classmethod
    def start(cls, out_features: int, in_features: int, spec: WeightSpec, omega0: float | None) -> "Dense":
        return cls(out_features, in_features, bound=math.sqrt(6) / math.sqrt(in_features) / omega0 if omega0 else None)

    @staticmethod
    def numbers(out_features: int, in_features: int, rank: int) -> int:
        return out_features * in_features

    def matrix(self) -> Tensor:
        return self.weight


class LowRank(Weight):
    """Plain low rank, W = scale · U V, with k·(out + in) parameters.

    Both factors start Kaiming-uniform with a=√5: U ~ U(±1/√k), V ~ U(±1/√in), so that every entry of
    U V has standard deviation 1/(3√in) whatever the rank.

    Args:
        rank: k, at most min(out, in).
        scale: constant factor on the product.

    Raises:
        SinefieldError: the rank is below 1 or above min(out, in).
    """

    def __init__(self, out_features: int, in_features: int, rank: int, scale: float = 1.0) -> None:
        super().__init__(out_features, in_features)
        if not 1 <= rank <= min(out_features, in_features):
            raise SinefieldError(
                f"rank {rank} does not fit a {out_features} × {in_features} weight; "
                f"choose 1 to {min(out_features, in_features)}"
            )
        self.rank = rank
        self.scale = scale
        self.u = nn.Parameter(drawn(torch.empty(out_features, rank), 1, math.sqrt(rank)))
        self.v = nn.Parameter(drawn(torch.empty(rank, in_features), 1, math.sqrt(in_features)))

    @classmethod
    def start(cls, out_features: int, in_features: int, spec: WeightSpec, omega0: float | None) -> "LowRank":
        # U V has standard deviation 1/(3√in); a SIREN's hidden matrix has √2/(√in·ω₀).
        return cls(out_features, in_features, spec.rank, scale=3 * math.sqrt(2) / omega0 if omega0 else 1.0)

    @staticmethod
    def numbers(out_features: int, in_features: int, rank: int) -> int:
        return rank * (out_features + in_features)

    def matrix(self) -> Tensor:
        return self.scale * (self.u @ self.v)


class SineLowRank(LowRank):
    """Sine-activated low rank, W = sin(ω · U V) / g, with k·(out + in) parameters.

    ω and g are fixed numbers, not learned; g defaults to √in. The elementwise sine raises the rank of the
    product without a single further parameter (Ji et al., ICLR 2025, arXiv 2403.19243, eq. 4).

    Args:
        omega: ω itself; or give `phase` instead.
        phase: standard deviation of ω·UV at the start, ω = 3·√in·phase. One setting carries over
            between widths; below about 1 the sine is nearly the identity, above 1.5 the standard deviation
            of W has settled at 0.707/g.
        gain: g, the divisor.

    Raises:
        SinefieldError: neither or both of `omega` and `phase`, one that is not positive, or a bad rank.
    """

    def __init__(
        self,
        out_features: int,
        in_features: int,
        rank: int,
        omega: float | None = None,
        phase: float | None = None,
        gain: float | None = None,
    ) -> None:
        super().__init__(out_features, in_features, rank)
        if omega is not None and phase is None:
            self.omega = float(omega)
        elif phase is not None and omega is None:
            self.omega = omega_from_phase(phase, in_features)
        else:
            raise SinefieldError("a sine low-rank weight needs exactly one of omega and phase")
        if not self.omega > 0:
            raise SinefieldError(f"omega (or phase) must be positive, got {omega if phase is None else phase}")
        self.gain = math.sqrt(in_features) if gain is None else float(gain)

    @classmethod
    def start(cls, out_features: int, in_features: int, spec: WeightSpec, omega0: float | None) -> "SineLowRank":
        # sin(ω·UV) has standard deviation 1/√2 once ω is large, so g = √in·ω₀/2 starts as a SIREN does.
        root = math.sqrt(in_features)
        gain = (root * omega0 / 2 if omega0 else root) / spec.bound
        phase = spec.phase if spec.phase is not None or spec.omega is not None else 2.5
        return cls(out_features, in_features, spec.rank, omega=spec.omega, phase=phase, gain=gain)

    def matrix(self) -> Tensor:
        return torch.sin(self.omega * (self.u @ self.v)) / self.gain


def drawn(numbers: Tensor, bound: float, divisor: float = 1.0) -> Tensor:
    """Fill `numbers` uniformly from ±bound, divided by `divisor`; on the meta device, where there are none, do nothing.

    Arithmetic on that device would import torch's compiler: 140 MB and a second for every program that opens a file.
    """
    return numbers if numbers.is_meta else numbers.uniform_(-bound, bound).div_(divisor)


def omega_from_phase(phase: float, in_features: int) -> float:
    """ω that gives ω·UV the standard deviation `phase` at the start: every entry of UV has 1/(3√in)."""
    return 3 * math.sqrt(in_features) * phase


W = TypeVar("W", bound="type[Weight]")


def register_weight(name: str, cls: W) -> W:
    """Let scene files name a class of weights in `field.weights`; returns the class.

    Raises:
        SinefieldError: the name is taken by another class, or is no plain word of at most 32 letters.
    """
    if not (name.isidentifier() and name.isascii() and len(name) <= 32):
        raise SinefieldError(f"{name!r} cannot name a weight; use at most 32 letters, digits and _")
    if _CLASSES.setdefault(name, cls) is not cls:
        raise SinefieldError(f"there is a weight named {name} already; choose another name")
    if name not in WEIGHTS:
        WEIGHTS.append(name)
    return cls


def weight_class(name: str) -> type[Weight]:
    """The class that was registered under a name; raises SinefieldError for others."""
    if name not in _CLASSES:
        raise SinefieldError(f"unknown kind of weight {name!r}; one of {', '.join(_CLASSES)}")
    return _CLASSES[name]


for _name, _class in (("sine", SineLowRank), ("lowrank", LowRank), ("dense", Dense)):
    register_weight(_name, _class)


@contextmanager
def materialised(module: nn.Module) -> Iterator[None]:
    """Compute every weight below `module` once; its gradient returns to the parameters on leaving.

    Inside, each weight hands out one leaf matrix, so that a step may run forward and backward over many
    chunks of points while the factors are multiplied, and their gradients formed, only once.
    """
    # A dense weight's matrix is its parameter already.
    weights = [child for child in module.modules() if isinstance(child, Weight) and type(child) is not Dense]
    alike: dict[object, list[SineLowRank]] = defaultdict(list)
    for weight in weights:
        if type(weight) is SineLowRank:
            alike[weight.u.shape, weight.v.shape, weight.omega, weight.gain].append(weight)
    others = [weight for weight in weights if type(weight) is not SineLowRank]
    matrices = [weight.matrix() for weight in others]
    leaves = [matrix.detach().requires_grad_(matrix.requires_grad) for matrix in matrices]
    for weight, leaf in zip(others, leaves, strict=True):
        weight._leaf = leaf
    try:
        groups = [_Alike(group) for group in alike.values()]
        yield
        pairs = [(m, leaf.grad) for leaf, m in zip(leaves, matrices, strict=True) if leaf.grad is not None]
        if pairs:
            torch.autograd.backward([m for m, _ in pairs], [g for _, g in pairs])
        for group in groups:
            group.pass_on()
    finally:
        for weight in weights:
            weight._leaf = None


class _Alike:
    """Sine weights that differ in their factors only, materialised together: a narrow network's are too small to be
    worth an operation each, let alone a graph."""

    def __init__(self, weights: list[SineLowRank]) -> None:
        self.weights = weights
        first = weights[0]
        self.u, self.v = (torch.stack([getattr(w, name).detach() for w in weights]) for name in "uv")
        self.phase, self.omega, self.gain = first.omega * (self.u @ self.v), first.omega, first.gain
        self.leaves: list[Tensor] = []
        for weight, matrix in zip(weights, (torch.sin(self.phase) / first.gain).unbind(), strict=True):
            learns = torch.is_grad_enabled() and (weight.u.requires_grad or weight.v.requires_grad)
            weight._leaf = matrix.detach().requires_grad_(learns)
            self.leaves.append(weight._leaf)

    @torch.no_grad()
    def pass_on(self) -> None:
        """Add the gradients of the matrices to those of the factors."""
        given = [leaf.grad for leaf in self.leaves]
        if all(grad is None for grad in given):
            return
        stacked = torch.stack([torch.zeros_like(self.phase[0]) if grad is None else grad for grad in given])
        grads = stacked * torch.cos(self.phase) * (self.omega / self.gain)
        for weight, u, v in zip(self.weights, grads @ self.v.mT, self.u.mT @ grads, strict=True):
            for p, grad in ((weight.u, u), (weight.v, v)):
                if p.requires_grad:
                    p.grad = grad if p.grad is None else p.grad + grad


def network_numbers(settings: Any) -> int:
    """How many numbers a field with one network of these settings has at least."""
    hidden = weight_class(settings.weights).numbers(settings.width, settings.width, settings.rank)
    least = (settings.depth - 1) * hidden
    if settings.encoding == "hash":
        least += 2 * min((settings.finest + 1) ** 3, 1 << settings.log2_table)  # of its largest table
    return least
