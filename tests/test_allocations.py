"""Allocations of memory that fail one by one, or all from one on: saves, packing, exports, parallel loops; slow."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import allocations
import numpy as np
import pytest

import sinefield
from sinefield.errors import lacks_memory
from sinefield.export import textured
from sinefield.kernels.cpu.marks import check_done

KERNELS = Path(sinefield.__file__).parent / "kernels" / "cpu"
TAKES = {"empty", "zeros", "ones", "full", "copy", "empty_like", "zeros_like", "full_like", "concatenate"}


def calls(tree):
    return [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_loops_that_take_memory_mark_what_is_done():
    """Parallel loops, and what they call in their own file, or an overload elsewhere."""
    seen = 0
    for path in sorted(KERNELS.glob("*.py")):
        tree = ast.parse(path.read_text())
        functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        for function in functions.values():
            loops = [n for n in ast.walk(function) if isinstance(n, ast.For) and "prange" in ast.unparse(n.iter)]
            for loop in loops:
                called = calls(loop)
                called += [name for known in set(called) & set(functions) for name in calls(functions[known])]
                if any(name.rpartition(".")[2] in TAKES for name in called) or "share" in called:
                    assert "check_done" in calls(function), f"{path.name}: {function.name}"
                    seen += 1
    assert seen >= 8


def test_a_turn_that_is_not_done_is_told():
    done = np.ones(5, np.uint8)
    check_done(done)
    done[3] = 0
    with pytest.raises(MemoryError) as told:
        check_done(done)
    assert lacks_memory(told.value)


TURNS = """
import ctypes, json, numpy as np, sys
from sinefield.kernels.cpu.encoding import encode
library = ctypes.CDLL(None)
library.failing_memory_arm.argtypes = [ctypes.c_size_t, ctypes.c_long, ctypes.c_long]
x, outs = np.random.default_rng(0).random((1024, 3), np.float32), []
def made(number, out):
    library.failing_memory_arm(14_000, number, 1)
    try:
        encode(x, 20, out)
        return True
    except MemoryError:
        return False
    finally:
        library.failing_memory_arm(1 << 62, 0, 0)
whole = np.empty((1024, 123), np.float32)
assert made(0, whole)
ends = []
for number in range(1, 60):
    out = np.full_like(whole, -7)
    ends.append([made(number, out), bool((out == whole).all())])
print(json.dumps(ends))
"""


@pytest.mark.slow
def test_a_turn_without_memory_is_told(library):
    """Of a real loop, by two threads: never a result of which a part is missing."""
    threads = {"NUMBA_NUM_THREADS": "2", "LD_PRELOAD": str(library)}
    done = subprocess.run([sys.executable, "-c", TURNS], env={**allocations.os.environ, **threads}, capture_output=True)
    ends = json.loads(done.stdout)
    assert all(made == whole for made, whole in ends), ends
    assert sum(not made for made, _ in ends) >= 40  # three in each of 16 blocks


PICTURES = """
import ctypes, io, numpy as np
from PIL import Image
from sinefield.errors import lacks_memory
library, failed = ctypes.CDLL(None), 0
library.failing_memory_arm.argtypes = [ctypes.c_size_t, ctypes.c_long, ctypes.c_long]
picture = Image.fromarray(np.zeros((64, 64, 3), np.uint8))
picture.save(io.BytesIO(), "PNG")
for number in range(1, 20):
    library.failing_memory_arm(4096, number, 1)
    try:
        picture.save(io.BytesIO(), "PNG")
    except Exception as error:
        failed += 1
        assert lacks_memory(error), error
    finally:
        library.failing_memory_arm(1 << 62, 0, 0)
print(failed)
"""


@pytest.mark.slow
def test_a_picture_without_memory_is_told(library):
    variables = {**allocations.os.environ, "LD_PRELOAD": str(library)}
    done = subprocess.run([sys.executable, "-c", PICTURES], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3


def test_pictures_of_an_earlier_obj_go_at_a_second_look(tmp_path, monkeypatch):
    """The first look lacks memory."""
    (tmp_path / "a.0000002a.mtl").write_text(textured.LIBRARY.format("a.0000002a.png"))
    (tmp_path / "a.0000002a.png").write_bytes(b"ours")
    (tmp_path / "b.0000002a.png").write_bytes(b"mine")
    read, looks = textured.read_bytes, []

    def look(*given):
        looks.append(given)
        if len(looks) == 1:
            raise MemoryError
        return read(*given)

    monkeypatch.setattr(textured, "read_bytes", look)
    textured.clear_beside(tmp_path / "a.obj")
    assert [path.name for path in tmp_path.iterdir()] == ["b.0000002a.png"]


@pytest.fixture
def library(tmp_path):
    try:
        return allocations.compiled(tmp_path)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no C compiler, or another C library than glibc")


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("name", allocations.COMMANDS)
def test_allocations_that_fail(name, library, ball_run, tmp_path):
    shutil.copytree(ball_run[0], tmp_path / "run")
    done = allocations.start(name, tmp_path, 40, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
