"""The renderer against closed forms and plain projection, the written data set against its own mesh, bad input."""

import json
import math

import numpy as np
import pytest
import trimesh
from PIL import Image

from sinefield.cameras.cameras import look_at
from sinefield.data.made import synthetic
from sinefield.data.made.procedural import demo_scene, demo_shape
from sinefield.data.made.synthetic import render_views, sphere_poses, synthesize
from sinefield.data.surfaces.coloured import load_coloured
from sinefield.errors import SinefieldError


def pose(eye, up=(0.0, 0.0, 1.0)):
    return look_at(eye, (0.0, 0.0, 0.0), up).numpy().astype(np.float64)[None]


def box(colours=None):
    mesh = trimesh.creation.box((1, 1, 1))
    if colours is not None:
        mesh.visual.face_colors = colours
    return mesh


def axis_colours(mesh):
    """Red, green, blue for faces looking along x, y, z; the negative sides at half strength."""
    strength = np.where(mesh.face_normals > 0.5, 255, np.where(mesh.face_normals < -0.5, 128, 0))
    return np.concatenate([strength, np.full((len(strength), 1), 255)], 1).astype(np.uint8)


def test_sphere_covers_the_area_of_its_projection():
    focal, distance, radius = 150.0, 4.0, 1.0
    image = render_views(trimesh.creation.icosphere(5), pose((distance, 0, 0)), 128, 128, focal)[0]
    disc = math.pi * focal**2 * radius**2 / (distance**2 - radius**2)
    assert abs(image[..., 3].sum() / 255 / disc - 1) < 3e-3
    assert image[64, 64, 3] == 255 and image[0, 0].tolist() == [0, 0, 0, 0]


def test_edges_are_antialiased_with_straight_alpha():
    mesh = trimesh.creation.icosphere(4)
    mesh.visual.vertex_colors = np.tile(np.uint8([200, 100, 50, 255]), (len(mesh.vertices), 1))
    image = render_views(mesh, pose((4, 0, 0)), 64, 64, 70.0, samples=3, shaded=False)[0]
    seen = image[..., 3] > 0
    assert ((image[..., 3] > 0) & (image[..., 3] < 255)).sum() > 50
    assert set(np.unique(image[..., 3])) <= {round(255 * k / 9) for k in range(10)}
    assert (image[seen][:, :3] == (200, 100, 50)).all()  # not darkened towards the edge


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", (1, -1))
def test_face_colours_appear_where_they_should(axis, sign):
    mesh = box()
    mesh.visual.face_colors = axis_colours(mesh)
    eye = [0.0, 0.0, 0.0]
    eye[axis] = 3.0 * sign
    up = (0.0, 1.0, 0.0) if axis == 2 else (0.0, 0.0, 1.0)
    image = render_views(mesh, pose(eye, up), 32, 32, 30.0, shaded=False)[0]
    expected = [0, 0, 0, 255]
    expected[axis] = 255 if sign > 0 else 128
    assert image[16, 16].tolist() == expected


def test_vertex_colours_interpolate_linearly():
    mesh = trimesh.Trimesh([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)], [(0, 1, 2), (0, 2, 3)], process=False)
    mesh.visual.vertex_colors = np.uint8([(0, 0, 0, 255), (200, 0, 0, 255), (200, 200, 0, 255), (0, 200, 0, 255)])
    image = render_views(mesh, pose((0, 0, 4), (0, 1, 0)), 41, 41, 82.0, shaded=False)[0].astype(int)
    centre = np.arange(1, 40)
    ramp = 100 + 100 * (centre + 0.5 - 20.5) / 20.5
    assert np.abs(image[20, centre, 0] - ramp).max() <= 1  # red grows to the right
    assert np.abs(image[centre, 20, 1] - ramp[::-1]).max() <= 1  # green grows upwards


