"""A shape field: inside or outside, or how far from the surface."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sinefield.config import ShapeFieldConfig
from sinefield.fields.base import Field
from sinefield.nn.encodings import position_encoding
from sinefield.nn.mlp import MLP


class ShapeField(Field):
    """Occupancy or signed distance of one object, in field coordinates x = (input − centre) · scale.

    The normalisation is stored with the field, and `evaluate` takes the input's own coordinates, so that whatever
    leaves the field leaves it in the coordinates in which the object came.

    Args:
        centre: (3,) centre of the object's box, input units.
        scale: field units per input unit.
        aabb: (6,) the object's box, input units.
    """

    kind = "shape"
    has_own_box = True

    centre: Tensor
    scale: Tensor
    aabb: Tensor

    def __init__(
        self,
        config: ShapeFieldConfig,
        centre: Float[Tensor, "3"],
        scale: Float[Tensor, ""],
        aabb: Float[Tensor, "6"],
    ) -> None:
        super().__init__()
        self.config = config
        self.encoding = position_encoding(config)
        self.network = MLP.of(config, self.encoding.out_features, 1)
        # float64: an object far from its origin keeps its place.
        self.register_buffer("centre", torch.as_tensor(centre, dtype=torch.float64))
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float64))
        self.register_buffer("aabb", torch.as_tensor(aabb, dtype=torch.float64))

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Arithmetic of the hidden layers: torch.float32 or torch.bfloat16, or torch.float16 by tinycudann."""
        self.encoding.dtype = self.network.dtype = dtype

    def forward(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """The network's raw output at field coordinates.

        Distance: signed distance / band, negative inside. Occupancy: a logit, or with the "mse" loss occupancy itself.
        """
        return self.from_encoded(self.encoding(x))

    def from_encoded(self, encoded: Float[Tensor, "n e"]) -> Float[Tensor, "n"]:
        """`forward` of points whose encoding is at hand."""
        return self.network(encoded)[:, 0]

    @property
    def distance(self) -> bool:
        return self.config.represents == "distance"

    @property
    def default_level(self) -> float:
        """Level of the surface in the values of `evaluate`: distance 0 or occupancy 0.5."""
        return 0.0 if self.distance else 0.5

    @torch.no_grad()
    def evaluate(self, points: Float[Tensor, "n 3"], chunk: int = 32768) -> Float[Tensor, "n"]:
        """Signed distance in input units (negative inside) or occupancy in [0, 1], at the input's coordinates."""
        x = ((points.to(self.centre.device) - self.centre) * self.scale).float()
        raw = torch.cat([self(part) for part in x.split(chunk)]) if len(x) else x.new_zeros(0)
        if self.distance:
            # Learned within ±band only; beyond, it is a bound with the right sign.
            return raw * (self.config.band / self.scale).float()
        return raw if self.config.loss == "mse" else torch.sigmoid(raw)

    def inside(self, points: Float[Tensor, "n 3"]) -> Bool[Tensor, "n"]:
        """Whether points at the input's coordinates are inside the object."""
        values = self.evaluate(points)
        return values < self.default_level if self.distance else values > self.default_level

    def take_edit(self, boxes: list[Float[np.ndarray, "6"]], cells: list[np.ndarray]) -> None:
        """The box is then the one around all of the given ones."""
        if boxes:
            low, high = np.min([b[:3] for b in boxes], axis=0), np.max([b[3:] for b in boxes], axis=0)
            self.aabb.copy_(torch.from_numpy(np.concatenate([low, high])))
