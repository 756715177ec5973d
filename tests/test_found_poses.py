"""`sinefield poses` by pycolmap: drawn photographs come back to the cameras that they were drawn from."""

import json
import re

import numpy as np
import pytest
import textured
from PIL import Image

from sinefield.commands.cli import main
from sinefield.data.photographs.images import load_posed
from sinefield.data.photographs.poses import Search, find_poses
from sinefield.data.photographs.prepared import find_photographs, write_upright
from sinefield.errors import SinefieldError

pycolmap = pytest.importorskip("pycolmap")
ONE = Search(threads=1)
ARC = textured.arc(12)


def found(folder):
    return load_posed(folder, holdout=0).train.cameras.c2w.double().numpy()


@pytest.fixture(scope="module")
def corner(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corner")
    textured.write_photographs(folder, ARC)
    return folder


@pytest.mark.slow
def test_cameras_are_found_where_they_stood(corner, tmp_path, capsys):
    out = tmp_path / "scene"
    (corner / "notes.png").write_text("no picture")
    Image.new("RGB", (90, 70)).save(corner / "small.png")
    assert main(["poses", str(corner), "--out", str(out), "--threads", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name in ("notes.png", "small.png"):
        (corner / name).unlink()
    assert (report["images"], report["registered"], report["matching"]) == (14, 12, "exhaustive")
    assert sorted(report["left_out"]) == ["notes.png", "small.png"] and report["unplaced"] == []
    assert 10 < report["angle"] < 60
    place, turn = textured.misplacement(found(out), ARC)
    assert place < 0.005 and turn < 1.0
    assert load_posed(out).train.cameras.focal[0, 0] == pytest.approx(textured.FOCAL, rel=0.02)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scene"]
    assert sorted(path.name for path in out.iterdir()) == ["images", "sparse"]
    with pytest.raises(SinefieldError, match="already; use --overwrite"):
        find_poses(corner, ONE, out)


@pytest.mark.slow
def test_turned_photographs_stand_upright(tmp_path):
    """Half the camera's photographs are stored on their side, as a phone does, with masks that are stored so too."""
    folder = tmp_path / "phone"
    (folder / "masks").mkdir(parents=True)
    for index, pose in enumerate(ARC):
        image = Image.fromarray(textured.photograph(pose))
        image.save(folder / f"{index:02d}.png")
        if index % 2:
            exif = Image.Exif()
            exif[0x0112] = 6
            image.rotate(90, expand=True).save(folder / f"{index:02d}.png", exif=exif)
    mask = np.full(textured.SIZE[::-1], 255, np.uint8)
    mask[:, :20] = 0
    Image.fromarray(mask).save(folder / "masks" / "00.png")
    with pytest.raises(SinefieldError, match="6 are turned by their EXIF orientation of 12 photographs; give --out"):
        find_poses(folder, ONE)
    assert find_poses(folder, ONE, tmp_path / "scene")["registered"] == 12
    place, turn = textured.misplacement(found(tmp_path / "scene"), ARC)
    assert place < 0.005 and turn < 1.0
    # The masks lie beside the copies, where training looks for them.
    views = load_posed(tmp_path / "scene", holdout=0).train
    index = views.names.index("images/00.png")
    assert np.array_equal(views.kept_of(index).numpy(), mask > 0)
    assert views.kept_of(1 - index).all()


@pytest.mark.slow
def test_masks_hide(corner, tmp_path):
    """Where masks hide all but a corner of each photograph, no feature is found outside it."""
    folder = tmp_path / "masked"
    (folder / "masks").mkdir(parents=True)
    for file in corner.glob("*.png"):
        (folder / file.name).write_bytes(file.read_bytes())
        mask = np.zeros(textured.SIZE[::-1], np.uint8)
        mask[:, :150] = 255
        Image.fromarray(mask).save(folder / "masks" / f"{file.name}.png")
    find_poses(folder, ONE)
    model = pycolmap.Reconstruction(folder / "sparse" / "0")
    seen = np.concatenate([[point.xy for point in image.points2D] for image in model.images.values()])
    assert len(seen) > 500 and 140 < seen[:, 0].max() < 151
    Image.new("L", (20, 20), 255).save(folder / "masks" / "00.png.png")
    with pytest.raises(SinefieldError, match="is 20x20, its photograph 240x180"):
        find_poses(folder, ONE, overwrite=True)


def test_heic_is_converted(tmp_path):
    pytest.importorskip("pillow_heif").register_heif_opener(thumbnails=False)
    for index, pose in enumerate(ARC[:2]):
        Image.fromarray(textured.photograph(pose)).save(tmp_path / f"{index}.HEIC", quality=90)
    photographs = find_photographs(tmp_path)
    assert write_upright(photographs, tmp_path / "copies") == ["0.jpg", "1.jpg"]
    copy, drawn = Image.open(tmp_path / "copies" / "1.jpg"), Image.fromarray(textured.photograph(ARC[1]))
    difference = np.asarray(copy.reduce(6), float) - np.asarray(drawn.reduce(6), float)
    assert np.abs(difference).mean() < 4


def one_spot(folder):
    textured.write_photographs(folder, textured.spin(7))


def two_places(folder):
    for seed, (count, prefix) in enumerate(((5, "a"), (4, "b"), (4, "c"))):
        textured.write_photographs(folder, textured.arc(12)[3 : 3 + count], seed, prefix)


def nothing_shared(folder):
    for index in range(5):
        textured.write_photographs(folder, ARC[index : index + 1], index, f"view{index}-")


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (one_spot, "one spot; walk around the scene"),
        (two_places, r"do not hang together: of 13, groups of 5, 4, 4 were placed, the largest with a"),
        (nothing_shared, "none of 5 photographs could be placed; take more that overlap"),
    ],
)
def test_what_cannot_be_placed_is_one_line(tmp_path, capsys, write, said):
    write(tmp_path / "photos")
    before = sorted(tmp_path.rglob("*"))
    assert main(["poses", str(tmp_path / "photos"), "--threads", "1"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert re.search(said, lines[0])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_the_same_again(tmp_path):
    corner = tmp_path / "corner"
    textured.write_photographs(corner, ARC[3:8])
    for name in ("first", "second"):
        find_poses(corner, ONE, tmp_path / name)
    np.testing.assert_array_equal(found(tmp_path / "first"), found(tmp_path / "second"))


def test_where_copies_go(corner, tmp_path):
    for out, said in ((corner / "in", "must lie beside"), (corner, "must lie beside"), (tmp_path, "something other")):
        (tmp_path / "mine").write_text("x")
        with pytest.raises(SinefieldError, match=said):
            find_poses(corner, ONE, out)
    assert (tmp_path / "mine").read_text() == "x"


def test_settings_are_checked(corner):
    for given in ({"matching": "all"}, {"program": "meshroom"}, {"threads": 0}, {"seed": -1}):
        with pytest.raises(SinefieldError, match=f"--{next(iter(given))} .*[:]"):
            Search(**given)
