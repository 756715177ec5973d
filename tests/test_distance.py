"""Distances near and far against analytic shapes, of functions that know as little as a trained network does."""

import igl
import numpy as np
import pytest
import torch
import trimesh
from small import CENTRE, RADIUS

from sinefield.config import ShapeFieldConfig
from sinefield.errors import SinefieldError
from sinefield.fields.shape.field import ShapeField
from sinefield.plain.distance import TrueDistance, checked_points

HALF = np.array([2.0, 1.0, 0.5])
"""Half sides of the box, and the torus' extent: ring 1.5, tube 0.5."""


def ball(p):
    return np.linalg.norm(p - CENTRE, axis=1) - RADIUS


def box(p):
    q = np.abs(p - CENTRE) - HALF
    return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(axis=1), 0)


def torus(p):
    q = p - CENTRE
    return np.hypot(np.hypot(q[:, 0], q[:, 1]) - 1.5, q[:, 2]) - 0.5


SHAPES = {"ball": (ball, np.full(3, RADIUS)), "box": (box, HALF), "torus": (torus, np.array([2.0, 2.0, 0.5]))}


def learned(name):
    """What training leaves of a shape: distances in a band, sides in the box, nonsense outside."""
    exact, half = SHAPES[name]
    unit = 2 * half.max()

    def values(p):
        d = exact(p)
        far = 0.02 * unit * (1.5 + np.sin(40 * (p / unit).sum(axis=1))) * np.sign(d)
        value = np.where(np.abs(d) < 0.02 * unit, d, far)
        outside = (np.abs(p - CENTRE) > half + 0.05 * unit).any(axis=1)
        return np.where(outside, -value, value)

    return TrueDistance(values, np.concatenate([CENTRE - half, CENTRE + half])), exact, half


def around(half, times, n=5000):
    """Points uniform in the box made so many times as large."""
    return CENTRE + np.random.default_rng(0).uniform(-times, times, (n, 3)) * half


def slope_of(exact, p, step=1e-5):
    offsets = step * np.eye(3)
    return np.stack([(exact(p + o) - exact(p - o)) / (2 * step) for o in offsets], axis=1)


@pytest.mark.parametrize("name", SHAPES)
def test_far_and_near(name):
    distance, exact, half = learned(name)
    diagonal = 2 * np.linalg.norm(half)
    assert not distance.capped
    for times in (1, 2, 4):
        points = around(half, times)
        found, gradient = distance.sdf(points, gradient=True)
        right = exact(points)
        far = np.abs(right) > 0.01 * diagonal
        assert ((found < 0) == (right < 0))[far].all()
        assert np.array_equal(distance.inside(points), found < 0)
        # Edges are cut off by up to half a cell, a quarter per cent of the diagonal.
        assert np.abs(found - right).max() < (0.0025 if name == "box" else 0.0002) * diagonal
        assert np.abs(np.linalg.norm(gradient, axis=1) - 1).max() < 1e-9
        angles = np.degrees(np.arccos(np.clip((gradient * slope_of(exact, points)).sum(axis=1), -1, 1)))
        assert np.median(angles) < 1.0
        if name == "ball":
            assert angles[np.linalg.norm(points - CENTRE, axis=1) > 0.1 * RADIUS].max() < 2.0


def test_close_to_the_surface_the_network_counts():
    """Within a quarter of a cell the answer is the function's own value, with no error of the mesh."""
    distance, _, half = learned("torus")
    rng = np.random.default_rng(1)
    turn, tilt = rng.uniform(0, 2 * np.pi, (2, 2000))
    off = rng.uniform(-0.2, 0.2, 2000) * distance.surface.pitch * distance.unit
    ring = 1.5 + (0.5 + off) * np.cos(tilt)
    points = CENTRE + np.stack([ring * np.cos(turn), ring * np.sin(turn), (0.5 + off) * np.sin(tilt)], axis=1)
    found = distance.sdf(points)
    assert np.abs(found - off).max() < 1e-5 * np.linalg.norm(half)
    # On the surface itself the mesh has no direction, the function has.
    on = CENTRE + np.array([[2.0, 0, 0], [1.0, 0, 0], [0, 1.5, 0.5]])
    value, direction = distance.sdf(on, gradient=True)
    assert np.abs(value).max() < 1e-9
    assert np.abs(direction - [[1, 0, 0], [-1, 0, 0], [0, 0, 1]]).max() < 0.02


