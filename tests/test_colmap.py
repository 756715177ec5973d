"""COLMAP models written by tests/captures.py: round trips of cameras and observations, folders, damage."""

import struct

import captures
import numpy as np
import pytest
import torch

from sinefield.data.photographs.colmap import read_model
from sinefield.data.photographs.images import load_posed
from sinefield.data.photographs.listing import read_listing
from sinefield.errors import SinefieldError


def write(folder, n=5, where="sparse/0", images="images", **options):
    captures.write_images(folder / images, options.get("files") or captures.names(n))
    captures.write_model(folder / where, captures.poses(n), **options)
    return folder


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
@pytest.mark.parametrize("model", [name for name in captures.PARAMETERS if name != "EUCM"])
def test_known_points_land_where_they_were_seen(tmp_path, model, text):
    scene = load_posed(write(tmp_path, model=model, text=text), holdout=0)
    cameras = scene.train.cameras
    assert scene.train.names[1] == "images/view 01.png" and scene.skipped == scene.unposed == 0
    assert torch.allclose(cameras.c2w, torch.from_numpy(captures.poses(5)).float(), atol=1e-5)
    for index, pose in enumerate(captures.poses(5)):
        pixels = cameras.project(index, torch.from_numpy(captures.POINTS).float())[0]
        assert np.abs(pixels.numpy() - captures.observe(pose, model)).max() < 1e-4


def test_both_formats_say_the_same(tmp_path):
    first, second = (read_model(captures.write_model(tmp_path / str(t), captures.poses(4), text=t)) for t in (0, 1))
    assert first.lenses == second.lenses and list(first.images) == list(second.images) == [7, 9, 11, 13]
    assert np.array_equal(first.points, second.points) and np.array_equal(first.points, captures.POINTS)
    assert all(np.array_equal(a, b) for a, b in zip(first.tracks, second.tracks, strict=True))
    assert first.tracks[0].tolist() == [7, 9, 11, 13]


@pytest.mark.parametrize("where", ["sparse/0", "sparse", ".", "sparse/1"])
def test_places_of_model_and_images(tmp_path, where):
    write(tmp_path, 10, where)
    for path in (tmp_path, tmp_path / where, tmp_path / where / "cameras.bin"):
        scene = load_posed(path)
        assert scene.test.names == ["images/view 00.png", "images/view 08.png"] and len(scene.train) == 8


def test_box_and_depths_come_from_the_points(tmp_path, monkeypatch):
    outlier = np.concatenate([captures.POINTS, [[0.1, 0.2, 0.9]]])
    monkeypatch.setattr(captures, "POINTS", outlier)
    listing = read_listing(write(tmp_path, model="PINHOLE"))
    ordered = np.sort(outlier, 0)  # of 41 points, 1 % lies 0.4 of the way from the first to the second
    low, high = 0.6 * ordered[0] + 0.4 * ordered[1], 0.6 * ordered[-1] + 0.4 * ordered[-2]
    margin = 0.05 * (high - low).max()
    assert np.allclose(listing.aabb, [*(low - margin), *(high + margin)])
    depths = np.sort([(p[:, 3] - x) @ p[:, 2] for p in captures.poses(5) for x in outlier])
    near, far = listing.bounds
    assert depths[0] < near < depths[1] and depths[-2] < far < depths[-1]
    assert np.allclose(listing.points, outlier)


def test_points_that_two_views_see_do_not_count(tmp_path):
    write(tmp_path / "one", 1)
    with pytest.raises(SinefieldError, match="too few sparse points"):
        load_posed(tmp_path / "one", holdout=0)
    write(tmp_path, 2)
    scene = load_posed(tmp_path, aabb=[-1, -1, -1, 1, 1, 1])
    assert read_listing(tmp_path).bounds is None and len(scene.train) == 1
    twice = struct.pack("<QIIII", 4, 7, 0, 9, 0) + struct.pack("<IIII", 7, 1, 9, 1)  # two views, each listed twice
    content = struct.pack("<Q", 40)
    for index, point in enumerate(captures.POINTS):
        content += struct.pack("<Q3d3Bd", index, *point, 1, 2, 3, 0.5) + twice
    (tmp_path / "sparse/0/points3D.bin").write_bytes(content)
    assert read_listing(tmp_path).aabb is None
    write(tmp_path, 5)
    (tmp_path / "sparse/0/points3D.bin").unlink()
    assert read_listing(tmp_path).aabb is None


def test_missing_and_unregistered_images_are_counted(tmp_path):
    write(tmp_path)
    (tmp_path / "images/view 01.png").unlink()
    captures.write_images(tmp_path / "images", ["later.png", "other/later.png"])
    scene = load_posed(tmp_path, holdout=2)
    assert scene.test.names == ["images/view 00.png", "images/view 03.png"] and len(scene.train) == 2
    assert scene.skipped == 1 and scene.unposed == 2


