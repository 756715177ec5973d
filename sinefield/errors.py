"""The one exception that is the user's to mend."""

import errno
import mmap
import unicodedata
from typing import Any

LONGEST = 600
"""Characters of a message."""
ROOM = 256 << 20
"""Bytes that a process which is not at its limit can still get: numba's largest library takes 160 MiB."""


class SinefieldError(Exception):
    """Bad input: the message is one line saying what is wrong, where, and what to do.

    The command line prints it and exits with code 2; library callers can catch it. What a file's contents bring into
    it can neither steer a terminal nor fill it: what is not printable becomes ?, and of a long message the middle goes.
    """

    def __init__(self, message: str) -> None:
        line = "".join(c if c.isprintable() else "?" for c in " ".join(str(message).split()))
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[-LONGEST // 3 :]}")


LACKING = ("can't allocate memory", "not enough memory", "Cannot allocate memory", "out of memory", "bad_alloc")
LACKING += ("failed to map segment", "can't start new thread", "ALLOC_FAILED", "Unable to allocate")
LACKING += ("codec configuration error when writing image file",)
"""How torch, the loader of libraries, Python, CUDA and Pillow (of zlib) say it in errors that have no kind of their own
for it."""


def lacks_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the CPU or on CUDA; also where somebody took that for a damaged file and said so.

    >>> lacks_memory(MemoryError()), lacks_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    (True, True)
    """
    cause: BaseException | None = error
    while isinstance(cause, (SinefieldError, SystemError)):  # what it was raised from, or in the handling of
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    if cause is None:
        return False
    named = isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError"  # torch's, of CUDA
    if named or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM):
        return True
    return any(words in str(cause) for words in LACKING)


def at_limit() -> bool:
    """Whether this process gets no more memory, because of a limit that it was given (`ulimit -v`).

    >>> at_limit()
    False
    """
    try:
        mmap.mmap(-1, ROOM).close()
    except OSError:
        return True
    return False


def harmless(text: str) -> str:
    """Text for a terminal, with what could steer it as ?: names in it may be somebody else's. Line breaks stay.

    >>> harmless("a\x1b[2J é")
    'a?[2J é'
    """
    return "".join(c if c in "\n\t" or unicodedata.category(c)[0] != "C" else "?" for c in text)


def shown(value: Any) -> str:
    """A value as Python writes it, shortened."""
    try:
        text = repr(value)
    except ValueError:  # more digits than Python turns into text
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= 80 else text[:77] + "..."
