"""Compiled distances against their definition in NumPy, against torch, libigl, and analytic shapes."""

import itertools
import warnings

import igl
import numpy as np
import pytest
import torch

import sinefield as sf
from sinefield.config import make_field_config
from sinefield.errors import SinefieldError
from sinefield.fields.base import kind_named
from sinefield.kernels.cpu.distance import ORDERED, Distances
from sinefield.plain.distance import TrueDistance
from sinefield.plain.quick import made_of

ACTIVATIONS = ["relu", "leaky_relu", "gaussian", "sine", "softplus"]


@pytest.fixture(scope="module")
def knot():
    """The example, by NumPy and compiled."""
    slow, quick = sf.load("example:knot"), sf.load("example:knot")
    assert quick.prepare()
    return slow, quick


def around(field, times, n=5000):
    low, high = field.bounds
    return (low + high) / 2 + np.random.default_rng(0).uniform(-times / 2, times / 2, (n, 3)) * (high - low)


def angles(a, b):
    return np.degrees(np.arccos(np.clip((a * b).sum(axis=1), -1, 1)))


@pytest.mark.parametrize("times", [1, 2, 4])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_it_is_the_definition(knot, times, kind):
    slow, quick = knot
    points = around(slow, times).astype(kind)
    (truth, ways), (found, own) = (field.sdf(points, gradient=True) for field in knot)
    assert found.dtype == own.dtype == kind and np.array_equal(found, quick.sdf(points))
    off = np.abs(found - truth) / np.linalg.norm(np.diff(slow.bounds, axis=0))
    # A walk over the mesh may end a little further away than the nearest place.
    assert off.max() < 0.004 and off.mean() < 3e-5 and np.quantile(off, 0.8) < 1e-5
    assert (np.sign(found) == np.sign(truth)).all()
    assert np.abs(np.linalg.norm(own, axis=1) - 1).max() < 1e-5
    assert np.quantile(angles(own.astype(float), ways.astype(float)), [0.5, 0.9]) == pytest.approx([0, 0], abs=8.0)


