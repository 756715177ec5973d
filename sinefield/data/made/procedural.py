"""Two coloured things to practise on, made by formula: a table of toys (`demo_scene`), its centrepiece (`demo_shape`).

Every solid is the zero level of a function of our own (negative inside, about a distance), meshed by marching cubes and
coloured vertex by vertex. World units; z is up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import KDTree
from skimage.measure import marching_cubes

if TYPE_CHECKING:  # half a second, which families of shapes do without
    import trimesh

Implicit = Callable[[np.ndarray], np.ndarray]  # (p, 3) points -> (p,) signed values
Paint = Callable[[np.ndarray], np.ndarray]  # (p, 3) points -> (p, 3) colours in [0, 1]

CORAL, AMBER, TEAL, BLUE, VIOLET, CREAM, NAVY, MINT = (
    np.array(bytearray.fromhex(code)) / 255
    for code in ("f0634f", "f7b538", "1fa08d", "3b74c4", "8d5bb5", "fbeed5", "2c3c66", "9bd8a8")
)
RAINBOW = np.stack([CORAL, AMBER, VIOLET])
TABLE_TOP = -0.42
TUBE, CORE, KNOB, BLEND = 0.13, 0.33, 0.2, 0.07  # radii of the demo shape's parts, and of the fillets between them


def demo_shape(seed: int = 0, step: float = 0.022) -> trimesh.Trimesh:
    """The centrepiece alone: a trefoil knot with three knobs, grown onto a ball. Nothing is thinner than 0.26.

    Arguments:
        seed: 0 is the one in the pictures; others shuffle its colours and vary its knobs a little.
        step: edge of the marching cubes, world units.

    Returns:
        One watertight solid with vertex colours and outward normals, centred at 0, within radius 1.
    """
    rng = np.random.default_rng(seed)
    knobs = KNOB * (rng.uniform(0.9, 1.05, 3) if seed else np.ones(3))
    colours = rng.permutation(RAINBOW) if seed else RAINBOW
    points, tree, corners = _trefoil()

    def implicit(p):
        ball = np.linalg.norm(p * (1, 1, 1.15), axis=1) - CORE
        value = join(tree.query(p)[0] - TUBE, ball, BLEND)
        for corner, radius in zip(corners, knobs, strict=True):
            value = join(value, np.linalg.norm(p - corner, axis=1) - radius, BLEND)
        return value

    def paint(p):
        distance, nearest = tree.query(p)
        along = _cycle(np.asarray(nearest) / len(points) * 3, colours)
        ball = np.linalg.norm(p * (1, 1, 1.15), axis=1) - CORE
        colour = _mix(along, TEAL, (distance - TUBE - ball) / 0.03)
        for corner, radius in zip(corners, knobs, strict=True):
            colour = _mix(colour, CREAM, (radius + 0.02 - np.linalg.norm(p - corner, axis=1)) / 0.03)
        return colour

    return _solid(implicit, (1.0, 1.0, 0.5), step, paint)


def demo_scene(seed: int = 0) -> trimesh.Trimesh:
    """A table of toys: the demo shape amid a ball, stacked rings, a gear, a pill, a die and a vase.

    Arguments:
        seed: 0 is the arrangement in the pictures; others shuffle the toys and turn and recolour the shape.

    Returns:
        One mesh of watertight components with outward normals and vertex colours, about 200,000 faces, within radius
        1.2 of 0. Each toy stands a hair's breadth deep in the table, so components overlap: inside is where the winding
        number is at least 1.
    """
    import trimesh

    rng = np.random.default_rng(seed)
    shape = demo_shape(seed).apply_scale(0.62)
    # Upright on two of its knobs, the third on top.
    turn = np.pi / 3 * rng.integers(6) if seed else 0.0  # its feet between the toys
    shape.apply_transform(trimesh.transformations.euler_matrix(np.pi / 2, 0, turn, "sxyz"))
    shape.apply_translation((0, 0, TABLE_TOP - 0.01 - shape.bounds[0, 2]))
    makers = [_ball, _rings, _gear, _vase, _pill, _die]
    if seed:
        rng.shuffle(makers)
    toys = []
    for slot, make in enumerate(makers):
        angle = 2 * np.pi * (slot + 0.5) / len(makers)
        toy = make().apply_transform(trimesh.transformations.rotation_matrix(angle, (0, 0, 1)))
        lift = TABLE_TOP - 0.006 - toy.bounds[0, 2]
        toys.append(toy.apply_translation((0.69 * np.cos(angle), 0.69 * np.sin(angle), lift)))
    scene = trimesh.util.concatenate([_table(), shape, *toys])
    assert isinstance(scene, trimesh.Trimesh)
    return scene


def _table() -> trimesh.Trimesh:
    def implicit(p):
        return meet(np.hypot(p[:, 0], p[:, 1]) - 0.97, np.abs(p[:, 2]) - 0.05, 0.05)

    def paint(p):
        r, angle = np.hypot(p[:, 0], p[:, 1]), np.arctan2(p[:, 1], p[:, 0])
        parity = np.sin(6 * angle) * np.cos(np.pi * (r - 0.3) / 0.3) * r  # 12 sectors, rings 0.3 wide
        colour = _mix(_plain(CREAM, p), 0.6 * BLUE + 0.4 * CREAM, parity / 0.06)
        colour = _mix(colour, TEAL, (0.15 - r) / 0.02)
        return _mix(colour, NAVY, np.maximum(r - 0.91, -p[:, 2]) / 0.02)  # rim and underside

    return _solid(implicit, (1.0, 1.0, 0.08), 0.0125, paint).apply_translation((0, 0, TABLE_TOP - 0.05))


def _ball() -> trimesh.Trimesh:
    import trimesh

    def paint(p):
        turn = np.arctan2(p[:, 1], p[:, 0]) / (2 * np.pi) * 3 + 1.5
        stripes = np.stack([CORAL, AMBER, BLUE])[np.floor(turn).astype(int) % 3]
        white = np.abs(turn % 1 - 0.5) - 0.25  # in thirds of the way round; the ball is about 1.3 round
        colour = _mix(stripes, CREAM, white * np.hypot(p[:, 0], p[:, 1]) / 0.006)
        return _mix(colour, CREAM, (np.abs(p[:, 2]) - 0.185) / 0.01)

    mesh = _solid(lambda p: np.linalg.norm(p, axis=1) - 0.205, (0.22,) * 3, 0.008, paint)
    return mesh.apply_transform(trimesh.transformations.euler_matrix(0.5, 0.4, 0))


def _rings() -> trimesh.Trimesh:
    levels = [
        (0.07, 0.125, 0.07, BLUE),
        (0.185, 0.1, 0.062, MINT),
        (0.285, 0.075, 0.055, AMBER),
        (0.37, 0.0, 0.07, CORAL),
    ]

    def distances(p):
        r = np.hypot(p[:, 0], p[:, 1])
        return np.stack([np.hypot(r - major, p[:, 2] - z) - minor for z, major, minor, _ in levels])

    def implicit(p):
        peg = meet(np.hypot(p[:, 0], p[:, 1]) - 0.09, np.abs(p[:, 2] - 0.165) - 0.15, 0.01)
        return np.minimum(distances(p).min(0), peg)

    def paint(p):
        return np.stack([colour for *_, colour in levels])[distances(p).argmin(0)]

    return _solid(implicit, (0.21, 0.21, 0.46), 0.011, paint)


def _gear() -> trimesh.Trimesh:
    import trimesh

    def implicit(p):
        r, angle = np.hypot(p[:, 0], p[:, 1]), np.arctan2(p[:, 1], p[:, 0])
        rim = r - 0.18 - 0.03 * np.tanh(2.5 * np.cos(10 * angle))
        return meet(meet(rim, np.abs(p[:, 2]) - 0.06, 0.02), 0.07 - r, 0.02)

    def paint(p):
        r = np.hypot(p[:, 0], p[:, 1])
        return _mix(_plain(AMBER, p), NAVY, (0.115 - r) / 0.012)

    mesh = _solid(implicit, (0.23, 0.23, 0.08), 0.011, paint)
    # On two teeth of its rim, its flat side facing outwards.
    return mesh.apply_transform(trimesh.transformations.euler_matrix(0, np.pi / 2, 0))


def _vase() -> trimesh.Trimesh:
    def implicit(p):
        r, angle = np.hypot(p[:, 0], p[:, 1]), np.arctan2(p[:, 1], p[:, 0])
        flutes = 0.018 * np.cos(6 * angle + 7 * p[:, 2])
        return meet(r - 0.125 - 0.04 * np.sin(9 * p[:, 2] + 0.3) - flutes, np.abs(p[:, 2]) - 0.25, 0.05)

    def paint(p):
        return _mix(_plain(TEAL, p), MINT, p[:, 2] / 0.4)

    return _solid(implicit, (0.21, 0.21, 0.27), 0.011, paint)


def _pill() -> trimesh.Trimesh:
    def implicit(p):
        return np.linalg.norm(p - np.clip(p, (0, -0.13, 0), (0, 0.13, 0)), axis=1) - 0.105

    def paint(p):
        return _mix(_plain(CREAM, p), CORAL, p[:, 1] / 0.012)

    return _solid(implicit, (0.12, 0.25, 0.12), 0.011, paint)


def _die() -> trimesh.Trimesh:
    import trimesh

    corner = 0.05

    def implicit(p):
        return np.linalg.norm(np.maximum(np.abs(p) - 0.15 + corner, 0), axis=1) - corner

    def paint(p):
        dots = np.stack([np.linalg.norm(p - 0.15 * face, axis=1) for face in (*np.eye(3), *-np.eye(3))]).min(0)
        return _mix(_plain(VIOLET, p), CREAM, (0.075 - dots) / 0.012)

    turn = trimesh.transformations.rotation_matrix(0.6, (0, 0, 1))
    return _solid(implicit, (0.16,) * 3, 0.011, paint).apply_transform(turn)


def _solid(implicit: Implicit, reach: tuple[float, ...], step: float, paint: Paint) -> trimesh.Trimesh:
    """The coloured surface implicit = 0, which must lie within the box +-reach."""
    import trimesh

    axes = [np.arange(-r - 2 * step, r + 3 * step, step) for r in reach]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    # A value of exactly 0 at a grid point would give triangles without area.
    values = implicit(grid.reshape(-1, 3)).reshape(grid.shape[:3]) + 1e-7
    vertices, faces, _, _ = marching_cubes(values, 0.0, spacing=(step,) * 3, gradient_direction="descent")
    vertices = vertices.astype(np.float64) + [axis[0] for axis in axes]
    colours = np.round(255 * np.clip(paint(vertices), 0, 1)).astype(np.uint8)
    return trimesh.Trimesh(vertices, faces, vertex_colors=colours, process=False)


@cache
def _trefoil() -> tuple[np.ndarray, KDTree, np.ndarray]:
    """Points along the knot, a search tree of them, and its three outermost places."""
    t = np.linspace(0, 2 * np.pi, 900, endpoint=False)
    r = 2 + np.cos(3 * t)
    points = 0.26 * np.stack([-r * np.sin(2 * t), r * np.cos(2 * t), np.sin(3 * t)], 1)  # its first lobe on the y axis
    return points, KDTree(points), points[:: len(t) // 3]


def join(a: np.ndarray, b: np.ndarray, radius: float) -> np.ndarray:
    """The union of two solids, with a fillet."""
    overlap = np.maximum(radius - np.abs(a - b), 0)
    return np.minimum(a, b) - overlap**2 / (4 * radius)


def meet(a: np.ndarray, b: np.ndarray, radius: float) -> np.ndarray:
    """The intersection of two solids, with its edge rounded."""
    return -join(-a, -b, radius)


def _mix(first: np.ndarray, second: np.ndarray, where: np.ndarray) -> np.ndarray:
    """`first` where `where` <= -1/2, `second` where >= 1/2, a smooth step between."""
    w = np.clip(where + 0.5, 0, 1)[:, None]
    return first + w * w * (3 - 2 * w) * (second - first)


def _plain(colour: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.broadcast_to(colour, points.shape)


def _cycle(position: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Rows of `colours` blended along `position`, one a unit, round and round."""
    whole = np.floor(position).astype(int)
    after = (whole + 1) % len(colours)
    return _mix(colours[whole % len(colours)], colours[after], position - whole - 0.5)
