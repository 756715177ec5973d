"""What cameras look at: where their optical axes meet, and how much of space they show around it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

SEEING = 0.75
"""Share of the cameras that must have a point in view before it counts as what they look at."""
NARROWEST = 5.0
"""Degrees by which axes must spread about their common direction: the place where narrower ones meet is unsure."""
TURNS, SMALLEST = 30, 1e-6
ACROSS = 0.5
"""A camera tells how far things reach along an axis that it looks across: the sine of the angle between them."""


class Focus(NamedTuple):
    """What cameras look at.

    Attributes:
        point: (3,) where their optical axes meet.
        half: (3,) half sides of the box around it that they have in view, along the world's axes.
        distance: median of the cameras' distances to it, along their axes.
        reach: the farthest camera's distance to it.
    """

    point: Float[np.ndarray, "3"]
    half: Float[np.ndarray, "3"]
    distance: float
    reach: float

    @property
    def box(self) -> list[float]:
        """xmin ymin zmin xmax ymax zmax of what is in view."""
        return [*(self.point - self.half).tolist(), *(self.point + self.half).tolist()]


def find_focus(c2w: Float[np.ndarray, "n 3 4"], tangents: Float[np.ndarray, "n 2"]) -> Focus | None:
    """The point nearest to the optical axes, in the sum of distances, so that a few that look elsewhere do not matter.

    None where the cameras look at no such point: one camera, parallel axes (a forward-facing capture), cameras that
    look outwards from the middle (a room), or at many things.

    Arguments:
        c2w: (n, 3, 4) camera to world, OpenGL axes.
        tangents: (n, 2) of half the field of view across and down.

    Examples:
        >>> from sinefield.cameras.orbits import orbit
        >>> poses = orbit(8, (1.0, 2.0, 3.0), 4.0, 20.0).double().numpy()
        >>> find_focus(poses, np.full((8, 2), 0.5)).point.round(3).tolist()
        [1.0, 2.0, 3.0]
    """
    if len(c2w) < 2:
        return None
    middle = c2w[:, :, 3].mean(0)
    positions, along = c2w[:, :, 3] - middle, -c2w[:, :, 2]
    scale = float(np.abs(positions).max())
    if not scale > 0:
        return None
    positions = positions / scale
    across = np.eye(3) - along[:, :, None] * along[:, None, :]  # what a vector has beside the axis
    weights = np.ones(len(c2w))
    point = np.zeros(3)
    for turn in range(TURNS):  # least squares, reweighted until they are the least sum of distances
        system = (weights[:, None, None] * across).sum(0)
        aim = (weights[:, None, None] * across @ positions[:, :, None]).sum(0)[:, 0]
        point = np.linalg.lstsq(system, aim, rcond=None)[0]
        miss = np.linalg.norm((across @ (point - positions)[:, :, None])[:, :, 0], axis=1)
        weights = 1 / np.maximum(miss, max(0.5**turn, SMALLEST))  # no line may rule before others were heard
    point = point * scale + middle
    seen, depth = in_view(c2w, tangents, point[None])
    seen, depth = seen[:, 0], depth[:, 0]
    if seen.mean() < SEEING:
        return None
    if np.linalg.eigvalsh(across[seen].mean(0))[0] < np.sin(np.radians(NARROWEST)) ** 2:
        return None
    reach = float(np.linalg.norm(c2w[:, :, 3] - point, axis=1).max())
    return Focus(point, _half(c2w[seen], tangents[seen], depth[seen]), float(np.median(depth[seen])), reach)


def _half(c2w: np.ndarray, tangents: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Half sides of what cameras show at a depth: along each world axis the median of those that look across it.

    A camera shows an ellipse, the one that its picture holds, of the plane through the point. What that spans along an
    axis grows by the foreshortening, as the ball would of which the ellipse is the outline.
    """
    spans = np.sqrt(((c2w[:, :, :2] * tangents[:, None, :]) ** 2).sum(2)) * depth[:, None]
    sines = np.sqrt(np.clip(1 - c2w[:, :, 2] ** 2, 0, 1))
    usual = float(np.median(np.sqrt(tangents.prod(1)) * depth))
    halves = []
    for axis in range(3):
        telling = sines[:, axis] > ACROSS
        halves.append(np.median(spans[telling, axis] / sines[telling, axis]) if telling.any() else usual)
    return np.array(halves)


def in_view(
    c2w: Float[np.ndarray, "n 3 4"], tangents: Float[np.ndarray, "n 2"], points: Float[np.ndarray, "p 3"]
) -> tuple[Bool[np.ndarray, "n p"], Float[np.ndarray, "n p"]]:
    """Which camera has which point before it and in its picture, and the depths along the cameras' axes."""
    local = np.einsum("nji,npj->npi", c2w[:, :, :3], points[None] - c2w[:, None, :, 3])
    depth = -local[:, :, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = (np.abs(local[:, :, :2] / depth[:, :, None]) <= tangents[:, None, :]).all(2)
    return inside & (depth > 0), depth
