"""A network's layers one after another on a few rows at a time, so that what lies between them never leaves the cache.

Numbers are float32, or bf16 as their bits in 16-bit integers: then two of them are multiplied with two others and added
to a float32 sum by one instruction of AVX512-BF16, and matrices are laid out for it in pairs of rows: B[k/2, n, k%2].
Here a matrix so laid out is called paired; one of float32 is paired as it is. Numba compiles each function for either
kind of array. All widths are filled up to multiples of `LANES` with zeros. The network in torch, `MLP.reference`, is
the definition.
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
ONE_BITS = 0x3F80
"""1 in bf16."""


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


def _rounded(builder, x):
    """float32 numbers as the bits of the nearest bf16."""
    kind = ir.FunctionType(_HALVES, [_FLOATS])
    nearest = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512bf16.cvtneps2bf16.512")
    return builder.bitcast(builder.call(nearest, [x]), _HALF_BITS)


def _paired(builder, even, odd):
    """Pairs of bf16, one of each."""
    even, odd = builder.zext(even, _PAIRS), builder.zext(odd, _PAIRS)
    return builder.or_(even, builder.shl(odd, ir.Constant(_PAIRS, [16] * LANES)))


def _block(vectors: int, mode: str):
    """The product of `ROWS` rows with `vectors` · `LANES` columns as an intrinsic.

    It sums A[r, p] · B[p, c] over p, where A's numbers, or pairs of bf16, are at `a[at + r · row + p · step]`, and B's
    rows begin at `b[at + p · step]`; all steps count the arrays' own elements. What comes before and after is the
    mode's:

    * "forward": begins at the bias `extra`; max(x, slope · x) goes into C, rounded where that is bf16.
    * "keep": the same, and paired into D.
    * "output": begins at the bias `extra`; stored as float32.
    * "backward": x where the paired `extra`, what the layer gave, is above 0, else slope · x; rounded into C and,
      paired, into D.
    * "input": rounded into C.
    * "weight": added to the float32 C.
    """
    rectified, doubled = mode in ("forward", "keep", "backward"), mode in ("keep", "backward")

    @intrinsic
    def block(typing, a, a_at, a_row, a_step, b, b_at, b_step, pairs, c, c_at, c_row, d, d_at, extra, extra_at, slope):
        n = types.intp
        signature = types.void(a, n, n, n, b, n, n, n, c, n, n, d, n, extra, n, types.float32)

        def generate(context, builder, signature, arguments):
            a, a_at, a_row, a_step, b, b_at, b_step, pairs, c, c_at, c_row, d, d_at, extra, extra_at, slope = arguments
            kinds = dict(zip("abcde", (signature.args[i] for i in (0, 4, 8, 11, 13)), strict=True))
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

            def rows_of(name, at):
                step = builder.mul(c_row, number(sizes[name]))
                return [builder.add(at, builder.mul(step, number(r))) for r in range(ROWS)]

            a_start, b_start = address("a", a, a_at), address("b", b, b_at)
            c_rows, d_rows = rows_of("c", address("c", c, c_at)), rows_of("d", address("d", d, d_at))
            extra_start = address("e", extra, extra_at)
            places = [(r, v) for r in range(ROWS) for v in range(vectors)]
            if mode in ("forward", "keep", "output"):
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

            slopes, extra_rows = spread(slope, _FLOATS), rows_of("e", extra_start)

            def given(r, v):
                """Where what the layer gave is above 0."""
                if not half:
                    held = load(_FLOATS, after(extra_rows[r], 64 * v), 4)
                    return builder.fcmp_ordered(">", held, ir.Constant(_FLOATS, [0.0] * LANES))
                held = load(_PAIRS, after(extra_rows[r - r % 2], 64 * v), 2)
                if r % 2 == 0:
                    held = builder.shl(held, ir.Constant(_PAIRS, [16] * LANES))
                return builder.icmp_signed(">", held, ir.Constant(_PAIRS, [0xFFFF if r % 2 else 0] * LANES))

            stored = {}
            for x, (r, v) in zip(found, places, strict=True):
                if rectified:
                    less = builder.fmul(x, slopes)
                    # What is no number stays none.
                    keep = given(r, v) if mode == "backward" else builder.fcmp_unordered(">", x, less)
                    x = builder.select(keep, x, less)
                narrow = half and mode not in ("weight", "output")
                stored[r, v] = x = _rounded(builder, x) if narrow else x
                store(x, after(c_rows[r], (32 if narrow else 64) * v), 2 if narrow else 4)
            if doubled:
                for r, v in places:
                    if not half:
                        store(stored[r, v], after(d_rows[r], 64 * v), 4)
                    elif r % 2 == 0:
                        store(_paired(builder, stored[r, v], stored[r + 1, v]), after(d_rows[r], 64 * v), 2)
            return context.get_dummy_value()

        return signature, generate

    return block


def _addresses(context, builder, signature, arguments):
    """Of the places that pairs of arguments, an array and an index, name."""
    found = []
    for i in range(0, len(arguments), 2):
        kind = signature.args[i]
        data = context.make_array(kind)(context, builder, arguments[i]).data
        at = builder.mul(arguments[i + 1], ir.Constant(_I64, kind.dtype.bitwidth // 8))
        found.append(builder.add(builder.ptrtoint(data, _I64), at))
    return found


def _floats_at(builder, at):
    value = builder.load(builder.inttoptr(at, ir.PointerType(_FLOATS)))
    value.align = 4
    return value


def _store_at(builder, value, at, beyond=0):
    at = builder.add(at, ir.Constant(_I64, beyond))
    builder.store(value, builder.inttoptr(at, ir.PointerType(value.type))).align = 2


@intrinsic
def narrow(typing, source, at, target, to):
    """`LANES` float32 numbers to where they may have to be bf16."""
    signature = types.void(source, types.intp, target, types.intp)

    def generate(context, builder, signature, arguments):
        at, to = _addresses(context, builder, signature, arguments)
        x = _floats_at(builder, at)
        _store_at(builder, _rounded(builder, x) if isinstance(signature.args[2].dtype, types.Integer) else x, to)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def two_columns(typing, first, first_at, second, second_at, target, to, stepped, step_to):
    """`LANES` float32 numbers of each of two columns of a tile into columns next to each other, rounded where those are
    bf16, and to where a product steps through them, a pair at a time where they are bf16."""
    n = types.intp
    signature = types.void(first, n, second, n, target, n, stepped, n)

    def generate(context, builder, signature, arguments):
        *sources, to, step_to = _addresses(context, builder, signature, arguments)
        given = [_floats_at(builder, at) for at in sources]
        if isinstance(signature.args[4].dtype, types.Integer):
            given = [_rounded(builder, x) for x in given]
            _store_at(builder, _paired(builder, *given), step_to)
            for i, x in enumerate(given):
                _store_at(builder, x, to, i * TILE * 2)
        else:
            for i, x in enumerate(given):
                _store_at(builder, x, to, i * TILE * 4)
                _store_at(builder, x, step_to, i * TILE * 4)
        return context.get_dummy_value()

    return signature, generate


def _product(mode: str):
    """C = A · B for `rows` rows of A and all `columns` of B, a block at a time."""
    one, two, three, four = (_block(min(vectors, VECTORS), mode) for vectors in (1, 2, 3, 4))

    @numba.njit(error_model="numpy")
    def product(
        rows, a, a_at, a_row, a_step, b, b_at, steps, columns, per_step, c, c_at, d, d_at, extra, extra_at, slope
    ):
        step = columns * per_step
        of_rows = per_step if mode == "backward" else 1  # elements of `extra` that a column takes
        j = 0
        while j < columns:
            vectors = min((columns - j) // LANES, VECTORS)
            bj = b_at + j * per_step
            for r in range(0, rows, ROWS):
                ar, cr, dr = a_at + r * a_row, c_at + r * columns + j, d_at + r * columns + j * per_step
                er = extra_at + j * of_rows + (r * columns if mode == "backward" else 0)
                if VECTORS == 1 or vectors == 1:
                    one(a, ar, a_row, a_step, b, bj, step, steps, c, cr, columns, d, dr, extra, er, slope)
                elif vectors == 4:
                    four(a, ar, a_row, a_step, b, bj, step, steps, c, cr, columns, d, dr, extra, er, slope)
                elif vectors == 3:
                    three(a, ar, a_row, a_step, b, bj, step, steps, c, cr, columns, d, dr, extra, er, slope)
                else:
                    two(a, ar, a_row, a_step, b, bj, step, steps, c, cr, columns, d, dr, extra, er, slope)
            j += vectors * LANES

    return product


_forward, _keep, _output, _backward, _input, _weight = (
    _product(mode) for mode in ("forward", "keep", "output", "backward", "input", "weight")
)


@numba.njit
def filled_up(width):
    """The next multiple of LANES."""
    return (width + LANES - 1) // LANES * LANES


def per_step_of(array):
    """How many numbers of an array one step of a product takes."""


@overload(per_step_of)
def _per_step_of(array):
    per_step = 2 if isinstance(array.dtype, types.Integer) else 1
    return lambda array: per_step


def pair(width, source, at, row, target, filled):
    """The tile's rows of `source` paired, with zeros from `width` to `filled`; all of `filled` is read."""


