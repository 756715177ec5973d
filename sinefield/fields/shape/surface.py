"""The surface of a shape field as a triangle mesh."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sinefield.fields.base import Mesh
from sinefield.meshing.extract import cropped, extract

MARGIN = 0.04
"""How far a shape is searched beyond its box, as a share of the longest side."""
BLOCK, SLOPE = 4, 1.5
"""Cells along a block's side, and the slope a learned distance is trusted to stay below: a true one has 1."""


@runtime_checkable
class Shape(Protocol):
    """What the surface of a shape is found by: a `ShapeField`, or one shape of a `LatentShapeField`."""

    aabb: Tensor

    @property
    def distance(self) -> bool: ...

    @property
    def default_level(self) -> float: ...

    def evaluate(self, points: Tensor) -> Tensor: ...


def extract_shape(
    shape: Shape,
    resolution: int,
    level: float | None = None,
    dense: bool = False,
    crop: Float[np.ndarray, "6"] | None = None,
    slope: float | None = None,
) -> Mesh:
    """The surface at a level, a signed distance in input units or an occupancy; its usual one when None.

    Only the surroundings of the surface are evaluated, unless `dense` asks for every point. Nothing is missed while the
    slope of `evaluate` stays below `slope`; where that is not known, specks that lie within `BLOCK` cells may be.
    """
    box = shape.aabb.cpu().numpy().astype(np.float64)
    box = cropped(box + MARGIN * float((box[3:] - box[:3]).max()) * np.repeat([-1.0, 1.0], 3), crop)
    level = shape.default_level if level is None else level
    side = "below" if shape.distance else "above"
    mesh = extract(shape.evaluate, box, resolution, level, side, block=1 if dense else BLOCK, slope=slope)
    about: dict[str, Any] = {**mesh[2], "level": level, "level_note": None}
    return mesh[0], mesh[1], about
