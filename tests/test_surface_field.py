"""Surfaces from photographs: what a distance lets through, a ball found from its pictures, meshes and their budget."""

import json

import numpy as np
import pytest
import torch
import trimesh
from small import SINE, radiance_config

from sinefield.commands.cli import main
from sinefield.config import RadianceFieldConfig, make_config
from sinefield.data.surfaces.surface import Surface
from sinefield.errors import SinefieldError
from sinefield.export.mesh import export_mesh, extract_field
from sinefield.fields.radiance.field import RadianceField
from sinefield.fields.radiance.level import suggest_level
from sinefield.fields.radiance.regularity import beta_at, differences, fit_hull
from sinefield.fields.radiance.surface import SPHERE, SurfaceField, crossings, make_radiance_field
from sinefield.learning.train import train
from sinefield.meshing.decimate import decimate
from sinefield.meshing.extract import cropped
from sinefield.metrics.shapes import compare_visible, visible
from sinefield.render.march import Samples
from sinefield.render.volume import composite_reference
from sinefield.store.fields import load_field
from sinefield.strict import to_plain

BOX = torch.tensor([-2.0, -2, -2, 2, 2, 2])
SMALL = {"width": 32, "depth": 2, "rank": 4, "frequencies": 2, "grid": 24, "steps": 64, "head_width": 16, **SINE}


def field_of(**settings):
    torch.manual_seed(0)
    return make_radiance_field(RadianceFieldConfig(density="distance", **(SMALL | settings)), BOX)


def line(n, step=0.05):
    """Samples of one ray along x from 0 on."""
    t = torch.arange(n) * step
    return Samples(torch.zeros(n, dtype=torch.int64), t, t + step, torch.tensor([[0, n]]))


def test_a_new_field_is_a_sphere_with_the_logistic_density():
    field = field_of()
    assert isinstance(field, SurfaceField) and type(make_radiance_field(RadianceFieldConfig(), BOX)) is RadianceField
    x = torch.randn(200, 3)
    d = x.norm(dim=1) - 2 * SPHERE
    torch.testing.assert_close(field.distance(x), d, atol=1e-5, rtol=0)
    beta = 2 * field.beta  # world units
    torch.testing.assert_close(
        field.density(x), 1 / (beta * (1 + torch.exp((d / beta).clamp(max=80)))), rtol=2e-3, atol=1e-6
    )
    on, deep = torch.tensor([[2 * SPHERE, 0, 0]]), torch.zeros(1, 3)
    assert field.density(on).item() == pytest.approx(0.5 / beta, rel=1e-3)
    assert field.density(deep).item() == pytest.approx(1 / beta, rel=1e-3)


@pytest.mark.parametrize(("slope", "beta"), [(1.0, 0.02), (0.2, 0.02), (0.05, 0.005), (1.0, 0.001)])
def test_half_of_the_light_is_left_at_the_surface_however_slanted(slope, beta):
    """NeuS: Φ(b)/Φ(a) along any ray; the density of the position alone would stop 1/slope times as much."""
    samples = line(64)
    middle = (samples.t_starts + samples.t_ends) / 2
    d = slope * (1.6 - middle)  # crosses 0 between two samples
    sigmas, colours, moved = crossings(d / beta, middle[:, None], samples)
    transmittance = torch.exp(-(sigmas.double() * 0.05).cumsum(0))
    torch.testing.assert_close(transmittance, torch.sigmoid(d.double() / beta), atol=1e-5, rtol=1e-4)
    if slope == 1.0:  # opaque within a sample: what is seen is what lies on the surface, not at a sample
        pixels = composite_reference(sigmas, colours, moved)
        assert pixels.opacities.item() == pytest.approx(1, abs=1e-3)
        assert pixels.colours.item() == pytest.approx(1.6, abs=0.02) and pixels.depths.item() == pytest.approx(
            1.6, abs=0.03
        )


def test_what_recedes_stops_nothing_and_rays_do_not_mix():
    two = Samples(
        torch.tensor([0, 0, 0, 1, 1]),
        *(torch.tensor([0.0, 1, 2, 0, 1]) + i for i in (0, 1)),
        torch.tensor([[0, 3], [3, 2]]),
    )
    colours = torch.arange(5.0)[:, None]
    sigmas, seen, _ = crossings(torch.tensor([30.0, 31.0, 33.0, 20.0, 22.0]), colours, two)
    assert (sigmas < 1e-8).all()  # 33 to 20 falls, but from one ray to the next
    torch.testing.assert_close(seen, colours)
    sigmas, seen, _ = crossings(torch.tensor([3.0, 1.0, -1.0, 2.0, 3.0]), colours, two)
    assert sigmas[4] == 0 and (sigmas[:4] > 0).all()
    torch.testing.assert_close(seen[:, 0], torch.tensor([0.0, 1.0, 1.5, 3.0, 4.0]))


