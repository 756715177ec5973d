"""Commands of a user who may not read, or not write, what he names: one line, code 2, nothing changed; slow."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from killed import Command, write_scene
from small import shape_config

from sinefield.commands.cli import main
from sinefield.example_files import file_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")]
NOBODY = 65534
READING = [
    "info {of}/run",
    "info {of}/a.sine",
    "compare {of}/run {of}/a.sine",
    "eval {of}/run",
    "eval {of}/a.sine --data {of}/ball.ply",
    "inspect {of}/ball.ply",
    "inspect {of}/photographs",
    "train {of}/ball.yaml --out {out}/b",
    "train {of}/ball.ply --out {out}/b --training.steps 1",
    "train {of}/photographs --out {out}/b --training.steps 1",
    "pack {of}/run {out}/b.sine --bits 6 --steps 1",
    "unpack {of}/a.sine {out}/b",
    "mesh {of}/a.sine {out}/b.ply --resolution 16",
    "mesh {of}/run {out}/b.ply --resolution 16",
    "page {of}/a.sine {out}/b.html",
    "code {of}/a.sine {out}/b.h",
    "image {of}/a.sine {out}/b.png",
    "points {of}/run {out}/b.ply",
    "splats {of}/a.sine {out}/b.spz",
    "depth {of}/a.sine {out}/b",
    "cameras {of}/a.sine {out}/b.json",
    "report {of}/run --out {out}/b.html",
    "video {of}/a.sine {out}/b.mp4 --frames 2",
    "video example:knot {out}/b.mp4 --path {of}/path.json",
    "adapt {of}/a.sine {of}/ball.yaml --out {out}/b.sine",
    "mesh example:knot {out}/b.ply --adapter {of}/edit.sine",
    "adapter info {of}/edit.sine",
    "adapter merge {of}/edit.safetensors {of}/base {out}/b",
    "reconstruct {of}/a.sine {of}/ball.ply {out}/b.ply",
    "frames {of}/a.mp4 {out}/b",
    "poses {of}/photographs --out {out}/b",
    "capture {of}/photographs --out {out}/b",
    "synth {out}/b --mesh {of}/ball.ply --views 1 --resolution 16",
    "fleet {of}/items.csv --out {out}/b",
]
WRITING = [
    "train {data}/ball.yaml --out {to}/run --overwrite",
    "train {data}/ball.yaml --out {to}/run --resume",
    "train {data}/ball.yaml --out {to}/new",
    "eval {to}/run",
    "report {to}/run",
    "pack {data}/run {to}/a.sine --bits 6 --steps 1 --overwrite",
    "unpack example:knot {to}/run --overwrite",
    "unpack example:knot {to}/new",
    "mesh example:knot {to}/a.ply --resolution 16 --overwrite",
    "mesh example:knot {to}/a.obj --resolution 16 --texture 16 --faces 50 --overwrite",
    "page example:knot {to}/a.html --overwrite",
    "code example:knot {to}/a.h --overwrite",
    "image example:picture {to}/a.png --overwrite",
    "points example:knot {to}/a.ply --count 20 --overwrite",
    "splats example:toys {to}/a.spz --count 20 --steps 1 --overwrite",
    "depth example:knot {to}/depths --count 1 --overwrite",
    "cameras example:toys {to}/a.json --data {to}/photographs",
    "video example:knot {to}/a.mp4 --frames 2 --width 16 --overwrite",
    "video example:knot {to}/pictures/ --frames 2 --width 16 --overwrite",
    "video example:knot {to}/a.gif --frames 2 --width 16",
    "adapt example:knot {data}/ball.yaml --out {to}/edit.sine",
    "inspect {data}/ball.ply --out {to}/a.png",
    "compare example:knot --out {to}/a.png",
    "frames {data}/a.mp4 {to}/frames --count 3",
    "poses {data}/photographs --out {to}/posed",
    "poses {to}/photographs",
    "capture {data}/photographs --out {to}/captured",
    "synth {to}/synth --views 1 --test-views 0 --resolution 8",
    "fleet {data}/items.csv --out {to}/fleet",
    "adapter merge {data}/edit.safetensors {data}/base {to}/merged",
]


@pytest.fixture(scope="module")
def home(ball, photographs):
    """What root has, readable by all, and a folder where everybody may write; pytest's own are root's alone."""
    folder = Path(tempfile.mkdtemp(prefix="sinefield-user-"))
    folder.chmod(0o755)
    data = folder / "data"
    shutil.copytree(photographs, data / "photographs")
    shutil.copyfile(ball, data / "ball.ply")
    scene = write_scene(data / "ball.yaml", shape_config(data / "ball.ply", steps=1))
    assert main(["train", str(scene), "--out", str(data / "run")]) == 0
    for name in ("a.sine", "edit.sine"):
        shutil.copyfile(file_of("example:knot"), data / name)
    for name in ("path.json", "edit.safetensors", "a.mp4", "items.csv", "a.html", "a.obj", "a.h", "a.png", "a.spz"):
        (data / name).write_bytes(b"old")
    for name in ("depths", "pictures", "base"):
        (data / name).mkdir()
    (data / "base" / "model.safetensors").write_bytes(b"old")
    (data / "pictures" / "0000.png").write_bytes(b"old")
    yield folder
    shutil.rmtree(folder)


def everything(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def restrict(folder, mode):
    """Take rights from a folder and what is in it; folders that can be read can be entered."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(mode | (0o111 if path.is_dir() and mode & 0o4 else 0) | (0o100 if path.is_dir() else 0))


def refused(words, home, log):
    """He is told what he may not, in one line."""
    (home / "out").mkdir(exist_ok=True)
    (home / "out").chmod(0o777)
    names = {"of": home / "data", "to": home / "data", "data": home / "readable", "out": home / "out"}
    command = Command(words.format(**names).split(), log)
    private = {"TMPDIR": str(home / "out"), "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR", str(home / "out"))}
    code = command.start(user=NOBODY, variables=private).join()
    said = log.read_text()
    assert code == 2 and len(command.errors()) == 1 and "Traceback" not in said, (words, code, said)
    assert not [path for path in (home / "out").iterdir() if path.name.startswith("b")], words
    return command.errors()[0]


@pytest.mark.parametrize("words", READING)
@pytest.mark.parametrize("how", ["folder", "files"])
def test_nothing_to_be_read(words, how, home, tmp_path):
    before = everything(home / "data")
    if how == "folder":
        (home / "data").chmod(0o700)
    else:
        for path in (home / "data").rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)
    try:
        refused(words, home, tmp_path / "log")
    finally:
        restrict(home / "data", 0o644)
    assert everything(home / "data") == before


@pytest.mark.parametrize("words", WRITING)
def test_nothing_to_be_written(words, home, tmp_path):
    restrict(home / "data", 0o644)
    if not (home / "readable").exists():
        shutil.copytree(home / "data", home / "readable")
    before = everything(home / "data")
    refused(words, home, tmp_path / "log")
    assert everything(home / "data") == before