def test_texture_is_sampled_by_its_coordinates():
    mesh = trimesh.Trimesh([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)], [(0, 1, 2), (0, 2, 3)], process=False)
    quarters = np.uint8([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 0)]]).repeat(8, 0).repeat(8, 1)
    uv = [(0, 0), (1, 0), (1, 1), (0, 1)]
    mesh.visual = trimesh.visual.TextureVisuals(uv=uv, image=Image.fromarray(quarters))
    image = render_views(mesh, pose((0, 0, 4), (0, 1, 0)), 40, 40, 80.0, shaded=False)[0]
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        assert image[10 + 20 * row, 10 + 20 * column, :3].tolist() == quarters[8 * row, 8 * column].tolist()


def test_camera_convention():
    # From -y with z up, +x is on the right and +z on top.
    def small(x, z):
        return trimesh.creation.icosphere(2, 0.1).apply_translation((x, 0, z))

    view = pose((0, -4, 0))
    where = {}
    for name, mesh in {"x": small(0.5, 0), "z": small(0, 0.5)}.items():
        rows, columns = np.nonzero(render_views(mesh, view, 64, 64, 100.0)[0, ..., 3])
        where[name] = columns.mean() + 0.5, rows.mean() + 0.5
    assert where["x"] == pytest.approx((32 + 100 * 0.5 / 4, 32), abs=0.2)
    assert where["z"] == pytest.approx((32, 32 - 100 * 0.5 / 4), abs=0.2)


def test_light_is_fixed_in_the_world():
    mesh = trimesh.creation.icosphere(4)
    mesh.visual.vertex_colors = np.full((len(mesh.vertices), 4), 255, np.uint8)
    views = np.concatenate([pose(eye) for eye in ((3.0, -3.0, 1.0), (3.0, -1.0, 2.0))])
    images = render_views(mesh, views, 64, 64, 80.0).astype(int)
    point = np.array([2, -1.3, 1.0]) / np.linalg.norm([2, -1.3, 1.0])
    brightness = []
    for image, view in zip(images, views, strict=True):
        x, y, z = (point - view[:, 3]) @ view[:, :3]
        brightness.append(image[int(32 + 80 * y / z), int(32 - 80 * x / z), 0])
    assert abs(brightness[0] - brightness[1]) <= 3
    assert images[..., 3].max() == 255 and np.ptp(images[0, ..., 0][images[0, ..., 3] == 255]) > 40  # not flat


def test_far_and_tiny_meshes_render_alike():
    plain, moved = box(), box().apply_scale(1e-3).apply_translation((5e3, -2e3, 1e3))
    near, far = pose((2, -2, 1.5)), pose((2, -2, 1.5))
    far[:, :, 3] = far[:, :, 3] * 1e-3 + (5e3, -2e3, 1e3)
    difference = render_views(plain, near, 48, 48, 50.0).astype(int) - render_views(moved, far, 48, 48, 50.0)
    assert np.abs(difference).max() <= 30 and (difference != 0).mean() < 0.02


def test_demo_solids_are_closed_and_reproducible():
    shape, scene = demo_shape(), demo_scene()
    assert shape.is_watertight and shape.is_winding_consistent and shape.body_count == 1
    assert 0.5 < shape.volume < 0.7 and np.linalg.norm(shape.vertices, axis=1).max() < 1
    assert scene.is_watertight and scene.is_winding_consistent
    assert all(part.volume > 0 for part in scene.split())  # normals outwards, each and every one
    assert len(np.unique(scene.visual.vertex_colors, axis=0)) > 50
    again, other = demo_shape(), demo_shape(seed=1)
    assert np.array_equal(shape.vertices, again.vertices) and other.is_watertight
    assert len(other.vertices) != len(shape.vertices)


