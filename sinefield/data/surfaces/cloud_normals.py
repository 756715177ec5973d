"""Normals of a point cloud: estimated where there are none, and oriented alike where they are not.

Directions are those of the plane of a point's neighbours. Their sides are found along a minimum spanning tree of the
neighbours, of which those with like directions are joined first (Hoppe et al., SIGGRAPH 1992, §3), and mended by the
winding number: it is larger behind a point than before it, whatever few points in between point the wrong way.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from scipy.spatial import KDTree

from sinefield.data.surfaces.dipoles import Dipoles, halved
from sinefield.data.surfaces.nearest import nearest

NEIGHBOURHOODS = 16, 24, 40, 64, 100
"""How many neighbours a plane is laid through: the first that is flat enough."""
FLAT = 0.3
"""Thickness of a neighbourhood over its width that is flat enough, the median of all points'."""
NEAR = 3.0
"""Of the quadric: weights fall as exp(−NEAR r²), r over the distance of the last neighbour."""
CURVED = 1.5
"""Neighbours of a quadric, over those of a plane."""
PROBED, ASKED = 2_000, 10_000
"""Points that the neighbourhoods are chosen by; and whose sides are held against the winding number, the others going
with the nearest of these."""
LINKS = 10
"""Neighbours that a side is passed on to."""
ROUNDS = 8
"""Most times that sides are mended by the winding number."""


