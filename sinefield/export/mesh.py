"""A trained field's surface, in the coordinates its data came in, and as a mesh file."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from jaxtyping import Float

from sinefield.errors import SinefieldError
from sinefield.export.textured import check_textured, clear_beside, textured
from sinefield.fields.base import Field, Mesh, kind_of
from sinefield.fields.origins import origin_of
from sinefield.meshing.decimate import check_budget, decimate
from sinefield.meshing.extract import cropped, largest_component
from sinefield.meshing.frame import Frame, Placing, place
from sinefield.meshing.named_mesh import NamedMesh, check_single
from sinefield.meshing.read_back import read_back
from sinefield.meshing.write import check_mesh_path, write_meshes
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
    return load_solid(run, adapters)[0]


def load_solid(run: str | Path, adapters: Sequence[str | Path]) -> tuple[Field, dict[str, Any]]:
    """`load_shown`, and the field's note."""
    field, note = load_field(run, adapters)
    kind = kind_of(field)
    if kind.shows not in ("light", "surface"):
        raise SinefieldError(f"{run}: is a field of kind {kind.name}; {kind.instead}")
    return field, note


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
    frame: Frame = Frame(),  # noqa: B008
    texture: int | None = None,
) -> dict[str, Any]:
    """Extract a run's surface into a file.

    Arguments:
        texture: pixels along the side of a picture with the colours, instead of colours of vertices.
        faces: the most that are kept, by merging vertices where the surface is flattest; all when None.
        crop: see `extract_field`.
        adapters: edits of the run's field, see `load_field`.
        frame: unit and axes of the file; those of the field's data where it does not say.

    Returns:
        run, out, kind, what `save_surface` returns, strays (pieces left out, see `extract_shape`), level, level_note
        (where it comes from, None if it was given or is that of a distance or occupancy), range, resolution,
        evaluations, seconds.
    """
    check_mesh_path(out, overwrite)
    if texture is not None:
        check_textured(out, texture)
    if faces is not None:
        check_budget(faces)
    begin = time.perf_counter()
    field, note = load_solid(run, adapters)
    placing = place(frame, is_glb(out), note.get("unit"), kind_of(field).up(field))
    box = None if crop is None else np.array(crop, dtype=np.float64)
    check_box(out, field, box, placing)
    vertices, triangles, statistics = extracted(field, resolution, level, largest, dense, box)
    if faces is not None:
        vertices, triangles = decimate(vertices, triangles, faces)
    surface = f"{statistics['level']:.6g} level of a {field.kind} field"
    try:
        if texture is None:
            mesh = NamedMesh("", vertices, triangles, surface_colours(field, vertices, triangles) if colours else None)
        else:
            mesh = textured(field, vertices, triangles, texture, out)
        saved = save_surface(out, [mesh], placing, "the field's data", surface, overwrite)
    finally:
        if Path(out).suffix.lower() == ".obj":
            clear_beside(out)
    return {
        "run": str(run),
        "out": str(out),
        "kind": field.kind,
        **saved,
        "strays": statistics.get("strays", 0),
        "level": statistics["level"],
        "level_note": statistics["level_note"],
        "range": [statistics["minimum"], statistics["maximum"]],
        "resolution": resolution,
        "evaluations": statistics["evaluations"],
        "seconds": round(time.perf_counter() - begin, 2),
    }


def extracted(
    field: Field,
    resolution: int,
    level: float | None,
    largest: bool,
    dense: bool,
    crop: np.ndarray | None,
) -> Mesh:
    """`extract_field`, of which the largest piece is kept if asked for."""
    vertices, triangles, statistics = extract_field(field, resolution, level, dense, crop)
    if largest:
        vertices, triangles = largest_component(vertices, triangles)
    return vertices, triangles, statistics


def is_glb(out: str | Path) -> bool:
    """Whether a file is in metres with y up by its format."""
    return Path(out).suffix.lower() == ".glb"


def check_box(out: str | Path, field: Any, crop: np.ndarray | None, placing: Placing) -> None:
    """Refuse, before a long evaluation, a surface in this box of a field that the file could not hold.

    Raises:
        SinefieldError: see `meshing.named_mesh.check_single`.
    """
    box = getattr(field, "aabb", None)
    if Path(out).suffix.lower() == ".stl" and box is not None:
        box = box.double().cpu().numpy() + np.tile(origin_of(field), 2)
        low, high = placing.apply(cropped(box, crop).reshape(2, 3))
        check_single(out, np.minimum(low, high), np.maximum(low, high))


def save_surface(
    out: str | Path, meshes: Sequence[NamedMesh], placing: Placing, source: str, surface: str, overwrite: bool
) -> dict[str, Any]:
    """Write meshes and read them back.

    Arguments:
        source: whose axes and unit the file has where it does not change them.
        surface: what the meshes are.

    Returns:
        see `meshing.read_back.read_back`; unit and up of the file's numbers, scaled and turned: what was done to them,
        None for nothing.
    """
    changed = placing.described()
    about = {
        "generator": f"sinefield {__version__}",
        "frame": f"axes, origin and unit of length are those of {source}" + (f", {changed}" if changed else ""),
        "surface": surface,
    }
    write_meshes(out, meshes, placing, overwrite, about)
    counts = sum(len(mesh.vertices) for mesh in meshes), sum(len(mesh.faces) for mesh in meshes)
    about_frame = {"unit": placing.unit, "up": placing.up, "scaled": placing.scaled, "turned": placing.turned}
    return read_back(out, *counts) | about_frame


def surface_colours(field: Field, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray | None:
    # Around the origin: far from it normals lose their last digits.
    mesh = trimesh.Trimesh(vertices - vertices.mean(axis=0), faces, process=False)
    return kind_of(field).vertex_colours(field, vertices, np.asarray(mesh.vertex_normals))
