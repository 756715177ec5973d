"""Colours of shapes: learned, packed, on meshes and textures, against formulas."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from small import CENTRE, RADIUS, write_ball
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

import sinefield as sf
from sinefield.adapters.fields import choose_layers
from sinefield.config import make_config
from sinefield.data.surfaces.parts import PLAIN, Paint, Part, ShapeFile, bilinear
from sinefield.data.surfaces.sampling import surface_places, surface_samples
from sinefield.data.surfaces.surface import load_surface, make_surface
from sinefield.errors import SinefieldError
from sinefield.export.info import describe
from sinefield.export.mesh import export_mesh
from sinefield.fields.base import step_generator
from sinefield.fields.shape.colours import colour_rms, coloured_points, remarks
from sinefield.fields.shape.training import ShapeTask
from sinefield.learning.pack import pack
from sinefield.learning.train import train
from sinefield.meshing.texture import bake, texels
from sinefield.store.run import Run


def paint_of(points):
    """The colour of the ball: smooth, another at every place."""
    x = (points - CENTRE) / RADIUS
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return np.stack([0.5 + 0.4 * np.sin(3 * x[:, 0] + x[:, 1]), 0.5 + 0.4 * x[:, 2], 0.4 + 0.3 * x[:, 1] ** 2], 1)


def rms(a, b):
    return float(np.sqrt(np.square(a - b).mean()))


def config_of(path, steps=250, **field):
    return make_config(
        {
            "kind": "shape",
            "data": {"path": str(path), "points": 20_000},
            "field": {"width": 32, "rank": 4, "frequencies": 2, "colour_frequencies": 2, **field},
            "training": {"steps": steps, "batch": 4096, "device": "cpu", "precision": "fp32"},
        },
        "test",
    )


@pytest.fixture(scope="module")
def ball(tmp_path_factory):
    """A ball far from the origin with colours of its vertices, trained."""
    folder = tmp_path_factory.mktemp("ball")
    mesh = trimesh.load(write_ball(folder), process=False)
    mesh.visual.vertex_colors = np.round(255 * paint_of(mesh.vertices)).astype(np.uint8)
    mesh.export(folder / "painted.ply")
    report = train(config_of(folder / "painted.ply"), folder / "run")
    return folder, report


@pytest.mark.slow
def test_colours_are_learned_where_the_input_has_some(ball):
    folder, report = ball
    field = sf.load(folder / "run")
    points, _ = surface_samples(load_surface(folder / "painted.ply"), 2000, 77)
    assert rms(field.colour(points), paint_of(points)) < 0.02
    assert report["colour_rms"] < 0.02 and report["iou"] > 0.97
    facts, text = describe(folder / "run")
    assert facts["colours"] and "with colours" in text
    with pytest.raises(SinefieldError, match="directions out"):
        field.colour(points, points)


def test_the_shape_is_the_same_to_the_bit_without_colours(ball):
    """The colours share neither weights nor random numbers with the shape."""
    surface = load_surface(ball[0] / "painted.ply")
    fields = []
    for colours in ("yes", "no"):
        task = ShapeTask(config_of("x", colours=colours), surface)
        optimizer = torch.optim.Adam(task.field.parameters(), 1e-2)
        for i in range(3):
            optimizer.zero_grad()
            task.step(i, step_generator(0, i))
            optimizer.step()
        fields.append(dict(task.field.state_dict()))
    assert len(fields[0]) > len(fields[1])
    assert all(torch.equal(fields[0][name], value) for name, value in fields[1].items())


def test_no_colours_where_there_are_none_or_none_are_asked_for(tmp_path, ball):
    plain, painted = load_surface(write_ball(tmp_path)), load_surface(ball[0] / "painted.ply")
    assert ShapeTask(config_of("x"), plain).field.config.colours == "no"
    assert ShapeTask(config_of("x", colours="no"), painted).field.colour_network is None
    with pytest.raises(SinefieldError, match=r"has no colours, and field\.colours is yes"):
        ShapeTask(config_of("x", colours="yes"), plain)
    field = ShapeTask(config_of("x", colours="no"), painted).field
    assert any("left out" in remark for remark in remarks(field, painted))
    assert remarks(field, plain) == []
    with pytest.raises(SinefieldError, match="no colours"):
        field.colours_at(torch.zeros(1, 3))


def test_a_resumed_run_keeps_what_the_data_decided(tmp_path, ball):
    given = config_of(ball[0] / "painted.ply", 3)
    decided = ShapeTask(given, load_surface(given.data.path)).config
    assert (given.field.colours, decided.field.colours) == ("auto", "yes")
    Run.prepare(tmp_path / "run", decided).release()
    Run.check(tmp_path / "run", given, resume=True)
    with pytest.raises(SinefieldError, match=r"field\.colours was yes and is now no"):
        Run.check(tmp_path / "run", config_of(ball[0] / "painted.ply", 3, colours="no"), resume=True)


def test_packed_and_read_back(tmp_path, ball):
    folder, _ = ball
    pack(folder / "run", tmp_path / "ball.sine", bits=8, seconds=0)
    points, _ = surface_samples(load_surface(folder / "painted.ply"), 2000, 78)
    packed = sf.load(tmp_path / "ball.sine")
    assert packed.params == sf.load(folder / "run").params
    assert rms(packed.colour(points), paint_of(points)) < 0.03
    # Its distances need no torch.
    script = (
        "import sys, sinefield as sf, numpy as np; f = sf.load(sys.argv[1]); "
        "d = f.sdf(np.array([[100.0, -3, 7], [100, -3, 17]])); assert 'torch' not in sys.modules; print(*d)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "ball.sine")], capture_output=True, text=True, check=True
    )
    inside, outside = map(float, done.stdout.split())
    assert inside < -0.8 * RADIUS and outside == pytest.approx(10 - RADIUS, abs=0.1)


def test_a_file_without_colours_says_nothing_of_them(tmp_path, ball):
    from sinefield.compress.settings import NUMBERS, settings_out
    from sinefield.strict import to_plain

    field = ShapeTask(config_of("x", colours="no"), load_surface(ball[0] / "painted.ply")).field
    settings = to_plain(field.config)
    without = {name: value for name, value in settings.items() if not name.startswith("colour")}
    usual = {**settings, "colour_frequencies": 4}
    assert settings_out("shape", usual) == settings_out("shape", without)
    assert NUMBERS["skip_feedforward"] == 41 and NUMBERS["colours"] > 41


def test_meshes_carry_the_colours(tmp_path, ball):
    for name in ("out.ply", "out.obj"):
        export_mesh(ball[0] / "run", tmp_path / name, resolution=40)
        mesh = trimesh.load(tmp_path / name, process=False)
        assert rms(mesh.visual.vertex_colors[:, :3] / 255, paint_of(mesh.vertices)) < 0.03
    made = sf.load(ball[0] / "run").mesh(32)
    assert rms(made.visual.vertex_colors[:, :3] / 255, paint_of(made.vertices)) < 0.03


def test_pictures_have_the_colours(ball):
    field = sf.load(ball[0] / "run")
    camera = sf.look_at(CENTRE + np.array([0, 0, 4 * RADIUS]), CENTRE)
    picture = field.render(camera, width=48).astype(float)
    seen = picture[..., 3] == 255
    colour = picture[seen][:, :3].mean(0)
    # From above z green is 0.9 at most, red about a half; clay is nearly grey.
    assert colour[1] > 1.3 * colour[0] and colour[1] > 1.3 * colour[2]


# --- textures


def sampled(mesh, n=5000):
    """Points of a textured mesh, and the colours that its picture says there."""
    rng = np.random.default_rng(5)
    face, weights = rng.integers(0, len(mesh.faces), n), rng.dirichlet([1, 1, 1], n)
    points = np.einsum("ni,nij->nj", weights, mesh.triangles[face])
    uv = np.einsum("ni,nij->nj", weights, np.asarray(mesh.visual.uv)[mesh.faces[face]])
    material = mesh.visual.material
    image = getattr(material, "baseColorTexture", None) or material.image
    return points, bilinear(np.asarray(image.convert("RGB")), uv)


@pytest.mark.parametrize("name", ["out.glb", "out.obj"])
def test_a_baked_texture_sampled_back(name, tmp_path, ball):
    pytest.importorskip("xatlas")
    export_mesh(ball[0] / "run", tmp_path / name, resolution=32, texture=256, faces=1500)
    scene = trimesh.load_scene(tmp_path / name, process=False)
    mesh = scene.to_mesh()
    assert np.abs(mesh.bounds.mean(0) - CENTRE).max() < 0.1
    points, colours = sampled(mesh)
    assert rms(colours, paint_of(points)) < 0.03


def test_texels_are_those_that_a_brute_force_finds():
    rng = np.random.default_rng(2)
    uv, size = rng.random((9, 2)), 24
    faces = np.arange(9).reshape(3, 3)
    rows, columns = np.mgrid[0:size, 0:size]
    centres = np.stack([(columns + 0.5) / size, 1 - (rows + 0.5) / size], -1).reshape(-1, 2)
    found = {(f, r, c) for t in texels(uv, faces, size) for f, r, c in zip(t.face, t.row, t.column, strict=True)}
    expected = set()
    for f, corners in enumerate(uv[faces]):
        solved = np.linalg.solve(
            np.concatenate([corners.T, np.ones((1, 3))]), np.column_stack([centres, np.ones(len(centres))]).T
        )
        expected |= {(f, *divmod(int(i), size)) for i in np.flatnonzero((solved >= 0).all(0))}
    assert found == expected and len(expected) > 50


def test_seams_do_not_show_what_lies_between_charts():
    """A picture of one colour is of that colour everywhere a viewer interpolates."""
    pytest.importorskip("xatlas")
    mesh = trimesh.creation.box()
    baked = bake(
        np.asarray(mesh.vertices),
        np.asarray(mesh.faces),
        np.asarray(mesh.vertex_normals),
        lambda p, n: np.full((len(p), 3), 200, np.uint8),
        64,
    )
    assert (baked.picture == 200).all() and np.array_equal(baked.of[baked.faces], mesh.faces)


def test_texture_is_refused_early(tmp_path, ball):
    with pytest.raises(SinefieldError, match="--texture is for"):
        export_mesh(ball[0] / "run", tmp_path / "out.ply", texture=256)
    pytest.importorskip("xatlas")
    with pytest.raises(SinefieldError, match="give 16 to"):
        export_mesh(ball[0] / "run", tmp_path / "out.glb", texture=3)


# --- what colours come from


def two_boxes():
    """Two boxes, one red, one with a texture that is green left and blue right."""
    first, second = trimesh.creation.box(), trimesh.creation.box()
    second.apply_translation([3, 0, 0])
    red = Paint.plain(np.tile(np.float32([1, 0, 0]), (12, 3, 1)))
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:, :4, 1], picture[:, 4:, 2] = 255, 255
    uv = np.zeros((12, 3, 3), np.float32)
    uv[..., 0] = np.where(second.vertices[second.faces][..., 2] > 0, 0.8, 0.3)
    uv[..., 1] = 0.5
    textured = Paint(uv, (picture,), np.zeros(12, np.int32))
    parts = [
        Part("a", first.vertices, first.faces, paint=red),
        Part("b", second.vertices, second.faces, paint=textured),
    ]
    return make_surface(ShapeFile(parts), "two")


def test_colours_of_materials_and_textures_together():
    surface = two_boxes()
    assert set(surface.paint.texture_of) == {PLAIN, 0}
    points, normals, colours = coloured_points(surface, 4000, 1)
    assert np.allclose(np.linalg.norm(normals, axis=1), 1)
    left = points[:, 0] < 1.5
    assert left.any() and np.allclose(colours[left], [1, 0, 0])
    top, bottom = ~left & (points[:, 2] > 0.49), ~left & (points[:, 2] < -0.49)
    assert np.allclose(colours[top], [0, 0, 1], atol=1e-3) and np.allclose(colours[bottom], [0, 1, 0], atol=1e-3)


def test_places_are_the_samples():
    surface = two_boxes()
    places = surface_places(surface, 500, 3)
    points, normals = surface_samples(surface, 500, 3)
    assert np.array_equal(places.points(surface), points) and np.array_equal(places.normals(surface), normals)
    assert np.allclose(places.weights.sum(1), 1) and (places.weights >= 0).all()


def test_a_cloud_s_colours(ball):
    mesh = load_surface(ball[0] / "painted.ply")
    colours = np.round(255 * paint_of(mesh.vertices)).astype(np.uint8)
    normals = (mesh.vertices - CENTRE) / RADIUS
    cloud = make_surface(ShapeFile([Part("", mesh.vertices, None, normals, None, colours)]), "cloud")
    config = config_of("x")
    task = ShapeTask(replace(config, training=replace(config.training, eikonal=0.1)), cloud)
    points = task.field.centre.numpy() + task.coloured.points[:500].numpy() / float(task.field.scale)
    assert rms(task.coloured.colours[:500].numpy() + 0.5, paint_of(points)) < 0.01


def test_edits_leave_colours_alone(ball):
    field = ShapeTask(config_of("x"), load_surface(ball[0] / "painted.ply")).field
    assert not any(name.startswith("colour") for name in choose_layers(field, ["*"]))


def test_colour_error_is_of_the_surface(ball):
    """An untrained field's colours are about grey: its error is the spread of the colours around grey."""
    surface = load_surface(ball[0] / "painted.ply")
    field = ShapeTask(config_of("x"), surface).field
    with torch.no_grad():
        for parameter in field.colour_network.parameters():
            parameter.zero_()
    points, _ = surface_samples(surface, 20_000, 9)
    assert colour_rms(field, surface) == pytest.approx(rms(paint_of(points), 0.5), rel=0.03)