@pytest.mark.parametrize("entry", [0, 5, 20, 33])
def test_a_ray_that_enters_late_loses_no_light(entry):
    """Whether samples begin in the open, close before a surface or behind it: as much light is left after them."""
    whole = line(64)
    d = (1.6 - (whole.t_starts + whole.t_ends) / 2) / 0.1
    late = line(64 - entry)
    sigmas, _, _ = crossings(d[entry:], torch.zeros(len(d) - entry, 1), late)
    left = torch.exp(-(sigmas.double() * 0.05).sum())
    assert left.item() == pytest.approx(torch.sigmoid(d[-1].double()).item(), rel=1e-4)


def test_differences_are_slopes_and_curvatures():
    field = field_of()
    x = torch.randn(20, 3)
    slopes, laplacians = differences(field, x, 0.01)
    r = x.norm(dim=1)
    torch.testing.assert_close(slopes, x / r[:, None], atol=5e-3, rtol=0)
    halves = r / field.half
    near = halves > 0.3  # of a sphere of radius r the two curvatures are 1/r
    torch.testing.assert_close(laplacians[near], (2 / halves)[near], atol=0.05, rtol=0.02)
    with torch.no_grad():
        field.trunk.biases[-1][0] = 0.1
        field.trunk.weights[-1].weight[0] = torch.randn(32) * 0.1
    x.requires_grad_()
    field.trunk.twice_differentiable = True
    (truth,) = torch.autograd.grad(field.distance(x).sum(), x)
    torch.testing.assert_close(differences(field, x.detach(), 1e-3)[0], truth, atol=0.05, rtol=0)


def test_schedules_end_where_the_field_file_begins():
    assert beta_at(1.0, 0.004) == beta_at(0.9, 0.004) == pytest.approx(0.004)
    values = [beta_at(i / 20, 0.004) for i in range(21)]
    assert values == sorted(values, reverse=True) and values[0] > 4 * values[-1]


def test_a_field_starts_as_its_hull():
    field = field_of(encoding="hash", levels=4, coarsest=4, finest=32)
    centre = torch.tensor([0.3, 0.0, -0.2])
    grid = field.grid
    grid.restrict(((grid.centres() - centre).norm(dim=1) < 0.8).view(grid.allowed.shape))
    fit_hull(field, 0)
    x = torch.rand(4000, 3, generator=torch.Generator().manual_seed(1)) * 3 - 1.5
    with torch.no_grad():
        error = (field.distance(x) - ((x - centre).norm(dim=1) - 0.8)).abs()
    assert error.mean() < 0.04  # a quarter of a cell


@pytest.fixture(scope="module")
def surface_run(photographs, tmp_path_factory):
    config = radiance_config(photographs, steps=200)
    content = to_plain(config)
    content["field"] |= {"density": "distance", "beta": 0.01}
    content["data"]["background"] = "random"
    folder = tmp_path_factory.mktemp("runs") / "surface"
    return folder, train(make_config(content, "test"), folder)


@pytest.mark.slow
def test_a_ball_is_found_from_its_pictures(surface_run, tmp_path):
    folder, report = surface_run
    assert report["psnr"] > 20
    exported = export_mesh(folder, tmp_path / "ball.ply", resolution=48, largest=True)
    assert exported["level"] == 0 and exported["level_note"] is None
    mesh = trimesh.load(tmp_path / "ball.ply")
    radii = np.linalg.norm(mesh.vertices, axis=1)
    assert np.median(radii) == pytest.approx(1.0, abs=0.04) and (np.abs(radii - 1) < 0.15).mean() > 0.95
    assert mesh.is_watertight and mesh.volume > 0
    # Red above, blue below.
    reds, blues = mesh.visual.vertex_colors[:, 0].astype(int), mesh.visual.vertex_colors[:, 2].astype(int)
    assert ((reds > blues) == (mesh.vertices[:, 2] > 0))[np.abs(mesh.vertices[:, 2]) > 0.2].mean() > 0.95


def test_it_packs_and_comes_back_as_a_surface(surface_run, tmp_path):
    folder, _ = surface_run
    assert main(["pack", str(folder), str(tmp_path / "s.sine"), "--bits", "8", "--seconds", "0"]) == 0
    field, _ = load_field(tmp_path / "s.sine")
    original, _ = load_field(folder)
    assert isinstance(field, SurfaceField) and field.beta == original.beta == 0.01
    x = torch.rand(500, 3) * 2 - 1
    torch.testing.assert_close(field.distance(x), original.distance(x), atol=0.05, rtol=0)


