"""What `inspect` says of captures made to be right, and of those made to be wrong in one way."""

import json
from pathlib import Path

import captures
import numpy as np
import pytest
import torch
from PIL import Image

from sinefield.cameras.cameras import Cameras
from sinefield.commands.cli import main
from sinefield.data.photographs.inspect import against_box, inspect
from sinefield.errors import SinefieldError

BOX = np.array([[-1.0, -1, -1], [1, 1, 1]])


def colmap(folder, poses=None, **options):
    poses = captures.poses(9) if poses is None else poses
    captures.write_images(folder / "images", captures.names(len(poses)))
    captures.write_model(folder / "sparse/0", poses, **options)
    return folder


def transforms(folder, poses, **meta):
    captures.write_images(folder / "images", captures.names(len(poses)))
    frames = [
        {"file_path": f"images/{name}", "transform_matrix": pose.tolist()}
        for name, pose in zip(captures.names(len(poses)), poses, strict=True)
    ]
    content = {"fl_x": 10, "aabb": BOX.tolist(), "frames": frames, **meta}
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def scene_file(folder, **data):
    lines = "".join(f"  {key}: {value}\n" for key, value in {"path": folder, **data}.items())
    (folder / "scene.yaml").write_text(f"kind: radiance\ndata:\n{lines}")
    return folder / "scene.yaml"


def test_a_capture_without_fault(tmp_path):
    colmap(tmp_path)
    (tmp_path / "images/view 04.png").unlink()
    captures.write_images(tmp_path / "images", ["z.png", "y.png"])
    report, text = inspect(tmp_path)
    assert report["views"] == {"train": 7, "val": 0, "test": 1} and report["image_sizes"] == {"12x8": 8}
    assert report["without_image"] == 1 and report["without_pose"] == 2 and report["distorted"]
    assert report["focal_pixels"] == [10.0, 11.0]
    lens = pytest.importorskip("pycolmap").Camera(
        model="OPENCV", width=12, height=8, params=captures.PARAMETERS["OPENCV"]
    )
    edges = lens.cam_from_img(np.array([[6.5 + 6, 4], [6.5, 4 + 4]]))
    assert np.allclose(report["view_degrees"], np.degrees(2 * np.arctan(np.linalg.norm(edges, axis=1))))
    assert report["cameras_inside_box"] == 0 and report["cameras_facing_centre"] == 8 and report["hints"] == []
    assert report["points_inside_box"] > 0.9 and report["sparse_points"] == 40
    centre = np.reshape(report["box"], (2, 3)).mean(0)
    distances = np.linalg.norm(np.delete(captures.poses(9), 4, 0)[:, :, 3] - centre, axis=1)
    assert np.allclose(report["distance_to_centre"], [distances.min(), np.median(distances), distances.max()])
    for said in (
        "7 train",
        "1 poses without image, 2 images without pose",
        "8 of 12x8",
        "near ",
        "0 of 8 cameras inside",
    ):
        assert said in text
    assert "hint" not in text


def test_the_box_ahead_is_the_one_that_rays_meet():
    generator = np.random.default_rng(0)
    poses = captures.poses(30)
    poses[:, :, 3] += generator.normal(0, 1.2, (30, 3))
    report, _ = against_box(poses, BOX, None)
    cameras = Cameras(torch.from_numpy(poses), torch.ones(30, 2), torch.zeros(30, 2), torch.zeros(30, 4), 1, 1)
    rays_o, rays_d = cameras.rays(torch.arange(30), torch.zeros(30, 2, dtype=torch.float64))
    steps = rays_o[:, None] + torch.linspace(0, 12, 20001)[:, None] * rays_d[:, None]
    meeting = (steps.abs() <= 1).all(-1).any(1).sum().item()
    assert 5 < meeting < 25 and report["cameras_with_box_ahead"] == meeting


def flipped(poses):
    return poses * np.array([1, -1, -1, 1])  # OpenCV's axes where OpenGL's belong


def scaled(factor):
    """Farther from the point they look at, or nearer."""
    target = np.array([0.1, -0.2, 0.0])
    return lambda poses: np.dstack([poses[:, :, :3], target + factor * (poses[:, :, 3] - target)])


def half_flipped(poses):
    return np.concatenate([poses[:2], flipped(poses[2:])])


def beside(poses):
    """All in a row, looking past the box but with its centre before them."""
    row = np.tile(np.eye(4)[:3], (len(poses), 1, 1))
    row[:, :, 3] = np.stack([2 + 0.1 * np.arange(len(poses)), 0 * np.arange(len(poses)), [4.0] * len(poses)], 1)
    return row


def some_inside(poses):
    return np.concatenate([scaled(0.05)(poses[:2]), poses[2:]])


