"""Commands that write a result, killed at any moment or on a full disk: the old or the new stays, whole; slow."""

import contextlib
import hashlib
import os
import random
import re
import shutil
import signal

import pytest
from killed import Command, write_scene
from safetensors.torch import save_file
from small import shape_config
from torch import nn

from sinefield.adapters.attach import attach_each
from sinefield.adapters.deltas import AdapterSpec
from sinefield.adapters.file import save_adapter
from sinefield.commands.cli import main
from sinefield.files import TEMPORARY

pytestmark = pytest.mark.slow
MOMENTS = int(os.environ.get("SINEFIELD_KILLS", "1"))
"""Kills of each command at random moments; three more are in its writing."""
WORDS = {
    "pack": "pack {run} {out}/a.sine --bits 6 --steps 3",
    "pack_to_size": "pack {run} {out}/a.sine --max-bytes 3000 --steps 3",
    "mesh": "mesh example:knot {out}/a.glb --resolution 24",
    "textured": "mesh example:toys {out}/a.obj --resolution 24 --faces 100 --texture 32",
    "video": "video example:knot {out}/a.mp4 --frames 2 --width 32",
    "report": "report {run} --out {out}/a.html",
    "pictures": "video example:knot {out}/a --frames 3 --width 32",
    "page": "page example:knot {out}/a.html",
    "header": "code example:knot {out}/a.h",
    "image": "image example:picture {out}/a.png --width 64",
    "points": "points example:toys {out}/a.ply --count 500",
    "splats": "splats example:toys {out}/a.spz --count 100 --steps 2",
    "depth": "depth example:toys {out}/a --count 2",
    "cameras": "cameras example:toys {out}/a.json --data {out}/photos",
    "adapt": "adapt {run} {scene} --out {out}/a.sine --bits 4 --training.steps 4",
    "unpack": "unpack example:knot {out}/a",
    "adapter_pack": "adapter pack {adapter} {out}/a.sine --bits 4",
    "adapter_merge": "adapter merge {adapter} {base} {out}/a",
    "frames": "frames {video} {out}/a --count 3",
    "synth": "synth {out}/a --views 2 --test-views 1 --resolution 16",
    "synth_mesh": "synth {out}/a --mesh {mesh} --views 2 --test-views 1 --resolution 16",
    "compare": "compare example:knot example:toys --out {out}/a.png",
    "inspect": "inspect {photographs} --out {out}/a.png",
}
SAVED = """
import pathlib, sinefield
field = sinefield.load({run!r})
field.save({out!r}, overwrite=pathlib.Path({out!r}, "config.yaml").exists())
"""
"""What `Field.save` does, for a run and for what `fit` returns."""
WORDS |= {"saved_run": ["-c", SAVED], "saved": ["-c", SAVED.replace("{run!r}", "'example:knot'")]}
USUAL = ("pack", "mesh", "textured", "saved_run")
NAMES = [pytest.param(name, marks=[] if name in USUAL else [pytest.mark.nightly], id=name) for name in WORDS]
"""Commands that are tried: all of them take half an hour, so most are left to a night."""
CAPTURE = "capture {photographs} --out {out}/a --training.steps 6 --training.save_seconds 1e-9 --field.space box"
CAPTURE += " --field.log2_table 10 --field.levels 4 --field.grid 16 --field.steps 32 --training.batch 1024"
BESIDE = re.compile(r"a\.[0-9a-f]{8}\.(mtl|png)")
"""What an OBJ names: it is read by the OBJ that names it alone."""
FOREIGN = {"mine.txt": b"mine", f"{TEMPORARY}00000000-mine": b"mine", "b.mtl": b"mine"}


