"""A surface as meshes that have its colours, to be photographed."""

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual import ColorVisuals, TextureVisuals

from sinefield.data.surfaces.parts import CLAY, PLAIN, Paint
from sinefield.data.surfaces.surface import Surface


def painted_parts(surface: Surface) -> list[trimesh.Trimesh]:
    """A surface's faces in its own colours, those of each texture a mesh of their own; clay where it brings none."""
    faces, paint = surface.mesh_faces(), surface.paint
    if paint is None:
        paint = Paint.plain(np.tile(np.array(CLAY, np.float32), (len(faces), 3, 1)))
    parts = []
    for number in np.unique(paint.texture_of):
        mine = np.flatnonzero(paint.texture_of == number)
        corners, values = surface.vertices[faces[mine]].reshape(-1, 3), paint.corners[mine].reshape(-1, 3)
        mesh = trimesh.Trimesh(corners, np.arange(len(corners)).reshape(-1, 3), process=False)
        if number == PLAIN:
            mesh.visual = ColorVisuals(mesh, vertex_colors=np.round(255 * values).astype(np.uint8))
        else:
            mesh.visual = TextureVisuals(uv=values[:, :2], image=Image.fromarray(paint.textures[number]))
        parts.append(mesh)
    return parts
