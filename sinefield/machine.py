"""The machine: what a figure was measured on, and how its memory is kept."""

import ctypes
import gc
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any


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
