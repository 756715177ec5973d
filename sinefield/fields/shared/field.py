"""One network for a set of shapes: what they share, and how a short code turns it into one of them."""

import math
from dataclasses import dataclass
from dataclasses import field as setting
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sinefield.config import Schedule, ShapeDataConfig, ShapeFieldConfig
from sinefield.data.surfaces.placement import Normalisation
from sinefield.errors import SinefieldError
from sinefield.fields.base import Field
from sinefield.fields.shape.field import ShapeField
from sinefield.nn.encodings import Frequency
from sinefield.nn.mlp import MLP, activate

GAIN, SLOPE = -40.0, 3.0
"""Of every level at the start: it is worth 1/32, and 2 is a usual one."""


@dataclass
class SharedFieldConfig:
    """The network that all shapes of a set share, and how far a code may change it."""

    width: int = 96  # units in each hidden layer
    depth: int = 3  # hidden layers
    frequencies: int = 5  # octaves of the positional encoding
    rank: int = 2  # of what a code adds to each square matrix
    band: float = 0.03  # distance from the surface, in field units, within which distances are learned

    def __post_init__(self) -> None:
        if not (1 <= self.rank <= 16 and 1 <= self.width <= 1024 and 2 <= self.depth <= 16):
            raise SinefieldError(
                f"width is {self.width}, depth {self.depth}, rank {self.rank}; "
                "1 to 1,024 units, 2 to 16 layers, and 1 to 16"
            )
        self.shape()

    def shape(self) -> ShapeFieldConfig:
        """Settings of the shape that a code makes."""
        return ShapeFieldConfig(
            width=self.width,
            depth=self.depth,
            frequencies=self.frequencies,
            weights="dense",
            band=self.band,
            represents="distance",
            colours="no",
        )


@dataclass
class SharedTrainingConfig(Schedule):
    """How the shared network is learned, and then the code of each shape."""

    steps: int | None = 3500  # of the shared network
    adam_lr: float = 4e-3  # Adam's rate for the shared network
    shapes: int = 200  # how many of the items it learns from, at most
    batch: int = 12  # shapes a step
    queries: int = 128  # points a step asks of each
    code_lr: float = 0.3  # Adam's rate for codes, in levels
    rate: float = 1e-6  # loss for each bit of a code
    sharpen: float = 3.0  # the band in which distances are learned ends so many times narrower than it began
    code_steps: int = 300  # to find a shape's code
    code_queries: int = 1024  # points a step asks of it

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("shapes", "batch", "queries", "code_lr", "code_steps", "code_queries"):
            if not getattr(self, name) > 0:
                raise SinefieldError(f"{name} is {getattr(self, name)}; should be above 0")
        if not 0 <= self.rate <= 1 or not 1 <= self.sharpen <= 100:
            raise SinefieldError(f"rate is {self.rate}, sharpen {self.sharpen}; 0 to 1, and 1 to 100")


@dataclass
class SharedConfig:
    """A scene file of kind `shared`."""

    kind: Literal["shared"] = "shared"
    seed: int = 0
    data: ShapeDataConfig = setting(default_factory=lambda: ShapeDataConfig(points=16384, near_fraction=0.5))
    field: SharedFieldConfig = setting(default_factory=SharedFieldConfig)
    training: SharedTrainingConfig = setting(default_factory=SharedTrainingConfig)


