"""Meshes with their colours: of vertices, of faces, or from a texture."""

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual import DEFAULT_COLOR, ColorVisuals, TextureVisuals

from sinefield.data.photographs.images import FORMATS, MAX_PIXELS
from sinefield.data.surfaces.mesh_files import MAX_FACES, check_count, check_shape_file
from sinefield.errors import SinefieldError
from sinefield.files import require_file

MESHES = (".ply", ".obj", ".glb", ".gltf", ".stl", ".off")
CLAY = (0.80, 0.76, 0.72)  # where a mesh brings no colours


def load_coloured(path: str | Path) -> list[trimesh.Trimesh]:
    """The parts of a mesh file, in its own coordinates, with their colours.

    Raises:
        SinefieldError: no such file, empty, an unknown extension, unreadable, too large, no faces, NaN vertices, no
            extent, a texture of an unusual kind or size.
    """
    path = require_file(path, "mesh")
    try:
        check_shape_file(path, MESHES)
        if path.suffix.lower() in (".glb", ".gltf") and b"KHR_materials_pbrSpecularGlossiness" in path.read_bytes():
            # trimesh decodes these while it reads, of whatever kind and size they are
            raise SinefieldError(f"{path}: has specular-glossiness materials; export it with metallic-roughness ones")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is checked, and said in one line
            return _coloured_parts(path)
    except SinefieldError:
        raise
    except Exception as error:  # whatever a broken file makes trimesh's many readers raise
        reason = str(error) or type(error).__name__
        raise SinefieldError(f"{path}: cannot be read as a mesh ({reason[:200]}); export it again") from error


def with_vertex_colours(parts: Iterable[trimesh.Trimesh]) -> trimesh.Trimesh:
    """One mesh whose vertices carry the colours; face colours get vertices of their own."""
    whole = []
    for part in parts:
        paint = corner_colours(part)
        texture = texture_of(part)
        if texture is not None:
            paint = bilinear(texture, paint.reshape(-1, 3)[:, :2]).reshape(-1, 3, 3)
        sharp = isinstance(part.visual, ColorVisuals) and part.visual.kind == "face"
        faces = np.arange(3 * len(part.faces)).reshape(-1, 3) if sharp else part.faces
        colours = np.zeros((3 * len(part.faces) if sharp else len(part.vertices), 3))
        colours[faces] = paint
        vertices = part.triangles.reshape(-1, 3) if sharp else part.vertices
        colours = np.round(255 * colours).astype(np.uint8)
        whole.append(trimesh.Trimesh(vertices, faces, vertex_colors=colours, process=False))
    joined = trimesh.util.concatenate(whole)
    assert isinstance(joined, trimesh.Trimesh)
    return joined


def corner_colours(mesh: trimesh.Trimesh) -> np.ndarray:
    """(f, 3, 3) float32 at each face's corners: colours, or, where the mesh has a texture, its u, v and 0."""
    visual, shape = mesh.visual, (len(mesh.faces), 3, 3)
    if isinstance(visual, TextureVisuals) and texture_of(mesh) is not None:
        uv = np.asarray(visual.uv, np.float32)[mesh.faces]
        return np.concatenate([uv, np.zeros_like(uv[..., :1])], 2)
    if isinstance(visual, ColorVisuals) and visual.kind == "vertex":
        return visual.vertex_colors[mesh.faces, :3].astype(np.float32) / 255
    if isinstance(visual, ColorVisuals) and visual.kind == "face":
        return np.broadcast_to(visual.face_colors[:, None, :3] / np.float32(255), shape)
    main = getattr(getattr(visual, "material", None), "main_color", None)
    colour = np.array(CLAY)
    if main is not None and not np.array_equal(main[:3], DEFAULT_COLOR[:3]):
        colour = np.asarray(main[:3]) / 255
    return np.broadcast_to(colour.astype(np.float32), shape)


def texture_of(mesh: trimesh.Trimesh) -> np.ndarray | None:
    """(h, w, 3) float32 in [0, 1], if the mesh has a picture and coordinates for it."""
    material = getattr(mesh.visual, "material", None)
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    if image is None or getattr(mesh.visual, "uv", None) is None:
        return None
    return np.asarray(image.convert("RGB"), np.float32) / 255


def bilinear(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """The texture's colour at (p, 2) coordinates, v upwards, repeating beyond [0, 1]."""
    height, width, _ = texture.shape
    x, y = uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    right, below = (x - column)[:, None], (y - row)[:, None]

    def at(r, c):
        return texture[r % height, c % width]

    upper = at(row, column) * (1 - right) + at(row, column + 1) * right
    lower = at(row + 1, column) * (1 - right) + at(row + 1, column + 1) * right
    return upper * (1 - below) + lower * below


def _coloured_parts(path: Path) -> list[trimesh.Trimesh]:
    # Unprocessed first: trimesh would drop NaN vertices and their faces without a word.
    scene = trimesh.load_scene(path, process=False)
    placed = [scene.geometry[scene.graph[node][1]] for node in scene.graph.nodes_geometry]
    check_count(path, "faces", sum(len(mesh.faces) for mesh in placed if isinstance(mesh, trimesh.Trimesh)), MAX_FACES)
    parts = [part for part in scene.dump(concatenate=False) if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    if not parts:
        raise SinefieldError(f"{path}: has no faces; give a surface mesh, not points or lines")
    for part in parts:
        _check_textures(part, path)
        if part.faces.min() < 0 or part.faces.max() >= len(part.vertices):
            raise SinefieldError(f"{path}: a face names a vertex that is not there; export it again")
    corners = np.concatenate([part.triangles.reshape(-1, 3) for part in parts])
    if not np.isfinite(corners).all():
        raise SinefieldError(f"{path}: some vertices are NaN or infinite; repair the mesh")
    if not np.ptp(corners, axis=0).max() > 0:
        raise SinefieldError(f"{path}: all vertices coincide, so it has no extent; check the export")
    return [part.process() for part in parts]


def _check_textures(part: trimesh.Trimesh, path: Path) -> None:
    """Refuse textures, none of which is decoded yet, of a kind or size that no photograph may have."""
    material = getattr(part.visual, "material", None)
    held = [*vars(material).values(), *getattr(material, "_data", {}).values()] if material else []
    for texture in (value for value in held if isinstance(value, Image.Image)):
        if texture.format not in (None, *FORMATS) or texture.width * texture.height > MAX_PIXELS:
            kind = f"{texture.width}x{texture.height} pixels of {texture.format}"
            raise SinefieldError(f"{path}: has a texture of {kind}; use PNG or JPEG below {MAX_PIXELS:,} pixels")
