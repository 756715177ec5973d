"""What operations are given: tensors, and what belongs together under one name.

Callers fill these; every implementation of an operation, in plain torch or compiled, takes the same.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SOLID_DEPTH = 4
"""Samples a ray may take inside solid cells before it stops."""
MAX_OPTICAL_DEPTH = 700.0
"""exp(−700) is the smallest step a float64 transmittance can take; more absorption changes nothing."""
LEAK, BETA = 0.01, 100.0
"""Slope of the leaky rectifier below 0, and sharpness of softplus."""
LEAST_ALPHA, MOST_ALPHA, LEAST_TRANSMITTANCE = 1 / 255, 0.99, 1e-4
"""Of splats: what is fainter at a pixel is left out, none hides more, and behind less light nothing is looked at; as
the renderer of Kerbl et al., ACM TOG 2023, has them."""
ERRORS = ("tanh", "l1", "bce", "mse", "asinh")
"""Errors of points; see `nn.point_error.errors`."""


class Activation(NamedTuple):
    """An elementwise function by its name, one of `nn.mlp.ACTIVATIONS`: σ is the Gaussian's, ω₀ the sine's."""

    name: str
    sigma: float
    omega0: float


class Network(NamedTuple):
    """A network's layers as tensors; `nn.mlp.MLP` says what they compute.

    Attributes:
        matrices, biases: (out, in) and (out,) of each layer.
        activation: of all layers but the last.
        skips: layers before which the input is appended to the hidden state.
        dtype: of the hidden layers; the first has that of the input.
        pool: a `kernels.workspace.Pool` of its own, for those who use memory again from call to call.
    """

    matrices: list[Tensor]
    biases: list[Tensor]
    activation: Activation
    skips: frozenset[int]
    dtype: torch.dtype
    pool: Any


class Levels(NamedTuple):
    """The levels of a hash grid, each (levels,): cells along a side, entries, and first entry of each.

    `plain` has the same on the host: to ask a GPU for them is to wait for it.
    """

    resolutions: Int[Tensor, "levels"]
    sizes: Int[Tensor, "levels"]
    offsets: Int[Tensor, "levels"]
    plain: tuple[tuple[int, int, int], ...]


class Grid(NamedTuple):
    """Which cells of a box are occupied, and of larger boxes around it.

    Attributes:
        aabb: (6,) the smallest box; each further one is twice as large about the same centre.
        binaries: the occupied cells, x slowest; those of several boxes are stacked along x, the smallest box first.
        solid: cells behind whose first `SOLID_DEPTH` samples a ray can see nothing; it stops there.
        levels: how many boxes. Of several each has as many cells along every side.
    """

    aabb: Float[Tensor, "6"]
    binaries: Bool[Tensor, "lx y z"]
    solid: Bool[Tensor, "lx y z"] | None = None
    levels: int = 1


class March(NamedTuple):
    """How rays are cut into samples.

    Attributes:
        render_step_size: length of a sample, in the grid's units; the shortest where they grow with distance.
        near_plane, far_plane: along a ray, where samples may begin and must end.
        cone_angle: where it is not 0, a sample that starts at t is as long as cone_angle · t, at least.
        max_samples: hard cap; rays from the first that would exceed it on are dropped (a first ray that alone exceeds
            it keeps its front samples).
    """

    render_step_size: float
    near_plane: float = 0.0
    far_plane: float = 1e10
    cone_angle: float = 0.0
    max_samples: int = 2**31


class FlatSamples(NamedTuple):
    """Samples ordered by ray and front to back; `packed_info` has each ray's first sample and number of samples."""

    ray_indices: Int[Tensor, "n_samples"]
    t_starts: Float[Tensor, "n_samples"]
    t_ends: Float[Tensor, "n_samples"]
    packed_info: Int[Tensor, "n_rays 2"]

    @property
    def n_rays(self) -> int:
        return len(self.packed_info)


class Lines(NamedTuple):
    """Where samples lie, for a network that sees the frequency encoding of (point − centre) / half."""

    rays_o: Float[Tensor, "r 3"]
    rays_d: Float[Tensor, "r 3"]
    centre: Float[Tensor, "3"]
    half: Float[Tensor, ""]
    octaves: int


class Places(NamedTuple):
    """Where samples lie, for a network that sees what a hash grid holds there; in [−1, 1]³."""

    x: Float[Tensor, "n 3"]
    table: Float[Tensor, "entries 2"]
    levels: Levels


class Light(NamedTuple):
    """What turns two networks' outputs into pixels, and what these should be.

    Attributes:
        inverse_units: that densities are multiplied with; one, or one a sample.
        highest: logarithm of density at which it is cut off.
        directions: encoded directions of the rays, in the networks' precision.
        background, target: of the rays' pixels.
        errors: filled with each ray's squared error, where it is given.
    """

    inverse_units: Float[Tensor, "m"]
    highest: float
    directions: Float[Tensor, "r c"]
    background: Float[Tensor, "r 3"]
    target: Float[Tensor, "r 3"]
    errors: Float[Tensor, "r"] | None = None