def test_reduced_images_rounded_up_and_renamed(tmp_path):
    files = [f"left/IMG {index:03d}.JPG" for index in range(5)]
    captures.write_model(tmp_path / "sparse/0", captures.poses(5), "PINHOLE", files=files, size=(13, 9))
    for size, reduced in (((7, 5), [f"image{i:03d}.png" for i in range(5)]), ((6, 4), [f[:-3] + "png" for f in files])):
        captures.write_images(tmp_path / "images_2", reduced, size)
        scene = load_posed(tmp_path, 2, holdout=0)
        assert scene.train.names == [f"images_2/{name}" for name in reduced]
        cameras = scene.train.cameras
        assert (cameras.width, cameras.height) == size
        scale = torch.tensor([size[0] / 13, size[1] / 9])
        assert torch.allclose(cameras.focal[0], torch.tensor([10.0, 11.0]) * scale)
        assert torch.allclose(cameras.centre[0], torch.tensor([6.5, 4.0]) * scale)
        assert torch.allclose(cameras.c2w, torch.from_numpy(captures.poses(5)).float(), atol=1e-5)
        for name in reduced:
            (tmp_path / "images_2" / name).unlink()


def test_two_models_are_listed_and_one_can_be_named(tmp_path):
    write(tmp_path, 5)
    write(tmp_path, 3, "sparse/1", text=True)
    with pytest.raises(SinefieldError, match=r"sparse: holds 2 models: 0 \(5 images\), 1 \(3 images\)"):
        load_posed(tmp_path)
    scene = load_posed(tmp_path / "sparse/1", holdout=0)
    assert len(scene.train) == 3 and scene.unposed == 2


def test_the_kind_is_chosen_by_what_is_there(tmp_path):
    with pytest.raises(
        SinefieldError,
        match=r"neither transforms\*.json nor poses_bounds.npy nor cameras_sphere.npz nor a COLMAP model",
    ):
        load_posed(tmp_path)
    captures.write_images(tmp_path / "images", captures.names(5))
    with pytest.raises(SinefieldError) as caught:
        load_posed(tmp_path)
    assert f"sinefield poses {tmp_path}" in str(caught.value)
    write(tmp_path)
    assert read_listing(tmp_path).source == tmp_path / "sparse/0"
    np.save(tmp_path / "poses_bounds.npy", captures.llff_rows(captures.poses(5)))
    assert read_listing(tmp_path).source.name == "poses_bounds.npy"
    (tmp_path / "transforms.json").write_text("{}")
    with pytest.raises(SinefieldError, match=r"transforms\.json"):
        read_listing(tmp_path)


# ---- damage


def change(name, edit, **options):
    """A model one of whose files is changed, as bytes or as text."""

    def make(folder):
        file = write(folder, **options) / "sparse/0" / name
        file.write_bytes(edit(file.read_bytes()))

    return make


def replace(name, old, new, **options):
    def edit(content):
        assert content.count(old) >= 1
        return content.replace(old, new, 1)

    return change(name, edit, text=name.endswith(".txt"), **options)


def put(name, at, layout, *values):
    size = struct.calcsize("<" + layout)
    return change(name, lambda b: b[:at] + struct.pack("<" + layout, *values) + b[at + size :])


def without(name):
    return lambda folder: (write(folder) / "sparse/0" / name).unlink()


def one_spot(folder):
    write(folder)
    poses = captures.poses(5)
    poses[:, :, 3] = [0.0, 0.0, 4.0]
    poses[:, :, :3] = np.eye(3)
    captures.write_model(folder / "sparse/0", poses)


def behind(folder):
    """Every camera turned round, as a wrong axis convention does."""
    write(folder)
    file = folder / "sparse/0/images.bin"
    model = read_model(folder / "sparse/0")
    content = file.read_bytes()
    for image in model.images.values():
        at = content.index(image.name.encode()) - 60
        w, x, y, z, a, b, c = struct.unpack_from("<7d", content, at)
        content = content[:at] + struct.pack("<7d", -y, z, w, -x, -a, b, -c) + content[at + 56 :]  # half a turn about y
    file.write_bytes(content)


def sizes(folder):
    write(folder)
    captures.write_images(folder / "images", [captures.names(5)[2]], (12, 9))


def nothing_left(folder):
    captures.write_images(folder / "images", ["a.png", "b.png"])
    captures.write_model(folder / "sparse/0", captures.poses(5))


