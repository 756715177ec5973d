"""Damaged files by the thousand, each try in a process that is watched: crashes, hangs, memory, writes, code.

`python tests/hostile.py FORMAT SEED` makes one try again, here, and shows where it fails; `python
tests/hostile.py FORMAT FIRST TRIES` makes many.
"""

import gc
import json
import math
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from hostile_format import Format
from hostile_formats import FORMATS, MADE, examples
from killed import LOCK, PRELOADED

from sinefield.errors import SinefieldError

SECONDS = 10  # of the processor's time a try may take
MEMORY = 2 << 30  # bytes more than the bare process that a try may ask for, and bytes that it may hold
LARGEST = 1 << 16  # bytes of a damaged file
CHUNK, MOST = 500, 2500  # tries a process, the second where there are very many: starting one takes seconds
PATIENCE = 300  # seconds on the clock for one try, where it waits instead of working
MESSAGE = 600  # characters of a refusal, its file's name included
TIME, TIME_A_BYTE = 0.05, 0.001  # seconds of the processor's time that reading a file may take: docs/reliability.md
SPACE, SPACE_A_BYTE = 64 << 20, 4096  # bytes that it may hold at most while it is read

# ---- damage

EXTREMES = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 62,
    1 << 63,
    2**64 - 1,
]
NUMBERS = "0 -1 -0.0 1e-320 1e-30 1e30 1e38 1e308 1e999 -1e308 nan NaN inf -Infinity 255 65536 2147483648 4294967295"
NUMBERS = [word.encode() for word in NUMBERS.split()] + [
    b"9" * 30,
    b"9" * 5000,
    b"",
    b"null",
    b"true",
    b'"7"',
    b"[]",
    b"{}",
]
WORDS = [
    b"../../secret.png",
    b"/etc/passwd",
    b"secret.png",
    b"\\..\\secret.png",
    b"C:\\secret.png",
    b"http://localhost/x",
]
WORDS += [
    b"\0",
    b"\xff\xfe",
    "é".encode(),
    b"\\ud800",
    b"\x1b[2J",
    b"\n",
    b" ",
    b"%s%n",
    b"{0}",
    b"a" * 300,
    b"[" * 3000,
]


def damaged(good: list[bytes], words: list[bytes], rng: random.Random) -> bytes:
    """One of the good files after one to four accidents."""
    data = bytearray(rng.choice(good))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not data:
            break
        # Where headers are, more happens.
        at = rng.randrange(len(data)) if rng.random() < 0.6 else rng.randrange(min(len(data), 200))
        rng.choice(ACCIDENTS)(data, at, good, words, rng)
        del data[LARGEST:]
    return bytes(data)


def _flip(data, at, good, words, rng):
    data[at] ^= 1 << rng.randrange(8)


def _byte(data, at, good, words, rng):
    data[at] = rng.choice((0, 255, rng.randrange(256)))


def _extreme(data, at, good, words, rng):
    size = rng.choice((1, 2, 4, 8))
    number = rng.choice(EXTREMES) % (1 << 8 * size)
    data[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))


def _float(data, at, good, words, rng):
    data[at : at + 4] = rng.choice(
        (b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\1\0\0\0", b"\0\0\x80\xff")
    )


def _cut(data, at, good, words, rng):
    del data[at:]


def _remove(data, at, good, words, rng):
    del data[at : at + rng.choice((1, 2, 4, 16, 100))]


def _insert(data, at, good, words, rng):
    data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 16)))


def _repeat(data, at, good, words, rng):
    data[at:at] = data[at : at + rng.choice((1, 8, 60))] * rng.choice((1, 2, 1000))


def _splice(data, at, good, words, rng):
    other = rng.choice(good)
    data[at:] = other[rng.randrange(len(other)) if rng.random() < 0.5 else min(at, len(other)) :]


def _swap(data, at, good, words, rng):
    size, to = rng.choice((1, 4, 20)), rng.randrange(len(data))
    data[at : at + size], data[to : to + size] = data[to : to + size], data[at : at + size]


def _number(data, at, good, words, rng):
    _replace(data, rb"-?\d+(?:\.\d*)?(?:e[-+]?\d+)?", at, rng.choice(NUMBERS), rng)


def _word(data, at, good, words, rng):
    _replace(data, rb"[A-Za-z_./\[\]{}:,\"]+", at, rng.choice(words + WORDS), rng)


def _replace(data, pattern, at, new, rng):
    """Put `new` in the place of what the pattern finds next, from `at` on or from the front."""
    if found := re.compile(pattern).search(data, at) or re.compile(pattern).search(data):
        data[found.start() : found.end()] = new


ACCIDENTS = [_flip, _byte, _extreme, _float, _cut, _remove, _insert, _repeat, _splice, _swap, _number, _number, _word]

# ---- one try


