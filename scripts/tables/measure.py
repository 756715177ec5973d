"""The memory of a process while it runs, as Linux counts it."""

import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

EVERY = 0.01  # seconds between two looks


class Used(NamedTuple):
    """What a command took.

    Attributes:
        peak: bytes of memory at most, mapped files included, which the system takes back where it needs room.
        own: bytes at most that are the process's own.
        code: its exit status.
        output: standard output, with standard error where it failed.
    """

    peak: int
    own: int
    seconds: float
    code: int
    output: str


def measure(command: list[str], **popen: Any) -> Used:
    """Run a command to its end and watch its memory (of itself, not of processes that it starts)."""
    begin, peak, own = time.perf_counter(), 0, 0
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, **pipes, **popen) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            found = dict(
                line.split(":", 1) for line in status.read_text().splitlines() if line.startswith(("Vm", "Rs"))
            )
            if "VmHWM" in found:  # gone once it has ended
                peak = max(peak, 1024 * int(found["VmHWM"].split()[0]))
                own = max(own, 1024 * int(found["RssAnon"].split()[0]))
            time.sleep(EVERY)
        return Used(peak, own, time.perf_counter() - begin, process.returncode, process.stdout.read())
