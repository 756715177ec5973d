"""What a shape's signed distance answers: the part of `sinefield.Field` that asks it."""

from __future__ import annotations

from typing import Any

import numpy as np

from sinefield.errors import SinefieldError
from sinefield.plain.distance import TrueDistance
from sinefield.plain.questions import like, numbers, whole
from sinefield.plain.surface_queries import Clearance, Closest, Hits, clearance, closest, ray

QUICK_AFTER, COMPILE_AFTER = 200_000, 2_000_000
"""Points asked of a field from which on compiled kernels are worth their import, and their compilation."""
CALL = 20
"""Points that take as long as a call does besides."""


class Distances:
    """Questions about distances; points are in the coordinates in which the data came, NumPy or torch."""

    _asked = 0
    _threads = 1

    def _true_distance(self) -> TrueDistance:
        raise NotImplementedError

    def sdf(self, points: Any, gradient: bool = False, threads: int | None = None) -> Any:
        """Signed distance to the surface, negative inside, anywhere in space; of a sheet the distance, never negative.

        Near the surface it is the network's value; farther away the distance to the field's mesh, which is extracted
        at the first call (`plain.distance.TrueDistance`). After many points compiled kernels answer; see `prepare`.

        Arguments:
            points: (n, 3), input coordinates, float32 or float64.
            gradient: give also the gradients (n, 3), unit vectors that point away from the object.
            threads: how many the kernels may use; numba's own number (NUMBA_NUM_THREADS) when None.

        Returns:
            (n,) in input units; with `gradient` a pair. NaN for points that are not finite, with a warning.

        Raises:
            SinefieldError: points of another shape; a field without a surface or a distance.

        Examples:
            >>> import sinefield as sf
            >>> knot = sf.load("example:knot")
            >>> far = knot.bounds[1] + 10
            >>> bool(knot.sdf([far])[0] > 10)
            True
        """
        given = numbers(points)
        distance, threads = self._ready(len(given) if given.ndim else 0, threads)
        found = distance.sdf(given, gradient, threads)
        if isinstance(found, tuple):
            return like(points, found[0]), like(points, found[1])
        return like(points, found)

    def prepare(self, compiling: bool = True) -> bool:
        """Let compiled kernels answer `sdf` from the next call on; returns whether they will.

        This happens by itself after 200,000 points if the kernels are stored on this machine, and after 2,000,000 if
        they must be compiled first, which takes about 15 seconds. They answer within twice the field's box. For
        sheets, hash grids and other kinds of field NumPy or torch answers always.

        Arguments:
            compiling: compile the kernels if they are not stored yet.

        Raises:
            SinefieldError: a field without a surface or a distance.

        Examples:
            >>> import sinefield as sf
            >>> sf.load("example:knot").prepare(compiling=False) in (True, False)
            True
        """
        from sinefield.store.compiled import quickened

        distance = self._true_distance()
        if distance.quick is None and distance.behind is not None:
            self._threads = quickened(distance, compiling)
        return distance.quick is not None

    def inside(self, points: Any) -> Any:
        """Whether points (n, 3) are inside the object; (n,) bool; no point is inside a sheet. See `sdf`."""
        found = self.sdf(numbers(points)) < 0
        return like(points, found)

    def closest(self, points: Any, threads: int | None = None) -> Closest:
        """The nearest points on the surface to points (n, 3): `points`, signed `distances`, and `found`.

        A few Newton steps along the gradient, then a check: `found` says for each whether the point is on the surface
        to 1e-5 of the box's diagonal, and as far away as the distance says.

        Raises:
            SinefieldError: as `sdf`.

        Examples:
            >>> import sinefield as sf
            >>> knot = sf.load("example:knot")
            >>> near = knot.closest([[0.1, 0.2, 0.9]])
            >>> bool(near.found[0]), bool(abs(knot.sdf(near.points)[0]) < 1e-4)
            (True, True)
        """
        given = numbers(points)
        distance, count = self._ready(8 * len(given) if given.ndim else 0, threads)
        found = closest(distance, given, count)
        return Closest(like(points, found.points), like(points, found.distances), like(points, found.found))

    def ray(self, origins: Any, directions: Any, threads: int | None = None) -> Hits:
        """Where rays from origins (n, 3) along directions (n, 3) first meet the surface: `Hits`.

        A hit is on the surface. A ray may miss only what it crosses in less than 0.25 % of the box's diagonal
        (`plain.surface_queries.ray`). `t` is in lengths of the direction. From inside the back of the surface is hit.

        Raises:
            SinefieldError: as `sdf`; not as many directions as origins, or one of no length.

        Examples:
            >>> import sinefield as sf
            >>> bool(sf.load("example:knot").ray([[0.0, 0.78, 5]], [[0.0, 0, -1]]).hit[0])
            True
        """
        o, d = numbers(origins), numbers(directions)
        if o.shape != d.shape or o.ndim != 2:
            raise SinefieldError(f"{o.shape} origins and {d.shape} directions; give as many of both, of shape (n, 3)")
        if d.dtype.kind in "fiu" and bool((d == 0).all(axis=1).any()):
            raise SinefieldError(f"direction {int(np.flatnonzero((d == 0).all(axis=1))[0])} has no length")
        distance, count = self._ready(40 * len(o), threads)
        found = ray(distance, o, d, count)
        return Hits(*(like(origins, part) for part in found))

    def distance_to(self, other: Any, samples: int = 20_000, threads: int | None = None) -> Clearance:
        """How far another field's surface is away, in the same coordinates; negative where the two overlap.

        Both surfaces are sampled, and each sample asks the other field: `distance`, the two `points` where it is, and
        `error`, by which the distance may be smaller between samples.

        Raises:
            SinefieldError: as `sdf`; something that is no field.

        Examples:
            >>> import sinefield as sf
            >>> sf.load("example:knot").distance_to(sf.load("example:knot")).distance < 0
            True
        """
        if not isinstance(other, Distances):
            raise SinefieldError(f"distance_to takes a field, not {type(other).__name__}; load one with sf.load")
        count = whole("samples", samples)
        own, threads = self._ready(count, threads)
        theirs, _ = other._ready(count, threads)
        return clearance(own, theirs, count, threads)

    def _ready(self, points: int, threads: int | None) -> tuple[TrueDistance, int]:
        """The distance, by kernels where that is worth it for so many points more, and for how many threads."""
        distance, wished = self._true_distance(), None if threads is None else whole("threads", threads)
        self._asked += CALL + points
        if distance.quick is None and self._asked >= QUICK_AFTER:
            self.prepare(compiling=self._asked >= COMPILE_AFTER)
        return distance, wished or self._threads
