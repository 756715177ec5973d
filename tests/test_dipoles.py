"""Winding numbers of clouds by a tree, against the sum over all points."""

import numpy as np
import pytest
import trimesh

from sinefield.data.surfaces import dipoles
from sinefield.data.surfaces.dipoles import Dipoles, halved

FAR = np.array([30.0, -10.0, 5.0])


def cloud(n, seed=0):
    """Points of a torus far from the origin, with normals and uneven areas."""
    mesh = trimesh.creation.torus(2.0, 0.7)
    points, faces = trimesh.sample.sample_surface(mesh, n, seed=seed)
    areas = np.random.default_rng(seed).uniform(0.2, 1.8, n)
    return points + FAR, mesh.face_normals[faces], areas * mesh.area / areas.sum()


def summed(points, normals, areas, queries):
    """The definition."""
    off = points[None] - queries[:, None]
    cube = np.linalg.norm(off, axis=2) ** 3
    return (np.einsum("qni,ni->qn", off, normals) * areas / cube).sum(axis=1) / (4 * np.pi)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 33, 1_000, 20_011])
def test_the_tree_sums_what_the_definition_sums(n):
    points, normals, areas = cloud(n)
    queries = np.random.default_rng(1).uniform(-4, 4, (400, 3)) + FAR
    found, true = Dipoles(points, normals, areas).winding_number(queries), summed(points, normals, areas, queries)
    assert np.abs(found - true).max() < 0.025 and np.sqrt(np.mean((found - true) ** 2)) < 0.004


def test_farther_parts_are_more_exact(monkeypatch):
    """The error of a sum to the second order falls with the cube of the distance in radii at least."""
    points, normals, areas = cloud(20_000)
    queries = np.random.default_rng(1).uniform(-4, 4, (200, 3)) + FAR
    true, errors = summed(points, normals, areas, queries), []
    for beta in (2.0, 4.0):
        monkeypatch.setattr(dipoles, "BETA", beta)
        errors.append(np.sqrt(np.mean((Dipoles(points, normals, areas).winding_number(queries) - true) ** 2)))
    assert errors[1] < errors[0] / 6


def test_a_query_at_a_point_is_a_number():
    points, normals, areas = cloud(500)
    assert np.isfinite(Dipoles(points, normals, areas).winding_number(points)).all()
    assert np.isfinite(Dipoles(points, normals, np.zeros(500)).winding_number(points)).all()
    assert Dipoles(points, normals, areas).winding_number(np.zeros((0, 3))).shape == (0,)


def test_the_order_is_one_of_all_points_and_serves_again():
    points, normals, areas = cloud(3_000)
    order = halved(points)
    assert np.array_equal(np.sort(order), np.arange(3_000))
    first, again = Dipoles(points, normals, areas), Dipoles(points, -normals, areas, order)
    assert np.allclose(first.winding_number(points[:9] + 0.1), -again.winding_number(points[:9] + 0.1))
