"""A shape field's network with all that is needed to evaluate it elsewhere: what `sinefield code` writes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sinefield.config import ShapeFieldConfig
from sinefield.errors import SinefieldError
from sinefield.plain.hash_grid import PlainGrid
from sinefield.plain.network import STORED, PlainNetwork

MARGIN = 0.02
"""Longest sides of the object's box by which the box is grown: the learned surface may lie a little outside of it."""


@dataclass(frozen=True)
class DistanceNetwork:
    """A signed distance as plain numbers: factor · network((point − centre) · scale) within a box, a bound beyond it.

    Attributes:
        config: settings of the field.
        network: its network, materialised.
        centre, scale: from input units to the network's.
        factor: from the network's output to input units.
        low, high: (3,) corners of the box in which the network is asked, input units.
    """

    config: ShapeFieldConfig
    network: PlainNetwork
    centre: Float[np.ndarray, "3"]
    scale: float
    factor: float
    low: Float[np.ndarray, "3"]
    high: Float[np.ndarray, "3"]

    @classmethod
    def of_arrays(cls, config: ShapeFieldConfig, arrays: Mapping[str, np.ndarray]) -> "DistanceNetwork":
        """Of a state dict's arrays, by name.

        Raises:
            SinefieldError: an occupancy, a sheet, or weights of a kind registered from outside.
        """
        if config.represents != "distance":
            raise SinefieldError(
                f"a field that represents {config.represents} has no signed distance of its own; "
                "train with --field.represents distance, or write a grid: OUT.npz"
            )
        if config.weights not in STORED:
            raise SinefieldError(f"{config.weights} weights cannot be written as code; write a grid: OUT.npz")
        centre, aabb = (np.asarray(arrays[name], np.float64) for name in ("centre", "aabb"))
        scale = float(arrays["scale"])
        grown = MARGIN * float((aabb[3:] - aabb[:3]).max())
        network = PlainNetwork(config, arrays, grid=PlainGrid(config, arrays) if config.encoding == "hash" else None)
        return cls(config, network, centre, scale, config.band / scale, aabb[:3] - grown, aabb[3:] + grown)

    def without_grid(self, target: str) -> None:
        """Raises SinefieldError if there are trained feature grids, which `target` cannot hold."""
        if self.network.grid is not None:
            raise SinefieldError(f"feature grids cannot be written as {target}; write C, OUT.h, or a grid, OUT.npz")

    @property
    def reach(self) -> str:
        """Where the value is the distance, in two lines at most, for whoever reads what is written."""
        if self.config.loss == "asinh":
            return "In the box\nthe value is the distance, to some per cent of it."
        near = f"Within about {self.config.band / self.scale:.6g} of the surface"
        return f"{near}\nthe value is the distance; further away it stays near that, with the right sign."

    @property
    def digits_lost(self) -> float:
        """What float32 coordinates are rounded to, as a share of the box's longest side."""
        return float(np.abs([self.low, self.high]).max() * 2.0**-24 / (self.high - self.low).max())

    def __call__(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
        """Values at points in input coordinates, float64: the definition that every written form is tested against."""
        closest = np.clip(points, self.low, self.high)
        values = self.network((closest - self.centre) * self.scale)[:, 0].astype(np.float64) * self.factor
        away = np.linalg.norm(points - closest, axis=1)
        return np.where(away > 0, np.hypot(away, np.maximum(values, 0)), values)
