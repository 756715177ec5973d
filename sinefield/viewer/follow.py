"""A run as it grows: each field that it saves, kept to be looked at again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from sinefield.errors import SinefieldError
from sinefield.example_files import is_sine
from sinefield.fields.base import kind_of
from sinefield.store.fields import load_field, load_state_field
from sinefield.store.run import Run

MAX_SNAPSHOTS = 32


class Snapshot(NamedTuple):
    """A field as it was saved; step and seconds of training where the file says so.

    The field is a RadianceField, a ShapeField, or of a kind that is shown as one of these.
    """

    field: Any
    step: int
    seconds: float | None


class Follower:
    """The fields of a run folder, finished or still in training, or of a `.sine` file.

    Attributes:
        snapshots: what was seen so far, oldest first; empty while a training has saved nothing yet. Of more than
            MAX_SNAPSHOTS every second is dropped, so that a long training stays within memory.
        metrics: the run's scored moments, as `Run.read_metrics`.
        training: the newest snapshot is a training's state rather than its result.

    Args:
        adapters: edits of the run's field, see `load_field`.

    Raises:
        SinefieldError: no run and no packed field, or a damaged one.
    """

    def __init__(self, run: str | Path, adapters: Sequence[str | Path] = ()) -> None:
        self.name = str(run)
        # An edit is one of the finished field: there is no training to follow.
        self.run = None if is_sine(run) or adapters else Run(run)
        self.snapshots: list[Snapshot] = []
        self.metrics: list[dict[str, Any]] = []
        self.training = False
        self._stamps: tuple[Any, ...] = ()
        self._metrics_stamp: Any = None
        if self.run is None:
            self._add(*load_field(run, adapters))
        else:
            self.run.config()  # complains where there is no run
            self.poll()

    def poll(self) -> bool:
        """Look at the files; returns whether there are new snapshots or metrics.

        Raises:
            SinefieldError: a file is damaged.
        """
        if self.run is None:
            return False
        changed = False
        stamp = _stamp(self.run.metrics_path)
        if stamp != self._metrics_stamp:
            self._metrics_stamp, changed = stamp, True
            self.metrics = [line for line in self.run.read_metrics() if isinstance(line, dict)]
        # Of a result and a state the newer counts: a resumed run has an old result beside its state.
        paths = (self.run.field_path, self.run.state_path)
        stamps = tuple(_stamp(path) for path in paths)
        if stamps != self._stamps and any(stamps):
            newest = max((s, path) for s, path in zip(stamps, paths, strict=True) if s)[1]
            try:
                made = load_field(newest) if newest == self.run.field_path else load_state_field(self.run)
            except SinefieldError:
                if newest.exists():  # else a training began anew between the two looks
                    self._stamps = stamps
                    raise
                return changed
            self._stamps, changed = stamps, True
            self.training = newest == self.run.state_path
            self._add(*made)
        return changed

    def _add(self, field: nn.Module, note: dict[str, Any]) -> None:
        kind = kind_of(field)
        if kind.shows not in ("light", "surface"):
            raise SinefieldError(f"{self.name}: is a field of kind {kind.name}; {kind.instead}")
        step, seconds = note.get("step", note.get("steps")), note.get("seconds")
        snapshot = Snapshot(
            field, step if isinstance(step, int) else 0, seconds if isinstance(seconds, int | float) else None
        )
        if self.snapshots and snapshot.step < self.snapshots[-1].step:
            self.snapshots.clear()  # trained anew
        elif self.snapshots and snapshot.step == self.snapshots[-1].step:
            self.snapshots.pop()  # the result of the state before
        self.snapshots.append(snapshot)
        if len(self.snapshots) > MAX_SNAPSHOTS:
            del self.snapshots[1:-1:2]

    def nearest(self, step: int) -> Snapshot:
        """The snapshot whose step is nearest."""
        return min(reversed(self.snapshots), key=lambda snapshot: abs(snapshot.step - step))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