@overload(pair)
def _pair_of(width, source, at, row, target, filled):
    if isinstance(source.dtype, types.Integer):

        def paired(width, source, at, row, target, filled):
            pairs = target.view(np.uint32)
            for p in range(TILE // 2):
                even, line = at + 2 * p * row, p * filled
                odd = even + row
                for j in range(filled):  # unsigned, since a negative index would mean another place
                    high = np.uint32(np.uint32(source[np.uint64(odd + j)]) << np.uint32(16))
                    pairs[np.uint64(line + j)] = np.uint32(source[np.uint64(even + j)]) | high
                for j in range(width, filled):
                    pairs[np.uint64(line + j)] = 0
    else:

        def paired(width, source, at, row, target, filled):
            for p in range(TILE):
                for j in range(filled):
                    target[np.uint64(p * filled + j)] = source[np.uint64(at + p * row + j)]
                for j in range(width, filled):
                    target[np.uint64(p * filled + j)] = 0

    return paired


def one_of(array):
    """1 as an array's numbers have it."""


@overload(one_of)
def _one_of(array):
    one = ONE_BITS if isinstance(array.dtype, types.Integer) else 1
    return lambda array: one


@numba.njit(error_model="numpy")
def take(source, at, width, rows, target, filled):
    """`rows` rows into rows as long as `filled`, zeros after them and below."""
    target[: TILE * filled] = 0
    for r in range(rows):
        for j in range(width):
            target[r * filled + j] = source[at + r * width + j]


@numba.njit(error_model="numpy")
def give(source, filled, rows, target, at, width):
    """`rows` rows as long as `filled` into rows of `width`."""
    for r in range(rows):
        if r * width + filled <= rows * width:
            for j in range(filled):  # whole vectors: what is too much the next rows take back
                target[np.uint64(at + r * width + j)] = source[np.uint64(r * filled + j)]
        else:
            for j in range(width):
                target[np.uint64(at + r * width + j)] = source[np.uint64(r * filled + j)]


@numba.njit(cache=True, error_model="numpy", nogil=True)
def pack(weights, biases, sizes, per_step, forth, back, lifted):
    """Lay out matrices (out, in), one after another, for `forward` and `backward`, and fill up the biases; float32."""
    at, flat, bias_at, bias_flat = 0, 0, 0, 0
    for i in range(len(sizes) - 1):
        n_in, n_out = sizes[i], sizes[i + 1]
        width_in, width_out = filled_up(n_in), filled_up(n_out)
        # Unsigned, since a negative index would mean another place; each loop goes along what it writes.
        for o in range(n_out):
            line = at + o // per_step * width_in * per_step + o % per_step
            for k in range(n_in):
                back[np.uint64(line + k * per_step)] = weights[np.uint64(flat + o * n_in + k)]
            lifted[bias_at + o] = biases[bias_flat + o]
        for k in range(n_in):
            line = at + k // per_step * width_out * per_step + k % per_step
            for o in range(n_out):
                forth[np.uint64(line + o * per_step)] = weights[np.uint64(flat + o * n_in + k)]
        at += width_in * width_out
        flat += n_in * n_out
        bias_at += width_out
        bias_flat += n_out


@numba.njit(error_model="numpy")
def widths(sizes):
    """Of the hidden layers together, and of the widest of all."""
    hidden, widest = 0, 0
    for i in range(len(sizes)):
        hidden += filled_up(sizes[i]) if 0 < i < len(sizes) - 1 else 0
        widest = max(widest, filled_up(sizes[i]))
    return hidden, widest


@numba.njit(error_model="numpy")
def room(sizes, like):
    """Four buffers for `tile_forward` and `tile_backward`, of the kind of an array."""
    size = TILE * widths(sizes)[1]
    return (
        np.empty(size, like.dtype),
        np.empty(size, like.dtype),
        np.empty(size, like.dtype),
        np.empty(size, like.dtype),
    )


@numba.njit(error_model="numpy")
def tile_forward(rows, x, x_at, x_row, x_step, weights, biases, sizes, slope, keep, kept, kept_at, buffers, result):
    """`rows` rows, a multiple of `ROWS`, through all layers; float32 rows of the last one's filled up size in `result`.

    Args:
        x, x_at, x_row, x_step: rows of the input begin at `x[x_at + r · x_row]`; each step of a product is `x_step` on.
        weights, biases: as `pack` laid them out forth.
        keep, kept, kept_at: whether hidden layers are left in `kept` from `kept_at` on, one after another, paired.
    """
    layers, per_step, start = len(sizes) - 1, np.int64(per_step_of(x)), np.int64(0)
    even, odd, _, _ = buffers
    source, source_at, row, step, width = x, x_at, x_row, x_step, filled_up(sizes[0])
    # A row may be of an odd size: what follows it is met by zeros.
    at, bias_at, steps = 0, 0, (sizes[0] + per_step - 1) // per_step
    for i in range(1, layers):
        following = filled_up(sizes[i])
        target = odd if i % 2 else even
        if keep:
            _keep(
                rows, source, source_at, row, step, weights, at, steps, following, per_step,
                target, start, kept, kept_at, biases, bias_at, slope,
            )  # fmt: skip
        else:
            _forward(
                rows, source, source_at, row, step, weights, at, steps, following, per_step,
                target, start, target, start, biases, bias_at, slope,
            )  # fmt: skip
        at += width * following
        bias_at += following
        kept_at += TILE * following
        source, source_at, row, step, width, steps = (
            target,
            start,
            following,
            per_step,
            following,
            following // per_step,
        )
    _output(
        rows, source, source_at, row, step, weights, at, steps, filled_up(sizes[layers]), per_step,
        result, start, result, start, biases, bias_at, slope,
    )  # fmt: skip


@numba.njit(error_model="numpy")
def tile_backward(rows, x, x_at, x_row, x_step, weights, sizes, slope, kept, kept_end, mine, wanted, ones, buffers):
    """Gradients of `rows` rows, a multiple of `ROWS`, added to `mine`; returns the input's, rows of its filled up size.

    Args:
        x, x_at, x_row, x_step: the input by columns, which begin at `x[x_at + k · x_row]`; each step of a product, a
            pair of rows where they are bf16, is `x_step` on.
        weights: as `pack` laid them out back.
        kept, kept_end: from `tile_forward`, and where that ends.
        wanted: whether the input's gradient is.
        ones: as much of an array of ones as a step takes.
        buffers: in the first, the gradient of the output, rows of its filled up size: zeros wherever there is none.
    """
    layers, per_step, start = len(sizes) - 1, np.int64(per_step_of(kept)), np.int64(0)
    width = filled_up(sizes[layers])
    # The gradient of a layer's output by rows, and paired.
    g, other, g_paired, other_paired = buffers
    pair(width, g, 0, width, g_paired, width)
    at, to, kept_at = len(weights), len(mine), kept_end
    for i in range(layers, 0, -1):
        behind = filled_up(sizes[i - 1])
        at -= width * behind
        to -= width * (behind + ROWS)
        if i > 1:
            kept_at -= TILE * behind
            given, given_at, given_row, given_step = kept, kept_at, per_step, behind * per_step
        else:
            given, given_at, given_row, given_step = x, x_at, x_row, x_step
        _weight(
            behind, given, given_at, given_row, given_step, g_paired, start, rows // per_step, width, per_step,
            mine, to, mine, start, mine, start, slope,
        )  # fmt: skip
        # The bias is the weight of an input that is always 1.
        _weight(
            np.int64(ROWS), ones, start, start, start, g_paired, start, rows // per_step, width, per_step,
            mine, to + behind * width, mine, start, mine, start, slope,
        )  # fmt: skip
        if i > 1:
            _backward(
                rows, g, start, width, per_step, weights, at, width // per_step, behind, per_step,
                other, start, other_paired, start, given, given_at, slope,
            )  # fmt: skip
        elif wanted:
            _input(
                rows, g, start, width, per_step, weights, at, width // per_step, behind, per_step,
                other, start, other, start, g, start, slope,
            )  # fmt: skip
        g, other, g_paired, other_paired, width = other, g, other_paired, g_paired, behind
    return g


@numba.njit(error_model="numpy")
def _forward_share(thread, threads, x, n, weights, biases, sizes, slope, keep, kept, out):
    """One thread's tiles of `forward`."""
    tiles, hidden = (n + TILE - 1) // TILE, widths(sizes)[0]
    n_in, n_out = sizes[0], sizes[len(sizes) - 1]
    width, last = filled_up(n_in), filled_up(n_out)
    taken, buffers, step = np.empty(TILE * width, x.dtype), room(sizes, x), np.int64(per_step_of(x))
    size = np.int64(TILE)  # a plain integer: functions are compiled anew for each literal that they are given
    result = np.empty(TILE * last, np.float32)
    for tile in range(tiles * thread // threads, tiles * (thread + 1) // threads):
        rows = min(TILE, n - tile * TILE)
        source, source_at, row = x, tile * TILE * n_in, n_in
        if tile == tiles - 1:  # what is read beyond it is not ours
            take(x, source_at, n_in, rows, taken, width)
            source, source_at, row = taken, 0, width
        kept_at = tile * TILE * hidden
        tile_forward(
            size, source, source_at, row, step, weights, biases, sizes, slope, keep, kept, kept_at, buffers, result
        )  # fmt: skip
        give(result, last, rows, out, tile * TILE * n_out, n_out)


@numba.njit(error_model="numpy")
def _backward_share(thread, threads, x, n, grad, weights, sizes, slope, kept, mine, of_input):
    """One thread's tiles of `backward`."""
    tiles, hidden = (n + TILE - 1) // TILE, widths(sizes)[0]
    n_in, n_out = sizes[0], sizes[len(sizes) - 1]
    width, last = filled_up(n_in), filled_up(n_out)
    taken, seen, buffers = np.empty(TILE * width, x.dtype), np.empty(TILE * width, x.dtype), room(sizes, x)
    per_step, wanted, start, size = np.int64(per_step_of(x)), len(of_input) > 0, np.int64(0), np.int64(TILE)
    ones = np.full(per_step, one_of(x), x.dtype)
    for tile in range(tiles * thread // threads, tiles * (thread + 1) // threads):
        rows = min(TILE, n - tile * TILE)
        source, source_at, row = x, tile * TILE * n_in, n_in
        if tile == tiles - 1:
            take(x, source_at, n_in, rows, taken, width)
            source, source_at, row = taken, 0, width
        take(grad, tile * TILE * n_out, n_out, rows, buffers[0], last)
        end = (tile + 1) * TILE * hidden
        pair(n_in, source, source_at, row, seen, width)
        g = tile_backward(
            size, seen, start, per_step, width * per_step, weights, sizes, slope, kept, end, mine, wanted, ones, buffers
        )
        if wanted:
            give(g, width, rows, of_input, tile * TILE * n_in, n_in)


@numba.njit(cache=True, error_model="numpy", parallel=True, nogil=True)
def forward(threads, x, n, weights, biases, sizes, slope, keep, kept, out):
    """The network's float32 output of `n` rows, all arrays flat.

    Args:
        weights, biases: as `pack` laid them out forth.
        sizes: of the input and of every layer.
        slope: of the hidden layers' activation below 0.
        keep, kept: whether hidden layers are left in `kept`, tile by tile, layer by layer, paired.
    """
    for thread in numba.prange(threads):
        _forward_share(np.int64(thread), threads, x, n, weights, biases, sizes, slope, keep, kept, out)


@numba.njit(cache=True, error_model="numpy", parallel=True, nogil=True)
def backward(x, n, grad, weights, sizes, slope, kept, learned, of_input):
    """Gradients from that of the output, all arrays but `learned` flat.

    Args:
        weights: as `pack` laid them out back.
        kept: from `forward`.
        learned: zeros (threads, …): layer after layer a matrix (in + ROWS, out) of filled up sizes, whose row `in` is
            the bias's; each thread's share is added to its own.
        of_input: n rows, or empty where it is not asked for.
    """
    threads = len(learned)
    for thread in numba.prange(threads):
        _backward_share(np.int64(thread), threads, x, n, grad, weights, sizes, slope, kept, learned[thread], of_input)
