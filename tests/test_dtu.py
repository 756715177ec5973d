"""DTU's and IDR's pose files, written from known cameras."""

import io
import zipfile

import numpy as np
import pytest
import torch
from captures import poses
from PIL import Image

from sinefield.data.photographs.images import load_posed
from sinefield.data.photographs.inspect import inspect
from sinefield.errors import SinefieldError

SIZE = 12, 8
K = np.array([[10.0, 0, 6.3], [0, 11.0, 3.8], [0, 0, 1]])
CENTRE, RADIUS = np.array([40.0, -20.0, 5.0]), 30.0
FLIP = np.diag([1.0, -1, -1])


def matrices(n):
    """World to pixels, and the unit sphere to the world, for cameras four radii from the object."""
    c2w = poses(n)
    c2w[:, :, 3] = CENTRE + RADIUS * c2w[:, :, 3]
    found = {}
    for i, pose in enumerate(c2w):
        rotation = (pose[:, :3] @ FLIP).T
        world = np.eye(4)
        # Projections are known up to a factor, of any sign.
        world[:3] = (-2.5 if i % 2 else 0.7) * K @ np.column_stack([rotation, -rotation @ pose[:, 3]])
        found[f"world_mat_{i}"] = world
        found[f"scale_mat_{i}"] = np.diag([RADIUS, RADIUS, RADIUS, 1.0])
        found[f"scale_mat_{i}"][:3, 3] = CENTRE
    return found, c2w


def write(folder, n=4, masks=True, **changes):
    found, c2w = matrices(n)
    np.savez(folder / "cameras_sphere.npz", **{k: v for k, v in (found | changes).items() if v is not None})
    for i in range(n):
        rng = np.random.default_rng(i)
        for kind, shape in (("image", (SIZE[1], SIZE[0], 3)), ("mask", (SIZE[1], SIZE[0]))):
            if kind == "image" or masks:
                values = rng.integers(0, 256, shape, dtype=np.uint8) if kind == "image" else rng.choice([0, 255], shape)
                (folder / kind).mkdir(exist_ok=True)
                Image.fromarray(values.astype(np.uint8)).save(folder / kind / f"{i:03d}.png")
    return found, c2w


def test_points_land_where_the_matrices_put_them(tmp_path):
    found, c2w = write(tmp_path)
    scene = load_posed(tmp_path, holdout=0)
    cameras = scene.train.cameras
    assert torch.allclose(cameras.c2w, torch.from_numpy(c2w).float(), atol=1e-4)
    points = CENTRE + RADIUS * np.random.default_rng(0).uniform(-0.5, 0.5, (50, 3))
    for i in range(4):
        x, y, w = found[f"world_mat_{i}"][:3] @ np.column_stack([points, np.ones(50)]).T
        pixels, depth = cameras.project(i, torch.from_numpy(points).float())
        assert (depth > 0).all()
        # A pixel's centre is a whole number there and a half here.
        np.testing.assert_allclose(pixels.numpy(), np.stack([x / w, y / w], 1) + 0.5, atol=2e-4)
    np.testing.assert_allclose(scene.aabb.numpy(), [*(CENTRE - RADIUS), *(CENTRE + RADIUS)], rtol=1e-6)


def test_masks_become_alpha(tmp_path):
    write(tmp_path)
    scene = load_posed(tmp_path / "cameras_sphere.npz", holdout=2)
    assert scene.has_alpha and scene.train.names == ["image/001.png", "image/003.png"]
    image, mask = (np.asarray(Image.open(tmp_path / kind / "001.png")).astype(int) for kind in ("image", "mask"))
    np.testing.assert_array_equal(scene.train.images[0, ..., 3].numpy(), mask)
    np.testing.assert_array_equal(scene.train.images[0, ..., :3].numpy(), np.where(mask[..., None], image, 0))
    report, _ = inspect(tmp_path)
    assert report["views"] == {"train": 3, "val": 0, "test": 1}


def test_without_masks_images_are_opaque(tmp_path):
    write(tmp_path, masks=False)
    assert not load_posed(tmp_path).has_alpha


def bomb(path):
    """An archive whose one member claims terabytes of numbers, and one that unpacks to megabytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (4 << 20, 4 << 20)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("world_mat_0.npy", header.getvalue() + bytes(64 << 20))


def test_bad_files_are_one_line_each(tmp_path):
    write(tmp_path)
    path = tmp_path / "cameras_sphere.npz"
    singular = np.zeros((4, 4))
    skewed = np.eye(4)
    skewed[:3, :3] = [[10, 3, 6], [0, 10, 4], [0, 0, 1]]
    for changes, message in (
        ({"world_mat_2": None}, "has 3 world_mat_i, but image/ holds 4 images"),
        ({"world_mat_1": singular}, "world_mat_1: is not the projection of a camera"),
        ({"world_mat_1": skewed}, r"world_mat_1: its pixel axes are not perpendicular \(skew 3\)"),
        ({"world_mat_3": np.full((4, 4), np.nan)}, "world_mat_3: has numbers that are not finite"),
        ({"world_mat_3": np.eye(3)}, r"world_mat_3: holds float64 of shape \(3, 3\); expected a 4 x 4 matrix"),
        ({"world_mat_0": np.array([[None]])}, "world_mat_0: holds object of shape"),
        ({"scale_mat_0": None}, "has no scale_mat_0"),
        ({"scale_mat_0": singular}, "scale_mat_0 has a radius of 0"),
    ):
        write(tmp_path, **changes)
        with pytest.raises(SinefieldError, match=message) as caught:
            load_posed(tmp_path)
        assert "\n" not in str(caught.value)
    bomb(path)
    with pytest.raises(SinefieldError, match="world_mat_0: holds float64"):
        load_posed(tmp_path)
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(SinefieldError, match=r"is not a readable \.npz file"):
        load_posed(tmp_path)
    write(tmp_path)
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(60)
    path.write_bytes(bytes(data))
    with pytest.raises(SinefieldError, match="is not a readable"):
        load_posed(tmp_path)


def test_masks_must_fit_the_images(tmp_path):
    write(tmp_path)
    Image.new("L", (5, 8)).save(tmp_path / "mask" / "002.png")
    with pytest.raises(SinefieldError, match=r"002\.png: is 5x8, its image 12x8"):
        load_posed(tmp_path)
    (tmp_path / "mask" / "002.png").unlink()
    with pytest.raises(SinefieldError, match="holds 3 masks for 4 images"):
        load_posed(tmp_path)
