"""A shape from a sparse, noisy scan, by a field that has learned from many shapes."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from sinefield.data.surfaces.mesh_files import read_shape
from sinefield.errors import SinefieldError
from sinefield.fields.latent.field import LatentShapeField
from sinefield.fields.shape.surface import extract_shape
from sinefield.meshing.extract import check_mesh_path, largest_component, write_mesh
from sinefield.store.fields import load_field
from sinefield.version import __version__


def reconstruct_shape(
    run: str | Path,
    points: str | Path,
    out: str | Path,
    resolution: int = 96,
    level: float | None = None,
    largest: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Read a point cloud, find the shape behind it, write its surface as a mesh in the cloud's own coordinates.

    Arguments:
        run: run folder or .sine file of kind shapes.
        points: .ply or .xyz of points, no normals needed; of a mesh file its vertices count.
        resolution: samples along the longest side of the cloud's box.
        level: of the surface; 0 of a distance, 0.5 of an occupancy.

    Returns:
        run, points (how many were read), out, vertices, faces, watertight, resolution, evaluations, seconds.

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
    vertices, faces, statistics = extract_shape(shape, resolution, level)
    if largest:
        vertices, faces = largest_component(vertices, faces)
    about = {"generator": f"sinefield {__version__}", "frame": "that of the points it was made from"}
    write_mesh(out, vertices, faces, overwrite=overwrite, about=about)
    return {
        "run": str(run),
        "points": len(cloud),
        "out": str(out),
        "vertices": len(vertices),
        "faces": len(faces),
        "watertight": bool(trimesh.Trimesh(vertices, faces, process=False).is_watertight),
        "resolution": resolution,
        "evaluations": statistics["evaluations"],
        "seconds": round(time.perf_counter() - begin, 2),
    }
