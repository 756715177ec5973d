"""Shape scores against brute force and against shapes whose scores are known."""

import numpy as np
import pytest
import trimesh

from sinefield.data.surfaces.surface import Surface
from sinefield.errors import SinefieldError
from sinefield.metrics.shapes import chamfer, compare_meshes, iou


def surface(mesh):
    return Surface(np.array(mesh.vertices), np.array(mesh.faces, np.int32), None, None, "mesh", {})


def directions(n, seed):
    normals = np.random.default_rng(seed).normal(size=(n, 3))
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def test_iou():
    a, b = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    assert iou(a, b) == pytest.approx(1 / 3)
    assert iou(a, a) == 1 and iou(a, ~a) == 0 and np.isnan(iou(a & ~a, a & ~a))


def test_iou_of_overlapping_boxes():
    points = np.random.default_rng(0).random((200_000, 3)) * [1.5, 1, 1]
    assert iou(points[:, 0] < 1, points[:, 0] > 0.5) == pytest.approx(1 / 3, abs=0.005)


def test_chamfer_is_brute_force():
    rng = np.random.default_rng(0)
    a, b, na, nb = rng.random((200, 3)), rng.random((150, 3)), directions(200, 1), directions(150, 2)
    distance = np.linalg.norm(a[:, None] - b[None], axis=2)
    to_b, to_a = distance.min(axis=1), distance.min(axis=0)
    scores = chamfer(a, na, b, nb, threshold=0.1)
    assert scores["chamfer_l1"] == pytest.approx((to_b.mean() + to_a.mean()) / 2)
    assert scores["chamfer_l2"] == pytest.approx((to_b**2).mean() + (to_a**2).mean())
    precision, recall = (to_b <= 0.1).mean(), (to_a <= 0.1).mean()
    assert scores["precision"] == pytest.approx(precision) and scores["recall"] == pytest.approx(recall)
    assert scores["fscore"] == pytest.approx(2 * precision * recall / (precision + recall))
    cos_a = np.abs((na * nb[distance.argmin(axis=1)]).sum(axis=1)).mean()
    cos_b = np.abs((nb * na[distance.argmin(axis=0)]).sum(axis=1)).mean()
    assert scores["normal_consistency"] == pytest.approx((cos_a + cos_b) / 2)


def test_shifted_planes():
    grid = np.stack(np.meshgrid(np.arange(20.0), np.arange(20.0), [0.0]), axis=-1).reshape(-1, 3)
    up = np.tile([0.0, 0, 1], (400, 1))
    scores = chamfer(grid, up, grid + 0.3 * up, -up, threshold=0.2)
    assert scores["chamfer_l1"] == pytest.approx(0.3) and scores["chamfer_l2"] == pytest.approx(0.18)
    assert scores["fscore"] == 0 and scores["normal_consistency"] == pytest.approx(1)  # whichever way round
    assert chamfer(grid, up, grid + 0.1 * up, up, threshold=0.2)["fscore"] == 1


def test_concentric_spheres():
    inner, outer = trimesh.creation.icosphere(5, 10.0), trimesh.creation.icosphere(5, 11.0)
    scores = compare_meshes(inner.vertices, inner.faces, surface(outer), n=50_000)
    assert scores["chamfer_l1"] == pytest.approx(1, rel=0.02) and scores["chamfer_l2"] == pytest.approx(2, rel=0.03)
    assert scores["diagonal"] == pytest.approx(22 * np.sqrt(3), rel=1e-3)
    assert scores["threshold"] == pytest.approx(0.01 * scores["diagonal"])
    assert scores["fscore"] == 0 and scores["normal_consistency"] > 0.99


def test_a_mesh_against_itself_however_triangulated():
    box = trimesh.creation.box((1.0, 2, 3))
    fine = box.subdivide().subdivide().subdivide()
    scores = compare_meshes(fine.vertices, fine.faces, surface(box), n=50_000)
    assert scores["fscore"] > 0.999 and scores["normal_consistency"] > 0.98
    assert 0 < scores["chamfer_l1"] < 0.005 * scores["diagonal"]
    assert scores == compare_meshes(fine.vertices, fine.faces, surface(box), n=50_000)


def test_scores_scale_with_the_object():
    sphere, egg = trimesh.creation.icosphere(3), trimesh.creation.icosphere(3).apply_scale((1, 1, 1.2))
    small = compare_meshes(sphere.vertices, sphere.faces, surface(egg), n=5000)
    large = compare_meshes(sphere.vertices * 100, sphere.faces, surface(egg.apply_scale(100)), n=5000)
    assert large["chamfer_l1"] == pytest.approx(100 * small["chamfer_l1"])
    assert large["chamfer_l2"] == pytest.approx(1e4 * small["chamfer_l2"])
    assert large["fscore"] == pytest.approx(small["fscore"])


def test_a_point_cloud_as_reference():
    normals = directions(20_000, 0)
    sphere = trimesh.creation.icosphere(5)
    scores = compare_meshes(sphere.vertices, sphere.faces, Surface(normals, None, normals, None, "cloud", {}), n=20_000)
    assert scores["fscore"] > 0.95 and scores["normal_consistency"] > 0.99


def test_nothing_to_compare():
    with pytest.raises(SinefieldError, match="no faces"):
        compare_meshes(np.zeros((0, 3)), np.zeros((0, 3), np.int32), surface(trimesh.creation.box()))
    with pytest.raises(SinefieldError, match="no points"):
        chamfer(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((1, 3)), np.zeros((1, 3)), 1.0)
