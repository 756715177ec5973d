"""Commands to be stopped and hindered, each in a process forked from one that has everything imported."""

import faulthandler
import multiprocessing
import os
import signal
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import sinefield.export.capture as capture
import sinefield.export.report as report
import sinefield.fields.shape.scores as scores
import sinefield.learning.loop as loop
from sinefield import files
from sinefield.commands import cli
from sinefield.errors import SinefieldError
from sinefield.strict import dump_yaml, to_plain

PRELOADED = ["hostile", "killed", "matplotlib.figure", "matplotlib.backends.backend_agg"]
PRELOADED += [f"sinefield.export.{name}" for name in ("video", "field_page", "splats", "points", "depth", "textured")]
PRELOADED += [f"sinefield.learning.{name}" for name in ("train", "pack", "adapt")]
PRELOADED += ["sinefield.store.unpack", "sinefield.store.copies", "sinefield.data.made.synthetic"]
"""Of the one server that all of a test session's processes come from."""


LOCK = threading.Lock()
"""To be held where a process is started or asked for: multiprocessing then asks for all others too, and only the first
who asks is told how one ended."""


@dataclass
class Command:
    """One command in a process of its own.

    Attributes:
        arguments: what follows `sinefield`; or "-c" and a program in Python.
        log: the file that gets its standard output and standard error.
    """

    arguments: list[str]
    log: Path

    def start(
        self,
        at_save: tuple[int, str] | None = None,
        limit: int | None = None,
        threads: int = 1,
        variables: dict[str, str] | None = None,
        within: Path | None = None,
    ) -> "Command":
        """Start; returns once the command has begun.

        Arguments:
            at_save: (n, how): it kills itself at the n-th file that it saves: "before" the new file takes the old one's
                place, with "half" of it written, or "after"; or with "swapped" a folder.
            limit: bytes that a file may have.
            threads: threads that it computes with.
            variables: of its environment.
            within: only files saved in this folder, or below it, count in `at_save`.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.tally = context.Array("q", [0, 0], lock=False)  # begun, steps done
        self.process = context.Process(
            target=_command,
            args=(self.arguments, self.log, self.tally, at_save, limit, threads, variables or {}, within),
        )
        with LOCK:
            self.process.start()
        self.wait_for(lambda: bool(self.tally[0]))
        self.began = time.monotonic()
        return self

    def send(self, signum: int) -> None:
        os.kill(self.process.pid, signum)

    def join(self) -> int:
        """Wait for its end; returns its exit code, or minus the signal that it died of."""
        self.wait_for(lambda: False, 300)
        assert not self.alive(), f"{self.arguments} does not end"
        self.seconds = time.monotonic() - self.began
        return self.process.exitcode

    def alive(self) -> bool:
        with LOCK:
            return self.process.is_alive()

    def wait_for(self, condition: Callable[[], bool], seconds: float = 300) -> None:
        """Wait until something holds, the process has ended, or for so long."""
        until = time.monotonic() + seconds
        while not condition() and self.alive() and time.monotonic() < until:
            time.sleep(0.002)

    @property
    def steps(self) -> int:
        """Steps done when last seen."""
        return self.tally[1]

    def errors(self) -> list[str]:
        """Lines of its output that the command itself wrote, without progress bars."""
        return [line for line in self.log.read_text().splitlines() if line.startswith(("sinefield:", "Traceback"))]


def write_scene(path: Path, config: object) -> Path:
    path.write_text(dump_yaml(to_plain(config)))
    return path


def _command(
    arguments: list[str],
    log: Path,
    tally,
    at_save: tuple[int, str] | None,
    limit: int | None,
    threads: int,
    variables: dict[str, str],
    within: Path | None,
) -> None:
    import numba
    import torch

    torch.set_num_threads(threads)
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where the tests run in the background
    scores.SURFACE_RESOLUTION, scores.QUICK_RESOLUTION, scores.HELDOUT_POINTS = 24, 24, 2000
    capture.FRAMES_SHOWN, capture.LONGER_SIDE, capture.RESOLUTION = 2, 32, 16
    report.FRAMES, report.VIDEO_WIDTH, report.MESH_RESOLUTION = 2, 32, 24
    scores.shape_picture = lambda *_: np.zeros((8, 8, 3), np.uint8)
    generator = loop.step_generator

    def counted(seed: int, step: int, device: object = "cpu") -> torch.Generator:
        tally[1] = step
        return generator(seed, step, device)

    loop.step_generator = counted
    if limit is not None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    os.environ |= variables
    tempfile.tempdir = None  # asked for anew
    if at_save:
        _die_at_save(*at_save, within)
    sys.argv = ["sinefield", *arguments]
    tally[0] = 1
    try:
        if arguments[0] == "-c":
            _program(*arguments[1:])
        else:
            cli.entry()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _program(text: str) -> None:
    """Run a program in Python as a command is run: a SinefieldError is a line and code 2."""
    try:
        exec(text, {})
    except SinefieldError as error:
        print(f"sinefield: {error}", flush=True)
        raise SystemExit(2) from None


def _die_at_save(which: int, how: str, within: Path | None) -> None:
    count, fsync, replace, rename, exchange = [0], os.fsync, Path.replace, Path.rename, files._exchange

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def dying_fsync(descriptor: int) -> None:
        place = Path(f"/proc/self/fd/{descriptor}")
        elsewhere = within is not None and within not in place.readlink().parents
        if elsewhere or not stat.S_ISREG(os.fstat(descriptor).st_mode):  # or a folder
            return fsync(descriptor)
        count[0] += 1
        if count[0] == which and how in ("half", "before"):
            if how == "half":
                os.truncate(place, os.fstat(descriptor).st_size // 2)
            die()
        fsync(descriptor)

    def dying_replace(self: Path, target: Path) -> Path:
        replace(self, target)
        if count[0] >= which and how == "after":
            die()
        return target

    def dying_rename(self: Path, target: Path) -> Path:
        rename(self, target)
        if count[0] >= which and how in ("after", "swapped"):
            die()
        return target

    def dying_exchange(one: Path, other: Path) -> bool:
        done = exchange(one, other)
        if done and count[0] >= which:
            die()
        return done

    os.fsync, Path.replace, Path.rename, files._exchange = dying_fsync, dying_replace, dying_rename, dying_exchange
