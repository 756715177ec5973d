"""A scene file's whole journey: data in, field trained, scored, pictured, in a run folder."""

from pathlib import Path
from typing import Any

from sinefield.config import Config
from sinefield.fields.base import make_task, read_data, settled
from sinefield.learning.board import check_board
from sinefield.learning.evaluate import evaluate
from sinefield.learning.loop import optimise
from sinefield.nn.backend import check_backend, use_backend
from sinefield.store.fields import save_field
from sinefield.store.run import Run
from sinefield.tensor_files import save_tensors


def train(config: Config, out: str | Path, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Train the field that `config` describes into the run folder `out`, evaluate it, return the report.

    All input is read and checked before the folder is made.

    Raises:
        SinefieldError: bad input, an existing run without `resume` or `overwrite`, a device or backend that does not
            work here, a failed write.
        Interrupted: stopped by a signal; the state is saved.
    """
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
        return evaluate(run, data)
