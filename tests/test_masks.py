"""Masks and depths of photographs: pixels that do not count, objects' alpha, and distances along the rays."""

import json
import pickle

import captures
import numpy as np
import pytest
import torch
from PIL import Image
from small import radiance_config

from sinefield.cameras.cameras import orbit
from sinefield.data.photographs.images import load_posed
from sinefield.data.photographs.inspect import inspect
from sinefield.data.photographs.masks import Covering
from sinefield.errors import SinefieldError
from sinefield.fields.radiance.training import RadianceTask, load_scene
from sinefield.metrics.images import psnr, score_views, ssim

SIZE, FOCAL, RADIUS = 16, 20.0, 1.0


def ball(folder, n=4, key="depth_file_path", unit=1e-3, **meta):
    """n grey pictures of a grey ball, which colours tell nothing of, with the ball's depths and its masks."""
    (folder / "images").mkdir(parents=True)
    frames = []
    for index, pose in enumerate(orbit(n, radius=4.0).double().numpy()):
        distance, local = distances(pose)
        z = distance / np.linalg.norm(local, axis=-1)
        stored = np.nan_to_num(z / unit).round().astype(np.uint16)
        Image.fromarray(stored).save(folder / f"images/depth{index}.png")
        Image.fromarray((255 * np.isfinite(z)).astype(np.uint8)).save(folder / f"images/mask{index}.png")
        Image.new("RGB", (SIZE, SIZE), (128, 128, 128)).save(folder / f"images/{index}.png")
        frames.append(
            {"file_path": f"images/{index}.png", "transform_matrix": np.vstack([pose, [0, 0, 0, 1]]).tolist()}
        )
        frames[-1] |= {key: f"images/depth{index}.png"} if key else {}
    content = {"fl_x": FOCAL, "frames": frames, "aabb": [[-1.5] * 3, [1.5] * 3], **meta}
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def distances(pose):
    """How far the ball of radius 1 is along each pixel's ray, NaN beside it; and the rays, 1 deep, in the camera."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    local = np.stack([(x - SIZE / 2) / FOCAL, (SIZE / 2 - y) / FOCAL, -np.ones_like(x)], -1)
    d = local @ pose[:, :3].T
    d /= np.linalg.norm(d, axis=-1, keepdims=True)
    b = d @ pose[:, 3]
    inside = b**2 - pose[:, 3] @ pose[:, 3] + RADIUS**2
    return np.where(inside > 0, -b - np.sqrt(np.maximum(inside, 0)), np.nan), local


def named(folder, **entry):
    """Give the frames keys, {} in the values being their number."""
    content = json.loads((folder / "transforms.json").read_text())
    for index, frame in enumerate(content["frames"]):
        frame.update({key: value.format(index) for key, value in entry.items()})
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


# ---- masks


def test_black_is_ignored_an_object_or_unused(tmp_path):
    named(ball(tmp_path, key=None), mask_path="images/mask{}.png")
    hit = np.stack([np.isfinite(distances(pose)[0]) for pose in orbit(4, radius=4.0).double().numpy()])
    views = load_posed(tmp_path, holdout=0).training_views
    assert views.pixels.shape[1] == 3 and np.array_equal(torch.stack([views.kept_of(i) for i in range(4)]), hit)
    scene = load_posed(tmp_path, holdout=0, covering=Covering("object"))
    assert scene.has_alpha and scene.train.kept is None and np.array_equal(scene.train.images[..., 3] == 255, hit)
    assert not scene.train.images[~torch.from_numpy(hit)].any()
    unused = load_posed(tmp_path, holdout=0, covering=Covering("unused"))
    assert unused.train.kept is None and not unused.has_alpha and "unused" in unused.notes[0]
    notes = load_posed(tmp_path, holdout=0).notes
    assert notes[0].startswith("4 masks: black pixels are ignored")
    assert notes[1].startswith(f"{int((~hit).sum()):,} of 1,024 pixels")


def test_a_missing_mask_is_named_and_one_of_another_shape_refused(tmp_path):
    named(ball(tmp_path, key=None), mask_path="images/mask{}.png")
    (tmp_path / "images/mask2.png").unlink()
    scene = load_posed(tmp_path, holdout=0)
    assert "1 of the files are missing, 'images/mask2.png' the first" in scene.notes[0]
    assert "(1 frames have none)" in scene.notes[1] and scene.train.kept_of(2).all()
    Image.new("L", (SIZE, SIZE - 1)).save(tmp_path / "images/mask1.png")
    with pytest.raises(SinefieldError, match=r"mask1\.png: is 16x15, its image 16x16"):
        load_posed(tmp_path, holdout=0)


def test_a_block_is_kept_where_all_of_it_is(tmp_path):
    named(ball(tmp_path, key=None), mask_path="images/mask{}.png")
    mask = Image.new("L", (2 * SIZE, 2 * SIZE), 255)  # of the photographs before they were reduced
    mask.putpixel((9, 4), 0)
    mask.convert("RGB").save(tmp_path / "images/mask0.png")
    kept = load_posed(tmp_path, 2, holdout=0).training_views.kept_of(0)
    assert (~kept).nonzero().tolist() == [[1, 2]]


def test_alpha_is_ignored_where_asked(tmp_path):
    ball(tmp_path, key=None)
    picture = np.full((SIZE, SIZE, 4), 200, np.uint8)
    picture[..., 3], picture[3, 5, 3], picture[7, 1, 3] = 255, 254, 0
    Image.fromarray(picture).save(tmp_path / "images/0.png")
    scene = load_posed(tmp_path, holdout=0, covering=Covering(alpha="ignore"))
    assert not scene.has_alpha and scene.train.pixels.shape[1] == 3
    assert (~scene.train.kept_of(0)).nonzero().tolist() == [[3, 5], [7, 1]] and scene.train.kept_of(1).all()
    assert (scene.train.image(0)[scene.train.kept_of(0)] == 200).all()


@pytest.mark.parametrize("name", ["view 01.png.png", "view 01.png"])
def test_masks_of_a_colmap_model(tmp_path, name):
    captures.write_images(tmp_path / "images", captures.names(5))
    captures.write_model(tmp_path / "sparse/0", captures.poses(5))
    (tmp_path / "masks").mkdir()
    mask = np.full((8, 12), 255, np.uint8)
    mask[:3] = 0
    Image.fromarray(mask).save(tmp_path / "masks" / name)
    views = load_posed(tmp_path, holdout=0).training_views
    assert np.array_equal(views.kept_of(1), mask > 0) and views.kept_of(0).all()
    assert "36 of 480 pixels (7.5%) are ignored" in inspect(tmp_path)[1]


def test_ignored_pixels_are_not_drawn_and_not_scored(tmp_path):
    config = radiance_config(named(ball(tmp_path, 9, key=None), mask_path="images/mask{}.png"), steps=1)
    task = RadianceTask(config, load_scene(config))
    task.n_rays = 4000
    view, rays_o, rays_d, *_ = task._draw(torch.Generator().manual_seed(0))
    assert len(view.unique()) == 7  # of nine, two are test views
    through = (rays_o * rays_d).sum(1)
    assert (through**2 - (rays_o**2).sum(1) + RADIUS**2 > -1e-4).all()  # they all meet the ball


def test_scores_of_the_pixels_that_count():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(20, 24, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    kept = torch.ones(20, 24, dtype=torch.bool)
    kept[:2], kept[5, 20] = False, False
    expected = -10 * torch.log10((a - b)[kept].square().mean())
    assert float(psnr(a, b, kept)) == pytest.approx(float(expected))
    spoilt = torch.where(kept[..., None], a, 1 - a)  # whatever is there
    assert float(psnr(spoilt, b, kept)) == float(psnr(a, b, kept))
    assert float(ssim(spoilt, b, kept)) == pytest.approx(float(ssim(a, b, kept)), abs=1e-12)
    # Without the hole, what counts is all windows of the cropped picture.
    kept[5, 20] = True
    assert float(ssim(a, b, kept)) == pytest.approx(float(ssim(a[2:], b[2:])), abs=1e-12)
    nothing = torch.zeros(20, 24, dtype=torch.bool)
    scores = score_views([a, a], [(255 * b).round().to(torch.uint8)] * 2, [nothing, kept])
    assert scores["psnr_per_view"][0] is None and scores["psnr"] == scores["psnr_per_view"][1]
    with pytest.raises(SinefieldError, match="no pixel of any view"):
        score_views([a], [(255 * b).round().to(torch.uint8)], [nothing])


# ---- depths


@pytest.mark.parametrize("unit", [1e-3, 1e-4])
def test_depths_are_distances_along_the_rays(tmp_path, unit):
    meta = {} if unit == 1e-3 else {"depth_unit_scale_factor": unit}
    scene = load_posed(ball(tmp_path, unit=unit, **meta), holdout=0, depths=True)
    for index, pose in enumerate(orbit(4, radius=4.0).double().numpy()):
        ours = scene.train.distances.view(4, SIZE, SIZE)[index].numpy()
        truth, _ = distances(pose)
        assert np.array_equal(np.isfinite(ours), np.isfinite(truth))
        assert np.nanmax(np.abs(ours - truth)) < unit  # half a unit, and a slope
    assert f"a stored 1 is {unit:g} world units" in scene.notes[-1]
    named = load_posed(tmp_path, holdout=0)
    assert named.train.distances is None and "training.depth_weight 0 leaves unused" in named.notes[-1]


def test_arrays_and_smaller_depths(tmp_path):
    named(ball(tmp_path, depth_unit_scale_factor=1.0), depth_file_path="images/{}.npy")
    values = np.arange(1, 65, dtype=np.float32).reshape(8, 8)
    values[0, 0], values[0, 1], values[0, 2] = np.inf, np.nan, -1
    for index in range(4):
        np.save(tmp_path / f"images/{index}.npy", values[..., None] if index else values)
    ours = load_posed(tmp_path, holdout=0, depths=True).training_views.distances.view(4, SIZE, SIZE)
    _, local = distances(np.eye(3, 4))
    expected = np.where(np.isfinite(values) & (values > 0), values, np.nan).repeat(2, 0).repeat(2, 1)
    expected = expected * np.linalg.norm(local, axis=-1)
    assert np.allclose(ours.numpy(), expected, equal_nan=True, rtol=1e-6)


def claiming(header: str) -> bytes:
    return b"\x93NUMPY\x01\x00\x76\x00" + header.ljust(118).encode() + bytes(16)


BAD = {
    "pickle.npy": pickle.dumps([1]),
    "objects.npy": claiming("{'descr': '|O', 'fortran_order': False, 'shape': (2, 2)}"),
    "huge.npy": claiming("{'descr': '<f8', 'fortran_order': False, 'shape': (99999, 99999)}"),
    "no.png": b"not a picture",
}


@pytest.mark.parametrize("name", BAD)
def test_other_depth_files_are_one_line(tmp_path, name):
    named(ball(tmp_path), depth_file_path=name)
    (tmp_path / name).write_bytes(BAD[name])
    with pytest.raises(SinefieldError, match=name) as caught:
        load_posed(tmp_path, holdout=0, depths=True)
    assert "\n" not in str(caught.value)


def test_depths_of_another_shape_or_in_colour_are_refused(tmp_path):
    named(ball(tmp_path), depth_file_path="images/mask{}.png")
    Image.new("L", (SIZE, SIZE // 2)).save(tmp_path / "images/mask1.png")
    with pytest.raises(SinefieldError, match=r"mask1\.png: is 16x8, its image 16x16"):
        load_posed(tmp_path, holdout=0, depths=True)
    Image.new("RGB", (SIZE, SIZE)).save(tmp_path / "images/mask1.png")
    with pytest.raises(SinefieldError, match="mode RGB"):
        load_posed(tmp_path, holdout=0, depths=True)


def test_a_field_learns_from_depths_what_colours_do_not_tell(tmp_path):
    def error(weight: float) -> float:
        """Mean error of distances, over the pixels that show the ball."""
        config = radiance_config(tmp_path, steps=25, depth_weight=weight, batch=2048)
        config.data.holdout = 100
        task, scene = RadianceTask(config, load_scene(config)), load_posed(tmp_path, holdout=100, depths=True)
        rate = torch.optim.Adam(task.field.parameters(), lr=5e-3)
        for step in range(25):
            rate.zero_grad()
            task.step(step, torch.Generator().manual_seed(step))
            rate.step()
        truth = scene.training_views.distances.view(-1, SIZE * SIZE)
        away = []
        for index in range(len(truth)):
            pixels = task.field.render(*scene.training_views.cameras.view(index))
            away.append((pixels.depths - truth[index])[truth[index].isfinite()].abs())
        return float(torch.cat(away).mean())

    ball(tmp_path, 6)
    without, learned = error(0.0), error(1.0)
    assert learned < without / 2, (learned, without)


def test_a_weight_without_depths_is_refused(tmp_path):
    config = radiance_config(ball(tmp_path, key=None), steps=1, depth_weight=0.1)
    config.data.holdout = 100
    with pytest.raises(SinefieldError, match="no training view has depths"):
        RadianceTask(config, load_scene(config))
