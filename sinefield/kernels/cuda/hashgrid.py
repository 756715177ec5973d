"""`HashGrid.reference` with all levels and corners in one lookup: some 20 kernels on a GPU instead of thousands."""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from sinefield.kernels.inputs import Levels
from sinefield.kernels.levels import PRIMES


@cache
def _corners(device: torch.device) -> Tensor:
    """The eight corners of a cell."""
    return torch.tensor([[c & 1, c >> 1 & 1, c >> 2 & 1] for c in range(8)], device=device)


def hashgrid(x: Float[Tensor, "n 3"], table: Float[Tensor, "entries f"], levels: Levels) -> Float[Tensor, "n e"]:
    """Interpolated features of points, float32; differentiable by torch."""
    corners, n = _corners(x.device), levels.resolutions[:, None]
    unit = (x.float() * 0.5 + 0.5).clamp(0, 1)
    position = unit[:, None] * n
    cell = torch.minimum(position.detach().long(), n - 1)
    part = position - cell
    i, j, k = (cell[:, :, None] + corners).unbind(-1)
    hashed = ((i * PRIMES[0]) ^ (j * PRIMES[1]) ^ (k * PRIMES[2])) & (levels.sizes[:, None] - 1)
    entry = torch.where(levels.sizes[:, None] == (n + 1) ** 3, (i * (n + 1) + j) * (n + 1) + k, hashed)
    entry = entry + levels.offsets[:, None]
    weight = torch.where(corners.bool(), part[:, :, None], 1 - part[:, :, None]).prod(-1)
    found = table.index_select(0, entry.flatten()).view(*entry.shape, table.shape[1])
    return (weight[..., None] * found).sum(2).flatten(1)
