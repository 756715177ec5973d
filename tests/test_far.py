"""Captures far from the origin of their coordinates: learned as if near, and back in their place on export."""

import json

import numpy as np
import pytest
import torch
import trimesh
from test_box import SIDE, capture, sphere, towards

import sinefield as sf
from sinefield.cameras.path_files import read_camera_path
from sinefield.commands.cli import main
from sinefield.config import RadianceFieldConfig
from sinefield.data.photographs.capture_cameras import load_capture
from sinefield.data.photographs.images import load_posed
from sinefield.data.photographs.inspect import inspect
from sinefield.data.photographs.listing import read_listing
from sinefield.data.photographs.origin import offset_of
from sinefield.fields.base import kind_of
from sinefield.fields.radiance.surface import make_radiance_field
from sinefield.store.fields import load_field

OFFSET = np.array([500_000.0, 4_000_000.0, 100.0])
AWAY, BOX = np.array([3.0, -2, 1]), np.array([[-1.0] * 3, [1.0] * 3])
POSES = towards(4 * sphere(14, True), np.zeros(3))
SMALL = ["--training.steps=30", "--field.width=16", "--field.depth=2", "--field.grid=32", "--training.batch=8192"]
FINE = ["--resolution=24", "--level=0.3"]
SMALL += ["--field.weights=dense", "--field.steps=48"]


def moved(poses, offset):
    return np.concatenate([poses[:, :, :3], poses[:, :, 3:] + np.reshape(offset, (3, 1))], 2)


def far_capture(folder, offset=OFFSET):
    box = (offset + BOX).tolist()
    return capture(folder, moved(POSES, offset), (255, 255, 255), centre=offset, aabb=box)


@pytest.mark.parametrize("offset", [[5e5, 4e6, 100], [-4e6, 3e6, 5e6], [0, 0, -2e7], [1e6, 0, 0]])
@pytest.mark.parametrize("stated", [True, False])
def test_positions_are_those_of_the_same_scene_near(tmp_path, offset, stated):
    """A rule's box cannot fit so far away: then the cameras give one."""
    far_capture(tmp_path, np.array(offset, float))
    if not stated:
        content = json.loads((tmp_path / "transforms.json").read_text())
        (tmp_path / "transforms.json").write_text(json.dumps({k: v for k, v in content.items() if k != "aabb"}))
    scene = load_posed(tmp_path, holdout=0)
    assert scene.train is not None
    back = scene.train.cameras.c2w.double().numpy()[:, :, 3] + scene.origin
    assert np.abs(back - POSES[:, :, 3] - offset).max() < 1e-6
    assert float(scene.aabb.abs().max()) < 3 and sum("far from the origin" in note for note in scene.notes) == 1
    again = load_posed(tmp_path, holdout=0, splits=("train",), aabb=[*np.array(offset) - 1, *np.array(offset) + 1])
    assert np.allclose(np.array(again.origin) + again.aabb.numpy()[:3], np.array(offset) - 1, atol=1e-6)
    capture = load_capture(str(tmp_path), holdout=0, origin=np.array(scene.origin))
    assert torch.allclose(capture.cameras.c2w, scene.train.cameras.c2w, atol=1e-6)
    report, text = inspect(tmp_path)
    assert report["offset"] == list(scene.origin) and "offset " in text and report["hints"] == []
    assert np.allclose(report["cameras_from"], (POSES[:, :, 3] + offset).min(0), rtol=0, atol=1e-6)


def test_what_is_near_has_no_offset(tmp_path):
    for offset in ([0.0, 0, 0], [50.0, 20, 3], [300.0, 0, 0]):
        far_capture(tmp_path, np.array(offset))
        scene = load_posed(tmp_path, holdout=0)
        assert not any(scene.origin) and inspect(tmp_path)[0]["offset"] is None and "far" not in " ".join(scene.notes)