def test_sphere_poses_are_even_and_look_at_the_centre():
    poses = sphere_poses(200, (1.0, 2.0, 3.0), 4.0, up=(0, 1, 0))
    away = (poses[:, :, 3] - (1, 2, 3)) / 4
    assert np.allclose(np.linalg.norm(away, axis=1), 1) and np.allclose(poses[:, :, 2], away, atol=1e-6)
    assert (poses[:, 1, 1] > 0).all()  # none stands on its head
    assert away[:, 1].mean() == pytest.approx(0.325, abs=0.01)
    gaps = np.linalg.norm(away[:, None] - away[None], axis=2) + 9 * np.eye(200)
    assert gaps.min(1).max() < 2.2 * gaps.min()


def read(folder, split):
    meta = json.loads((folder / f"transforms_{split}.json").read_text())
    images = np.stack([np.array(Image.open(folder / f"{frame['file_path']}.png")) for frame in meta["frames"]])
    return meta, images


def test_dataset_agrees_with_its_mesh(tmp_path):
    report = synthesize(tmp_path / "a" / "demo", n_train=5, n_val=1, n_test=2, resolution=48, samples=2)
    folder = tmp_path / "a" / "demo"
    made = {entry.name for entry in folder.iterdir()}
    splits = ("train", "val", "test")
    assert made == {"mesh.ply", "shape.ply", "synth.json", *splits, *(f"transforms_{split}.json" for split in splits)}
    inner = [f"{split}/{entry.name}" for split in splits for entry in (folder / split).iterdir()]
    assert len(inner) == 8 and all(synthetic.CONTENTS.fullmatch(name) for name in [*made - set(splits), *inner])
    assert [entry.name for entry in folder.parent.iterdir()] == ["demo"]  # no scratch left
    mesh = trimesh.load_mesh(folder / "mesh.ply")
    assert trimesh.load_mesh(folder / "shape.ply").is_watertight
    assert mesh.visual.kind == "vertex" and report["faces"] == len(mesh.faces)
    meta, images = read(folder, "train")
    low, high = np.array(meta["aabb"])
    assert (low < mesh.bounds[0]).all() and (high > mesh.bounds[1]).all()
    assert images.shape == (5, 48, 48, 4)
    focal = 0.5 * 48 / math.tan(0.5 * meta["camera_angle_x"])
    for frame, image in zip(meta["frames"], images, strict=True):
        world = np.linalg.inv(frame["transform_matrix"])
        x, y, z = world[:3, :3] @ mesh.vertices.T + world[:3, 3:]
        columns, rows = 24 - focal * x / z, 24 + focal * y / z
        assert min(columns.min(), rows.min()) > 0 and max(columns.max(), rows.max()) < 48  # all in the picture
        mask = np.pad(image[..., 3] > 0, 1)
        near = mask[1:-1, 1:-1] | mask[:-2, 1:-1] | mask[2:, 1:-1] | mask[1:-1, :-2] | mask[1:-1, 2:]
        assert near[rows.astype(int), columns.astype(int)].all()
        covered = np.zeros((48, 48), bool)
        covered[rows.astype(int), columns.astype(int)] = True
        assert covered[image[..., 3] == 255].mean() > 0.99
    eyes = [
        np.array(f["transform_matrix"])[:3, 3] for split in ("train", "test") for f in read(folder, split)[0]["frames"]
    ]
    assert min(np.linalg.norm(a - b) for i, a in enumerate(eyes) for b in eyes[:i]) > 0.05


def test_same_seed_same_bytes(tmp_path):
    box().export(tmp_path / "box.ply")
    for name, seed in (("a", 5), ("b", 6), ("b", 5), ("c", 6)):
        synthesize(tmp_path / name, tmp_path / "box.ply", 2, 0, 0, 16, seed=seed, overwrite=True)
    a, b, c = ([(tmp_path / n / f).read_bytes() for f in ("train/r_1.png", "transforms_train.json")] for n in "abc")
    assert a == b and a[0] != c[0] and not (tmp_path / "a/transforms_val.json").exists()


