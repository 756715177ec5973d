"""One item apart from everything else: a process of its own with a limit of memory and of time.

`python -m sinefield.fleet.child` loads the package and its compiled kernels once, on one thread, and then forks a
process for each item that it is asked for. What an item breaks, leaks or leaves behind goes with its process, and no
item can see what came before it: results repeat to the bit in any order. Questions and answers are frames on standard
input and output; `Apart` is the other end.
"""

import gc
import json
import os
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from sinefield.errors import SinefieldError

HEAD = struct.Struct("<II")
THREADS = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""One thread an item. numba's own threads ("workqueue") can be forked, OpenMP's cannot."""
MEGA = 1 << 20
LARGEST = 1 << 30
Answer = tuple[dict[str, Any], bytes]


def write_frame(stream: IO[bytes], report: dict[str, Any], content: bytes = b"") -> None:
    """A report and bytes, with their lengths before them."""
    text = json.dumps(report).encode()
    stream.write(HEAD.pack(len(text), len(content)) + text + content)
    stream.flush()


def read_frame(stream: IO[bytes]) -> Answer:
    """What `write_frame` wrote. Raises EOFError where the other end is gone."""
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        raise EOFError
    sizes = HEAD.unpack(head)
    body = stream.read(sum(sizes))
    if len(body) < sum(sizes):
        raise EOFError
    return json.loads(body[: sizes[0]]), body[sizes[0] :]


class Apart:
    """Does items in processes of their own, one at a time.

    Arguments:
        warm: compile or load all that an item's training needs before the first is asked for.

    Examples:
        >>> with Apart(warm=False) as apart:
        ...     apart.do({"do": "nothing"}, memory=512, seconds=60.0)[0]["status"]
        'ok'
    """

    def __init__(self, warm: bool = True) -> None:
        self.warm = warm
        self.process: subprocess.Popen[bytes] | None = None

    def do(self, request: dict[str, Any], memory: int, seconds: float) -> Answer:
        """Do one item.

        Arguments:
            memory: MiB that it may take beyond what the loaded package takes.
            seconds: it may last.

        Returns:
            status ("ok" or "failed"), error, scores, parts, seconds (of CPU), peak (MiB); and the file's bytes.
        """
        for _ in range(2):  # the process that forks may have been killed by others: then once more
            process = self._started()
            assert process.stdin is not None and process.stdout is not None
            try:
                write_frame(process.stdin, {**request, "memory": memory, "limit": seconds})
                return read_frame(process.stdout)
            except (EOFError, OSError):
                self.close()
        return {"status": "failed", "error": "its process was ended from outside twice", "seconds": 0.0}, b""

    def _started(self) -> "subprocess.Popen[bytes]":
        if self.process is None or self.process.poll() is not None:
            command = [sys.executable, "-m", "sinefield.fleet.child", "warm" if self.warm else "cold"]
            given = {**os.environ, **THREADS, "NUMBA_THREADING_LAYER": "workqueue"}
            pipe = subprocess.PIPE
            # A session of its own: Ctrl-C is for whoever asks.
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=given, start_new_session=True)
        return self.process

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    stream.close()
            self.process.kill()
            self.process.wait()
            self.process = None

    def __enter__(self) -> "Apart":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main() -> None:
    """Answer requests until nobody asks any more."""
    asked, answers = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(2, 1)
    if sys.argv[1:] == ["warm"]:
        warm_up()
        gc.freeze()  # or the first search for unreachable objects would copy every page of every forked process
    while True:
        try:
            request, _ = _read_all(asked)
            if request["do"] != "nothing":
                import_module("sinefield.fleet.work")  # once, not in every process that is forked
            write_frame(answers, *_forked(request, asked))
        except (EOFError, BrokenPipeError):
            os._exit(0)  # nobody asks any more, nor could anything be flushed


def _read_all(stream: Any) -> Answer:
    """`read_frame` without a buffer, so that select tells whether more is there."""

    class Whole:
        def read(self, n: int) -> bytes:
            parts = b""
            while len(parts) < n and (part := os.read(stream.fileno(), n - len(parts))):
                parts += part
            return parts

    return read_frame(Whole())  # pyright: ignore[reportArgumentType]


def warm_up() -> None:
    """Load, or compile, what shapes are trained and packed by, before the first fork."""
    from sinefield.fleet.work import make_item

    training = {"steps": 3, "batch": 256}
    field = {"width": 8, "rank": 4}
    scene = {"kind": "shape", "data": {"points": 1000}, "field": field, "training": training}
    make_item(scene, "family:blob:0", 4000, 1.0, False)


def _forked(request: dict[str, Any], asked: Any) -> Answer:
    folder = tempfile.mkdtemp(prefix="sinefield-")
    reading, writing = os.pipe()
    begin = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _do_and_exit(request, writing, folder)
    os.close(writing)
    over, parts, length = False, [], 0
    while True:
        left = begin + float(request["limit"]) - time.monotonic()
        ready, _, _ = select.select([reading, asked], [], [], max(left, 0.0))
        if reading in ready:
            if not (part := os.read(reading, MEGA)):
                break
            parts.append(part)
            length += len(part)
            if length <= LARGEST:
                continue
        # Too long, too much, or nobody waits for the answer any more.
        over = True
        os.kill(pid, signal.SIGKILL)
        break
    os.close(reading)
    _, status, used = os.wait4(pid, 0)
    shutil.rmtree(folder, ignore_errors=True)
    spent = {"seconds": round(used.ru_utime + used.ru_stime, 3), "peak": used.ru_maxrss >> 10}
    return _answer(request, b"".join(parts), status, over, spent)


def _answer(request: dict[str, Any], given: bytes, status: int, over: bool, spent: dict[str, Any]) -> Answer:
    if over:
        error = f"takes longer than {request['limit']:g} s; give more by --timeout, or fewer steps"
        return {"status": "failed", "error": error, **spent}, b""
    try:
        from io import BytesIO

        report, content = read_frame(BytesIO(given))
        return {**report, **spent}, content
    except EOFError:
        ended = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit code {status >> 8}"
        error = f"its process ended by {ended}; of memory it may take {request['memory']:,} MiB (--memory)"
        return {"status": "failed", "error": error, **spent}, b""


def _do_and_exit(request: dict[str, Any], writing: int, folder: str) -> None:
    """In the forked process: limits, the work, the answer; never returns."""
    try:
        tempfile.tempdir = folder
        _limit(int(request["memory"]))
        report, content = _do(request)
        with os.fdopen(writing, "wb") as stream:
            write_frame(stream, report, content)
    finally:
        os._exit(0)


def _limit(memory: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + memory * MEGA
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _do(request: dict[str, Any]) -> Answer:
    if request["do"] == "nothing":
        return {"status": "ok", "error": None, "scores": {}, "parts": {}}, b""
    try:
        from sinefield.fleet.work import make_code, make_item, sample_item

        if request["do"] == "sample":
            content = sample_item(request["scene"], request["path"])
            return {"status": "ok", "error": None, "scores": {}, "parts": {}}, content
        if request["do"] == "code":
            made = make_code(request["scene"], request["path"], request["base"])
            return {"status": "ok", "error": None, "scores": made.scores, "parts": made.parts}, made.content
        made = make_item(*(request[name] for name in ("scene", "path", "max_bytes", "packing", "resize")))
        return {"status": "ok", "error": None, "scores": made.scores, "parts": made.parts}, made.content
    except SinefieldError as error:
        said = str(error)
    except MemoryError:
        said = f"needs more than the {request['memory']:,} MiB that an item may take; give more by --memory"
    except BaseException as error:
        said = str(SinefieldError(f"{type(error).__name__}: {error}"))
        if any(word in said for word in ("alloc", "failed to map segment")):
            said = f"needs more than the {request['memory']:,} MiB that an item may take ({said[:120]})"
    return {"status": "failed", "error": said}, b""


if __name__ == "__main__":
    main()