def test_another_offset(tmp_path):
    """A scene read with its own offset is moved to a field's."""
    scene = load_posed(far_capture(tmp_path), holdout=4)
    there = scene.seen_from(OFFSET + AWAY)
    direct = load_posed(tmp_path, holdout=4, origin=OFFSET + AWAY)
    assert there.origin == direct.origin and torch.allclose(there.aabb, direct.aabb, atol=1e-5)
    for split in ("train", "test"):
        a, b = getattr(there, split), getattr(direct, split)
        assert torch.allclose(a.cameras.c2w, b.cameras.c2w, atol=1e-5) and a.names == b.names
    assert scene.seen_from(np.array(scene.origin)) is scene


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same photographs near and far, trained alike."""
    folder = tmp_path_factory.mktemp("far")
    for name, offset in (("near", np.zeros(3)), ("far", OFFSET)):
        far_capture(folder / f"{name}_data", offset)
        assert main(["train", str(folder / f"{name}_data"), "--out", str(folder / name), *SMALL]) == 0
    return folder


def test_training_is_the_same(runs):
    near, far = (json.loads((runs / name / "report.json").read_text()) for name in ("near", "far"))
    assert far["psnr"] == pytest.approx(near["psnr"], abs=0.05) and far["psnr"] > 12
    a, b = (load_field(runs / name) for name in ("near", "far"))
    (near, _), (far, line) = (kind_of(field).extent(field) for field, _ in (a, b))
    assert np.allclose(far["aabb"], np.array(near["aabb"]) + np.tile(OFFSET, 2), rtol=0, atol=1e-6)
    assert far["origin"] == OFFSET.tolist() and "origin" not in near and "4000001" in line
    assert (a[0].origin == 0).all() and (b[0].origin == OFFSET).all() and "origin" not in a[1]


def mesh_of(path):
    scene = trimesh.load(path, process=False)
    return scene.to_geometry() if isinstance(scene, trimesh.Scene) else scene


def test_exports_are_in_the_datas_place(runs, tmp_path, capsys):
    """Read back by trimesh, whose vertices are float64, to 1e-4 of the object's size."""
    assert main(["mesh", str(runs / "near"), str(tmp_path / "near.ply"), *FINE]) == 0
    near = mesh_of(tmp_path / "near.ply").vertices
    for ending in ("ply", "obj", "glb", "off"):
        file = tmp_path / f"far.{ending}"
        assert main(["mesh", str(runs / "far"), str(file), *FINE]) == 0
        vertices = mesh_of(file).vertices
        if ending == "glb":  # metres, y up
            vertices = np.stack([vertices[:, 0], -vertices[:, 2], vertices[:, 1]], 1) if _turned(file) else vertices
        assert len(vertices) == len(near) and np.abs(vertices - OFFSET - near).max() < 2e-4
    capsys.readouterr()
    assert main(["mesh", str(runs / "far"), str(tmp_path / "far.stl"), *FINE]) == 2
    assert "float32" in (said := capsys.readouterr().err) or "single precision" in said
    cuts = []
    for name, offset in (("near", np.zeros(3)), ("far", OFFSET)):
        crop = ["--crop", *(str(v) for v in (*(offset + np.array([-1, -1, 0.0])), *(offset + 1)))]
        assert main(["mesh", str(runs / name), str(tmp_path / f"cut_{name}.ply"), *FINE, *crop]) == 0
        cuts.append(mesh_of(tmp_path / f"cut_{name}.ply").vertices - offset)
    assert cuts[0][:, 2].min() > -0.1 and cuts[0].shape == cuts[1].shape and np.abs(cuts[0] - cuts[1]).max() < 2e-4


def _turned(file):
    graph = trimesh.load(file).graph
    return not np.allclose(graph.get(graph.nodes_geometry[0])[0][:3, :3], np.eye(3))


def test_packed_and_unpacked(runs, tmp_path):
    packed, unpacked = tmp_path / "far.sine", tmp_path / "unpacked"
    assert main(["pack", str(runs / "far"), str(packed), "--bits=8", "--seconds=0"]) == 0
    assert main(["unpack", str(packed), str(unpacked)]) == 0
    fields = [sf.load(path) for path in (runs / "far", packed, unpacked)]
    for field in fields:
        assert field.bounds is not None and np.allclose(field.bounds, OFFSET + BOX, rtol=0, atol=1e-5)
    vertices = fields[1].mesh(24, 0.3).vertices - OFFSET
    assert np.abs(vertices).max() < 1.1
    assert main(["eval", str(packed), "--data", str(runs / "far_data")]) == 0