def test_user_mesh_keeps_its_coordinates_and_colours(tmp_path):
    mesh = box()
    mesh.visual.face_colors = axis_colours(mesh)
    mesh.apply_scale((1, 2, 3)).apply_translation((100, -50, 7)).export(tmp_path / "box.ply")
    report = synthesize(tmp_path / "out", tmp_path / "box.ply", 2, 0, 1, resolution=24, up="y")
    written = trimesh.load_mesh(tmp_path / "out/mesh.ply", process=False)
    assert np.allclose(written.bounds, mesh.bounds)
    assert set(map(tuple, written.visual.vertex_colors)) == set(map(tuple, axis_colours(mesh)))
    assert np.allclose(report["aabb"], [99.44, -51.06, 5.44, 100.56, -48.94, 8.56])
    assert not (tmp_path / "out/shape.ply").exists()
    assert json.loads((tmp_path / "out/synth.json").read_text())["source"] == "box.ply"
    assert (read(tmp_path / "out", "train")[1][..., 3] > 0).mean() > 0.05


def test_uncoloured_and_several_part_files(tmp_path):
    plain = tmp_path / "plain.stl"
    box().export(plain)
    image = render_views(load_coloured(plain), pose((3, 0, 0)), 8, 8, 20.0, shaded=False)[0]
    assert image[4, 4, :3].tolist() == [204, 194, 184]
    trimesh.Scene([box(), box().apply_translation((3, 0, 0))]).export(tmp_path / "two.glb")
    assert sum(len(part.faces) for part in load_coloured(tmp_path / "two.glb")) == 24


def test_bad_meshes(tmp_path):
    def write(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    triangle = "v 0 0 0\nv 1 0 0\nv 0 1 {}\nf 1 2 3\n"
    cases = {
        "no such mesh": tmp_path / "missing.ply",
        "is empty": write("empty.obj", ""),
        "unknown kind": write("shape.xyzw", "hello"),
        "has no faces": write("points.obj", "v 0 0 0\nv 1 0 0\n"),
        "NaN": write("nan.obj", triangle.format("nan")),
        "no extent": write("dot.obj", "v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n"),
        "has no PLY header": write("broken.ply", "ply\nformat nonsense\n"),
    }
    for words, path in cases.items():
        with pytest.raises(SinefieldError, match=words) as caught:
            synthesize(tmp_path / "out", path)
        assert "\n" not in str(caught.value) and path.name in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "setting",
    [
        {"resolution": 7},
        {"resolution": 5000},
        {"n_train": 0},
        {"n_test": -1},
        {"samples": 0},
        {"seed": -1},
        {"up": "x"},
    ],
)
def test_bad_settings(tmp_path, setting):
    with pytest.raises(SinefieldError):
        synthesize(tmp_path / "out", **setting)
    assert not list(tmp_path.iterdir())


def test_folders_in_use_are_safe(tmp_path, monkeypatch):
    tiny = {"n_train": 1, "n_val": 0, "n_test": 0, "resolution": 8, "samples": 1}
    mesh = tmp_path / "box.ply"
    box().export(mesh)
    out = tmp_path / "out"
    out.mkdir()
    synthesize(out, mesh, **tiny)  # an empty folder is free to use
    with pytest.raises(SinefieldError, match="--overwrite"):
        synthesize(out, mesh, **tiny)
    before = (out / "synth.json").read_bytes()

    def fail(*_):
        raise RuntimeError("half way")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(synthetic.Raycaster, "view", fail)
        synthesize(out, mesh, overwrite=True, **tiny)
    assert (out / "synth.json").read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["box.ply", "out"]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(SinefieldError, match=r"notes\.txt"):
        synthesize(out, mesh, overwrite=True, **tiny)
    (out / "notes.txt").unlink()
    (out / "synth.json").unlink()
    with pytest.raises(SinefieldError, match=r"no synth\.json"):
        synthesize(out, mesh, overwrite=True, **tiny)
    with pytest.raises(SinefieldError, match="is a file"):
        synthesize(mesh, mesh, **tiny)