@pytest.mark.parametrize("name", SHAPES)
def test_no_jumps(name):
    """Between neighbours the answer changes by no more than they are apart, but for 0.1 % of the diagonal."""
    distance, _, half = learned(name)
    diagonal = 2 * np.linalg.norm(half)
    start = around(half, 1.3, 40)
    end = start + np.random.default_rng(2).standard_normal((40, 3)) * 0.3 * diagonal
    along = np.linspace(0, 1, 250)[:, None, None]
    points = start + along * (end - start)
    found = distance.sdf(points.reshape(-1, 3)).reshape(250, 40)
    steps = np.linalg.norm(np.diff(points, axis=0), axis=2)
    assert (np.abs(np.diff(found, axis=0)) - steps).max() < 0.001 * diagonal


def test_far_far_away_at_the_wall_and_nowhere():
    distance, exact, half = learned("box")
    side = 2 * half.max()
    out = np.array([[1.0, 2, 3], [-3.0, 0.1, 0], [0, 0, 1.0]])
    for times in (1e3, 1e6, 1e12):
        points = CENTRE + out * times * side
        found, gradient = distance.sdf(points, gradient=True)
        assert found == pytest.approx(exact(points), rel=1e-4)
        assert np.abs(gradient - out / np.linalg.norm(out, axis=1)[:, None]).max() < 2 / times
    assert distance.sdf(np.array([[1e300, -1e300, 1e300]])) == pytest.approx(3**0.5 * 1e300)
    walls = CENTRE + half * np.array([[1, 0.2, 0.1], [0.3, -1, 0], [0, 0, 1]])
    assert np.abs(distance.sdf(walls)).max() < 1e-9
    for found in (distance.sdf(np.zeros((0, 3))), distance.inside(np.zeros((0, 3)))):
        assert found.shape == (0,)
    assert distance.sdf(np.zeros((0, 3)), gradient=True)[1].shape == (0, 3)


def test_chunks_do_not_show(monkeypatch):
    distance, _, half = learned("torus")
    points = around(half, 2, 500)
    whole = distance.sdf(points, gradient=True)
    monkeypatch.setattr("sinefield.plain.distance.CHUNK", 64)
    for one, other in zip(whole, distance.sdf(points, gradient=True), strict=True):
        assert np.array_equal(one, other)


def test_inside_that_reaches_the_wall_gets_a_lid():
    """A slope through the whole box, as of a terrain: inside is what lies below it within the box."""
    normal = np.array([0.6, 0.0, 0.8])
    distance = TrueDistance(lambda p: p @ normal, np.array([-1, -1, -0.5, 1, 1, 0.5]))
    assert distance.capped
    points = np.random.default_rng(0).uniform(-1, 1, (2000, 3)) * [4, 4, 2]
    outside = (np.abs(points) > [1.1, 1.1, 0.6]).any(axis=1)
    assert not distance.inside(points)[outside].any()
    within = (np.abs(points) < [1, 1, 0.5]).all(axis=1)
    assert np.array_equal(distance.inside(points)[within], (points @ normal < 0)[within])
    found = distance.sdf(np.array([[0.1, 0.2, 0.1], [0.0, 0, -0.25], [0, 0, -3.0]]))
    assert found[:2] == pytest.approx([0.14, -0.2], abs=1e-3)
    assert found[2] == pytest.approx(2.5, abs=0.06)  # the lid is up to three cells outside the box


