"""Meshes as files, all of a file or nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sinefield.errors import SinefieldError
from sinefield.files import atomic_path, check_output
from sinefield.meshing.frame import Placing
from sinefield.meshing.named_mesh import NamedMesh, check_single
from sinefield.meshing.write_3mf import write_3mf
from sinefield.meshing.write_glb import write_glb
from sinefield.meshing.write_plain import write_obj, write_off, write_ply, write_stl
from sinefield.meshing.write_usdz import check_usd, write_usdz

PLAIN: dict[str, Callable[..., None]] = {".ply": write_ply, ".obj": write_obj, ".off": write_off, ".stl": write_stl}
PLACED: dict[str, Callable[..., None]] = {".glb": write_glb, ".usdz": write_usdz, ".3mf": write_3mf}
"""Formats that say themselves what their unit is, or which axis is up."""
EXTENSIONS = (*PLAIN, *PLACED)


def check_mesh_path(path: str | Path, overwrite: bool = False) -> Path:
    """Refuse, before a long evaluation, a mesh file that could not be written afterwards.

    Raises:
        SinefieldError: unknown extension, existing file without `overwrite`, folder that cannot be written, USDZ
            without usd-core.
    """
    path = Path(path)
    if path.suffix.lower() not in EXTENSIONS:
        raise SinefieldError(f"{path}: unknown mesh kind {path.suffix!r}; use {' '.join(EXTENSIONS)}")
    if path.suffix.lower() == ".usdz":
        check_usd()
    check_output(path, overwrite)
    return path


def write_meshes(
    path: str | Path,
    meshes: Sequence[NamedMesh],
    placing: Placing | None = None,
    overwrite: bool = False,
    about: dict[str, str] | None = None,
) -> None:
    """Write meshes as `.ply .obj .off .stl .glb .usdz .3mf`, all of the file or nothing.

    GLB, USDZ, 3MF and OBJ keep the meshes apart and named; the others hold them as one. Where single precision would
    move coordinates by more than 1e-6 of the object's size, PLY gets double precision, OBJ, OFF and 3MF 17 digits, GLB
    and USDZ a local origin. Colours are sRGB in PLY, OBJ and 3MF, linear in GLB and USDZ; STL and OFF hold none.

    Arguments:
        placing: unit and axes of the file; the meshes' own when None.
        about: what the file says of itself, by the names generator, frame and surface.

    Raises:
        SinefieldError: see `check_mesh_path`; no faces; an STL that would lose too much; the disk is full.
    """
    path = check_mesh_path(path, overwrite)
    placing, about = placing or Placing(), about or {}
    if sum(len(mesh.faces) for mesh in meshes) == 0:
        raise SinefieldError(f"{path}: there are no faces to write; choose another level")
    placed = [mesh.placed(placing) for mesh in meshes if len(mesh.faces)]
    kind = path.suffix.lower()
    if kind == ".stl":
        for mesh in placed:
            check_single(path, mesh.vertices.min(axis=0), mesh.vertices.max(axis=0))
    more: dict[str, Any] = {"placing": placing} if kind in PLACED else {}
    with atomic_path(path, overwrite) as temporary:
        (PLACED if kind in PLACED else PLAIN)[kind](temporary, placed, about, **more)
