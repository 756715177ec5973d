"""Open sheets against formulas: what is learned of them, their meshes, distances, files and refusals."""

import json

import numpy as np
import pytest
import second_decoder
import torch
import trimesh

import sinefield as sf
from sinefield.commands.cli import main
from sinefield.compress.settings import BASE, settings_out
from sinefield.config import make_config
from sinefield.data.surfaces.sheet import Rim, sheet_values
from sinefield.data.surfaces.surface import load_surface
from sinefield.errors import SinefieldError
from sinefield.fields.base import settled
from sinefield.fields.shape.surface import extract_sheet
from sinefield.fields.shape.training import ShapeTask
from sinefield.learning.evaluate import evaluate_file
from sinefield.learning.pack import pack
from sinefield.learning.train import train
from sinefield.meshing.sheet import sheet_mesh
from sinefield.plain.distance import TrueDistance
from sinefield.plain.sheet import distances_of
from sinefield.plain.stored import stored_shape
from sinefield.store.fields import load_field
from sinefield.store.run import Run
from sinefield.strict import to_plain

DOUBLED = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3\nf 1 3 4\nf 3 2 1\nf 4 3 1\n"


def written(path, vertices, faces):
    lines = [f"v {x:.17g} {y:.17g} {z:.17g}" for x, y, z in vertices]
    path.write_text("\n".join([*lines, *(f"f {a + 1} {b + 1} {c + 1}" for a, b, c in faces)]) + "\n")
    return path


def over_grid(n, height, low=-1.0, high=1.0):
    """A sheet over a square, y being the height, faces looking up."""
    x, z = np.meshgrid(np.linspace(low, high, n), np.linspace(low, high, n), indexing="ij")
    at = np.arange(n * n).reshape(n, n)
    a, b, c, d = at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]
    faces = np.concatenate([np.stack(t, axis=-1).reshape(-1, 3) for t in ((a, c, b), (a, d, c))])
    return np.stack([x, height(x, z), z], axis=-1).reshape(-1, 3), faces


def closest(mesh, points):
    """Nearest places on a mesh and their distances, by all of its faces."""
    places, away = np.empty(points.shape), np.empty(len(points))
    for i, point in enumerate(points):
        every = trimesh.triangles.closest_point(mesh.triangles, np.tile(point, (len(mesh.faces), 1)))
        lengths = np.linalg.norm(every - point, axis=1)
        places[i], away[i] = every[lengths.argmin()], lengths.min()
    return places, away


def waves(x, z):
    return 0.15 * np.sin(3 * x) * np.cos(2 * z)


