"""Families of shapes made by formula, to learn from: each is a function of a seed, no two shapes alike.

Every shape is the zero level of a function of our own, negative inside and about a distance near the surface. It can be
asked anywhere, so that labels are exact and need no mesh. z is up. Nothing is thinner than about 0.07 of the longest
side, some fourteen times the noise of the scans that shapes are to be found from.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

from sinefield.data.made.procedural import Implicit, join, meet
from sinefield.errors import SinefieldError

Points = Float[np.ndarray, "n 3"]
Values = Float[np.ndarray, "n"]


@dataclass(frozen=True)
class Shape:
    """One shape of a family.

    Attributes:
        family: its name, a key of `FAMILIES`.
        implicit: (n, 3) points → (n,) values, negative inside, about distances near the surface.
        reach: the shape lies within the box ±reach.
    """

    family: str
    implicit: Implicit
    reach: tuple[float, float, float]

    def inside(self, points: Points) -> Bool[np.ndarray, "n"]:
        """Whether points (n, 3) are inside."""
        return self.implicit(points) < 0


def make_shape(family: str, seed: int) -> Shape:
    """The shape of a family that a seed stands for; the same seed, the same shape.

    Raises:
        SinefieldError: no such family.
    """
    check_families([family])
    number = list(FAMILIES).index(family)
    implicit, reach = FAMILIES[family](np.random.default_rng([seed, number]))
    return Shape(family, implicit, reach)


def check_families(names: list[str]) -> None:
    """Refuse a name that is no family's."""
    for name in names:
        if name not in FAMILIES:
            raise SinefieldError(f"no family of shapes is called {name!r}; one of {', '.join(FAMILIES)}")


Made = tuple[Implicit, tuple[float, float, float]]


def _chair(rng: np.random.Generator) -> Made:
    width, depth = rng.uniform(0.42, 0.6), rng.uniform(0.42, 0.55)
    seat, height = rng.uniform(0.4, 0.5), rng.uniform(0.9, 1.1)
    slab, leg = rng.uniform(0.08, 0.13), rng.uniform(0.085, 0.12)
    x, y = width / 2, depth / 2
    round_legs, splay = rng.random() < 0.5, rng.uniform(0, 0.12)
    parts: list[Implicit] = [_box((0, 0, seat), (x, y, slab / 2), rng.uniform(0, 0.03))]
    for sx in (-1, 1):
        for sy in (-1, 1):
            top = np.array([sx * (x - leg / 2), sy * (y - leg / 2), seat])
            foot = top * (1 + splay, 1 + splay, 0) + (0, 0, leg / 2 if round_legs else 0)
            parts.append(_stick(foot, top, leg / 2, round_legs))
    back = rng.uniform(0.08, 0.11)
    style = rng.integers(3)
    if style == 0:
        parts.append(_box((0, y - back / 2, (seat + height) / 2), (x, back / 2, (height - seat) / 2), 0.02))
    else:  # a frame, with bars across or upright
        bar = rng.uniform(0.04, 0.055)
        middle = (seat + height) / 2
        for sx in (-1, 1):
            parts.append(_box((sx * (x - bar), y - back / 2, middle), (bar, back / 2, (height - seat) / 2), 0.01))
        parts.append(_box((0, y - back / 2, height - bar), (x, back / 2, bar), 0.01))
        if style == 1:
            parts.append(_box((0, y - back / 2, seat + 0.5 * (height - seat)), (x, back / 2, bar), 0.01))
        else:
            parts.append(_box((0, y - back / 2, middle), (bar, back / 2, (height - seat) / 2), 0.01))
    if rng.random() < 0.4:
        arm, bar = seat + rng.uniform(0.18, 0.24), rng.uniform(0.04, 0.05)
        for sx in (-1, 1):
            parts.append(_box((sx * (x - bar), 0, arm), (bar, y, bar), 0.01))
            parts.append(_box((sx * (x - bar), bar - y, (arm + seat) / 2), (bar, bar, (arm - seat) / 2), 0.01))
    return _shifted(_union(parts), (0, 0, height / 2)), (0.4, 0.4, 0.62)