IMAGE = 8 + 64 + 12  # where the first image's name ends in images.bin, with its 0 yet to come: "view 00.png" is 11 long
DAMAGE = {
    "no images.bin": (without("images.bin"), "has no images.bin"),
    "no cameras.bin": (without("cameras.bin"), "has no cameras.bin"),
    "empty": (change("images.bin", lambda b: b""), "empty"),
    "cameras cut": (change("cameras.bin", lambda b: b[:-4]), "cameras.bin.*truncated"),
    "images cut": (change("images.bin", lambda b: b[:-4]), "images.bin.*truncated"),
    "images cut in a name": (
        change("images.bin", lambda b: struct.pack("<Q", 1) + b[8:72] + b"view 00.png"),
        "truncated",
    ),
    "points cut": (change("points3D.bin", lambda b: b[:-4]), "points3D.bin.*truncated"),
    "count cut": (change("points3D.bin", lambda b: b[:5]), "points3D.bin.*truncated"),
    "huge count": (put("images.bin", 0, "Q", 2**63), "claims 9223372036854775808 entries"),
    "huge observations": (put("images.bin", IMAGE, "Q", 2**40), "claims 1099511627776 entries"),
    "huge track": (put("points3D.bin", 8 + 43, "Q", 2**60), "claims 1152921504606846976 entries"),
    "bytes after": (change("cameras.bin", lambda b: b + b"x"), "1 bytes after"),
    "no images": (change("images.bin", lambda b: bytes(8)), "no image is registered"),
    "other model": (
        lambda f: write(f, model="EUCM"),
        "camera 3: camera model EUCM .*image_undistorter",
    ),
    "other model text": (lambda f: write(f, model="EUCM", text=True), "EUCM .*image_undistorter"),
    "unknown model": (put("cameras.bin", 12, "i", -1), "number -1"),
    "zero width": (put("cameras.bin", 16, "Q", 0), "not positive"),
    "other width": (put("cameras.bin", 16, "Q", 13), "pose file says 13x8"),
    "negative focal": (put("cameras.bin", 32, "d", -1.0), "not positive"),
    "nan focal": (put("cameras.bin", 32, "d", np.nan), "finite parameters"),
    "other camera": (put("images.bin", 8 + 60, "I", 9), "camera 9 is not listed"),
    "nan pose": (put("images.bin", 12 + 32, "d", np.inf), "image 7: its pose"),
    "zero quaternion": (put("images.bin", 12, "4d", 0, 0, 0, 0), "image 7: its pose"),
    "twice": (put("images.bin", 8, "I", 9), "image 9: is listed twice"),
    "nan point": (put("points3D.bin", 16, "d", np.nan), "not finite"),
    "name": (replace("images.bin", b"view 00.png", b"../v 00.png"), "leaves the data folder"),
    "no name": (replace("images.bin", b"view 00.png\0", b" \0"), "file_path"),
    "negative number": (replace("images.txt", b"\n7 ", b"\n-7 "), "number -7 is out of range"),
    "text camera cut": (replace("cameras.txt", b" 0.003 -0.004", b""), "needs 8 finite"),
    "text camera word": (replace("cameras.txt", b" 12 8 ", b" 12 x "), "line 3"),
    "text images cut": (
        change("images.txt", lambda b: b[: len(b) // 2], text=True),
        "images.txt.*(cut|copy|truncated)",
    ),
    "text images at a line": (
        change("images.txt", lambda b: b"\n".join(b.split(b"\n")[:5]), text=True),
        "has 2 images of 5",
    ),
    "text image short": (replace("images.txt", b" 3 view 00.png", b""), "line 2"),
    "text points cut": (change("points3D.txt", lambda b: b[:-4], text=True), "line 41"),
    "text points at a line": (change("points3D.txt", lambda b: b[: b.index(b"\n120 ")], text=True), "20 points of 40"),
    "text in no code": (change("points3D.txt", lambda b: b"\xff\xfe\xfa", text=True), "not readable as text"),
    "one spot": (one_spot, "5 cameras stand in one spot"),
    "turned round": (behind, "every point lies behind"),
    "mixed sizes": (sizes, "12x9"),
    "other images": (nothing_left, "no usable frames .5 lack their image file"),
    "no folder of images": (lambda f: captures.write_model(f / "sparse/0", captures.poses(5)), "no folder 'images'"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_clear_line(tmp_path, name):
    damage, message = DAMAGE[name]
    damage(tmp_path)
    with pytest.raises(SinefieldError, match=message) as caught:
        load_posed(tmp_path)
    assert tmp_path.name in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
def test_every_truncation_is_noticed(tmp_path, name):
    file = write(tmp_path, 3) / "sparse/0" / name
    whole = file.read_bytes()
    for size in range(1, len(whole), 1 if len(whole) < 100 else 37):
        file.write_bytes(whole[:size])
        with pytest.raises(SinefieldError, match=name):
            read_model(tmp_path / "sparse/0")
