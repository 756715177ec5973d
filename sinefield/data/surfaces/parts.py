"""What a file of a mesh or a point cloud holds: its parts by name, each placed, with what colours it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int32

CLAY = (0.80, 0.76, 0.72)
"""The colour of what brings none, sRGB."""
PLAIN = -1
"""In place of a texture's number: the face's corners hold colours."""


@dataclass(frozen=True, eq=False)
class Paint:
    """The colours of a mesh's faces, sRGB.

    Attributes:
        corners: (f, 3, 3) float32, what each face's corners hold: a colour in [0, 1]; or, on a face with a texture,
            u, v and 0, u to the right and v upwards from the picture's lower left corner, in pictures.
        textures: pictures (h, w, 3), uint8.
        texture_of: (f,) which of them each face has; `PLAIN` for none.
    """

    corners: Float[np.ndarray, "f 3 3"]
    textures: tuple[np.ndarray, ...]
    texture_of: Int32[np.ndarray, "f"]

    @classmethod
    def plain(cls, corners: np.ndarray) -> "Paint":
        """Of corners' colours alone: (f, 3, 3), or (3,) the one colour of `f` faces broadcast by the caller."""
        corners = np.ascontiguousarray(corners, np.float32)
        return cls(corners, (), np.full(len(corners), PLAIN, np.int32))

    @classmethod
    def of_vertices(cls, colours: np.ndarray, faces: np.ndarray) -> "Paint":
        """Of (v, 3) colours of vertices, uint8 or in [0, 1]."""
        scale = 255.0 if colours.dtype == np.uint8 else 1.0
        return cls.plain(colours.astype(np.float32)[faces] / np.float32(scale))

    @classmethod
    def joined(cls, paints: "Sequence[Paint]") -> "Paint":
        """Of several meshes whose faces follow one another."""
        starts = np.cumsum([0, *(len(paint.textures) for paint in paints)])
        numbers = [
            np.where(paint.texture_of == PLAIN, PLAIN, paint.texture_of + start)
            for paint, start in zip(paints, starts, strict=False)
        ]
        return cls(
            np.concatenate([paint.corners for paint in paints]),
            tuple(texture for paint in paints for texture in paint.textures),
            np.concatenate(numbers).astype(np.int32),
        )

    def followed(self, kept: Int[np.ndarray, "g"], corner: Int[np.ndarray, "g 3"]) -> "Paint":
        """Of the faces `kept`, whose corners are now these of the former ones."""
        return Paint(self.corners[kept[:, None], corner], self.textures, self.texture_of[kept])

    def at(self, faces: Int[np.ndarray, "n"], weights: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """sRGB in [0, 1] at points of faces, by their barycentric weights."""
        found = np.einsum("nij,ni->nj", self.corners[faces], weights.astype(np.float32))
        number = self.texture_of[faces]
        for i in np.unique(number[number != PLAIN]):
            rows = number == i
            found[rows] = bilinear(self.textures[i], found[rows, :2])
        return found.clip(0, 1)


def bilinear(texture: np.ndarray, uv: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    """A uint8 texture's colour in [0, 1] at (n, 2) coordinates, v upwards, repeating beyond [0, 1]."""
    height, width = texture.shape[:2]
    x, y = uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right, below = (x - column)[:, None], (y - row)[:, None]

    def at(r: np.ndarray, c: np.ndarray) -> np.ndarray:
        return texture[r % height, c % width].astype(np.float32) / np.float32(255)

    upper = at(row, column) * (1 - right) + at(row, column + 1) * right
    lower = at(row + 1, column) * (1 - right) + at(row + 1, column + 1) * right
    return upper * (1 - below) + lower * below


class Part(NamedTuple):
    """One node, object or group of a file, in the file's own coordinates and unit, its transforms applied.

    Attributes:
        name: as the file has it, "" for none.
        vertices: (v, 3) float64.
        faces: (f, 3) int64 triangles; None for points.
        normals: (v, 3) of points; None where there are none. Those of a mesh's vertices are not read.
        paint: of the faces; None where the file gives no colour.
        colours: (v, 3) uint8 of points; None where there are none.
    """

    name: str
    vertices: np.ndarray
    faces: np.ndarray | None = None
    normals: np.ndarray | None = None
    paint: Paint | None = None
    colours: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class ShapeFile:
    """Everything that a file holds.

    Attributes:
        parts: meshes, or where there is none point clouds; in the file's order.
        unit: "m", "mm", …, where the format or the file says; None otherwise.
        notes: what was guessed, left out or mended in reading, a sentence each.
    """

    parts: list[Part]
    unit: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def vertices(self) -> Float[np.ndarray, "v 3"]:
        """Those of all parts, float64."""
        return np.ascontiguousarray(np.concatenate([part.vertices for part in self.parts]), np.float64)

    def noted(self, *notes: str) -> "ShapeFile":
        """The same with more to say."""
        return replace(self, notes=[*self.notes, *notes])
