"""A scene file's whole journey: data in, field trained, scored, pictured, in a run folder."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sinefield.config import Config
from sinefield.errors import SinefieldError
from sinefield.fields.base import Task, kind_of, make_task, read_data, settled
from sinefield.json_text import from_json, to_json
from sinefield.kernels.choose import only_stored_kernels, used_kernels
from sinefield.learning.board import check_board
from sinefield.learning.evaluate import evaluate
from sinefield.learning.loop import optimise
from sinefield.nn.backend import check_backend, training_device, use_backend
from sinefield.store.compiled import note_stored, stored
from sinefield.store.fields import save_field
from sinefield.store.run import Run
from sinefield.strict import to_plain
from sinefield.team import ALONE, Team
from sinefield.tensor_files import packed_tensors, save_tensors, unpacked_tensors
from sinefield.version import __version__

SHORT = 20.0
"""Seconds of training below which its scores are quick ones: full ones would take longer."""

PLAIN = (
    "note: trained without compiled kernels, which take half a minute to make; a training of 20 seconds or more makes "
    "them, once on a machine"
)


def train(
    config: Config,
    out: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    full_scores: bool = False,
    team: Team = ALONE,
) -> dict[str, Any]:
    """Train the field that `config` describes into the run folder `out`, evaluate it, return the report.

    The scores of a training of less than `SHORT` seconds are quick ones unless `full_scores`; those of so many steps
    are always full, and repeat. All input is read and checked before the folder is made.

    Of several processes the leader of the team alone writes, scores and returns a report; the others' is empty.

    Raises:
        SinefieldError: bad input, an existing run without `resume` or `overwrite`, a device or backend that does not
            work here, a failed write.
        Interrupted: stopped by a signal; the state is saved.
    """
    short = config.training.steps is None and (config.training.seconds or SHORT) < SHORT
    with _kernels(config, short):
        return _trained(config, out, resume, overwrite, short and not full_scores, team)


def train_unscored(config: Config, data: Any, out: str | Path) -> Run:
    """Train a field on data at hand into a new run folder, without scores and pictures; see `train`."""
    with _kernels(config, short=False):
        config = settled(config, data)
        task = make_task(config, data)
        use_backend(task.field, config.training)
        with Run.prepare(out, config) as run:
            _optimised(task, config, run)
    return run


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


def _trained(config: Config, out: str | Path, resume: bool, overwrite: bool, quick: bool, team: Team) -> dict[str, Any]:
    with team.together():
        if team.leads:
            Run.check(out, config, resume, overwrite)
            check_board(config.training.tensorboard)
        check_backend(config)
    with team.together():
        data = read_data(config)
        config = settled(config, data)
        task = make_task(config, data)
        use_backend(task.field, config.training)
        _check_shares(task, team)
    _check_alike(task, config, team)
    task.team = team
    if not team.leads:
        optimise(task, config.training, None, config.seed)
        return {}
    with Run.prepare(out, config, resume, overwrite) as run:
        _optimised(task, config, run, resume)
        return evaluate(run, data, quick)


def _optimised(task: Task, config: Config, run: Run, resume: bool = False) -> None:
    """Train, and keep the field in its run folder."""
    result = optimise(task, config.training, run, config.seed, resume)
    save_field(run.field_path, task.field, {"seed": config.seed, **result})
    if beside := task.learned_beside():
        save_tensors(run.photographs_path, *beside)


def _check_shares(task: Task, team: Team) -> None:
    """Refuse what several processes cannot share out."""
    if team.size == 1:
        return
    if not task.shares:
        raise SinefieldError(f"a field of kind {task.field.kind} trains in one process; start it without torchrun")
    if task.config.training.batch < team.size:
        raise SinefieldError(
            f"training.batch is {task.config.training.batch} for {team.size} processes; give at least one each"
        )


def _check_alike(task: Task, config: Config, team: Team) -> None:
    """Refuse processes that would not train the same field as the leader: of another version, settings or data.

    Data are known by what a field takes from them before it learns: its box, scale, view, hull.
    """
    if team.size == 1:
        return
    held = {name: tensor.detach().cpu().clone() for name, tensor in task.field.named_buffers()}
    note = {"versions": [__version__, torch.__version__], "settings": to_plain(config)}
    theirs, told = unpacked_tensors(team.first(packed_tensors(held, note)))
    with team.together():
        for name, own in note.items():
            if from_json(to_json(own)) != told[name]:
                raise SinefieldError(f"its {name} are not those of process 0; start all with the same")
        for name, own in held.items():
            other = theirs.get(name)
            if other is None or own.shape != other.shape or not _close(own.double(), other.double()):
                raise SinefieldError(f"its data are not those of process 0 (their {name} differs); give all the same")


def _close(own: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether numbers are the same but for rounding, which may move a few cells of a hull."""
    return bool((own - other).abs().mean() <= 1e-4 * other.abs().mean() + 1e-12) if own.numel() else True
