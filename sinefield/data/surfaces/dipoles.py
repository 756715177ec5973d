"""The winding number of an oriented point cloud, by a tree of which far parts count as one.

Each point is a dipole of its area (Barill et al., Fast Winding Numbers for Soups and Clouds, SIGGRAPH 2018, §4): w(q) =
Σ a n·(x − q) / (4π |x − q|³). Of a part farther than `BETA` times its radius the sum is expanded at its middle, to the
second order. libigl's own takes 13 kB for each point; this takes 0.2.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

BETA = 2.0
LEAF, BRANCHES = 8, 4
BLOCK = 2048
"""Queries that walk the tree together: their pairs with parts stay in the cache."""


class _Level(NamedTuple):
    """Parts of as many points each, from left to right.

    Attributes:
        middle: (p, 3) by area.
        reach: (p,) the square of `BETA` times the radius.
        moments: (p, 23) what the sum is expanded into, see `_level`.
    """

    middle: Float[np.ndarray, "p 3"]
    reach: Float[np.ndarray, "p"]
    moments: Float[np.ndarray, "p 23"]


PAIRS = np.triu_indices(3)
TRIPLES = tuple(np.array([(i, j, k) for i in range(3) for j in range(i, 3) for k in range(j, 3)]).T)
"""The axes of the products of two and of three coordinates."""


class Dipoles:
    """Points with normals and areas, which answer winding numbers.

    Arguments:
        points: (n, 3).
        normals: (n, 3) outward, unit length.
        areas: (n,) that each point stands for, in the square of the points' unit.
        order: that of dipoles at the same points, if they are known; it takes most of the time.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> ball = rng.normal(size=(20_000, 3))
        >>> ball /= np.linalg.norm(ball, axis=1, keepdims=True)
        >>> dipoles = Dipoles(ball, ball, np.full(20_000, 4 * np.pi / 20_000))
        >>> (dipoles.winding_number(np.array([[0.0, 0.0, 0.5], [0.0, 0.0, 3.0]])) > 0.5).tolist()
        [True, False]
    """

    def __init__(
        self,
        points: Float[np.ndarray, "n 3"],
        normals: Float[np.ndarray, "n 3"],
        areas: Float[np.ndarray, "n"],
        order: Int[np.ndarray, "n"] | None = None,
    ) -> None:
        self.order = order = halved(points) if order is None else order
        self.points, self.weighted = points[order], (normals * areas[:, None])[order]
        self.levels: list[_Level] = []
        weights, size = np.maximum(areas[order], 1e-6 * areas.mean() + 1e-300), LEAF  # of no area: a middle for all
        while True:
            self.levels.append(_level(self.points, self.weighted, weights, size))
            if size >= len(points):
                break
            size *= BRANCHES
        self.levels.reverse()

    def winding_number(self, queries: Float[np.ndarray, "m 3"]) -> Float[np.ndarray, "m"]:
        """At (m, 3) queries in the points' coordinates, to some thousandths; neighbours are quickest asked together."""
        blocks = np.array_split(queries, len(queries) // BLOCK + 1)
        # Whatever ends this block, its threads end before.
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            return np.concatenate(list(pool.map(self._walked, blocks)))

    def _walked(self, queries: Float[np.ndarray, "m 3"]) -> Float[np.ndarray, "m"]:
        """One block down the tree: pairs of a query and a part are summed where far, else go on with its branches."""
        found = np.zeros(len(queries))
        query, part = np.arange(len(queries)), np.zeros(len(queries), np.int64)
        for depth, level in enumerate(self.levels):
            off = level.middle[part] - queries[query]
            square = np.einsum("ij,ij->i", off, off)
            far = square > level.reach[part]
            found += _summed(query[far], _expanded(level.moments[part[far]], off[far], square[far]), len(queries))
            query, part = query[~far], part[~far]
            deeper = len(self.points) if depth + 1 == len(self.levels) else len(self.levels[depth + 1].middle)
            query, part = _branches(query, part, LEAF if depth + 1 == len(self.levels) else BRANCHES, deeper)
        off = self.points[part] - queries[query]
        square = np.einsum("ij,ij->i", off, off)
        with np.errstate(divide="ignore", invalid="ignore"):
            near = np.einsum("ij,ij->i", off, self.weighted[part]) / (4 * np.pi * square**1.5)
        return found + _summed(query, np.where(square > 0, near, 0.0), len(queries))


def halved(points: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, "n"]:
    """Indices (n,) that order (n, 3) points such that each `LEAF` · 2^k of them, from the left, lie close together.

    Each such part is cut across its longest side, so that its left half is full.
    """
    order, size = np.arange(len(points)), LEAF
    while size < len(points):
        size *= 2
    while size > LEAF:
        starts, placed = np.arange(0, len(points), size), points[order]
        longest = (np.maximum.reduceat(placed, starts) - np.minimum.reduceat(placed, starts)).argmax(axis=1)
        part = np.arange(len(points)) // size
        order = order[np.lexsort((placed[np.arange(len(points)), longest[part]], part))]
        size //= 2
    return order


def _level(points: np.ndarray, weighted: np.ndarray, areas: np.ndarray, size: int) -> _Level:
    """Parts of `size` points, with the sums over their points of v = a n, and of its products with δ = x − middle.

    v; −3 sym(v δ); v·δ; 15/2 sym(v δ δ); −3/2 (2 (v·δ) δ + v |δ|²): what the powers of the distance go with.
    """
    starts = np.arange(0, len(points), size)
    middle = np.add.reduceat(points * areas[:, None], starts) / np.add.reduceat(areas, starts)[:, None]
    off = points - middle[np.arange(len(points)) // size]
    square, along = np.einsum("ij,ij->i", off, off), np.einsum("ij,ij->i", weighted, off)
    sums = np.empty((len(starts), 23))
    sums[:, :3] = np.add.reduceat(weighted, starts)
    i, j = PAIRS
    for column, (a, b) in enumerate(zip(i, j, strict=True), 3):
        both = weighted[:, a] * off[:, b] + weighted[:, b] * off[:, a]
        sums[:, column] = np.add.reduceat(both, starts) * (-1.5 if a == b else -3.0)
    sums[:, 9] = np.add.reduceat(along, starts)
    for column, (a, b, c) in enumerate(zip(*TRIPLES, strict=True), 10):
        three = weighted[:, a] * off[:, b] * off[:, c] + weighted[:, b] * off[:, a] * off[:, c]
        three += weighted[:, c] * off[:, a] * off[:, b]
        times = {1: 1, 2: 3, 3: 6}[len({a, b, c})]  # how often the product stands in the cube of a sum
        sums[:, column] = np.add.reduceat(three, starts) * (7.5 / 3 * times)
    sums[:, 20:] = np.add.reduceat(2 * along[:, None] * off + weighted * square[:, None], starts) * -1.5
    return _Level(middle, BETA**2 * np.maximum.reduceat(square, starts), sums)


def _expanded(moments: Float[np.ndarray, "p 23"], off: np.ndarray, square: np.ndarray) -> np.ndarray:
    """What far parts add: their dipoles and the first two derivatives by place, at `off` = middle − query."""
    (i, j), (a, b, c) = PAIRS, TRIPLES
    power = np.sqrt(square) * square  # |off|³
    two = np.einsum("ij,ij->i", moments[:, 3:9], off[:, i] * off[:, j])
    three = np.einsum("ij,ij->i", moments[:, 10:20], off[:, a] * off[:, b] * off[:, c])
    one = np.einsum("ij,ij->i", moments[:, :3], off) + moments[:, 9]
    return (one + (two + np.einsum("ij,ij->i", moments[:, 20:], off) + three / square) / square) / (4 * np.pi * power)


def _branches(query: np.ndarray, part: np.ndarray, count: int, of: int) -> tuple[np.ndarray, np.ndarray]:
    """Each pair as its pairs one level deeper, where there are `of` parts."""
    deeper = (count * part[:, None] + np.arange(count)).reshape(-1)
    there = deeper < of
    return np.repeat(query, count)[there], deeper[there]


def _summed(query: np.ndarray, terms: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(query, terms, count)
