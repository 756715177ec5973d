"""Loading posed images: exact arithmetic, every kind of file, every kind of damage, and real captures."""

import json
import math
import os
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from PIL import Image, ImageCms

from sinefield.cameras.cameras import orbit
from sinefield.data.photographs.image_files import area_average
from sinefield.data.photographs.images import load_posed, on_background, reference
from sinefield.data.photographs.listing import read_listing
from sinefield.errors import SinefieldError

DATA = Path(__file__).parents[1] / os.environ.get("SINEFIELD_DATA", "../shared/data")
POSES = [[*pose, [0, 0, 0, 1]] for pose in orbit(16, radius=4.0).tolist()]


def pixels(mode: str = "RGB", size: tuple[int, int] = (12, 8), seed: int = 0) -> Image.Image:
    shape = (size[1], size[0], len(mode))
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def write(folder: Path, n: int = 3, mode: str = "RGB", file: str = "transforms.json", **meta) -> Path:
    """A small dataset of n random images; `meta` goes to the JSON, where None removes a key."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    frames = []
    for index in range(n):
        name = f"images/{index:03d}.png"
        pixels(mode, seed=index).save(folder / name)
        frames.append({"file_path": name, "transform_matrix": POSES[index]})
    content = {"fl_x": 10.0, "w": 12, "h": 8, "frames": frames, **meta}
    (folder / file).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return folder


def edit(folder: Path, frame: int = 1, file: str = "transforms.json", **entry) -> Path:
    """Overwrite keys of one frame; None removes a key."""
    content = json.loads((folder / file).read_text())
    content["frames"][frame].update(entry)
    content["frames"][frame] = {key: value for key, value in content["frames"][frame].items() if value is not None}
    (folder / file).write_text(json.dumps(content))
    return folder


# ---- arithmetic


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
@pytest.mark.parametrize("channels", [3, 4])
def test_area_average_is_exact_to_half_a_level(channels, factor):
    image = np.random.default_rng(factor).integers(0, 256, (17, 11, channels), dtype=np.uint8)
    result = area_average(image, factor)
    assert result.shape == (17 // factor, 11 // factor, channels)
    for row, column, channel in np.ndindex(result.shape):
        block = image[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor].astype(int)
        weights = block[..., 3] if channels == 4 and channel < 3 else np.full(block.shape[:2], 255)
        exact = Fraction(int((block[..., channel] * weights).sum()), 255 * factor**2)
        assert abs(exact - int(result[row, column, channel])) <= Fraction(1, 2)
    if channels == 4:
        assert (result[..., :3] <= result[..., 3:]).all()


def test_composite_by_hand():
    image = torch.tensor([[[0, 51, 102, 102], [255, 0, 0, 255]]], dtype=torch.uint8)
    white, blue = on_background(image), on_background(image, (0, 0, 1))
    assert torch.equal(on_background(image, torch.tensor([0.0, 0.0, 1.0])), blue)
    assert torch.allclose(white[0, 0], torch.tensor([0.6, 0.8, 1.0]))
    assert torch.allclose(blue[0, 0], torch.tensor([0.0, 0.2, 1.0]))
    assert torch.equal(white[0, 1], torch.tensor([1.0, 0.0, 0.0]))
    assert torch.allclose(on_background(image, torch.rand(1, 2, 3))[0, 1], white[0, 1])
    assert torch.equal(on_background(image[..., :3]), image[..., :3] / 255)
    assert torch.equal(reference(image), torch.tensor([[[153, 204, 255], [255, 0, 0]]], dtype=torch.uint8))
    assert torch.equal(reference(image[..., :3]), image[..., :3])


# ---- layouts, splits, intrinsics


def test_instant_ngp_layout(tmp_path):
    write(tmp_path, n=10, k1=0.01, p2=0.002, cx=5.0, aabb_scale=4)
    (tmp_path / "images/005.png").unlink()
    scene = load_posed(tmp_path, holdout=4)
    assert scene.test.names == [f"images/{i:03d}.png" for i in (0, 4, 9)]  # every 4th of the nine there are
    assert len(scene.train) == 6 and scene.val is None and scene.skipped == 1 and not scene.has_alpha
    cameras = scene.train.cameras
    assert torch.equal(cameras.focal[0], torch.tensor([10.0, 10.0]))
    assert torch.equal(cameras.centre[0], torch.tensor([5.0, 4.0]))
    assert torch.allclose(cameras.distortion[0], torch.tensor([0.01, 0, 0, 0.002]))
    assert torch.allclose(cameras.c2w[0], torch.tensor(POSES[1][:3]), atol=1e-6)
    assert torch.equal(scene.train.images[0], torch.from_numpy(np.array(pixels(seed=1))))
    half = 4 / 2 / 0.33
    assert torch.allclose(scene.aabb, torch.tensor([-half] * 3 + [half] * 3))
    assert len(load_posed(tmp_path / "transforms.json", holdout=0).train) == 9


def test_blender_layout(tmp_path):
    for split, n in (("train", 3), ("test", 2)):
        write(tmp_path, n, "RGBA", f"transforms_{split}.json", fl_x=None, w=None, h=None, camera_angle_x=0.7)
    edit(tmp_path, 0, "transforms_train.json", file_path="./images/000")
    scene = load_posed(tmp_path / "transforms_train.json")
    assert len(scene.train) == 3 and len(scene.test) == 2 and scene.val is None and scene.has_alpha
    assert scene.train.names[0] == "images/000.png"
    assert torch.allclose(scene.train.cameras.focal, torch.tensor(6 / math.tan(0.35)))
    assert torch.equal(scene.aabb, torch.tensor([-1.5] * 3 + [1.5] * 3))
    only = load_posed(tmp_path, splits=("test",), aabb=[-1, -2, -3, 1, 2, 3])
    assert only.train is None and len(only.test) == 2 and only.aabb.tolist() == [-1, -2, -3, 1, 2, 3]


def test_nerfstudio_splits_and_per_frame_intrinsics(tmp_path):
    names = [f"images/{i:03d}.png" for i in range(4)]
    write(tmp_path, 4, train_filenames=[f"./{names[3]}", names[0]], val_filenames=[names[1]], test_filenames=[names[2]])
    edit(tmp_path, 3, fl_x=20.0, fl_y=21.0, cx=1.0, k1=0.1)
    scene = load_posed(tmp_path)
    assert (scene.train.names, scene.val.names, scene.test.names) == ([names[0], names[3]], [names[1]], [names[2]])
    assert scene.train.cameras.focal.tolist() == [[10.0, 10.0], [20.0, 21.0]]
    assert scene.train.cameras.centre.tolist() == [[6.0, 4.0], [1.0, 4.0]]


def test_downscale_crops_and_scales_the_intrinsics(tmp_path):
    scene = load_posed(write(tmp_path, cx=5.0, cy=3.0), downscale=5)
    assert scene.train.images.shape == (2, 1, 2, 3)
    block = np.array(pixels(seed=1))[:5, 5:10].astype(float).mean((0, 1))
    assert np.abs(scene.train.images[0, 0, 1].numpy() - block).max() <= 0.5 + 1e-9
    assert (scene.train.cameras.width, scene.train.cameras.height) == (2, 1)
    assert torch.allclose(scene.train.cameras.centre, torch.tensor([[1.0, 0.6]]))
    assert torch.allclose(scene.train.cameras.focal, torch.tensor(2.0))


@pytest.mark.parametrize(
    ("meta", "box"),
    [
        ({}, [-1 / 0.66] * 3 + [1 / 0.66] * 3),
        ({"scale": 1.0, "offset": [0.5, 0.0, 1.0], "aabb_scale": 2}, [-1, -0.5, -1.5, 1, 1.5, 0.5]),
        ({"scale": 0.5, "offset": 0.0}, [0, 0, 0, 2, 2, 2]),
        ({"aabb": [[0, 0, 0], [4, 2, 2]]}, [0, -1, -1, 4, 3, 3]),
    ],
)
def test_instant_ngp_box(tmp_path, meta, box):
    assert np.allclose(read_listing(write(tmp_path, **meta)).aabb, box, atol=1e-5)


def test_uniformly_scaled_rotation_is_normalised(tmp_path):
    pose = np.array(POSES[1])
    pose[:3, :3] *= 2.5
    cameras = load_posed(edit(write(tmp_path), transform_matrix=pose.tolist())).train.cameras
    assert torch.allclose(cameras.c2w[0], torch.tensor(POSES[1][:3]), atol=1e-6)


# ---- kinds of image


def save(folder: Path, image: Image.Image, name: str = "images/001.png", **options) -> np.ndarray:
    """Load a one-image dataset of this image."""
    write(folder, 1, w=None, h=None)
    image.save(folder / name, **options)
    return load_posed(edit(folder, 0, file_path=name), holdout=0).train.images[0].numpy()


def test_grey_and_palette(tmp_path):
    grey = pixels().convert("L")
    expected = np.repeat(np.array(grey)[..., None], 3, -1)
    assert np.array_equal(save(tmp_path, grey), expected)
    palette = grey.convert("P")
    assert np.array_equal(save(tmp_path, palette), np.array(palette.convert("RGB")))
    assert np.array_equal(save(tmp_path, grey.point(lambda v: 255 * (v > 99)).convert("1")), 255 * (expected > 99))


def test_transparent_kinds_are_premultiplied(tmp_path):
    grey, alpha = np.array(pixels(seed=1).convert("L")), np.array(pixels(seed=2).convert("L"))
    result = save(tmp_path, Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]))
    assert np.abs(result[..., 0] - grey * (alpha / 255)).max() <= 0.5 + 1e-9
    assert np.array_equal(result[..., 3], alpha)
    colours = Image.fromarray(grey).convert("P")
    keyed = save(tmp_path, colours, transparency=int(grey[0, 0]))
    opaque = np.array(colours.convert("RGB")) * (grey != grey[0, 0])[..., None]
    assert np.array_equal(keyed[..., :3], opaque) and not keyed[0, 0].any() and keyed[..., 3].any()


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 96).astype(np.uint16).reshape(8, 12)
    result = save(tmp_path, Image.fromarray(values))
    assert np.abs(result - values[..., None] / 257).max() <= 0.5 + 1e-9


def test_cmyk_and_profile(tmp_path):
    red = save(tmp_path, Image.new("RGB", (12, 8), (255, 0, 0)).convert("CMYK"), "images/001.jpg", quality=100)
    assert red.shape == (8, 12, 3) and (np.abs(red.astype(int) - (255, 0, 0)) <= 6).all()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(save(tmp_path, pixels(), icc_profile=srgb), np.array(pixels()))
    assert np.array_equal(save(tmp_path, pixels(), icc_profile=b"no profile"), np.array(pixels()))


def test_opaque_and_transparent_images_mix(tmp_path):
    write(tmp_path, 2)
    pixels("RGBA", seed=5).save(tmp_path / "images/001.png")
    scene = load_posed(tmp_path, holdout=2)
    assert scene.has_alpha and scene.train.images.shape[-1] == 4
    assert (scene.test.images[..., 3] == 255).all()


def test_exif_orientation_is_applied_only_where_sizes_ask_for_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    stored = np.array(pixels())
    assert np.array_equal(save(tmp_path, pixels(), exif=exif), stored)  # no size declared: poses mean stored pixels
    for width, height, expected in ((12, 8, stored), (8, 12, np.rot90(stored, -1))):
        edit(tmp_path, 0, w=width, h=height)
        assert np.array_equal(load_posed(tmp_path, holdout=0).train.images[0].numpy(), expected)
    with pytest.raises(SinefieldError, match="pose file says 9x12"):
        load_posed(edit(tmp_path, 0, w=9), holdout=0)


# ---- damage


def changed(**values):
    return lambda folder: write(folder, **values)


def changed_frame(**values):
    return lambda folder: edit(write(folder), **values)


def pose(change):
    matrix = np.array(POSES[1])
    change(matrix)
    return matrix.tolist()


def replaced(content: bytes, name: str = "images/001.png"):
    return lambda folder: (write(folder) / name).write_bytes(content)


def linked(folder):
    outside = folder.parent / f"{folder.name}-outside.png"
    pixels().save(outside)
    (write(folder) / "images/001.png").unlink()
    (folder / "images/001.png").symlink_to(outside)


def truncated(folder):
    file = write(folder) / "images/001.png"
    file.write_bytes(file.read_bytes()[:-200])


def huge(width, height):
    """A PNG header that claims a size its data do not have."""

    def make(folder):
        file = write(folder, w=None, h=None) / "images/001.png"
        header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + file.read_bytes()[24:29]
        body = header + zlib.crc32(header).to_bytes(4, "big")
        file.write_bytes(file.read_bytes()[:12] + body + file.read_bytes()[33:])

    return make


DAMAGE = {
    "no folder": (lambda folder: None, "neither"),
    "empty json": (replaced(b"", "transforms.json"), "empty"),
    "syntax": (replaced(b'{\n"frames": [,]}', "transforms.json"), "line 2"),
    "not utf-8": (replaced(b"\xff\xfe\xfa", "transforms.json"), "not readable as JSON"),
    "deep json": (replaced(b"[" * 100_000, "transforms.json"), "not readable as JSON"),
    "long integer": (replaced(b'{"frames": ' + b"9" * 5000 + b"}", "transforms.json"), "not readable as JSON"),
    "list on top": (replaced(b"[1]", "transforms.json"), "top level"),
    "no frames": (changed(frames=None), "frames"),
    "zero frames": (changed(frames=[]), "non-empty"),
    "frames of numbers": (changed(frames=[1, 2]), "list of objects"),
    "no focal": (changed(fl_x=None), "fl_x"),
    "list focal": (changed(fl_x=[10.0]), r"'fl_x' is \[10.0\]"),
    "text focal": (changed(fl_x="10"), "finite number"),
    "boolean focal": (changed(fl_x=True), "finite number"),
    "nan focal": (changed(fl_x=math.nan), "finite number"),
    "huge focal": (changed(fl_x=10**400), "finite number"),
    "zero focal": (changed(fl_x=0), "focal length 0, 0; fl_x and fl_y must be"),
    "angle": (changed(fl_x=None, camera_angle_x=4.0), "radians"),
    "zero width": (changed(w=0), "image size 0x8"),
    "half pixel": (changed(h=7.5), "whole"),
    "wrong size": (changed(w=13), "pose file says 13x8"),
    "other model": (changed(camera_model="FISHEYE624"), "FISHEYE624' is not supported"),
    "orthographic": (changed(orthographic=True), "'orthographic' lenses are not supported"),
    "fisheye by its angle": (changed(fl_x=None, camera_angle_x=1.0, camera_model="OPENCV_FISHEYE"), "has no 'fl_x'"),
    "flat panorama": (changed(camera_model="EQUIRECTANGULAR"), "twice as wide as high"),
    "omega": (changed(camera_model="FOV", omega=4.0), "omega 4; it must be"),
    "model type": (changed(camera_model=["OPENCV"]), "not supported"),
    "is_fisheye": (changed(is_fisheye=True, camera_model="OPENCV"), "is_fisheye"),
    "k5": (changed_frame(k5=0.1), "OPENCV lenses have no 'k5'"),
    "p1 of a fisheye": (changed(p1=0.1, camera_model="OPENCV_FISHEYE"), "OPENCV_FISHEYE lenses have no 'p1'"),
    "text k3": (changed(k3="0.1"), "'k3' is '0.1'"),
    "nan k1": (changed(k1=math.nan), "finite number"),
    "aabb_scale": (changed(aabb_scale=-1), "positive"),
    "offset": (changed(offset=[1, 2]), "offset"),
    "aabb": (changed(aabb=[[0, 0, 0], [1, 0, 1]]), "aabb"),
    "aabb type": (changed(aabb=3), "aabb"),
    "split list": (changed(train_filenames="images/000.png"), "train_filenames"),
    "empty split": (changed(train_filenames=[]), "no usable frames"),
    "one image": (changed(n=1), "holdout 0"),
    "no path": (changed_frame(file_path=None), "file_path"),
    "path type": (changed_frame(file_path=["a"]), "file_path"),
    "null byte": (changed_frame(file_path="a\0b"), "file_path"),
    "long path": (changed_frame(file_path="a" * 5000), "looked up"),
    "absolute": (changed_frame(file_path="/etc/hostname"), "leaves the data folder"),
    "drive": (changed_frame(file_path="C:\\a.png"), "leaves the data folder"),
    "parent": (changed_frame(file_path="images/../../a.png"), "leaves the data folder"),
    "windows parent": (changed_frame(file_path="..\\a.png"), "leaves the data folder"),
    "link": (linked, "link out of the data folder"),
    "no pose": (changed_frame(transform_matrix=None), "4 rows"),
    "short pose": (changed_frame(transform_matrix=POSES[0][:2]), "4 rows"),
    "ragged pose": (changed_frame(transform_matrix=[[1, 0, 0]] * 4), "4 rows"),
    "text pose": (changed_frame(transform_matrix=[["1", 0, 0, 0]] * 4), "finite"),
    "nan pose": (changed_frame(transform_matrix=pose(lambda m: m.__setitem__((0, 3), math.nan))), "finite"),
    "inf pose": (changed_frame(transform_matrix=pose(lambda m: m.__setitem__((1, 1), math.inf))), "finite"),
    "zero pose": (changed_frame(transform_matrix=[[0] * 4] * 3), "determinant"),
    "mirror pose": (changed_frame(transform_matrix=pose(lambda m: m.__imul__([-1, 1, 1, 1]))), "mirrored"),
    "stretched pose": (changed_frame(transform_matrix=pose(lambda m: m.__imul__([1.1, 1, 1, 1]))), "orthonormal"),
    "projective pose": (changed_frame(transform_matrix=pose(lambda m: m.__setitem__((3, 0), 1))), "last row"),
    "empty image": (replaced(b""), "empty"),
    "no image": (replaced(b"not an image at all"), "001.png: cannot be read"),
    "truncated image": (truncated, "001.png: cannot be read"),
    "wide image": (huge(20000, 10), "limit of 16384"),
    "large image": (huge(12000, 12000), "limit of 16384"),
    "bomb": (huge(16384, 16384), "limit of 16384|claims far more"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_clear_line(tmp_path, name):
    damage, message = DAMAGE[name]
    damage(tmp_path)
    with pytest.raises(SinefieldError, match=message) as caught:
        load_posed(tmp_path)
    assert tmp_path.name in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_each_image_has_its_own_size(tmp_path):
    write(tmp_path, 4, w=None, h=None)
    pixels(size=(9, 12), seed=7).save(tmp_path / "images/001.png")
    scene = load_posed(edit(tmp_path, fl_x=20.0, cx=3.0), holdout=4)
    views = scene.training_views
    assert [views.cameras.size(i) for i in range(3)] == [(9, 12), (12, 8), (12, 8)]
    assert views.cameras.focal.tolist() == [[20, 20], [10, 10], [10, 10]]
    assert views.cameras.centre.tolist() == [[3, 6], [6, 4], [6, 4]]
    for index, image in enumerate([pixels(size=(9, 12), seed=7), pixels(seed=2), pixels(seed=3)]):
        assert np.array_equal(views.image(index).numpy(), np.array(image))
    assert scene.test.images.shape == (1, 8, 12, 3)
    with pytest.raises(SinefieldError, match="differ in size"):
        _ = views.images
    chosen = views[torch.tensor([False, True, True])]
    assert chosen.images.shape == (2, 8, 12, 3) and np.array_equal(chosen.images[1].numpy(), np.array(pixels(seed=3)))
    half = load_posed(tmp_path, 2, holdout=4).training_views
    assert [half.cameras.size(i) for i in range(3)] == [(4, 6), (6, 4), (6, 4)] and len(half.pixels) == 72


def test_pixels_that_a_lens_does_not_show_are_said(tmp_path):
    scene = load_posed(write(tmp_path, k1=-2.0), holdout=0)
    views, fold = scene.training_views, math.sqrt(1 / 6)
    reach = 10 * fold * (1 - 2 * fold**2)
    seen = [[math.hypot(x - 5.5, y - 3.5) < reach for x in range(12)] for y in range(8)]
    assert views.kept_of(0).tolist() == seen and 0 < np.sum(seen) < 96
    assert f"{3 * (96 - np.sum(seen))} pixels show nothing" in "\n".join(scene.notes)


def test_missing_places(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path / "transforms_train.json"):
        with pytest.raises(SinefieldError, match="no such"):
            load_posed(path)
    write(tmp_path)
    for file in (tmp_path / "images").iterdir():
        file.unlink()
    with pytest.raises(SinefieldError, match="3 lack their image file"):
        load_posed(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        {"downscale": 0},
        {"downscale": -2},
        {"downscale": 1.5},
        {"downscale": 9},
        {"holdout": -1},
        {"splits": ("training",)},
        {"aabb": [0, 0, 0, 1, 1]},
        {"aabb": [0, 0, 0, 1, 0, 1]},
        {"aabb": [0, 0, 0, 1, 1, math.nan]},
    ],
)
def test_bad_arguments(tmp_path, arguments):
    with pytest.raises((SinefieldError, TypeCheckError)):
        load_posed(write(tmp_path), **arguments)


# ---- real captures


@pytest.mark.skipif(not (DATA / "lego").exists(), reason="lego is not in SINEFIELD_DATA")
def test_lego_cameras_and_silhouettes():
    scene = load_posed(DATA / "lego", downscale=8)
    assert scene.train.images.shape == (100, 100, 100, 4) and len(scene.test) == 25 and scene.skipped == 0
    cameras = scene.train.cameras
    assert torch.allclose(cameras.c2w[:, :, 3].norm(dim=-1), torch.tensor(4.031), atol=1e-3)
    for index in (0, 50, 99):  # all look at the origin
        pixel, depth = cameras.project(index, torch.zeros(1, 3))
        assert (pixel - 50).abs().max() < 0.05 and math.isclose(depth.item(), 4.031, abs_tol=1e-3)
    # What no silhouette carves away must fill the unseen views' silhouettes: one flipped axis leaves nothing.
    axis = torch.linspace(-1.3, 1.3, 48)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    for index in range(0, 100, 3):
        pixel = cameras.project(index, points)[0].long()
        inside = ((pixel >= 0) & (pixel < 100)).all(-1)
        points, pixel = points[inside], pixel[inside]
        points = points[scene.train.images[index, pixel[:, 1], pixel[:, 0], 3] > 0]
    for index in (0, 12, 24):
        x, y = scene.test.cameras.project(index, points)[0].long().unbind(-1)
        hull = torch.zeros(100, 100, dtype=torch.bool)
        hull[y, x] = True
        mask = scene.test.images[index, ..., 3] > 0
        assert (hull & mask).sum() / mask.sum() > 0.8 and (hull & mask).sum() / hull.sum() > 0.8


@pytest.mark.skipif(not (DATA / "fox").exists(), reason="fox is not in SINEFIELD_DATA")
def test_fox_counts_and_epipolar_lines():
    from skimage.feature import ORB, match_descriptors

    scene = load_posed(DATA / "fox", downscale=8)
    assert len(scene.train) == 43 and len(scene.test) == 7 and scene.skipped == 17
    assert scene.test.names[1] == "images/0012.jpg" and scene.train.images.shape == (43, 240, 135, 3)
    cameras, features = scene.train.cameras, []
    for index in (2, 4):
        orb = ORB(n_keypoints=400)
        orb.detect_and_extract(scene.train.images[index].float().mean(-1).numpy() / 255)
        features.append((orb.keypoints[:, ::-1] + 0.5, orb.descriptors))
    (a, first), (b, second) = features
    pairs = match_descriptors(first, second, cross_check=True, max_ratio=0.75)
    assert len(pairs) >= 10
    a, b = (torch.from_numpy(points[pairs[:, i]]).float() for i, points in enumerate((a, b)))
    # A point seen in one view lies on the line that its ray draws in the other.
    rays_o, rays_d = cameras.rays(torch.full((len(a),), 2), a)
    near, far = (cameras.project(4, rays_o + t * rays_d)[0] for t in (3, 6))
    line = far - near
    distance = ((b - near)[:, 0] * line[:, 1] - (b - near)[:, 1] * line[:, 0]).abs() / line.norm(dim=-1)
    assert distance.median() < 1.0
