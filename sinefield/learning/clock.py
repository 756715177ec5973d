"""The time that training takes: no setting of the machine's clock changes it, and a stopped process takes none."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

_resumed = [0]
"""How often this process went on after it had been stopped."""


class Stint:
    """A piece of work, from now on.

    >>> stint = Stint()
    >>> 0 <= stint.seconds < 60
    True
    """

    def __init__(self) -> None:
        self._begin = _now()

    @property
    def seconds(self) -> float:
        """How long it has taken. If the process was stopped meanwhile, its processor time counts, if that is less."""
        passed, worked, resumed = (now - begin for now, begin in zip(_now(), self._begin, strict=True))
        return min(passed, worked) if resumed else passed


def _now() -> tuple[float, float, int]:
    return time.perf_counter(), time.process_time(), _resumed[0]  # neither clock can be set


@contextmanager
def noticing_stops() -> Iterator[None]:
    """Have a `Stint` know that the process was stopped (Ctrl-Z, SIGSTOP), which the main thread alone can notice."""

    def note(*_: object) -> None:
        _resumed[0] += 1

    try:
        previous = signal.signal(signal.SIGCONT, note)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGCONT, previous or signal.SIG_DFL)
