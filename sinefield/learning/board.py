"""Scores of a training for TensorBoard, while it runs."""

from typing import Any

from sinefield.errors import SinefieldError
from sinefield.store.run import Run

CLOCK = ("step", "seconds")


class Board:
    """Scalars in `RUN/tensorboard`, a point for each line of metrics.jsonl; nothing where they are not wanted.

    Arguments:
        wanted: the setting `training.tensorboard`.
        step: where the training goes on; points of later steps, of a training that was stopped, are hidden.

    Raises:
        SinefieldError: tensorboardX is not installed.
    """

    def __init__(self, run: Run | None, wanted: bool, step: int = 0) -> None:
        self.writer: Any = None
        if wanted and run:
            self.writer = _summary_writer()(str(run.board), purge_step=step or None)

    def add(self, line: dict[str, Any]) -> None:
        """Add a line of metrics.jsonl: each number of it against its step."""
        if self.writer is None:
            return
        for name, value in line.items():
            if name not in CLOCK and isinstance(value, int | float):
                self.writer.add_scalar(name, value, line["step"])
        self.writer.flush()

    def close(self) -> None:
        """Write what is left."""
        if self.writer is not None:
            self.writer.close()


def check_board(wanted: bool) -> None:
    """Refuse, before anything is made, what could not be written. Raises SinefieldError: see `Board`."""
    if wanted:
        _summary_writer()


def _summary_writer() -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise SinefieldError(
            f"training.tensorboard needs tensorboardX ({error}); pip install 'sinefield[tensorboard]'"
        ) from error
    return SummaryWriter
