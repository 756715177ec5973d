"""The surface of a shape field as a triangle mesh."""

import time
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sinefield.data.surfaces.sheet import SLAB
from sinefield.errors import SinefieldError
from sinefield.fields.base import Mesh
from sinefield.fields.shape.field import ShapeField
from sinefield.meshing.extract import MAX_BYTES, cropped, estimate_bytes, extract, without_strays
from sinefield.meshing.sheet import sheet_mesh

MARGIN = 0.04
"""How far a shape is searched beyond its box, as a share of the longest side."""
OUTWARD = np.repeat([-1.0, 1.0], 3)
"""Signs by which a box grows."""
BLOCK, SLOPE = 4, 1.5
"""Cells along a block's side, and the slope a learned distance is trusted to stay below: a true one has 1."""


@runtime_checkable
class Shape(Protocol):
    """What the surface of a shape is found by: a `ShapeField`, or one shape of a `LatentShapeField`."""

    if TYPE_CHECKING:  # a module's buffer, which Python 3.12 no longer finds when it checks a protocol
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

    At the usual level, pieces that lie wholly outside the object's box, by more than a voxel, are no part of it; they
    are left out, and the statistics count them as `strays`.
    """
    own = shape.aabb.cpu().numpy().astype(np.float64)
    box = cropped(own + MARGIN * float((own[3:] - own[:3]).max()) * OUTWARD, crop)
    usual = level is None or level == shape.default_level
    level = shape.default_level if level is None else level
    side = "below" if shape.distance else "above"
    mesh = extract(shape.evaluate, box, resolution, level, side, block=1 if dense else BLOCK, slope=slope)
    vertices, faces, strays = without_strays(*mesh[:2], own + mesh[2]["pitch"] * OUTWARD) if usual else (*mesh[:2], 0)
    about: dict[str, Any] = {**mesh[2], "level": level, "level_note": None, "strays": strays}
    return vertices, faces, about


def extract_sheet(
    field: ShapeField,
    resolution: int,
    level: float | None = None,
    crop: Float[np.ndarray, "6"] | None = None,
) -> Mesh:
    """A sheet's mesh, one layer of faces that ends at its rim.

    Where the resolution is too coarse for cells to fit into the slab around the sheet, a finer one is taken.

    Raises:
        SinefieldError: another level than 0: a sheet has none; no sheet in the box; see `extract`.
    """
    begin = time.perf_counter()
    if level:
        raise SinefieldError(f"level {level:g}: a sheet has no levels, it is where the field is; leave it out")
    box = field.aabb.cpu().numpy().astype(np.float64)
    longest = float((box[3:] - box[:3]).max())
    slab = 2 * SLAB * field.config.band / float(field.scale)
    box = cropped(box + MARGIN * longest * OUTWARD, crop)
    if resolution < 2:
        raise SinefieldError(f"resolution is {resolution}; give at least 2, better 128 to 512")
    side = box[3:] - box[:3]
    pitch = min(float(side.max()) / (resolution - 1), slab)
    shape = np.ceil(side / pitch - 1e-6).astype(np.int64) + 1
    if (needed := estimate_bytes(shape)) > MAX_BYTES:
        raise SinefieldError(
            f"resolution {resolution} needs about {needed / 2**30:.1f} GiB, more than {MAX_BYTES / 2**30:.1f}; "
            "try a smaller --resolution"
        )

    def evaluate(points: np.ndarray) -> np.ndarray:
        values = field.side_and_beyond(torch.from_numpy(points)).double().cpu().numpy()
        if not np.isfinite(values).all():
            raise SinefieldError("the field is NaN or infinite within its box; train again, with a lower rate")
        return values

    mesh = sheet_mesh(evaluate, box[:3] + (side - (shape - 1) * pitch) / 2, shape, pitch)
    if not len(mesh.faces):
        raise SinefieldError("the field has no sheet in its box; train longer")
    about: dict[str, Any] = {
        **{"shape": shape.tolist(), "pitch": pitch, "evaluations": mesh.evaluations, "minimum": 0.0},
        **{"maximum": slab / 2, "level": 0.0, "level_note": None, "capped": False},
        **{"bytes": 4 * int(shape.prod()), "seconds": time.perf_counter() - begin},
    }
    return mesh.vertices, mesh.faces.astype(np.int32), about
