"""The compiled step: a source of rows, through networks tile by tile, to a head.

A source hands a tile's rows to the network: rows that lie in memory (`sources.Rows`), or samples along rays, which it
encodes (`sources.Along`). A head takes what the network gives (`heads`): it stores it (`Outputs`), or makes an error
and its gradient of it (`Points`, `Pixels`), or brings the gradient along (`Slopes`). What is between the two is here
once: rows go forward and back in groups that the head chooses, so that what a group keeps is met again in the cache.
Each thread adds to gradients of its own, so that no sum depends on a race.

Numba compiles `step` for each pair of source and head, from the functions that `varied` has for their kinds. Literals
are never passed on: a function is compiled anew for each that it is given.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.extending import overload

from sinefield.kernels.cpu.products import ROWS, TILE
from sinefield.kernels.cpu.tiles import Net, filled_up, give, room_for, tile_backward, tile_forward, widths


def varied(function: Callable) -> Callable:
    """A compiled function that is another for each kind of named tuple that it is given first; `of` adds one."""
    known: dict[type, Callable] = {}

    @overload(function, jit_options={"error_model": "numpy"}, strict=False)
    def pick(given, *others):
        return known[given.instance_class]

    def of(*kinds: type) -> Callable:
        def add(one: Callable) -> Callable:
            known.update(dict.fromkeys(kinds, one))
            return one

        return add

    function.of = of  # type: ignore[attr-defined]
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
def share_of(head, n, thread, threads):
    """First of a thread's units, tiles or rays, and first of the next one's, of `n` rows in all."""


@varied
def most_of(head, unit, end):
    """Rows of the largest group."""


@varied
def group_of(head, n, unit, end):
    """The group that begins with a unit: its first row, how many there are, and the first unit behind it."""


@varied
def work_for(head, thread, most):
    """Memory that a head needs for groups of up to `most` rows."""


@varied
def kept_for(head, size, like):
    """Where hidden layers are left, and whether they are."""


@varied
def kept_row(head, at, t):
    """Which row of that a tile begins with."""


@varied
def receive(head, at, t, rows, net, room, work, loss):
    """Take what the network gave for a tile, and return the loss with what it adds."""


@varied
def settle(head, unit, end, at, work, loss):
    """Do what a group's outputs together allow; returns the loss with what that adds."""


@varied
def lead(head, at, t, rows, net, room, work):
    """Put the gradient of a tile's output where `tile_backward` takes it from."""


@varied
def ahead(head):
    """Whether rows go forward."""


@varied
def behind(head):
    """Whether gradients go back."""


@numba.njit(error_model="numpy")
def whole(rows):
    """The next multiple of ROWS."""
    return (rows + ROWS - 1) // ROWS * ROWS


@numba.njit(error_model="numpy")
def _share(thread, threads, source, net, head, learned, of_x):
    """One thread's groups, one after another, each forward and back."""
    n, n_in, hidden = count(source, net), net.sizes[0], widths(net.sizes)[0]
    unit, end = share_of(head, n, thread, threads)
    most = most_of(head, unit, end)
    sight, work, room = sight_for(source, net, most), work_for(head, thread, most), room_for(net)
    kept, keeps = kept_for(head, most * hidden, net.forth)
    loss, wanted = 0.0, len(of_x) > 0
    while unit < end:
        first, m, following = group_of(head, n, unit, end)
        if ahead(head):
            for t in range(0, m, TILE):
                at, rows = first + t, min(TILE, m - t)
                given = rows_of(source, net, at, t, rows, sight)
                tile_forward(whole(rows), given, net, keeps, kept, kept_row(head, at, t) * hidden, room)
                loss = receive(head, at, t, rows, net, room, work, loss)
            loss = settle(head, unit, following, first, work, loss)
        if behind(head):
            for t in range(0, m, TILE):
                at, rows = first + t, min(TILE, m - t)
                lead(head, at, t, rows, net, room, work)
                seen, kept_end = columns_of(source, net, at, t, rows, sight), (kept_row(head, at, t) + TILE) * hidden
                g = tile_backward(whole(rows), seen, net, kept, kept_end, learned, wanted, room)
                if wanted:
                    give(g, filled_up(n_in), rows, of_x, at * n_in, n_in)
        unit = following
    return loss


def compiled(Source: type, Head: type) -> Callable[..., Any]:
    """The step of a source and a head.

    Its arguments are the fields of the source, of the network (`tiles.Net`), and of the head as plain tuples, which is
    what parallel loops pass on; `learned`, zeros (threads, …) that each thread adds its gradients to, as
    `tile_backward` says; and `of_x`, the gradient of the source's rows, or empty where it is not asked for. It returns
    the loss.
    """
    written = _written()

    @numba.njit(cache=True, error_model="numpy", parallel=True, nogil=True)
    def step(source, net, head, learned, of_x):
        threads = len(learned)
        losses = np.zeros(threads)
        for thread in numba.prange(threads):
            losses[thread] = _share(
                np.int64(thread), threads, Source(*source), Net(*net), Head(*head), learned[thread], of_x
            )
        return losses.sum() if written else 0.0

    return step


def _written() -> int:
    """When the files that a step is made of were last written.

    A step that uses the number is compiled anew when one of them changes; numba by itself looks at this file only.
    """
    return max(path.stat().st_mtime_ns for path in Path(__file__).parent.glob("*.py"))
