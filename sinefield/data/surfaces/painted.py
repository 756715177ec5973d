"""A surface with its colours, to be photographed."""

import numpy as np

from sinefield.data.surfaces.parts import CLAY, Paint, Part
from sinefield.data.surfaces.surface import Surface


def painted(surface: Surface) -> Part:
    """A surface's faces in its own colours; clay where it brings none. Raises SinefieldError for a point cloud."""
    faces, paint = surface.mesh_faces(), surface.paint
    if paint is None:
        paint = Paint.plain(np.tile(np.array(CLAY, np.float32), (len(faces), 3, 1)))
    return Part("", surface.vertices, faces.astype(np.int64), paint=paint)