def test_many_points_are_answered_as_few_are(knot):
    """Many are put in order first; few are not, and are answered the same to the bit."""
    _, quick = knot
    points = around(quick, 3, 3 * ORDERED)
    points[::50] += 100 * np.ptp(quick.bounds, axis=0)
    points[7], points[-1, 1] = np.nan, np.inf
    with pytest.warns(UserWarning, match="2 of"):
        found, ways = quick.sdf(points, gradient=True)
    for start in range(0, len(points), ORDERED // 2):
        part = slice(start, start + ORDERED // 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one, way = quick.sdf(points[part], gradient=True)
        assert np.array_equal(found[part], one, equal_nan=True) and np.array_equal(ways[part], way, equal_nan=True)
    assert np.isfinite(found).sum() == len(points) - 2


def test_it_is_never_nearer_than_libigl_and_seldom_further(knot):
    _, quick = knot
    truth = quick._true_distance()
    surface, unit = truth.surface, truth.unit
    vertices = surface.vertices * unit + truth.centre
    points = around(quick, 2)
    far = points[np.abs(quick.sdf(points)) > 2 * surface.pitch * unit]
    squares, _, _ = igl.point_mesh_squared_distance(far, vertices, surface.faces)
    off = np.abs(quick.sdf(far)) - np.sqrt(squares)
    diagonal = np.linalg.norm(np.diff(quick.bounds, axis=0))
    assert off.min() > -1e-6 * diagonal and off.mean() < 1e-4 * diagonal and off.max() < 0.004 * diagonal


def made(settings, seed=0):
    """A shape of random weights, half of whose box is inside: its torch module, and its distances."""
    asked = {"weights": "sine", "rank": 3, "width": 20, "depth": 3, "frequencies": 1, "sigma": 1.5, "omega0": 2.0}
    config = make_field_config("shape", asked | {"represents": "distance"} | settings, "the test")
    torch.manual_seed(seed)
    placed = {"centre": torch.tensor([1.0, 2, 3]).double(), "scale": torch.tensor(0.7).double()}
    placed["aabb"] = torch.tensor([0.0, 1, 2, 2, 3, 4]).double()
    field = kind_named("shape").blank(config, placed)
    for parameter in field.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    with torch.no_grad():
        points = torch.rand(2000, 3).double() * 2 + torch.tensor([0.0, 1, 2])
        middle = field(((points - field.centre) * field.scale).float()).median()
        field.network.biases[-1][0] -= middle
    arrays = {name: tensor.numpy() for name, tensor in field.state_dict().items()}
    truth = TrueDistance.of_arrays(config, arrays)
    truth.resolution = 32  # surfaces of random weights are large
    return field, truth


CASES = [
    *({"activation": a, "skips": s} for a, s in itertools.product(ACTIVATIONS, ([], [1, 2]))),
    {"represents": "occupancy"},
    {"depth": 1, "weights": "dense", "frequencies": 0},
    {"width": 33, "weights": "lowrank"},
]


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_every_network(settings, monkeypatch):
    monkeypatch.setattr("sinefield.kernels.cpu.nearest.SEED_CELLS", 48)  # time: a grid as fine as this mesh
    field, truth = made(settings)
    rng = np.random.default_rng(1)
    box = truth.low + rng.random((300, 3)) * (truth.high - truth.low)
    near = truth.surface.vertices[:: len(truth.surface.vertices) // 400] * truth.unit + truth.centre
    near = near + rng.normal(0, 0.2 * truth.surface.pitch * truth.unit, near.shape)
    points = np.concatenate([near, box])
    value, way = truth.sdf(points, gradient=True)
    found, own = np.empty(len(points)), np.empty(points.shape)
    assert not Distances(*made_of(truth))(points, found, own).any()
    off = np.abs(found - value)
    # Surfaces of random weights are crowded: away from them a walk may well end at another part.
    assert np.median(off[: len(near)]) < 1e-6 * truth.unit and off.mean() < 0.005 * truth.unit
    assert np.median(angles(own, way)[: len(near)]) < 0.1
    if truth.learned:  # where the network alone has the say, it is what torch says
        places = (points - truth.centre) / truth.unit
        trusted = truth.surface.nearest(places)[0] < 0.2 * truth.surface.pitch
        asked = torch.from_numpy(points[trusted]).requires_grad_()
        twin = field(((asked - field.centre) * field.scale).float())
        (slope,) = torch.autograd.grad(twin.sum(), asked)
        twin = field.evaluate(asked.detach()).double().numpy()
        # Not cut off, as what is no distance is: near what the mesh says.
        off = np.abs(np.abs(twin) / truth.unit - truth.surface.nearest(places[trusted])[0])
        learned = off < 0.4 * truth.surface.pitch
        learned &= (np.abs(places[trusted]) < 0.49).all(axis=1)  # and far from lids at the wall
        assert learned.sum() > 20 and np.median(np.abs(found[trusted] - twin)[learned]) < 2e-6 * truth.unit
        slope = slope.numpy() / np.linalg.norm(slope.numpy(), axis=1, keepdims=True)
        on = truth.surface.nearest(places[trusted])[0] < 0.02 * truth.surface.pitch
        on &= (np.abs(places[trusted]) < 0.49).all(axis=1)
        assert on.sum() < 4 or np.median(angles(own[trusted][on], slope[on])) < 3


def test_threads_and_memory_do_not_matter(knot):
    _, quick = knot
    points = around(quick, 2, 40_000)
    one = quick.sdf(points, gradient=True, threads=1)
    many = quick.sdf(points, gradient=True, threads=3)
    apart = quick.sdf(np.asfortranarray(points), gradient=True)
    for a, b, c in zip(one, many, apart, strict=True):
        assert np.array_equal(a, b) and np.array_equal(a, c)
    assert quick.sdf(np.zeros((0, 3))).shape == (0,)
    tensor = quick.sdf(torch.from_numpy(points[:5]))
    assert isinstance(tensor, torch.Tensor) and np.array_equal(tensor.numpy(), one[0][:5])
    for threads in (0, -1, 1.5):
        with pytest.raises(SinefieldError, match="threads"):
            quick.sdf(points, threads=threads)


def test_points_that_are_not_finite_are_told_once(knot):
    points = np.array([[0, 0, 0], [np.nan, 0, 0], [0, np.inf, 0], [0.1, 0.2, 0.3]])
    for field in (*knot, sf.load("example:spot")):
        with pytest.warns(UserWarning, match="2 of 4 points are not finite, the first is point 1") as told:
            value, way = field.sdf(points, gradient=True)
        assert len(told) == 1
        assert np.isnan(value).tolist() == [False, True, True, False] and np.isnan(way).any(axis=1).sum() == 2
        with pytest.warns(UserWarning, match="not finite"):
            assert not field.inside(points)[1:3].any()


def test_kernels_are_taken_once_much_was_asked(monkeypatch):
    monkeypatch.setattr("sinefield.store.distances.QUICK_AFTER", 100)
    monkeypatch.setattr("sinefield.store.distances.COMPILE_AFTER", 300)
    monkeypatch.setattr("sinefield.store.compiled.stored", frozenset)
    field = sf.load("example:knot")
    point = np.zeros((1, 3))
    while field._asked < 300 - 21:
        field.sdf(point)
        assert field._true_distance().quick is None  # nothing is stored, and it is not worth compiling yet
    field.sdf(point)
    assert field._true_distance().quick is not None
    sheet = sf.load("example:knot")
    sheet._true_distance().behind = None  # as of a sheet or a hash grid
    assert not sheet.prepare()
