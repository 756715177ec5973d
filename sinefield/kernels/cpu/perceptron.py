# pyright: reportArgumentType=false, reportCallIssue=false
# numba gives what it compiles types of its own.
"""A frequency encoding and a perceptron with any activation on a tile of points: the value of one output and its
gradient with respect to the points, float32, without torch.

The twin of `plain.network.PlainNetwork`. Layers are the products of `products`; activations are loops over what lies in
the first cache.
"""

from typing import NamedTuple

import numba
import numpy as np

from sinefield.kernels.cpu.products import LANES, TILE, forward, of_input, of_weight, output
from sinefield.kernels.cpu.turns import falls, turns

RECTIFIED, GAUSSIAN, SINE, SOFTPLUS = range(4)


class Perceptron(NamedTuple):
    """A network's numbers; widths are filled up to multiples of `LANES` with zeros.

    Attributes:
        sizes: of the input and of every layer.
        skipped: for each layer 1 where the input is appended to what it sees.
        octaves: of the encoding.
        forth: of each layer (in, out filled up), the appended input's rows after the hidden state's.
        biases: of each layer, filled up.
        back: of each hidden layer (out, in filled up), the appended input's columns in a block of their own after it;
            of the last layer its one row.
        kind: of activation; `bend` is what it needs: the slope below 0, −1 / (2 σ²), ω₀ or β.
    """

    sizes: np.ndarray
    skipped: np.ndarray
    octaves: int
    forth: np.ndarray
    biases: np.ndarray
    back: np.ndarray
    kind: int
    bend: np.float32


class PerceptronRoom(NamedTuple):
    """What a tile writes to: the encoding, two hidden states, slopes of all layers, waves by octave, and scratch."""

    seen: np.ndarray
    even: np.ndarray
    odd: np.ndarray
    slopes: np.ndarray
    waves: np.ndarray
    angles: np.ndarray
    bits: np.ndarray


def lay_out(
    matrices: list[np.ndarray], biases: list[np.ndarray], skips: frozenset[int], octaves: int, kind: int, bend: float
) -> Perceptron:
    """Matrices (out, in) as the tiles take them; of the last layer its first row alone."""
    matrices, biases = [*matrices[:-1], matrices[-1][:1]], [*biases[:-1], biases[-1][:1]]
    sizes = [matrices[0].shape[1], *(len(m) for m in matrices)]
    forth, back, lifted = [], [], []
    for i, (matrix, bias) in enumerate(zip(matrices, biases, strict=True)):
        wide = _up(len(matrix))
        forth.append(_grown(matrix.T, matrix.shape[1], wide))
        lifted.append(np.pad(bias, (0, wide - len(bias))))
        hidden = sizes[i] if i else 0
        if i:
            back.append(_grown(matrix[:, :hidden], len(matrix), _up(hidden)))
        if i == 0 or i in skips:
            back.append(_grown(matrix[:, hidden:], len(matrix), _up(sizes[0])))
    flat = [np.concatenate([x.ravel() for x in some]).astype(np.float32) for some in (forth, lifted, back)]
    skipped = np.array([int(i in skips and i > 0) for i in range(len(matrices))], np.int64)
    return Perceptron(np.array(sizes, np.int64), skipped, octaves, *flat, kind, np.float32(bend))