class Planes(NamedTuple):
    """The plane through each point's neighbours.

    Attributes:
        normals: (n, 3) unit length, of either side.
        middles: (n, 3) of the neighbours.
        areas: (n,) that each point stands for: of the disc that the neighbours fill, over their number.
        thickness: standard deviation of the neighbours from their plane, the median of all points'.
        neighbours: how many were taken.
    """

    normals: Float[np.ndarray, "n 3"]
    middles: Float[np.ndarray, "n 3"]
    areas: Float[np.ndarray, "n"]
    thickness: float
    neighbours: int

    def flattened(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """The points moved along their normals into their planes."""
        off = np.einsum("ij,ij->i", points - self.middles, self.normals)
        return points - off[:, None] * self.normals


def planes_through(points: Float[np.ndarray, "n 3"]) -> Planes:
    """Planes through as few neighbours as make most neighbourhoods flat; noise asks for more."""
    tree, rng = KDTree(points), np.random.default_rng(0)
    some = points if len(points) <= PROBED else points[rng.choice(len(points), PROBED, replace=False)]
    count = NEIGHBOURHOODS[0]
    for count in NEIGHBOURHOODS:
        values = _axes(tree, some, count)[1]
        if np.median(np.sqrt(np.maximum(values[:, 0], 0) / np.maximum(values[:, 1], 1e-300))) <= FLAT:
            break
    count = min(count, len(points) - 1)
    middles, values, axes = _axes(tree, points, count)
    spread = np.sqrt(np.maximum(values, 0))
    # Points that fill a disc evenly vary by a quarter of its radius squared along either axis.
    areas = 2 * np.pi * (spread[:, 1] ** 2 + spread[:, 2] ** 2) / count
    areas[spread[:, 1] <= 1e-6 * spread[:, 2]] = 0  # neighbours on a line
    return Planes(axes[:, :, 0], middles, areas, float(np.median(spread[:, 0])), count)


def _axes(tree: KDTree, points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Middles of each point's neighbours, and the variances (ascending) and axes of their scatter."""
    count = min(count, tree.n - 1)
    found = []
    for part in np.array_split(points, len(points) // 50_000 + 1):
        around = tree.data[nearest(tree, part, list(range(1, count + 2)))[1]]
        middles = around.mean(axis=1)
        off = around - middles[:, None]
        found.append((middles, *np.linalg.eigh(np.matmul(off.transpose(0, 2, 1), off) / count)))
    middles, values, axes = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return middles, values, axes


def curved(
    points: Float[np.ndarray, "n 3"],
    places: Float[np.ndarray, "n 3"],
    normals: Float[np.ndarray, "n 3"],
    count: int,
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """Places moved along their normals onto quadrics through their neighbours, and the normals there.

    A plane through the neighbours cuts off what bends; a quadric follows it (Cazals and Pouget, Computer Aided
    Geometric Design 2005). Near neighbours count more, and those whose normals differ less: none that look the other
    way, as the far side of a thin part does.

    Arguments:
        points: as they were measured.
        places, normals: of the same points, moved already, and oriented alike.
        count: neighbours of each quadric.

    Returns:
        places (n, 3) and unit normals (n, 3).
    """
    tree, found, ways = KDTree(points), np.empty_like(places), np.empty_like(normals)
    count = min(count, len(points) - 1)
    for part in np.array_split(np.arange(len(points)), len(points) // 5_000 + 1):
        distances, near = nearest(tree, places[part], list(range(1, count + 1)))
        n = normals[part]
        u = np.cross(n, np.eye(3)[np.abs(n).argmin(axis=1)])
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        frame = np.stack([u, np.cross(n, u), n], axis=1)
        size = np.maximum(distances[:, -1:], 1e-300)
        x, y, z = np.moveaxis(
            np.matmul(points[near] - places[part][:, None], frame.transpose(0, 2, 1)) / size[:, None], 2, 0
        )
        weights = np.exp(-NEAR * (x * x + y * y)) * np.maximum(np.einsum("pkj,pj->pk", normals[near], n), 0)
        terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=2)
        weighted = (terms * weights[:, :, None]).transpose(0, 2, 1)
        # The hair leaves a point where it is, if too few neighbours say otherwise.
        sides = np.matmul(weighted, terms) + 1e-4 * np.eye(6)
        c = np.linalg.solve(sides, np.matmul(weighted, z[:, :, None]))[:, :, 0]
        found[part] = places[part] + c[:, :1] * size * n
        way = n - c[:, 1:2] * frame[:, 0] - c[:, 2:3] * frame[:, 1]
        ways[part] = way / np.linalg.norm(way, axis=1, keepdims=True)
    return found, ways


def oriented(
    points: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"], areas: Float[np.ndarray, "n"], voted: bool
) -> Float[np.ndarray, "n 3"]:
    """The normals, each turned to the outside or left.

    Arguments:
        areas: that each point stands for.
        voted: whether most given normals of what hangs together are right; otherwise the outside is where it encloses
            a positive volume.
    """
    tree = KDTree(points)
    near = nearest(tree, points, list(range(2, min(LINKS, len(points) - 1) + 2)))[1]
    found, label = _passed_on(normals, near)
    count = label.max() + 1
    if voted:
        agreeing = np.bincount(label, np.einsum("ij,ij->i", found, normals) * areas, count)
    else:
        middle = np.stack([np.bincount(label, points[:, i], count) for i in range(3)], axis=1)
        away = points - (middle / np.bincount(label, minlength=count)[:, None])[label]
        agreeing = np.bincount(label, areas * np.einsum("ij,ij->i", found, away), count)
    found = found * np.where(agreeing < 0, -1.0, 1.0)[label][:, None]
    chosen = np.arange(len(points))
    if len(points) > ASKED:
        chosen = np.random.default_rng(0).choice(len(points), ASKED, replace=False)
    guide = nearest(KDTree(points[chosen]), points)[1]
    order = halved(points)
    for _ in range(ROUNDS):
        wrong = against_winding(points, found, areas, chosen, order)
        if not wrong.any():
            break
        # A point goes with the nearest one that was asked.
        alike = np.einsum("ij,ij->i", found, found[chosen][guide]) > 0
        found = np.where((wrong[guide] & alike)[:, None], -found, found)
    return found


def _passed_on(
    normals: Float[np.ndarray, "n 3"], near: Int[np.ndarray, "n k"]
) -> tuple[Float[np.ndarray, "n 3"], Int[np.ndarray, "n"]]:
    """Normals with one side for all that hang together, and a label of what does."""
    a, b = np.repeat(np.arange(len(normals)), near.shape[1]), near.reshape(-1)
    # Never 0, which would be no link.
    cost = 1.0001 - np.abs(np.einsum("ij,ij->i", normals[a], normals[b]))
    graph = coo_matrix((cost, (a, b)), shape=(len(normals), len(normals))).tocsr()
    tree = minimum_spanning_tree(graph.maximum(graph.T))
    sides = np.ones(len(normals))
    _, label = connected_components(tree, directed=False)
    for first in np.unique(label, return_index=True)[1]:
        order, before = breadth_first_order(tree, first, directed=False)
        agree = np.einsum("ij,ij->i", normals[order[1:]], normals[before[order[1:]]]) >= 0
        for point, parent, same in zip(order[1:].tolist(), before[order[1:]].tolist(), agree.tolist(), strict=True):
            sides[point] = sides[parent] if same else -sides[parent]
    return normals * sides[:, None], label


def against_winding(
    points: Float[np.ndarray, "n 3"],
    normals: Float[np.ndarray, "n 3"],
    areas: Float[np.ndarray, "n"],
    asked: Int[np.ndarray, "m"],
    order: Int[np.ndarray, "n"] | None = None,
) -> Bool[np.ndarray, "m"]:
    """Which of the points asked look into the body that all together enclose: the winding number behind is smaller.

    Arguments:
        order: `halved` of the points, if it is known.
    """
    centre, size = points.mean(axis=0), float(np.ptp(points, axis=0).max())
    x, a = (points - centre) / size, areas / size**2
    step = 2 * np.sqrt(a[asked] / np.pi)[:, None] * normals[asked]
    queries = np.concatenate([x[asked] - step, x[asked] + step])
    around = Dipoles(x, normals, a, order).winding_number(queries)
    return around[: len(asked)] < around[len(asked) :]
