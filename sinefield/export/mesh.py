"""A trained field's surface, in the coordinates its data came in, and as a mesh file."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from jaxtyping import Float

from sinefield.errors import SinefieldError
from sinefield.fields.base import Field, Mesh, kind_of
from sinefield.meshing.decimate import check_budget, decimate
from sinefield.meshing.extract import check_mesh_path, largest_component, write_mesh
from sinefield.store.fields import load_field
from sinefield.version import __version__


def extract_field(
    field: Field,
    resolution: int,
    level: float | None = None,
    dense: bool = False,
    crop: Float[np.ndarray, "6"] | None = None,
) -> Mesh:
    """`meshing.extract.extract` for a field, within its box, at its usual level or the given one.

    The level is a signed distance in input units, an occupancy, or for a radiance field of free density a density per
    world unit, which is suggested by the field itself (the statistics then have its line as `level_note`).

    Arguments:
        resolution: samples along the longest side of the box.
        dense: evaluate every point of the grid, not only near the surface.
        crop: xmin ymin zmin xmax ymax zmax, input units; what is outside it is left out, and cut ends are closed.

    Raises:
        SinefieldError: a field without a surface; see `extract`.
    """
    return kind_of(field).surface(field, resolution, level, dense, crop)


def load_shown(run: str | Path, adapters: Sequence[str | Path] = ()) -> Field:
    """The field of a run or `.sine` file that has a third dimension; raises SinefieldError for others."""
    field, _ = load_field(run, adapters)
    kind = kind_of(field)
    if kind.shows not in ("light", "surface"):
        raise SinefieldError(f"{run}: is a field of kind {kind.name}; {kind.instead}")
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
    field = load_shown(run, adapters)
    box = None if crop is None else np.array(crop, dtype=np.float64)
    vertices, triangles, statistics = extract_field(field, resolution, level, dense, box)
    if largest:
        vertices, triangles = largest_component(vertices, triangles)
    if faces is not None:
        vertices, triangles = decimate(vertices, triangles, faces)
    mesh = trimesh.Trimesh(vertices, triangles, process=False)
    painted = None
    if colours:
        painted = kind_of(field).vertex_colours(field, vertices, np.asarray(mesh.vertex_normals))
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
