"""The compiled step: a source of rows, through networks tile by tile, to a head.

A source hands a tile's rows to the network: rows that lie in memory (`sources.Rows`), or samples along rays, which it
encodes (`sources.Along`). A head takes what the network gives (`heads`): it stores it (`Outputs`), or makes an error
and its gradient of it (`Points`, `Pixels`), or brings the gradient along (`Slopes`). What is between the two is here
once: rows go forward and back in groups that the head chooses, so that what a group keeps is met again in the cache.
Rows are cut into slices, which threads share; each slice adds to gradients of its own (`slices`), so that no sum
depends on a race, nor on how many threads there are.

Numba compiles `step` for each pair of source and head, from the functions that `varied` has for their kinds. Literals
are never passed on: a function is compiled anew for each that it is given.
"""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.extending import overload

from sinefield.kernels.cpu.marks import check_done
from sinefield.kernels.cpu.products import ROWS, TILE
from sinefield.kernels.cpu.tiles import Net, Room, filled_up, give, room_for, tile_backward, tile_forward, widths


def varied(function: Callable) -> Callable:
    """A compiled function that is another for each kind of named tuple that it is given first; `of` adds one."""
    known: dict[type, Callable] = {}

    @overload(function, jit_options={"error_model": "numpy"}, strict=False)
    def pick(given, *others):
        return known[given.instance_class]

    def of(*kinds: type) -> Callable:
        def add(one: Callable) -> Callable:
            named(one, function.__name__)
            known.update(dict.fromkeys(kinds, one))
            return one

        return add

    function.of = of  # type: ignore[attr-defined]
    return function


def named(function: Callable, name: str) -> Callable:
    """The function under a name of its own.

    Compiled functions of one name and the same types of arguments are told apart by a number that counts from 1 in each
    process: two that come from the caches of two processes can be taken for one another.
    """
    function.__name__ = function.__qualname__ = name
    return function


@varied
def count(source, net):
    """How many rows there are."""


@varied
def sight_for(source, net, most):
    """Memory that a source needs for groups of up to `most` rows."""


@varied
def rows_of(source, net, at, t, rows, sight):
    """`rows` rows from the `at`th on, the `t`th of their group, as a `Block` of rows."""


@varied
def columns_of(source, net, at, t, rows, sight):
    """The same rows again as a `Block` of columns."""


@varied
def share_of(head, n, part, parts):
    """A slice's units, tiles or rays, of `n` rows in all: the first, the first of the next slice's, and the rows of
    the largest group."""


@varied
def group_of(head, n, unit, end):
    """The group that begins with a unit: its first row, how many there are, and the first unit behind it."""


@varied
def work_for(head, part, most):
    """Memory that a head needs for groups of up to `most` rows."""


@varied
def kept_for(head, size, like):
    """Where hidden layers are left, whether they are, and whether there is room for all rows or for a group's."""


@varied
def receive(head, at, t, rows, net, room, work, loss):
    """Take what the network gave for a tile, and return the loss with what it adds."""


@varied
def lead(head, at, t, rows, net, room, work):
    """Put the gradient of a tile's output where `tile_backward` takes it from."""


class Memory(NamedTuple):
    """What a slice's thread writes to: of the source, the head and the network; and the hidden layers that are kept."""

    sight: NamedTuple
    work: NamedTuple
    room: Room
    kept: np.ndarray
    keeps: bool
    keeps_all: bool


@numba.njit(error_model="numpy", inline="always")
def forth(head, group, source, net, memory, loss):
    """A group's rows through the network to the head, tile by tile."""
    first, m, _ = group
    hidden, begin = widths(net.sizes)[0], first if memory.keeps_all else 0
    for t in range(0, m, TILE):
        rows = min(TILE, m - t)
        given = rows_of(source, net, first + t, t, rows, memory.sight)
        tile_forward(whole(rows), given, net, memory.keeps, memory.kept, (begin + t) * hidden, memory.room)
        loss = receive(head, first + t, t, rows, net, memory.room, memory.work, loss)
    return loss


@numba.njit(error_model="numpy", inline="always")
def back(head, group, source, net, memory, learned, of_x):
    """The gradients of a group's outputs through the network, to its matrices and to the source's rows."""
    first, m, _ = group
    hidden, begin, n_in = widths(net.sizes)[0], first if memory.keeps_all else 0, net.sizes[0]
    for t in range(0, m, TILE):
        at, rows = first + t, min(TILE, m - t)
        lead(head, at, t, rows, net, memory.room, memory.work)
        seen, kept_end = columns_of(source, net, at, t, rows, memory.sight), (begin + t + TILE) * hidden
        g = tile_backward(whole(rows), seen, net, memory.kept, kept_end, learned, len(of_x) > 0, memory.room)
        if len(of_x):
            give(g, filled_up(n_in), rows, of_x, at * n_in, n_in)


@numba.njit(error_model="numpy")
def whole(rows):
    """The next multiple of ROWS."""
    return (rows + ROWS - 1) // ROWS * ROWS


@varied
def share(head, part, parts, source, net, learned, of_x):
    """One slice's groups, one after another; returns the loss."""


def way(head: type) -> Callable:
    """Register how a group of a head's goes: `forth`, `back`, or both, and what is between; it returns the loss.

    It is inlined, as `forth` and `back` are: all that a function calls is optimised once more with it, level by level.
    """

    def add(function: Callable) -> Callable:
        go = numba.njit(error_model="numpy", inline="always")(named(function, f"way_{head.__name__}"))

        @share.of(head)
        def _(head, part, parts, source, net, learned, of_x):
            n = count(source, net)
            unit, end, most = share_of(head, n, part, parts)
            kept, keeps, keeps_all = kept_for(head, most * widths(net.sizes)[0], net.forth)
            sight, work, room = sight_for(source, net, most), work_for(head, part, most), room_for(net)
            memory, loss = Memory(sight, work, room, kept, keeps, keeps_all), 0.0
            while unit < end:
                group = group_of(head, n, unit, end)
                loss = go(head, unit, group, source, net, memory, learned, of_x, loss)
                unit = group[2]
            return loss

        return function

    return add


def compiled(Source: type, Head: type) -> Callable[..., Any]:
    """The step of a source and a head.

    Its arguments are the fields of the source, of the network (`tiles.Net`), and of the head as plain tuples, which is
    what parallel loops pass on; `learned`, zeros (slices, …) that each slice adds its gradients to, as
    `tile_backward` says; and `of_x`, the gradient of the source's rows, or empty where it is not asked for. It returns
    the loss.
    """
    number = written()

    def step(source, net, head, learned, of_x):
        parts = len(learned)
        losses, done, total = np.zeros(parts), np.zeros(parts, np.uint8), 0.0
        for part in numba.prange(parts):
            losses[part] = share(Head(*head), np.int64(part), parts, Source(*source), Net(*net), learned[part], of_x)
            done[part] = 1
        check_done(done)
        for part in range(parts):
            total += losses[part]
        return total if number else 0.0

    named(step, f"step_{Source.__name__}_{Head.__name__}")
    return numba.njit(cache=True, error_model="numpy", parallel=True, nogil=True)(step)


def written() -> int:
    """A number of what the files say that a step is made of.

    A step that uses it is compiled anew when one of them changes; numba by itself looks at this file only.
    """
    return 1 + zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))
