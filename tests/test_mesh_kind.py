"""Meshes as a kind of field: their code, their questions, their files, and how they are made."""

import json
import math
import random

import numpy as np
import pytest
import torch
import trimesh
from small import write_ball

import sinefield as sf
from sinefield.commands.cli import main
from sinefield.compress.binary import BinaryDecoder, BinaryEncoder
from sinefield.compress.container import decode, encode
from sinefield.compress.mesh_code import mesh_in, mesh_out, most_faces
from sinefield.data.surfaces.surface import load_surface, signed_distance
from sinefield.errors import SinefieldError
from sinefield.fields.mesh.distance import MeshDistance
from sinefield.fields.mesh.field import MeshField
from sinefield.kernels.cpu.mesh_fit import slopes
from sinefield.learning.pack_mesh import TRIED, pack_mesh
from sinefield.meshing.optimised import LatticeMesh, Target
from sinefield.meshing.subdivide import edges_of, subdivided
from sinefield.store.sine_files import from_packed, load_packed, save_sine, to_packed

DIGITS = 8


def on_lattice(mesh, digits=DIGITS):
    low = mesh.vertices.min(0)
    cell = np.ptp(mesh.vertices, axis=0).max() / (2**digits - 1)
    nodes = np.round((mesh.vertices - low) / cell).astype(np.int64)
    return LatticeMesh(nodes, np.asarray(mesh.faces), low, float(cell))


def open_grid(n=6):
    x, y = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    at = (x * n + y)[:-1, :-1].ravel()
    faces = np.concatenate([np.stack([at, at + n, at + 1], 1), np.stack([at + 1, at + n, at + n + 1], 1)])
    return trimesh.Trimesh(np.stack([x, y, (x * y) % 3], -1).reshape(-1, 3), faces, process=False)


def ball(subdivisions=2):
    return trimesh.creation.icosphere(subdivisions)


def with_a_joint():
    """Two tetrahedra that share one vertex."""
    corners = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9], [-9, 0, 0], [0, -9, 0], [0, 0, -9]])
    one = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    other = np.array([[0, 4, 5], [0, 6, 4], [0, 5, 6], [4, 6, 5]])
    return trimesh.Trimesh(corners, np.concatenate([one, other]), process=False)


SHAPES = {
    "ball": ball(),
    "torus": trimesh.creation.torus(2, 0.7, major_sections=24, minor_sections=12),
    "grid": open_grid(),
    "two": trimesh.util.concatenate([ball(1), ball(1).apply_translation([4, 0, 0])]),
    "joint": with_a_joint(),
    "edge of three": trimesh.Trimesh(
        [[0, 0, 0], [0, 0, 9], [9, 0, 0], [0, 9, 0], [-9, -9, 0]], [[0, 1, 2], [1, 0, 3], [0, 1, 4]], process=False
    ),
}


def told(nodes, faces):
    """Faces as the places of their corners, in their cyclic order, from the least on."""
    corners = [[tuple(int(x) for x in nodes[i]) for i in face] for face in faces]
    return sorted(min(tuple(c[k:] + c[:k]) for k in range(3)) for c in corners)


@pytest.mark.parametrize("name", SHAPES)
def test_the_same_faces_come_back(name):
    mesh = on_lattice(SHAPES[name])
    code = mesh_out(mesh.nodes, mesh.faces, DIGITS)
    nodes, faces = mesh_in(code, len(mesh.faces), DIGITS)
    assert told(nodes, faces) == told(mesh.nodes, mesh.faces)


def test_a_mesh_of_random_faces_comes_back():
    rng = np.random.default_rng(0)
    nodes = rng.integers(0, 256, (40, 3))
    faces = np.array([rng.choice(40, 3, replace=False) for _ in range(120)])
    got = mesh_in(mesh_out(nodes, faces, DIGITS), len(faces), DIGITS)
    assert told(*got) == told(nodes, faces)


def test_bits_take_what_they_tell():
    rng = np.random.default_rng(1)
    bits = (rng.random(20_000) < 0.1).astype(int).tolist()
    encoder = BinaryEncoder()
    for bit in bits:
        encoder.bit(bit, "one")
    data = encoder.finish()
    decoder = BinaryDecoder(data)
    assert [decoder.bit(0, "one") for _ in bits] == bits
    decoder.finish()
    share = np.mean(bits)
    entropy = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
    assert 1 <= 8 * len(data) / (len(bits) * entropy) < 1.03


