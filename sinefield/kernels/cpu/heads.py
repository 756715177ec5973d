# pyright: reportCallIssue=false
# numba gives what it compiles types of its own.
"""What becomes of what a step's network gives: outputs, or points' errors.

The definitions in torch: `nn.mlp.MLP.reference` and `nn.point_error.errors`.
"""

from typing import NamedTuple

import numba
import numpy as np

from sinefield.kernels.cpu.products import LANES, TILE, narrow
from sinefield.kernels.cpu.step import (
    back,
    forth,
    group_of,
    kept_for,
    lead,
    receive,
    share_of,
    way,
    work_for,
)
from sinefield.kernels.cpu.tiles import filled_up, give, take
from sinefield.kernels.inputs import ERRORS

TANH, L1, BCE, ASINH = (ERRORS.index(kind) for kind in ("tanh", "l1", "bce", "asinh"))
"""Errors of points, as `inputs.ERRORS` counts them; the last is the square."""
ONE, TWO = np.float32(1), np.float32(2)


class Outputs(NamedTuple):
    """Rows of the network's float32 outputs, and its hidden layers, tile by tile, where `keeps`."""

    out: np.ndarray
    kept: np.ndarray
    keeps: bool


class Slopes(NamedTuple):
    """Rows of gradients of the outputs, float32 or the bits of bf16, and what `Outputs` kept."""

    grad: np.ndarray
    kept: np.ndarray


class Points(NamedTuple):
    """What the network should say, row by row, and how far it is off: `kind` of error, with its sharpness."""

    targets: np.ndarray
    kind: int
    sharpness: np.float32


# What goes tile by tile.


@share_of.of(Outputs, Slopes, Points)
def _(head, n, part, parts):
    tiles = (n + TILE - 1) // TILE
    return tiles * part // parts, tiles * (part + 1) // parts, np.int64(TILE)


@group_of.of(Outputs, Slopes, Points)
def _(head, n, unit, end):
    return unit * TILE, min(TILE, n - unit * TILE), unit + 1


@work_for.of(Outputs, Slopes, Points)
def _(head, part, most):
    return None


# Outputs, and gradients that come from outside: what is kept between them holds all rows.


@kept_for.of(Outputs)
def _(head, size, like):
    return head.kept, head.keeps, True


@kept_for.of(Slopes)
def _(head, size, like):
    return head.kept, True, True


@way(Outputs)
def _(head, unit, group, source, net, memory, learned, of_x, loss):
    return forth(head, group, source, net, memory, loss)


@way(Slopes)
def _(head, unit, group, source, net, memory, learned, of_x, loss):
    back(head, group, source, net, memory, learned, of_x)
    return loss


@receive.of(Outputs)
def _(head, at, t, rows, net, room, work, loss):
    n_out = net.sizes[-1]
    give(room.result, filled_up(n_out), rows, head.out, at * n_out, n_out)
    return loss


@lead.of(Slopes)
def _(head, at, t, rows, net, room, work):
    n_out = net.sizes[-1]
    take(head.grad, at * n_out, n_out, rows, room.even, filled_up(n_out))


# Points' errors, a tile at a time: its gradient is there as soon as its outputs are.


@kept_for.of(Points)
def _(head, size, like):
    return np.empty(size, like.dtype), True, False


@way(Points)
def _(head, unit, group, source, net, memory, learned, of_x, loss):
    loss = forth(head, group, source, net, memory, loss)
    back(head, group, source, net, memory, learned, of_x)
    return loss


@receive.of(Points)
def _(head, at, t, rows, net, room, work, loss):
    n_out, result = net.sizes[-1], room.result
    last = filled_up(n_out)
    for q in range(TILE):
        for c in range(last):
            rise = np.float32(0)
            if q < rows and c < n_out:
                raw, value = result[q * last + c], head.targets[(at + q) * n_out + c]
                error, rise = _error(raw, value, head.kind, head.sharpness)
                loss += np.float64(error)
            result[q * last + c] = rise
    return loss


@lead.of(Points)
def _(head, at, t, rows, net, room, work):
    for j in range(0, TILE * filled_up(net.sizes[-1]), LANES):
        narrow(room.result, j, room.even, j)


@numba.njit(error_model="numpy")
def _tanh(x):
    return ONE - TWO / (np.exp(TWO * x) + ONE)


@numba.njit(error_model="numpy")
def _asinh(x):
    """By the magnitude, so that no digits are lost where x is far below 0."""
    away = abs(x)
    return _sign(x) * np.log(away + np.sqrt(ONE + away * away))


@numba.njit(error_model="numpy")
def _sign(x):
    return np.float32(x > 0) - np.float32(x < 0) if x == x else x


@numba.njit(error_model="numpy")
def _error(raw, value, kind, sharpness):
    """Error of one number, and its slope."""
    if kind == TANH:
        bent = _tanh(raw * sharpness)
        difference = bent - _tanh(value * sharpness)
        return abs(difference), _sign(difference) * (ONE - bent * bent) * sharpness
    if kind == L1:
        scaled = raw * sharpness
        cut = -ONE if scaled < -ONE else (ONE if scaled > ONE else scaled)
        difference = cut - min(max(value * sharpness, -ONE), ONE)
        return abs(difference), _sign(difference) * (sharpness if abs(scaled) <= ONE else np.float32(0))
    if kind == ASINH:
        scaled = raw * sharpness
        difference = _asinh(scaled) - _asinh(value * sharpness)
        return abs(difference), _sign(difference) * sharpness / np.sqrt(ONE + scaled * scaled)
    if kind == BCE:
        small = np.exp(-abs(raw))
        share = ONE / (ONE + small) if raw >= 0 else small / (ONE + small)
        return max(raw, np.float32(0)) - raw * value + np.log1p(small), share - value
    difference = raw - value
    return difference * difference, TWO * difference
