"""One training by several processes: shares, gradients, one run folder, and what happens when one of them fails."""

import dataclasses
import json
import math
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from killed import Command, write_scene
from PIL import Image
from small import CENTRE, RADIUS, radiance_config, shape_config

import sinefield.team as team_of
from sinefield.commands.cli import main
from sinefield.config import make_config
from sinefield.errors import SinefieldError
from sinefield.fields.base import make_task, read_data, settled, step_generator
from sinefield.learning import loop
from sinefield.learning.loop import Interrupted, optimise
from sinefield.learning.train import _check_alike, _check_shares
from sinefield.store.run import Run
from sinefield.team import ALONE, Processes, joined
from sinefield.tensor_files import load_tensors

PLACE = ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")


# --- shares ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_are_all_of_a_batch_each_once(size):
    teams = [Processes(rank, size) for rank in range(size)]
    for n in (0, 1, size, 100, 2049):
        assert [i for team in teams for i in range(n)[team.part(n)]] == list(range(n))
        assert n == 0 or sum(team.share(n) for team in teams) == pytest.approx(1)
        assert max(len(range(n)[team.part(n)]) for team in teams) <= -(-n // size)


def cloud_config(folder, **training):
    sphere = np.random.default_rng(0).standard_normal((4000, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    np.savetxt(folder / "cloud.xyz", np.hstack([sphere * RADIUS + CENTRE, sphere]))
    return shape_config(folder / "cloud.xyz", **training)


def coloured_config(folder, **training):
    x, y, z = np.random.default_rng(0).standard_normal((3, 4000)) / 1.7
    paint = np.stack([x, y, z], 1) * 50 + 128
    rows = np.hstack([np.stack([x, y, z], 1), np.stack([x, y, z], 1), paint.clip(0, 255).astype(int)])
    head = "ply\nformat ascii 1.0\nelement vertex 4000\n"
    names = [("float", name) for name in ("x", "y", "z", "nx", "ny", "nz")]
    names += [("uchar", name) for name in ("red", "green", "blue")]
    head += "".join(f"property {kind} {name}\n" for kind, name in names) + "end_header\n"
    body = "\n".join(" ".join(f"{v:g}" for v in row) for row in rows)
    (folder / "cloud.ply").write_text(f"{head}{body}\n")
    return shape_config(folder / "cloud.ply", **training)


def image_config(folder, **training):
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    settings = {"kind": "image", "data": {"path": str(folder / "a.png")}, "field": {"width": 24, "rank": 4}}
    return make_config({**settings, "training": {"precision": "fp32", **training}}, "test")


def many_config(folder, **training):
    small = {"points": 64, "dim": 16, "tokens": 12, "heads": 2, "blocks": 1, "expand": 2}
    data = {"path": "families:blob", "shapes": 2, "held_out": 1}
    training = {"precision": "fp32", "queries": 128, **training}
    return make_config({"kind": "shapes", "data": data, "field": small, "training": training}, "test")


CASES = {
    "mesh": (lambda folder: shape_config(folder / "ball.ply", batch=2049, chunk=1000), 1000),
    "eikonal": (lambda folder: shape_config(folder / "ball.ply", batch=1025, chunk=1024, eikonal=0.2), 1025),
    "cloud": (lambda folder: cloud_config(folder, batch=501, chunk=500), 501),
    "coloured": (lambda folder: coloured_config(folder, batch=801), 801),
    "image": (lambda folder: image_config(folder, batch=1025, chunk=500), 1025),
    "shapes": (lambda folder: many_config(folder, batch=5), 640),
}
"""Settings, with batches that do not divide by 3, and about how many terms each gradient is the sum of."""


@pytest.mark.parametrize("name", CASES)
def test_the_parts_gradients_sum_up_to_the_whole(name, ball, tmp_path):
    """Before any optimiser; a chunk of one row leaves some processes without any."""
    (tmp_path / "ball.ply").write_bytes(ball.read_bytes())
    make, terms = CASES[name]
    config = make(tmp_path)
    data = read_data(config)
    task = make_task(settled(config, data), data)
    whole, loss = gradients(task, ALONE)
    parts = [gradients(task, Processes(rank, 3)) for rank in range(3)]
    assert sum(part[1] for part in parts) == pytest.approx(loss, rel=1e-5)
    for i, found in enumerate(whole):
        summed = torch.stack([part[0][i] for part in parts]).sum(0)
        # A sum of n terms in another order is off by some √n roundings of 2⁻²⁴ of what is added up.
        torch.testing.assert_close(
            summed, found, rtol=0, atol=float(10 * math.sqrt(terms) * 2**-24 * found.abs().max())
        )
    for part in parts:  # each is a share indeed
        assert max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(part[0], whole, strict=True)) > 0.1


def gradients(task, team):
    task.team = team
    task.field.zero_grad()
    loss = float(task.step(3, step_generator(0, 3)))
    return [p.grad.double().clone() for p in task.field.parameters() if p.grad is not None], loss


class Told(Processes):
    """A process that knows what all have found."""

    def __init__(self, rank, size, found):
        super().__init__(rank, size)
        self.found = found

    def whole(self, own, n):
        assert len(own) == len(self.found[self.part(n)]) and n == len(self.found)
        return self.found


def test_the_cap_on_samples_is_that_of_one_process(photographs):
    config = radiance_config(photographs)
    task = make_task(config, read_data(config))
    _, rays_o, rays_d, *_ = task._draw(step_generator(0, 0))
    n, jitter = task.n_rays, torch.rand(task.n_rays)
    counts = task.field.sampling(rays_o, rays_d, jitter=jitter).packed_info[:, 1]
    for most in (int(counts.sum()), int(counts.sum()) - 1, int(counts.sum()) // 3, int(counts[0]) - 1):
        whole = task.field.sampling(rays_o, rays_d, jitter=jitter, max_samples=most)
        starts, rays = [], 0
        for rank in range(3):
            task.team = Told(rank, 3, counts.clamp(max=most) if most < counts[0] else counts)
            own = task.team.part(n)
            found = task.field.sampling(rays_o[own], rays_d[own], jitter=jitter[own], max_samples=most)
            kept, used, place = task._within(found, most)
            assert (used, place.of) == (whole.n_rays, len(whole.t_starts))
            assert place.first == sum(map(len, starts)) or len(kept.t_starts) == 0
            starts.append(kept.t_starts)
            rays += kept.n_rays
        assert rays == whole.n_rays and torch.equal(torch.cat(starts), whole.t_starts)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"WORLD_SIZE": "2"}, "no place among several processes"),
        ({"WORLD_SIZE": "two", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}, "WORLD_SIZE=two"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}, "RANK is 2"),
    ],
)
def test_a_place_that_makes_no_sense_is_refused(given, said, monkeypatch, tmp_path, capsys):
    for name in PLACE:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "scene.yaml", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_an_address_that_does_not_answer_is_refused_in_time(rank, monkeypatch, capfd):
    monkeypatch.setattr(team_of, "JOIN", 1.0)
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")  # leaves this process's threads alone
    for name, value in place(rank, 2, free_port()).items():
        monkeypatch.setenv(name, value)
    assert main(["train", "scene.yaml"]) == 2
    error = capfd.readouterr().err
    assert f"process {rank} of 2 has not met the others within 1 seconds" in error