# --- files of others


def test_a_mesh_of_trimesh_brings_its_colours(tmp_path):
    from sinefield.learning.fit import given_data

    mesh = trimesh.creation.box()
    mesh.visual.face_colors = np.tile([10, 200, 90, 255], (12, 1))
    surface = load_surface(given_data(mesh, tmp_path / "keep").path)
    assert surface.report["vertices"] == 8
    assert np.allclose(surface.paint.corners, np.array([10, 200, 90]) / 255, atol=1e-3)


def reads_textures(tmp_path):
    surface = load_surface(write_textured_glb(tmp_path))
    return surface.paint is not None and bool(surface.paint.textures)


def write_textured_glb(folder):
    mesh = trimesh.creation.box()
    mesh = trimesh.Trimesh(mesh.triangles.reshape(-1, 3), np.arange(36).reshape(-1, 3), process=False)
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:, :4, 0], picture[:, 4:, 1] = 255, 255
    uv = np.column_stack([np.where(mesh.vertices[:, 2] > 0, 0.8, 0.3), np.full(36, 0.5)])
    mesh.visual = TextureVisuals(uv=uv, material=PBRMaterial(baseColorTexture=Image.fromarray(picture)))
    mesh.export(folder / "textured.glb")
    return folder / "textured.glb"


