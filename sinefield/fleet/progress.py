"""How far a fleet is, as one line."""

import sys
import time
from typing import Any

SHOWN, LOGGED = 0.5, 10.0
"""Seconds between two lines on a terminal, where each replaces the last, and elsewhere."""


class Progress:
    """Counts items and shows them.

    Arguments:
        total: items of the fleet.
        kept: of these, done before.
        name: of the main score.
    """

    def __init__(self, total: int, kept: int, name: str) -> None:
        self.total, self.kept, self.name = total, kept, name
        self.done = self.failed = self.bytes = 0
        self.scores = 0.0
        self.scored = 0
        self.began = self.shown = time.monotonic()

    def add(self, row: dict[str, Any]) -> None:
        """Count an item that is finished, well or not."""
        if row["status"] != "ok":
            self.failed += 1
            return
        self.done += 1
        self.bytes += row["bytes"]
        if row["score"] is not None:
            self.scores += row["score"]
            self.scored += 1

    @property
    def per_hour(self) -> float:
        """Items finished an hour, since this command began."""
        return (self.done + self.failed) / max(time.monotonic() - self.began, 1e-9) * 3600

    def line(self) -> str:
        """done, failed, rate, time left, mean score, bytes."""
        left = self.total - self.kept - self.done - self.failed
        parts = [f"{self.kept + self.done:,}/{self.total:,} done, {self.failed:,} failed"]
        if self.done + self.failed:
            parts.append(f"{self.per_hour:,.0f} an hour, {span(3600 * left / self.per_hour)} left")
        if self.scored:
            parts.append(f"mean {self.name} {self.scores / self.scored:.4f}")
        if self.done:
            parts.append(f"{self.bytes / 1e3:,.0f} kB, {self.bytes / self.done:,.0f} bytes each")
        return "fleet: " + ", ".join(parts)

    def show(self, last: bool = False) -> None:
        """Write the line to standard error, unless it was just written."""
        terminal = sys.stderr.isatty()
        now = time.monotonic()
        if last or now - self.shown >= (SHOWN if terminal else LOGGED):
            self.shown = now
            line = self.line()
            print(f"\r{line:<118}" if terminal else line, end="\n" if last or not terminal else "", file=sys.stderr)
            sys.stderr.flush()


def span(seconds: float) -> str:
    """A time for people.

    >>> span(42), span(600), span(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