class Watch:
    """What Python says it opens and runs, as far as a reader of files has no business there."""

    def __init__(self, own: Path) -> None:
        self.seen: list[str] = []
        self.own, self.looking = own, False
        places = {
            sys.prefix,
            sys.base_prefix,
            "/proc",
            "/sys",
            "/usr/lib",
            "/usr/share",
            str(Path(__file__).parents[1]),
        }
        self.known = tuple(os.path.realpath(place) + "/" for place in places)
        sys.addaudithook(self._look)

    def _look(self, event: str, arguments: tuple) -> None:
        if not self.looking:
            return
        if event == "open":
            path, mode, flags = arguments
            if isinstance(path, int):
                return
            path = os.path.realpath(os.fsdecode(path))
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if isinstance(flags, int) else "w" in (mode or "")
            inside = path.startswith(str(self.own) + "/data/")
            if path != "/dev/null" and (writes or not (inside or path.startswith(self.known))):
                self.seen.append(f"{'writes' if writes else 'reads'} {path}")
        elif event.split(".")[0] in ("subprocess", "socket", "shutil", "pickle", "urllib") or event in (
            "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.remove", "os.rename", "os.mkdir", "os.symlink",
        ):  # fmt: skip
            self.seen.append(f"{event} {arguments!r:.80}")


def attempt(form: Format, folder: Path, watch: Watch | None = None) -> str:
    """Read the folder's files: "read", "refused", or what went wrong."""
    if watch:
        watch.looking = True
    try:
        form.load(folder)
        outcome = "read"
    except SinefieldError as error:
        outcome = "refused"
        text = str(error)
        if len(text) > MESSAGE or not text.isprintable():
            outcome = f"a message of {len(text)} characters: {text[:300]!r}"
        cause: BaseException | None = error
        while cause := cause.__cause__ or cause.__context__:
            if isinstance(cause, MemoryError):
                outcome = "asks for more memory than it may, and hides it: " + _last(cause)
    except BaseException as error:
        outcome = _last(error)
    if watch:
        watch.looking = False
        if watch.seen:
            outcome = "; ".join(watch.seen)[:500]
            watch.seen.clear()
    return outcome


def _last(error: BaseException) -> str:
    places = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
    return f"{type(error).__name__}: {str(error)[:200]} at {' < '.join(reversed(places[-5:]))}"


def place(form: Format, seed: int, folder: Path) -> None:
    """The example's folder as try number `seed` finds it: one file of it damaged."""
    rng = random.Random(f"{form.name} {seed}")
    if form.make:
        for file in folder.iterdir():
            file.unlink()
        for file, content in form.make(rng).items():
            (folder / file).write_bytes(content)
        return
    example = rng.choice(form.examples)
    name = rng.choice(form.damaged)
    name = name if name in example else next(n for n in form.damaged if n in example)
    good = [e[name] for e in form.examples if name in e]
    data = form.mend(damaged(form.open(good), form.words, rng), rng)
    for file, content in (example | {name: data}).items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    for file in set().union(*form.examples) - example.keys():
        (folder / file).unlink(missing_ok=True)


def _tries(form: Format, first: int, end: int, folder: Path, tally, send, seconds: float) -> None:
    """In a process of its own: tries one after another; `tally` holds the try at hand, and how many were what."""
    import torch

    from sinefield.cameras.cameras import Cameras

    torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, in the middle of whatever library
    os.chdir(folder)
    # What is compiled comes out of numba's own cache, a pickle, when it is first called.
    camera = Cameras(torch.eye(4)[None, :3], *torch.ones(2, 1, 2), torch.zeros(1, 4), 1, 1)
    camera.view(0)
    form.prepare()
    data, watch = folder / "data", None
    for seed in range(first, end):
        tally[0] = seed
        place(form, seed, data)
        if watch is None:
            attempt(form, data)  # brings in modules
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            watch = Watch(folder)
            gc.collect()
            gc.freeze()  # what the library holds is not gone through again and again, at some file's cost
        there = _listing(folder)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        outcome = _bounded(form, data, watch, tally) if form.bounded else attempt(form, data, watch)
        signal.setitimer(signal.ITIMER_PROF, 0)
        peak, before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10, tally[3]
        tally[3] = peak
        if changed := _listing(folder) ^ there:
            outcome = f"changes the folder: {sorted(changed)}"
        elif before <= MEMORY < peak:
            outcome = f"holds {peak >> 20} MiB"
        if outcome in ("read", "refused"):
            tally[1 if outcome == "read" else 2] += 1
        else:
            send.send((seed, outcome))