def same(poses):
    return np.repeat(poses[:1], len(poses), 0)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (flipped, "look away from the box's centre"),
        (half_flipped, "only 2 of 6 cameras have the box's centre before them"),
        (beside, "no camera has the box straight ahead"),
        (some_inside, "2 of 6 cameras stand inside the box"),
        (scaled(100.0), "box diagonals away; check the scale"),
        (same, "stand in one spot"),
    ],
)
def test_each_fault_has_its_hint(tmp_path, change, hint):
    assert inspect(transforms(tmp_path, captures.poses(6)))[0]["hints"] == []
    report, text = inspect(transforms(tmp_path, change(captures.poses(6))))
    assert len(report["hints"]) == 1 and hint in report["hints"][0] and f"hint: {report['hints'][0]}" in text


def test_sizes_and_boxes(tmp_path):
    transforms(tmp_path, captures.poses(6))
    captures.write_images(tmp_path / "images", ["view 03.png"], (12, 9))
    report, _ = inspect(tmp_path)
    assert report["image_sizes"] == {"12x8": 5, "12x9": 1} and not report["hints"]
    folder = colmap(tmp_path / "colmap", captures.poses(6))
    report, text = inspect(scene_file(folder, aabb=[-1, -1, -0.5, 1, 1, -0.4], holdout=2))
    assert report["box"] == [-1, -1, -0.5, 1, 1, -0.4] and report["views"]["test"] == 3
    assert "of the sparse points lie in the box" in report["hints"][0]
    (folder / "sparse/0/points3D.bin").unlink()
    report, text = inspect(folder)
    assert np.allclose(np.reshape(report["box"], (2, 3)).mean(0), [0.1, -0.2, 0], atol=1e-6)
    assert "where 6 optical axes meet" in text and "data.aabb overrides it" in text


def test_folder_of_reduced_images_only(tmp_path):
    np.save(tmp_path / "poses_bounds.npy", captures.llff_rows(captures.poses(9)))
    captures.write_images(tmp_path / "images_4", captures.names(9), (3, 2))
    report, text = inspect(tmp_path)
    assert report["images_reduced"] == 4 and report["focal_pixels"] == [2.5, 2.5] and "1/4 of the full size" in text
    assert report["near_far"] == (2.0, 6.0) and report["sparse_points"] is None
    with pytest.raises(SinefieldError, match="downscale 3 cannot be made from images_4"):
        inspect(scene_file(tmp_path, downscale=3))


def test_command_line_and_picture(tmp_path, capfd):
    colmap(tmp_path)
    picture = tmp_path / "deep/cameras.png"
    assert main(["inspect", str(tmp_path), "--out", str(picture), "--json"]) == 0
    report = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert report["views"]["train"] == 7 and report["picture"] == str(picture)
    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    for colour in ((31, 119, 180), (214, 39, 40), (44, 160, 44)):  # training and test cameras, box
        assert (pixels == colour).all(-1).sum() > 50
    for arguments, said in (
        ([tmp_path, "--out", picture], "exists already"),
        ([tmp_path, "--out", tmp_path / "a.txt"], "unknown kind of picture"),
        ([tmp_path / "nowhere"], "no such"),
    ):
        assert main(["inspect", *map(str, arguments)]) == 2
        err = capfd.readouterr().err
        assert said in err and err.count("\n") == 1
    assert main(["inspect", str(tmp_path), "--out", str(picture), "--overwrite"]) == 0
    shape = tmp_path / "shape.yaml"
    shape.write_text("kind: shape\ndata:\n  path: a.ply\n")
    with pytest.raises(SinefieldError, match="kind shape"):
        inspect(shape)


def test_blurred_photographs_are_named(tmp_path):
    from scipy.ndimage import gaussian_filter

    transforms(tmp_path, captures.poses(6))
    g = np.random.default_rng(0)
    for i, path in enumerate(sorted(p for p in tmp_path.rglob("*.png"))):
        texture = gaussian_filter(g.normal(size=(96, 128, 3)), (4.0 if i == 2 else 0.7, 4.0 if i == 2 else 0.7, 0))
        dim = 0.4 if i == 4 else 1.0  # darkness is no blur
        values = 128 + dim * 100 * texture / np.abs(texture).max()
        Image.fromarray(values.astype(np.uint8)).save(path)
        if i == 2:
            name = path.name
    report, text = inspect(tmp_path)
    assert [Path(n).name for n in report["blurred"]] == [name] and name in text


@pytest.mark.parametrize("folder, space", [("fern", "ndc"), ("fox", "contracted"), ("lego", "box")])
def test_the_suggested_space_of_real_captures(data_folder, folder, space):
    report, text = inspect(data_folder / folder)
    assert report["suggested_space"] == space and f"space    {space}" in text
