"""Time that training takes: neither a clock that is set nor a process that is stopped changes it."""

import ast
import os
import signal
from pathlib import Path

import pytest

import sinefield
from sinefield.learning import clock
from sinefield.learning.clock import Stint, noticing_stops


@pytest.fixture
def clocks(monkeypatch):
    """Seconds that passed, and seconds of the processor, both to be set."""
    now = {"passed": 0.0, "worked": 0.0}
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now["passed"])
    monkeypatch.setattr(clock.time, "process_time", lambda: now["worked"])
    return now


def test_a_stop_does_not_count(clocks):
    with noticing_stops():
        stint = Stint()
        clocks |= {"passed": 100.0, "worked": 0.5}
        assert stint.seconds == 100.0  # so slow is a machine that has much else to do
        os.kill(os.getpid(), signal.SIGCONT)
        assert stint.seconds == 0.5
        clocks["worked"] = 200.0  # by two threads
        assert stint.seconds == 100.0
        assert Stint().seconds == 0.0
    assert signal.getsignal(signal.SIGCONT) == signal.SIG_DFL


def test_nothing_asks_a_clock_that_can_be_set():
    """time.time and its like; what passes is time.perf_counter's and time.monotonic's."""
    settable = {"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime", "ctime", "strftime"}
    for path in Path(sinefield.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id not in ("time", "datetime", "date") or node.attr not in settable, path
            elif isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
                assert not settable & {name.name for name in node.names}, path
