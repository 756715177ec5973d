"""The levels of a hash grid, as numbers alone: those who evaluate fields without torch ask for them too."""

import math

PRIMES = (1, 2654435761, 805459861)
"""Of the hash grid's hash (Müller et al., ACM TOG 2022, eq. 4); products and exclusive or modulo 2³²."""


def levels_of(levels: int, log2_table: int, coarsest: int, finest: int) -> list[tuple[int, int, int]]:
    """Of each level: cells along a side, entries, and the first of its entries.

    Level l has ⌊coarsest · bˡ⌋ cells, b such that the last has `finest`; a level whose corners are at most
    2^`log2_table` has an entry for each.

    >>> levels_of(2, 6, 2, 9)
    [(2, 27, 0), (9, 64, 27)]
    """
    growth = math.exp(math.log(finest / coarsest) / max(levels - 1, 1))
    found, first = [], 0
    for level in range(levels):
        cells = math.floor(coarsest * growth**level + 1e-6)  # the hair keeps the last from losing a cell to rounding
        found.append((cells, min((cells + 1) ** 3, 1 << log2_table), first))
        first += found[-1][1]
    return found
