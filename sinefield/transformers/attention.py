"""Attention by softmax or by x^p/√N, in the cheapest of several equal ways.

Polynomial attention (Saratchandran et al., arXiv 2410.18613) puts φ(x) = x^p/√N on every scaled score, N the number of
keys that a query may attend to, in softmax's place. What it buys here: powers of a dot product are dot products of
monomials, so that the sum over keys can be taken before the queries come, in O(N). docs/attention.md has the formulas
and the choice.
"""

import math
from collections.abc import Iterator
from functools import cache
from itertools import combinations_with_replacement

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sinefield.errors import SinefieldError
from sinefield.kernels.choose import choose

METHODS = ("auto", "quadratic", "linear", "triton")
POWERS = (1, 2, 3)
CHUNK = 128
"""Tokens that causal attention in O(N) takes at once."""
FEATURES = 2**24
"""Monomials held at once; more of them are computed again in the backward pass."""


def attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b g m d"],
    v: Float[Tensor, "b g m c"],
    power: int | None = None,
    mask: Bool[Tensor, "#b #h #n #m"] | None = None,
    keys: Bool[Tensor, "b m"] | None = None,
    causal: bool = False,
    bias: Float[Tensor, "#b #h #n #m"] | None = None,
    scale: float | None = None,
    divisor: float | None = None,
    method: str = "auto",
) -> Float[Tensor, "b h n c"]:
    """Attend from n queries to m keys, differentiably in q, k, v and bias.

    softmax(x)·v, or (x^p/√N)·v, where x = scale·q·kᵀ + bias. Scores and sums are float32 (float64 for float64)
    whatever comes in, so that neither x³ overflows fp16 nor a sum drowns in bf16; the result has q's dtype.
    A query that may attend to nothing gets zeros. g key heads serve h query heads, h/g each.

    Args:
        power: p = 1, 2 or 3; None is softmax.
        mask: True = attend.
        keys: True = a real key, False = padding.
        causal: query i attends to keys 0 … i. Whatever hides a key, it does not count in N: a padded batch gives what
            its sequences give alone, and a token what it gives without those that come later.
        bias: added to the scaled scores, as Swin's relative positions are.
        scale: of the scores, 1/√d by default.
        divisor: a fixed number in √N's place, e.g. 14 for the paper's 196 tokens.
        method: "quadratic", "linear" (O(N), no mask and no bias, p only), "triton" (O(N²) time and O(N) memory, no
            bias, no float64, p only), or "auto": see `choose_method`. Softmax is torch's own
            scaled_dot_product_attention.

    Raises:
        SinefieldError: an unknown power or method, heads that do not divide, or a method that cannot do this.
    """
    _check(q, k, power, divisor, method)
    k, v = spread(k, q.shape[1]), spread(v, q.shape[1])
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    if power is None:
        if method not in ("auto", "quadratic"):
            raise SinefieldError(f"softmax has no method {method!r}; leave method at auto")
        return _softmax(q, k, v, _joined(mask, keys), causal, bias, scale)
    if method == "auto":
        method = choose_method(q, k, v, power, causal, mask is not None, bias is not None)
    if method == "linear" and (mask is not None or bias is not None):
        raise SinefieldError("attention in O(N) takes no mask and no bias; use keys, causal or method auto")
    if method == "triton" and (bias is not None or q.dtype == torch.float64):
        raise SinefieldError("the Triton kernel takes no bias and no float64; use method auto")
    factor = _factor(q, k, mask, keys, causal, divisor)
    if method == "triton":
        from sinefield.kernels.cuda import attention as kernels  # asked for by name, also where it was not tried

        # One factor a sequence within the kernel, so that sums fit the output's range; what queries differ by after it.
        least = factor.flatten(1).amin(1).expand(len(q))
        out = kernels.attention(q, k, v, least.contiguous(), power, _joined(mask, keys), causal, scale)
        return out if factor[0].numel() == 1 else (out * (factor / least[:, None, None, None])).to(out.dtype)
    kind = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        wide = q.to(kind) * scale, k.to(kind), v.to(kind)
        if method == "quadratic":
            scores = _powers(_scores(*wide[:2], bias), power)
            out = _hidden(scores, _joined(mask, keys), causal, 0.0) @ wide[2]
        else:
            if keys is not None:
                # A key of zeros has only zeros for monomials.
                wide = wide[0], wide[1].masked_fill(~keys[:, None, :, None], 0.0), wide[2]
            out = _linear_causal(*wide, power) if causal else _linear(*wide, power)
        out = out * factor.to(kind)
    return out.to(q.dtype)


