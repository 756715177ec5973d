"""A surface's colours as a picture that is laid over its mesh.

Charts and their places in the picture are those of xatlas, which `pip install 'sinefield[texture]'` brings.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.ndimage import distance_transform_edt

from sinefield.errors import SinefieldError

SIZES = 16, 8192
"""Pixels along a texture's side, least and most."""
PADDING = 2
"""Pixels between two charts, so that what a viewer interpolates is never of the next chart."""
MOST_FACES = 400_000
"""More take xatlas many minutes."""
CHART_FACES = 2000
CANDIDATES = 1 << 21
"""Pixels tested at once against the triangles they may lie in."""


class Textured(NamedTuple):
    """A mesh with a picture laid over it; vertices on the seams of charts stand there twice.

    Attributes:
        vertices: (v, 3) float64.
        faces: (f, 3) indices, in the order of the faces that were given.
        uv: (v, 2) in [0, 1], u to the right, v upwards from the picture's lower left corner.
        picture: (n, n, 3) sRGB, its first row on top.
        of: (v,) which of the given vertices each is.
    """

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    uv: Float[np.ndarray, "v 2"]
    picture: UInt8[np.ndarray, "n n 3"]
    of: Int[np.ndarray, "v"]


class Texels(NamedTuple):
    """Pixels of a picture whose centres lie in triangles.

    Attributes:
        row, column: (p,) in the picture, the first row on top.
        face: (p,) the triangle.
        weights: (p, 3) barycentric.
    """

    row: Int[np.ndarray, "p"]
    column: Int[np.ndarray, "p"]
    face: Int[np.ndarray, "p"]
    weights: Float[np.ndarray, "p 3"]


def check_texture(size: int) -> None:
    """Refuse, before a long evaluation, a texture that could not be made.

    Raises:
        SinefieldError: a size out of range; xatlas is not installed.
    """
    if not SIZES[0] <= size <= SIZES[1]:
        raise SinefieldError(f"--texture {size}: give {SIZES[0]} to {SIZES[1]} pixels a side")
    try:
        import xatlas  # noqa: F401
    except ImportError as error:
        raise SinefieldError("--texture needs xatlas; pip install 'sinefield[texture]'") from error


def bake(
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    normals: Float[np.ndarray, "v 3"],
    colours_of: Callable[[np.ndarray, np.ndarray], UInt8[np.ndarray, "p 3"]],
    size: int,
) -> Textured:
    """Lay a picture of the surface's colours over a mesh.

    Arguments:
        colours_of: sRGB (p, 3) of points on the surface, whose outward normals are given too.
        size: pixels along the picture's side.

    Raises:
        SinefieldError: see `check_texture`; too many faces.
    """
    check_texture(size)
    if len(faces) > MOST_FACES:
        raise SinefieldError(
            f"--texture: {len(faces):,} faces are too many to lay a picture over; give --faces {MOST_FACES // 4}"
        )
    of, split, uv = unwrapped(vertices, faces, size)
    picture, filled = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), bool)
    for part in texels(uv, split, size):
        corners = faces[part.face]
        places, outward = (np.einsum("pi,pij->pj", part.weights, values[corners]) for values in (vertices, normals))
        picture[part.row, part.column] = colours_of(places, outward)
        filled[part.row, part.column] = True
    if not filled.any():
        raise SinefieldError(f"--texture {size}: no pixel lies on the surface; give more pixels")
    # Every other pixel takes after its nearest: what a viewer interpolates at a chart's edge is the chart's.
    nearest: Any = distance_transform_edt(~filled, return_distances=False, return_indices=True)
    row, column = nearest
    return Textured(vertices[of], split, uv, picture[row, column], of)


def unwrapped(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], size: int
) -> tuple[Int[np.ndarray, "w"], Int[np.ndarray, "f 3"], Float[np.ndarray, "w 2"]]:
    """Which vertex each vertex of the charts is, the faces between these, and their u and v."""
    import xatlas

    # xatlas works in single precision: it gets a mesh of unit size around 0.
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    near = (vertices - (low + high) / 2) / (high - low).max()
    charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    charts.max_iterations = 1
    # The time it takes grows with the square of a chart's faces: many of them get charts of bounded size.
    corners = near[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
    if len(faces) > CHART_FACES:
        charts.max_chart_area = float(area * CHART_FACES / len(faces))
    packing.resolution, packing.padding, packing.bilinear = size, PADDING, True
    atlas = xatlas.Atlas()
    atlas.add_mesh(near.astype(np.float32), faces.astype(np.uint32))
    atlas.generate(charts, packing)
    charted: Any = cast("object", atlas[0])  # the package says None
    of, split, uv = charted
    return of.astype(np.int64), split.astype(np.int64), uv.astype(np.float64)


def texels(uv: Float[np.ndarray, "v 2"], faces: Int[np.ndarray, "f 3"], size: int) -> Iterator[Texels]:
    """All pixels of a square picture whose centres lie in triangles, some triangles at a time."""
    # A pixel's centre is at whole numbers here.
    corners = np.stack([uv[:, 0] * size - 0.5, (1 - uv[:, 1]) * size - 0.5], axis=1)[faces]
    first = np.ceil(corners.min(axis=1)).clip(0, size - 1).astype(np.int64)
    last = np.floor(corners.max(axis=1)).clip(-1, size - 1).astype(np.int64)
    wide, high = np.maximum(last - first + 1, 0).T
    ends = np.cumsum(wide * high)
    start = 0
    while start < len(faces):
        before = int(ends[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends, before + CANDIDATES, side="right")), start + 1)
        face = np.repeat(np.arange(start, stop), (wide * high)[start:stop])
        place = np.arange(before, before + len(face)) - (ends - wide * high)[face]
        row = first[face, 1] + place // np.maximum(wide[face], 1)
        column = first[face, 0] + place % np.maximum(wide[face], 1)
        weights = _barycentric(corners[face], np.stack([column, row], axis=1))
        within = (weights >= -1e-9).all(axis=1)
        yield Texels(row[within], column[within], face[within], weights[within])
        start = stop


def _barycentric(corners: Float[np.ndarray, "p 3 2"], points: Int[np.ndarray, "p 2"]) -> Float[np.ndarray, "p 3"]:
    """Weights of points in triangles of a plane; NaN in those without an area, which hold nothing."""
    a, ab, ac = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    to = points - a
    with np.errstate(all="ignore"):
        area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
        b = (to[:, 0] * ac[:, 1] - to[:, 1] * ac[:, 0]) / area
        c = (ab[:, 0] * to[:, 1] - ab[:, 1] * to[:, 0]) / area
    return np.stack([1 - b - c, b, c], axis=1)
