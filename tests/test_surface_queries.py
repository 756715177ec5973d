"""Nearest places, rays and clearances against analytic shapes and libigl."""

import igl
import numpy as np
import pytest
import torch

import sinefield as sf
from sinefield.errors import SinefieldError
from sinefield.plain.distance import TrueDistance
from sinefield.plain.surface_queries import clearance, closest, ray

BOX = np.array([-1, -1, -1, 1, 1, 1.0])


def ball(centre=(0.0, 0, 0), radius=1.0):
    centre = np.array(centre)
    box = np.concatenate([centre - radius, centre + radius])
    return TrueDistance(lambda p: np.linalg.norm(p - centre, axis=1) - radius, box)


def torus(p):
    return np.hypot(np.hypot(p[:, 0], p[:, 1]) - 0.7, p[:, 2]) - 0.3


def test_nearest_places_of_a_ball():
    points = np.random.default_rng(0).normal(0, 2, (500, 3))
    found = closest(ball(), points)
    length = np.linalg.norm(points, axis=1)
    assert found.found.all()
    assert np.abs(found.points - points / length[:, None]).max() < 0.03  # of a mesh of it, half a cell
    assert np.abs(np.linalg.norm(found.points, axis=1) - 1).max() < 1e-4
    assert np.abs(found.distances - (length - 1)).max() < 1e-3


def test_nearest_places_of_a_field_by_libigl():
    knot = sf.load("example:knot")
    truth = knot._true_distance()
    vertices = truth.surface.vertices * truth.unit + truth.centre
    points = np.random.default_rng(0).uniform(-2, 2, (400, 3))
    found = knot.closest(points)
    squares, _, _ = igl.point_mesh_squared_distance(points, vertices, truth.surface.faces)
    assert found.found.mean() > 0.99
    assert np.abs(knot.sdf(found.points))[found.found].max() < 2e-5 * np.linalg.norm(np.diff(knot.bounds, axis=0))
    assert np.quantile(np.abs(np.abs(found.distances) - np.sqrt(squares)), 0.99) < 0.01
    assert (np.sign(found.distances) == np.sign(knot.sdf(points))).all()


def test_rays_meet_a_ball_where_algebra_says():
    rng = np.random.default_rng(1)
    origins, ways = rng.normal(0, 2, (400, 3)), rng.normal(0, 1, (400, 3))
    found = ray(ball(), origins, ways)
    a, b, c = (ways**2).sum(1), (origins * ways).sum(1), (origins**2).sum(1) - 1
    square = b * b - a * c
    root = np.sqrt(np.maximum(square, 0))
    first = np.where((-b - root) / a > 0, (-b - root) / a, (-b + root) / a)
    met = (square > 0) & (first > 0)
    sure = np.abs(square) / a > 0.02  # a ray that grazes may be told either way
    assert (found.hit == met)[sure].all()
    both = found.hit & met & sure
    assert np.abs(found.t - first)[both].max() < 5e-3
    assert np.abs(found.points - (origins + first[:, None] * ways))[both].max() < 5e-3
    assert np.abs((found.normals * found.points).sum(1) - 1)[both].max() < 0.01
    assert np.isinf(found.t[~found.hit]).all() and np.isnan(found.points[~found.hit]).all()


def first_crossing(o, d, corners):
    """Where a ray first crosses triangles (f, 3, 3), by Möller and Trumbore's algebra, all of them."""
    u, v = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    p = np.cross(d, v)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 1 / (u * p).sum(1)
        q = np.cross(o - corners[:, 0], u)
        a, b, t = ((o - corners[:, 0]) * p).sum(1) * scale, (q @ d) * scale, (v * q).sum(1) * scale
    return np.where((a >= 0) & (b >= 0) & (a + b <= 1) & (t > 0), t, np.inf).min()


def test_rays_against_every_triangle_of_the_mesh():
    knot = sf.load("example:knot")
    truth = knot._true_distance()
    vertices = truth.surface.vertices * truth.unit + truth.centre
    rng = np.random.default_rng(2)
    origins = rng.normal(0, 1, (80, 3))
    origins *= 3 / np.linalg.norm(origins, axis=1, keepdims=True)
    ways = rng.uniform(-1, 1, (80, 3)) - origins
    found = knot.ray(origins, ways)
    agree = []
    for o, d, hit, t in zip(origins, ways, found.hit, found.t, strict=True):
        first = first_crossing(o, d, vertices[truth.surface.faces])
        # Where one of the two passes a grazed part, the other's hit comes first.
        agree.append(abs(t - first) < 0.01 if hit else not np.isfinite(first))
    assert np.mean(agree) > 0.97
    assert 0.2 < found.hit.mean() < 1


def test_a_thin_plate_is_not_missed():
    """As thin as is promised: 0.25 % of the diagonal."""
    half = 0.0026 * 3.46 / 2
    plate = TrueDistance(
        lambda p: np.abs(p[:, 2]) - half + np.maximum(np.abs(p[:, :2]).max(axis=1) - 0.9, 0), BOX, resolution=300
    )
    x = np.random.default_rng(3).uniform(-0.8, 0.8, (100, 2))
    found = ray(plate, np.c_[x, np.full(100, 3.0)], np.tile([0, 0, -1.0], (100, 1)))
    assert found.hit.all() and np.abs(found.points[:, 2] - half).max() < 0.002


def test_clearance_of_balls():
    for gap in (0.5, 0.05, -0.3):
        found = clearance(ball(), ball((2 + gap, 0, 0)))
        assert found.distance == pytest.approx(gap, abs=found.error) and found.error < 0.1
        assert abs(found.distance - gap) < 0.01
        assert np.abs(found.points[:, 1:]).max() < 0.1


def test_a_fields_own_questions():
    knot = sf.load("example:knot")
    points = torch.tensor([[0.1, 0.2, 0.9]])
    near = knot.closest(points)
    assert isinstance(near.points, torch.Tensor) and near.points.dtype == torch.float32
    apart = knot.distance_to(knot)
    assert apart.distance < 0.01
    empty = knot.ray(np.zeros((0, 3)), np.zeros((0, 3)))
    assert empty.t.shape == (0,) and knot.closest(np.zeros((0, 3))).points.shape == (0, 3)
    for ask, words in (
        (lambda: knot.ray([[0, 0, 0.0]], [[0, 0, 0.0]]), "no length"),
        (lambda: knot.ray([[0, 0, 0.0]], [[0, 0, 1.0]] * 2), "as many"),
        (lambda: knot.distance_to("a path"), "takes a field"),
        (lambda: knot.closest([[0, 0]]), "shape"),
        (lambda: sf.load("example:toys").closest([[0, 0, 0.0]]), "distance"),
    ):
        with pytest.raises(SinefieldError, match=words):
            ask()
