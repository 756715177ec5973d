# pyright: reportArgumentType=false
# numba gives what it compiles types of its own.
"""A network's layers one after another on a few rows at a time, so that what lies between them never leaves the cache.

Every function takes float32 or the bits of bf16; see `products`. The network in torch, `MLP.reference`, is the
definition.
"""

from typing import NamedTuple

import numba
import numpy as np
from numba.core import types
from numba.extending import overload

from sinefield.kernels.cpu.products import (
    LANES,
    ROWS,
    TILE,
    backward,
    forward,
    keep,
    of_input,
    of_weight,
    output,
)

ONE_BITS = 0x3F80
"""1 in bf16."""


class Net(NamedTuple):
    """A network's numbers as `pack` lays them out, and its arithmetic.

    Attributes:
        sizes: of the input and of every layer.
        forth, biases, back: all layers' matrices for the way forth, their biases, and the matrices for the way back.
        slope: of the hidden layers' activation below 0.
    """

    sizes: np.ndarray
    forth: np.ndarray
    biases: np.ndarray
    back: np.ndarray
    slope: np.float32


class Block(NamedTuple):
    """A matrix in memory: row r begins at `array[at + r · row]`, and each step of a product is `step` on."""

    array: np.ndarray
    at: int
    row: int
    step: int


class Room(NamedTuple):
    """What a tile's passes through one network write to.

    Attributes:
        even, odd, third, fourth: what is between two layers, of the kind of the network's numbers. `tile_backward`
            finds the gradient of the output in `even`: rows of its filled up size, zeros wherever there is none.
        result: float32 rows of the output's filled up size.
        ones: as many ones as a step of a product takes.
    """

    even: np.ndarray
    odd: np.ndarray
    third: np.ndarray
    fourth: np.ndarray
    result: np.ndarray
    ones: np.ndarray


@numba.njit
def filled_up(width):
    """The next multiple of LANES."""
    return (width + LANES - 1) // LANES * LANES


@numba.njit(error_model="numpy")
def widths(sizes):
    """Of the hidden layers together, and of the widest of all."""
    hidden, widest = 0, 0
    for i in range(len(sizes)):
        hidden += filled_up(sizes[i]) if 0 < i < len(sizes) - 1 else 0
        widest = max(widest, filled_up(sizes[i]))
    return hidden, widest


@numba.njit(error_model="numpy")
def room_for(net):
    """Memory for a network's passes."""
    size, kind = TILE * widths(net.sizes)[1], net.forth.dtype
    result = np.empty(TILE * filled_up(net.sizes[-1]) + LANES, np.float32)  # a little more: whole vectors are read
    ones = np.empty(np.int64(per_step_of(net.forth)), kind)
    for i in range(len(ones)):
        ones[i] = one_of(net.forth)
    return Room(np.empty(size, kind), np.empty(size, kind), np.empty(size, kind), np.empty(size, kind), result, ones)


def per_step_of(array):
    """How many numbers of an array one step of a product takes."""


@overload(per_step_of)
def _per_step_of(array):
    per_step = 2 if isinstance(array.dtype, types.Integer) else 1
    return lambda array: per_step


def one_of(array):
    """1 as an array's numbers have it."""


@overload(one_of)
def _one_of(array):
    one = ONE_BITS if isinstance(array.dtype, types.Integer) else 1
    return lambda array: one


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
    """Lay out matrices (out, in), one after another, for both ways, and fill up the biases; float32."""
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
def tile_forward(rows, given, net, keeps, kept, kept_at, room):
    """`rows` rows, a multiple of `ROWS`, through all layers, into `room.result`.

    Args:
        given: a `Block`, rows of the input.
        keeps, kept, kept_at: whether hidden layers are left in `kept` from `kept_at` on, one after another, paired.
    """
    sizes, weights, biases, slope, result = net.sizes, net.forth, net.biases, net.slope, room.result
    source, source_at, row, step, width = given.array, given.at, given.row, given.step, filled_up(sizes[0])
    layers, per_step, start = len(sizes) - 1, np.int64(per_step_of(weights)), np.int64(0)
    # A row may be of an odd size: what follows it is met by zeros.
    at, bias_at, steps = 0, 0, (sizes[0] + per_step - 1) // per_step
    for i in range(1, layers):
        following = filled_up(sizes[i])
        target = room.odd if i % 2 else room.even
        if keeps:
            keep(
                rows, source, source_at, row, step, weights, at, steps, following, per_step,
                target, start, kept, kept_at, biases, bias_at, slope,
            )  # fmt: skip
        else:
            forward(
                rows, source, source_at, row, step, weights, at, steps, following, per_step,
                target, start, target, start, biases, bias_at, slope,
            )  # fmt: skip
        at += width * following
        bias_at += following
        kept_at += TILE * following
        source, source_at, row, step, width = target, start, following, per_step, following
        steps = following // per_step
    output(
        rows, source, source_at, row, step, weights, at, steps, filled_up(sizes[layers]), per_step,
        result, start, result, start, biases, bias_at, slope,
    )  # fmt: skip


@numba.njit(error_model="numpy")
def tile_backward(rows, seen, net, kept, kept_end, learned, wanted, room):
    """Gradients of `rows` rows, a multiple of `ROWS`, added to `learned`; returns the input's, of its filled up size.

    Args:
        seen: a `Block`, columns of the input; a step is a pair of rows where numbers are bf16.
        kept, kept_end: from `tile_forward`, and where that ends.
        learned: layer after layer a matrix (in + ROWS, out) of filled up sizes, whose row `in` is the bias's.
        wanted: whether the input's gradient is.
        room: with the gradient of the output.
    """
    sizes, weights, slope, ones = net.sizes, net.back, net.slope, room.ones
    layers, per_step, start = len(sizes) - 1, np.int64(per_step_of(kept)), np.int64(0)
    width = filled_up(sizes[layers])
    # The gradient of a layer's output by rows, and paired.
    g, other, g_paired, other_paired = room.even, room.odd, room.third, room.fourth
    pair(width, g, 0, width, g_paired, width)
    at, to, kept_at = len(weights), len(learned), kept_end
    for i in range(layers, 0, -1):
        behind = filled_up(sizes[i - 1])
        at -= width * behind
        to -= width * (behind + ROWS)
        if i > 1:
            kept_at -= TILE * behind
            given, given_at, given_row, given_step = kept, kept_at, per_step, behind * per_step
        else:
            given, given_at, given_row, given_step = seen.array, seen.at, seen.row, seen.step
        of_weight(
            behind, given, given_at, given_row, given_step, g_paired, start, rows // per_step, width, per_step,
            learned, to, learned, start, learned, start, slope,
        )  # fmt: skip
        # The bias is the weight of an input that is always 1.
        of_weight(
            np.int64(ROWS), ones, start, start, start, g_paired, start, rows // per_step, width, per_step,
            learned, to + behind * width, learned, start, learned, start, slope,
        )  # fmt: skip
        if i > 1:
            backward(
                rows, g, start, width, per_step, weights, at, width // per_step, behind, per_step,
                other, start, other_paired, start, given, given_at, slope,
            )  # fmt: skip
        elif wanted:
            of_input(
                rows, g, start, width, per_step, weights, at, width // per_step, behind, per_step,
                other, start, other, start, g, start, slope,
            )  # fmt: skip
        g, other, g_paired, other_paired, width = other, g, other_paired, g_paired, behind
    return g
