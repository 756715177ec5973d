"""The surface of a radiance field as a triangle mesh: a level of its density, or the zero level of its distance."""

from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sinefield.errors import SinefieldError
from sinefield.fields.base import Mesh
from sinefield.fields.radiance.field import RadianceField
from sinefield.fields.radiance.level import suggest_level
from sinefield.fields.radiance.surface import SurfaceField
from sinefield.meshing.extract import cropped, extract

BLOCK, SLOPE = 4, 1.5
"""Cells along a block's side, and the slope a learned distance is trusted to stay below: a true one has 1."""
COLOUR_DIRECTIONS = 6
CHUNK = 1 << 16


def extract_radiance(
    field: RadianceField,
    resolution: int,
    level: float | None = None,
    dense: bool = False,
    crop: Float[np.ndarray, "6"] | None = None,
) -> Mesh:
    """The surface in world coordinates, of contracted space the box alone.

    The level is a distance in world units or, of free density, a density per unit, which the field itself suggests when
    None (`suggest_level`). A field of free density counts as empty where its occupancy grid says so.
    """
    given = resolution, level, dense, crop
    surface = isinstance(field, SurfaceField)
    vertices, faces, about = _of_distance(field, *given) if surface else _of_density(field, *given)
    return field.unplace(torch.from_numpy(vertices)).numpy(), faces, about


def _of_distance(
    field: SurfaceField, resolution: int, level: float | None, dense: bool, crop: np.ndarray | None
) -> Mesh:
    box = cropped(field.aabb.double().cpu().numpy(), crop)
    level = 0.0 if level is None else level
    block = 1 if dense else BLOCK
    mesh = extract(partial(_distance, field), box, resolution, level, "below", block=block, slope=SLOPE)
    return mesh[0], mesh[1], {**mesh[2], "level": level, "level_note": None}


def _of_density(
    field: RadianceField, resolution: int, level: float | None, dense: bool, crop: np.ndarray | None
) -> Mesh:
    box, note = cropped(_reach(field, crop), crop), None
    if level is None:
        level, note = suggest_level(field)
    looked_up = 0

    def density(points: Tensor) -> Tensor:
        nonlocal looked_up
        values, evaluated = _density(field, points)
        looked_up += evaluated
        return values

    # The grid already says where the network need not be asked, and misses nothing.
    mesh = extract(density, box, resolution, level, "above")
    return mesh[0], mesh[1], {**mesh[2], "level": level, "level_note": note, "evaluations": looked_up}


def _reach(field: RadianceField, crop: np.ndarray | None) -> Float[np.ndarray, "6"]:
    """The part of its space in which a field of free density is meshed; of NDC, up to what `span` calls far."""
    box = field.aabb.double().numpy().copy()
    if field.config.space == "ndc":
        if crop is not None:
            raise SinefieldError("--crop is for fields in a box or in contracted space; this one is in NDC")
        near, far = field.span(torch.zeros(1, 3))
        box[5] = 1 - 2 * near / far
    return box


@torch.no_grad()
def _distance(field: SurfaceField, points: Tensor) -> Tensor:
    return torch.cat([field.distance(part) for part in points.float().split(CHUNK)])


@torch.no_grad()
def _density(field: RadianceField, points: Tensor) -> tuple[Tensor, int]:
    """Densities, 0 outside the occupancy grid, and at how many points the network was asked."""
    x = points.float()
    occupied = field.grid.occupied(x).nonzero()[:, 0]
    values = x.new_zeros(len(x))
    if len(occupied):
        values[occupied] = field.density(x[occupied])
    return values, len(occupied)


@torch.no_grad()
def vertex_colours(field: RadianceField, vertices: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """(v, 3) uint8 sRGB, the mean of what the field sends out around the normal of each vertex, both of the world."""
    x = field.place(torch.from_numpy(vertices).float())
    n = torch.from_numpy(normals.copy()).float()
    out = []
    for points, outward in zip(x.split(CHUNK), n.split(CHUNK), strict=True):
        total = torch.zeros(len(points), 3)
        for i in range(COLOUR_DIRECTIONS):
            tilt = torch.zeros(3)
            tilt[i // 2] = 0.5 if i % 2 else -0.5
            # A camera that sees the surface from along the normal looks against it.
            d = torch.nn.functional.normalize(-(outward + tilt), dim=1)
            total += field(points, d)[0]
        out.append(total / COLOUR_DIRECTIONS)
    return (torch.cat(out).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
