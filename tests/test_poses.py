"""`sinefield poses` with a stand-in for COLMAP; and COLMAP itself where it is installed."""

import json
import shutil
import sys

import captures
import numpy as np
import pytest

from sinefield.commands.cli import main
from sinefield.data.photographs.images import load_posed
from sinefield.data.photographs.poses import Search, find_poses
from sinefield.errors import SinefieldError

STAND_IN = """#!{python}
import shutil, sys
arguments = dict(zip(sys.argv[2::2], sys.argv[3::2]))
assert sys.argv[1] == "automatic_reconstructor" and arguments["--dense"] == "0" and arguments["--single_camera"] == "1"
assert arguments["--data_type"] == "individual" and arguments["--num_threads"] == "-1"
for i in range(5):
    print(f"I2025 feature_extraction.cc:245] Processed file [{{i + 1}}/5]", flush=True)
{then}
"""


@pytest.fixture
def photographs(tmp_path):
    captures.write_images(tmp_path / "photos" / "images", captures.names(5))
    return tmp_path / "photos"


def install(tmp_path, monkeypatch, then):
    """A program named colmap, first in the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "colmap"
    program.write_text(STAND_IN.format(python=sys.executable, then=then))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_the_largest_model_is_kept(photographs, tmp_path, monkeypatch, capsys):
    poses = captures.poses(5)
    captures.write_model(tmp_path / "made/0", poses[:2], files=captures.names(5)[:2])
    captures.write_model(tmp_path / "made/1", poses, files=captures.names(5))
    then = f"shutil.copytree({str(tmp_path / 'made')!r}, arguments['--workspace_path'] + '/sparse')"
    install(tmp_path, monkeypatch, then)
    assert main(["poses", str(photographs), "--program", "colmap", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["images"], report["registered"], report["models"], report["points"]) == (5, 5, 2, 40)
    scene = load_posed(photographs, holdout=0)
    np.testing.assert_allclose(scene.train.cameras.c2w.numpy(), poses, atol=1e-5)
    assert sorted(p.name for p in photographs.iterdir()) == ["images", "sparse"]
    with pytest.raises(SinefieldError, match="already; use --overwrite"):
        find_poses(photographs, Search(program="colmap"))
    assert find_poses(photographs, Search(program="colmap"), overwrite=True)["registered"] == 5


@pytest.mark.parametrize(
    ("then", "said"),
    [
        (
            "print('E2025 no memory left'); sys.exit(3)",
            r"COLMAP failed \(E2025 no memory left\); run it by hand: .*colmap",
        ),
        ("pass", "none of 5 photographs could be placed"),
        ("sys.exit(1)", r"COLMAP failed \(.*Processed file \[5/5\]\)"),
    ],
)
def test_what_fails_leaves_nothing(photographs, tmp_path, monkeypatch, then, said):
    install(tmp_path, monkeypatch, then)
    with pytest.raises(SinefieldError, match=said):
        find_poses(photographs, Search(program="colmap"))
    assert [p.name for p in photographs.iterdir()] == ["images"]


def test_bad_input_is_one_line(photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SinefieldError, match="is not installed; apt install colmap"):
        find_poses(photographs, Search(program="colmap"))
    for folder, said in ((tmp_path / "none", "no such folder"), (tmp_path / "empty", "has no photographs")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(SinefieldError, match=said):
            find_poses(folder)
    with pytest.raises(SinefieldError, match="one of low, medium"):
        find_poses(photographs, Search("best"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("colmap") is None, reason="COLMAP is not installed")
def test_colmap_agrees_with_known_poses(data_folder, tmp_path):
    """Twelve photographs of the fox in a row, reduced: turned as its makers found, and seen through the same lens."""
    from PIL import Image
    from scipy.spatial.transform import Rotation

    known = load_posed(data_folder / "fox", downscale=8, holdout=0).train
    folder = tmp_path / "fox"
    (folder / "images").mkdir(parents=True)
    for name in known.names[10:22]:
        picture = Image.open(data_folder / "fox" / name)
        picture.resize((540, 960), Image.Resampling.BOX).save(folder / "images" / name.rsplit("/", 1)[-1])
    report = find_poses(folder, Search("low", program="colmap"))
    assert report["registered"] == report["images"]
    found = load_posed(folder, holdout=0).train
    rows = [[n.rsplit("/", 1)[-1] for n in known.names].index(n.rsplit("/", 1)[-1]) for n in found.names]
    truth, ours = known.cameras.c2w[rows].double().numpy(), found.cameras.c2w.double().numpy()
    # One rotation brings all our cameras' axes to the known ones; test_colmap.py knows how places are read.
    between = Rotation.from_matrix(np.einsum("nij,nkj->nik", truth[:, :, :3], ours[:, :, :3]))
    off = np.degrees((between.mean().inv() * between).magnitude())
    assert off.max() < 0.5
    focal = found.cameras.focal[0] / (known.cameras.focal[0] * 540 / known.cameras.width)
    assert float((focal - 1).abs().max()) < 0.02
