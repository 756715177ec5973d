"""Trainings killed at random moments, in saves too: each goes on, and ends as if nothing had been; slow."""

import json
import random
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from killed import Command, write_scene
from small import radiance_config, shape_config

from sinefield.files import TEMPORARY
from sinefield.store.fields import load_field
from sinefield.store.run import Run
from sinefield.tensor_files import load_tensors

pytestmark = pytest.mark.slow
STEPS, KILLS = 40, 25  # past two updates of the occupancy grid; of each kind of training


class Case:
    """A training that saves after every step, and what it comes to when nobody stops it."""

    def __init__(self, kind, data, folder):
        config = (shape_config if kind == "shape" else radiance_config)(data, steps=STEPS)
        config.training.save_seconds, config.training.score_seconds = 1e-9, 0.02
        self.folder, self.scene = folder, write_scene(folder / f"{kind}.yaml", config)
        for _ in range(2):  # the first labels points and compiles kernels
            whole = self.training("whole", "--overwrite").start()
            assert whole.join() == 0, whole.log.read_text()
        self.seconds = whole.seconds
        self.result = self.result_of("whole")
        self.files = sum(1 for path in (folder / "whole").rglob("*") if path.is_file())

    def training(self, name, *more):
        return Command(["train", str(self.scene), "--out", str(self.folder / name), *more], self.folder / f"{name}.log")

    def result_of(self, name):
        """The field to the bit, the last line of metrics and the scores, without what a clock says."""
        run = Run(self.folder / name)
        report, last = run.read_report(), run.read_metrics()[-1]
        tensors = {k: v.numpy().tobytes() for k, v in load_field(run.folder)[0].state_dict().items()}
        clocked = ("run", "seconds", "seconds_evaluating", "bytes")  # the field's file has the seconds in its note
        return tensors, *({k: v for k, v in found.items() if k not in clocked} for found in (last, report))

    def goes_on(self, name, done):
        """Resume a stopped training, or begin it again where it had not begun; `done` steps were made."""
        run, more = Run(self.folder / name), []
        if run.config_path.exists():
            more = ["--resume"]
            saved = load_tensors(run.state_path, "state")[1]["step"] if run.state_path.exists() else 0
            assert done <= saved <= done + 1, f"{done} steps were done, {saved} are saved"
        else:
            assert done == 0
        resumed = self.training(name, *more).start()
        assert resumed.join() == 0, resumed.log.read_text()
        assert self.result_of(name) == self.result
        steps = [line["step"] for line in run.read_metrics()]
        assert steps == sorted(set(steps))
        assert not list(run.folder.rglob(f"{TEMPORARY}*"))
        shutil.rmtree(run.folder)


@pytest.fixture(scope="module", params=["shape", "radiance"])
def case(request, ball, photographs, tmp_path_factory):
    torch.set_num_threads(1)
    data = ball if request.param == "shape" else photographs
    return Case(request.param, data, tmp_path_factory.mktemp(request.param))


def together(trial, n):
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(trial, range(n)))


def test_killed_at_any_moment(case):
    """SIGKILL at moments spread over the steps, and every third over the whole command, its scoring included."""

    def trial(number):
        chance = random.Random(f"moment {number}")
        while True:
            training, step = case.training(f"moment_{number}").start(), chance.randrange(1, STEPS)
            if number % 3:
                training.wait_for(lambda: training.steps >= step)  # noqa: B023
            training.wait_for(lambda: False, chance.random() * (0.03 if number % 3 else case.seconds))
            if training.alive():
                training.send(signal.SIGKILL)
            if training.join() == -signal.SIGKILL:
                case.goes_on(f"moment_{number}", training.steps)
                return training.steps
            # It was faster than the one that was timed, or ended between the question and the signal.
            assert training.process.exitcode == 0, training.log.read_text()
            shutil.rmtree(case.folder / f"moment_{number}")

    steps = together(trial, KILLS - 10)
    assert len(set(steps)) > 5  # killed at many moments indeed


def test_killed_in_a_save(case):
    """SIGKILL while a file is half written, written but not in its place, and just in its place."""

    def trial(number):
        chance = random.Random(f"save {number}")
        which, how = chance.randrange(1, STEPS + case.files - 4), ("before", "half", "after")[number % 3]
        training = case.training(f"save_{number}").start((which, how))
        assert training.join() == -signal.SIGKILL, (which, how)
        case.goes_on(f"save_{number}", training.steps)
        return training.steps

    assert len(set(together(trial, 10))) > 3


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop_at_any_moment(case, signum, code):
    def trial(number):
        chance, name = random.Random(f"{signum} {number}"), f"asked_{signum}_{number}"
        training = case.training(name).start()
        training.wait_for(lambda: False, chance.random() * case.seconds)
        if training.alive():
            training.send(signum)
        if training.join() == 0:  # it was about to end anyway
            return
        assert training.process.exitcode == code, training.log.read_text()
        assert "Traceback" not in training.log.read_text()
        if training.errors() and "--resume" in training.errors()[-1]:
            assert load_tensors(Run(case.folder / name).state_path, "state")[1]["step"] >= training.steps
        case.goes_on(name, training.steps)

    together(trial, 4)


def test_the_report_is_json(case):
    assert json.loads((case.folder / "whole" / "report.json").read_text())["steps"] == STEPS