def test_other_commands_are_refused_by_one_process(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["info", "example:knot"]) == 2
    assert "sinefield info runs in one process" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit, match="2"):
        main(["info", "example:knot"])
    assert capsys.readouterr().err == ""


class Heard(Processes):
    """Process 1 that has been told what process 0 begins with."""

    def __init__(self, content):
        super().__init__(1, 2)
        self.content = content

    def first(self, content):
        return self.content

    def _sum(self, x):
        return x


class Telling(Processes):
    def __init__(self):
        super().__init__(0, 2)

    def first(self, content):
        self.content = content
        return content

    def _sum(self, x):
        return x


def test_what_several_processes_cannot_train_is_refused(ball, tmp_path):
    config = shape_config(ball, batch=3)
    surface = read_data(config)
    task = make_task(config, surface)
    _check_shares(task, Processes(0, 3))
    with pytest.raises(SinefieldError, match="batch is 3 for 4 processes"):
        _check_shares(task, Processes(0, 4))
    task.shares = False
    with pytest.raises(SinefieldError, match="kind shape trains in one process"):
        _check_shares(task, Processes(0, 2))
    _check_shares(task, ALONE)

    leader = Telling()
    _check_alike(task, config, leader)
    _check_alike(task, config, Heard(leader.content))
    with pytest.raises(SinefieldError, match="settings are not those of process 0"):
        _check_alike(task, dataclasses.replace(config, seed=1), Heard(leader.content))
    task.field.scale.mul_(1.01)
    with pytest.raises(SinefieldError, match="data are not those of process 0"):
        _check_alike(task, config, Heard(leader.content))