def test_a_surface_with_a_hole():
    """A ball without its cap, whose inside is told by winding numbers, as training points' are."""
    mesh = trimesh.creation.icosphere(4)
    faces = mesh.faces[mesh.vertices[mesh.faces][..., 2].max(axis=1) < 0.8].astype(np.int64)

    def winding(p):
        return igl.fast_winding_number(np.asarray(mesh.vertices, np.float64), faces, p)

    distance = TrueDistance(lambda p: 0.5 - winding(p), np.array([-1, -1, -1, 1, 1, 0.8]), learned=False)
    points = np.random.default_rng(0).uniform(-4, 4, (10_000, 3))
    points[:2000] /= 4
    assert not distance.capped
    assert (distance.inside(points) == (winding(points) > 0.5)).mean() > 0.999
    # Opposite the hole the given surface is the nearest.
    below = points[points[:, 2] < -1]
    assert distance.sdf(below) == pytest.approx(np.linalg.norm(below, axis=1) - 1, abs=0.005)


def test_what_is_thinner_than_a_cell_keeps_its_side():
    """A ball with a fin between two layers of grid points: the mesh misses most of it, the function does not."""
    thin = 0.001

    def exact(p):
        fin = np.abs(p - [0.6, 0, 0.0031]) - [0.4, 0.3, thin]
        plate = np.linalg.norm(np.maximum(fin, 0), axis=1) + np.minimum(fin.max(axis=1), 0)
        return np.minimum(np.linalg.norm(p, axis=1) - 0.5, plate)

    distance = TrueDistance(exact, np.array([-0.5, -0.5, -0.5, 1.0, 0.5, 0.5]))
    assert not distance.surface.negative[-20:].any()  # indeed missed
    rng = np.random.default_rng(0)
    fin = np.stack(
        [rng.uniform(0.55, 0.95, 500), rng.uniform(-0.25, 0.25, 500), 0.0031 + rng.uniform(-0.9, 0.9, 500) * thin],
        axis=1,
    )
    points = np.concatenate([fin, rng.uniform(-0.5, 0.5, (2000, 3))])
    found = distance.sdf(points)
    assert np.array_equal(found < 0, exact(points) < 0)
    assert np.abs(found - exact(points))[:500].max() < 1e-6


def octahedron(represents, loss):
    """A network by hand whose zero level is |x| + |y| + |z| = 0.5, at places of an object that is 10 times as large."""
    config = ShapeFieldConfig(
        width=6, depth=1, weights="dense", activation="relu", frequencies=0, represents=represents, loss=loss
    )
    inward = {"tanh": 1.0, "bce": -20.0, "mse": -1.0}[loss]
    return config, {
        "network.weights.0.weight": np.concatenate([np.eye(3), -np.eye(3)]),
        "network.biases.0": np.zeros(6),
        "network.weights.1.weight": np.full((1, 6), inward / (3**0.5 * config.band if loss == "tanh" else 1)),
        "network.biases.1": np.array(
            [-0.5 * inward / (3**0.5 * config.band if loss == "tanh" else 1) + (loss == "mse") / 2]
        ),
        "centre": CENTRE,
        "scale": np.array(0.1),
        "aabb": np.concatenate([CENTRE - 5, CENTRE + 5]),
    }


@pytest.mark.parametrize(("represents", "loss"), [("distance", "tanh"), ("occupancy", "bce"), ("occupancy", "mse")])
def test_stored_fields_of_every_meaning(represents, loss):
    distance = TrueDistance.of_arrays(*octahedron(represents, loss))
    corners = CENTRE + 5 * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1.0]])
    faces = np.array([[i, j, k] for i in (0, 1) for j in (2, 3) for k in (4, 5)])
    points = around(np.full(3, 5.0), 4, 5000)
    sign = np.where(np.abs(points - CENTRE).sum(axis=1) < 5, -1.0, 1.0)
    squares, _, closest = igl.point_mesh_squared_distance(points, corners, faces)
    found, gradient = distance.sdf(points, gradient=True)
    diagonal = 10 * 3**0.5
    assert np.abs(found - sign * np.sqrt(squares)).max() < 0.003 * diagonal
    assert np.array_equal(found < 0, sign < 0)
    right = (points - closest) * (sign / np.sqrt(squares))[:, None]
    assert np.median(np.degrees(np.arccos(np.clip((gradient * right).sum(axis=1), -1, 1)))) < 0.5
    # Close to a face, where the network's own gradient is asked for.
    value, direction = distance.sdf(CENTRE + np.array([[1.7, 1.6, 1.7], [-1.7, 1.6, 1.7]]), gradient=True)
    assert np.abs(value).max() < 1e-3
    assert np.abs(direction * 3**0.5 - [[1, 1, 1], [-1, 1, 1]]).max() < 0.02


