"""Questions that are answered by signed distances: nearest places of the surface, rays, clearance."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from sinefield.plain.distance import TrueDistance, shaped_points

NEWTON = 12
"""Steps of a projection, at most."""
ON = 1e-5
"""Diagonals of the box; a place with a smaller distance is on the surface."""
MISSED = 0.005
"""Diagonals: what `TrueDistance.sdf` may be too large by, away from the surface; tests measure it."""
MARCH = 400
"""Steps of a ray, at most."""


class Closest(NamedTuple):
    """Places on the surface.

    Attributes:
        points: (n, 3).
        distances: (n,) from the asked points, signed as these are.
        found: (n,) whether a place was verified to be on the surface, and as far away as the distance says.
    """

    points: Float[np.ndarray, "n 3"]
    distances: Float[np.ndarray, "n"]
    found: Bool[np.ndarray, "n"]


class Hits(NamedTuple):
    """Where rays first meet the surface.

    Attributes:
        t: (n,) along each ray, in units of its direction's length; infinite where there is no hit.
        points: (n, 3), NaN without a hit.
        normals: (n, 3) unit vectors that point away from the object, NaN without a hit.
        hit: (n,).
    """

    t: Float[np.ndarray, "n"]
    points: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]
    hit: Bool[np.ndarray, "n"]


class Clearance(NamedTuple):
    """How two objects stand to each other, by samples of both surfaces.

    Attributes:
        distance: between the surfaces where they are apart; the deepest penetration, negative, where they are not.
        points: (2, 3) the sample that says so, and the place of the other surface next to it.
        error: what a sample may be off by at most: the distance may be smaller by that.
    """

    distance: float
    points: Float[np.ndarray, "2 3"]
    error: float


def diagonal(distance: TrueDistance) -> float:
    """Of the object's box, input units."""
    return float(np.linalg.norm(distance.high - distance.low))


def closest(distance: TrueDistance, points: Float[np.ndarray, "n 3"], threads: int = 1) -> Closest:
    """The nearest places on the surface: Newton's steps along the gradient, each verified by the distance there."""
    points = shaped_points(points).astype(np.float64)
    first, way = (np.asarray(x, np.float64) for x in distance.sdf(points, True, threads))
    places, value, small = points.copy(), first.copy(), ON * diagonal(distance)
    # Rounding of coordinates far from the origin is no error of the step.
    small = small + 4 * np.finfo(np.float64).eps * np.abs(np.nan_to_num(points)).max(axis=1, initial=0)
    best, least = places.copy(), np.abs(value)
    for _ in range(NEWTON):
        moving = np.flatnonzero(np.abs(value) > small)
        if not len(moving):
            break
        places[moving] -= value[moving, None] * way[moving]
        again, turned = distance.sdf(places[moving], True, threads)
        value[moving], way[moving] = again, turned
        nearer = moving[np.abs(value[moving]) < least[moving]]
        best[nearer], least[nearer] = places[nearer], np.abs(value[nearer])
    length = np.linalg.norm(points - best, axis=1)
    fits = np.abs(length - np.abs(first)) <= MISSED * diagonal(distance) + 0.02 * np.abs(first)
    return Closest(best, np.copysign(length, first), (least <= small) & fits)


def ray(
    distance: TrueDistance,
    origins: Float[np.ndarray, "n 3"],
    directions: Float[np.ndarray, "n 3"],
    threads: int = 1,
) -> Hits:
    """Where rays first meet the surface, by sphere tracing.

    A step is the distance less `MISSED` diagonals, so that it passes nothing the distance knows of; closer to the
    surface than twice that a step is half of `MISSED`, and the crossing is found by bisection. What is promised: a hit
    is on the surface, and a part of the object that a ray stays in for longer than half of `MISSED` is not missed.

    Args:
        directions: of any length but 0.
    """
    o, d = shaped_points(origins).astype(np.float64), shaped_points(directions).astype(np.float64)
    size = diagonal(distance)
    length = np.linalg.norm(d, axis=1)
    unit = d / np.where(length > 0, length, 1.0)[:, None]
    middle, radius = (distance.low + distance.high) / 2, 0.75 * size
    # The part of a ray within a ball around the box, a little larger.
    along = ((middle - o) * unit).sum(axis=1)
    beside = radius**2 - (((o - middle) + along[:, None] * unit) ** 2).sum(axis=1)
    half = np.sqrt(np.maximum(beside, 0))
    t, leave = np.maximum(along - half, 0), along + half
    live = np.flatnonzero((beside > 0) & (leave > 0) & np.isfinite(o).all(axis=1) & (length > 0))
    found = np.full(len(o), np.inf)
    value = np.full(len(o), np.nan)
    value[live] = distance.sdf(o[live] + t[live, None] * unit[live], threads=threads)
    slack = MISSED * size

    def ask(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        return np.asarray(distance.sdf(o[rows] + at[:, None] * unit[rows], threads=threads), np.float64)

    for _ in range(MARCH):
        live = live[t[live] <= leave[live]]
        if not len(live):
            break
        step = np.maximum(np.abs(value[live]) - slack, slack / 2)
        ahead = ask(live, t[live] + step)
        # Where the sign changes, and where a ray begins on the surface, it has met it.
        crossed = (ahead < 0) != (value[live] < 0)
        rows = live[crossed]
        found[rows] = _bisected(ask, rows, t[rows], t[rows] + step[crossed], value[rows] < 0)
        t[live] += step
        value[live] = ahead
        live = live[~crossed]
    hit = np.isfinite(found)
    points = np.full(o.shape, np.nan)
    normals = np.full(o.shape, np.nan)
    points[hit] = o[hit] + found[hit, None] * unit[hit]
    if hit.any():
        normals[hit] = distance.sdf(points[hit], True, threads)[1]
    return Hits(np.where(hit, found, np.inf) / np.where(length > 0, length, 1.0), points, normals, hit)


def _bisected(
    ask: Callable[[np.ndarray, np.ndarray], np.ndarray], rows: np.ndarray, low: np.ndarray, high: np.ndarray, inside
) -> np.ndarray:
    """Where the sign changes between two places of each ray."""
    for _ in range(30):
        if not len(rows):
            break
        middle = (low + high) / 2
        same = (ask(rows, middle) < 0) == inside
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    return (low + high) / 2


def clearance(one: TrueDistance, other: TrueDistance, samples: int = 20_000, threads: int = 1) -> Clearance:
    """How two objects in the same coordinates stand to each other.

    Samples are vertices of the surfaces' meshes, evenly taken, moved onto the zero level.
    """
    best = np.inf
    pair, error = np.zeros((2, 3)), 0.0
    for own, their in ((one, other), (other, one)):
        surface = own.surface
        vertices = surface.vertices * own.unit + own.centre
        stride = max(len(vertices) // samples, 1)
        vertices = vertices[::stride]
        values = np.asarray(their.sdf(vertices, threads=threads))
        at = int(values.argmin())
        error = max(error, float(2 * surface.pitch * own.unit * stride**0.5))
        if values[at] < best:
            best = float(values[at])
            pair = np.stack([vertices[at], closest(their, vertices[at : at + 1]).points[0]])
    return Clearance(best, pair, error)
