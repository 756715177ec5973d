"""How large attention is: Frobenius norms of its matrix and of its Jacobian, and what the paper bounds them by."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sinefield.transformers.attention import _factor, _hidden, _joined, _scores, attention_matrix, spread


class AttentionNorms(NamedTuple):
    """Per sequence and head, and the bounds that go with them."""

    matrix: Float[Tensor, "b h"]
    """‖A‖_F."""
    jacobian: Float[Tensor, "b h"]
    """‖∂A/∂x‖_F, x the scaled scores."""
    matrix_bound: float
    jacobian_bound: float


def attention_norms(
    q: Float[Tensor, "b h n d"], k: Float[Tensor, "b g m d"], power: int | None = None, **settings
) -> AttentionNorms:
    """‖A‖_F and ‖∂A/∂x‖_F of one attention, with the bounds of `bounds`.

    A row of softmax has the Jacobian diag(a) − a·aᵀ, whose squared norm is Σa² − 2Σa³ + (Σa²)²; the Jacobian of
    x^p/√N is diagonal, p·x^(p−1)/√N.

    Args:
        settings: mask, keys, causal, bias, scale, divisor, as `attention` takes them. The bounds for powers are those
            of no bias and the scale 1/√d; hidden keys do not count in N either, so that they change the norms little.
    """
    a = attention_matrix(q, k, power, **settings)
    if power is None:
        squares = (a**2).sum(-1)
        slope = (squares - 2 * (a**3).sum(-1) + squares**2).clamp(min=0).sum(-1).sqrt()
    else:
        scale, mask, keys, divisor = (settings.get(name) for name in ("scale", "mask", "keys", "divisor"))
        causal = settings.get("causal", False)
        scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
        x = _scores(q.to(a) * scale, spread(k, q.shape[1]).to(a), settings.get("bias"))
        slopes = power * x ** (power - 1) * _factor(q, k, mask, keys, causal, divisor)
        slope = _hidden(slopes, _joined(mask, keys), causal, 0.0).flatten(2).norm(dim=-1)
    limits = bounds(q.shape[-2], q.shape[-1], power, k.shape[-2], settings.get("divisor"))
    return AttentionNorms(a.flatten(2).norm(dim=-1), slope, *limits)


def bounds(
    n: int, d: int, power: int | None = None, m: int | None = None, divisor: float | None = None
) -> tuple[float, float]:
    """Bounds of ‖A‖_F and ‖∂A/∂x‖_F for n queries, m keys (n by default), d channels a head.

    Softmax: √n and 2√n, always (arXiv 2410.18613). Powers: of the root mean square over queries and keys whose entries
    are independent standard normal; the paper states O(√n), the constants here are exact:
    E‖A‖² = n·(2p−1)!!·Π_{i<p}(1 + 2i/d), and E‖∂A/∂x‖² = p² times the same at p − 1; a divisor in √m's place
    multiplies both by m/divisor².
    """

    def moment(p: int) -> float:
        return math.prod((2 * i + 1) * (1 + 2 * i / d) for i in range(p))

    if power is None:
        return math.sqrt(n), 2 * math.sqrt(n)
    rows = n if divisor is None else n * (n if m is None else m) / divisor**2
    return math.sqrt(rows * moment(power)), power * math.sqrt(rows * moment(power - 1))


def condition_number(x: Float[Tensor, "*b n d"]) -> Float[Tensor, "*b"]:
    """σ_max/σ_min of each matrix of tokens as stored, in float64; infinite where σ_min is lost in that rounding."""
    values = torch.linalg.svdvals(x.detach().double())
    smallest = values[..., -1]
    rounding = torch.finfo(values.dtype).eps * max(x.shape[-2:]) * values[..., 0]
    return torch.where(smallest > rounding, values[..., 0] / smallest, math.inf)