def _table(rng: np.random.Generator) -> Made:
    x, y, height = rng.uniform(0.35, 0.5), rng.uniform(0.28, 0.5), rng.uniform(0.4, 0.75)
    slab, leg = rng.uniform(0.08, 0.12), rng.uniform(0.085, 0.13)
    if rng.random() < 0.4:
        y = x if rng.random() < 0.5 else y
        top = _disc((0, 0, height - slab / 2), (x, y), slab / 2)
    else:
        top = _box((0, 0, height - slab / 2), (x, y, slab / 2), rng.uniform(0, 0.03))
    parts = [top]
    if rng.random() < 0.35:  # on one foot
        parts.append(_stick(np.zeros(3), np.array([0, 0, height - slab / 2]), leg * rng.uniform(0.6, 1), True))
        parts.append(_disc((0, 0, 0.035), (rng.uniform(0.5, 0.8) * x,) * 2, 0.035))
    else:
        inset, splay, round_legs = rng.uniform(0.62, 0.7), rng.uniform(1.0, 1.15), rng.random() < 0.5
        for sx in (-1, 1):
            for sy in (-1, 1):
                head = np.array([sx * x * inset, sy * y * inset, height - slab / 2])
                foot = head * (splay, splay, 0) + (0, 0, leg / 2 if round_legs else 0)
                parts.append(_stick(foot, head, leg / 2, round_legs))
        if rng.random() < 0.4:
            parts.append(_box((0, 0, height * rng.uniform(0.25, 0.5)), (x * inset, y * inset, 0.035), 0.01))
    return _shifted(_union(parts), (0, 0, height / 2)), (0.6, 0.6, 0.42)


def _vase(rng: np.random.Generator) -> Made:
    base, wall, floor = rng.uniform(0.2, 0.28), rng.uniform(0.04, 0.055), rng.uniform(0.08, 0.12)
    a, b = rng.uniform(-0.07, 0.07, 2)
    lean, phase = rng.uniform(-0.06, 0.06), rng.uniform(0, 2 * np.pi)
    flutes, depth, twist = rng.integers(4, 9), rng.choice([0.0, rng.uniform(0.01, 0.02)]), rng.uniform(-3, 3)
    hollow = rng.random() < 0.75

    def implicit(p: np.ndarray) -> np.ndarray:
        z, r = p[:, 2], np.hypot(p[:, 0], p[:, 1])
        profile = base + a * np.sin(2 * np.pi * z + phase) + b * np.sin(4 * np.pi * z + 2 * phase) + lean * z
        slope = 2 * np.pi * a * np.cos(2 * np.pi * z + phase) + 4 * np.pi * b * np.cos(4 * np.pi * z + 2 * phase)
        profile = profile + depth * np.cos(flutes * np.arctan2(p[:, 1], p[:, 0]) + twist * z)
        side = (r - profile) / np.sqrt(1 + (slope + lean) ** 2)
        outer = np.maximum(side, np.abs(z) - 0.5)
        if not hollow:
            return outer
        return np.maximum(outer, -np.maximum(side + 2 * wall, -0.5 + floor - z))

    return implicit, (0.5, 0.5, 0.55)