def test_bytes_that_are_not_needed_are_refused():
    mesh = on_lattice(ball(1))
    code = mesh_out(mesh.nodes, mesh.faces, DIGITS)
    with pytest.raises(ValueError, match="more bytes"):
        mesh_in(code + b"\1" * 9, len(mesh.faces), DIGITS)
    with pytest.raises(ValueError, match="claims"):
        mesh_in(code, most_faces(len(code)) + 1, DIGITS)


def test_any_bytes_are_a_mesh_or_refused():
    rng, seen = random.Random(2), {"mesh": 0, "refused": 0}
    mesh = on_lattice(ball(1))
    good = mesh_out(mesh.nodes, mesh.faces, DIGITS)
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            nodes, faces = mesh_in(bytes(data), len(mesh.faces), DIGITS)
        except ValueError:
            seen["refused"] += 1
            continue
        seen["mesh"] += 1
        assert nodes.min() >= 0 and nodes.max() < 256 and faces.max() < len(nodes) and faces.min() >= 0
    assert min(seen.values()) > 1, seen


def test_the_gradient_is_that_of_the_volume():
    mesh = ball(1)
    grid = np.full((4, 4, 4), 1.0, np.float32)
    starts = np.random.default_rng(0).random((len(mesh.faces), 2))
    faces = np.asarray(mesh.faces, np.int64)
    given = faces, grid, np.full(3, -2.0), 1.0, 4096, 1e-6, starts
    gradient, areas = slopes(np.array(mesh.vertices), *given)
    assert areas.sum() == pytest.approx(mesh.area, rel=1e-6)
    for vertex, axis in ((0, 0), (7, 1), (20, 2)):
        ends = []
        for step in (-1e-4, 1e-4):
            moved = np.array(mesh.vertices)
            moved[vertex, axis] += step
            ends.append(trimesh.Trimesh(moved, faces, process=False).volume)
        assert gradient[vertex, axis] == pytest.approx((ends[1] - ends[0]) / 2e-4, abs=2e-3)


def test_distances_are_those_of_a_box():
    box = trimesh.creation.box((2, 2, 2))
    found = MeshDistance(load_like(box))
    points = np.array([[3.0, 0, 0], [0, 0, 0.25], [0, -1.5, 0.5], [2, 2, 0], [1, 0.1, 0.2]])
    distances, slopes_ = found.sdf(points, gradient=True)
    np.testing.assert_allclose(distances, [2, -0.75, 0.5, math.sqrt(2), 0], atol=1e-12)
    half = math.sqrt(0.5)
    np.testing.assert_allclose(slopes_, [[1, 0, 0], [0, 0, 1], [0, -1, 0], [half, half, 0], [1, 0, 0]], atol=1e-9)
    assert found.inside(points).tolist() == [False, True, False, False, False]
    assert len(found.sdf(np.zeros((0, 3)))) == 0


def load_like(mesh):
    return MeshField.of(on_lattice(mesh)).surface


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mesh")
    path = write_ball(folder)
    report = pack_mesh(path, folder / "ball.sine", 700)
    return path, folder / "ball.sine", report


@pytest.mark.slow
def test_a_ball_is_packed_and_answers(packed, tmp_path, capsys):
    path, file, report = packed
    assert file.stat().st_size == report["bytes"] <= 700 and report["iou"] > 0.97
    field = sf.load(file)
    centre = np.array([100.0, -3, 7])
    assert field.kind == "mesh" and field.scores["iou"] == pytest.approx(report["iou"], abs=1e-4)
    points = centre + np.array([[0.0, 0, 0], [5, 0, 0], [0, 0, -30]])
    np.testing.assert_allclose(field.sdf(points), [-2.5, 2.5, 27.5], atol=0.15)
    assert field.inside(points).tolist() == [True, False, False]
    assert field.mesh().volume == pytest.approx(4 / 3 * math.pi * 2.5**3, rel=0.03)
    for words in (["info", str(file)], ["eval", str(file), "--data", str(path)]):
        assert main([*words, "--json"]) == 0
        said = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert said["kind"] == "mesh" and said["bytes"] == report["bytes"]
    assert said["iou"] == pytest.approx(report["iou"], abs=1e-6)
    assert main(["mesh", str(file), str(tmp_path / "ball.ply")]) == 0
    assert len(trimesh.load_mesh(tmp_path / "ball.ply").faces) == report["faces"] * 4 ** report["subdivisions"]
    assert report["subdivisions"] > 0  # a ball has no corner


@pytest.mark.slow
def test_a_packed_ball_is_seen(packed):
    """From its usual place a ball covers a disc, whose share of the picture its distance says."""
    picture = sf.load(packed[1]).render(width=24)
    assert picture.shape == (24, 24, 4) and 0.2 < (picture[..., 3] > 127).mean() < 0.8
    assert picture[12, 12, 3] == 255 and picture[0, 0, 3] == 0


