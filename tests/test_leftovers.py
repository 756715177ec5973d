"""What is left of writing: killed processes' files, and every call of a save, pack and export that fails in turn."""

import builtins
import errno
import fcntl
import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import sinefield as sf
from sinefield import files
from sinefield.errors import SinefieldError
from sinefield.files import TEMPORARY, _prefix, atomic_folder, scratch_folder, write_bytes
from sinefield.learning.pack import pack

KILLED = """
import os, signal, sys
from pathlib import Path
from sinefield.files import atomic_folder, atomic_path
with (atomic_folder if sys.argv[2] == "folder" else atomic_path)(sys.argv[1]) as new:
    (new / "part" if sys.argv[2] == "folder" else new).write_bytes(b"half")
    if sys.argv[3] == "waits":
        print("ready", flush=True)
        sys.stdin.read()
    elif sys.argv[3] == "swaps":
        Path(sys.argv[1]).rename(new.parent / "old")
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def writer(path, kind, how):
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), kind, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def killed(path, kind, how="dies"):
    with writer(path, kind, how) as process:
        process.communicate()
    assert process.returncode == -9


def fill(path, kind, content=b"new"):
    if kind == "file":
        write_bytes(path, content)
        return path.read_bytes()
    with atomic_folder(path) as new:
        (new / "part").write_bytes(content)
    return (path / "part").read_bytes()


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_next_run_clears_what_a_killed_one_left(kind, tmp_path):
    out, other = tmp_path / "out.ply", tmp_path / "other.ply"
    for path in (out, out, other):
        killed(path, kind)
    assert len(names(tmp_path)) == 2  # the second of one output cleared what the first had left
    assert all(name.startswith(TEMPORARY) for name in names(tmp_path))
    assert fill(out, kind) == b"new"
    assert len(names(tmp_path)) == 2 and out.exists()  # what is left of another output is its own next run's
    assert fill(other, kind) == b"new" and names(tmp_path) == ["other.ply", "out.ply"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_living_writer_is_not_disturbed(kind, tmp_path):
    out = tmp_path / "out.ply"
    with writer(out, kind, "waits") as process:
        assert process.stdout.readline() == b"ready\n"
        assert fill(out, kind) == b"new" and len(names(tmp_path)) == 2
        process.communicate()
    assert process.returncode == 0 and names(tmp_path) == ["out.ply"]
    assert (out if kind == "file" else out / "part").read_bytes() == b"half"  # it came last


def test_a_folder_moved_away_by_a_killed_process_comes_back(tmp_path):
    out = tmp_path / "photos"
    fill(out, "folder", b"old")
    killed(out, "folder", "swaps")
    assert not out.exists()
    with pytest.raises(ZeroDivisionError), atomic_folder(out):
        raise ZeroDivisionError
    assert (out / "part").read_bytes() == b"old" and names(tmp_path) == ["photos"]


def test_nothing_of_anybody_elses_is_cleared(tmp_path):
    out = tmp_path / "out.ply"
    kept = [tmp_path / name for name in (".tmp-mine", ".tmp-00000000-abc.ply", ".tmp-abc.ply", "x.tmp-")]
    for path in kept:
        path.write_bytes(b"x")
    target = tmp_path / "target"
    target.mkdir()
    (target / "precious").write_bytes(b"x")
    link = tmp_path / (_prefix(out) + "link")
    link.symlink_to(target)
    fifo = tmp_path / (_prefix(tmp_path / "other") + "fifo")
    os.mkfifo(fifo)  # not waited for
    locked = tmp_path / (_prefix(out) + "locked.ply")
    locked.write_bytes(b"x")
    with locked.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        fill(out, "file")
    assert all(path.exists() for path in (*kept, link, target / "precious", fifo, locked))


def test_scratch_folders_of_killed_processes_are_cleared(tmp_path, monkeypatch):
    code = "import os\nfrom sinefield.files import scratch_folder\nwith scratch_folder():\n    os.kill(os.getpid(), 9)"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == -9
        assert len(names(tmp_path)) == 1
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch_folder() as folder, scratch_folder() as other:
        assert folder != other and names(tmp_path) == sorted([folder.name, other.name])
    assert names(tmp_path) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(SinefieldError, match="temporary files: cannot be written"), scratch_folder():
        pass


def test_homes_of_killed_processes_are_cleared(tmp_path, monkeypatch):
    """What `sf.fit` without a folder trains into."""
    code = "import os\nfrom sinefield.files import Home\nhome = Home()\nos.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}).returncode == -9
    (left,) = names(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    home = files.Home()
    assert left not in names(tmp_path) and home.path.is_dir()
    del home
    assert names(tmp_path) == []


class Chance:
    """Counts openings, writes, syncs, renames and new folders, and fails the n-th."""

    def __init__(self, patch, code):
        self.count, self.fails, self.code, self.named = 0, 0, code, []
        for name in ("fsync", "rename", "replace", "link", "chmod", "mkdir"):
            patch.setattr(os, name, self.wrapped(getattr(os, name), name))
        patch.setattr(files, "_exchange", self.wrapped(files._exchange, "exchange"))
        inner = io.open
        patch.setattr(io, "open", self.opener(inner))
        patch.setattr(builtins, "open", self.opener(inner))

    def turn(self, name):
        self.count += 1
        self.named.append(name)
        if self.count == self.fails:
            raise OSError(self.code, os.strerror(self.code))

    def wrapped(self, inner, name):
        def call(*arguments, **options):
            if name != "mkdir" or not Path(arguments[0]).is_dir():  # of a folder that is there it may fail
                self.turn(name)
            return inner(*arguments, **options)

        return call

    def opener(self, inner):
        chance = self

        class Raw(io.FileIO):
            def write(self, content):
                chance.turn("write")
                return super().write(content)

        def call(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
            if not set(mode) & set("wax+") or isinstance(file, int):
                return inner(file, mode, buffering, encoding, errors, newline, closefd, opener)
            chance.turn("open")
            raw = Raw(file, mode.replace("b", "").replace("t", ""), closefd)
            stream = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
            return stream if "b" in mode else io.TextIOWrapper(stream, encoding, errors, newline)

        return call


def folder_of_two(run, out):
    with atomic_folder(out) as new:
        for name in ("a", "b"):
            (new / name).write_bytes(bytes(9))


SAVES = {
    "field.sine": lambda run, out: sf.load("example:knot").save(out, overwrite=True),
    "packed.sine": lambda run, out: pack(run, out, bits=6, seconds=0, overwrite=True),
    "mesh.ply": lambda run, out: sf.load("example:knot").save_mesh(out, resolution=16, overwrite=True),
    "mesh.glb": lambda run, out: sf.load("example:knot").save_mesh(out, resolution=16, overwrite=True),
    "mesh.obj": lambda run, out: sf.load("example:knot").save_mesh(out, resolution=16, overwrite=True),
    "folder": folder_of_two,
}


def content(path):
    if path.is_dir():
        return {file.name: file.read_bytes() for file in path.iterdir()}
    return path.read_bytes() if path.exists() else None


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "packed.sine")) for n in SAVES])
def test_every_call_of_a_save_fails_in_turn(name, ball_run, tmp_path, monkeypatch):
    """And afterwards the old or the new is there, whole, and nothing else, whichever call it was."""
    run, out = ball_run[0], tmp_path / name
    SAVES[name](run, out)
    new = content(out)
    for code, before in ((errno.ENOSPC, None), (errno.EIO, "old")):
        shutil.rmtree(out) if out.is_dir() else out.unlink()
        with monkeypatch.context() as patch:
            chance = Chance(patch, code)
            SAVES[name](run, out)
        calls = chance.count
        assert {"fsync", "replace" if name != "folder" else "rename"} <= set(chance.named) and calls >= 4
        assert chance.named[-1] == "fsync"  # of the folder, after the renaming
        for number in range(1, calls + 1):
            shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
            if before:
                if name == "folder":
                    out.mkdir()
                    (out / "old").write_bytes(b"old")
                else:
                    out.write_bytes(b"old")
            old = content(out)
            with monkeypatch.context() as patch:
                chance = Chance(patch, code)
                chance.fails = number
                with pytest.raises(SinefieldError) as told:
                    SAVES[name](run, out)
            assert "\n" not in str(told.value) and str(out) in str(told.value)
            assert content(out) in (old, new), (number, chance.named[-3:])
            assert names(tmp_path) in ([], [name]), (number, chance.named[-3:])