def _gear(rng: np.random.Generator) -> Made:
    teeth, radius, height = int(rng.integers(7, 17)), rng.uniform(0.36, 0.44), rng.uniform(0.06, 0.16)
    tooth = rng.uniform(0.035, 0.06)
    hole = rng.uniform(0.06, 0.13)
    windows = int(rng.integers(3, 7)) if rng.random() < 0.5 else 0
    hub = rng.uniform(0, 0.12) if rng.random() < 0.5 else 0.0
    turn = _turn(rng) if rng.random() < 0.3 else np.eye(3)

    def implicit(p: np.ndarray) -> np.ndarray:
        p = p @ turn
        r, angle, z = np.hypot(p[:, 0], p[:, 1]), np.arctan2(p[:, 1], p[:, 0]), np.abs(p[:, 2])
        rim = 0.7 * (r - radius - tooth * np.tanh(2.5 * np.cos(teeth * angle)))
        body = np.maximum(rim, z - height)
        if windows:
            sector = (angle + np.pi / windows) % (2 * np.pi / windows) - np.pi / windows
            middle, size = (hole + 0.08 + radius - tooth - 0.07) / 2, (radius - tooth - hole - 0.15) / 2
            size = min(size, middle * np.sin(np.pi / windows) - 0.035)
            centre = np.hypot(r * np.cos(sector) - middle, r * np.sin(sector))
            body = np.maximum(body, size - centre)
        body = np.minimum(body, np.maximum(r - hole - 0.08, z - height - hub))
        return np.maximum(body, hole - r)

    return implicit, (0.56, 0.56, 0.56)


def _knot(rng: np.random.Generator) -> Made:
    p, q = [(2, 3), (3, 2), (1, 2), (1, 3), (2, 1), (1, 0)][rng.integers(6)]
    minor = rng.uniform(0.11, 0.16)
    tube = rng.uniform(0.055, 0.075)
    t = np.linspace(0, 2 * np.pi, 600, endpoint=False)
    squash = rng.uniform(0.75, 1.0)
    r = 0.3 + minor * np.cos(q * t)
    line = np.stack([r * np.cos(p * t), squash * r * np.sin(p * t), 1.1 * minor * np.sin(q * t)], 1) @ _turn(rng)
    tree = KDTree(line)
    return lambda x: tree.query(x)[0] - tube, (0.56, 0.56, 0.56)


def _superquadric(rng: np.random.Generator) -> Made:
    radii, turn = rng.uniform(0.18, 0.48, 3), _turn(rng)
    e1, e2 = rng.uniform(0.25, 1.8, 2)
    taper, bend = rng.uniform(-0.5, 0.5), rng.uniform(-0.6, 0.6)

    def implicit(p: np.ndarray) -> np.ndarray:
        x, y, z = (p @ turn).T / radii[:, None]
        scale = 1 + taper * np.clip(z, -1, 1)
        x = (x - bend * (z**2 - 0.5)) / scale
        y = y / scale
        flat = np.abs(x) ** (2 / e2) + np.abs(y) ** (2 / e2)
        total = (flat ** (e2 / e1) + np.abs(z) ** (2 / e1)) ** (e1 / 2)
        return (total - 1) * radii.min() * 0.7

    return implicit, (1.1, 1.1, 1.1)


def _assembly(rng: np.random.Generator) -> Made:
    """A body of two or three solids joined and one or two cut out."""
    value = _solid(rng, rng.uniform(-0.08, 0.08, 3), 1.0)
    for _ in range(rng.integers(1, 3)):
        value = _both(np.minimum, value, _solid(rng, rng.uniform(-0.22, 0.22, 3), 0.85))
    for _ in range(rng.integers(1, 3)):
        direction = rng.standard_normal(3)
        place = 0.3 * direction / np.linalg.norm(direction)
        value = _both(lambda a, b: np.maximum(a, -b), value, _solid(rng, place, 0.6))
    turn = _turn(rng) if rng.random() < 0.5 else np.eye(3)
    return lambda p: value(p @ turn), (0.9, 0.9, 0.9)