@pytest.mark.parametrize("times", [1, 2])
def test_a_subdivision_is_trimeshs(times):
    """On a torus of six edges a vertex, where Loop's weights and Warren's agree."""
    torus = SHAPES["torus"]
    assert (np.bincount(torus.edges_unique.ravel()) == 6).all()
    weights, faces = subdivided(len(torus.vertices), torus.faces, times)
    vertices, theirs = trimesh.remesh.subdivide_loop(torus.vertices, torus.faces, iterations=times)
    places = {tuple(place) for place in np.round(vertices, 9) + 0.0}
    assert {tuple(place) for place in np.round(weights @ torus.vertices, 9) + 0.0} == places
    assert len(faces) == len(theirs) == 4**times * len(torus.faces)
    ours = trimesh.Trimesh(weights @ torus.vertices, faces, process=False)
    assert ours.is_watertight and ours.is_winding_consistent
    assert ours.volume == pytest.approx(trimesh.Trimesh(vertices, theirs, process=False).volume)


@pytest.mark.parametrize("name", SHAPES)
def test_a_subdivision_keeps_planes_and_creases(name):
    """Whatever the mesh, weights sum to 1; ends of creases stay, and their new vertices are their middles."""
    mesh = SHAPES[name]
    weights, faces = subdivided(len(mesh.vertices), mesh.faces)
    np.testing.assert_allclose(weights.sum(1), 1)
    ends, count = np.unique(mesh.edges_sorted, axis=0, return_counts=True)
    creases = ends[count != 2]
    fine = weights @ mesh.vertices
    np.testing.assert_array_equal(fine[np.unique(creases)], mesh.vertices[np.unique(creases)])
    middles = {tuple(place) for place in fine[len(mesh.vertices) :]}
    assert {tuple(place) for place in mesh.vertices[creases].mean(1)} <= middles
    assert len(faces) == 4 * len(mesh.faces) and faces.max() == len(fine) - 1


def test_a_subdivision_surface_fits_a_smooth_shape_better():
    """Of the same faces: its volume, and the distances that the field of it answers."""
    truth = load_like(ball(4))
    target = Target(truth, 400)
    points = np.random.default_rng(0).normal(size=(300, 3)) * truth.vertices.std()
    points += truth.vertices.mean(0)
    exact, errors = signed_distance(truth, points), []
    for subdivisions in range(3):
        vertices, faces = target.fitted(120, steps=150, subdivisions=subdivisions)
        field = MeshField.of(target.on_lattice(vertices, faces, 200, subdivisions=subdivisions))
        assert len(field.surface.faces) == 4**subdivisions * len(faces)
        found, _ = from_packed(decode(encode(to_packed(field, {}, {})), lambda *_: {}, "it"), "it")
        distances = found.evaluate(torch.from_numpy(points)).numpy()
        errors.append(np.abs(distances - exact).mean())
    assert errors[1] < errors[0] / 2 and errors[2] < errors[0] / 2


def test_more_subdivided_faces_than_bytes_may_state_are_refused():
    packed = to_packed(MeshField.of(on_lattice(ball(4))), {}, {})
    assert most_faces(len(packed.code), 0) > 5120 > most_faces(len(packed.code), 2)
    packed.settings["subdivisions"] = 2
    with pytest.raises(SinefieldError, match="2 times subdivided; at most"):
        from_packed(packed, "it")
    packed.settings["subdivisions"] = 3
    with pytest.raises(SinefieldError, match="3 subdivisions"):
        from_packed(packed, "it")


@pytest.mark.slow
def test_flat_faces_get_a_finer_lattice_than_a_smooth_shape(tmp_path, monkeypatch):
    """A turned cube's corners must be told exactly, since its faces are flat; a ball's many vertices need not."""
    monkeypatch.setattr("sinefield.learning.pack_mesh.DRAWN", 200_000)
    monkeypatch.setattr("sinefield.learning.pack_mesh.TRIED", TRIED[:3])  # no subdivisions, which take longer
    turn = trimesh.transformations.rotation_matrix(0.7, [1, 2, 3])
    cube = trimesh.creation.box((1, 1, 1)).subdivide().subdivide().subdivide().subdivide()
    cube.apply_transform(turn)
    fineness = {}
    for name, mesh, size in (("cube", cube, 180), ("ball", ball(4), 400)):
        mesh.export(tmp_path / f"{name}.ply")
        report = pack_mesh(tmp_path / f"{name}.ply", tmp_path / f"{name}.sine", size)
        field = sf.load(tmp_path / f"{name}.sine")._torch()
        fineness[name] = int(field.nodes.max()) / math.sqrt(report["faces"])
        assert report["bytes"] <= size
    assert fineness["cube"] > 8 > 6 > fineness["ball"]  # of 14, 5 and 3.4, which are tried
    points = np.random.default_rng(0).random((100_000, 3)) * 2 - 1
    true = (np.abs(points @ turn[:3, :3]) < 0.5).all(axis=1)
    found = np.asarray(sf.load(tmp_path / "cube.sine").inside(points))
    assert (true & found).sum() > 0.985 * (true | found).sum()