class Case:
    """A command, and what it makes when nobody hinders it."""

    def __init__(self, name, places, folder):
        self.words, self.places, self.folder = WORDS.get(name, CAPTURE), places, folder
        self.temporary, self.whole = folder / "temporary", folder / "whole"
        self.temporary.mkdir()
        command = self.command(self.out("whole"))
        assert command.start(variables=self.variables()).join() == 0, command.log.read_text()
        self.seconds, self.new = command.seconds, content(self.whole)
        self.main = min(name for name in self.made() if not BESIDE.fullmatch(name))

    def out(self, name):
        """A folder with an old output, and with things that are somebody else's."""
        out = self.folder / name
        (out / "a").mkdir(parents=True)
        for name, text in FOREIGN.items():
            (out / name).write_bytes(text)
        if "{out}/photos" in self.words:
            shutil.copytree(self.places["photographs"], out / "photos")
        return out

    def made(self):
        """Names of what the command makes."""
        return [name for name in self.new if name not in FOREIGN and not name.startswith("photos/")]

    def with_old(self, out):
        """Have an output of an earlier run there."""
        file = out / self.main
        if file.parent == out:
            file.write_bytes(b"old")
        else:  # what an earlier run made, so that it may be replaced
            shutil.rmtree(out / "a")
            shutil.copytree(self.whole / "a", out / "a")
            with file.open("ab") as stream:
                stream.write(b"\n")
        return content(out)

    def variables(self, temporary=None):
        return {"TMPDIR": str(temporary or self.temporary)}

    def command(self, out, *more):
        if not isinstance(self.words, str):
            names = {name: str(place) for name, place in self.places.items()}
            words = [word.format(out=f"{out}/a", **names) for word in self.words]
        else:
            words = [*self.words.format(out=out, **self.places).split(), *more]
        return Command(words, self.folder / "log")

    def is_whole(self, out, before):
        """Nothing half written at the output's place, nothing of anybody else's touched."""
        found = {name: digest for name, digest in content(out).items() if not BESIDE.fullmatch(name)}
        new = {name: digest for name, digest in self.new.items() if not BESIDE.fullmatch(name)}
        assert found in (before, new)
        for name, digest in content(out).items():
            assert not BESIDE.fullmatch(name) or digest == self.new[name]

    def nothing_is_left(self, out, temporary=None):
        left = [path for path in out.rglob(f"{TEMPORARY}*") if path.name not in FOREIGN]
        assert not left and not list((temporary or self.temporary).glob(f"{TEMPORARY}*"))


