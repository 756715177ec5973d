"""The pieces of a mesh, and which of them are inside out.

A piece is what hangs together by edges that two faces share; pieces of which none is closed on its own, but which are
closed together along edges of more faces, count as one. Each is judged alone: a closed piece whose volume is negative
is inside out, unless it lies in another one, which it hollows. What lies in a turned piece is turned with it, so that
hollows stay hollow. An open piece is judged alike if flat lids over its holes would close it into a body. All other
open pieces are judged together: faces that are not joined may close a body all the same, and then winding numbers are
near whole. Otherwise they are sheets: a floor has no inside, no say in what other pieces hold, and stays as it is.
"""

from typing import Any, NamedTuple

import igl
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

BODY = 0.4
"""Share of its surface that an open piece may lack and still be a body."""
FLAT = 0.01
"""Volume over area^1.5 below which an open piece is no body; a ball has 0.094, a cube 0.068."""
NEARLY, MOSTLY = 0.2, 0.15
"""How far from whole a winding number may be; and what share of those around loose faces may be further off if the
faces are to close a body."""
ASKED = 4096
"""Points that loose faces are judged by."""
CONTAINERS = 2000
"""Most pieces that are asked what lies in them, largest first."""


class Pieces(NamedTuple):
    """The pieces of a mesh.

    Attributes:
        of_face: (f,) the piece of each face, pieces numbered from the largest area to the smallest.
        area, volume: (p,) of each, after turning; the volume of an open piece is that with flat lids over its holes.
        closed, turned: (p,) whether its edges are walked as often one way as the other; whether it was inside out.
        boundary_edges: how many edges lack their opposite.
        lids: (p,) area of the smallest flat lids over the holes.
        bodies: (p,) whether it has an inside: it is closed, or flat lids would close it, around some volume.
    """

    of_face: Int[np.ndarray, "f"]
    area: Float[np.ndarray, "p"]
    volume: Float[np.ndarray, "p"]
    closed: Bool[np.ndarray, "p"]
    turned: Bool[np.ndarray, "p"]
    lids: Float[np.ndarray, "p"]
    bodies: Bool[np.ndarray, "p"]
    boundary_edges: int

    def counts(self) -> dict[str, Any]:
        """What a report says of them."""
        total, lids = float(self.area.sum()), float(self.lids.sum())
        return {
            "pieces": len(self.area),
            "closed_pieces": int(self.closed.sum()),
            "bodies": int(self.bodies.sum()),
            "turned_pieces": int(self.turned.sum()),
            "watertight": bool(self.closed.all()),
            "boundary_edges": self.boundary_edges,
            "open_fraction": lids / (total + lids),
            "open_share": float(self.area[~self.bodies].sum()) / total,
            "volume": float(self.volume.sum()),
        }