# --- processes ------------------------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def place(rank, size, port):
    values = (str(size), str(rank), "127.0.0.1", str(port))
    return dict(zip(PLACE, values, strict=True)) | {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}


class Pair:
    """One command in two processes that know of each other."""

    def __init__(self, folder, name, *arguments, second=()):
        port, out = free_port(), ["--out", str(folder / name)]
        self.commands = []
        for rank, more in enumerate(((), second)):
            command = Command(["train", *map(str, arguments), *out, *more], folder / f"{name}_{rank}.log")
            self.commands.append(command.start(variables=place(rank, 2, port)))

    def join(self):
        return [command.join() for command in self.commands]

    def errors(self):
        return [command.errors() for command in self.commands]

    def log(self, rank):
        return self.commands[rank].log.read_text()


@pytest.mark.slow
def test_two_processes_are_as_one(ball, photographs, tmp_path):
    """As near as one process comes to itself when it adds up in another order, which `training.chunk` brings about; and
    resumed to the bit. `main` is what the processes run."""
    port, folders = free_port(), [str(path) for path in (ball, photographs, tmp_path)]
    started = [
        subprocess.Popen(
            [sys.executable, __file__, *folders],
            env={**os.environ, **place(rank, 2, port), "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    (out, errors), (silence, _) = (process.communicate(timeout=300) for process in started)
    assert [process.returncode for process in started] == [0, 0], errors[-2000:]
    assert silence == ""
    for kind, found in json.loads(out.splitlines()[-1]).items():
        print(kind, found)
        # How far rounding alone takes a field in six steps is the processor's: up to 0.007 was seen.
        assert 0 < found["rounding"] < 0.03
        assert 0 < found["apart"] < 10 * found["rounding"]
        assert found["stopped"] == 3 and found["resumed"] == 0


def main_of_two() -> None:
    ball, photographs, folder = map(Path, sys.argv[1:])
    surface = radiance_config(photographs, steps=6, grid_every=2)
    surface.field.density, surface.field.frequencies = "distance", 2
    configs = {
        "shape": shape_config(ball, steps=6, batch=2047),
        "radiance": radiance_config(photographs, steps=6, grid_every=2),
        "surface": surface,
    }
    found = {}
    with joined() as team:
        for kind, config in configs.items():
            data = read_data(config)
            config = settled(config, data)

            def trained(name, team=ALONE, chunk=1024, resume=False, data=data, config=config):
                training = dataclasses.replace(config.training, chunk=chunk)
                task = make_task(dataclasses.replace(config, training=training), data)
                task.team = team
                run = Run.prepare(folder / name, config, resume) if team.leads else None
                with run or nullcontext():
                    result = optimise(task, training, run, 0, resume)
                return result["steps"], {k: v.double() for k, v in task.field.state_dict().items()}

            steps, two = trained(f"{kind}_two", team)
            assert steps == 6
            stopped = None
            with stopping_at(3):
                try:
                    trained(f"{kind}_stopped", team)
                except Interrupted as error:
                    stopped = error.signum
            assert stopped == signal.SIGTERM
            _, resumed = trained(f"{kind}_stopped", team, resume=True)
            if team.leads:
                saved = Run(folder / f"{kind}_stopped").read_metrics()[0]["step"]
                one, other = trained(f"{kind}_one")[1], trained(f"{kind}_other", chunk=341)[1]
                row = {"apart": apart(two, one), "rounding": apart(other, one)}
                found[kind] = {**row, "resumed": apart(resumed, two), "stopped": saved}
    if team.leads:
        print(json.dumps(found))


@contextmanager
def stopping_at(step):
    """A signal in the midst of a step, to one of the processes."""
    honest = loop.step_generator

    def sending(seed, index, device="cpu"):
        if index == step - 1 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return honest(seed, index, device)

    loop.step_generator = sending
    try:
        yield
    finally:
        loop.step_generator = honest


def apart(a, b):
    """By how much fields differ, in units of each tensor's largest number."""
    return max(float((a[k] - b[k]).abs().max() / b[k].abs().max().clamp(min=1e-9)) for k in a)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A scene file whose training saves after every step, and whose scores are soon made: an image's."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("image")
    config = image_config(folder, steps=6, batch=255, save_seconds=1e-9)
    return write_scene(folder / "scene.yaml", config)


@pytest.mark.slow
def test_one_process_writes_and_speaks(scene):
    pair = Pair(scene.parent, "run", scene, "--json")
    assert pair.join() == [0, 0], (pair.log(0), pair.log(1))
    lines = pair.log(0).splitlines()
    assert json.loads(lines[-1])["steps"] == 6
    assert sum(line.startswith("{") for line in lines) == 1
    assert pair.log(1) == ""
    assert [p.name for p in scene.parent.iterdir() if p.is_dir()] == ["run"]
    assert [line["step"] for line in Run(scene.parent / "run").read_metrics()] == [6]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed_and_the_training_goes_on(scene, victim):
    name = f"killed_{victim}"
    pair = Pair(scene.parent, name, scene, "--training.steps", "100000")
    pair.commands[0].wait_for(lambda: pair.commands[0].steps >= 3)
    pair.commands[victim].send(signal.SIGKILL)
    codes = pair.join()
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 2
    assert pair.errors()[1] == []
    if victim:
        assert len(pair.errors()[0]) == 1 and "another of the processes has ended" in pair.errors()[0][0]
    saved = load_tensors(Run(scene.parent / name).state_path, "state")[1]["step"]
    assert saved >= 2
    goes_on = Pair(scene.parent, name, scene, "--training.steps", str(saved + 2), "--resume")
    assert goes_on.join() == [0, 0], goes_on.log(0)
    assert Run(scene.parent / name).read_report()["steps"] == saved + 2
    alone = ["train", str(scene), "--out", str(scene.parent / name), "--training.steps", str(saved + 4), "--resume"]
    one = Command(alone, scene.parent / "alone.log").start()
    assert one.join() == 0, one.log.read_text()
    assert Run(scene.parent / name).read_report()["steps"] == saved + 4


@pytest.mark.slow
def test_a_signal_to_one_stops_all(scene):
    pair = Pair(scene.parent, "stopped", scene, "--training.steps", "100000")
    pair.commands[1].wait_for(lambda: pair.commands[1].steps >= 2)
    pair.commands[1].send(signal.SIGTERM)
    assert pair.join() == [143, 143], pair.log(0)
    assert pair.errors()[1] == [] and "--resume" in pair.errors()[0][0]
    assert load_tensors(Run(scene.parent / "stopped").state_path, "state")[1]["step"] >= 2


@pytest.mark.slow
def test_errors_of_one_end_all(scene):
    folder = scene.parent / "errors"
    (folder / "full").mkdir(parents=True)
    (folder / "full" / "mine.txt").write_text("x")
    pair = Pair(folder, "full", scene)
    assert pair.join() == [2, 2]
    assert len(pair.errors()[0]) == 1 and "is not empty and holds no run" in pair.errors()[0][0]
    assert pair.log(1) == ""

    pair = Pair(folder, "seeds", scene, second=["--seed", "1"])
    assert pair.join() == [2, 2]
    said = "sinefield: process 1 of 2: its settings are not those of process 0; start all with the same"
    assert pair.errors() == [[said], []]

    pair = Pair(folder, "missing", scene, second=["--data.path", str(folder / "no.png")])
    assert pair.join() == [2, 2]
    assert len(pair.errors()[0]) == 1 and "process 1 of 2" in pair.errors()[0][0] and "no.png" in pair.errors()[0][0]
    assert not (folder / "seeds").exists() and not (folder / "missing").exists()


@pytest.mark.slow
def test_the_leaders_clock_ends_a_timed_training(scene):
    timed = write_scene(scene.parent / "timed.yaml", image_config(scene.parent, seconds=1.0, batch=255))
    pair = Pair(scene.parent, "timed", timed, "--json")
    assert pair.join() == [0, 0], pair.log(0)
    assert json.loads(pair.log(0).splitlines()[-1])["seconds"] >= 1
    assert pair.commands[0].steps == pair.commands[1].steps


@pytest.mark.slow
def test_torchrun_starts_both(scene):
    out = scene.parent / "torchrun"
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    command = [*run, "-m", "sinefield", "train", str(scene), "--out", str(out), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["steps"] == 6
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 1 and again.stdout == ""  # torchrun's own code
    assert sum(line.startswith("sinefield:") for line in again.stderr.splitlines()) == 1


if __name__ == "__main__":
    main_of_two()