@pytest.fixture(scope="module")
def trained():
    """A field of the ball after some steps in plain torch, which compile nothing."""
    torch.manual_seed(0)
    config = ShapeFieldConfig(width=32, rank=4, frequencies=2, phase=0.5, bound=4.0)
    scale, box = 0.9 / RADIUS, np.concatenate([CENTRE - RADIUS, CENTRE + RADIUS])
    field = ShapeField(config, torch.from_numpy(CENTRE), torch.tensor(scale), torch.from_numpy(box))
    optimizer = torch.optim.Adam(field.parameters(), lr=0.01)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 400)
        x = torch.rand(2048, 3) * 2 - 1
        x[::2] *= 0.9 * (1 + 0.05 * torch.randn(1024, 1)) / x[::2].norm(dim=1, keepdim=True)
        raw = field.network.reference(field.encoding.reference(x))[:, 0]
        loss = (torch.tanh(raw) - torch.tanh((x.norm(dim=1) - 0.9) / config.band)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return field.requires_grad_(False)


def test_a_trained_field(trained):
    distance = TrueDistance.of_arrays(trained.config, {name: t.numpy() for name, t in trained.state_dict().items()})
    points = around(np.full(3, RADIUS), 1)
    x = ((torch.from_numpy(points) - trained.centre) * trained.scale).float()
    raw = trained.network.reference(trained.encoding.reference(x))[:, 0].double().numpy()
    right = raw * trained.config.band / float(trained.scale)
    np.testing.assert_allclose(distance.evaluate(points), right, rtol=0, atol=1e-5 * np.abs(right).max())
    diagonal = 2 * RADIUS * 3**0.5
    points = around(np.full(3, RADIUS), 4, 10_000)
    found, gradient = distance.sdf(points, gradient=True)
    right = ball(points)
    assert ((found < 0) == (right < 0))[np.abs(right) > 0.01 * diagonal].mean() > 0.999
    assert np.abs(found - right).max() < 0.01 * diagonal
    outward = (points - CENTRE) / np.linalg.norm(points - CENTRE, axis=1)[:, None]
    assert np.median(np.degrees(np.arccos(np.clip((gradient * outward).sum(axis=1), -1, 1)))) < 2


@pytest.mark.parametrize("value", [1.0, -1.0])
def test_no_surface(value):
    distance = TrueDistance(lambda p: np.full(len(p), value), np.array([-1, -1, -1, 1, 1, 1.0]))
    with pytest.raises(SinefieldError, match="no surface"):
        distance.sdf(np.zeros((1, 3)))


def test_what_is_refused():
    unit = np.array([-1, -1, -1, 1, 1, 1.0])
    with pytest.raises(SinefieldError, match="NaN or infinite within its box"):
        TrueDistance(lambda p: p[:, 0] * np.nan, unit).inside(np.zeros((1, 3)))
    for aabb in (np.zeros(6), -unit, unit * np.nan):
        with pytest.raises(SinefieldError, match="is empty"):
            TrueDistance(ball, aabb)
    distance = TrueDistance(lambda p: np.linalg.norm(p, axis=1) - 1, unit)
    # Past the annotations, which are checked in tests only.
    for points in (np.zeros(3), np.zeros((2, 2)), np.array([["a", "b", "c"]])):
        with pytest.raises(SinefieldError, match=r"give numbers of shape \(n, 3\)"):
            checked_points(points)
    with pytest.warns(UserWarning, match="1 of 2 points are not finite"):
        assert np.isnan(distance.sdf(np.array([[0, 0, 0], [0, np.inf, 0]]))).tolist() == [False, True]
    with pytest.raises(SinefieldError, match="point 1 is"):
        checked_points(np.array([[0, 0, 0], [0, np.inf, 0]]))