def test_edges_are_trimeshs():
    mesh = SHAPES["torus"]
    edges = edges_of(len(mesh.vertices), mesh.faces)
    assert np.array_equal(np.stack([edges.low, edges.high], 1), np.unique(mesh.edges_sorted, axis=0))
    assert (edges.faces == 2).all() and len(edges.of_side) == 3 * len(mesh.faces)
    for side in range(len(edges.of_side)):
        face = set(mesh.faces[side % len(mesh.faces)])
        edge = edges.of_side[side]
        assert face == {edges.low[edge], edges.high[edge], edges.opposite[side]}


def test_optimising_halves_what_is_wrong():
    truth = load_like(ball(4))
    target = Target(truth, 160)
    before, faces = target.decimated(160)
    after, _ = target.fitted(160, steps=100)
    whole = 4 / 3 * math.pi / 8  # in a box of 1
    assert abs(volume(after, faces) - whole) < abs(volume(before, faces) - whole) / 2


def volume(vertices, faces):
    return trimesh.Trimesh(vertices, faces, process=False).volume


@pytest.mark.parametrize("subdivisions", [0, 1])
def test_a_run_folder_of_a_mesh_is_the_same_mesh(subdivisions, tmp_path):
    file, mesh = tmp_path / "a.sine", on_lattice(ball())._replace(subdivisions=subdivisions)
    save_sine(file, to_packed(MeshField.of(mesh), {}, {}))
    assert main(["unpack", str(file), str(tmp_path / "run")]) == 0
    one, other = sf.load(file).mesh(), sf.load(tmp_path / "run").mesh()
    np.testing.assert_array_equal(one.vertices, other.vertices)
    np.testing.assert_array_equal(one.faces, other.faces)


def test_told_twice_it_stays_as_it_is(tmp_path):
    field = MeshField.of(on_lattice(with_a_joint()))
    save_sine(tmp_path / "a.sine", to_packed(field, {}, {}))
    again, _ = from_packed(load_packed(tmp_path / "a.sine"), "a")
    save_sine(tmp_path / "b.sine", to_packed(again, {}, {}))
    assert (tmp_path / "a.sine").read_bytes() == (tmp_path / "b.sine").read_bytes()


def test_what_cannot_be_packed_says_so(tmp_path):
    path = write_ball(tmp_path)
    with pytest.raises(SinefieldError, match=r"smallest mesh found .* takes \d+"):
        pack_mesh(path, tmp_path / "a.sine", 40)
    with pytest.raises(SinefieldError, match="give --max-bytes"):
        pack_mesh(path, tmp_path / "a.sine", None)
    with pytest.raises(SinefieldError, match=r"ends in \.sine"):
        pack_mesh(path, tmp_path / "a.bin", 900)
    cloud = tmp_path / "cloud.xyz"
    points = load_surface(path).vertices
    normals = points - points.mean(0)
    np.savetxt(cloud, np.hstack([points, normals]))
    with pytest.raises(SinefieldError, match="point cloud"):
        pack_mesh(cloud, tmp_path / "a.sine", 900)
    flat = tmp_path / "flat.ply"
    open_grid().export(flat)
    with pytest.raises(SinefieldError, match="nothing is inside"):
        pack_mesh(flat, tmp_path / "a.sine", 900)
    assert not (tmp_path / "a.sine").exists()


def test_a_mesh_that_no_file_may_hold_says_why(tmp_path, monkeypatch):
    """Not that the smallest takes infinitely many bytes."""
    from sinefield.fields.mesh import kind

    monkeypatch.setattr(kind, "most_faces", lambda *_: 3)
    with pytest.raises(SinefieldError, match="flat beyond what a file may hold"):
        pack_mesh(write_ball(tmp_path), tmp_path / "a.sine", 900)
    assert not (tmp_path / "a.sine").exists()
