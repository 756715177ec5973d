"""The fields of a mesh's parts put together again: one file with a named mesh for each; and what the folder holds."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sinefield.errors import SinefieldError
from sinefield.export.info import describe
from sinefield.export.mesh import check_box, extracted, is_glb, load_solid, save_surface, surface_colours
from sinefield.fields.base import Field, kind_of
from sinefield.meshing.decimate import check_budget, decimate
from sinefield.meshing.frame import Frame, place
from sinefield.meshing.named_mesh import NamedMesh
from sinefield.meshing.write import check_mesh_path
from sinefield.store.parts import read_parts
from sinefield.tables import table


def export_parts(
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
    frame: Frame = Frame(),  # noqa: B008
) -> dict[str, Any]:
    """Extract the surfaces of all parts into one file: named nodes of a GLB or USDZ, objects of an OBJ or 3MF.

    PLY, OFF and STL hold them as one mesh. The arguments are those of `export_mesh`; each part is extracted in its own
    box at the resolution, and has a share of `faces`. Parts that lie outside `crop` are left out.

    Returns:
        as `export_mesh`, with parts: name, vertices, faces of each.

    Raises:
        SinefieldError: see `export_mesh` and `read_parts`; nothing lies within `crop`.
    """
    check_mesh_path(out, overwrite)
    if faces is not None:
        check_budget(faces)
    begin = time.perf_counter()
    box = None if crop is None else np.array(crop, dtype=np.float64)
    found = [(part.name, *load_solid(part.place, ())) for part in read_parts(run)[1]]
    meshes, statistics, strays = [], {}, 0
    placing = place(frame, is_glb(out), found[0][2].get("unit"), kind_of(found[0][1]).up(found[0][1]))
    for name, field, _ in found:
        reach = np.asarray(kind_of(field).extent(field)[0]["aabb"])
        if box is not None and _apart(reach, box):
            continue
        check_box(out, field, box, placing)
        vertices, triangles, statistics = extracted(field, resolution, level, largest, dense, box)
        strays += statistics.get("strays", 0)
        meshes.append((field, NamedMesh(name, vertices, triangles)))
    if not meshes:
        raise SinefieldError(f"{run}: no part reaches into the box of --crop; give a box in input units")
    total = sum(len(mesh.faces) for _, mesh in meshes)
    share = 1.0 if faces is None else faces / max(total, 1)
    meshes = [_finished(field, mesh, share, colours) for field, mesh in meshes]
    surface = f"{statistics['level']:.6g} level of fields of kind shape, one for each part"
    saved = save_surface(out, meshes, placing, "the fields' data", surface, overwrite)
    parts = [{"name": mesh.name, "vertices": len(mesh.vertices), "faces": len(mesh.faces)} for mesh in meshes]
    return {
        "run": str(run),
        "out": str(out),
        "kind": "shape",
        **saved,
        "parts": parts,
        "strays": strays,
        "level": statistics["level"],
        "level_note": statistics["level_note"],
        "resolution": resolution,
        "seconds": round(time.perf_counter() - begin, 2),
    }


def _apart(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a[3:] < b[:3]).any() or (b[3:] < a[:3]).any())


def _finished(field: Field, mesh: NamedMesh, share: float, colours: bool) -> NamedMesh:
    """A part's mesh with this share of its faces at most, and the field's colours where they are asked for."""
    vertices, faces = mesh.vertices, np.asarray(mesh.faces)
    if share < 1:
        vertices, faces = decimate(vertices, faces, max(int(share * len(faces)), 4))
    return NamedMesh(mesh.name, vertices, faces, surface_colours(field, vertices, faces) if colours else None)


def describe_parts(run: str | Path) -> tuple[dict[str, Any], str]:
    """Report and text on such a folder: its parts with kind, parameters and bytes, and their sums."""
    source, parts = read_parts(run)
    rows = []
    for part in parts:
        facts, _ = describe(part.place)
        kept = {key: facts.get(key) for key in ("kind", "steps", "params", "bytes")}
        rows.append({"part": part.name, **kept, "run": part.place})
    sums = {key: sum(row[key] or 0 for row in rows) for key in ("params", "bytes")}
    text = f"{run}: {len(rows)} fields of {source}, {sums['params']:,} parameters, {sums['bytes']:,} bytes\n\n"
    columns = ["part", "kind", "steps", "params", "bytes", "run"]
    return {"run": str(run), "kind": "shape", "source": source, **sums, "parts": rows}, text + table(columns, rows)
