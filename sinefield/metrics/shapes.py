"""How close a shape is to another: as a volume (IoU) and as a surface (Chamfer, F-score, normals).

Lengths are in the input's units and not normalised; divide by the reported `diagonal` to compare objects of different
size. All surface scores come from area-uniform samples, so that a mesh scores alike however it is triangulated.
"""

import igl
import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

from sinefield.data.surfaces.nearest import nearest
from sinefield.data.surfaces.sampling import surface_samples
from sinefield.data.surfaces.surface import Surface
from sinefield.errors import SinefieldError

SAMPLES = 100_000
"""Points on each of two surfaces that are compared."""
FSCORE_FRACTION = 0.01
"""Threshold of the F-score as a fraction of the reference's bounding-box diagonal."""

LIFT = 1e-4
"""How far above a surface a look at it ends, in halves of its diagonal, lest the surface hide itself."""


def iou(predicted_inside: Bool[np.ndarray, "n"], inside: Bool[np.ndarray, "n"]) -> float:
    """Intersection over union of two sets of points, given as (n,) booleans; NaN when both are empty:
    where there is nothing to be found, finding nothing is no merit."""
    union = np.count_nonzero(predicted_inside | inside)
    return np.count_nonzero(predicted_inside & inside) / union if union else float("nan")


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
    to_b, nearest_b = nearest(KDTree(points_b), points_a)
    to_a, nearest_a = nearest(KDTree(points_a), points_b)
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
    n: int | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """`chamfer` scores of a mesh against the given surface, from `n` area-uniform points on each, or `SAMPLES`.

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
    n = SAMPLES if n is None else n
    diagonal = float(np.linalg.norm(reference.aabb[3:] - reference.aabb[:3]))
    threshold = FSCORE_FRACTION * diagonal
    # Different draws: the same one would find a mesh at distance 0 from itself.
    seed_a, seed_b = np.random.SeedSequence(seed).spawn(2)
    scores = chamfer(*surface_samples(mesh, n, seed_a), *surface_samples(reference, n, seed_b), threshold)
    return scores | {"threshold": threshold, "diagonal": diagonal, "samples": n}


def compare_visible(
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    reference: Surface,
    eyes: Float[np.ndarray, "k 3"],
    n: int = 100_000,
    seed: int = 0,
    least: int = 1,
) -> dict[str, float]:
    """How far a mesh lies from a reference mesh where photographers could see either of them.

    Photographs say nothing of undersides and insides: of `n` area-uniform points on each mesh, those count that at
    `least` so many of the `eyes`, positions outside both, see from the front. Distances go to the whole of the other
    surface, and are exact: those of identical surfaces are 0.

    Returns:
        accuracy, completeness: mean distance of visible points of the mesh, of the reference, to the other.
        chamfer_l1: their mean. diagonal: of the reference's box. All in input units.

    Raises:
        SinefieldError: the mesh has no faces, or nothing of one of them is visible.
    """
    if len(faces) == 0:
        raise SinefieldError("the mesh to compare has no faces; extract a surface first")
    mesh = Surface(np.asarray(vertices, np.float64), np.asarray(faces, np.int32), None, None, "mesh", {})
    means = []
    seeds = np.random.SeedSequence(seed).spawn(2)
    for surface, other, seed_of in zip((mesh, reference), (reference, mesh), seeds, strict=True):
        points, normals = surface_samples(surface, n, seed_of)
        points = points[visible(points, normals, surface, eyes, least)]
        if len(points) == 0:
            who = "no camera sees" if least == 1 else f"no {least} cameras see"
            raise SinefieldError(f"{surface.source}: {who} any of its surface; check the poses' coordinates")
        triangles = np.asarray(other.faces, np.int64)
        squared = igl.point_mesh_squared_distance(points, np.asarray(other.vertices), triangles)[0]
        means.append(float(np.sqrt(squared).mean()))
    diagonal = float(np.linalg.norm(reference.aabb[3:] - reference.aabb[:3]))
    return {
        "accuracy": means[0],
        "completeness": means[1],
        "chamfer_l1": sum(means) / 2,
        "diagonal": diagonal,
    }


def visible(
    points: Float[np.ndarray, "n 3"],
    normals: Float[np.ndarray, "n 3"],
    surface: Surface,
    eyes: Float[np.ndarray, "k 3"],
    least: int = 1,
) -> Bool[np.ndarray, "n"]:
    """Which points (n, 3) on a mesh, with outward normals, at `least` so many of the eyes outside it see from the
    front."""
    centre = (surface.aabb[:3] + surface.aabb[3:]) / 2
    half = float(np.linalg.norm(surface.aabb[3:] - surface.aabb[:3])) / 2
    # Embree works in float32: give it a mesh of about unit size around 0.
    scene = EmbreeScene()
    corners = ((surface.vertices - centre) / half).astype(np.float32)
    TriangleMesh(scene=scene, vertices=corners, indices=surface.mesh_faces().astype(np.int32))
    points, eyes = (points - centre) / half, (eyes - centre) / half
    raised = (points + LIFT * normals).astype(np.float32)
    seen = np.zeros(len(points), np.int64)  # by how many, as far as that matters
    for eye in eyes:
        toward = eye - points
        asked = np.flatnonzero((seen < least) & ((toward * normals).sum(1) > 0))
        if len(asked):
            rays = (toward[asked] / np.linalg.norm(toward[asked], axis=1, keepdims=True)).astype(np.float32)
            seen[asked] += scene.run(raised[asked], rays, query="OCCLUDED") < 0
    return seen >= least
