"""Whether every turn of a parallel loop came to its end.

numba drops what a turn raises, and goes on with the next thread's turns: a turn that lacked memory would leave its part
of the result as it was, and nobody would know. So loops whose turns take memory mark each turn that is done.
"""

import numba


@numba.njit(cache=True)
def check_done(done):
    """Refuse a result of which a part is missing.

    Args:
        done: uint8, one a turn, 1 where it came to its end.

    Raises:
        MemoryError: a mark is missing. Nothing else is raised in these loops.
    """
    for mark in done:
        if not mark:
            raise MemoryError("not enough memory for a part of the work")
