"""Loop's subdivision of triangle meshes: a smooth surface that a few vertices state."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Int

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


class Edges(NamedTuple):
    """The edges of a triangle mesh, by the lower end, then by the higher.

    Sides are those of all faces from the first to the second corner, then from the second to the third, then from the
    third to the first.

    Attributes:
        low, high: (e,) the ends.
        faces: (e,) how many faces an edge has.
        of_side: (3 f,) the edge that a side is.
        opposite: (3 f,) the corner of the side's face that is not on it.
    """

    low: Int[np.ndarray, "e"]
    high: Int[np.ndarray, "e"]
    faces: Int[np.ndarray, "e"]
    of_side: Int[np.ndarray, "s"]
    opposite: Int[np.ndarray, "s"]


def edges_of(vertices: int, faces: Int[np.ndarray, "f 3"]) -> Edges:
    """The edges of a mesh of so many vertices.

    >>> import numpy as np
    >>> edges = edges_of(4, np.array([[0, 1, 2], [2, 1, 3]]))
    >>> edges.low.tolist(), edges.high.tolist(), edges.faces.tolist()
    ([0, 0, 1, 1, 2], [1, 2, 2, 3, 3], [1, 1, 2, 1, 1])
    """
    a, b, c = faces.astype(np.int32).T  # half the memory, of which a hostile file must not take much
    first, second = np.concatenate([a, b, c]), np.concatenate([b, c, a])
    named = np.minimum(first, second) * np.int64(vertices) + np.maximum(first, second)
    keys, of_side, count = np.unique(named, return_inverse=True, return_counts=True)
    low, high, of_side = (x.astype(np.int32) for x in (keys // vertices, keys % vertices, of_side))
    return Edges(low, high, count, of_side, np.concatenate([c, a, b]))


def subdivided(
    vertices: int, faces: Int[np.ndarray, "f 3"], times: int = 1
) -> "tuple[csr_matrix, Int[np.ndarray, 'g 3']]":
    """The finer mesh of Loop's scheme (C. Loop, 1987), with the weights of J. Warren (1995), as a linear map.

    Each face becomes four, `times` times: three at its corners, in their order, then the one in its middle. A new
    vertex lies on an edge: 3/8 of each end and 1/8 of each of the two opposite corners. A vertex of n edges keeps
    1 − n β of itself and takes β of each neighbour: β = 3 / (8 n), or 3/16 if n < 4. An edge that does not have
    exactly two faces is a crease: the vertex on it is the middle of its ends, and its ends stay where they are.

    Arguments:
        vertices: how many the mesh has.
        faces: corners, none of them twice in a face.

    Returns:
        (m, vertices) the weights of the old vertices in each new one: the old ones first, then those on edges, level
        by level, by the lower end, then by the higher; and the finer faces, of the same orientation.

    Examples:
        >>> import numpy as np
        >>> corners = np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
        >>> weights, faces = subdivided(4, np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]]))
        >>> (weights @ corners).shape, len(faces)
        ((10, 3), 16)
    """
    from scipy.sparse import identity  # a tenth of a second, which plain meshes save

    weights, count = identity(vertices, format="csr"), vertices
    for _ in range(times):
        once, count, faces = _once(count, faces)
        weights = once @ weights if times > 1 else once
    return weights, faces


def _once(n: int, faces: np.ndarray) -> "tuple[csr_matrix, int, np.ndarray]":
    from scipy.sparse import csr_matrix

    low, high, count, on, beyond = edges_of(n, faces)
    smooth, middle = count == 2, np.arange(n, n + len(low), dtype=np.int32)
    degree = np.bincount(np.concatenate([low, high]), minlength=n)
    beta = np.where(degree > 3, 3 / (8 * np.maximum(degree, 1)), 3 / 16)
    beta[np.concatenate([low[~smooth], high[~smooth]])] = 0.0
    end = np.where(smooth, 3 / 8, 1 / 2)
    opposite = beyond[smooth[on]]
    every = np.arange(n, dtype=np.int32)
    rows = [middle, middle, on[smooth[on]] + n, every, low, high]
    columns = [low, high, opposite, every, high, low]
    shares = [end, end, np.full(len(opposite), 1 / 8), 1 - beta * degree, beta[low], beta[high]]
    entries = (np.concatenate(shares), (np.concatenate(rows), np.concatenate(columns)))
    (a, b, c), (ab, bc, ca) = faces.astype(np.int32).T, (on + n).reshape(3, -1)
    finer = [np.stack(corners, 1) for corners in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))]
    total = n + len(low)
    return csr_matrix(entries, shape=(total, n)), total, np.concatenate(finer)
