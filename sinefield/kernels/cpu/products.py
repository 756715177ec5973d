# pyright: reportCallIssue=false
# numba gives what it compiles types of its own.
"""Products of matrices that lie in the first cache, by vector instructions: what the layers of `tiles` are made of.

Numbers are float32, or bf16 as their bits in 16-bit integers: then two of them are multiplied with two others and added
to a float32 sum by one instruction of AVX512-BF16, and matrices are laid out for it in pairs of rows: B[k/2, n, k%2].
Here a matrix so laid out is called paired; one of float32 is paired as it is. Numba compiles each function for either
kind of array. All widths are filled up to multiples of `LANES` with zeros.
"""

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from sinefield.machine import cpu_features

LANES = 16
"""float32 numbers in a register of 512 bits; in several of a shorter kind."""
ROWS = 4
VECTORS = 4 if cpu_features().get("avx512f") else 1
"""Of a product's block: as many sums as hide the time a product takes, and few enough for the registers."""
TILE = 64
"""Rows that go through all layers together."""


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

    product.__qualname__ = f"product_{mode}"  # see `step.named`
    return numba.njit(error_model="numpy")(product)


forward, keep, output, backward, of_input, of_weight = (
    _product(mode) for mode in ("forward", "keep", "output", "backward", "input", "weight")
)