def test_crop_and_budget(surface_run, tmp_path, capsys):
    folder, _ = surface_run
    out = tmp_path / "half.ply"
    crop = ["--crop", "-3", "-3", "0", "3", "3", "3"]
    assert main(["mesh", str(folder), str(out), "--resolution", "48", "--faces", "300", *crop, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["faces"] <= 300 and report["watertight"]
    low, high = trimesh.load(out).bounds
    assert low[2] == pytest.approx(0, abs=0.1) and high[2] == pytest.approx(1, abs=0.1)
    for bad, message in (
        (["--crop", "5", "5", "5", "6", "6", "6"], "lies outside the field's box"),
        (["--crop", "1", "0", "0", "0", "1", "1"], "each min below its max"),
        (["--faces", "2"], "--faces 2; at least 4"),
    ):
        assert main(["mesh", str(folder), str(tmp_path / "no.ply"), "--resolution", "32", *bad]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "no.ply").exists()


def test_boxes_share_what_both_hold():
    np.testing.assert_array_equal(
        cropped(np.array([-1.0, -1, -1, 1, 1, 1]), np.array([0.0, -5, -1, 5, 0, 1])), [0, -1, -1, 1, 0, 1]
    )


def test_decimation_keeps_place_and_shape():
    ball = trimesh.creation.icosphere(4, radius=2.0)
    centre = np.array([1e4, 0, 0])
    vertices, faces = decimate(ball.vertices + centre, ball.faces.astype(np.int32), 500)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert len(faces) <= 500 and mesh.is_watertight
    np.testing.assert_allclose(np.linalg.norm(vertices - centre, axis=1), 2.0, atol=0.05)
    assert decimate(ball.vertices, ball.faces.astype(np.int32), 10**6)[1] is not None
    with pytest.raises(SinefieldError, match="at least 4"):
        decimate(ball.vertices, ball.faces.astype(np.int32), 3)


class Cloud(RadianceField):
    """A ball of radius 1 whose density rises inward as exp(−k·d)."""

    def density(self, x):
        return 8.0 * torch.exp((20 * (1 - x.norm(dim=1))).clamp(max=6))


@pytest.mark.slow
def test_the_suggested_level_is_where_a_little_light_is_stopped():
    cloud = Cloud(RadianceFieldConfig(**(SMALL | {"steps": 160})), BOX)
    level, note = suggest_level(cloud)
    # Head on, ∫ 8 exp(20 (1 − r)) dr from outside is 8/20 exp(20 (1 − r)) = σ/20: −ln 0.85 at σ = 3.25.
    # Rays that are slanted by the mean 1 / cos of a disc of them, 3 / 2, are stopped there at 2.17.
    assert 1.4 < level < 3.25 and "15%" in note
    vertices, _, statistics = extract_field(cloud, 64)
    assert statistics["level"] == level and statistics["level_note"] == note
    expected = 1 + np.log(8 / level) / 20
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), expected, atol=0.02)


def test_only_what_eyes_see_is_compared():
    ball = trimesh.creation.icosphere(5, radius=1.0)
    reference = Surface(np.asarray(ball.vertices), ball.faces.astype(np.int32), None, None, "ball", {})
    eye = np.array([[0.0, 0, 5]])
    points = np.asarray(ball.vertices)
    # From distance 5 a unit ball shows what is above z = 1/5.
    seen = visible(points, points, reference, eye)
    assert (seen == (points[:, 2] > 0.2))[np.abs(points[:, 2] - 0.2) > 0.05].all()
    two = np.array([[0.0, 0, 5], [0, 5, 0]])
    both = visible(points, points, reference, two, least=2)
    assert (both == (points[:, 1:].min(1) > 0.2))[np.abs(points[:, 1:] - 0.2).min(1) > 0.05].all() and both.any()
    assert not visible(points, points, reference, two, least=3).any()
    dented = np.asarray(ball.vertices) * np.where(ball.vertices[:, 2:] < -0.2, 0.5, 1.0)
    assert compare_visible(dented, ball.faces.astype(np.int32), reference, eye)["chamfer_l1"] < 2e-3
    assert compare_visible(dented, ball.faces.astype(np.int32), reference, -eye)["chamfer_l1"] > 0.1
    larger = compare_visible(1.1 * points, ball.faces.astype(np.int32), reference, eye)
    assert larger["chamfer_l1"] == pytest.approx(0.1, rel=0.02)
    with pytest.raises(SinefieldError, match="no camera sees"):
        compare_visible(points, ball.faces.astype(np.int32), reference, 0 * eye)
    with pytest.raises(SinefieldError, match="no 3 cameras see"):
        compare_visible(points, ball.faces.astype(np.int32), reference, two, least=3)