def _blob(rng: np.random.Generator) -> Made:
    n, blend = int(rng.integers(3, 8)), rng.uniform(0.05, 0.15)
    centres = [np.zeros(3)]
    radii = [rng.uniform(0.14, 0.22)]
    for _ in range(n - 1):  # each on the surface of an earlier one
        direction, parent = rng.standard_normal(3), rng.integers(len(centres))
        centres.append(centres[parent] + radii[parent] * 1.2 * direction / np.linalg.norm(direction))
        radii.append(rng.uniform(0.09, 0.18))
    middle = (np.min(centres, 0) + np.max(centres, 0)) / 2

    def implicit(p: np.ndarray) -> np.ndarray:
        value = np.linalg.norm(p - centres[0] + middle, axis=1) - radii[0]
        for centre, radius in zip(centres[1:], radii[1:], strict=True):
            value = join(value, np.linalg.norm(p - centre + middle, axis=1) - radius, blend)
        return value

    reach = np.max(np.abs(np.array(centres) - middle) + np.array(radii)[:, None], 0) + blend
    x, y, z = (float(r) for r in reach)
    return implicit, (x, y, z)


FAMILIES: dict[str, Callable[[np.random.Generator], Made]] = {
    "chair": _chair,
    "table": _table,
    "vase": _vase,
    "gear": _gear,
    "knot": _knot,
    "superquadric": _superquadric,
    "assembly": _assembly,
    "blob": _blob,
}
"""What makes a shape of each family. Their order is part of what a seed means; only ever appended to."""


def _solid(rng: np.random.Generator, centre: np.ndarray, size: float) -> Implicit:
    turn = _turn(rng) if rng.random() < 0.5 else np.eye(3)
    kind, (a, b, c) = rng.integers(4), size * rng.uniform(0.16, 0.34, 3)
    solid = [
        lambda: _box((0, 0, 0), (a, b, c), 0.0),
        lambda: lambda p: np.linalg.norm(p, axis=1) - a,
        lambda: _disc((0, 0, 0), (a, a), b),
        lambda: lambda p: np.hypot(np.hypot(p[:, 0], p[:, 1]) - a, p[:, 2]) - max(0.4 * b, 0.05),
    ][kind]()
    return lambda p: solid((p - centre) @ turn)


def _box(centre: tuple, half: tuple, rounding: float) -> Implicit:
    middle, sides = np.array(centre), np.array(half)

    def implicit(p: np.ndarray) -> np.ndarray:
        q = np.abs(p - middle) - sides + rounding
        return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(1), 0) - rounding

    return implicit


def _disc(centre: tuple, radii: tuple, half: float) -> Implicit:
    """An upright elliptic cylinder."""
    middle, axes = np.array(centre), np.array(radii)

    def implicit(p: np.ndarray) -> np.ndarray:
        q = p - middle
        side = (np.linalg.norm(q[:, :2] / axes, axis=1) - 1) * axes.min()
        return meet(side, np.abs(q[:, 2]) - half, 0.01)

    return implicit


def _stick(foot: np.ndarray, head: np.ndarray, radius: float, rounded: bool) -> Implicit:
    """A capsule, or a square bar between two heights."""
    along = head - foot

    def implicit(p: np.ndarray) -> np.ndarray:
        if rounded:
            share = np.clip((p - foot) @ along / (along @ along), 0, 1)
            return np.linalg.norm(p - foot - share[:, None] * along, axis=1) - radius
        share = (p[:, 2] - foot[2]) / along[2]
        q = np.abs(p[:, :2] - foot[:2] - share[:, None] * along[:2]).max(1) - radius
        return np.maximum(q, np.maximum(foot[2] - p[:, 2], p[:, 2] - head[2]))

    return implicit


def _union(parts: list[Implicit]) -> Implicit:
    return lambda p: np.minimum.reduce([part(p) for part in parts])


def _both(operation: Callable[[np.ndarray, np.ndarray], np.ndarray], a: Implicit, b: Implicit) -> Implicit:
    return lambda p: operation(a(p), b(p))


def _shifted(implicit: Implicit, offset: tuple[float, float, float]) -> Implicit:
    return lambda p: implicit(p + np.array(offset))


def _turn(rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """A rotation, uniform over all."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q