class SharedField(Field):
    """A network from points to distance / band whose layers a code changes.

    A code has one whole number, a level, for each way in which the network can change; level · gain is the change.
    Layer i of W and b becomes W' = diag(1 + s)(W + Σᵣ uᵣ(dᵣ + vᵣ)ᵀ), b' = (1 + s) b + t, with s, t, u and v from the
    code and d of the base; the first layer has no u and v. The last has its row and its bias changed by addition. So a
    coded shape is an ordinary dense shape field.

    Attributes:
        gains: (m,) log₂ of a level's worth, in eighths.
        slopes: (m,) bytes, how likely which level is: see `compress.code`.
        directions: (depth − 1, rank, width): d.
    """

    kind = "shared"

    def __init__(self, config: SharedFieldConfig) -> None:
        super().__init__()
        self.config = config
        shape = config.shape()
        self.encoding = Frequency(3, config.frequencies)
        self.network = MLP.of(shape, self.encoding.out_features, 1)
        self.groups = groups(config)
        m = sum(n for _, n in self.groups)
        self.directions = nn.Parameter(torch.empty(config.depth - 1, config.rank, config.width))
        if not self.directions.is_meta:
            self.directions.data.normal_().div_(math.sqrt(config.width))
        self.gains = nn.Parameter(torch.full((m,), GAIN))
        self.slopes = nn.Parameter(torch.full((m,), SLOPE))

    def set_dtype(self, dtype: torch.dtype) -> None:
        self.encoding.dtype = self.network.dtype = dtype

    @property
    def numbers(self) -> int:
        """How many levels a code has."""
        return len(self.gains)

    def forward(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """The shape of no code, at field coordinates."""
        return self.network(self.encoding(x))[:, 0]

    def changed(self, codes: Float[Tensor, "k m"]) -> dict[str, Float[Tensor, "k n"]]:
        """What codes, in levels, change, by the names of `groups`."""
        change = codes * torch.exp2(self.gains / 8)
        sizes = [n for _, n in self.groups]
        return {name: part for (name, _), part in zip(self.groups, change.split(sizes, 1), strict=True)}

    def networks(self, codes: Float[Tensor, "k m"]) -> tuple[list[Tensor], list[Tensor]]:
        """Matrices (k, out, in) and biases (k, out) of each layer of the networks that codes, in levels, make."""
        config, change, k = self.config, self.changed(codes), len(codes)
        matrices, biases = [], []
        for i, (weight, bias) in enumerate(zip(self.network.weights, self.network.biases, strict=True)):
            matrix = weight().expand(k, -1, -1)
            if i == config.depth:
                matrices.append(matrix + change["row"][:, None])
                biases.append(bias + change["bias"])
                continue
            if i:
                u, v = (change[f"{name}{i}"].view(k, config.rank, config.width) for name in "uv")
                matrix = torch.baddbmm(matrix, u.mT, self.directions[i - 1] + v)
            more = 1 + change[f"s{i}"]
            matrices.append(more[:, :, None] * matrix)
            biases.append(more * bias + change[f"t{i}"])
        return matrices, biases

    def decode(self, encoded: Float[Tensor, "k n e"], codes: Float[Tensor, "k m"]) -> Float[Tensor, "k n"]:
        """Distance / band of k shapes at points of their own, whose encoding is given."""
        h = encoded
        for i, (matrix, bias) in enumerate(zip(*self.networks(codes), strict=True)):
            h = torch.baddbmm(bias[:, None], h, matrix.mT)
            h = activate(h, self.network.activation) if i < self.config.depth else h
        return h[..., 0]

    @torch.no_grad()
    def shape_of(self, levels: Int[np.ndarray, "m"], box: Float[np.ndarray, "6"]) -> ShapeField:
        """The shape that a code stands for.

        Arguments:
            box: of the shape, input units, which places it.
        """
        config = self.config
        place = Normalisation.fit(box)
        placed = (torch.tensor(v, dtype=torch.float64) for v in (place.centre, place.scale, box))
        field = ShapeField(config.shape(), *placed)
        codes = torch.from_numpy(np.asarray(levels, np.float32))[None]
        for i, (matrix, bias) in enumerate(zip(*self.networks(codes), strict=True)):
            field.network.weights[i].get_parameter("weight").copy_(matrix[0])
            field.network.biases[i].copy_(bias[0])
        return field.eval().requires_grad_(False)


def groups(config: SharedFieldConfig) -> list[tuple[str, int]]:
    """What a code has, in its order: names and how many numbers each."""
    found = []
    for i in range(config.depth):
        found += [(f"t{i}", config.width), (f"s{i}", config.width)]
        if i:
            found += [(f"u{i}", config.width * config.rank), (f"v{i}", config.width * config.rank)]
    return [*found, ("row", config.width), ("bias", 1)]
