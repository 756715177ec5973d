"""Captures as they come from other people's machines: what is guessed is said, and what is read is right."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sinefield.commands.cli import main
from sinefield.data.photographs.images import load_posed
from sinefield.data.photographs.inspect import inspect
from sinefield.errors import SinefieldError

SIDE = 16


def pose(index: int, count: int) -> np.ndarray:
    """A camera at 3 units from the origin, looking at it; OpenGL."""
    angle = 2 * np.pi * index / count
    back = np.array([np.cos(angle), np.sin(angle), 0.3])
    back /= np.linalg.norm(back)
    right = np.cross([0, 0, 1.0], back)
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3] = np.column_stack([right, np.cross(back, right), back, 3 * back])
    return matrix


def capture(folder: Path, count: int = 5, size: tuple[int, int] = (SIDE, SIDE), ending: str = "png", **more) -> dict:
    """Photographs of which each has a grey of its own, and what transforms.json is to say of them."""
    (folder / "images").mkdir(parents=True)
    frames = []
    for index in range(count):
        name = f"images/{index:03}.{ending}"
        Image.new("RGB", size, (40 * index, 0, 0)).save(folder / name)
        frames.append({"file_path": name, "transform_matrix": pose(index, count).tolist()})
    meta = {"w": size[0], "h": size[1], "fl_x": 1.2 * size[0], "aabb": [[-1, -1, -1], [1, 1, 1]], "frames": frames}
    return meta | more


def write(folder: Path, meta: dict) -> Path:
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


@pytest.mark.parametrize(
    "moved",
    [
        "/data/my_capture/images/{}",
        "C:\\Users\\me\\capture\\images\\{}",
        "C:/capture/{}",
        "../../elsewhere/{}",
        "/only/the/name/is/right/{}",
    ],
)
def test_paths_of_another_machine_are_found_by_name(tmp_path, moved):
    meta = capture(tmp_path)
    for frame in meta["frames"]:
        frame["file_path"] = moved.format(Path(frame["file_path"]).name)
    scene = load_posed(write(tmp_path, meta), holdout=0)
    assert scene.train is not None
    assert [int(image[0, 0, 0]) for image in scene.train.images] == [0, 40, 80, 120, 160]
    assert "5 file paths lead elsewhere" in scene.notes[0]
    assert inspect(tmp_path)[0]["notes"] == list(scene.notes)


def test_nothing_outside_the_folder_is_opened(tmp_path):
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "secret.png")
    meta = capture(tmp_path / "capture")
    for frame in meta["frames"]:
        frame["file_path"] = "../secret.png"
    with pytest.raises(SinefieldError, match="leaves the data folder"):
        load_posed(write(tmp_path / "capture", meta))
    (tmp_path / "capture" / "images" / "secret.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(SinefieldError, match="link out of the data folder"):
        load_posed(tmp_path / "capture")


@pytest.mark.parametrize(("written", "there"), [("images/{:03}.jpg", "png"), ("images/{:03}.PNG", "png")])
def test_another_ending_or_case_is_said(tmp_path, written, there):
    meta = capture(tmp_path, ending=there)
    for index, frame in enumerate(meta["frames"]):
        frame["file_path"] = written.format(index)
    scene = load_posed(write(tmp_path, meta), holdout=0)
    assert scene.train is not None and len(scene.train) == 5
    assert "under another name or ending" in scene.notes[0]
    # Two files of that stem: nobody knows which is meant.
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "images" / "000.webp")
    assert load_posed(tmp_path, holdout=0).skipped == 1


def test_lists_that_match_nothing_say_so(tmp_path):
    meta = capture(tmp_path, train_filenames=["rgb/000.png"], test_filenames=[])
    with pytest.raises(SinefieldError, match="'train_filenames' names no frame"):
        load_posed(write(tmp_path, meta))
    meta |= {"train_filenames": [f"/other/place/images/{index:03}.png" for index in range(5)]}
    scene = load_posed(write(tmp_path, meta))
    assert scene.train is not None and len(scene.train) == 5
    assert "scores are of training views" in scene.notes[0]


def test_masks_are_used_and_missing_depths_are_named(tmp_path, capsys):
    meta = capture(tmp_path)
    (tmp_path / "masks").mkdir()
    for index, frame in enumerate(meta["frames"]):
        frame |= {"mask_path": f"masks/{index}.png", "depth_file_path": f"depths/{index}.png"}
        Image.new("L", (SIDE, SIDE)).save(tmp_path / "masks" / f"{index}.png")
    assert main(["inspect", str(write(tmp_path, meta))]) == 0
    told = capsys.readouterr().out
    pixels = 5 * SIDE * SIDE
    assert "5 masks: black pixels are ignored" in told and f"{pixels:,} of {pixels:,} pixels (100.0%)" in told
    assert "5 of the files are missing, 'depths/0.png' the first" in told


def test_a_set_is_turned_alike(tmp_path):
    meta = capture(tmp_path, size=(24, 16), ending="jpg")
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :, 0] = 250  # red above
    for index, orientation in enumerate([3, 6, 3, 8, 1]):
        turn = {1: 0, 3: 2, 6: 1, 8: -1}[orientation]  # by quarters against the clock, undone by a viewer
        image, exif = Image.fromarray(np.ascontiguousarray(np.rot90(upright, turn))), Image.Exif()
        exif[0x0112] = orientation
        image.save(tmp_path / "images" / f"{index:03}.jpg", exif=exif, quality=95)
    scene = load_posed(write(tmp_path, meta), holdout=0)
    assert scene.train is not None
    red = scene.train.images[..., 0].float()
    assert (red[:, :6].mean(dim=(1, 2)) > 200).all() and (red[:, 10:].mean(dim=(1, 2)) < 50).all()
    assert "EXIF orientation" in scene.notes[0]


def test_an_orientation_that_is_not_applied_is_said(tmp_path):
    meta = capture(tmp_path, size=(24, 16), ending="jpg")
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (24, 16)).save(tmp_path / "images" / "001.jpg", exif=exif)
    assert load_posed(write(tmp_path, meta), holdout=0).notes == (
        "1 images have an EXIF orientation, which is not applied: their size is that of the poses without",
    )


CAMERAS = "1 PINHOLE 16 16 20 20 8 8\n{}"
OTHERS = ["2 EUCM 16 16 20 20 8 8 0 0\n", "2 RAD_TAN_THIN_PRISM_FISHEYE 16 16" + " 1" * 16 + "\n"]


def colmap(folder: Path, cameras: str) -> None:
    folder.mkdir(parents=True)
    (folder / "cameras.txt").write_text(cameras)
    lines = [f"{i + 1} 1 0 0 0 {0.2 * i} 0 0 1 {i:03}.png\n\n" for i in range(5)]
    (folder / "images.txt").write_text("".join(lines))
    points = [f"{i + 1} {0.1 * (i % 3)} {0.1 * (i // 3)} {3 + i % 2} 0 0 0 1 1 0 2 0 3 0\n" for i in range(12)]
    (folder / "points3D.txt").write_text("".join(points))


@pytest.mark.parametrize(
    "place", ["sparse/0", "sparse", "colmap/sparse/0", "colmap_sparse/0", "distorted/sparse/0", "colmap"]
)
def test_models_are_found_where_programs_leave_them(tmp_path, place):
    capture(tmp_path)
    colmap(tmp_path / place, CAMERAS.format(""))
    scene = load_posed(tmp_path, holdout=0)
    assert scene.train is not None and len(scene.train) == 5
    assert len(load_posed(tmp_path / place, holdout=0).training_views) == 5


@pytest.mark.parametrize("other", OTHERS)
def test_cameras_that_no_image_has_may_be_of_any_model(tmp_path, other):
    capture(tmp_path)
    colmap(tmp_path / "sparse" / "0", CAMERAS.format(other))
    assert len(load_posed(tmp_path, holdout=0).training_views) == 5
    images = (tmp_path / "sparse" / "0" / "images.txt").read_text()
    (tmp_path / "sparse" / "0" / "images.txt").write_text(images.replace("1 004.png", "2 004.png"))
    with pytest.raises(SinefieldError, match=r"camera model .* is not supported"):
        load_posed(tmp_path)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("cameras.xml", "Metashape"),
        ("poses.csv", "RealityCapture"),
        ("keyframes/cameras/1.json", "Polycam"),
        ("EXR_RGBD/rgb/0.jpg", "Record3D"),
        ("meta_data.json", "sdfstudio"),
    ],
)
def test_formats_that_are_not_read_are_named(tmp_path, file, says):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("x")
    (tmp_path / "metadata").write_text("{}")
    for path in (tmp_path, *([tmp_path / file] if "/" not in file else [])):
        with pytest.raises(SinefieldError, match=f"{says}.* is not read; ") as caught:
            load_posed(path)
        assert "\n" not in str(caught.value)
    # What is read goes first.
    write(tmp_path, capture(tmp_path))
    assert len(load_posed(tmp_path, holdout=0).training_views) == 5
