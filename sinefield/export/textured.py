"""A field's surface with a picture laid over it, as a file."""

import re
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from sinefield.errors import SinefieldError
from sinefield.fields.base import Field, kind_of
from sinefield.files import open_file, read_bytes, write_bytes, write_text
from sinefield.meshing.named_mesh import NamedMesh
from sinefield.meshing.texture import bake, check_texture

EXTENSIONS = (".glb", ".obj")
HEAD, LARGEST = 4096, 1 << 40
"""Bytes of an OBJ that the name of its library is among."""
LIBRARY = "newmtl surface\nKd 1 1 1\nmap_Kd {}\n"


def check_textured(path: str | Path, size: int) -> None:
    """Refuse, before a long evaluation, a textured file that could not be written afterwards.

    Raises:
        SinefieldError: a kind of file without textures, a size out of range, xatlas missing.
    """
    path = Path(path)
    if path.suffix.lower() not in EXTENSIONS:
        raise SinefieldError(f"{path}: --texture is for {' '.join(EXTENSIONS)}; others get colours of their vertices")
    check_texture(size)


def textured(field: Field, vertices: np.ndarray, faces: np.ndarray, size: int, out: str | Path) -> NamedMesh:
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
    library = _write_beside(out, baked.picture) if out.suffix.lower() == ".obj" else ""
    return NamedMesh("", baked.vertices, baked.faces, uv=baked.uv, picture=baked.picture, library=library)


def _write_beside(out: Path, picture: np.ndarray) -> str:
    """What an OBJ names, before the OBJ itself; the library's name.

    Both names hold the picture's checksum: until the new OBJ is in its place, the old one has its own picture.
    """
    content = BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    stem = f"{out.stem}.{zlib.crc32(content.getvalue()):08x}"
    # The library first: by its content `clear_beside` knows the picture as ours.
    write_text(out.with_name(f"{stem}.mtl"), LIBRARY.format(f"{stem}.png"))
    write_bytes(out.with_name(f"{stem}.png"), content.getvalue())
    return f"{stem}.mtl"


def clear_beside(out: str | Path) -> None:
    """Remove what earlier OBJs of this name had beside them, and what killed processes left of theirs.

    What the OBJ that is there names stays, and so does all that is not exactly what `textured` writes.
    """
    for _ in range(2):  # looking takes memory, which the first time there may be none of
        with suppress(OSError, SinefieldError, MemoryError):
            return _clear_beside(Path(out))


def _clear_beside(out: Path) -> None:
    ours = re.compile(re.escape(out.stem) + r"\.[0-9a-f]{8}")
    beginning = b""
    if out.is_file():
        with open_file(out, LARGEST) as stream:
            beginning = stream.read(HEAD)
    for found in out.parent.glob("*.mtl"):
        if not ours.fullmatch(found.stem) or f"mtllib {found.name}\n".encode() in beginning or found.is_symlink():
            continue
        picture = found.with_suffix(".png")
        wanted = LIBRARY.format(picture.name).encode()
        if found.is_file() and found.stat().st_size == len(wanted) and read_bytes(found, len(wanted)) == wanted:
            picture.unlink(missing_ok=True)
            found.unlink(missing_ok=True)