def content(out):
    """A digest of each file in a folder, but for those that were being written."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in sorted(out.rglob("*"))
        if path.is_file() and (path.name in FOREIGN or TEMPORARY not in str(path.relative_to(out)))
    }


@pytest.fixture(scope="module")
def places(ball, photographs, tmp_path_factory):
    scene = write_scene(tmp_path_factory.mktemp("scene") / "ball.yaml", shape_config(ball, steps=6))
    folder = tmp_path_factory.mktemp("base")
    model = nn.Sequential(nn.Linear(8, 8))
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text("{}")
    save_file(model.state_dict(), folder / "base" / "model.safetensors")
    attach_each(model, {"0": AdapterSpec("lora", 2, 2.0)}, "default")
    save_adapter(model, folder / "adapter.safetensors")
    assert main(["train", str(scene), "--out", str(folder / "run")]) == 0
    assert main(["video", "example:knot", str(folder / "video.mp4"), "--frames", "5", "--width", "32"]) == 0
    made = {"adapter": folder / "adapter.safetensors", "base": folder / "base", "video": folder / "video.mp4"}
    return {"run": folder / "run", "scene": scene, "photographs": photographs, "mesh": ball, **made}


def kill(case, out, chance, how):
    """Kill a command at a random moment, or in the writing of its first file."""
    command = case.command(out, "--overwrite")
    command.start((1, how) if how else None, variables=case.variables(), within=out)
    if not how:
        command.wait_for(lambda: False, chance.random() * case.seconds)
        if command.alive():
            command.send(signal.SIGKILL)
    assert command.join() in ((-signal.SIGKILL,) if how else (0, -signal.SIGKILL)), command.log.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_killed(name, places, tmp_path):
    case, chance = Case(name, places, tmp_path), random.Random(name)
    out = case.out("out")
    before = case.with_old(out)
    folder = case.main.startswith("a/")
    for how in (*[None] * MOMENTS, "half", "before", "after", *(["swapped"] if folder else [])):
        kill(case, out, chance, how)
        case.is_whole(out, before)
        if content(out) == case.new:
            before = case.with_old(out)
    again = case.command(out, "--overwrite")
    assert again.start(variables=case.variables()).join() == 0, again.log.read_text()
    assert content(out) == case.new
    case.nothing_is_left(out)


def fill(disk, room):
    """Leave so many bytes."""
    (disk / "filler").unlink(missing_ok=True)
    with (disk / "filler").open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while stream.write(bytes(4096)) == 4096:
            pass
    os.truncate(disk / "filler", max((disk / "filler").stat().st_size - room, 0))


@pytest.mark.parametrize("name", [name for name in NAMES if name.id != "synth"])  # its demo's mesh fills the disk alone
def test_full_disk(name, places, disk, tmp_path):
    """Not a block is left, or fewer than it takes, for the output and for temporary files."""
    (tmp_path / "case").mkdir()
    case = Case(name, places, tmp_path / "case")
    temporary = disk / "temporary"
    temporary.mkdir()
    case.folder = disk
    out = case.out("out")
    case.folder = tmp_path
    before = case.with_old(out)
    size = sum((tmp_path / "case" / "whole" / name).stat().st_size for name in case.made())
    for room in (0, size // 2 // 4096 * 4096):
        fill(disk, room)
        command = case.command(out, "--overwrite")
        code = command.start(variables=case.variables(temporary)).join()
        said = command.log.read_text()
        assert code == 2, (room, said)
        (line,) = command.errors()
        assert "disk is full" in line, said
        assert content(out) == before and "Traceback" not in said
        case.nothing_is_left(out, temporary)


def parts_of_capture(out):
    """What a capture ends with, without what a clock says."""
    return {name: digest for name, digest in content(out).items() if re.fullmatch(r"a/(video|mesh)\..*|[^/]*", name)}


def test_capture_killed(places, tmp_path):
    """The same command goes on; what it leaves in the end is what it leaves when nobody hinders it."""
    case, chance = Case("capture", places, tmp_path), random.Random("capture")
    out = case.out("out")
    for how in (*[None] * MOMENTS, *((n, how) for n in (1, 3, 5, 9) for how in ("half", "after"))):
        command = case.command(out).start(how, variables=case.variables())
        if how is None:
            command.wait_for(lambda: False, chance.random() * case.seconds)
            if command.alive():
                command.send(signal.SIGKILL)
        assert command.join() in (0, -signal.SIGKILL), command.log.read_text()
        for name, text in FOREIGN.items():
            assert (out / name).read_bytes() == text
    again = case.command(out)
    assert again.start(variables=case.variables()).join() == 0, again.log.read_text()
    assert parts_of_capture(out) == parts_of_capture(tmp_path / "whole")
    case.nothing_is_left(out)


def test_capture_on_a_full_disk(places, disk, tmp_path):
    case = Case("capture", places, tmp_path)
    temporary = disk / "temporary"
    temporary.mkdir()
    case.folder = disk
    out = case.out("out")
    case.folder = tmp_path
    for room in (0, 16 << 10, 64 << 10):
        fill(disk, room)
        command = case.command(out)
        assert command.start(variables=case.variables(temporary)).join() == 2, command.log.read_text()
        (line,) = command.errors()
        assert "disk is full" in line and "Traceback" not in command.log.read_text()
        case.nothing_is_left(out, temporary)
        assert all((out / name).read_bytes() == text for name, text in FOREIGN.items())
    (disk / "filler").unlink()
    again = case.command(out)
    assert again.start(variables=case.variables(temporary)).join() == 0, again.log.read_text()
    assert parts_of_capture(out) == parts_of_capture(tmp_path / "whole")
