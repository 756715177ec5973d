"""A field's surface with a picture laid over it, as a file."""

from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from sinefield.errors import SinefieldError
from sinefield.fields.base import Field, kind_of
from sinefield.files import atomic_path, check_output, write_text
from sinefield.meshing.named_mesh import NamedMesh
from sinefield.meshing.texture import bake, check_texture

EXTENSIONS = (".glb", ".obj")


def check_textured(path: str | Path, size: int, overwrite: bool = False) -> None:
    """Refuse, before a long evaluation, a textured file that could not be written afterwards.

    Raises:
        SinefieldError: a kind of file without textures, a size out of range, xatlas missing; a file beside the OBJ that
            is there already.
    """
    path = Path(path)
    if path.suffix.lower() not in EXTENSIONS:
        raise SinefieldError(f"{path}: --texture is for {' '.join(EXTENSIONS)}; others get colours of their vertices")
    if path.suffix.lower() == ".obj":
        for beside in (path.with_suffix(".mtl"), path.with_suffix(".png")):
            check_output(beside, overwrite)
    check_texture(size)


def textured(
    field: Field, vertices: np.ndarray, faces: np.ndarray, size: int, out: str | Path, overwrite: bool = False
) -> NamedMesh:
    """A field's surface with its colours as a picture over it; the files beside an OBJ are written.

    Raises:
        SinefieldError: a field without colours; see `meshing.texture.bake`.
    """
    kind = kind_of(field)
    # Around the origin: far from it normals lose their last digits.
    normals = np.asarray(trimesh.Trimesh(vertices - vertices.mean(axis=0), faces, process=False).vertex_normals)
    if kind.vertex_colours(field, vertices[:1], normals[:1]) is None:
        raise SinefieldError("--texture: the field has no colours; train it on data that have some, or leave it out")

    def colours_of(points: np.ndarray, outward: np.ndarray) -> np.ndarray:
        colours = kind.vertex_colours(field, points, outward)
        assert colours is not None  # as asked above
        return colours

    baked = bake(vertices, faces, normals, colours_of, size)
    out = Path(out)
    library = _write_beside(out, baked.picture, overwrite) if out.suffix.lower() == ".obj" else ""
    return NamedMesh("", baked.vertices, baked.faces, uv=baked.uv, picture=baked.picture, library=library)


def _write_beside(out: Path, picture: np.ndarray, overwrite: bool) -> str:
    """What an OBJ names, before the OBJ itself, so that its picture is never missing; the library's name."""
    material, image = out.with_suffix(".mtl"), out.with_suffix(".png")
    with atomic_path(image, overwrite) as temporary:
        Image.fromarray(picture).save(temporary, "PNG")
    write_text(material, f"newmtl surface\nKd 1 1 1\nmap_Kd {image.name}\n")
    return material.name