def choose_method(
    q: Tensor, k: Tensor, v: Tensor, power: int, causal: bool = False, masked: bool = False, biased: bool = False
) -> str:
    """The method that takes the fewest multiplications: "linear", or else "triton" where it runs, or "quadratic".

    Quadratic: n·m·(d + c). Linear: (n + m)·D·(c + 1), D = (d+p−1 choose p) monomials, and for causal ones the quadratic
    form within chunks. Any mask, or a bias, keeps it quadratic. Triton's blocks must fit in the shared memory of small
    GPUs: up to 128 channels a head in fp16, else 64.
    """
    n, d, m, c = q.shape[-2], q.shape[-1], k.shape[-2], v.shape[-1]
    quadratic, within, through = n * m * (d + c), 0, n + m
    if causal:  # n = m; no chunk before the first, none after the last
        whole, rest = divmod(n, CHUNK)
        within = (whole * CHUNK**2 + rest**2) * (d + c)
        through = max(n - CHUNK, 0) + (n - (rest or CHUNK) if whole else 0)
    linear = through * monomials(d, power) * (c + (power > 1)) + within
    if not masked and not biased and linear < quadratic:
        return "linear"
    widest = 128 if {q.dtype, k.dtype, v.dtype} == {torch.float16} else 64
    if not biased and max(d, c) <= widest and choose("attention", q.device, q.dtype, gradients=1).name == "triton":
        return "triton"
    return "quadratic"


def attention_matrix(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b g m d"],
    power: int | None = None,
    mask: Bool[Tensor, "#b #h #n #m"] | None = None,
    keys: Bool[Tensor, "b m"] | None = None,
    causal: bool = False,
    bias: Float[Tensor, "#b #h #n #m"] | None = None,
    scale: float | None = None,
    divisor: float | None = None,
) -> Float[Tensor, "b h n m"]:
    """What `attention` multiplies v by, float32 or float64: for diagnostics, O(n·m) memory."""
    _check(q, k, power, divisor, "quadratic")
    k = spread(k, q.shape[1])
    kind = torch.promote_types(q.dtype, torch.float32)
    x = _scores(q.to(kind) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale), k.to(kind), bias)
    joined = _joined(mask, keys)
    if power is None:
        return torch.softmax(_hidden(x, joined, causal, -math.inf), dim=-1).nan_to_num(0.0)
    return _hidden(_powers(x, power), joined, causal, 0.0) * _factor(q, k, mask, keys, causal, divisor).to(kind)


