# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
# numba gives what it compiles types of its own.
"""Where a step's rows come from: memory, or samples along rays, whose frequency encoding is made as they go by."""

from typing import NamedTuple

import numba
import numpy as np

from sinefield.kernels.cpu.products import LANES, TILE, two_columns
from sinefield.kernels.cpu.step import columns_of, count, rows_of, sight_for
from sinefield.kernels.cpu.tiles import Block, filled_up, pair, per_step_of, take
from sinefield.kernels.cpu.turns import turns


class Rows(NamedTuple):
    """Rows one after another, float32 or the bits of bf16."""

    x: np.ndarray


class RowsSight(NamedTuple):
    taken: np.ndarray
    columns: np.ndarray


@count.of(Rows)
def _(source, net):
    return len(source.x) // net.sizes[0]


@sight_for.of(Rows)
def _(source, net, most):
    size = TILE * filled_up(net.sizes[0])
    return RowsSight(np.empty(size, source.x.dtype), np.empty(size, source.x.dtype))


@rows_of.of(Rows)
def _rows(source, net, at, t, rows, sight):
    x, n_in, per_step = source.x, net.sizes[0], np.int64(per_step_of(source.x))
    if (at + TILE) * n_in < len(x):
        return Block(x, at * n_in, n_in, per_step)
    take(x, at * n_in, n_in, rows, sight.taken, filled_up(n_in))  # what is read beyond the last row is not ours
    return Block(sight.taken, np.int64(0), filled_up(n_in), per_step)


@columns_of.of(Rows)
def _(source, net, at, t, rows, sight):
    width, per_step = filled_up(net.sizes[0]), np.int64(per_step_of(source.x))
    given = rows_of(source, net, at, t, rows, sight)
    pair(net.sizes[0], given.array, given.at, given.row, sight.columns, width)
    return Block(sight.columns, np.int64(0), per_step, width * per_step)


class Along(NamedTuple):
    """The middles of samples on rays, moved by `centre`, scaled by `inverse_half`, and encoded in so many octaves.

    The columns of the encoding are x, y, z, 0, then the sine and the cosine of octave 0 of x, of y, …
    """

    rays_o: np.ndarray
    rays_d: np.ndarray
    centre: np.ndarray
    inverse_half: np.float32
    octaves: int
    t_starts: np.ndarray
    t_ends: np.ndarray
    ray_indices: np.ndarray


class AlongSight(NamedTuple):
    """`columns`: of a group's encodings, tile after tile; `stepped`: a tile's as products step through its rows;
    `places`: coordinates of a tile's rows, axis by axis, and zeros for one axis more; `waves`: three times as many."""

    columns: np.ndarray
    stepped: np.ndarray
    places: np.ndarray
    waves: np.ndarray


@count.of(Along)
def _(source, net):
    return len(source.t_starts)


@sight_for.of(Along)
def _(source, net, most):
    width, kind = filled_up(net.sizes[0]), net.forth.dtype
    # Zeros: rows that fill up a block are multiplied, though with zeros only.
    columns, stepped = np.zeros(most * width, kind), np.zeros(TILE * width, kind)
    return AlongSight(columns, stepped, np.zeros(4 * TILE, np.float32), np.empty(12 * TILE, np.float32))


@rows_of.of(Along)
def _(source, net, at, t, rows, sight):
    places, per_step = sight.places, np.int64(per_step_of(sight.stepped))
    for q in range(rows):
        s = at + q
        k, middle = source.ray_indices[s], (source.t_starts[s] + source.t_ends[s]) * np.float32(0.5)
        for a in range(3):
            place = source.rays_o[k, a] + middle * source.rays_d[k, a]
            places[a * TILE + q] = (place - source.centre[a]) * source.inverse_half
    _encode(source.octaves, sight, t * filled_up(net.sizes[0]))
    return Block(sight.stepped, np.int64(0), per_step, per_step * TILE)


@columns_of.of(Along)
def _(source, net, at, t, rows, sight):
    step = np.int64(per_step_of(sight.columns))
    return Block(sight.columns, t * filled_up(net.sizes[0]), np.int64(TILE), step)


@numba.njit(error_model="numpy")
def _encode(octaves, sight, tile_at):
    """The encoding of a tile's `places`, into `columns` from `tile_at` on and into `stepped`."""
    target, stepped, places = sight.columns, sight.stepped, sight.places
    size, per_step = 4 * TILE, per_step_of(target)
    sines, cosines, angles = sight.waves[:size], sight.waves[size : 2 * size], sight.waves[2 * size :]
    for at in range(0, size, 2 * TILE):
        for r in range(0, TILE, LANES):
            two_columns(places, at + r, places, at + TILE + r, target, tile_at + at + r, stepped, at + per_step * r)
    at = size
    for i in range(octaves):
        if i % 4 == 0:  # exact again, before errors that double with each octave show
            scale = np.float32(2.0**i)
            for j in range(size):
                angles[j] = places[j] * scale
            turns(angles, sines, cosines)
        else:
            for j in range(size):
                sine, cosine = sines[j], cosines[j]
                sines[j] = np.float32(2) * sine * cosine
                cosines[j] = np.float32(1) - np.float32(2) * sine * sine
        for j in range(0, 3 * TILE, TILE):
            for r in range(0, TILE, LANES):
                two_columns(sines, j + r, cosines, j + r, target, tile_at + at + r, stepped, at + per_step * r)
            at += 2 * TILE