def test_a_textured_glb(tmp_path):
    if not reads_textures(tmp_path):
        pytest.skip("this reader leaves textures out")
    points, _, colours = coloured_points(load_surface(tmp_path / "textured.glb"), 2000, 4)
    assert np.allclose(colours[points[:, 2] > 0.49], [0, 1, 0], atol=0.01)
    assert np.allclose(colours[points[:, 2] < -0.49], [1, 0, 0], atol=0.01)


def test_an_obj_of_two_materials(tmp_path):
    (tmp_path / "two.mtl").write_text("newmtl red\nKd 1 0 0\nnewmtl blue\nKd 0 0 1\n")
    box, lines = trimesh.creation.box(), ["mtllib two.mtl"]
    for shift in (0, 3):
        lines += ["v " + " ".join(map(str, v + np.array([shift, 0, 0]))) for v in box.vertices]
    for start, name in ((1, "red"), (9, "blue")):
        lines += [f"usemtl {name}"] + ["f " + " ".join(str(i + start) for i in f) for f in box.faces]
    (tmp_path / "two.obj").write_text("\n".join(lines) + "\n")
    surface = load_surface(tmp_path / "two.obj")
    if surface.paint is None:
        pytest.skip("this reader leaves materials out")
    points, _, colours = coloured_points(surface, 2000, 4)
    assert np.allclose(colours[points[:, 0] < 1.5], [1, 0, 0], atol=0.01)
    assert np.allclose(colours[points[:, 0] > 1.5], [0, 0, 1], atol=0.01)