@pytest.fixture(scope="module")
def square(tmp_path_factory):
    return load_surface(written(tmp_path_factory.mktemp("square") / "square.obj", *over_grid(5, lambda x, z: 0 * x)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A terrain, trained by what nobody set to be a sheet; its run, and its report."""
    folder = tmp_path_factory.mktemp("terrain")
    path = written(folder / "terrain.obj", *over_grid(81, waves))
    config = make_config(
        {
            "kind": "shape",
            "data": {"path": str(path), "points": 60_000},
            "field": {"width": 32, "depth": 3, "rank": 4, "frequencies": 3},
            "training": {"steps": 500, "batch": 4096, "precision": "fp32", "device": "cpu"},
        },
        "test",
    )
    return folder / "run", train(config, folder / "run"), config


def test_values_of_a_square(square):
    points = np.random.default_rng(0).uniform(-1.6, 1.6, (4000, 3)) * [1, 0.4, 1]
    half = 0.1
    found = sheet_values(square, points, half)
    past = np.maximum(np.abs(points[:, [0, 2]]) - 1, 0)
    outside, height = np.linalg.norm(past, axis=1), points[:, 1]
    away = np.hypot(outside, height)
    inward = np.abs(points[:, [0, 2]]).max(axis=1) - 1
    fade = np.clip((3 - away / half) / 2, 0, 1)
    np.testing.assert_allclose(found.side, height * fade, atol=1e-12)
    np.testing.assert_allclose(found.beyond, np.maximum(np.where(outside > 0, outside, inward), away - half), atol=1e-9)


def test_values_of_a_dome(tmp_path):
    mesh = trimesh.Trimesh(*over_grid(13, lambda x, z: 1 - 0.4 * (x * x + z * z)))
    surface = load_surface(written(tmp_path / "dome.obj", mesh.vertices, mesh.faces))
    points = np.random.default_rng(1).uniform(-1.3, 1.3, (600, 3))
    places, away = closest(mesh, points)
    found = sheet_values(surface, points, 10.0)  # nothing fades
    within = np.abs(places[:, [0, 2]]).max(axis=1) < 1 - 1e-6
    np.testing.assert_allclose(np.abs(found.side[within]), away[within], atol=1e-9)
    assert ((found.side > 0) == (points[:, 1] > places[:, 1]))[within & (away > 1e-6)].all()
    # On the rim both numbers are the two sides of a right triangle.
    np.testing.assert_allclose(np.hypot(found.side, found.beyond)[~within], away[~within], atol=1e-9)
    assert within.any() and (found.beyond[~within] >= 0).all() and (found.beyond[within] < 0).all()


def test_rim_is_where_no_face_goes_on(tmp_path):
    left, right = over_grid(4, lambda x, z: 0 * x), over_grid(6, lambda x, z: 0 * x)
    tiles = np.concatenate([left[0], right[0] + [2, 0, 0]]), np.concatenate([left[1], right[1] + len(left[0])])
    surface = load_surface(written(tmp_path / "tiles.obj", *tiles))
    ends = surface.vertices[Rim(surface).ends]
    assert np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1).sum() == pytest.approx(12)  # around both, not between
    middles = ends.mean(axis=1)
    assert not (np.isclose(middles[:, 0], 1) & (np.abs(middles[:, 2]) < 1)).any()


def test_a_strip_with_one_side_has_both_numbers(tmp_path):
    n, turns = 60, np.linspace(0, 2 * np.pi, 60, endpoint=False)
    across = np.array([-0.3, 0.0, 0.3])[None, :]
    radius = 1 + across * np.cos(turns / 2)[:, None]
    vertices = [radius * np.cos(turns)[:, None], across * np.sin(turns / 2)[:, None], radius * np.sin(turns)[:, None]]
    vertices = np.stack(vertices, axis=-1).reshape(-1, 3)
    faces = []
    for i in range(n):
        for j in range(2):
            a, b = 3 * i + j, 3 * i + j + 1
            c, d = (a + 3, b + 3) if i < n - 1 else (2 - j, 1 - j)
            faces += [(a, b, c), (b, d, c)]
    surface = load_surface(written(tmp_path / "strip.obj", vertices, faces))
    rng = np.random.default_rng(2)
    points = vertices[rng.integers(len(vertices), size=500)] + rng.normal(0, 0.03, (500, 3))
    found = sheet_values(surface, points, 1.0)
    away = closest(trimesh.Trimesh(vertices, faces), points)[1]
    assert np.isfinite(found.side).all()
    np.testing.assert_allclose(np.hypot(found.side, np.maximum(found.beyond, 0)), away, atol=1e-6)
    assert len(Rim(surface).ends) == 2 * n


def test_mesh_of_formulas():
    def square(p):
        return np.stack([p[:, 1] - 0.013, np.abs(p[:, [0, 2]]).max(axis=1) - 1], axis=1)

    vertices, faces, _ = sheet_mesh(square, np.array([-1.2, -0.3, -1.2]), np.array([49, 13, 49]), 0.05)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert np.abs(vertices[:, 1] - 0.013).max() < 1e-9 and np.abs(vertices[:, [0, 2]]).max() < 1 + 1e-9
    assert mesh.area == pytest.approx(4, abs=6e-3)  # corners are cut by less than a cell
    assert mesh.body_count == 1 and (mesh.face_normals[mesh.area_faces > 1e-9][:, 1] > 0.99).all()

    def cap(p):
        return np.stack([np.linalg.norm(p, axis=1) - 1, 0.4 - p[:, 1]], axis=1)

    vertices, faces, _ = sheet_mesh(cap, np.full(3, -1.2), np.array([61, 61, 61]), 0.04)
    assert np.abs(np.linalg.norm(vertices, axis=1) - 1).max() < 2e-3 and vertices[:, 1].min() > 0.4 - 2e-3
    assert trimesh.Trimesh(vertices, faces).area == pytest.approx(2 * np.pi * 0.6, rel=5e-3)


@pytest.mark.slow
def test_terrain_becomes_a_sheet_by_itself(trained, capsys):
    run, report, _ = trained
    assert Run(run).config().field.represents == "sheet"
    assert report["iou"] is None and report["shell_iou"] > 0.75 and report["fscore"] > 0.99
    assert "sheet" in report["remarks"][-1]
    assert json.loads((run / "report.json").read_text())["iou"] is None
    metrics = Run(run).read_metrics()
    assert "iou" not in metrics[-1] and metrics[-1]["shell_iou"] > 0.75


def test_mesh_follows_the_terrain(trained):
    field, _ = load_field(trained[0])
    vertices, faces, _ = extract_sheet(field, 96)
    diagonal = np.linalg.norm([2, 0.3, 2])
    off = np.abs(vertices[:, 1] - waves(vertices[:, 0], vertices[:, 2])) / diagonal
    assert off.mean() < 0.003 and off.max() < 0.02
    assert np.abs(vertices[:, [0, 2]]).max() < 1 + 0.01 * diagonal
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    corners, triangles = over_grid(81, waves)
    truth = trimesh.Trimesh(corners, triangles)
    assert mesh.area == pytest.approx(truth.area, rel=0.03)  # no holes, no lids, one layer
    assert (mesh.face_normals[:, 1] * mesh.area_faces).sum() > 0.9 * 4  # it looks up, as the data do


def test_answers_of_a_sheet(trained):
    run = trained[0]
    field = sf.load(run)
    points = np.array([[0.2, 0.7, 0.3], [-0.5, -0.6, 0.1], [0.0, 9.0, 0.0], [3.0, 0.0, 0.0]])
    truth = closest(trimesh.Trimesh(*over_grid(81, waves)), points)[1]
    found, ways = field.sdf(points, gradient=True)
    np.testing.assert_allclose(found, truth, atol=0.015)
    assert ways[0, 1] > 0.9 and ways[1, 1] < -0.9 and ways[3, 0] > 0.9
    assert not field.inside(points).any()
    module, _ = load_field(run)
    near = np.array([[0.2, waves(0.2, 0.3) + 0.012, 0.3]])
    assert float(module.evaluate(torch.from_numpy(near))) == pytest.approx(0.012, abs=0.008)
    assert not module.inside(torch.from_numpy(points)).any()
    picture = field.render(width=48)
    assert 0.1 < (picture[..., 3] > 0).mean() < 0.9


@pytest.mark.slow
def test_packed_and_read_back(trained, tmp_path):
    run, _, config = trained
    smallest = pack(run, tmp_path / "small.sine", max_bytes=2500, steps=8)
    assert smallest["bytes"] <= 2500 and smallest["shell_iou"] > 0.4
    with pytest.raises(SinefieldError, match=r"quality 0\.999 is asked for"):
        pack(run, tmp_path / "best.sine", min_quality=0.999, steps=1)
    packed = tmp_path / "small.sine"
    assert sf.load(packed).scores["shell_iou"] == pytest.approx(smallest["shell_iou"], abs=1e-3)
    assert evaluate_file(packed, config.data.path)["shell_iou"] == pytest.approx(smallest["shell_iou"], abs=1e-6)
    # Two readers that share no code with each other's network.
    plain = stored_shape(packed)
    module, _ = load_field(packed)
    points = np.random.default_rng(3).uniform(-1, 1, (500, 3)) * [1, 0.3, 1]
    mine = distances_of(plain.config, plain)
    np.testing.assert_allclose(
        mine.evaluate(points), module.side_and_beyond(torch.from_numpy(points)).numpy(), rtol=1e-3, atol=2e-4
    )
    assert isinstance(mine, TrueDistance) and not mine.inside(points).any()
    assert settings_out("shape", {**BASE["shape"], "represents": "sheet"}) == bytes([1, 13, 2])
    assert second_decoder.CHOICES["represents"][2] == "sheet"


def test_commands_on_a_sheet(trained, tmp_path, capsys):
    run = str(trained[0])
    assert main(["mesh", run, str(tmp_path / "m.ply"), "--resolution", "64"]) == 0
    assert main(["info", run]) == 0
    capsys.readouterr()
    assert main(["mesh", run, str(tmp_path / "n.ply"), "--level", "0.1"]) != 0
    assert "a sheet has no levels" in capsys.readouterr().err


def test_resumes_what_the_data_decided(trained):
    run, _, config = trained
    assert config.field.represents is None
    Run.check(run, config, resume=True)
    with pytest.raises(SinefieldError, match=r"(represents|loss) was (sheet|tanh) and is now (occupancy|bce)"):
        Run.check(
            run,
            make_config(
                {**to_plain(config), "field": {**to_plain(config.field), "represents": "occupancy", "loss": "bce"}}, "x"
            ),
            resume=True,
        )


@pytest.mark.parametrize("content", ["square", DOUBLED], ids=["square", "doubled"])
@pytest.mark.parametrize("asked", ["distance", "occupancy"])
def test_nothing_inside_is_refused(tmp_path, square, content, asked):
    path = tmp_path / "flat.obj"
    path.write_text(content)
    surface = square if content == "square" else load_surface(path)
    config = make_config({"kind": "shape", "data": {"path": "x.obj"}, "field": {"represents": asked}}, "x")
    with pytest.raises(SinefieldError, match=r"nothing is inside.*sheet.*close the mesh"):
        ShapeTask(config, surface)


def test_chosen_for_the_user_is_said(tmp_path, square, capsys):
    config = make_config({"kind": "shape", "data": {"path": "x.obj"}}, "x")
    found = settled(config, square)
    assert found.field.represents == "sheet" and config.field.represents is None
    assert "nothing is inside, so it is learned as a sheet" in capsys.readouterr().err
    assert (
        settled(found, square) == found and "learned as a sheet" not in capsys.readouterr().err
    )  # nobody is surprised by what they asked for
    ball = trimesh.creation.icosphere(2)
    body = load_surface(written(tmp_path / "ball.obj", ball.vertices, ball.faces))
    assert settled(config, body).field.represents == "distance" and "sheet" not in capsys.readouterr().err
    assert settled(found, body).field.represents == "sheet"


def test_cloud_as_a_sheet(tmp_path):
    x, z = np.random.default_rng(4).uniform(-1, 1, (2, 4000))
    rows = np.stack([x, 0 * x, z, 0 * x, 0 * x + 1, 0 * x], axis=1)
    np.savetxt(tmp_path / "cloud.xyz", rows)
    surface = load_surface(tmp_path / "cloud.xyz")
    points = np.array([[0.1, 0.02, 0.2], [0.3, -0.01, 0.4], [1.2, 0.0, 0.0]])
    found = sheet_values(surface, points, 0.05)
    np.testing.assert_allclose(found.side[:2], [0.02, -0.01], atol=1e-9)
    assert (found.beyond[:2] < 0).all() and found.beyond[2] == pytest.approx(0.2, abs=0.08)