class Attention(nn.Module):
    """Multi-head attention: x (b, n, dim) → (b, n, dim), to itself or to a context.

    Projections `query`, `key`, `value`, `out` are ordinary linear layers; the rest is `attention`.

    Args:
        heads: of queries.
        head_dim: d, dim/heads by default.
        key_heads: of keys and values, as many as queries by default; must divide `heads`.
        context_dim: channels of the context, dim by default.
        power, divisor, method: see `attention`.

    Raises:
        SinefieldError: dim is no multiple of heads and no head_dim is given, or heads do not divide.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int | None = None,
        key_heads: int | None = None,
        context_dim: int | None = None,
        power: int | None = None,
        divisor: float | None = None,
        bias: bool = True,
        method: str = "auto",
    ) -> None:
        super().__init__()
        key_heads = heads if key_heads is None else key_heads
        if min(dim, heads, key_heads) < 1 or heads % key_heads:
            raise SinefieldError(f"{heads} heads over {key_heads} key heads in {dim} channels; key heads divide heads")
        if head_dim is None and dim % heads:
            raise SinefieldError(f"{dim} channels do not split into {heads} heads; give head_dim")
        self.head_dim = dim // heads if head_dim is None else head_dim
        self.power, self.divisor, self.method = power, divisor, method
        inner, inner_keys = heads * self.head_dim, key_heads * self.head_dim
        self.query = nn.Linear(dim, inner, bias)
        self.key = nn.Linear(context_dim or dim, inner_keys, bias)
        self.value = nn.Linear(context_dim or dim, inner_keys, bias)
        self.out = nn.Linear(inner, dim, bias)

    def forward(
        self,
        x: Float[Tensor, "b n dim"],
        context: Float[Tensor, "b m context"] | None = None,
        mask: Bool[Tensor, "#b #h #n #m"] | None = None,
        keys: Bool[Tensor, "b m"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "b n dim"]:
        q, k, v = self.heads(x, context)
        y = attention(q, k, v, self.power, mask, keys, causal, divisor=self.divisor, method=self.method)
        return self.out(y.transpose(1, 2).flatten(2))

    def heads(
        self, x: Float[Tensor, "b n dim"], context: Float[Tensor, "b m context"] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v, each (b, heads, tokens, head_dim): what the diagnostics take."""
        context = x if context is None else context
        pairs = (self.query, x), (self.key, context), (self.value, context)
        return tuple(f(t).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for f, t in pairs)


def spread(k: Float[Tensor, "b g m d"], heads: int) -> Float[Tensor, "b h m d"]:
    """Each of g heads for the heads/g heads of queries that it serves."""
    return k if k.shape[1] == heads else k.repeat_interleave(heads // k.shape[1], dim=1)


def monomials(d: int, power: int) -> int:
    """Numbers in the exact feature map of (q·k)^power: (d + p − 1 choose p)."""
    return math.comb(d + power - 1, power)


def _check(q: Tensor, k: Tensor, power: int | None, divisor: float | None, method: str) -> None:
    if power is not None and power not in POWERS:
        raise SinefieldError(
            f"no attention of power {power}; one of {', '.join(map(str, POWERS))}, or None for softmax"
        )
    if method not in METHODS:
        raise SinefieldError(f"unknown method of attention {method!r}; one of {', '.join(METHODS)}")
    if divisor is not None and (power is None or not divisor > 0):
        raise SinefieldError(f"a divisor of {divisor} does not fit: it is positive, and softmax has none")
    if q.shape[1] % k.shape[1]:
        raise SinefieldError(f"{q.shape[1]} heads of queries are no multiple of {k.shape[1]} heads of keys")


def _joined(mask: Tensor | None, keys: Tensor | None) -> Tensor | None:
    if keys is None:
        return mask
    keys = keys[:, None, None, :]
    return keys if mask is None else mask & keys


def _factor(
    q: Tensor, k: Tensor, mask: Tensor | None, keys: Tensor | None, causal: bool, divisor: float | None
) -> Float[Tensor, "#b #h #n 1"]:
    """1/√N, N the keys that a query may attend to, or 1/divisor; of no key 1."""
    n, m = q.shape[-2], k.shape[-2]
    kind = torch.promote_types(k.dtype, torch.float32)
    if divisor is not None:
        return torch.full((1, 1, 1, 1), 1 / divisor, dtype=kind, device=k.device)
    seen = _joined(mask, keys)
    if seen is None:
        counts = torch.full((1, 1, 1, 1), m, device=k.device)
        if causal:
            counts = torch.arange(1, n + 1, device=k.device).clamp(max=m).view(1, 1, n, 1)
    elif causal:
        places = torch.arange(n, device=k.device).clamp(max=max(m - 1, 0)).view(1, 1, n, 1)
        sums = seen.expand(*seen.shape[:-1], m).cumsum(-1)
        sums = sums.expand(*sums.shape[:2], n, m)
        counts = sums.gather(-1, places.expand(*sums.shape[:2], n, 1)) if m else sums.sum(-1, keepdim=True)
    else:
        counts = seen.expand(*seen.shape[:-1], m).sum(-1, keepdim=True)
    return counts.clamp(min=1).to(kind).rsqrt()


def _scores(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    x = q @ k.transpose(-1, -2)
    return x if bias is None else x + bias


def _powers(x: Tensor, power: int) -> Tensor:
    # Products: pow takes a slow way, and its derivative another power.
    return x if power == 1 else x * x if power == 2 else x * x * x


def _hidden(x: Tensor, mask: Tensor | None, causal: bool, value: float) -> Tensor:
    if mask is not None:
        x = x.masked_fill(~mask, value)
    if causal:
        x = x.masked_fill(torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device).triu(1), value)
    return x


def _softmax(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, bias: Tensor | None, scale) -> Tensor:
    given = None if bias is None else bias.to(q.dtype)
    if mask is None and given is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
    if causal:
        lower = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        mask = lower if mask is None else mask & lower
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=given, scale=scale)
    # Rows without a key are not a number in some of torch's kernels: they attend to all, and are struck out.
    some = mask.any(-1, keepdim=True)
    mask = mask | ~some
    given = mask if given is None else given.masked_fill(~mask, -math.inf)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=given, scale=scale)
    return out.masked_fill(~some, 0.0)


