# pyright: reportArgumentType=false, reportCallIssue=false
# numba gives what it compiles types of its own.
"""Which samples light reaches: rays walk through a network's density side by side until nothing is left of it.

A tile's rows are the next few samples of some rays; a ray that ends makes room for another. What a hash grid holds at
the samples is kept, since the step looks it up anyway. `render.ray_error.lit_reference` is the same in torch.
"""

from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sinefield.kernels.cpu.hashgrid import found_at
from sinefield.kernels.cpu.marks import check_done
from sinefield.kernels.cpu.network import SLOPES, LaidOut, flat, why_not
from sinefield.kernels.cpu.products import LANES, TILE, narrow
from sinefield.kernels.cpu.step import whole, written
from sinefield.kernels.cpu.tiles import Block, Net, filled_up, per_step_of, room_for, tile_forward
from sinefield.kernels.inputs import FlatSamples, Network, Places

__all__ = ["lit", "why_not"]

PARTS = 24
"""Parts that threads share; what is found is the same however many there are."""
RUN = 4
"""Samples of a ray that go together: they lie in the same cells of a grid, and few of them are in vain."""


class Cells(NamedTuple):
    """Points of a hash grid, the grid, and what is found there, (n, features)."""

    x: np.ndarray
    table: np.ndarray
    resolutions: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    found: np.ndarray


class Tile(NamedTuple):
    """A few points and what is found there, as the network takes it too; and room to look it up."""

    x: np.ndarray
    found: np.ndarray
    rows: np.ndarray
    entries: np.ndarray
    weights: np.ndarray


@numba.njit(error_model="numpy")
def _tile_for(cells, net):
    # A little more than a tile's features: whole vectors are read.
    found = np.zeros((TILE + LANES, cells.found.shape[1]), np.float32)
    rows = np.zeros(TILE * filled_up(net.sizes[0]), net.forth.dtype)
    entries, weights = np.empty((8, TILE), np.uint32), np.empty((8, TILE), np.float32)
    return Tile(np.zeros((TILE, 3), np.float32), found, rows, entries, weights)


@numba.njit(error_model="numpy")
def _put(cells, s, tile, q):
    """Make sample `s` the tile's `q`th row."""
    for a in range(3):
        tile.x[q, a] = cells.x[s, a]


@numba.njit(error_model="numpy")
def _looked_up(cells, tile, rows, net, start):
    """What the grid holds at the tile's rows, as a `Block`."""
    width, features, flat_found = filled_up(net.sizes[0]), tile.found.shape[1], tile.found.reshape(-1)
    for level in range(len(cells.resolutions)):
        n, size, offset = cells.resolutions[level], cells.sizes[level], cells.offsets[level]
        held = cells.table[offset : offset + size]
        found_at(tile.x, start, rows, n, size, held, level, tile.entries, tile.weights, tile.found)
    for q in range(rows):
        for j in range(0, features, LANES):  # what is too much is met by zeros
            narrow(flat_found, q * features + j, tile.rows, q * width + j)
    return Block(tile.rows, start, width, np.int64(per_step_of(tile.rows)))


@numba.njit(error_model="numpy")
def _walk_lit(cells, net, t_starts, t_ends, packed, ray, end, inverse_units, highest, enough, lit):
    """The rays from `ray` to before `end`."""
    tile, room, start = _tile_for(cells, net), room_for(net), np.int64(0)
    at, ends, depths = np.empty(TILE, np.int64), np.empty(TILE, np.int64), np.empty(TILE, np.float64)
    kept, last, walking = np.empty(0, net.forth.dtype), filled_up(net.sizes[-1]), 0
    keeps = len(kept) > 0
    while True:
        rows = 0
        for k in range(walking):
            for s in range(at[k], min(at[k] + RUN, ends[k])):
                _put(cells, s, tile, rows)
                rows += 1
        while ray < end and rows + min(RUN, packed[ray, 1]) <= TILE:
            first, count = packed[ray]
            ray += 1
            if count > 0:
                at[walking], ends[walking], depths[walking] = first, first + count, 0.0
                walking += 1
                for s in range(first, first + min(RUN, count)):
                    _put(cells, s, tile, rows)
                    rows += 1
        if rows == 0:
            break
        tile_forward(whole(rows), _looked_up(cells, tile, rows, net, start), net, keeps, kept, start, room)
        left = q = 0
        for k in range(walking):
            depth = depths[k]
            for s in range(at[k], min(at[k] + RUN, ends[k])):
                if depth < enough:
                    lit[s] = True
                    for j in range(cells.found.shape[1]):
                        cells.found[s, j] = tile.found[q, j]
                    raw = room.result[q * last]
                    sigma = np.exp(min(raw, highest)) * inverse_units[s if len(inverse_units) > 1 else 0]
                    depth += np.float64(sigma) * (t_ends[s] - t_starts[s])
                q += 1
            if at[k] + RUN < ends[k] and depth < enough:
                at[left], ends[left], depths[left] = at[k] + RUN, ends[k], depth
                left += 1
        walking = left


def _compiled() -> Callable[..., int]:
    number = written()  # with it, the kernel is compiled anew when a file changes that it is made of

    def light(cells, net, t_starts, t_ends, packed, inverse_units, highest, enough, lit):
        done, n = np.zeros(PARTS, np.uint8), len(packed)
        for part in numba.prange(PARTS):
            _walk_lit(
                Cells(*cells), Net(*net), t_starts, t_ends, packed, n * part // PARTS, n * (part + 1) // PARTS,
                inverse_units, highest, enough, lit,
            )  # fmt: skip
            done[part] = 1
        check_done(done)
        return number

    return numba.njit(cache=True, error_model="numpy", parallel=True, nogil=True)(light)


_light = _compiled()


def lit(
    seen: Places,
    samples: FlatSamples,
    trunk: Network,
    inverse_units: Float[Tensor, "m"],
    highest: float,
    enough: float,
) -> tuple[Bool[Tensor, "n_samples"], Float[Tensor, "n_samples e"]]:
    """Which samples an optical depth of less than `enough` lies before, and what the hash grid holds at these."""
    reached = np.zeros(len(samples.t_starts), np.bool_)
    found = torch.empty(len(seen.x), 2 * len(seen.levels.plain))
    levels = (v.numpy() for v in seen.levels[:3])
    cells = Cells(seen.x.contiguous().numpy(), seen.table.detach().numpy(), *levels, found.numpy())
    laid = LaidOut(found.shape[1], trunk.dtype, SLOPES[trunk.activation.name], (*trunk.matrices, *trunk.biases))
    rays = (x.numpy() for x in (samples.t_starts, samples.t_ends, samples.packed_info))
    units = flat(inverse_units.float())
    _light(tuple(cells), laid.net, *rays, units, np.float32(highest), float(enough), reached)
    return torch.from_numpy(reached), found
