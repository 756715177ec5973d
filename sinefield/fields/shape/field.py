"""A shape field: inside or outside, how far from the surface, or an open sheet."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sinefield.config import ShapeFieldConfig
from sinefield.data.surfaces.sampling import SHELL
from sinefield.errors import SinefieldError
from sinefield.fields.base import Field
from sinefield.nn.encodings import position_encoding
from sinefield.nn.mlp import MLP

GREY = 0.5
"""The colour that a network of zeros is."""


class ShapeField(Field):
    """Occupancy or signed distance of one object, or an open sheet, in field coordinates x = (input − centre) · scale.

    With `colours: yes` a second, small network has the colour of the surface. It shares nothing with the first.

    The normalisation is stored with the field, and `evaluate` takes the input's own coordinates, so that whatever
    leaves the field leaves it in the coordinates in which the object came.

    Args:
        centre: (3,) centre of the object's box, input units.
        scale: field units per input unit.
        aabb: (6,) the object's box, input units.
    """

    kind = "shape"
    has_own_box = True
    not_edited = ("colour_network.",)

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
        own = config.colour_network
        # What the data of a scene file had to decide is decided in a field.
        self.config = replace(
            config, represents=config.represents or "distance", colours="no" if own is None else "yes"
        )
        self.encoding = position_encoding(config)
        self.network = MLP.of(config, self.encoding.out_features, config.outputs)
        encoding = None if own is None else position_encoding(own)
        self.colour_encoding = encoding
        self.colour_network = None if own is None or encoding is None else MLP.of(own, encoding.out_features, 3)
        # float64: an object far from its origin keeps its place.
        self.register_buffer("centre", torch.as_tensor(centre, dtype=torch.float64))
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float64))
        self.register_buffer("aabb", torch.as_tensor(aabb, dtype=torch.float64))

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Arithmetic of the hidden layers: torch.float32 or torch.bfloat16, or torch.float16 by tinycudann."""
        self.encoding.dtype = self.network.dtype = dtype
        if self.colour_network is not None and self.colour_encoding is not None:
            self.colour_encoding.dtype = self.colour_network.dtype = dtype

    def forward(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n *two"]:
        """The network's raw output at field coordinates.

        Distance: signed distance / band, negative inside. Occupancy: a logit, or with the "mse" loss occupancy itself.
        Sheet: side and beyond (n, 2) / band, see `data.surfaces.sheet`.
        """
        return self.from_encoded(self.encoding(x))

    def from_encoded(self, encoded: Float[Tensor, "n e"]) -> Float[Tensor, "n *two"]:
        """`forward` of points whose encoding is at hand."""
        raw = self.network(encoded)
        return raw if self.sheet else raw[:, 0]

    @property
    def distance(self) -> bool:
        return self.config.represents == "distance"

    @property
    def sheet(self) -> bool:
        return self.config.represents == "sheet"

    @property
    def default_level(self) -> float:
        """Level of the surface in the values of `evaluate`: distance 0 or occupancy 0.5."""
        return 0.5 if self.config.represents == "occupancy" else 0.0

    @torch.no_grad()
    def evaluate(self, points: Float[Tensor, "n 3"], chunk: int = 32768) -> Float[Tensor, "n"]:
        """Signed distance in input units (negative inside) or occupancy in [0, 1], at the input's coordinates.

        Of a sheet the distance to it, never negative, which is learned to within the slab around it.
        """
        if self.sheet:
            side, beyond = self.side_and_beyond(points, chunk).unbind(1)
            return torch.hypot(side, beyond.clamp(min=0))
        raw = self._raw(points, chunk)
        if self.distance:
            # Learned within ±band only; beyond, it is a bound with the right sign.
            return raw * (self.config.band / self.scale).float()
        return raw if self.config.loss == "mse" else torch.sigmoid(raw)

    @torch.no_grad()
    def side_and_beyond(self, points: Float[Tensor, "n 3"], chunk: int = 32768) -> Float[Tensor, "n 2"]:
        """Of a sheet, at the input's coordinates: what `data.surfaces.sheet` says, in input units."""
        return self._raw(points, chunk) * (self.config.band / self.scale).float()

    def _raw(self, points: Tensor, chunk: int) -> Tensor:
        x = self._placed(points)
        if not len(x):
            return x.new_zeros((0, 2) if self.sheet else 0)
        return torch.cat([self(part) for part in x.split(chunk)])

    @torch.no_grad()
    def colours_at(self, points: Float[Tensor, "n 3"], chunk: int = 32768) -> Float[Tensor, "n 3"]:
        """sRGB in [0, 1] of points on the surface, input's coordinates. Only at the surface is it anything's colour.

        Raises:
            SinefieldError: the field has no colours.
        """
        x = self._placed(points)
        return torch.cat([self.raw_colours(part) for part in x.split(chunk)]).clamp(0, 1) if len(x) else x

    def raw_colours(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Colours at field coordinates as the network has them: a little below 0 or above 1 here and there."""
        if self.colour_network is None or self.colour_encoding is None:
            raise SinefieldError("the field has no colours; train it on data that have some")
        return self.colour_network(self.colour_encoding(x)) + GREY

    def _placed(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        return ((points.to(self.centre.device) - self.centre) * self.scale).float()

    def inside(self, points: Float[Tensor, "n 3"]) -> Bool[Tensor, "n"]:
        """Whether points at the input's coordinates are inside the object; a sheet holds none."""
        if self.sheet:
            return torch.zeros(len(points), dtype=torch.bool, device=self.centre.device)
        values = self.evaluate(points)
        return values < self.default_level if self.distance else values > self.default_level

    def shell(self, points: Float[Tensor, "n 3"]) -> Bool[Tensor, "n"]:
        """Whether points at the input's coordinates are within `sampling.SHELL` of a sheet."""
        reach = SHELL * float((self.aabb[3:] - self.aabb[:3]).norm())
        return self.evaluate(points) <= reach

    def take_edit(self, boxes: list[Float[np.ndarray, "6"]], cells: list[np.ndarray]) -> None:
        """The box is then the one around all of the given ones."""
        if boxes:
            low, high = np.min([b[:3] for b in boxes], axis=0), np.max([b[3:] for b in boxes], axis=0)
            self.aabb.copy_(torch.from_numpy(np.concatenate([low, high])))
