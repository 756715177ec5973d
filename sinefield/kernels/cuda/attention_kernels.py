"""Polynomial attention as Triton kernels: no n×m matrix in memory, forward and backward.

Imported only where Triton is wanted; `TRITON_INTERPRET=1` runs them on CPU tensors. Unlike softmax there is nothing to
normalise: each block of scores is raised, used and forgotten, and the backward pass computes it again from q and k.
q, k, v and what goes with them are contiguous (b·h, tokens, channels); sums are float32.
"""

import triton
import triton.language as tl


@triton.jit
def _dot(a, b, PRECISION: tl.constexpr):
    return tl.dot(a, b, input_precision=PRECISION, out_dtype=tl.float32)


@triton.jit
def _rows(pointer, head, at, N, C: tl.constexpr, PAD: tl.constexpr):
    """Rows `at` of one head's (N, C) matrix, zeros around it."""
    c = tl.arange(0, PAD)
    place = (head * N + at[:, None]) * C + c[None, :]
    return tl.load(pointer + place, mask=(at < N)[:, None] & (c < C)[None, :], other=0.0)


@triton.jit
def _put(pointer, head, at, N, values, C: tl.constexpr, PAD: tl.constexpr):
    c = tl.arange(0, PAD)
    place = (head * N + at[:, None]) * C + c[None, :]
    tl.store(pointer + place, values.to(pointer.dtype.element_ty), mask=(at < N)[:, None] & (c < C)[None, :])


@triton.jit
def _seen(mask, batch, h, i, j, n, m, sb, sh, sn, sm, CAUSAL: tl.constexpr, MASKED: tl.constexpr):
    """Which of the pairs (i, j) may attend."""
    seen = (i < n)[:, None] & (j < m)[None, :]
    if CAUSAL:
        seen = seen & (j[None, :] <= i[:, None])
    if MASKED:
        place = batch * sb + h * sh + i[:, None].to(tl.int64) * sn + j[None, :].to(tl.int64) * sm
        seen = seen & (tl.load(mask + place, mask=seen, other=0) > 0)
    return seen


@triton.jit
def _power(x, P: tl.constexpr):
    """x^P, and its derivative."""
    if P == 1:
        value, slope = x, tl.full(x.shape, 1.0, tl.float32)
    elif P == 2:
        value, slope = x * x, 2.0 * x
    else:
        value, slope = x * x * x, 3.0 * x * x
    return value, slope


@triton.jit
def forward(
    q,
    k,
    v,
    factor,
    mask,
    out,
    heads,
    n,
    m,
    scale,
    sb,
    sh,
    sn,
    sm,
    D: tl.constexpr,
    C: tl.constexpr,
    PAD_D: tl.constexpr,
    PAD_C: tl.constexpr,
    P: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """One program a head and QUERIES queries, over all keys."""
    head = tl.program_id(1).to(tl.int64)
    batch, h = head // heads, head % heads
    i = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    queries = _rows(q, head, i, n, D, PAD_D)
    total = tl.zeros([QUERIES, PAD_C], tl.float32)
    end = tl.minimum(m, (tl.program_id(0) + 1) * QUERIES) if CAUSAL else m
    for begin in range(0, end, KEYS):
        j = begin + tl.arange(0, KEYS)
        x = _dot(queries, tl.trans(_rows(k, head, j, m, D, PAD_D)), PRECISION) * scale
        a, _ = _power(x, P)
        a = tl.where(_seen(mask, batch, h, i, j, n, m, sb, sh, sn, sm, CAUSAL, MASKED), a, 0.0)
        values = _rows(v, head, j, m, C, PAD_C)
        # Powers overflow fp16: the second product is of float32.
        total += _dot(a, values.to(tl.float32), PRECISION)
    _put(out, head, i, n, total * tl.load(factor + batch), C, PAD_C)


@triton.jit
def backward_queries(
    q,
    k,
    v,
    factor,
    mask,
    grad,
    grad_q,
    heads,
    n,
    m,
    scale,
    sb,
    sh,
    sn,
    sm,
    D: tl.constexpr,
    C: tl.constexpr,
    PAD_D: tl.constexpr,
    PAD_C: tl.constexpr,
    P: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """∂L/∂q = scale·(φ′(x) ⊙ g·vᵀ)·k, programs as in `forward`."""
    head = tl.program_id(1).to(tl.int64)
    batch, h = head // heads, head % heads
    i = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    queries = _rows(q, head, i, n, D, PAD_D)
    g = _rows(grad, head, i, n, C, PAD_C)
    total = tl.zeros([QUERIES, PAD_D], tl.float32)
    end = tl.minimum(m, (tl.program_id(0) + 1) * QUERIES) if CAUSAL else m
    for begin in range(0, end, KEYS):
        j = begin + tl.arange(0, KEYS)
        keys = _rows(k, head, j, m, D, PAD_D)
        _, slope = _power(_dot(queries, tl.trans(keys), PRECISION) * scale, P)
        by_x = slope * _dot(g, tl.trans(_rows(v, head, j, m, C, PAD_C)), PRECISION)
        by_x = tl.where(_seen(mask, batch, h, i, j, n, m, sb, sh, sn, sm, CAUSAL, MASKED), by_x, 0.0)
        total += _dot(by_x, keys.to(tl.float32), PRECISION)
    _put(grad_q, head, i, n, total * (scale * tl.load(factor + batch)), D, PAD_D)


@triton.jit
def backward_keys(
    q,
    k,
    v,
    factor,
    mask,
    grad,
    grad_k,
    grad_v,
    heads,
    n,
    m,
    scale,
    sb,
    sh,
    sn,
    sm,
    D: tl.constexpr,
    C: tl.constexpr,
    PAD_D: tl.constexpr,
    PAD_C: tl.constexpr,
    P: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """∂L/∂k and ∂L/∂v: one program a head and KEYS keys, over all queries."""
    head = tl.program_id(1).to(tl.int64)
    batch, h = head // heads, head % heads
    j = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    keys, values = _rows(k, head, j, m, D, PAD_D), _rows(v, head, j, m, C, PAD_C)
    total_k = tl.zeros([KEYS, PAD_D], tl.float32)
    total_v = tl.zeros([KEYS, PAD_C], tl.float32)
    first = tl.program_id(0) * KEYS // QUERIES * QUERIES if CAUSAL else 0
    for begin in range(first, n, QUERIES):
        i = begin + tl.arange(0, QUERIES)
        queries, g = _rows(q, head, i, n, D, PAD_D), _rows(grad, head, i, n, C, PAD_C)
        a, slope = _power(_dot(queries, tl.trans(keys), PRECISION) * scale, P)
        seen = _seen(mask, batch, h, i, j, n, m, sb, sh, sn, sm, CAUSAL, MASKED)
        by_x = tl.trans(tl.where(seen, slope * _dot(g, tl.trans(values), PRECISION), 0.0))
        a = tl.trans(tl.where(seen, a, 0.0))
        total_v += _dot(a, g.to(tl.float32), PRECISION)
        total_k += _dot(by_x, queries.to(tl.float32), PRECISION)
    f = tl.load(factor + batch)
    _put(grad_k, head, j, m, total_k * (scale * f), D, PAD_D)
    _put(grad_v, head, j, m, total_v * f, C, PAD_C)
