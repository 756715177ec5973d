"""Thousands of damaged files of every format, and that the harness sees what it is there to see; slow."""

import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from hostile import run
from hostile_format import Format
from hostile_formats import FORMATS, MADE, examples

from sinefield.errors import SinefieldError

pytestmark = pytest.mark.slow
TRIES, NIGHTLY_TRIES = 1000, 4000


@pytest.mark.parametrize("name", FORMATS | MADE)
def test_damaged_files(name):
    survives(name, TRIES, 0)


@pytest.mark.nightly
@pytest.mark.parametrize("name", FORMATS | MADE)
def test_more_damaged_files(name):
    survives(name, NIGHTLY_TRIES, TRIES)


def survives(name, tries, first):
    if "manifest" in name:
        pytest.importorskip("pyarrow", reason="pyarrow is not installed; pip install 'sinefield[fleet]'")
    outcome = run(examples(name), tries, first=first)
    print(outcome)
    assert not outcome.found, str(outcome)
    assert outcome.read + outcome.refused == tries
    assert min(outcome.read, outcome.refused) > tries / 50  # they are damaged, and not beyond what readers look into


def crash(folder):
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(folder):
    while True:
        pass


def write_beside(folder):
    (folder.parent / "out.txt").write_text("x")


def write_in(folder):
    (folder / "made.txt").write_text("x")


def read_beside(folder):
    (folder.parent / "secret.png").read_bytes()


def execute(folder):
    os.system("true")


def allocate(folder):
    np.ones(3 << 30, np.uint8)


def take_time(folder):
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass


def take_memory(folder):
    np.ones(100 << 20, np.uint8)


def allocate_in_secret(folder):
    try:
        np.ones(3 << 30, np.uint8)
    except MemoryError as error:
        raise SinefieldError("a.txt: is damaged") from error


def raise_another(folder):
    raise ValueError("x")


TRAPS = {
    crash: "SIGSEGV",
    hang: "takes more than",
    write_beside: "out.txt",
    write_in: "made.txt",
    read_beside: "reads",
    execute: "os.system",
    allocate: "MemoryError",
    allocate_in_secret: "hides it",
    raise_another: "ValueError",
}


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.__name__)
def test_the_harness_sees(trap):
    """Each try is a finding with its own number, and a crash does not end the tries after it."""
    form = Format(trap.__name__, [{"a.txt": b"some text"}], ["a.txt"], Armed(trap), [])
    outcome = run(form, 3, first=7, seconds=0.5)
    assert sorted(seed for seed, _ in outcome.found) == [7, 8, 9]
    assert all(TRAPS[trap] in what for _, what in outcome.found), str(outcome)


@pytest.mark.parametrize("trap", [take_time, take_memory], ids=lambda trap: trap.__name__)
def test_the_harness_sees_what_is_above_the_written_bounds(trap):
    """A hundred bytes may take 150 ms and 64.4 MiB; neither is a finding where no bounds are asked for."""
    form = Format("bounds", [{"a.txt": bytes(100)}], ["a.txt"], Armed(trap), [], make=a_hundred_bytes)
    assert not run(form, 2).found
    outcome = run(replace(form, bounded=True), 2)
    assert [what.split(", ")[1] for _, what in outcome.found] == ["above the bounds"] * 2, str(outcome)


def a_hundred_bytes(chance):
    return {"a.txt": bytes(100)}


class Armed:
    """A trap that lets the first call pass, which the harness makes to bring in modules."""

    def __init__(self, trap):
        self.trap, self.armed = trap, False

    def __call__(self, folder):
        if self.armed:
            self.trap(folder)
        self.armed = True