@cache
def _places(d: int, power: int) -> tuple[Tensor, Tensor]:
    """Which channels each monomial multiplies, (power, D), and how often it occurs in (q·k)^power."""
    places = torch.tensor(list(combinations_with_replacement(range(d), power)), dtype=torch.int64).T.contiguous()
    counts = [math.factorial(power)] * places.shape[1]
    if power == 2:
        counts = [2 if i != j else 1 for i, j in places.T.tolist()]
    if power == 3:
        counts = [(1, 3, 6)[len({*row}) - 1] for row in places.T.tolist()]
    return places, torch.tensor(counts, dtype=torch.float64)


def _features(x: Tensor, power: int, counted: bool = False) -> Tensor:
    """All products of `power` channels, (…, n, D); `counted` ones times their multiplicity."""
    if power == 1:
        return x
    places, counts = _places(x.shape[-1], power)
    out = x[..., places[0].to(x.device)]
    for row in places[1:]:
        out = out * x[..., row.to(x.device)]
    return out * counts.to(x) if counted else out


def _slices(x: Tensor, power: int) -> Iterator[slice]:
    """Runs of tokens with at most `FEATURES` monomials, at least one token each."""
    size = max(FEATURES // max(x.shape[0] * x.shape[1] * monomials(x.shape[-1], power), 1), 1)
    return (slice(i, i + size) for i in range(0, max(x.shape[-2], 1), size))


def _sum(k: Tensor, v: Tensor, power: int) -> Tensor:
    return _features(k, power).transpose(-1, -2) @ v


def _read(q: Tensor, state: Tensor, power: int) -> Tensor:
    return _features(q, power, counted=True) @ state


def _again(function, *arguments) -> Tensor:
    """Computed now, and once more in the backward pass instead of kept."""
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)


def _linear(q: Tensor, k: Tensor, v: Tensor, power: int) -> Tensor:
    parts = [_again(_sum, k[..., s, :], v[..., s, :], power) for s in _slices(k, power)]
    state = torch.stack(parts).sum(0)
    return torch.cat([_again(_read, q[..., s, :], state, power) for s in _slices(q, power)], dim=-2)


def _linear_causal(q: Tensor, k: Tensor, v: Tensor, power: int) -> Tensor:
    """Within a chunk quadratically, to the chunks before it through their sum."""
    state = q.new_zeros(*q.shape[:2], monomials(q.shape[-1], power), v.shape[-1])
    parts = []
    for i in range(0, max(q.shape[-2], 1), CHUNK):
        s = slice(i, i + CHUNK)
        own = _hidden(_powers(_scores(q[..., s, :], k[..., s, :], None), power), None, True, 0.0) @ v[..., s, :]
        parts.append(own + _again(_read, q[..., s, :], state, power) if i else own)
        if i + CHUNK < q.shape[-2]:
            state = state + _again(_sum, k[..., s, :], v[..., s, :], power)
    return torch.cat(parts, dim=-2)