def _bounded(form: Format, data: Path, watch: Watch, tally) -> str:
    """The outcome, or by how much reading took more than the bounds; `tally` has the largest shares of them."""
    size = sum(file.stat().st_size for file in data.iterdir())
    bounds = TIME + TIME_A_BYTE * size, SPACE + SPACE_A_BYTE * size
    least = [math.inf, math.inf]
    for _ in range(3):  # what a first use of the library costs is not the file's cost
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        held, began = _memory("VmRSS"), time.process_time()
        outcome = attempt(form, data, watch)
        took = time.process_time() - began, _memory("VmHWM") - held
        least = [min(pair) for pair in zip(least, took, strict=True)]
        if outcome not in ("read", "refused"):
            return outcome
        if least[0] <= bounds[0] and least[1] <= bounds[1]:
            break
    for at, (cost, bound) in enumerate(zip(least, bounds, strict=True)):
        tally[4 + at] = max(tally[4 + at], round(1000 * cost / bound))
        tally[6 + at] = max(tally[6 + at], round(cost * (1000 if at == 0 else 1)))
    if least[0] > bounds[0] or least[1] > bounds[1]:
        return f"{size} bytes take {least[0] * 1000:.0f} ms and {least[1] >> 20} MiB, above the bounds"
    return outcome


def _memory(what: str) -> int:
    """Bytes that this process holds (VmRSS), or held at most (VmHWM)."""
    return int(re.findall(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())[0]) << 10


def _listing(folder: Path) -> frozenset[str]:
    return frozenset(f"{top}/{name}" for top, below, names in os.walk(folder) for name in (*below, *names))


# ---- many tries


@dataclass
class Outcome:
    """What the tries of one format came to."""

    name: str
    read: int = 0
    refused: int = 0
    peak: int = 0  # bytes
    costs: list[int] = field(default_factory=lambda: [0] * 4)  # thousandths of both bounds; milliseconds, bytes
    found: list[tuple[int, str]] = field(default_factory=list)

    def __str__(self) -> str:
        head = f"{self.name}: {self.read} read, {self.refused} refused, {len(self.found)} wrong, {self.peak >> 20} MiB"
        if any(self.costs):
            time, memory, milliseconds, held = self.costs
            head += f"; at most {time / 10:g} % of the time a file may take and {memory / 10:g} % of the memory"
            head += f" ({milliseconds} ms, {held / (1 << 20):.1f} MiB)"
        return "\n".join([head, *(f"  seed {seed}: {what}" for seed, what in sorted(self.found)[:20])])


def run(form: Format, tries: int, first: int = 0, seconds: float = SECONDS) -> Outcome:
    """Make tries of one format, a few processes at a time; a process that dies is a finding of the try it was at."""
    outcome = Outcome(form.name)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    root = Path(tempfile.mkdtemp(prefix="hostile-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))

    each = max(CHUNK, min(MOST, tries // 8))

    def chunk(start: int) -> None:
        end = min(start + each, first + tries)
        while start < end:
            folder = Path(tempfile.mkdtemp(dir=root))
            (folder / "data").mkdir()
            (folder / "secret.png").write_bytes(b"not yours")
            tally, (receive, send) = context.Array("q", [start, *[0] * 7], lock=False), context.Pipe(False)
            process = context.Process(target=_tries, args=(form, start, end, folder, tally, send, seconds))
            with LOCK:
                process.start()
            send.close()
            at, since = start, time.monotonic()
            try:
                while True:  # until the other end closes
                    if receive.poll(1):
                        outcome.found.append(receive.recv())
                    elif tally[0] != at:
                        at, since = tally[0], time.monotonic()
                    elif time.monotonic() - since > PATIENCE:
                        process.kill()
            except EOFError:
                _wait_for(process)
            outcome.read += tally[1]
            outcome.refused += tally[2]
            outcome.peak = max(outcome.peak, tally[3])
            outcome.costs = [max(pair) for pair in zip(outcome.costs, tally[4:], strict=True)]
            shutil.rmtree(folder, ignore_errors=True)
            start = tally[0] + 1
            if process.exitcode:
                why = signal.Signals(-process.exitcode).name if process.exitcode < 0 else f"exit {process.exitcode}"
                outcome.found.append((tally[0], {"SIGPROF": f"takes more than {seconds} s"}.get(why, f"dies of {why}")))

    try:
        with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), 8)) as pool:
            list(pool.map(chunk, range(first, first + tries, each)))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return outcome


def _wait_for(process: multiprocessing.Process) -> None:
    while True:
        with LOCK:
            if not process.is_alive():
                return
        time.sleep(0.005)


def main(arguments: list[str]) -> None:
    name = arguments[0]
    if len(arguments) > 2:  # FORMAT FIRST TRIES
        print(run(examples(name), int(arguments[2]), int(arguments[1])))
        return
    form, folder = examples(name), Path(tempfile.mkdtemp())
    place(form, int(arguments[1]), folder)
    print(folder, json.dumps(sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))))
    form.load(folder)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"{__doc__}\nformats: {' '.join(FORMATS | MADE)}")
    main(sys.argv[1:])
