"""Twins of operations on the CPU, compiled by numba; and that they run where numba cannot keep what it compiled.

numba writes what it compiled into `$NUMBA_CACHE_DIR`, beside the source or into the user's cache folder. Where it can
write into none of them it refuses to compile at all, and where such a folder is full or damaged it fails in the middle.
Here a kernel is compiled in memory then, at every start anew, and one line says so. Whoever looks at a terminal is also
told why nothing moves while kernels are compiled.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import caching, dispatcher, event
from tqdm import tqdm

_told = False


def _tell(problem: object) -> None:
    global _told
    if not _told:
        _told = True
        line = f"compiled kernels cannot be kept ({str(problem)[:200]}), so each start compiles them again"
        print(f"sinefield: {line}; set NUMBA_CACHE_DIR to a folder that can be written", file=sys.stderr)


class _Kept(caching.FunctionCache):
    """What numba keeps of one function; what cannot be read or written is left."""

    @contextmanager
    def _guard_against_spurious_io_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _tell(error.strerror or error)


def _cache_of(function: Callable[..., Any]) -> Any:
    try:
        return _Kept(function)
    except RuntimeError:
        _tell("no folder for them can be written")
        return caching.NullCache()


# numba has no setting for it.
if dispatcher.FunctionCache is caching.FunctionCache:  # pyright: ignore[reportAttributeAccessIssue]
    dispatcher.FunctionCache = _cache_of  # pyright: ignore[reportAttributeAccessIssue]


class _Compiling(event.Listener):
    """Says once that kernels are compiled, which takes up to a minute; one that is read from disk is no such event."""

    told = False

    def on_start(self, event: event.Event) -> None:
        if not self.told and sys.stderr.isatty():
            tqdm.write("compiling kernels: up to a minute, once on a machine …", file=sys.stderr)
        self.told = True

    def on_end(self, event: event.Event) -> None:
        pass


event.register("numba:compile", _Compiling())
