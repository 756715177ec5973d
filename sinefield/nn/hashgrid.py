"""Multi-resolution hash encoding: fast to train, large to store (Müller et al., ACM TOG 2022, §3)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sinefield.kernels.choose import choose
from sinefield.kernels.inputs import Levels
from sinefield.kernels.levels import PRIMES, levels_of
from sinefield.nn.weights import drawn

FEATURES = 2
START = 1e-4


class HashGrid(nn.Module):
    """Features at the corners of grids of growing resolution, interpolated; `levels` × 2 channels.

    Level l has ⌊coarsest · bˡ⌋ cells along each side of [−1, 1]³, b such that the last has `finest`. A level whose
    corners fit into 2^`log2_table` entries has one for each, others share entries by a hash. Points outside the box are
    moved to its wall.

    Gradients of the coordinates come from the plain torch of `reference`.

    Attributes:
        table: (entries, 2), starts uniform in ±1e-4.
        levels: cells along each side, entries, and first entry of each level.
        backend: "tinycudann" where that is to look features up on CUDA.
    """

    resolutions: Tensor
    sizes: Tensor
    offsets: Tensor
    corners: Tensor

    def __init__(self, levels: int, log2_table: int, coarsest: int, finest: int) -> None:
        super().__init__()
        # On the host too: to ask a GPU for them is to wait for it.
        self.levels = levels_of(levels, log2_table, coarsest, finest)
        resolutions, sizes, offsets = zip(*self.levels, strict=True)
        self.out_features = FEATURES * levels
        self.dtype = torch.float32
        self.backend = "auto"
        self.register_buffer("resolutions", torch.tensor(resolutions), persistent=False)
        self.register_buffer("sizes", torch.tensor(sizes), persistent=False)
        self.register_buffer("offsets", torch.tensor(offsets), persistent=False)
        corners = [[c & 1, c >> 1 & 1, c >> 2 & 1] for c in range(8)]
        self.register_buffer("corners", torch.tensor(corners), persistent=False)
        self.table = nn.Parameter(drawn(torch.empty(sum(sizes), FEATURES), START))

    def forward(self, x: Float[Tensor, "n 3"], found: Float[Tensor, "n e"] | None = None) -> Float[Tensor, "n e"]:
        """The features of points; `found` are these, float32, where the caller has looked them up already."""
        x = x.float()
        if x.requires_grad:
            return self.reference(x).to(self.dtype)
        chosen = choose("hashgrid", x.device, gradients=1, asked=self.backend)
        if chosen.function is None:
            return self.reference(x).to(self.dtype)
        known = () if found is None or x.device.type != "cpu" else (found,)
        out = chosen.function(x, self.table, self.given, *known)
        # float32 from tinycudann, so that no gradient passes through fp16 unscaled.
        return out if chosen.name == "tinycudann" else out.to(self.dtype)

    @property
    def given(self) -> Levels:
        """The levels as operations take them."""
        return Levels(self.resolutions, self.sizes, self.offsets, tuple(self.levels))

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
