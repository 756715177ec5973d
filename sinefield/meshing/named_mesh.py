"""A mesh on its way into a file, and how much of it single precision keeps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from sinefield.errors import SinefieldError
from sinefield.meshing.frame import Placing

DOUBLE_ABOVE = 1e-6
"""Loss, as a share of the object's size, from which a file gets double precision or a local origin."""
REFUSED_ABOVE = 1e-4
"""Loss that a format without double precision may not cause."""


@dataclass(frozen=True, eq=False)
class NamedMesh:
    """One object of a mesh file.

    Attributes:
        name: "" for none.
        vertices: (v, 3) float64.
        faces: (f, 3), counter-clockwise seen from outside.
        colours: (v, 3) sRGB, or None.
        normals: (v, 3) unit vectors, or None.
        uv: (v, 2) places in `picture`, u to the right, v upwards from the lower left corner, or None; in GLB and OBJ.
        picture: (h, w, 3) sRGB, its first row on top; or None.
        library: the file beside an OBJ that names the picture.
    """

    name: str
    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    colours: UInt8[np.ndarray, "v 3"] | None = None
    normals: Float[np.ndarray, "v 3"] | None = None
    uv: Float[np.ndarray, "v 2"] | None = None
    picture: UInt8[np.ndarray, "h w 3"] | None = None
    library: str = ""

    def placed(self, placing: Placing) -> "NamedMesh":
        """The same in the coordinates of a file."""
        normals = None if self.normals is None else np.asarray(self.normals) @ placing.turn.T
        return replace(self, vertices=placing.apply(self.vertices), normals=normals)

    def local(self) -> tuple[Float[np.ndarray, "3"], Float32[np.ndarray, "v 3"]]:
        """An origin, and single precision coordinates from there: 0 where these lose nothing, else the box's centre."""
        vertices = np.asarray(self.vertices, np.float64)
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        origin = (low + high) / 2 if single_loss(low, high) > DOUBLE_ABOVE else np.zeros(3)
        return origin, (vertices - origin).astype(np.float32)


def single_loss(low: Float[np.ndarray, "3"], high: Float[np.ndarray, "3"]) -> float:
    """How far single precision moves a coordinate at most, as a share of the longest side of the box `low` to `high`.

    >>> single_loss(np.full(3, 1e7), np.full(3, 1e7 + 2)), single_loss(-np.ones(3), np.ones(3)) < 1e-7
    (0.25, True)
    """
    side = float(np.max(np.subtract(high, low)))
    return _moved(low, high) / side if side > 0 else 0.0


def greatest_loss(meshes: Sequence[NamedMesh]) -> float:
    """The greatest `single_loss` of their boxes."""
    return max(single_loss(np.min(mesh.vertices, axis=0), np.max(mesh.vertices, axis=0)) for mesh in meshes)


def check_single(path: object, low: Float[np.ndarray, "3"], high: Float[np.ndarray, "3"]) -> None:
    """Refuse a box that single precision would blur.

    Raises:
        SinefieldError: it moves coordinates by more than `REFUSED_ABOVE` of the size.
    """
    loss = single_loss(low, high)
    if loss > REFUSED_ABOVE:
        raise SinefieldError(
            f"{path}: STL has single precision only, which moves points this far from the origin by up to "
            f"{_moved(low, high):.2g}, {100 * loss:.2g} % of the object's size; write .ply, .glb or .obj"
        )


def joined(meshes: Sequence[NamedMesh]) -> NamedMesh:
    """All in one, for formats without names; what has no colour beside others that have is light grey."""
    if len(meshes) == 1:
        return meshes[0]
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    return NamedMesh(
        "",
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts, strict=False)]),
        _joined_colours(meshes),
        None if any(m.normals is None for m in meshes) else np.concatenate([np.asarray(m.normals) for m in meshes]),
    )


def _joined_colours(meshes: Sequence[NamedMesh]) -> UInt8[np.ndarray, "v 3"] | None:
    if all(mesh.colours is None for mesh in meshes):
        return None
    grey = np.full(3, 204, np.uint8)
    return np.concatenate(
        [np.broadcast_to(grey, (len(m.vertices), 3)) if m.colours is None else m.colours for m in meshes]
    )


def linear(colours: UInt8[np.ndarray, "v 3"]) -> Float32[np.ndarray, "v 3"]:
    """sRGB as linear light in [0, 1] (IEC 61966-2-1)."""
    level = np.arange(256) / 255
    table = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    return table.astype(np.float32)[colours]


def _moved(low: np.ndarray, high: np.ndarray) -> float:
    return float(np.spacing(np.float32(max(np.abs(low).max(), np.abs(high).max()))) / 2)
