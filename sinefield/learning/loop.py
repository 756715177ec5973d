"""The training loop that every kind of field shares: budget, rates, progress, scores, saves, resuming."""

import math
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import FrameType
from typing import Any, cast

import torch
from torch import Tensor
from tqdm import tqdm

from sinefield.config import RadianceTrainingConfig, Schedule
from sinefield.errors import SinefieldError, lacks_memory
from sinefield.fields.base import Task, step_generator
from sinefield.learning.board import Board
from sinefield.learning.clock import Stint, noticing_stops
from sinefield.learning.muon import Muon
from sinefield.machine import few_objects_searched
from sinefield.nn.backend import hidden_dtype
from sinefield.nn.hashgrid import HashGrid
from sinefield.nn.optimisers import Adam, Optimiser
from sinefield.store.run import Run
from sinefield.tensor_files import load_tensors, packed_tensors, save_tensors, unpacked_tensors

LOOK_EVERY = 32
"""Steps on CUDA between two looks at the losses: a look waits for the device."""
SCORING = 0.1
"""Time of a quick score over the training time before the next one, at most. Slow scores come less often."""
RAREST = 10
"""Most times `score_seconds` that lie between two quick scores, however slow they are."""


class NotFinite(SinefieldError):
    """The loss is no number any more."""


