"""A shape from a sparse, noisy scan, by a field that has learned from many shapes."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from sinefield.data.surfaces.mesh_files import read_shape
from sinefield.errors import SinefieldError
from sinefield.export.mesh import check_box, is_glb, save_surface
from sinefield.fields.base import kind_of
from sinefield.fields.latent.field import LatentShapeField
from sinefield.fields.shape.surface import extract_shape
from sinefield.meshing.extract import largest_component
from sinefield.meshing.frame import Frame, place
from sinefield.meshing.named_mesh import NamedMesh
from sinefield.meshing.write import check_mesh_path
from sinefield.store.fields import load_field


def reconstruct_shape(
    run: str | Path,
    points: str | Path,
    out: str | Path,
    resolution: int = 96,
    level: float | None = None,
    largest: bool = False,
    overwrite: bool = False,
    frame: Frame = Frame(),  # noqa: B008
) -> dict[str, Any]:
    """Read a point cloud, find the shape behind it, write its surface as a mesh in the cloud's own coordinates.

    Arguments:
        run: run folder or .sine file of kind shapes.
        points: .ply or .xyz of points, no normals needed; of a mesh file its vertices count.
        resolution: samples along the longest side of the cloud's box.
        level: of the surface; 0 of a distance, 0.5 of an occupancy.
        frame: unit and axes of the file; those of the points where it does not say.

    Returns:
        run, points (how many were read), out, what `export.mesh.save_surface` returns, resolution, evaluations,
        seconds.

    Raises:
        SinefieldError: a field of another kind; a cloud with NaN, too few points, or all in one plane; no surface.
    """
    check_mesh_path(out, overwrite)
    begin = time.perf_counter()
    field, _ = load_field(run)
    if not isinstance(field, LatentShapeField):
        raise SinefieldError(f"{run}: is a {field.kind} field; give a run of kind shapes, as scenes/shapes.yaml trains")
    cloud = np.concatenate([part.vertices for part in read_shape(points).parts])
    shape = field.shape_of(cloud, str(points))
    placing = place(frame, is_glb(out), None, kind_of(field).up(field))
    check_box(out, shape, None, placing)
    vertices, faces, statistics = extract_shape(shape, resolution, level)
    if largest:
        vertices, faces = largest_component(vertices, faces)
    surface = f"{statistics['level']:.6g} level of a shape found by a {field.kind} field"
    saved = save_surface(
        out, [NamedMesh("", vertices, faces)], placing, "the points it was made from", surface, overwrite
    )
    return {
        "run": str(run),
        "points": len(cloud),
        "out": str(out),
        **saved,
        "strays": statistics["strays"],
        "resolution": resolution,
        "evaluations": statistics["evaluations"],
        "seconds": round(time.perf_counter() - begin, 2),
    }
