"""A command, again and again: each time another allocation of memory fails, or all from one on.

    python tests/allocations.py NAME [TRIES] [LEAST]     one of COMMANDS; in a folder that holds a `run` of a shape

`failing_memory.c` counts and fails allocations of at least so many bytes (4096: fewer fail nowhere before a machine is
long dead), those of numpy, torch, Python's arenas and C libraries. The command has run once in the process that every
try is forked from, so that all is imported and compiled. Afterwards the old or the new output has to be there, whole,
and the command has to have ended with 0, or with 2 and one line. Nothing may be left over; but where no memory came
back, so that not even a folder could be listed, the next run has to clear it.
"""

import ctypes
import faulthandler
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SHIM = Path(__file__).with_name("failing_memory.c")
LEAST = 4096
CRASH = re.compile(r"Fatal Python error: (?:.|\n)*?\n(  File [^\n]*)")
IGNORED = re.compile(r"MemoryError\nException ignored in: 'skimage(?:.|\n)*?\nMemoryError: *\n")
"""What scikit-image's loop says of itself and goes on."""
PATIENCE = 120
"""Seconds that a try may take."""
COMMANDS = {
    "save": ["-c", "import sys, sinefield; sinefield.load('example:knot').save(sys.argv[1], overwrite=True)", "a.sine"],
    "pack": ["pack", "run", "a.sine", "--bits", "6", "--steps", "2", "--overwrite"],
    "ply": ["mesh", "example:knot", "a.ply", "--resolution", "24", "--overwrite"],
    "glb": ["mesh", "example:knot", "a.glb", "--resolution", "24", "--overwrite"],
    "obj": ["mesh", "example:knot", "a.obj", "--resolution", "24", "--overwrite"],
    "textured": ["mesh", "example:toys", "a.obj", "--level=16", "--resolution=24", "--faces=100", "--overwrite"],
    "video": ["video", "example:knot", "a.mp4", "--frames", "2", "--width", "32", "--overwrite"],
    "page": ["page", "example:knot", "a.html", "--overwrite"],
    "folder": [
        "-c",
        "import sys, sinefield; sinefield.load(sys.argv[1]).save(sys.argv[2], overwrite=True)",
        "run",
        "a",
    ],
}
COMMANDS["textured"] += ["--texture=32"]
OLD = {"textured": ["--texture=16"]}
"""What an old output was made with; of other commands it is the new one with a line break at the end of each file."""
BESIDE = re.compile(r"a\.[0-9a-f]{8}\.(mtl|png)")
"""What an OBJ names."""


@dataclass
class Findings:
    """Of all tries of one command: how they ended, how many left what the next run cleared, and what was wrong.

    `crashed` has the lines of Python that a crash was in: numpy's and scikit-image's own code do not survive all of it.
    """

    calls: int = 0
    left: int = 0
    crashed: list[str] = field(default_factory=list)
    ended: dict[int, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def compiled(folder: Path) -> Path:
    """The library to preload.

    Raises:
        OSError, subprocess.CalledProcessError: there is no C compiler, or it is not glibc that programs here use.
    """
    made = folder / "failing_memory.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", made, SHIM], check=True, capture_output=True)
    return made


