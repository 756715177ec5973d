"""The example fields that the package brings, the numbered examples, and the examples of docstrings."""

import doctest
import importlib
import pkgutil
import runpy
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import trimesh
from PIL import Image

import sinefield as sf
from sinefield.commands.cli import main
from sinefield.store.sine_files import load_packed

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "scripts" / "examples").glob("[0-9]*.py"))
SMALL = {
    "01": ["--steps", "20"],
    "02": [],
    "03": ["--steps", "20"],
    "04": ["--steps", "20"],
    "05": ["--steps", "20", "--pixels", "16"],
    "06": ["--steps", "20"],
    "07": ["--width", "32"],
    "08": ["--resolution", "48"],
    "09": ["--steps", "20"],
    "10": ["--steps", "20"],
    "11": ["--width", "40"],
    "12": [],
    "13": [],
}
SLOW = ("01", "03", "05", "06", "10")
FIELDS = {"knot": ("shape", "iou", 0.98), "spot": ("shape", "iou", 0.98), "toys": ("radiance", "psnr", 22)}
FIELDS["picture"] = ("image", "psnr", 28)


def test_the_package_brings_small_fields():
    assert sf.examples() == sorted(FIELDS)
    assert sum(sf.example(name).stat().st_size for name in FIELDS) < 60_000


def test_no_module_has_the_name_of_a_public_function():
    assert not set(sf.__all__) & {module.name for module in pkgutil.iter_modules(sf.__path__)}


@pytest.mark.parametrize("name", FIELDS)
def test_an_example_field(name):
    kind, score, least = FIELDS[name]
    field = sf.load(f"example:{name}")
    assert field.kind == kind and field.scores[score] > least and field.nbytes == sf.example(name).stat().st_size
    assert sf.load(sf.example(name)).params == field.params
    path = load_packed(f"example:{name}").note["data"].get("path")
    assert path is None or path.startswith(("skimage:", "$SINEFIELD_DATA"))


def test_knot_and_spot_are_what_they_say():
    knot, spot = sf.load("example:knot"), sf.load("example:spot")
    assert knot.inside([[0, 0, 0], [0, 0.78, 0], [0, 0, 0.8], [0.3, 0.9, 0.0]]).tolist() == [True, True, False, False]
    width, height, length = np.diff(spot.bounds, axis=0)[0]
    assert width < height < length and spot.inside([[0.0, 0.0, 0.0]])[0]


def test_the_picture_is_the_photograph():
    from skimage import data

    pixels = data.astronaut().reshape(256, 2, 256, 2, 3).mean((1, 3))
    error = ((sf.load("example:picture").image().astype(float) - pixels) ** 2).mean()
    assert 10 * np.log10(255**2 / error) > 28


def test_commands_take_examples(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in sf.example("knot").parent.iterdir()}
    for command in (
        ["info", "example:knot"],
        ["compare", "example:knot", "example:picture"],
        ["mesh", "example:knot", "knot.ply", "--resolution", "32"],
        ["unpack", "example:knot", "knot"],
        ["video", "example:knot", "knot.mp4", "--frames", "2", "--width", "32"],
        ["image", "example:picture", "picture.png", "--width", "32"],
        ["report", "example:picture"],
        ["eval", "example:picture"],
    ):
        assert main(command) == 0, capfd.readouterr().err
    out = capfd.readouterr().out
    assert "picture.html: " in out and "None" not in out and "in 0 s" not in out
    made = {"knot.ply", "knot", "knot.mp4", "picture.png", "picture.html"}
    assert {path.name for path in tmp_path.iterdir()} == made
    assert before == {path: path.stat().st_mtime_ns for path in sf.example("knot").parent.iterdir()}
    assert main(["info", "example:knott"]) == 2
    assert "no such example; did you mean 'knot'?" in capfd.readouterr().err


def test_the_viewer_takes_an_example():
    from sinefield.viewer.follow import Follower

    assert len(Follower("example:knot").snapshots) == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("examples")


MARKED = [pytest.param(path, marks=pytest.mark.slow if path.stem[:2] in SLOW else ()) for path in SCRIPTS]


@pytest.mark.parametrize("script", MARKED, ids=lambda path: path.stem)
def test_a_numbered_example(script, folder, monkeypatch, capfd):
    out = folder / script.stem
    monkeypatch.setattr(sys, "argv", [str(script), "--out", str(out), *SMALL[script.stem[:2]]])
    runpy.run_path(str(script), run_name="__main__")
    promised = [
        word.strip(".,:") for word in (script.read_text().split('"""')[1]).split() if word.startswith(script.stem[:3])
    ]
    assert promised and not [name for name in promised if not (out / name).exists()]
    for name in promised:
        check_opens(out / name)


def frames_of(path: Path) -> np.ndarray:
    """The pixels of a video, one after the other."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8)


def check_opens(path: Path) -> None:
    """A file or run that an example left: it opens and holds something."""
    if path.suffix == ".png":
        pixels = np.asarray(Image.open(path).convert("RGBA"))
        assert len(np.unique(pixels.reshape(-1, 4), axis=0)) > 20
    elif path.suffix == ".mp4":
        assert frames_of(path).std() > 1
    elif path.suffix in (".glsl", ".wgsl", ".h"):
        assert "knot_sdf" in path.read_text()
    elif path.suffix in (".ply", ".glb"):
        assert len(trimesh.load(path, force="mesh").faces) > 100
    elif path.stem != "10_bent":  # an edit, which the example itself has loaded
        assert sf.load(path).params > 100


def test_each_number_once_and_small_settings_for_each():
    assert [path.stem[:2] for path in SCRIPTS] == sorted(SMALL)
    for path in SCRIPTS:
        assert path.read_text().split('"""')[1].count(".") >= 3, path  # two sentences and what is left


WITH_EXAMPLES = [path for path in sorted((ROOT / "sinefield").rglob("*.py")) if ">>> " in path.read_text()]
WITH_EXAMPLES.remove(ROOT / "sinefield" / "field_set.py")  # needs a fleet: test_fleet.py runs it
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in WITH_EXAMPLES]


LONG = ("sinefield.export.splats", "sinefield.export.points")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in MODULES]
)
def test_examples_in_docstrings(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0 and found.failed == 0
