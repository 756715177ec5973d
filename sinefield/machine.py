"""The machine: what a figure was measured on, and how its memory is kept."""

import ctypes
import gc
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from sinefield.errors import SinefieldError


def describe_machine() -> dict[str, Any]:
    """cpu (model name), cores, threads (of torch), torch, python, system; gpu where torch sees one."""
    import torch  # no part of importing this file: plain shape fields need the rest of it alone

    found = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@cache
def cpu_features() -> dict[str, bool]:
    """What the compiler says that this processor has, by LLVM's names; nothing where it cannot tell."""
    from llvmlite.binding import get_host_cpu_features

    try:
        return dict(get_host_cpu_features())
    except RuntimeError:
        return {}


@contextmanager
def few_objects_searched() -> Iterator[None]:
    """Let Python's search for unreachable objects leave those alone that are there already.

    Those of the modules alone, a quarter of a million, take it a fifth of a second, as long as 50 training steps. What
    was left alone before is searched again afterwards.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def ffmpeg_program() -> str:
    """The ffmpeg that imageio-ffmpeg brings along, or else the system's.

    Raises:
        SinefieldError: there is none.
    """
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        if program := shutil.which("ffmpeg"):
            return program
        raise SinefieldError("no ffmpeg program; pip install 'sinefield[video]'") from error


def free_memory() -> int | None:
    """Bytes that this process may still take: what the system, or its control group, has left; None if unknown."""
    left = []
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        left.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]))
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        folder = Path("/sys/fs/cgroup")
        with suppress(OSError, ValueError, StopIteration):  # "max": no limit
            most, taken = int((folder / limit).read_text()), int((folder / used).read_text())
            lines = (folder / limit).with_name("memory.stat").read_text().splitlines()
            files = int(next(line for line in lines if line.startswith(f"{cached} ")).split()[1])
            left.append(max(most - taken + files, 0))
    return min(left, default=None)


TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's names in malloc.h


@cache
def keep_freed_memory() -> None:
    """Once a process, let glibc's allocator keep what is freed, in blocks of up to 64 MB.

    A training step would hand each layer's activations back to the system, and fault them in again page by page: a
    sixth of its time. Other allocators are left as they are.
    """
    with suppress(OSError, AttributeError, TypeError):
        allocator = ctypes.CDLL(None)
        allocator.mallopt(TRIM_THRESHOLD, 2**31 - 1)
        allocator.mallopt(MMAP_THRESHOLD, 1 << 26)
