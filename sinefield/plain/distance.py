"""True distances of a shape field, near and far.

A shape's network learns distances in a narrow band round the surface. Beyond the band its value tells the side only,
and outside the box that it was trained in not even that. So its surface is extracted once, coarsely (`LevelSet`). The
answer is the exact distance to that mesh and, close to it, the network's own value.
"""

import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from sinefield.config import ShapeFieldConfig
from sinefield.errors import SinefieldError
from sinefield.plain.level_set import HALF_DIAGONAL, LevelSet
from sinefield.plain.network import PlainNetwork

CHUNK = 1 << 16
FAR = 1e4
"""Longest sides of the box; for a point further out, the nearest place is that of a point this far on the same ray."""
TRUSTED = 0.5
"""Cells by which the network's distance may differ from the mesh's, close to the surface."""
VALUES = 0.25, 0.75
"""Cells from the mesh up to which the network's distance counts fully, and from which on the mesh's alone: measured,
either is nearer to the truth there."""
SLOPES = 0.0, 0.25
"""The same of directions."""
STEP = 0.05
"""Cells between the points of a gradient by differences."""


class Behind(NamedTuple):
    """What the values of a stored field are made of: (network((point − centre) · scale) − level) · factor."""

    config: ShapeFieldConfig
    network: PlainNetwork
    centre: Float[np.ndarray, "3"]
    scale: float
    level: float
    factor: float


Quick = Callable[[np.ndarray, np.ndarray, np.ndarray | None, int], np.ndarray]
"""A compiled twin: fills in distances and directions of points by so many threads, and says where it has not."""


