"""Folders that a program takes for granted and that cannot be written: numba's, the home, the temporary one."""

import os
import subprocess
import sys

import pytest

NOWHERE = "/dev/null/none"  # for root, too
UNKEPT = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator", "NUMBA_CACHE_DIR": NOWHERE}
"""Of numba's own: look in that one folder alone."""
KERNEL = """
import torch
from sinefield.kernels.cpu.points import farthest_points
found = farthest_points(torch.tensor([[[0.0, 0, 0], [1, 0, 0], [9, 0, 0]]]), 2)
print(found.tolist())
"""


def python(code, environment, *words):
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env={**os.environ, **environment}, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_kernels_run_where_numba_can_keep_nothing():
    code, out, err = python(KERNEL, UNKEPT)
    assert (code, out) == (0, "[[2, 0]]\n"), err
    assert err.count("\n") == 1 and "NUMBA_CACHE_DIR" in err


def test_numba_alone_would_refuse():
    """What the test above holds against."""
    code, _, err = python("import numba; numba.njit(cache=True)(lambda: 1)", UNKEPT)
    assert code == 1 and "no locator available" in err


@pytest.mark.slow
def test_a_full_folder_of_kernels_hinders_nobody(tmp_path):
    """The folder can be written, and then no file in it can grow."""
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    code, out, err = python(limit + KERNEL, {**UNKEPT, "NUMBA_CACHE_DIR": str(tmp_path)})
    assert (code, out) == (0, "[[2, 0]]\n"), err
    (line,) = [line for line in err.splitlines() if line.startswith("sinefield:")]  # numba warns of its own lock, too
    assert "cannot be kept" in line


def test_no_home_no_temporary_folder():
    missing = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "SINEFIELD_CACHE", "MPLCONFIGDIR"), NOWHERE)
    code, _, err = python("from sinefield.commands.cli import entry; entry()", missing, "info", "example:knot")
    assert code == 0 and "Traceback" not in err, err
