"""A trained field's surface, in the coordinates its data came in, and as a mesh file."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from torch import Tensor

from sinefield import __version__
from sinefield.errors import SinefieldError
from sinefield.fields.image.field import ImageField
from sinefield.fields.latent.field import LatentShape, LatentShapeField
from sinefield.fields.radiance.field import RadianceField
from sinefield.fields.radiance.level import suggest_level
from sinefield.fields.radiance.surface import SurfaceField
from sinefield.fields.shape.field import ShapeField
from sinefield.meshing.decimate import check_budget, decimate
from sinefield.meshing.extract import check_mesh_path, extract, largest_component, write_mesh
from sinefield.store.run import load_field

MARGIN = 0.04
"""How far a shape is searched beyond its box, as a share of the longest side."""
BLOCK, SLOPE = 4, 1.5
"""Cells along a block's side, and the slope a learned distance is trusted to stay below: a true one has 1."""
COLOUR_DIRECTIONS = 6
CHUNK = 1 << 16


def extract_field(
    field: RadianceField | ShapeField | LatentShape,
    resolution: int,
    level: float | None = None,
    dense: bool = False,
    crop: Float[np.ndarray, "6"] | None = None,
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """`extract` for a field, within its box, at its usual level or the given one.

    The level is a signed distance in input units, an occupancy, or for a radiance field of free density a density per
    world unit, which is suggested by the field itself (`suggest_level`; the statistics then have its line as
    `level_note`). Such a field counts as empty where its occupancy grid says so. Of a shape or a distance only the
    surroundings of the surface are evaluated, unless `dense` asks for every point: of a distance nothing is missed
    while its slope stays below `SLOPE`, of others specks that lie within `BLOCK` cells may be.

    Vertices are in the field's space, which `RadianceField.unplace` brings to the world. Of contracted space only the
    box is meshed.

    Arguments:
        crop: xmin ymin zmin xmax ymax zmax, input units; what is outside it is left out, and cut ends are closed.
    """
    note = None
    if isinstance(field, ShapeField | LatentShape):
        margin = MARGIN * float((field.aabb[3:] - field.aabb[:3]).max())
        box = cropped(field.aabb.numpy() + margin * np.repeat([-1.0, 1.0], 3), crop)
        level = field.default_level if level is None else level
        slope = SLOPE if isinstance(field, ShapeField) and field.distance else None
        side = "below" if field.distance else "above"
        mesh = extract(field.evaluate, box, resolution, level, side, block=1 if dense else BLOCK, slope=slope)
    elif isinstance(field, SurfaceField):
        box = cropped(field.aabb.double().numpy(), crop)
        level, note = 0.0 if level is None else level, None
        block = 1 if dense else BLOCK
        mesh = extract(lambda x: _distance(field, x), box, resolution, level, "below", block=block, slope=SLOPE)
    else:
        box = cropped(_reach(field, crop), crop)
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
        mesh[2]["evaluations"] = looked_up
    return (*mesh[:2], {**mesh[2], "level": level, "level_note": note})


def _reach(field: RadianceField, crop: np.ndarray | None) -> Float[np.ndarray, "6"]:
    """The part of its space in which a field of free density is meshed; of NDC, up to what `span` calls far."""
    box = field.aabb.double().numpy().copy()
    if field.config.space == "ndc":
        if crop is not None:
            raise SinefieldError("--crop is for fields in a box or in contracted space; this one is in NDC")
        near, far = field.span(torch.zeros(1, 3))
        box[5] = 1 - 2 * near / far
    return box


def cropped(box: Float[np.ndarray, "6"], crop: Float[np.ndarray, "6"] | None) -> Float[np.ndarray, "6"]:
    """What two boxes xmin ymin zmin xmax ymax zmax share.

    Raises:
        SinefieldError: nothing, or `crop` is no box.
    """
    if crop is None:
        return box
    if not np.isfinite(crop).all() or not (crop[:3] < crop[3:]).all():
        raise SinefieldError(f"--crop {_numbers(crop)}: give xmin ymin zmin xmax ymax zmax, each min below its max")
    shared = np.concatenate([np.maximum(box[:3], crop[:3]), np.minimum(box[3:], crop[3:])])
    if not (shared[:3] < shared[3:]).all():
        raise SinefieldError(f"--crop {_numbers(crop)} lies outside the field's box {_numbers(box)}; move it there")
    return shared


def _numbers(box: np.ndarray) -> str:
    return " ".join(f"{value:g}" for value in box)


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


def load_spatial(run: str | Path, adapters: Sequence[str | Path] = ()) -> RadianceField | ShapeField:
    """The field of a run or `.sine` file that has a third dimension; raises SinefieldError for others."""
    field, _ = load_field(run, adapters)
    if isinstance(field, ImageField):
        raise SinefieldError(f"{run}: is an image field, flat; sinefield image renders it")
    if isinstance(field, LatentShapeField):
        raise SinefieldError(f"{run}: knows many shapes; sinefield reconstruct makes one from points")
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
    crop: Sequence[float] | None = None,
    faces: int | None = None,
    adapters: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Extract a run's surface into a file.

    Arguments:
        faces: the most that are kept, by merging vertices where the surface is flattest; all when None.
        crop: see `extract_field`.
        adapters: edits of the run's field, see `load_field`.

    Returns:
        run, out, kind, vertices, faces, watertight, components, level, level_note (where it comes from, None if it was
        given or is that of a distance or occupancy), range, resolution, evaluations, seconds.
    """
    check_mesh_path(out, overwrite)
    if faces is not None:
        check_budget(faces)
    begin = time.perf_counter()
    field = load_spatial(run, adapters)
    box = None if crop is None else np.array(crop, dtype=np.float64)
    vertices, triangles, statistics = extract_field(field, resolution, level, dense, box)
    if isinstance(field, RadianceField):
        vertices = field.unplace(torch.from_numpy(vertices)).numpy()
    if largest:
        vertices, triangles = largest_component(vertices, triangles)
    if faces is not None:
        vertices, triangles = decimate(vertices, triangles, faces)
    mesh = trimesh.Trimesh(vertices, triangles, process=False)
    painted = None
    if colours and isinstance(field, RadianceField):
        painted = vertex_colours(field, vertices, np.asarray(mesh.vertex_normals))
    about = {
        "generator": f"sinefield {__version__}",
        "frame": "axes, origin and unit of length are those of the data that the field was trained on",
        "surface": f"{statistics['level']:.6g} level of a {field.kind} field",
    }
    write_mesh(out, vertices, triangles, painted, overwrite=overwrite, about=about)
    return {
        "run": str(run),
        "out": str(out),
        "kind": field.kind,
        "vertices": len(vertices),
        "faces": len(triangles),
        "watertight": bool(mesh.is_watertight),
        "components": int(mesh.body_count) if len(triangles) < 2_000_000 else None,
        "level": statistics["level"],
        "level_note": statistics["level_note"],
        "range": [statistics["minimum"], statistics["maximum"]],
        "resolution": resolution,
        "evaluations": statistics["evaluations"],
        "seconds": round(time.perf_counter() - begin, 2),
    }
