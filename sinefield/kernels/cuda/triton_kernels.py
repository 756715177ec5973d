# pyright: reportGeneralTypeIssues=false
# Triton gives what it compiles types of its own.
"""Marching and compositing as Triton kernels: what `kernels` is to the CPU. The torch twins are their definition.

Imported only where Triton is wanted. Nothing here needs nvcc; `TRITON_INTERPRET=1`, set before Triton is imported, runs
all of it on CPU tensors. Launch them with `enable_fp_fusion=False`: a fused multiply-add rounds differently from the
twins, and samples would move across cell walls.
"""

import triton
import triton.language as tl


@triton.jit
def _axis(o, d, low, high, CELLS: tl.constexpr):
    """One axis of the rays: entry, exit, whether a parallel ray passes beside the box, and cells per unit.

    The division is the correctly rounded one; Triton's `/` is not.
    """
    flat = d == 0.0
    inverse = tl.div_rn(1.0, tl.where(flat, 1.0, d))
    t0 = (low - o) * inverse
    t1 = (high - o) * inverse
    entry = tl.where(flat, -float("inf"), tl.minimum(t0, t1))
    leave = tl.where(flat, float("inf"), tl.maximum(t0, t1))
    beside = flat & ((o < low) | (o > high))
    return entry, leave, beside, tl.div_rn(CELLS * 1.0, high - low)


@triton.jit
def _in_cells(o, d, low, scale):
    """Along one axis the cell's coordinate is start + t·rate: start, rate and 1/rate."""
    rate = d * scale
    return (o - low) * scale, rate, 1.0 / tl.where(rate == 0.0, 1.0, rate)


@triton.jit
def _cell(position, low, scale, CELLS: tl.constexpr):
    return tl.minimum(tl.maximum(((position - low) * scale).to(tl.int32), 0), CELLS - 1)


