"""Meshes with their colours: of vertices, of faces, or from a texture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sinefield.data.surfaces.mesh_files import read_shape
from sinefield.data.surfaces.parts import CLAY, Paint, Part
from sinefield.errors import SinefieldError

if TYPE_CHECKING:  # half a second that shapes do without
    import trimesh


def load_coloured(path: str | Path) -> list[Part]:
    """The parts of a mesh file, in its own coordinates, with their colours.

    Raises:
        SinefieldError: what `read_shape` refuses; no faces, NaN vertices, no extent.
    """
    parts = [part for part in read_shape(path).parts if part.faces is not None]
    if not parts:
        raise SinefieldError(f"{path}: has no faces; give a surface mesh, not points or lines")
    corners = np.concatenate([corners_of(part).reshape(-1, 3) for part in parts])
    if not np.isfinite(corners).all():
        raise SinefieldError(f"{path}: some vertices are NaN or infinite; repair the mesh")
    if not np.ptp(corners, axis=0).max() > 0:
        raise SinefieldError(f"{path}: all vertices coincide, so it has no extent; check the export")
    return parts


def corners_of(part: Part) -> np.ndarray:
    """(f, 3, 3) float64 corners of a mesh's faces."""
    return part.vertices[part.faces]


def paint_of(part: Part) -> Paint:
    """A mesh's paint; clay where it has none."""
    count = 0 if part.faces is None else len(part.faces)
    return part.paint or Paint.plain(np.broadcast_to(np.array(CLAY), (count, 3, 3)))


def with_vertex_colours(parts: Iterable[Part]) -> trimesh.Trimesh:
    """One mesh whose vertices carry the colours; where colours meet at an edge, each side has vertices of its own."""
    import trimesh

    rows = []
    for part in parts:
        paint, corners = paint_of(part), corners_of(part)
        face = np.repeat(np.arange(len(corners)), 3)
        colours = paint.at(face, np.tile(np.eye(3), (len(corners), 1)))
        rows.append(np.concatenate([corners.reshape(-1, 3), np.round(255 * colours)], 1))
    held, faces = np.unique(np.concatenate(rows), axis=0, return_inverse=True)
    colours = held[:, 3:].astype(np.uint8)
    return trimesh.Trimesh(held[:, :3], faces.reshape(-1, 3), vertex_colors=colours, process=False)


def part_of(mesh: trimesh.Trimesh | Part) -> Part:
    """A mesh made in memory as a part, with the colours that it has."""
    if isinstance(mesh, Part):
        return mesh
    paint = _textured(mesh)
    if paint is None:
        paint = Paint.plain(np.broadcast_to(_corner_colours(mesh), (len(mesh.faces), 3, 3)))
    return Part("", np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64), paint=paint)


def _corner_colours(mesh: trimesh.Trimesh) -> np.ndarray:
    from trimesh.visual import DEFAULT_COLOR, ColorVisuals

    visual = mesh.visual
    if isinstance(visual, ColorVisuals) and visual.kind == "vertex":
        return visual.vertex_colors[mesh.faces, :3] / np.float32(255)
    if isinstance(visual, ColorVisuals) and visual.kind == "face":
        return visual.face_colors[:, None, :3] / np.float32(255)
    main = getattr(getattr(visual, "material", None), "main_color", None)
    if main is not None and not np.array_equal(main[:3], DEFAULT_COLOR[:3]):
        return np.asarray(main[:3]) / np.float32(255)
    return np.array(CLAY)


def _textured(mesh: trimesh.Trimesh) -> Paint | None:
    from trimesh.visual import TextureVisuals

    visual = mesh.visual
    if not isinstance(visual, TextureVisuals) or visual.uv is None:
        return None
    image = getattr(visual.material, "baseColorTexture", None) or getattr(visual.material, "image", None)
    if image is None:
        return None
    uv = np.asarray(visual.uv, np.float32)[mesh.faces]
    corners = np.concatenate([uv, np.zeros_like(uv[..., :1])], 2)
    return Paint(corners, (np.asarray(image.convert("RGB")),), np.zeros(len(corners), np.int32))