class Interrupted(Exception):
    """Training was stopped by a signal after its state was saved."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def make_optimizers(task: Task, config: Schedule) -> list[Optimiser]:
    """Muon for the hidden matrices, Adam for the rest, Adam without ε for hash tables; or Adam for all."""
    matrices = task.hidden_matrices() if config.optimizer == "muon" else []
    tables = [m.table for m in task.field.modules() if isinstance(m, HashGrid)]
    taken = {id(p) for p in [*matrices, *tables]}
    rest = [p for p in task.field.parameters() if id(p) not in taken]
    optimizers: list[Optimiser] = [Adam(rest, lr=config.adam_lr)]
    if tables:
        # Most entries are met rarely, and then by few points: their gradients are far below the usual ε.
        optimizers.append(Adam(tables, lr=config.adam_lr, eps=1e-15))
    if matrices:
        optimizers.append(Muon(matrices, lr=config.lr))
    if own := task.own_parameters():
        fit_lr = cast("RadianceTrainingConfig", config).fit_lr  # a kind that has such parameters has the setting
        optimizers.append(Adam(own, lr=fit_lr))
    return optimizers


def rate(done: float, config: Schedule) -> float:
    """Share of the full learning rate when `done` (0 to 1) of the budget is spent: linear rise, cosine fall."""
    rise = min(1.0, (done + 1e-3) / config.warmup) if config.warmup else 1.0
    return rise * (config.final_lr + (1 - config.final_lr) * (0.5 + 0.5 * math.cos(math.pi * min(done, 1.0))))


def optimise(task: Task, config: Schedule, run: Run | None, seed: int, resume: bool = False) -> dict[str, Any]:
    """Train until the budget is spent; returns {"steps", "seconds", "loss"}.

    Of several processes (`Task.team`) each takes its part of every batch, and all move by the sum of their gradients;
    the clock is the leader's. The others have no run: they write nothing and score nothing.

    The first step is not on the clock: on a machine's first run it compiles kernels, which takes as long as hundreds.
    Nor is the time in which the process is stopped (Ctrl-Z).
    Where memory runs out in a step, the batch is halved, which is said, and training goes on; several processes stop.

    Raises:
        NotFinite: the loss is not finite; the last good state is kept.
        SinefieldError: a write failed; or another process has ended.
        Interrupted: SIGINT or SIGTERM; the state has been saved.
    """
    training = _Training(task, config, run, seed)
    if resume:
        training.resume()
    training.begin_alike()
    board = closing(Board(run, config.tensorboard, training.step))
    bars = _bar(config, training.step, training.seconds)
    with _signals() as stopped, noticing_stops(), few_objects_searched(), bars as bar, board as training.board:
        training.bar = bar
        bar.set_postfix_str("first step, which may compile")
        pause, waited = config.score_seconds, training.seconds
        saved = scored = waited  # `waited` counts the first step too: it is saved and shown as soon
        while training.progress < 1:
            waited += training.advance()
            signum = training.meet(stopped[0] if stopped else 0)  # a later signal is met after the next step
            ending = bool(signum) or training.progress >= 1
            scoring, saving = ending or waited - scored >= pause, ending or waited - saved >= config.save_seconds
            if run and (scoring or saving):
                training.catch_up()
            if run and scoring:
                pause = min(max(training.score(run) / SCORING, config.score_seconds), RAREST * config.score_seconds)
                scored = waited
            if run and saving:
                training.save(run)
                saved = waited
            if signum and training.progress < 1:
                raise Interrupted(signum)
    task.field.set_dtype(torch.float32)
    return {"steps": training.step, "seconds": round(training.seconds, 3), "loss": training.smooth}


class _Training:
    """A training under way.

    Attributes:
        step: how many were taken.
        seconds: time on the clock.
        progress: share of the budget that is spent, by the leader's clock.
        smooth: the loss, averaged over the last steps; None before the first was looked at.
    """

    bar: tqdm
    board: Board

    def __init__(self, task: Task, config: Schedule, run: Run | None, seed: int) -> None:
        self.task, self.config, self.run, self.seed = task, config, run, seed
        self.optimizers = make_optimizers(task, config)
        self.base = [o.param_groups[0]["lr"] for o in self.optimizers]
        self.learned = [p for o in self.optimizers for group in o.param_groups for p in group["params"]]
        self.step, self.seconds, self.progress, self.smooth = 0, 0.0, 0.0, None
        self.clocked = False
        self.unseen: list[float | Tensor] = []
        self.look_every = 1 if task.device.type == "cpu" else LOOK_EVERY
        self.dtype = torch.float16 if config.backend == "tinycudann" else hidden_dtype(config.precision, task.device)
        task.field.set_dtype(self.dtype)

    def resume(self) -> None:
        """Go on from the run's saved state, where there is one."""
        if self.run is None:
            return
        if self.run.state_path.exists():
            self._take(*load_tensors(self.run.state_path, "state"), str(self.run.state_path))
        self.run.cut_metrics(self.step)  # all of them, where it was stopped in its first save

    def begin_alike(self) -> None:
        """Start all processes from the leader's state, and find how far that is."""
        team = self.task.team
        if team.size > 1:
            content = team.first(packed_tensors(*self._state()) if team.leads else b"")
            if not team.leads:
                self._take(*unpacked_tensors(content), "process 0")
        self.progress = self.done()

    def meet(self, signum: int) -> int:
        """Have the leader's clock; returns a signal that any process was sent, 0 if none was."""
        self.seconds, signum = self.task.team.meet(self.seconds, signum)
        self.progress = self.done()
        return signum

    def done(self) -> float:
        """Share of the budget that is spent."""
        config = self.config
        return self.step / config.steps if config.steps else self.seconds / (config.seconds or 1)

    def advance(self) -> float:
        """Take one step, unless memory is lacking; returns the time it took, whether on the clock or not."""
        stint, done = Stint(), self.progress
        for optimizer, lr in zip(self.optimizers, self.base, strict=True):
            optimizer.param_groups[0]["lr"] = lr * rate(done, self.config)
        for p in self.learned:
            p.grad = None
        self.task.progress, team = done, self.task.team
        try:
            loss = self.task.step(self.step, step_generator(self.seed, self.step, self.task.device))
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error) or self.task.config.training.batch < 2:
                raise
            if team.size > 1:
                raise SinefieldError(
                    "too little memory for a step; lower training.batch, or use more machines"
                ) from None
            batch = self.task.halve_batch()
            tqdm.write(f"too little memory; the batch is now {batch:,} (training.batch)", file=sys.stderr)
            return 0.0
        self.unseen.append(team.add_gradients(self.learned, loss))
        if len(self.unseen) >= self.look_every:
            self._look(self.step)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        return self._tick(stint.seconds)

    def _tick(self, spent: float) -> float:
        """Put a step's time on the clock, all but the first's."""
        if self.clocked:
            self.seconds += spent
        else:
            self.bar.set_postfix_str("")
            self.clocked = True
        self.bar.update(1 if self.config.steps else max(min(self.seconds, self.bar.total) - self.bar.n, 0))
        return spent

    def catch_up(self) -> None:
        """Wait for the device's losses, which takes time that is on the clock."""
        if self.unseen:
            stint = Stint()
            self._look(self.step - 1)
            self.seconds += stint.seconds

    def _look(self, last: int) -> None:
        """Take in the losses of the steps up to `last`; none that is not finite is ever saved after."""
        if self.run is None:  # the leader looks
            self.unseen.clear()
            return
        for i, loss in enumerate(read(self.unseen), last + 1 - len(self.unseen)):
            if not math.isfinite(loss):
                raise NotFinite(
                    f"{self.run.folder}: the loss is {loss} at step {i}; the last good state is kept; "
                    "halve training.lr and training.adam_lr, and train anew with --overwrite"
                )
            self.smooth = loss if self.smooth is None else 0.98 * self.smooth + 0.02 * loss
        self.unseen.clear()

    def score(self, run: Run) -> float:
        """Score the field, write that down and show it; returns the time that took, which is not on the clock."""
        stint = Stint()
        score = self.task.quick_score()
        line = {"step": self.step, "seconds": round(self.seconds, 3), "loss": self.smooth, **score}
        run.append_metrics(line)
        self.board.add(line)
        name, value = next(iter(score.items()))
        speed = f", {self.step / self.seconds:.1f} steps/s" if self.seconds else ""
        self.bar.set_postfix_str(f"loss {self.smooth:.4g}, {name} {value:.4g}{speed}")
        self.task.field.set_dtype(self.dtype)
        return stint.seconds

    def save(self, run: Run) -> None:
        """Write all that resuming needs."""
        if not run.config_path.exists():  # a state alone would be no run
            raise SinefieldError(f"{run.folder}: was removed or moved while training into it; train again")
        finite = all(bool(p.isfinite().all()) for p in self.task.field.parameters())
        if not finite:  # the loss can be finite, its gradient not
            raise SinefieldError(
                f"{run.folder}: the field is not finite at step {self.step}; the last good state is kept; "
                "halve training.lr and training.adam_lr, and train anew with --overwrite"
            )
        tensors, note = self._state()
        save_tensors(run.state_path, tensors, note)

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that resuming needs."""
        tensors = {f"field.{k}": v for k, v in self.task.field.state_dict().items()}
        tensors |= {f"task.{k}": v for k, v in self.task.state().items()}
        for i, optimizer in enumerate(self.optimizers):
            for p, slots in optimizer.slots().items():
                for name, value in slots.items():
                    tensors[f"optimizer.{i}.{p}.{name}"] = torch.as_tensor(value)
        # Views into one storage cannot be written as they are.
        copies = {name: tensor.clone() for name, tensor in tensors.items()}
        return copies, {"step": self.step, "seconds": self.seconds, "loss": self.smooth}

    def _take(self, tensors: dict[str, Tensor], note: dict[str, Any], source: str) -> None:
        """Put back what `_state` gave."""
        groups: dict[str, dict[str, Tensor]] = {"field": {}, "task": {}, "optimizer": {}}
        try:
            for name, tensor in tensors.items():
                group, _, rest = name.partition(".")
                groups[group][rest] = tensor
            self.task.field.load_state_dict(groups["field"])
            self.task.load_state(groups["task"])
            for i, optimizer in enumerate(self.optimizers):
                slots: dict[int, dict[str, Tensor]] = {}
                for name, value in groups["optimizer"].items():
                    which, parameter, slot = name.split(".", 2)
                    if int(which) == i:
                        slots.setdefault(int(parameter), {})[slot] = value
                optimizer.take_slots(slots)
            loss = note.get("loss")  # files of earlier versions have none
            self.step, self.seconds = int(note["step"]), float(note["seconds"])
            self.smooth = None if loss is None else float(loss)
        except (RuntimeError, LookupError, ValueError, TypeError) as error:
            raise SinefieldError(f"{source}: does not fit this run ({error}); train anew with --overwrite") from error


def read(losses: list[float | Tensor]) -> list[float]:
    """Losses as numbers, with one wait for the device however many there are."""
    tensors = [loss for loss in losses if isinstance(loss, Tensor)]
    found = iter(torch.stack(tensors).tolist() if tensors else [])
    return [next(found) if isinstance(loss, Tensor) else loss for loss in losses]


def _bar(config: Schedule, step: int, seconds: float) -> tqdm:
    total, unit = config.steps or config.seconds or 0, "step" if config.steps else "s"
    form = "{desc}{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}{postfix}]"
    initial = step if config.steps else seconds
    interval = 0.2 if sys.stderr.isatty() else 10.0
    # Without a terminal a bar may take the last columns of nothing; keep its lines short and rare.
    return tqdm(
        total=total,
        initial=min(initial, total),
        unit=unit,
        desc="train",
        bar_format=form,
        mininterval=interval,
        maxinterval=interval,
        dynamic_ncols=sys.stderr.isatty(),
        ncols=None if sys.stderr.isatty() else 110,
    )


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying in the middle of a step; a second one acts at once."""
    caught: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(signum)

    try:
        previous = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever runs us keeps the signals
        previous = {}
    try:
        yield caught
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