class TrueDistance:
    """Signed distance to the surface of a shape field anywhere in space, negative inside.

    The surface is extracted at the first question, in about half a second for a small field. Where the field's inside
    reaches the wall of the grid, a few cells outside the object's box (`level_set.MARGIN`), a lid closes the surface,
    and `capped` says so. Everything beyond is outside.

    Args:
        evaluate: (n,) values at float64 points (n, 3), input coordinates; negative inside. Where `learned` is set, they
            are distances in input units near the surface; otherwise any smooth number with the right sign, as a logit.
        aabb: (6,) the object's box, input units.
        learned: whether values are distances near the surface.
        slope: (n, 3) gradients of `evaluate`, whose length does not matter; by differences when None.
        resolution: cells along the box's longest side.

    Examples:
        >>> import numpy as np
        >>> ball = TrueDistance(lambda p: np.linalg.norm(p, axis=1) - 1, np.array([-1, -1, -1, 1, 1, 1.0]))
        >>> ball.sdf(np.array([[4.0, 0, 0], [0, 0.2, 0]])).round(2)
        array([ 3. , -0.8])
        >>> ball.inside(np.array([[4.0, 0, 0], [0, 0.2, 0]]))
        array([False,  True])
    """

    def __init__(
        self,
        evaluate: Callable[[Float[np.ndarray, "n 3"]], Float[np.ndarray, "n"]],
        aabb: Float[np.ndarray, "6"],
        learned: bool = True,
        slope: Callable[[Float[np.ndarray, "n 3"]], Float[np.ndarray, "n 3"]] | None = None,
        resolution: int = 112,
    ) -> None:
        aabb = np.asarray(aabb, np.float64)
        self.low, self.high = aabb[:3], aabb[3:]
        self.unit = float((self.high - self.low).max())
        if aabb.shape != (6,) or not np.isfinite(aabb).all() or not self.unit > 0 or (self.high < self.low).any():
            raise SinefieldError(f"box {aabb.tolist()} is empty; give xmin ymin zmin xmax ymax zmax")
        self.centre = (self.low + self.high) / 2
        self.evaluate, self.learned, self.slope, self.resolution = evaluate, learned, slope, resolution
        self.behind: Behind | None = None
        self.quick: Quick | None = None

    @classmethod
    def of_arrays(cls, config: ShapeFieldConfig, arrays: Mapping[str, np.ndarray]) -> "TrueDistance":
        """Distances of a stored shape field, by NumPy alone.

        Args:
            arrays: by name, those of the state dict of `fields.shape.ShapeField`.

        Raises:
            SinefieldError: see `PlainNetwork`.
        """
        network = PlainNetwork(config, arrays)
        centre, scale, aabb = (np.asarray(arrays[name], np.float64) for name in ("centre", "scale", "aabb"))
        learned = config.represents != "occupancy"
        # An occupancy's logit falls evenly through the surface where occupancy itself jumps.
        factor = config.band / scale if learned else -1.0
        level = 0.5 if config.loss == "mse" else 0.0

        def evaluate(points: np.ndarray) -> np.ndarray:
            return (network((points - centre) * scale)[:, 0].astype(np.float64) - level) * factor

        def slope(points: np.ndarray) -> np.ndarray:
            return network.with_gradient((points - centre) * scale)[1] * np.sign(factor)

        found = cls(evaluate, aabb, learned, slope)
        found.behind = Behind(config, network, centre, float(scale), level, float(factor))
        return found

    @property
    def capped(self) -> bool:
        """Whether a lid closes the surface at the wall of its grid."""
        return self.surface.capped

    @cached_property
    def surface(self) -> LevelSet:
        """The surface in coordinates whose origin is the box's centre and whose unit is its longest side.

        Raises:
            SinefieldError: the field has no surface in the box, or is not finite.
        """
        return LevelSet.extract(self._values, (self.high - self.low) / self.unit, self.resolution)

    def sdf(
        self, points: Float[np.ndarray, "n 3"], gradient: bool = False, threads: int = 1
    ) -> Float[np.ndarray, "n"] | tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n 3"]]:
        """Signed distance (n,) in input units at points (n, 3) in input coordinates; float64, or float32 as the points.

        Where a point is not finite, so is nothing of its answer; one warning says how many there are.

        Args:
            gradient: return also the gradients (n, 3), unit vectors that point away from the object.
            threads: of the compiled twin, see `plain.quick`.

        Raises:
            SinefieldError: points of another shape; the field has no surface.
        """
        points = shaped_points(points)
        distances = np.empty(len(points), points.dtype)
        directions = np.empty(points.shape, points.dtype) if gradient else None
        if self.quick is None or not len(points):
            left = np.arange(len(points))
        else:
            left = np.flatnonzero(self.quick(points, distances, directions, threads))
        if len(left):
            finite = np.isfinite(points[left]).all(axis=1)
            self._fill(points, left[finite], distances, directions)
            if not finite.all():
                _mark(left[~finite], distances, directions)
        return distances if directions is None else (distances, directions)

    def _fill(
        self, points: np.ndarray, which: np.ndarray, distances: np.ndarray, directions: np.ndarray | None
    ) -> None:
        """Fill in the answers of finite points."""
        for start in range(0, len(which), CHUNK):
            part = which[start : start + CHUNK]
            own = np.empty(len(part))
            ways = None if directions is None else np.empty((len(part), 3))
            self._answer(points[part].astype(np.float64), own, ways)
            distances[part] = own
            if directions is not None:
                directions[part] = ways

    def inside(self, points: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, "n"]:
        """Whether points (n, 3) in input coordinates are inside the object; raises as `sdf` does."""
        found = self.sdf(points)
        return np.asarray(found) < 0

    def _values(self, places: np.ndarray) -> np.ndarray:
        """The network's values, in the units of the surface, at places in its coordinates."""
        values = np.asarray(self.evaluate(places * self.unit + self.centre), np.float64) / self.unit
        if not np.isfinite(values).all():
            raise SinefieldError("the field is NaN or infinite within its box; train again, with a lower rate")
        return values

    def _answer(self, points: np.ndarray, distances: np.ndarray, directions: np.ndarray | None) -> None:
        """Fill in distances and directions of one chunk."""
        surface = self.surface
        places = points / self.unit - self.centre / self.unit
        _, closest = surface.nearest(_drawn_in(places))
        away = places - closest
        size = _length(away)
        sign = surface.side(places)
        close = (size < HALF_DIAGONAL * surface.pitch) & surface.covers(places)
        asked = np.flatnonzero(close | ((points >= self.low) & (points <= self.high)).all(axis=1))
        values = self._values(places[asked])
        # In its box the network has learned the side everywhere, also of what is thinner than a cell.
        own = np.where(values < 0, -1.0, 1.0)
        missed = (own != sign[asked]) & ~close[asked]
        sign[asked] = own
        if directions is not None:
            directions[:] = away * (sign / np.maximum(size, 1e-300))[:, None]
            steered = asked[size[asked] < SLOPES[1] * surface.pitch]
            directions[steered] = self._steered(places[steered], directions[steered], size[steered])
        if self.learned:
            size[asked] = self._corrected(size[asked], np.abs(values), missed)
        distances[:] = sign * size * self.unit

    def _corrected(self, size: np.ndarray, values: np.ndarray, missed: np.ndarray) -> np.ndarray:
        """Distances to the mesh, moved towards the network's close to it, and where the mesh has missed something."""
        pitch = self.surface.pitch
        allowed = pitch * TRUSTED * _fade(size / pitch, *VALUES)
        moved = size + np.clip(values - size, -allowed, allowed)
        return np.where(missed, np.minimum(size, values), moved)

    def _steered(self, places: np.ndarray, directions: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Directions close to the surface: on it the network's own, further away more and more the mesh's."""
        share = _fade(size / self.surface.pitch, *SLOPES)[:, None]
        mixed = share * _normalised(self._gradients(places)) + (1 - share) * directions
        # Where the two cancel, or the network is flat on the surface itself, no direction is better than another.
        mixed[_length(mixed) < 1e-6] = 0.0, 0.0, 1.0
        return _normalised(mixed)

    def _gradients(self, places: np.ndarray) -> np.ndarray:
        """Gradients of the network, of any length."""
        if self.slope is not None:
            return np.asarray(self.slope(places * self.unit + self.centre), np.float64)
        step = STEP * self.surface.pitch
        offsets = step * np.concatenate([np.eye(3), -np.eye(3)])
        values = self._values((places[:, None] + offsets).reshape(-1, 3)).reshape(-1, 2, 3)
        return (values[:, 0] - values[:, 1]) / (2 * step)


def shaped_points(points: Any) -> np.ndarray:
    """Points as (n, 3), one after another in memory: float32 as they are, all others float64.

    Raises:
        SinefieldError: another shape, or no numbers.
    """
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "fiu":
        raise SinefieldError(f"points are {points.dtype} of shape {points.shape}; give numbers of shape (n, 3)")
    return np.ascontiguousarray(points, np.float32 if points.dtype == np.float32 else np.float64)


def _mark(which: np.ndarray, distances: np.ndarray, directions: np.ndarray | None) -> None:
    """NaN for points that are not finite, and one warning for all of them."""
    distances[which] = np.nan
    if directions is not None:
        directions[which] = np.nan
    warnings.warn(
        f"{len(which):,} of {len(distances):,} points are not finite, the first is point {which[0]}; "
        "their distances are NaN",
        stacklevel=3,
    )


def checked_points(points: Any) -> np.ndarray:
    """Points as float64 (n, 3).

    Raises:
        SinefieldError: another shape, no numbers, or numbers that are not finite.
    """
    points = shaped_points(points).astype(np.float64)
    if not np.isfinite(points).all():
        bad = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise SinefieldError(f"point {bad} is {points[bad].tolist()}; give finite coordinates")
    return points


def _drawn_in(places: np.ndarray) -> np.ndarray:
    """Places beyond `FAR` moved towards the origin to there: squares of what is far further lose all digits."""
    largest = np.abs(places).max(axis=1, initial=0)
    return np.where((largest > FAR)[:, None], places * (FAR / np.maximum(largest, FAR))[:, None], places)


def _length(vectors: np.ndarray) -> np.ndarray:
    """Euclidean length, also where squares overflow."""
    return np.hypot(np.hypot(vectors[:, 0], vectors[:, 1]), vectors[:, 2])


def _normalised(vectors: np.ndarray) -> np.ndarray:
    length = _length(vectors)[:, None]
    return vectors / np.where(length > 0, length, 1.0)


def _fade(x: np.ndarray, one: float, zero: float) -> np.ndarray:
    """1 up to `one`, 0 from `zero` on, smooth between."""
    t = np.clip((zero - x) / (zero - one), 0, 1)
    return t * t * (3 - 2 * t)
