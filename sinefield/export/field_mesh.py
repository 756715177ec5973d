"""A trained field's surface, in the coordinates its data came in, and as a mesh file."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from torch import Tensor

from sinefield.errors import SinefieldError
from sinefield.export.mesh import check_mesh_path, extract, largest_component, write_mesh
from sinefield.fields.image import ImageField
from sinefield.fields.radiance import RadianceField
from sinefield.fields.shape import ShapeField
from sinefield.training.run import load_field

DENSITY_LEVEL = 10.0
"""Default level of a radiance field, density × half its box: light is halved within 7 % of the half box."""
MARGIN = 0.04
"""How far a shape is searched beyond its box, as a share of the longest side."""
BLOCK, SLOPE = 4, 1.5
"""Cells along a block's side, and the slope a learned distance is trusted to stay below: a true one has 1."""
COLOUR_DIRECTIONS = 6
CHUNK = 1 << 16


def extract_field(
    field: RadianceField | ShapeField, resolution: int, level: float | None = None, dense: bool = False
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """`extract` for a field, within its box, at its usual level or the given one.

    The level is a signed distance in input units, an occupancy, or for a radiance field a density per world unit. A
    radiance field counts as empty where its occupancy grid says so. Of a shape only the surroundings of the surface are
    evaluated, unless `dense` asks for every point: of a distance nothing is missed while its slope stays below `SLOPE`,
    of an occupancy specks that lie within `BLOCK` cells may be.
    """
    if isinstance(field, ShapeField):
        margin = MARGIN * float((field.aabb[3:] - field.aabb[:3]).max())
        box = field.aabb.numpy() + margin * np.repeat([-1.0, 1.0], 3)
        level = field.default_level if level is None else level
        slope = SLOPE if field.distance else None
        side = "below" if field.distance else "above"
        mesh = extract(field.evaluate, box, resolution, level, side, block=1 if dense else BLOCK, slope=slope)
    else:
        box = field.aabb.double().numpy()
        level = density_level(field) if level is None else level
        looked_up = 0

        def density(points: Tensor) -> Tensor:
            nonlocal looked_up
            values, evaluated = _density(field, points)
            looked_up += evaluated
            return values

        # The grid already says where the network need not be asked, and misses nothing.
        mesh = extract(density, box, resolution, level, "above")
        mesh[2]["evaluations"] = looked_up
    return (*mesh[:2], {**mesh[2], "level": level})


def density_level(field: RadianceField) -> float:
    """The default level, per world unit: the same surface whatever the scale of the world."""
    return DENSITY_LEVEL / (float((field.aabb[3:] - field.aabb[:3]).max()) / 2)


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
    """(v, 3) uint8 sRGB, the mean of what the field sends out around each vertex's normal."""
    x = torch.from_numpy(vertices).float()
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


def load_spatial(run: str | Path) -> RadianceField | ShapeField:
    """The field of a run or `.sine` file that has a third dimension; raises SinefieldError for an image."""
    field, _ = load_field(run)
    if isinstance(field, ImageField):
        raise SinefieldError(f"{run}: is an image field, flat; sinefield image renders it")
    return field


def export_mesh(
    run: str | Path,
    out: str | Path,
    resolution: int = 256,
    level: float | None = None,
    largest: bool = False,
    colours: bool = True,
    dense: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Extract a run's surface into a file; returns run, out, vertices, faces, watertight, level, range, evaluations,
    seconds."""
    check_mesh_path(out, overwrite)
    begin = time.perf_counter()
    field = load_spatial(run)
    vertices, faces, statistics = extract_field(field, resolution, level, dense)
    if largest:
        vertices, faces = largest_component(vertices, faces)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    painted = None
    if colours and isinstance(field, RadianceField):
        painted = vertex_colours(field, vertices, np.asarray(mesh.vertex_normals))
    write_mesh(out, vertices, faces, painted, overwrite=overwrite)
    return {
        "run": str(run),
        "out": str(out),
        "kind": field.kind,
        "vertices": len(vertices),
        "faces": len(faces),
        "watertight": bool(mesh.is_watertight),
        "components": int(mesh.body_count) if len(faces) < 2_000_000 else None,
        "level": statistics["level"],
        "range": [statistics["minimum"], statistics["maximum"]],
        "resolution": resolution,
        "evaluations": statistics["evaluations"],
        "seconds": round(time.perf_counter() - begin, 2),
    }