@triton.jit
def _plane(start, rate, inverse, cell, crowded, BLOCK: tl.constexpr):
    """Where rays leave their cell, or its block where that is empty too, along one axis."""
    near = tl.where(crowded, cell, cell // BLOCK * BLOCK)
    far = near + tl.where(crowded, 1, BLOCK)
    plane = tl.where(rate > 0.0, far, near).to(tl.float32)
    return tl.where(rate == 0.0, float("inf"), (plane - start) * inverse)


@triton.jit(do_not_specialize=["rays"])
def walk(
    rays_o,
    rays_d,
    aabb,
    occupied,
    blocks,
    solid,
    jitter,
    packed,
    counts,
    ray_indices,
    t_starts,
    t_ends,
    rays,
    step,
    near,
    far,
    X: tl.constexpr,
    Y: tl.constexpr,
    Z: tl.constexpr,
    BLOCK: tl.constexpr,
    SOLID_DEPTH: tl.constexpr,
    MAX_STEPS: tl.constexpr,
    SOLID: tl.constexpr,
    JITTER: tl.constexpr,
    FILL: tl.constexpr,
    RAYS: tl.constexpr,
):
    """One lane a ray: count its samples, or with FILL write those that `packed` has room for.

    All lanes of a program walk in step until the last has left the box, each at its own pace through empty blocks.
    """
    r = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    here = r < rays
    ox = tl.load(rays_o + 3 * r, mask=here, other=0.0)
    oy = tl.load(rays_o + 3 * r + 1, mask=here, other=0.0)
    oz = tl.load(rays_o + 3 * r + 2, mask=here, other=0.0)
    dx = tl.load(rays_d + 3 * r, mask=here, other=0.0)
    dy = tl.load(rays_d + 3 * r + 1, mask=here, other=0.0)
    dz = tl.load(rays_d + 3 * r + 2, mask=here, other=0.0)
    lx, ly, lz = tl.load(aabb), tl.load(aabb + 1), tl.load(aabb + 2)
    entry_x, leave_x, beside_x, sx = _axis(ox, dx, lx, tl.load(aabb + 3), X)
    entry_y, leave_y, beside_y, sy = _axis(oy, dy, ly, tl.load(aabb + 4), Y)
    entry_z, leave_z, beside_z, sz = _axis(oz, dz, lz, tl.load(aabb + 5), Z)
    t_min = tl.maximum(tl.maximum(tl.maximum(entry_x, entry_y), entry_z), near)
    t_max = tl.minimum(tl.minimum(tl.minimum(leave_x, leave_y), leave_z), far)
    known = ox + oy + oz + dx + dy + dz  # NaN if one of them is, which minima and maxima would pass over
    active = here & (t_min < t_max) & (known == known) & ~(beside_x | beside_y | beside_z)
    t_min = tl.where(active, t_min, 0.0)
    t_max = tl.where(active, t_max, 0.0)
    shift = tl.load(jitter + r, mask=here, other=0.0) if JITTER else tl.zeros([RAYS], tl.float32)
    if FILL:
        first = tl.load(packed + 2 * r, mask=here, other=0)
        room = tl.load(packed + 2 * r + 1, mask=here, other=0).to(tl.int32)
        active = active & (room > 0)
    start_x, rate_x, inverse_x = _in_cells(ox, dx, lx, sx)
    start_y, rate_y, inverse_y = _in_cells(oy, dy, ly, sy)
    start_z, rate_z, inverse_z = _in_cells(oz, dz, lz, sz)
    per_step = 1.0 / step
    k = tl.zeros([RAYS], tl.int32)
    n = tl.zeros([RAYS], tl.int32)
    depth = tl.zeros([RAYS], tl.int32)
    while tl.max(active.to(tl.int32), 0) > 0:
        t = t_min + (k.to(tl.float32) + shift) * step
        middle = t + 0.5 * step
        active = active & (middle < t_max) & (k < MAX_STEPS)
        x = _cell(ox + middle * dx, lx, sx, X)
        y = _cell(oy + middle * dy, ly, sy, Y)
        z = _cell(oz + middle * dz, lz, sz, Z)
        cell = (x * Y + y) * Z + z
        hit = active & (tl.load(occupied + cell, mask=active, other=0) > 0)
        empty = active & ~hit
        if SOLID:
            within = hit & (tl.load(solid + cell, mask=hit, other=0) > 0)
            depth += within.to(tl.int32)
            ended = within & (depth > SOLID_DEPTH)
            hit = hit & ~ended
            active = active & ~ended
        if FILL:
            tl.store(t_starts + first + n, t, mask=hit)
            tl.store(t_ends + first + n, t + step, mask=hit)
            tl.store(ray_indices + first + n, r.to(tl.int64), mask=hit)
        n += hit.to(tl.int32)
        if FILL:
            active = active & (n < room)
        block = (x // BLOCK * tl.cdiv(Y, BLOCK) + y // BLOCK) * tl.cdiv(Z, BLOCK) + z // BLOCK
        crowded = tl.load(blocks + block, mask=empty, other=1) > 0
        leave = tl.minimum(t_max, _plane(start_x, rate_x, inverse_x, x, crowded, BLOCK))
        leave = tl.minimum(leave, _plane(start_y, rate_y, inverse_y, y, crowded, BLOCK))
        leave = tl.minimum(leave, _plane(start_z, rate_z, inverse_z, z, crowded, BLOCK))
        # Less a hair, so that rounding never skips a sample.
        jump = (tl.where(empty, leave - t_min, 0.0) * per_step - shift - 0.502).to(tl.int32)
        k = tl.where(empty, tl.maximum(k + 1, jump), k + 1)
    if not FILL:
        tl.store(counts + r, n.to(tl.int64), mask=here)


@triton.jit
def _absorbed(depth):
    """1 − exp(−depth), by its series where the difference would lose digits."""
    # The next term is below 5e-8 of the sum.
    series = depth / 6.0
    series = depth / 5.0 * (1.0 - series)
    series = depth / 4.0 * (1.0 - series)
    series = depth / 3.0 * (1.0 - series)
    series = depth / 2.0 * (1.0 - series)
    return tl.where(depth < 0.25, depth * (1.0 - series), 1.0 - tl.exp(-depth))


@triton.jit
def composite_forward(
    sigmas,
    colours,
    t_starts,
    t_ends,
    packed,
    out,
    opacities,
    depths,
    passed,
    C: tl.constexpr,
    PAD: tl.constexpr,
    MAX_DEPTH: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One program a ray, CHUNK samples at a time; `passed` is the optical depth in front of each sample."""
    r = tl.program_id(0)
    first = tl.load(packed + 2 * r)
    count = tl.load(packed + 2 * r + 1).to(tl.int32)
    channel = tl.arange(0, PAD)
    total = tl.zeros([PAD], tl.float32)
    front = 0.0
    distance = 0.0
    for begin in range(0, count, CHUNK):
        i = begin + tl.arange(0, CHUNK)
        here = i < count
        at = first + i
        t0 = tl.load(t_starts + at, mask=here, other=0.0)
        t1 = tl.load(t_ends + at, mask=here, other=0.0)
        depth = tl.minimum(tl.load(sigmas + at, mask=here, other=0.0) * (t1 - t0), MAX_DEPTH)
        before = front + (tl.cumsum(depth, 0) - depth)
        weight = tl.exp(-before) * _absorbed(depth)
        mask = here[:, None] & (channel < C)[None, :]
        colour = tl.load(colours + at[:, None] * C + channel[None, :], mask=mask, other=0.0)
        total += tl.sum(weight[:, None] * colour, 0)
        distance += tl.sum(weight * (t0 + t1) * 0.5, 0)
        tl.store(passed + at, before, mask=here)
        front += tl.sum(depth, 0)
    tl.store(out + r * C + channel, total, mask=channel < C)
    tl.store(opacities + r, _absorbed(front))
    tl.store(depths + r, distance)


@triton.jit
def composite_backward(
    sigmas,
    colours,
    t_starts,
    t_ends,
    packed,
    passed,
    grad_out,
    grad_opacities,
    grad_depths,
    grad_sigmas,
    grad_colours,
    C: tl.constexpr,
    PAD: tl.constexpr,
    MAX_DEPTH: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """From the last chunk of a ray to its first: dL/dσ_i = δ_i (T_{i+1} G_i − Σ_{j>i} w_j G_j) with G_i = dL/dw_i."""
    r = tl.program_id(0)
    first = tl.load(packed + 2 * r)
    count = tl.load(packed + 2 * r + 1).to(tl.int32)
    channel = tl.arange(0, PAD)
    by_colour = tl.load(grad_out + r * C + channel, mask=channel < C, other=0.0)
    by_opacity = tl.load(grad_opacities + r)
    by_depth = tl.load(grad_depths + r)
    behind = 0.0
    chunks = tl.cdiv(count, CHUNK)
    for back in range(0, chunks):
        i = (chunks - 1 - back) * CHUNK + tl.arange(0, CHUNK)
        here = i < count
        at = first + i
        t0 = tl.load(t_starts + at, mask=here, other=0.0)
        t1 = tl.load(t_ends + at, mask=here, other=0.0)
        depth = tl.minimum(tl.load(sigmas + at, mask=here, other=0.0) * (t1 - t0), MAX_DEPTH)
        trans = tl.exp(-tl.load(passed + at, mask=here, other=0.0))
        weight = trans * _absorbed(depth)
        mask = here[:, None] & (channel < C)[None, :]
        place = at[:, None] * C + channel[None, :]
        colour = tl.load(colours + place, mask=mask, other=0.0)
        g = by_opacity + by_depth * (t0 + t1) * 0.5 + tl.sum(colour * by_colour[None, :], 1)
        part = weight * g
        later = behind + (tl.cumsum(part, 0, reverse=True) - part)
        tl.store(grad_sigmas + at, (t1 - t0) * (trans * tl.exp(-depth) * g - later), mask=here)
        tl.store(grad_colours + place, weight[:, None] * by_colour[None, :], mask=mask)
        behind += tl.sum(part, 0)