def _up(size: int) -> int:
    return -(-size // LANES) * LANES


def _grown(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
    out = np.zeros((rows, columns), np.float32)
    out[: x.shape[0], : x.shape[1]] = x
    return out


@numba.njit(error_model="numpy")
def _filled(size):
    return (size + LANES - 1) // LANES * LANES


@numba.njit(error_model="numpy")
def perceptron_room(net):
    """Memory for a tile."""
    widest, hidden = _filled(net.sizes[0]), 0
    for i in range(1, len(net.sizes)):
        widest = max(widest, _filled(net.sizes[i]))
        hidden += _filled(net.sizes[i])
    size = TILE * widest + LANES
    waves = np.empty(6 * TILE * net.octaves, np.float32)
    return PerceptronRoom(
        np.zeros(TILE * _filled(net.sizes[0]) + LANES, np.float32), np.zeros(size, np.float32),
        np.zeros(size, np.float32), np.empty(TILE * hidden, np.float32), waves, np.empty(size, np.float32),
        np.empty(size, np.int32),
    )  # fmt: skip


@numba.njit(error_model="numpy")
def encode_tile(rows, x, net, room):
    """The encoding of points x[axis · TILE + row] into rows of `seen`."""
    wide, waves, angles, seen = _filled(net.sizes[0]), room.waves, room.angles, room.seen
    for r in range(rows):
        for a in range(3):
            seen[r * wide + a] = x[a * TILE + r]
    size, scale = 3 * TILE, np.float32(1)
    for o in range(net.octaves):
        for j in range(size):
            angles[j] = x[j] * scale
        at = 2 * o * size
        turns(angles[:size], waves[at : at + size], waves[at + size : at + 2 * size])
        for r in range(rows):
            to = r * wide + 3 + 3 * o
            for a in range(3):
                seen[to + a] = waves[at + a * TILE + r]
                seen[to + 3 * net.octaves + a] = waves[at + size + a * TILE + r]
        scale *= np.float32(2)


@numba.njit(error_model="numpy")
def _bend(size, z, slopes, wanted, net, room):
    """The activation in place, for all kinds but rectifiers, and its derivative where that is wanted."""
    a, bits, b = room.angles[:size], room.bits[:size], net.bend
    if net.kind == GAUSSIAN:
        for j in range(size):
            a[j] = b * z[j] * z[j]
        if wanted:
            for j in range(size):
                slopes[j] = np.float32(2) * b * z[j]
        falls(a, z, bits)
        if wanted:
            for j in range(size):
                slopes[j] *= z[j]
    elif net.kind == SINE:
        turn = b * np.float32(1 / np.pi)
        for j in range(size):
            a[j] = turn * z[j]
        cosines = bits.view(np.float32)
        turns(a, z, cosines)
        if wanted:
            for j in range(size):
                slopes[j] = b * cosines[j]
    else:
        falling = slopes if wanted else room.angles[:size]
        for j in range(size):
            a[j] = -b * abs(z[j])
        falls(a, falling, bits)
        for j in range(size):
            e, x = falling[j], z[j]
            q = e / (np.float32(2) + e)  # log(1 + e) = 2 artanh q, q ≤ 1/3
            q2 = q * q
            log = q * (np.float32(2) + q2 * (np.float32(2 / 3) + q2 * (np.float32(2 / 5) + q2 * (np.float32(2 / 7)
                + q2 * (np.float32(2 / 9) + q2 * (np.float32(2 / 11) + q2 * np.float32(2 / 13)))))))  # fmt: skip
            z[j] = max(x, np.float32(0)) + log / b
            if wanted:
                slopes[j] = (np.float32(1) if x > 0 else e) / (np.float32(1) + e)


@numba.njit(error_model="numpy")
def evaluate_tile(rows, x, net, room, values, gradients, wanted):
    """Values of `rows` points, at most `TILE`; x[axis · TILE + row]; and gradients[axis · TILE + row] where wanted."""
    encode_tile(rows, x, net, room)
    n = (rows + 3) // 4 * 4  # whole blocks of a product
    sizes, zero, one = net.sizes, np.int64(0), np.int64(1)
    layers, seen_wide = len(sizes) - 1, _filled(sizes[0])
    source, wide, at, bias_at, kept = room.seen, seen_wide, zero, zero, 0
    for i in range(layers):
        target = room.even if i % 2 == 0 else room.odd
        following = _filled(sizes[i + 1])
        bent = i + 1 < layers and net.kind == RECTIFIED and net.skipped[i] == 0
        if bent:
            forward(n, source, zero, wide, one, net.forth, at, sizes[i], following, one,
                    target, zero, target, zero, net.biases, bias_at, net.bend)  # fmt: skip
        else:
            output(n, source, zero, wide, one, net.forth, at, sizes[i], following, one,
                   target, zero, target, zero, net.biases, bias_at, net.bend)  # fmt: skip
        at += sizes[i] * following
        if net.skipped[i] == 1:
            of_weight(n, room.seen, zero, seen_wide, one, net.forth, at, sizes[0], following, one,
                      target, zero, target, zero, net.biases, bias_at, net.bend)  # fmt: skip
            at += sizes[0] * following
        bias_at += following
        if i + 1 < layers:
            size = n * following
            if net.kind != RECTIFIED:
                _bend(size, target, room.slopes[kept : kept + size], wanted, net, room)
            elif not bent:
                for j in range(size):
                    target[j] = target[j] if target[j] > 0 else net.bend * target[j]
            if wanted and net.kind == RECTIFIED:
                for j in range(size):
                    room.slopes[kept + j] = np.float32(1) if target[j] > 0 else net.bend
            kept += TILE * following
        source, wide = target, following
    for r in range(rows):
        values[r] = source[r * wide]
    if wanted:
        _descend(rows, n, net, room, kept, gradients)


@numba.njit(error_model="numpy")
def _descend(rows, n, net, room, kept, gradients):
    """Back through the layers; what the encoding receives gathers in `seen`, which is not needed any more."""
    sizes, zero, one = net.sizes, np.int64(0), np.int64(1)
    layers, seen_wide = len(sizes) - 1, _filled(sizes[0])
    for j in range(n * seen_wide):
        room.seen[j] = np.float32(0)
    back = len(net.back)
    g, other, wide = room.even, room.odd, _filled(sizes[layers - 1])
    back -= wide
    kept -= TILE * wide
    for r in range(n):
        for j in range(wide):
            g[r * wide + j] = net.back[back + j] * room.slopes[kept + r * wide + j]
    for i in range(layers - 2, -1, -1):
        if i == 0 or net.skipped[i] == 1:
            back -= sizes[i + 1] * seen_wide
            of_weight(n, g, zero, wide, one, net.back, back, sizes[i + 1], seen_wide, one,
                      room.seen, zero, room.seen, zero, net.biases, zero, net.bend)  # fmt: skip
        if i > 0:
            before = _filled(sizes[i])
            back -= sizes[i + 1] * before
            of_input(n, g, zero, wide, one, net.back, back, sizes[i + 1], before, one,
                     other, zero, other, zero, net.biases, zero, net.bend)  # fmt: skip
            kept -= TILE * before
            for j in range(n * before):
                other[j] *= room.slopes[kept + j]
            g, other, wide = other, g, before
    size = 3 * TILE
    for a in range(3):
        for r in range(rows):
            total, scale = room.seen[r * seen_wide + a], np.float32(np.pi)
            for o in range(net.octaves):
                at, to = 2 * o * size + a * TILE + r, r * seen_wide + 3 + 3 * o + a
                total += scale * (
                    room.seen[to] * room.waves[at + size] - room.seen[to + 3 * net.octaves] * room.waves[at]
                )
                scale *= np.float32(2)
            gradients[a * TILE + r] = total
