"""Multi-resolution hash encoding: fast to train, large to store (Müller et al., ACM TOG 2022, §3)."""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sinefield.kernels.cpu.hashgrid import look_up, scatter

PRIMES = (1, 2654435761, 805459861)
"""Müller et al., eq. 4; products and exclusive or modulo 2³²."""
FEATURES = 2
START = 1e-4


class HashGrid(nn.Module):
    """Features at the corners of grids of growing resolution, interpolated; `levels` × 2 channels.

    Level l has ⌊coarsest · bˡ⌋ cells along each side of [−1, 1]³, b such that the last has `finest`. A level whose
    corners fit into 2^`log2_table` entries has one for each, others share entries by a hash. Points outside the box are
    moved to its wall.

    On the CPU compiled loops on several threads, the same sums in the same order whatever their number; for gradients
    of the coordinates the plain torch of `reference`; elsewhere `at_once`, or `accelerated` where that was set.

    Attributes:
        table: (entries, 2), starts uniform in ±1e-4.
        levels: cells along each side, entries, and first entry of each level.
        accelerated: called with points and table in place of `at_once`; see nn.tcnn.
    """

    def __init__(self, levels: int, log2_table: int, coarsest: int, finest: int) -> None:
        super().__init__()
        growth = math.exp(math.log(finest / coarsest) / max(levels - 1, 1))
        # The hair keeps the last level from losing a cell to rounding.
        resolutions = [math.floor(coarsest * growth**level + 1e-6) for level in range(levels)]
        sizes = [min((n + 1) ** 3, 1 << log2_table) for n in resolutions]
        offsets = [0, *np.cumsum(sizes)[:-1].tolist()]
        self.out_features = FEATURES * levels
        self.dtype = torch.float32
        self.accelerated: Callable[[Tensor, Tensor], Tensor] | None = None
        self.register_buffer("resolutions", torch.tensor(resolutions), persistent=False)
        self.register_buffer("sizes", torch.tensor(sizes), persistent=False)
        self.register_buffer("offsets", torch.tensor(offsets), persistent=False)
        corners = [[c & 1, c >> 1 & 1, c >> 2 & 1] for c in range(8)]
        self.register_buffer("corners", torch.tensor(corners), persistent=False)
        # On the host too: to ask a GPU for them is to wait for it.
        self.levels = list(zip(resolutions, sizes, offsets, strict=True))
        self.table = nn.Parameter(torch.empty(sum(sizes), FEATURES).uniform_(-START, START))

    def forward(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n e"]:
        x = x.float()
        if x.requires_grad:
            return self.reference(x).to(self.dtype)
        if self.accelerated is not None:
            return self.accelerated(x, self.table)  # float32, so that no gradient passes through fp16 unscaled
        if x.device.type != "cpu":
            return self.at_once(x).to(self.dtype)
        return _Lookup.apply(x, self.table, self.resolutions, self.sizes, self.offsets).to(self.dtype)

    def reference(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n e"]:
        """The encoding in plain torch, on any device, float32."""
        parts = []
        unit = (x.float() * 0.5 + 0.5).clamp(0, 1)
        for n, size, offset in self.levels:
            position = unit * n
            cell = position.detach().floor().clamp(max=n - 1)
            part = position - cell
            cell = cell.long()
            total = 0.0
            for corner in range(8):
                up = self.corners[corner]
                weight = torch.where(up.bool(), part, 1 - part).prod(1)
                i, j, k = (cell + up).unbind(1)
                if size == (n + 1) ** 3:
                    entry = (i * (n + 1) + j) * (n + 1) + k
                else:
                    entry = ((i * PRIMES[0]) ^ (j * PRIMES[1]) ^ (k * PRIMES[2])) & (size - 1)
                total = total + weight[:, None] * self.table[offset + entry]
            parts.append(total)
        return torch.cat(parts, dim=1)

    def at_once(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n e"]:
        """`reference` with all levels and corners in one lookup: some 20 kernels on a GPU instead of thousands."""
        n = self.resolutions[:, None]
        unit = (x.float() * 0.5 + 0.5).clamp(0, 1)
        position = unit[:, None] * n
        cell = torch.minimum(position.detach().long(), n - 1)
        part = position - cell
        i, j, k = (cell[:, :, None] + self.corners).unbind(-1)
        hashed = ((i * PRIMES[0]) ^ (j * PRIMES[1]) ^ (k * PRIMES[2])) & (self.sizes[:, None] - 1)
        entry = torch.where(self.sizes[:, None] == (n + 1) ** 3, (i * (n + 1) + j) * (n + 1) + k, hashed)
        entry = entry + self.offsets[:, None]
        weight = torch.where(self.corners.bool(), part[:, :, None], 1 - part[:, :, None]).prod(-1)
        found = self.table.index_select(0, entry.flatten()).view(*entry.shape, FEATURES)
        return (weight[..., None] * found).sum(2).flatten(1)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, table, resolutions, sizes, offsets):
        arrays = [v.detach().contiguous().numpy() for v in (x, resolutions, sizes, offsets)]
        ctx.arrays, ctx.entries = arrays, len(table)
        return torch.from_numpy(look_up(arrays[0], table.detach().numpy(), *arrays[1:]))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, *levels = ctx.arrays
        found = scatter(x, grad.detach().contiguous().numpy(), *levels, ctx.entries)
        return None, torch.from_numpy(found), None, None, None
