"""A network's layers one after another on a few rows at a time, so that what lies between them never leaves the cache.

Numbers are float32, or bf16 as their bits in 16-bit integers: then two of them are multiplied with two others and added
to a float32 sum by one instruction of AVX512-BF16, and matrices are laid out for it in pairs of rows: B[k/2, n, k%2].
Numba compiles each function for either kind of array. All widths are filled up to multiples of `LANES` with zeros. The
network in torch, `MLP.reference`, is the definition.
"""

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from sinefield.machine import cpu_features

LANES = 16
"""float32 numbers in a register of 512 bits; in several of a shorter kind."""
ROWS = 4
VECTORS = 4 if cpu_features().get("avx512f") else 1
"""Of a product's block: as many sums as hide the time a product takes, and few enough for the registers."""
TILE = 64
"""Rows that go through all layers together."""
ONES = np.uint32(0x3F803F80)
"""A pair of bf16 numbers, both 1."""


class _BFloat(ir.Type):
    """LLVM's bf16, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


_I16, _I32, _I64, _F32 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_FLOATS, _PAIRS = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)
_HALVES, _HALF_BITS = ir.VectorType(_BFloat(), LANES), ir.VectorType(_I16, LANES)
_BOTH = ir.VectorType(_BFloat(), 2 * LANES)
_ZEROS = ir.Constant(_PAIRS, [0] * LANES)


def _block(vectors: int, mode: str):
    """The product of `ROWS` rows with `vectors` · `LANES` columns as an intrinsic.

    It sums A[r, p] · B[p, c] over p, where A's numbers, or pairs of bf16, are at `a[at + r · row + p · step]`, and B's
    rows begin at `b[at + p · step]`; all steps count the arrays' own elements. What comes before and after is the
    mode's:

    * "forward": begins at the bias `extra`; max(x, slope · x) goes into C, rounded where that is bf16.
    * "output": begins at the bias `extra`; stored as float32.
    * "backward": x where `extra`, what the layer gave, is above 0, else slope · x; rounded as in "forward".
    * "weight": added to the float32 C.
    """

    @intrinsic
    def block(
        typing, a, a_at, a_row, a_step, b, b_at, b_step, pairs, c, c_at, c_row, extra, extra_at, extra_row, slope
    ):
        n = types.intp
        signature = types.void(a, n, n, n, b, n, n, n, c, n, n, extra, n, n, types.float32)

        def generate(context, builder, signature, arguments):
            a, a_at, a_row, a_step, b, b_at, b_step, pairs, c, c_at, c_row, extra, extra_at, extra_row, slope = (
                arguments
            )
            kinds = dict(zip("abce", (signature.args[i] for i in (0, 4, 8, 11)), strict=True))
            sizes = {name: kind.dtype.bitwidth // 8 for name, kind in kinds.items()}
            half = isinstance(kinds["a"].dtype, types.Integer)

            def number(value):
                return ir.Constant(_I64, value)

            def address(name, array, at):
                data = context.make_array(kinds[name])(context, builder, array).data
                start = builder.ptrtoint(data, _I64)
                return builder.add(start, builder.mul(at, number(sizes[name])))

            def load(kind, at, align):
                value = builder.load(builder.inttoptr(at, ir.PointerType(kind)))
                value.align = align
                return value

            def store(value, at, align):
                builder.store(value, builder.inttoptr(at, ir.PointerType(value.type))).align = align

            def spread(value, kind):
                one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_I32, 0))
                return builder.shuffle_vector(one, one, _ZEROS)

            def after(at, steps):
                return builder.add(at, number(steps))

            def rows_of(name, at, step):
                step = builder.mul(step, number(sizes[name]))
                return [builder.add(at, builder.mul(step, number(r))) for r in range(ROWS)]

            a_start, b_start = address("a", a, a_at), address("b", b, b_at)
            c_rows = rows_of("c", address("c", c, c_at), c_row)
            extra_start = address("e", extra, extra_at)
            places = [(r, v) for r in range(ROWS) for v in range(vectors)]
            if mode in ("forward", "output"):
                begin = [load(_FLOATS, after(extra_start, 64 * v), 4) for r, v in places]
            elif mode == "weight":
                begin = [load(_FLOATS, after(c_rows[r], 64 * v), 4) for r, v in places]
            else:
                begin = [ir.Constant(_FLOATS, [0.0] * LANES) for _ in places]

            a_rows = [builder.mul(a_row, number(r * sizes["a"])) for r in range(ROWS)]
            steps = builder.mul(a_step, number(sizes["a"])), builder.mul(b_step, number(sizes["b"]))
            before, loop = builder.block, builder.append_basic_block("pairs")
            done = builder.append_basic_block("done")
            builder.branch(loop)
            builder.position_at_end(loop)
            p, a_now, b_now = (builder.phi(_I64) for _ in range(3))
            sums = [builder.phi(_FLOATS) for _ in places]
            for phi, value in zip((p, a_now, b_now, *sums), (number(0), a_start, b_start, *begin), strict=True):
                phi.add_incoming(value, before)
            one, many = (_I32, _PAIRS) if half else (_F32, _FLOATS)
            columns = [load(many, after(b_now, 64 * v), 4) for v in range(vectors)]
            row = [spread(load(one, builder.add(a_now, at), 2 if half else 4), many) for at in a_rows]
            if half:
                kind = ir.FunctionType(_FLOATS, [_FLOATS, _BOTH, _BOTH])
                dot = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512")
                row, columns = ([builder.bitcast(x, _BOTH) for x in some] for some in (row, columns))
                found = [builder.call(dot, [x, row[r], columns[v]]) for x, (r, v) in zip(sums, places, strict=True)]
            else:
                fma = cgutils.get_or_insert_function(
                    builder.module, ir.FunctionType(many, [many] * 3), "llvm.fma.v16f32"
                )
                found = [builder.call(fma, [row[r], columns[v], x]) for x, (r, v) in zip(sums, places, strict=True)]
            following = after(p, 1)
            moved = builder.add(a_now, steps[0]), builder.add(b_now, steps[1])
            for phi, value in zip((p, a_now, b_now, *sums), (following, *moved, *found), strict=True):
                phi.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed("<", following, pairs), loop, done)
            builder.position_at_end(done)

            slopes = spread(slope, _FLOATS)
            extra_rows = rows_of("e", extra_start, extra_row)
            for x, (r, v) in zip(found, places, strict=True):
                if mode in ("weight", "output"):
                    store(x, after(c_rows[r], 64 * v), 4)
                    continue
                less = builder.fmul(x, slopes)
                if mode == "forward":
                    keep = builder.fcmp_unordered(">", x, less)  # what is no number stays none
                elif half:
                    given = load(_HALF_BITS, after(extra_rows[r], 32 * v), 2)
                    keep = builder.icmp_signed(">", given, ir.Constant(_HALF_BITS, [0] * LANES))
                else:
                    given = load(_FLOATS, after(extra_rows[r], 64 * v), 4)
                    keep = builder.fcmp_ordered(">", given, ir.Constant(_FLOATS, [0.0] * LANES))
                x = builder.select(keep, x, less)
                if half:
                    kind = ir.FunctionType(_HALVES, [_FLOATS])
                    nearest = "llvm.x86.avx512bf16.cvtneps2bf16.512"
                    nearest = cgutils.get_or_insert_function(builder.module, kind, nearest)
                    x = builder.bitcast(builder.call(nearest, [x]), _HALF_BITS)
                store(x, after(c_rows[r], (32 if half else 64) * v), 2 if half else 4)
            return context.get_dummy_value()

        return signature, generate

    return block


def _product(mode: str):
    """C = A · B for `rows` rows of A and all `columns` of B, a block at a time."""
    one, two, three, four = (_block(min(vectors, VECTORS), mode) for vectors in (1, 2, 3, 4))

    @numba.njit(error_model="numpy")
    def product(
        rows, a, a_at, a_row, a_step, b, b_at, steps, columns, b_size, c, c_at, extra, extra_at, extra_row, slope
    ):
        # `b_size`: elements of b that a column takes.
        step = columns * b_size
        j = 0
        while j < columns:
            vectors = min((columns - j) // LANES, VECTORS)
            bj, ej = b_at + j * b_size, extra_at + j
            for r in range(0, rows, ROWS):
                ar, cr, er = a_at + r * a_row, c_at + r * columns + j, ej + r * extra_row
                if VECTORS == 1 or vectors == 1:
                    one(a, ar, a_row, a_step, b, bj, step, steps, c, cr, columns, extra, er, extra_row, slope)
                elif vectors == 4:
                    four(a, ar, a_row, a_step, b, bj, step, steps, c, cr, columns, extra, er, extra_row, slope)
                elif vectors == 3:
                    three(a, ar, a_row, a_step, b, bj, step, steps, c, cr, columns, extra, er, extra_row, slope)
                else:
                    two(a, ar, a_row, a_step, b, bj, step, steps, c, cr, columns, extra, er, extra_row, slope)
            j += vectors * LANES

    return product


_forward, _output, _backward, _weight = (_product(mode) for mode in ("forward", "output", "backward", "weight"))


@numba.njit
def _filled(width):
    """The next multiple of LANES."""
    return (width + LANES - 1) // LANES * LANES


def _per_step(array):
    """How many numbers of an array one step of a product takes."""


@overload(_per_step)
def _per_step_of(array):
    per_step = 2 if isinstance(array.dtype, types.Integer) else 1
    return lambda array: per_step


def _line_up(width, source, at, row, target, ahead, filled):
    """The tile's rows of `source` as a product steps through them: `ahead` a step, zeros from `width` to `filled`.

    Of bf16, pairs (source[2p, j], source[2p + 1, j]) as 32 bits.
    """


@overload(_line_up)
def _line_up_of(width, source, at, row, target, ahead, filled):
    if isinstance(source.dtype, types.Integer):

        def line_up(width, source, at, row, target, ahead, filled):
            for p in range(TILE // 2):
                first, second = source[at + 2 * p * row :], source[at + (2 * p + 1) * row :]
                pairs = target[p * ahead :]
                for j in range(width):
                    pairs[j] = np.uint32(first[j]) | np.uint32(np.uint32(second[j]) << np.uint32(16))
                for j in range(width, filled):
                    pairs[j] = 0
                if ahead > filled:
                    pairs[filled] = ONES
    else:

        def line_up(width, source, at, row, target, ahead, filled):
            for p in range(TILE):
                given, line = source[at + p * row :], target[p * ahead :]
                for j in range(width):
                    line[j] = given[j]
                for j in range(width, filled):
                    line[j] = 0
                if ahead > filled:
                    line[filled] = 1

    return line_up


@numba.njit(error_model="numpy")
def _take(source, at, width, rows, target, filled):
    """`rows` rows into rows as long as `filled`, zeros after them and below."""
    target[: TILE * filled] = 0
    for r in range(rows):
        for j in range(width):
            target[r * filled + j] = source[at + r * width + j]


@numba.njit(cache=True, error_model="numpy", nogil=True)
def pack(weights, biases, sizes, per_step, forth, back, lifted):
    """Lay out matrices (out, in), one after another, for `forward` and `backward`, and fill up the biases; float32."""
    at, flat, bias_at, bias_flat = 0, 0, 0, 0
    for i in range(len(sizes) - 1):
        n_in, n_out = sizes[i], sizes[i + 1]
        width_in, width_out = _filled(n_in), _filled(n_out)
        for o in range(n_out):
            for k in range(n_in):
                value = weights[flat + o * n_in + k]
                forth[at + (k // per_step * width_out + o) * per_step + k % per_step] = value
                back[at + (o // per_step * width_in + k) * per_step + o % per_step] = value
            lifted[bias_at + o] = biases[bias_flat + o]
        at += width_in * width_out
        flat += n_in * n_out
        bias_at += width_out
        bias_flat += n_out


@numba.njit(error_model="numpy")
def _widths(sizes):
    """Of the hidden layers together, and of the widest of all."""
    hidden, widest = 0, 0
    for i in range(len(sizes)):
        hidden += _filled(sizes[i]) if 0 < i < len(sizes) - 1 else 0
        widest = max(widest, _filled(sizes[i]))
    return hidden, widest


@numba.njit(error_model="numpy")
def _forward_share(thread, threads, x, n, weights, biases, sizes, slope, keep, kept, out):
    """One thread's tiles of `forward`."""
    layers, tiles = len(sizes) - 1, (n + TILE - 1) // TILE
    hidden, widest = _widths(sizes)
    n_in, n_out, last, per_step = sizes[0], sizes[layers], _filled(sizes[layers]), _per_step(x)
    even, odd = np.empty(TILE * widest, x.dtype), np.empty(TILE * widest, x.dtype)
    result = np.empty(TILE * last, np.float32)
    for tile in range(tiles * thread // threads, tiles * (thread + 1) // threads):
        rows = min(TILE, n - tile * TILE)
        # A row may be of an odd size: what follows it is met by zeros.
        source, source_at, row, width = x, tile * TILE * n_in, n_in, _filled(n_in)
        if rows < TILE or tile == tiles - 1:
            _take(x, source_at, n_in, rows, even, width)
            source, source_at, row = even, 0, width
        at, bias_at, kept_at = 0, 0, tile * TILE * hidden
        steps = (n_in + per_step - 1) // per_step
        for i in range(1, layers):
            following = _filled(sizes[i])
            target, target_at = kept, kept_at
            if not keep:
                target, target_at = (odd if i % 2 else even), 0
            _forward(
                TILE, source, source_at, row, per_step, weights, at, steps, following, per_step,
                target, target_at, biases, bias_at, 0, slope,
            )  # fmt: skip
            at += width * following
            bias_at += following
            kept_at += TILE * following
            source, source_at, row, width, steps = target, target_at, following, following, following // per_step
        _output(
            TILE, source, source_at, row, per_step, weights, at, steps, last, per_step,
            result, 0, biases, bias_at, 0, slope,
        )  # fmt: skip
        for r in range(rows):
            for j in range(n_out):
                out[(tile * TILE + r) * n_out + j] = result[r * last + j]


@numba.njit(error_model="numpy")
def _backward_share(thread, threads, x, n, grad, weights, sizes, slope, kept, lined, mine, of_input):
    """One thread's tiles of `backward`."""
    layers, tiles = len(sizes) - 1, (n + TILE - 1) // TILE
    hidden, widest = _widths(sizes)
    n_in, n_out, per_step = sizes[0], sizes[layers], _per_step(x)
    taken = np.empty(TILE * _filled(n_in), x.dtype)
    even, odd = np.empty(TILE * widest, x.dtype), np.empty(TILE * widest, x.dtype)
    left, right = np.empty(TILE * (widest + ROWS), lined.dtype), np.empty(TILE * widest, lined.dtype)
    for tile in range(tiles * thread // threads, tiles * (thread + 1) // threads):
        rows = min(TILE, n - tile * TILE)
        width = _filled(n_out)
        _take(grad, tile * TILE * n_out, n_out, rows, even, width)
        at, to, kept_at = len(weights), len(mine), (tile + 1) * TILE * hidden
        g, other = even, odd
        for i in range(layers, 0, -1):
            behind = _filled(sizes[i - 1])
            at -= width * behind
            to -= width * (behind + ROWS)
            if i > 1:
                kept_at -= TILE * behind
                given, given_at, row, size = kept, kept_at, behind, behind
            elif rows == TILE:
                given, given_at, row, size = x, tile * TILE * n_in, n_in, n_in
            else:
                _take(x, tile * TILE * n_in, n_in, rows, taken, behind)
                given, given_at, row, size = taken, 0, behind, behind
            # The bias is the weight of an input that is always 1.
            ahead = behind + ROWS
            _line_up(size, given, given_at, row, left, ahead, behind)
            _line_up(width, g, 0, width, right, width, width)
            _weight(
                ahead, left, 0, 1, ahead, right, 0, TILE // per_step, width, 1,
                mine, to, mine, 0, 0, slope,
            )  # fmt: skip
            if i > 1:
                _backward(
                    TILE, g, 0, width, per_step, weights, at, width // per_step, behind, per_step,
                    other, 0, given, given_at, behind, slope,
                )  # fmt: skip
            elif len(of_input):
                _backward(
                    TILE, g, 0, width, per_step, weights, at, width // per_step, behind, per_step,
                    other, 0, g, 0, 0, np.float32(1.0),
                )  # fmt: skip
                for r in range(rows):
                    for j in range(n_in):
                        of_input[(tile * TILE + r) * n_in + j] = other[r * behind + j]
            g, other, width = other, g, behind


@numba.njit(cache=True, error_model="numpy", parallel=True, nogil=True)
def forward(threads, x, n, weights, biases, sizes, slope, keep, kept, out):
    """The network's float32 output of `n` rows, all arrays flat.

    Args:
        weights, biases: as `pack` laid them out forth.
        sizes: of the input and of every layer.
        slope: of the hidden layers' activation below 0.
        keep, kept: whether hidden layers are left in `kept`, tile by tile, layer by layer.
    """
    for thread in numba.prange(threads):
        _forward_share(thread, threads, x, n, weights, biases, sizes, slope, keep, kept, out)


@numba.njit(cache=True, error_model="numpy", parallel=True, nogil=True)
def backward(x, n, grad, weights, sizes, slope, kept, lined, learned, of_input):
    """Gradients from that of the output, all arrays but `learned` flat.

    Args:
        weights: as `pack` laid them out back.
        kept: from `forward`.
        lined: empty, of 32-bit integers where numbers are bf16, else of float32.
        learned: zeros (threads, …): layer after layer a matrix (in + ROWS, out) of filled up sizes, whose row `in` is
            the bias's; each thread's share is added to its own.
        of_input: n rows, or empty where it is not asked for.
    """
    threads = len(learned)
    for thread in numba.prange(threads):
        _backward_share(thread, threads, x, n, grad, weights, sizes, slope, kept, lined, learned[thread], of_input)
