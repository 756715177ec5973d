"""Into how many slices a step's rows go, and the sum of what the slices learned.

Each slice adds to gradients of its own, and these are added up in the order of the slices. How many there are depends
on the work alone: a sum is the same to the bit, however many threads share the slices.
"""

import numba
import torch
from jaxtyping import Float
from torch import Tensor

COUNTS = (24, 12, 6, 4, 2)
"""How many slices there may be, so that 2, 3, 4, 6 or more threads have equally many."""
LEAST = 1024
"""Rows of a slice at least: adding up its gradients then takes a small part of the time that it takes to make them."""
MOST = 1 << 26
"""Gradients of all slices together at most: 256 MB."""
BLOCK = 1024
"""Gradients that are added up at once, so that their sums stay in the first cache."""


def room_of_slices(rows: int, *learned: int) -> list[Tensor]:
    """Zeros (slices, …) for the gradients of networks that learn from `rows` rows; so many numbers each."""
    most = min(rows // LEAST, MOST // max(sum(learned), 1))
    slices = next((count for count in COUNTS if count <= most), 1)
    return [torch.zeros(slices, numbers) for numbers in learned]


def summed(parts: Float[Tensor, "slices n"]) -> Float[Tensor, "n"]:
    """The sum over the slices, the first first.

    >>> summed(torch.tensor([[1e8], [1.0], [-1e8]])).tolist()
    [0.0]
    """
    if len(parts) == 1:
        return parts[0]
    total = torch.empty_like(parts[0])
    add_up(parts.numpy(), total.numpy())
    return total


@numba.njit(cache=True, parallel=True, nogil=True)
def add_up(parts, total):
    slices, n = parts.shape
    for block in numba.prange((n + BLOCK - 1) // BLOCK):
        first, end = block * BLOCK, min(n, (block + 1) * BLOCK)
        for j in range(first, end):
            total[j] = parts[0, j]
        for s in range(1, slices):
            for j in range(first, end):
                total[j] += parts[s, j]