def test_questions_and_cameras_are_in_the_datas_coordinates(runs):
    near, far = sf.load(runs / "near"), sf.load(runs / "far")
    points = np.random.default_rng(0).uniform(-0.9, 0.9, (200, 3))
    assert np.allclose(far.density(points + OFFSET), near.density(points), rtol=1e-2, atol=1e-3)
    ways = np.random.default_rng(1).normal(size=(200, 3))
    assert np.abs(far.colour(points + OFFSET, ways) - near.colour(points, ways)).max() < 0.01
    pose = POSES[2]
    a, b = near.render(pose, 32, 32), far.render(moved(pose[None], OFFSET)[0], 32, 32)
    assert np.abs(a.astype(int) - b).mean() < 1


def test_distances_are_in_the_datas_coordinates():
    """Of an untrained surface, about a ball."""
    torch.manual_seed(0)
    config = RadianceFieldConfig(density="distance", width=16, depth=2, grid=16, weights="dense", frequencies=2)
    field = make_radiance_field(config, torch.tensor([-1.0, -1, -1, 1, 1, 1])).eval()
    points = np.random.default_rng(0).uniform(-3, 3, (50, 3))
    near = kind_of(field).true_distance(field).sdf(points)
    field.origin = OFFSET
    assert np.abs(kind_of(field).true_distance(field).sdf(points + OFFSET) - near).max() < 1e-4


def test_cameras_and_paths(runs, tmp_path):
    out = runs / "far_data" / "cameras.json"
    assert main(["cameras", str(runs / "far"), str(out)]) == 0
    written, given = json.loads(out.read_text()), read_listing(runs / "far_data", holdout=0).frames["train"]
    poses = {frame["file_path"]: np.array(frame["transform_matrix"])[:3] for frame in written["frames"]}
    assert all(np.array_equal(poses[frame.name], frame.c2w) for frame in given)
    assert np.allclose(written["aabb"], OFFSET + BOX)
    assert offset_of(read_listing(out)).tolist() == OFFSET.tolist()
    path = tmp_path / "path.json"
    frame = {"camera_to_world": [*moved(POSES, OFFSET)[3].ravel().tolist(), 0, 0, 0, 1], "fov": 50, "aspect": 1}
    path.write_text(json.dumps({"camera_path": [frame], "render_height": SIDE, "render_width": SIDE, "fps": 1}))
    cameras, _ = read_camera_path(path, origin=OFFSET)
    assert np.abs(cameras.c2w[0].numpy() - POSES[3]).max() < 1e-6
    video = tmp_path / "far.mp4"
    assert main(["video", str(runs / "far"), str(video), "--path", str(path)]) == 0 and video.stat().st_size > 0


def test_a_note_that_is_no_place(tmp_path, runs):
    import shutil

    from sinefield.errors import SinefieldError
    from sinefield.store.fields import save_field

    shutil.copytree(runs / "near", tmp_path / "run")
    field, note = load_field(tmp_path / "run")
    kept = {key: note[key] for key in ("seed", "steps", "seconds")}
    for origin in ([1, 2], "here", [1e300, 0, 0], [True, 0, 0], None):
        save_field(tmp_path / "run" / "field.safetensors", field, {**kept, "origin": origin})
        with pytest.raises(SinefieldError, match="origin is no place"):
            load_field(tmp_path / "run")


def test_the_fault(data_folder):
    report, text = inspect(data_folder / "faults/captures/utm_float32")
    assert report["offset"] == [500000.0, 4000000.0, 100.0] and report["hints"] == [] and "offset " in text
    scene = load_posed(data_folder / "faults/captures/utm_float32")
    frames = read_listing(data_folder / "faults/captures/utm_float32").frames["train"]
    back = scene.training_views.cameras.c2w[:, :, 3].double().numpy() + scene.origin
    assert np.abs(back - [frame.c2w[:, 3] for frame in frames]).max() < 1e-6