def start(name: str, folder: Path, tries: int = 0, least: int = LEAST, **more) -> subprocess.CompletedProcess:
    """This file's own command line with the library, in a folder that holds `run`."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    variables = {**os.environ, **threads, "NUMBA_THREADING_LAYER": "workqueue", "LD_PRELOAD": str(compiled(folder))}
    command = [sys.executable, __file__, name, str(tries), str(least)]
    return subprocess.run(command, cwd=folder, env=variables, **more)


def try_all(name: str, folder: Path, tries: int = 0, least: int = LEAST) -> Findings:
    """Every allocation fails in turn, or `tries` of them, chosen by chance: alone, or with all that follow."""
    library, found, chance = ctypes.CDLL(None), Findings(), random.Random(name)
    library.failing_memory_arm.argtypes = [ctypes.c_size_t, ctypes.c_long, ctypes.c_long]
    library.failing_memory_count.restype = ctypes.c_long
    out, temporary, said = folder / "out", folder / "temporary", folder / "said"
    for place in (out, temporary):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    words = [str(folder / w if w == "run" else out / w if Path(w).stem == "a" else w) for w in COMMANDS[name]]
    run = prepared(words)
    assert run() == 0
    new = content(out)
    old = out.with_name("old")
    shutil.rmtree(old, ignore_errors=True)
    if name in OLD:
        assert prepared([*words, *OLD[name]])() == 0
        out.rename(old)
        out.mkdir()
    else:
        shutil.copytree(out, old)
        for file in old.rglob("*"):
            if file.is_file():
                file.write_bytes(file.read_bytes() + b"\n")
    before = content(old)
    assert before != new

    def attempt(number: int, times: int, fresh: bool = True) -> tuple[int, int]:
        """How it ended, and how many allocations it made."""
        if fresh:
            for place in (out, temporary):
                shutil.rmtree(place)
            shutil.copytree(old, out)
            temporary.mkdir()
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            faulthandler.enable()
            library.failing_memory_arm(least, number, times)
            code = run()
            library.failing_memory_arm(1 << 62, 0, 0) if number else None
            os.write(writing, str(library.failing_memory_count()).encode())
            os._exit(code)
        os.close(writing)
        code = waited(child)
        with os.fdopen(reading, "rb") as stream:
            count = int(stream.read() or 0)
        return code, count

    code, found.calls = attempt(0, 1)
    assert code == 0, said.read_text()
    assert content(out) == new
    numbers = range(1, found.calls + 1)
    for number in sorted(chance.sample(numbers, tries)) if 0 < tries < found.calls else numbers:
        times = chance.choice((1, 1 << 40))
        code, _ = attempt(number, times)
        found.ended[code] = found.ended.get(code, 0) + 1
        text, after = said.read_text(errors="replace"), content(out)
        lines = [line for line in text.replace("\r", "\n").splitlines() if line.startswith("sinefield:")]
        wrong = []
        if code < 0 and (where := CRASH.search(text)):
            found.crashed.append(f"signal {-code}, {where[1]}")
        elif code not in (0, 2) or "Traceback" in IGNORED.sub("", text) or len(lines) != (code == 2):
            wrong.append(f"code {code}: {text[-1500:]!r}")
        if after != new and (code == 0 or after != before):
            wrong.append(f"content: {sorted(after)}")
        if left(out, temporary):
            found.left += 1
            again = attempt(0, 1, fresh=False)[0]
            if (times == 1 and code >= 0) or again or content(out) != new or left(out, temporary):
                wrong.append(f"left over: {left(out, temporary)}")
        found.wrong += [
            f"{name}, allocation {number}, {'alone' if times == 1 else 'and all after it'}: {w}" for w in wrong
        ]
    return found


def left(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in [*folder.glob(".tmp-*"), *unnamed(folder)]]


def unnamed(out: Path) -> list[Path]:
    """Pictures and their libraries that belong to no OBJ."""
    heads = [path.read_bytes()[:4096] for path in out.glob("*.obj")]
    files = [path for path in sorted(out.glob("a.*")) if BESIDE.fullmatch(path.name)]
    return [path for path in files if not any(b"mtllib %s.mtl\n" % path.stem.encode() in head for head in heads)]


def content(out: Path) -> dict[str, str]:
    """Digests of the output's files, without what was being written and what is left over."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and ".tmp-" not in str(path.relative_to(out))]
    files = [path for path in files if path not in unnamed(out)]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files}


def prepared(words: list[str]):
    """What runs a command as `entry` does and returns its exit code."""
    import killed  # noqa: F401 - imports all that commands need
    import torch

    import sinefield.fields.shape.scores as scores
    from sinefield.commands import cli

    torch.set_num_threads(1)
    cli._silence_libraries()
    scores.SURFACE_RESOLUTION, scores.QUICK_RESOLUTION, scores.HELDOUT_POINTS = 24, 24, 2000
    scores.shape_picture = lambda *_: np.zeros((8, 8, 3), np.uint8)

    def run() -> int:
        try:
            if words[0] == "-c":
                sys.argv = words[1:]
                with told():
                    exec(words[1], {})
                return 0
            return cli.main(words)
        except SystemExit as left:
            return left.code
        except BaseException:
            import traceback

            traceback.print_exc()
            return 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()

    return run


def told():
    """A SinefieldError, or a lack of memory, of the library is a line and code 2, as the command line has it."""
    from contextlib import contextmanager

    from sinefield.errors import SinefieldError, lacks_memory

    @contextmanager
    def manage():
        try:
            yield
        except Exception as error:
            if not isinstance(error, SinefieldError) and not lacks_memory(error):
                raise
            print("sinefield:", type(error).__name__, file=sys.stderr)
            raise SystemExit(2) from None

    return manage()


def waited(child: int) -> int:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -999


if __name__ == "__main__":
    if "failing_memory" not in os.environ.get("LD_PRELOAD", ""):
        sys.exit(start(sys.argv[1], Path.cwd(), *map(int, sys.argv[2:])).returncode)
    del os.environ["LD_PRELOAD"]  # of ffmpeg's, which would be another's memory
    result = try_all(sys.argv[1], Path.cwd(), *map(int, sys.argv[2:]))
    tries = sum(result.ended.values())
    print(f"{sys.argv[1]}: {result.calls} allocations, {tries} tries, ended {result.ended}, {result.left} left over")
    for place in sorted(set(result.crashed)):
        print(f"{result.crashed.count(place)} crashes: {place}")
    print("\n".join(result.wrong))
    sys.exit(bool(result.wrong))
