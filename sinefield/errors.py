"""The one exception that is the user's to mend."""

import errno
from typing import Any

LONGEST = 600
"""Characters of a message."""


class SinefieldError(Exception):
    """Bad input: the message is one line saying what is wrong, where, and what to do.

    The command line prints it and exits with code 2; library callers can catch it. What a file's contents bring into
    it can neither steer a terminal nor fill it: what is not printable becomes ?, and of a long message the middle goes.
    """

    def __init__(self, message: str) -> None:
        line = "".join(c if c.isprintable() else "?" for c in " ".join(str(message).split()))
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[-LONGEST // 3 :]}")


def lacks_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the CPU or on CUDA.

    >>> lacks_memory(MemoryError())
    True
    """
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's, of CUDA
    if named or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return any(
        words in str(error) for words in ("can't allocate memory", "can't start new thread")
    )  # torch's, Python's


def shown(value: Any) -> str:
    """A value as Python writes it, shortened."""
    try:
        text = repr(value)
    except ValueError:  # more digits than Python turns into text
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= 80 else text[:77] + "..."