def find_pieces(vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]) -> Pieces:
    """The pieces of a mesh whose neighbouring faces agree on the way round; nothing is turned yet in `faces`."""
    vertices = vertices - (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    of_face = _hanging_together(faces)
    found = _measured(vertices, faces, of_face)
    sheets = ~found.bodies[found.of_face]
    # Nothing but loose faces that close a body: one piece, whose holes are but gaps between them.
    if (~found.bodies).sum() > 1 and (side := _side(vertices, faces[sheets])):
        found = _measured(vertices, faces, np.where(sheets, -1, found.of_face))
        loose = found.of_face[np.flatnonzero(sheets)[0]]
        found.bodies[loose], found.lids[loose] = True, 0.0
        found.volume[loose] = side * abs(_cones(vertices, faces[sheets]).sum())
    turned = _turned(vertices, faces, found.of_face, found.bodies, found.volume)
    return found._replace(turned=turned, volume=np.where(turned, -found.volume, found.volume))


def _measured(vertices: np.ndarray, faces: np.ndarray, label: np.ndarray) -> Pieces:
    """The pieces with these labels, none of them turned."""
    areas = np.linalg.norm(area_vectors(vertices, faces), axis=1)
    of_face = np.unique(label, return_inverse=True)[1]
    order = np.argsort(-np.bincount(of_face, areas), kind="stable")
    of_face, n = np.argsort(order)[of_face], len(order)
    area, volume = np.bincount(of_face, areas, n), np.bincount(of_face, _cones(vertices, faces), n)
    open_of, starts, ends = _boundary(faces, of_face)
    lids, under = _lids(vertices, open_of, starts, ends, n)
    closed = np.bincount(open_of, minlength=n) == 0
    volume = volume + under
    body = (lids < BODY * (area + lids)) & (np.abs(volume) > FLAT * (area + lids) ** 1.5)
    bodies = np.where(closed, np.abs(volume) > 1e-9 * area**1.5, body)
    return Pieces(of_face, area, volume, closed, np.zeros(n, bool), lids, bodies, len(starts))


def _cones(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Signed volume between each face and the origin."""
    return np.einsum("ij,ij->i", area_vectors(vertices, faces), vertices[faces].mean(axis=1)) / 3


def component_of_faces(faces: Int[np.ndarray, "f 3"], n_vertices: int) -> Int[np.ndarray, "f"]:
    """A label for each face, equal for faces connected through shared vertices."""
    a, b = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    graph = coo_matrix((np.ones(len(a), np.int8), (a, b)), shape=(n_vertices, n_vertices))
    return connected_components(graph, directed=False)[1][faces[:, 0]]


def ambiguous_share(windings: Float[np.ndarray, "n"]) -> float:
    """The share of winding numbers that are no more whole than not: further than `NEARLY` from a whole number."""
    return float((np.abs(windings - np.round(windings)) > NEARLY).mean())


def area_vectors(vertices: np.ndarray, faces: np.ndarray) -> Float[np.ndarray, "f 3"]:
    """Area times normal of each face."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return np.cross(b - a, c - a) / 2


def edges_of(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Distinct edges (e, 2), smaller vertex first; of each face's edges 01, 12, 20 (3 f,) which one it is; how many
    faces use each; and by how many more it is walked upwards."""
    directed = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)
    size = directed.max() + 1
    distinct, which, count = np.unique(
        directed.min(axis=1) * size + directed.max(axis=1), return_inverse=True, return_counts=True
    )
    ways = np.where(directed[:, 0] < directed[:, 1], 1, -1)
    balance = np.bincount(which, weights=ways).astype(np.int64)
    return np.stack(np.divmod(distinct, size), axis=1), which, count, balance


def _hanging_together(faces: np.ndarray) -> np.ndarray:
    """A label for each face: of its patch where the patch is closed, else of all open patches that it meets."""
    _, which, count, _ = edges_of(faces)
    face = np.repeat(np.arange(len(faces)), 3)
    patch = _joined(face, which, count[which] == 2, len(faces))
    open_of, _, _ = _boundary(faces, patch)
    is_open = np.zeros(patch.max() + 1, bool)
    is_open[open_of] = True
    # Open patches that meet along any edge: a wall between two rooms, a sheet on a body.
    whole = _joined(face, which, (count[which] == 2) | is_open[patch[face]], len(faces))
    return np.unique(np.where(is_open[patch], whole, patch + len(faces)), return_inverse=True)[1]


def _joined(face: np.ndarray, which: np.ndarray, counts: np.ndarray, n: int) -> np.ndarray:
    """Labels of `n` faces, equal where a chain of the edges that count joins them."""
    rows = face[counts], which[counts] + n
    size = n + int(which.max()) + 1
    graph = coo_matrix((np.ones(len(rows[0]), np.int8), rows), shape=(size, size))
    return np.unique(connected_components(graph, directed=False)[1][:n], return_inverse=True)[1]


def _boundary(faces: np.ndarray, of_face: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directed edges that no opposite one of the same piece answers: the piece, and the vertices from and to."""
    _, which, _, _ = edges_of(faces)
    directed = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    piece = np.repeat(of_face, 3)
    key, first, inverse = np.unique(
        piece.astype(np.int64) * (int(which.max()) + 1) + which, return_index=True, return_inverse=True
    )
    up = directed[:, 0] < directed[:, 1]
    balance = np.bincount(inverse, np.where(up, 1, -1), len(key)).astype(np.int64)
    lacking = np.flatnonzero(balance)
    low, high = directed[first[lacking]].min(axis=1), directed[first[lacking]].max(axis=1)
    forward = balance[lacking] > 0
    starts, ends = np.where(forward, low, high), np.where(forward, high, low)
    often = np.abs(balance[lacking])
    return np.repeat(piece[first[lacking]], often), np.repeat(starts, often), np.repeat(ends, often)


def _lids(
    vertices: np.ndarray, piece: np.ndarray, starts: np.ndarray, ends: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Area of the smallest flat lids over each piece's holes, and the volume that the lids add."""
    if len(starts) == 0:
        return np.zeros(n), np.zeros(n)
    # A hole's edges hang together in one piece.
    ends_of = np.unique(
        np.stack([np.tile(piece, 2), np.concatenate([starts, ends])], axis=1), axis=0, return_inverse=True
    )
    a, b = ends_of[1].reshape(2, -1)
    size = len(ends_of[0])
    hole = connected_components(coo_matrix((np.ones(len(a)), (a, b)), shape=(size, size)), directed=False)[1][a]
    often = np.bincount(hole)
    middle = np.stack([np.bincount(hole, vertices[starts][:, i]) for i in range(3)], axis=1) / often[:, None]
    # The lid goes round against the boundary.
    vectors = np.cross(vertices[ends] - middle[hole], vertices[starts] - middle[hole]) / 2
    lid = np.stack([np.bincount(hole, vectors[:, i]) for i in range(3)], axis=1)
    owner = np.zeros(len(often), np.int64)
    owner[hole] = piece
    under = np.einsum("ij,ij->i", lid, middle) / 3
    return np.bincount(owner, np.linalg.norm(lid, axis=1), n), np.bincount(owner, under, n)


def _turned(
    vertices: np.ndarray, faces: np.ndarray, of_face: np.ndarray, bodies: np.ndarray, volume: np.ndarray
) -> np.ndarray:
    """Which pieces are to be turned; see the module."""
    inverted = bodies & (volume < 0)
    if not inverted.any() or len(volume) == 1:
        return inverted
    low, high = (np.full((len(volume), 3), fill) for fill in (np.inf, -np.inf))
    places = vertices[faces]
    np.minimum.at(low, of_face, places.min(axis=1))
    np.maximum.at(high, of_face, places.max(axis=1))
    by_face = np.argsort(of_face, kind="stable")
    starts = np.searchsorted(of_face[by_face], np.arange(len(volume) + 1))
    parent = np.full(len(volume), -1)
    sizes = np.linalg.norm(high - low, axis=1)
    # From the largest on: the last container that is found is the smallest one.
    for c in np.argsort(-sizes, kind="stable")[:CONTAINERS]:
        if not bodies[c]:
            continue
        within = np.flatnonzero(
            (low >= low[c]).all(axis=1) & (high <= high[c]).all(axis=1) & bodies & (sizes < sizes[c])
        )
        if len(within):
            own = faces[by_face[starts[c] : starts[c + 1]]].astype(np.int64)
            # Of each piece the middles of a few faces: a vertex may touch the container.
            asked = [by_face[np.linspace(starts[p], starts[p + 1] - 1, 5).astype(int)] for p in within]
            around = igl.fast_winding_number(vertices, own, places[np.stack(asked).reshape(-1)].mean(axis=1))
            parent[within[(np.abs(around).reshape(-1, 5) > 0.5).all(axis=1)]] = c
    turned = np.zeros(len(volume), bool)
    for p in np.argsort(-sizes, kind="stable"):
        turned[p] = inverted[p] if parent[p] < 0 else turned[parent[p]]
    return turned


def _side(vertices: np.ndarray, faces: np.ndarray) -> int:
    """Of faces that are not joined: 1 where they close a body, −1 where they close it inside out, else 0."""
    places = vertices[faces]
    low, high = places.min((0, 1)), places.max((0, 1))
    points = low + np.random.default_rng(0).random((ASKED, 3)) * (high - low)
    windings = np.asarray(igl.fast_winding_number(vertices, faces.astype(np.int64), points))
    felt = windings[np.abs(windings) > NEARLY]  # the empty space around them says nothing
    whole = np.round(felt)
    if not whole.any() or ambiguous_share(felt) > MOSTLY:
        return 0
    return 1 if (whole > 0).sum() >= (whole < 0).sum() else -1
