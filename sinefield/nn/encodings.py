"""What a coordinate looks like to a network."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sinefield.config import NetworkConfig
from sinefield.kernels.choose import choose
from sinefield.nn.hashgrid import HashGrid


class Frequency(nn.Module):
    """NeRF's positional encoding: x, then sin(2^i π x) and cos(2^i π x) for i = 0 … n−1.

    (Mildenhall et al., ECCV 2020, eq. 4.) Output has d·(1 + 2n) channels; n = 0 passes x through.
    Meant for x in [−1, 1]. Computed in float32 whatever comes in: at bf16 the high frequencies are noise. The result
    survives bf16, bare coordinates do not, so `dtype` applies from one octave on. On the CPU a compiled twin of
    `reference` computes it where no gradient is asked for.
    """

    scales: Tensor

    def __init__(self, dimensions: int, n_frequencies: int) -> None:
        super().__init__()
        self.out_features = dimensions * (1 + 2 * n_frequencies)
        self.dtype = torch.float32
        # No arithmetic of tensors: on the meta device, where files are checked, that costs a second of imports.
        scales = torch.tensor([math.pi * 2.0**octave for octave in range(n_frequencies)])
        self.register_buffer("scales", scales, persistent=False)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        if len(self.scales) == 0:
            return x.float()
        run = choose("encoding", x.device, gradients=int(x.requires_grad)).function
        return self.reference(x) if run is None else run(x, len(self.scales)).to(self.dtype)

    def reference(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """The same in plain torch, differentiable, on any device."""
        x = x.float()
        phases = (x[:, None, :] * self.scales[:, None]).flatten(1)
        return torch.cat([x, torch.sin(phases), torch.cos(phases)], dim=1).to(self.dtype)


def position_encoding(config: NetworkConfig, dimensions: int = 3) -> "Frequency | HashGrid":
    """The encoding of positions in [−1, 1]^dimensions that a field's settings name; a hash grid has three."""
    if config.encoding == "hash":
        return HashGrid(config.levels, config.log2_table, config.coarsest, config.finest)
    return Frequency(dimensions, config.frequencies)


class SphericalHarmonics(nn.Module):
    """Real spherical harmonics of unit directions up to degree 3: 16 channels, orthonormal on the sphere.

    On the CPU a compiled twin of `reference` computes them where no gradient is asked for.
    """

    out_features = 16

    def forward(self, d: Float[Tensor, "n 3"]) -> Float[Tensor, "n 16"]:
        run = choose("harmonics", d.device, gradients=int(d.requires_grad)).function
        return self.reference(d) if run is None else run(d)

    def reference(self, d: Float[Tensor, "n 3"]) -> Float[Tensor, "n 16"]:
        """The same in plain torch, differentiable, on any device."""
        x, y, z = d.float().unbind(1)
        xx, yy, zz, xy, yz, xz = x * x, y * y, z * z, x * y, y * z, x * z
        return torch.stack(
            [
                torch.full_like(x, 0.28209479177387814),
                -0.4886025119029199 * y,
                0.4886025119029199 * z,
                -0.4886025119029199 * x,
                1.0925484305920792 * xy,
                -1.0925484305920792 * yz,
                0.31539156525252005 * (3 * zz - 1),
                -1.0925484305920792 * xz,
                0.5462742152960396 * (xx - yy),
                -0.5900435899266435 * y * (3 * xx - yy),
                2.890611442640554 * xy * z,
                -0.4570457994644658 * y * (5 * zz - 1),
                0.3731763325901154 * z * (5 * zz - 3),
                -0.4570457994644658 * x * (5 * zz - 1),
                1.445305721320277 * z * (xx - yy),
                -0.5900435899266435 * x * (xx - 3 * yy),
            ],
            dim=1,
        )
