"""A scene file's whole journey: data in, field trained, scored, pictured, in a run folder."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sinefield.config import Config
from sinefield.fields.base import kind_of, make_task, read_data, settled
from sinefield.kernels.choose import only_stored_kernels, used_kernels
from sinefield.learning.board import check_board
from sinefield.learning.evaluate import evaluate
from sinefield.learning.loop import optimise
from sinefield.nn.backend import check_backend, training_device, use_backend
from sinefield.store.compiled import note_stored, stored
from sinefield.store.fields import save_field
from sinefield.store.run import Run
from sinefield.tensor_files import save_tensors

SHORT = 20.0
"""Seconds of training below which its scores are quick ones: full ones would take longer."""

PLAIN = (
    "note: trained without compiled kernels, which take half a minute to make; a training of 20 seconds or more makes "
    "them, once on a machine"
)


def train(
    config: Config, out: str | Path, resume: bool = False, overwrite: bool = False, full_scores: bool = False
) -> dict[str, Any]:
    """Train the field that `config` describes into the run folder `out`, evaluate it, return the report.

    The scores of a training of less than `SHORT` seconds are quick ones unless `full_scores`; those of so many steps
    are always full, and repeat. All input is read and checked before the folder is made.

    Raises:
        SinefieldError: bad input, an existing run without `resume` or `overwrite`, a device or backend that does not
            work here, a failed write.
        Interrupted: stopped by a signal; the state is saved.
    """
    short = config.training.steps is None and (config.training.seconds or SHORT) < SHORT
    with _kernels(config, short):
        return _trained(config, out, resume, overwrite, quick=short and not full_scores)


@contextmanager
def _kernels(config: Config, short: bool) -> Iterator[None]:
    """Let a short training do with the kernels that are compiled already, which takes half a minute otherwise; with a
    number of steps, which is to repeat to the bit, all are compiled."""
    if short and kind_of(config).short_in_torch and training_device(config.training.device).type == "cpu":
        with only_stored_kernels(stored()) as missed:
            yield
        if missed:
            print(PLAIN, file=sys.stderr)
    else:
        yield
        note_stored(used_kernels())


def _trained(config: Config, out: str | Path, resume: bool, overwrite: bool, quick: bool) -> dict[str, Any]:
    Run.check(out, config, resume, overwrite)
    check_backend(config)
    check_board(config.training.tensorboard)
    data = read_data(config)
    config = settled(config, data)
    task = make_task(config, data)
    use_backend(task.field, config.training)
    with Run.prepare(out, config, resume, overwrite) as run:
        result = optimise(task, config.training, run, config.seed, resume)
        save_field(run.field_path, task.field, {"seed": config.seed, **result})
        if beside := task.learned_beside():
            save_tensors(run.photographs_path, *beside)
        return evaluate(run, data, quick)
