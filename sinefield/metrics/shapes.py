"""How close a shape is to another: as a volume (IoU) and as a surface (Chamfer, F-score, normals).

Lengths are in the input's units and not normalised; divide by the reported `diagonal` to compare objects of different
size. All surface scores come from area-uniform samples, so that a mesh scores alike however it is triangulated.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree

from sinefield.data.geometry import Surface
from sinefield.data.sampling import surface_samples
from sinefield.errors import SinefieldError

FSCORE_FRACTION = 0.01
"""Threshold of the F-score as a fraction of the reference's bounding-box diagonal."""


def iou(predicted_inside: Bool[np.ndarray, "n"], inside: Bool[np.ndarray, "n"]) -> float:
    """Intersection over union of two sets of points, given as (n,) booleans; 1 when both are empty."""
    union = np.count_nonzero(predicted_inside | inside)
    return np.count_nonzero(predicted_inside & inside) / union if union else 1.0


def chamfer(
    points_a: Float[np.ndarray, "n 3"],
    normals_a: Float[np.ndarray, "n 3"],
    points_b: Float[np.ndarray, "m 3"],
    normals_b: Float[np.ndarray, "m 3"],
    threshold: float,
) -> dict[str, float]:
    """Scores between two sampled surfaces: predicted a (n, 3), reference b (m, 3), with unit normals.

    With d the distance from a point to the nearest of the other set:

    - chamfer_l1: (mean d over a + mean d over b) / 2.
    - chamfer_l2: mean d² over a + mean d² over b.
    - precision, recall: share of a, of b, with d ≤ `threshold` (input units); fscore: their harmonic mean.
    - normal_consistency: mean |cos| between a point's normal and that of its nearest, averaged over both ways.

    Samples differ between two draws of one surface: the scores of identical surfaces are small, not 0.

    Raises:
        SinefieldError: a set is empty.
    """
    if len(points_a) == 0 or len(points_b) == 0:
        raise SinefieldError("one of the surfaces to compare has no points; extract a surface first")
    to_b, nearest_b = cKDTree(points_b).query(points_a, workers=-1)
    to_a, nearest_a = cKDTree(points_a).query(points_b, workers=-1)
    precision, recall = float((to_b <= threshold).mean()), float((to_a <= threshold).mean())
    cos_a = np.abs(np.einsum("ij,ij->i", normals_a, normals_b[nearest_b]))
    cos_b = np.abs(np.einsum("ij,ij->i", normals_b, normals_a[nearest_a]))
    return {
        "chamfer_l1": float(to_b.mean() + to_a.mean()) / 2,
        "chamfer_l2": float((to_b**2).mean() + (to_a**2).mean()),
        "fscore": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "precision": precision,
        "recall": recall,
        "normal_consistency": float(cos_a.mean() + cos_b.mean()) / 2,
    }


def compare_meshes(
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    reference: Surface,
    n: int = 100_000,
    seed: int = 0,
) -> dict[str, float]:
    """`chamfer` scores of a mesh against the given surface, from `n` area-uniform points on each.

    Of a point cloud its own points are the reference, drawn by area. The F-score's threshold is 1 % of the reference's
    bounding-box diagonal.

    Returns:
        The scores of `chamfer`, with threshold and diagonal in input units and samples.

    Raises:
        SinefieldError: the mesh has no faces.
    """
    if len(faces) == 0:
        raise SinefieldError("the mesh to compare has no faces; extract a surface first")
    mesh = Surface(np.asarray(vertices, np.float64), np.asarray(faces, np.int32), None, None, "mesh", {})
    diagonal = float(np.linalg.norm(reference.aabb[3:] - reference.aabb[:3]))
    threshold = FSCORE_FRACTION * diagonal
    # Different draws: the same one would find a mesh at distance 0 from itself.
    seed_a, seed_b = np.random.SeedSequence(seed).spawn(2)
    scores = chamfer(*surface_samples(mesh, n, seed_a), *surface_samples(reference, n, seed_b), threshold)
    return scores | {"threshold": threshold, "diagonal": diagonal, "samples": n}
