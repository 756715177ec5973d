"""How true a shape field's distances and gradients are, against libigl's on the mesh."""

import numpy as np
import torch
from jaxtyping import Float

from sinefield.data.surfaces.sampling import REPORTED_SEED, surface_samples
from sinefield.data.surfaces.surface import Surface, signed_distance
from sinefield.fields.shape.field import ShapeField
from sinefield.plain.distance import TrueDistance

POINTS = 5000
NEAR = 0.003
"""Standard deviation, in diagonals of the box, of the points near the surface."""
TIMES = 2
"""The far points are uniform in the object's box, made so many times as large."""
LEAST = 1e-6
"""In diagonals: what is nearer to the surface has no direction that could be told."""


def distance_scores(
    field: ShapeField, distance: TrueDistance, surface: Surface, points: int = POINTS
) -> dict[str, float]:
    """Errors of what `distance` answers for a field, in percent of the box's diagonal and in degrees.

    Returns:
        `sdf_error`, `sdf_error_worst`: of distances near the surface, mean and largest. `sdf_error_far`,
        `sdf_error_far_worst`: in twice the box. `gradient_error`, `gradient_error_95`: angle to the true direction in
        twice the box, median and 95th percentile. `eikonal_error`: mean of ||∇f| − 1| of the network's own value in
        the box. Nothing where the field or the data have no distances: occupancies, sheets, point clouds.
    """
    if not field.distance or surface.faces is None:
        return {}
    low, high = surface.aabb[:3], surface.aabb[3:]
    diagonal = float(np.linalg.norm(high - low))
    rng = np.random.default_rng(REPORTED_SEED)
    on_surface, normals = surface_samples(surface, points, REPORTED_SEED)
    near = on_surface + NEAR * diagonal * rng.standard_normal((points, 1)) * normals
    far = (low + high) / 2 + TIMES * (rng.random((points, 3)) - 0.5) * (high - low)
    scores = {}
    for name, asked in (("sdf_error", near), ("sdf_error_far", far)):
        off = 100 * np.abs(distance.sdf(asked) - signed_distance(surface, asked)) / diagonal
        scores |= {name: float(off.mean()), f"{name}_worst": float(off.max())}
    angles = _angles(distance, surface, far, LEAST * diagonal)
    scores |= {"gradient_error": float(np.median(angles)), "gradient_error_95": float(np.quantile(angles, 0.95))}
    return scores | {"eikonal_error": _eikonal(field, low + rng.random((points, 3)) * (high - low))}


def _angles(
    distance: TrueDistance, surface: Surface, points: Float[np.ndarray, "n 3"], least: float
) -> Float[np.ndarray, "m"]:
    """Degrees between the gradients and the directions away from the nearest place of the mesh, negative inside."""
    _, gradients = distance.sdf(points, gradient=True)
    tree, faces = surface.distance_tree
    squared, _, closest = tree.squared_distance(surface.vertices, faces, np.ascontiguousarray(points))
    known = squared > least**2
    away = (points - closest)[known] * np.sign(signed_distance(surface, points[known]))[:, None]
    cosines = (away * gradients[known]).sum(1) / np.linalg.norm(away, axis=1)
    return np.degrees(np.arccos(np.clip(cosines / np.linalg.norm(gradients[known], axis=1).clip(1e-300), -1, 1)))


def _eikonal(field: ShapeField, points: Float[np.ndarray, "n 3"]) -> float:
    field.set_dtype(torch.float32)
    device = field.centre.device
    placed = ((torch.from_numpy(points).to(device) - field.centre) * field.scale).float().requires_grad_()
    (slope,) = torch.autograd.grad(field(placed).sum() * field.config.band, placed)
    return float((slope.norm(dim=1) - 1).abs().mean())
