"""The benchmark's baselines compute what they claim, and its search finds the time it should."""

import importlib
import math
from pathlib import Path

import pytest
import torch
from small import radiance_config

from sinefield.fields.base import step_generator
from sinefield.fields.radiance.scores import mean_psnr
from sinefield.fields.radiance.training import load_scene
from sinefield.nn.hashgrid import HashGrid


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    """Scripts import their neighbours."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts" / "benchmarks")


@pytest.fixture
def rivals():
    return importlib.import_module("rivals")


@pytest.fixture
def peers():
    return importlib.import_module("peers")


def test_plain_hash_is_the_hash_grid(rivals):
    torch.manual_seed(0)
    ours, plain = HashGrid(5, 9, 4, 40), rivals.PlainHash(5, 9, 4, 40)
    assert plain.out_features == ours.out_features
    assert [len(t) for t in plain.tables] == ours.sizes.tolist()
    with torch.no_grad():
        ours.table.normal_()
        for mine, theirs in zip(plain.tables, ours.table.split(ours.sizes.tolist()), strict=True):
            mine.copy_(theirs)
    x = torch.rand(500, 3) * 2.4 - 1.2  # outside the box too
    torch.testing.assert_close(plain(x), ours.reference(x))
    weights = torch.randn(500, 10)
    (plain(x) * weights).sum().backward()
    (ours.reference(x) * weights).sum().backward()
    torch.testing.assert_close(torch.cat([t.grad for t in plain.tables]), ours.table.grad)


def test_siren_starts_as_its_paper_has_it(rivals):
    torch.manual_seed(0)
    network = rivals.Siren()
    shapes = [tuple(layer.weight.shape) for layer in network.layers]
    assert shapes == [(256, 3), (256, 256), (256, 256), (256, 256), (1, 256)]
    for i, layer in enumerate(network.layers):
        bound = 1 / 3 if i == 0 else math.sqrt(6 / 256) / 30
        assert layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15 if i in (0, 4) else 0.02)
    x = torch.rand(4000, 3) * 2 - 1
    h = torch.sin(30 * (x @ network.layers[0].weight.T + network.layers[0].bias))
    for layer in network.layers[1:-1]:
        before = 30 * (h @ layer.weight.T + layer.bias)
        # Paper, §3.2: arguments of standard deviation 1 (plus the biases'), outputs distributed like an arcsine.
        assert (before - 30 * layer.bias).std().item() == pytest.approx(1.0, rel=0.15)
        h = torch.sin(before)
        assert h.std().item() == pytest.approx(math.sqrt(0.5), rel=0.05)
    last = network.layers[-1]
    torch.testing.assert_close(network(x), (h @ last.weight.T + last.bias)[:, 0])


@pytest.mark.parametrize("encoding", ["frequency", "hash"])
def test_plain_radiance_is_scored_as_itself_and_learns(rivals, photographs, encoding):
    config = radiance_config(photographs)
    config.field.encoding, config.field.log2_table, config.field.finest = encoding, 10, 64
    scene = load_scene(config)
    torch.manual_seed(0)
    plain = rivals.PlainRadiance(config, scene, compiled=encoding == "hash", hull=encoding == "hash", batch=4096)
    assert bool(plain.grid.binaries.all()) == (encoding != "hash")
    before = mean_psnr(plain.field(), scene.test)
    optimizers = plain.optimizers(1e-2)
    for i in range(60):
        for optimizer in optimizers:
            optimizer.zero_grad()
        plain.step(step_generator(0, i))
        for optimizer in optimizers:
            optimizer.step()
    field = plain.field()
    assert mean_psnr(field, scene.test) > before + 4
    x, d = torch.rand(300, 3) * 2 - 1, torch.nn.functional.normalize(torch.randn(300, 3), dim=1)
    with torch.no_grad():
        sigmas, features = plain.shade(x)
        rgb, density = field(x, d)
        torch.testing.assert_close(density, sigmas, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rgb, plain.colours(features, plain.directions(d)), rtol=1e-4, atol=1e-5)
    assert torch.equal(field.grid.binaries, plain.grid.binaries)


def test_crossing_is_interpolated(peers):
    assert peers.crossing([(1.0, 10.0), (2.0, 20.0), (3.0, 30.0)], 25.0) == 2.5
    assert peers.crossing([(1.0, 30.0), (2.0, 20.0)], 25.0) == 1.0
    assert peers.crossing([(1.0, 10.0), (2.0, 20.0)], 25.0) is None


@pytest.mark.parametrize("needed", [0.9, 4.0, 37.0, 5000.0])
def test_search_brackets_the_smallest_budget(peers, needed):
    """A contender whose score is 1 at the end of budgets of at least `needed`."""
    limit, runs = 900.0, []
    for run in peers.search(lambda b: [(b, 1.0 if b >= needed else 0.0)], 1.0, limit):
        runs.append(run)
    reached = [r["budget"] for r in runs if r["reached"] is not None]
    failed = [r["budget"] for r in runs if r["reached"] is None]
    if needed > limit:
        assert not reached and max(failed) == limit
    else:
        assert min(reached) >= needed > max(failed)
        assert min(reached) <= peers.CLOSE * max(failed) * 1.01
