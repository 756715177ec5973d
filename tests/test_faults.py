"""What a training meets besides its data: a full disk, a read-only or vanished folder, another process; slow."""

import contextlib
import os
import shutil
import signal
import subprocess

import pytest
from killed import Command, write_scene
from small import radiance_config, shape_config

from sinefield.commands.cli import main
from sinefield.example_files import SUFFIX
from sinefield.store.fields import load_field
from sinefield.store.run import Run

pytestmark = pytest.mark.slow
STEPS = 60


@pytest.fixture(scope="module")
def scene(ball, tmp_path_factory):
    config = shape_config(ball, steps=STEPS)
    config.training.save_seconds = 1e-9
    return write_scene(tmp_path_factory.mktemp("scene") / "ball.yaml", config)


@pytest.fixture(scope="module")
def whole(scene):
    """The field that nothing hinders."""
    out = scene.parent / "whole"
    assert train(scene, out).start().join() == 0
    return bits(out)


def train(scene, out, *more):
    return Command(["train", str(scene), "--out", str(out), *more], out.parent / f"{out.name}.log")


def bits(run):
    return {k: v.numpy().tobytes() for k, v in load_field(run)[0].state_dict().items()}


def refused(command, text):
    assert command.join() == 2, command.log.read_text()
    (line,) = command.errors()
    assert text in line


def stopped_half_way(scene, out):
    command = train(scene, out).start()
    command.wait_for(lambda: command.steps > STEPS // 3)
    command.send(signal.SIGKILL)
    assert command.join() == -signal.SIGKILL
    return Run(out).state_path.read_bytes()


def test_full_disk(scene, whole, disk):
    command = train(scene, disk / "run")
    command.log = scene.parent / "full.log"
    command.start()
    command.wait_for(lambda: command.steps > 5)
    filler = os.open(disk / "filler", os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while os.write(filler, bytes(4096)):
            pass
    os.close(filler)
    refused(command, "the disk is full")
    (disk / "filler").unlink()
    resumed = train(scene, disk / "run", "--resume")
    resumed.log = command.log
    assert resumed.start().join() == 0, resumed.log.read_text()
    assert bits(disk / "run") == whole


def test_a_state_that_cannot_be_written_leaves_the_one_before(scene, whole, tmp_path):
    state = stopped_half_way(scene, tmp_path / "run")
    refused(
        train(scene, tmp_path / "run", "--resume").start(limit=len(state) - 1), "state.safetensors: cannot be written"
    )
    assert Run(tmp_path / "run").state_path.read_bytes() == state
    assert train(scene, tmp_path / "run", "--resume").start().join() == 0
    assert bits(tmp_path / "run") == whole


def test_read_only_folder(scene, disk):
    out = disk / "run"
    stopped_half_way(scene, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for where, more in ((out, "--resume"), (out, "--overwrite"), (disk / "new", "--resume")):
        command = train(scene, where, more)
        command.log = scene.parent / "read_only.log"
        refused(command.start(), "holds no run" if where != out else "not writable")
    command = train(scene, disk / "new")
    command.log = scene.parent / "read_only.log"
    refused(command.start(), "not writable")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_vanished_folder(scene, tmp_path):
    command = train(scene, tmp_path / "run", "--training.steps", "100000").start()
    command.wait_for(lambda: command.steps > 5)
    (tmp_path / "run").rename(tmp_path / "gone")
    refused(command, str(tmp_path / "run"))
    assert not Run(tmp_path / "run").config_path.exists()
    assert Run(tmp_path / "gone").state_path.exists()


def test_stopped_and_continued(scene, tmp_path):
    """SIGSTOP for longer than the training is to take: its time goes on only when it does."""
    command = train(scene, tmp_path / "run", "--training.steps", "null", "--training.seconds", "4").start()
    command.wait_for(lambda: command.steps > 5)
    command.send(signal.SIGSTOP)
    command.wait_for(lambda: False, 8)
    stopped = command.steps
    command.send(signal.SIGCONT)
    assert command.join() == 0, command.log.read_text()
    report = Run(tmp_path / "run").read_report()
    assert report["steps"] > stopped + 3 and 4 <= report["seconds"] < 8


def test_two_processes_on_one_run(scene, tmp_path):
    out = tmp_path / "run"
    first = train(scene, out, "--training.steps", "100000").start()
    first.wait_for(lambda: first.steps > 5)
    for more in ("--resume", "--overwrite"):
        second = train(scene, out, more)
        second.log = tmp_path / "second.log"
        refused(second.start(), "another process is training into it")
    done = first.steps
    first.wait_for(lambda: first.steps > done + 5)  # the first goes on undisturbed
    first.send(signal.SIGKILL)
    assert first.join() == -signal.SIGKILL
    assert train(scene, out, "--resume").start().join() == 0  # nothing is left of its lock


def test_two_processes_begin_one_run(scene, tmp_path):
    both = [train(scene, tmp_path / "run") for _ in range(2)]
    for number, command in enumerate(both):
        command.log = tmp_path / f"{number}.log"
        command.start()
    codes = sorted(command.join() for command in both)
    assert codes == [0, 2], [command.log.read_text() for command in both]


@pytest.mark.parametrize("kind", ["shape", "radiance"])
def test_the_same_twice_and_eight_evaluations_at_once(kind, ball, photographs, tmp_path):
    """Field, metrics and packed file to the bit; scores of one file read by eight at once."""
    make, data = (shape_config, ball) if kind == "shape" else (radiance_config, photographs)
    scene = write_scene(tmp_path / "a.yaml", make(data, steps=STEPS))
    found = []
    for name in ("one", "two"):
        assert train(scene, tmp_path / name).start().join() == 0
        packing = ["pack", str(tmp_path / name), str(tmp_path / name) + SUFFIX, "--bits", "5", "--steps", "10"]
        packing = Command(packing, tmp_path / "pack.log").start()
        assert packing.join() == 0, packing.log.read_text()
        # The clock says when a training is scored: here at its end alone.
        metrics = {k: v for k, v in Run(tmp_path / name).read_metrics()[-1].items() if k != "seconds"}
        found.append((bits(tmp_path / name), metrics, (tmp_path / (name + SUFFIX)).read_bytes()))
    assert found[0] == found[1]
    commands = [
        Command(["eval", str(tmp_path / "one.sine"), "--data", str(data), "--json"], tmp_path / f"eval_{n}.log")
        for n in range(8)
    ]
    for command in commands:
        command.start()
    assert [command.join() for command in commands] == [0] * 8
    lines = {command.log.read_text().split('"seconds_evaluating"')[0] for command in commands}
    assert len(lines) == 1


def test_a_folder_left_by_a_process_killed_at_once(scene, tmp_path):
    """Between making the folder and saying what it is: neither a run to resume nor somebody's files."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".tmp-abc.yaml").write_text("kind: sh")
    assert main(["train", str(scene), "--out", str(tmp_path / "run"), "--training.steps", "2"]) == 0
    assert not list((tmp_path / "run").glob(".tmp-*"))
    shutil.rmtree(tmp_path / "run")
