"""LLFF captures: known cameras, folders of reduced images, damage, and fern against its own COLMAP points."""

import io
import struct

import captures
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from sinefield.data.photographs.colmap_files import binary_cameras, binary_points
from sinefield.data.photographs.images import load_posed
from sinefield.data.photographs.listing import read_listing
from sinefield.errors import SinefieldError


def write(folder, n=10, reductions=(1,), **values):
    for k in reductions:
        size = tuple(-(-side // k) for side in captures.SIZE)
        captures.write_images(folder / ("images" if k == 1 else f"images_{k}"), captures.names(n), size)
    np.save(folder / "poses_bounds.npy", captures.llff_rows(captures.poses(n), **values))
    return folder


@pytest.mark.parametrize("order", ["C", "F"])
def test_known_cameras(tmp_path, order):
    write(tmp_path)
    rows = captures.llff_rows(captures.poses(10)).astype(np.float32 if order == "F" else np.float64)
    np.save(tmp_path / "poses_bounds.npy", np.asarray(rows, order=order))
    scene = load_posed(tmp_path)
    assert scene.test.names == ["images/view 00.png", "images/view 08.png"] and len(scene.train) == 8
    assert load_posed(tmp_path / "poses_bounds.npy", holdout=3).test.names[1] == "images/view 03.png"
    every = load_posed(tmp_path, holdout=0).train.cameras
    assert torch.allclose(every.c2w, torch.from_numpy(captures.poses(10)).float(), atol=1e-5)
    assert every.focal.unique().tolist() == [10.0] and every.centre[0].tolist() == [6.0, 4.0]
    assert read_listing(tmp_path).bounds == (2.0, 6.0)
    # The box, by walking each corner's ray until its depth is the far one.
    corners = torch.tensor([[0.0, 0.0], [12.0, 0.0], [0.0, 8.0], [12.0, 8.0]]).repeat(10, 1)
    index = torch.arange(10).repeat_interleave(4)
    rays_o, rays_d = every.rays(index, corners)
    depth = -(rays_d * every.c2w[index][:, :, 2]).sum(-1, keepdim=True)
    reached = torch.cat([rays_o, rays_o + rays_d / depth * 6])
    assert torch.allclose(scene.aabb, torch.cat([reached.min(0).values, reached.max(0).values]), atol=1e-4)


def test_the_largest_reduction_that_divides_is_taken(tmp_path):
    write(tmp_path, 3, (2, 4))
    for downscale, folder, reduction in (
        (2, "images_2", 2),
        (4, "images_4", 4),
        (6, "images_2", 2),
        (8, "images_4", 4),
    ):
        listing = read_listing(tmp_path, downscale=downscale)
        assert listing.frames["train"][0].name.startswith(f"{folder}/") and listing.reduction == reduction
    cameras = load_posed(tmp_path, 8).train.cameras
    assert (cameras.width, cameras.height) == (1, 1) and cameras.focal[0].tolist() == [1.25, 1.25]
    for downscale in (1, 3):
        with pytest.raises(SinefieldError, match=f"downscale {downscale} cannot be made from images_2, images_4"):
            load_posed(tmp_path, downscale)
    write(tmp_path, 3, (1,))
    half = load_posed(tmp_path, 3).train
    assert half.names[0].startswith("images/") and half.cameras.width == 4
    block = np.asarray(Image.open(tmp_path / half.names[0]))[:3, :3].reshape(-1, 3).mean(0)
    assert np.abs(half.images[0, 0, 0].numpy() - block).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(("folder", "times"), [("images", 4), ("images_2", 4), ("images_4", 2)])
def test_images_smaller_than_the_poses_say(tmp_path, folder, times):
    """As people share them: 504x378 in `images`, poses for 4032x3024."""
    rows = captures.llff_rows(captures.poses(4))
    captures.write_images(tmp_path / folder, captures.names(4), (12, 8))
    rows[:, 4:15:5] *= times  # height, width, focal length
    np.save(tmp_path / "poses_bounds.npy", rows)
    own = 1 if folder == "images" else int(folder[-1])
    scene = load_posed(tmp_path, own, holdout=0)
    if times == own:
        assert not scene.notes
    else:
        assert "4 poses are for images of" in scene.notes[0] and f"{times} times" in scene.notes[0]
    cameras = scene.train.cameras
    assert (cameras.width, cameras.height) == (12, 8)
    assert cameras.focal[0].tolist() == [10.0, 10.0] and cameras.centre[0].tolist() == [6.0, 4.0]


def test_images_that_are_no_whole_number_of_times_smaller(tmp_path):
    rows = captures.llff_rows(captures.poses(4))
    captures.write_images(tmp_path / "images", captures.names(4), (12, 8))
    rows[:, 4] *= 2.5
    rows[:, 9] *= 2.5
    np.save(tmp_path / "poses_bounds.npy", rows)
    with pytest.raises(SinefieldError, match="image is 12x8, but the pose file says 30x20"):
        load_posed(tmp_path)


def damaged(change=None, **values):
    """A capture with its rows changed."""

    def make(folder):
        write(folder, 3, **values)
        if change:
            rows = np.load(folder / "poses_bounds.npy")
            changed = change(rows)
            np.save(folder / "poses_bounds.npy", rows if changed is None else changed, allow_pickle=True)

    return make


def entry(index, value):
    return damaged(lambda rows: rows.__setitem__((1, index), value))


def content(change):
    def make(folder):
        file = write(folder, 3) / "poses_bounds.npy"
        file.write_bytes(change(file.read_bytes()))

    return make


def claims(shape):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return content(lambda _: stream.getvalue() + bytes(17 * 8))


def extra(folder):
    write(folder, 3)
    captures.write_images(folder / "images", ["view 99.png"])


def other_size(folder):
    write(folder, 3)
    captures.write_images(folder / "images", [captures.names(3)[1]], (12, 9))


DAMAGE = {
    "empty": (content(lambda b: b""), "empty"),
    "cut in the numbers": (content(lambda b: b[:-8]), "claims 408 bytes of numbers but has 400"),
    "cut in the header": (content(lambda b: b[:60]), "readable .npy"),
    "no npy": (content(lambda b: b"P" + b[1:]), "readable .npy"),
    "header without end": (content(lambda b: b[:8] + struct.pack("<H", 9999) + b[10:]), "readable .npy"),
    "huge claim": (claims((10**15, 17)), "claims 136000000000000000 bytes"),
    "bytes after": (content(lambda b: b + b"x"), "claims 408"),
    "pickle": (damaged(lambda rows: rows.astype(object)), "holds object"),
    "integers": (damaged(lambda rows: rows.astype(int)), "holds int64"),
    "15 columns": (damaged(lambda rows: rows[:, :15]), r"\(3, 15\)"),
    "no rows": (damaged(lambda rows: rows[:0]), r"\(0, 17\)"),
    "nan pose": (entry(3, np.nan), "row 1"),
    "mirrored": (damaged(lambda rows: rows.__setitem__((1, slice(0, 11, 5)), -rows[1, 0:11:5])), "row 1.*mirrored"),
    "two heights": (entry(4, 9), "image is 12x8, but the pose file says 12x9"),
    "no focal": (entry(14, 0), "focal length 0"),
    "zero near": (entry(15, 0), "row 1: near 0, far 6"),
    "negative near": (entry(15, -1), "near -1"),
    "far at near": (entry(16, 2), "near 2, far 2"),
    "nan near": (entry(15, np.nan), "near nan"),
    "infinite far": (entry(16, np.inf), "far inf"),
    "one spot": (
        damaged(lambda rows: rows.__setitem__((slice(None), slice(3, 14, 5)), 1.0)),
        "3 cameras stand in one spot",
    ),
    "an image more": (extra, "3 poses, but images holds 4 images"),
    "mixed sizes": (other_size, "12x9"),
    "no images": (
        lambda folder: np.save(folder / "poses_bounds.npy", captures.llff_rows(captures.poses(3))),
        "no folder 'images'",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_clear_line(tmp_path, name):
    damage, message = DAMAGE[name]
    damage(tmp_path)
    with pytest.raises(SinefieldError, match=message) as caught:
        load_posed(tmp_path)
    assert tmp_path.name in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_reduced_images_of_another_shape(tmp_path):
    captures.write_images(write(tmp_path, 3, (2,)) / "images_2", captures.names(3), (9, 4))
    with pytest.raises(SinefieldError, match="is 9x4, not 12x8 reduced 2 times"):
        load_posed(tmp_path, 2)


@pytest.fixture
def fern(data_folder):
    listing = read_listing(data_folder / "fern", holdout=0, downscale=8)
    return listing, binary_points(data_folder / "fern/sparse/0/points3D.bin")


def test_fern_agrees_with_its_sparse_points(fern, data_folder):
    """LLFF took near and far from the points COLMAP saw in each image: every pose must give them back."""
    listing, points = fern
    rows = np.load(data_folder / "fern/poses_bounds.npy")
    assert len(points) == 10091 and listing.reduction == 8 and listing.bounds == (rows[:, 15].min(), rows[:, 16].max())
    for index, frame in enumerate(listing.frames["train"]):
        seen = np.array([point for point, track in points.values() if index + 1 in track])
        depths = (frame.c2w[:, 3] - seen) @ frame.c2w[:, 2]
        assert np.allclose(np.percentile(depths, (0.1, 99.9)), rows[index, 15:], rtol=1e-9)
    (lens,) = binary_cameras(data_folder / "fern/sparse/0/cameras.bin").values()
    assert np.isclose(lens["fl_x"] / 8, listing.frames["train"][0].intrinsics(504, 378)[0], rtol=1e-9)


def test_fern_pictures_have_the_colours_of_its_sparse_points(fern, data_folder):
    _, points = fern
    scene = load_posed(data_folder / "fern", 8, holdout=0)
    raw, at, colours = (data_folder / "fern/sparse/0/points3D.bin").read_bytes(), 8, []
    for _ in points:
        colours.append(tuple(raw[at + 32 : at + 35]))
        at += 51 + 8 * struct.unpack_from("<Q", raw, at + 43)[0]
    colours = np.array(colours, dtype=float)
    xyz, cameras = torch.tensor([point for point, _ in points.values()]).float(), scene.train.cameras
    for index in (0, 11, 19):
        chosen = np.array([index + 1 in track and len(track) > 4 for _, track in points.values()])
        pixels = cameras.project(index, xyz[torch.from_numpy(chosen)])[0]
        assert ((pixels > -4) & (pixels < torch.tensor([508.0, 382.0]))).all(-1).float().mean() > 0.99
        x, y = pixels.long().clamp_min(0).unbind(-1)
        image = scene.train.images[index].double().numpy()
        error = [
            np.abs(picture[y.clamp_max(377), x.clamp_max(503)] - colours[chosen]).mean()
            for picture in (image, image[:, ::-1], image[::-1])
        ]
        assert error[0] < 0.5 * min(error[1:])


def test_fern_as_a_colmap_model(fern, data_folder, tmp_path):
    """Fern's own cameras.bin and points3D.bin; images.bin is not in the set and comes from LLFF's poses."""
    listing, points = fern
    (tmp_path / "sparse/0").mkdir(parents=True)
    (tmp_path / "images_8").symlink_to(data_folder / "fern/images_8")
    for name in ("cameras.bin", "points3D.bin"):
        (tmp_path / "sparse/0" / name).symlink_to(data_folder / "fern/sparse/0" / name)
    content = struct.pack("<Q", 20)
    for index, frame in reversed(list(enumerate(listing.frames["train"]))):  # COLMAP's order need not be sorted
        rotation = (frame.c2w[:, :3] @ np.diag([1.0, -1, -1])).T
        x, y, z, w = Rotation.from_matrix(rotation).as_quat()
        pose = struct.pack("<I7dI", index + 1, w, x, y, z, *(-rotation @ frame.c2w[:, 3]), 1)
        content += pose + f"IMG_{4026 + index}.JPG".encode() + bytes(9)
    (tmp_path / "sparse/0/images.bin").write_bytes(content)
    ours = read_listing(tmp_path, holdout=0, downscale=8)
    assert ours.skipped == ours.unposed == 0
    for a, b in zip(ours.frames["train"], listing.frames["train"], strict=True):
        assert a.name == b.name and np.allclose(a.c2w, b.c2w, atol=1e-9)
        assert np.allclose(a.intrinsics(504, 378)[:4], b.intrinsics(504, 378)[:4], rtol=1e-9)
    xyz = np.array([point for point, track in points.values() if len(set(track.tolist())) >= 3])
    inside = ((xyz >= ours.aabb[:3]) & (xyz <= ours.aabb[3:])).all(1).mean()
    assert 0.95 < inside <= 1 and len(xyz) == len(ours.points)
    assert np.allclose(ours.bounds, listing.bounds, rtol=0.1)
