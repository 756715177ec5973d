"""A small packed field from data in memory, with nothing beside it: no run folder, no pictures, few held-out points."""

import math
import time
from typing import Any, NamedTuple

from sinefield.compress.container import encode
from sinefield.config import Config
from sinefield.errors import SinefieldError
from sinefield.fields.base import Task, kind_of, make_task, step_generator
from sinefield.learning.loop import make_optimizers, rate
from sinefield.learning.pack import Packer
from sinefield.learning.refine import Budget, install, sensitivities
from sinefield.learning.sizes import sized
from sinefield.store.sine_files import to_packed


class Small(NamedTuple):
    """A packed field.

    Attributes:
        content: of a `.sine` file.
        field: the same, in memory.
        seconds: of CPU, by part of the work.
    """

    content: bytes
    field: Any
    seconds: dict[str, float]


class _Packer(Packer):
    """A `Packer` of a field in memory."""

    def __init__(self, task: Task, config: Config) -> None:
        self.config, self.kind, self.task, self.field = config, kind_of(config), task, task.field
        self.noted, self.note, self.before = False, {}, 0.0
        self.judged_by = lambda field: next(iter(task.quick_score().values()))
        self.trained = {name: p.detach().clone() for name, p in self.field.named_parameters()}
        self.found = sensitivities(self.field, task.probe())


def fit_small(config: Config, data: Any, max_bytes: int, packing: float = 1.0, resize: bool = True) -> Small:
    """Train a field on its data and pack it into at most `max_bytes`, in steps that repeat to the bit.

    Arguments:
        config: with `training.steps`.
        data: as the kind's `read` gives them.
        packing: steps with rounded weights, in times of those before.
        resize: choose the network's width and rank by the bytes.

    Raises:
        SinefieldError: no steps, too few bytes, a loss that is not finite, data that the kind refuses.
    """
    steps = config.training.steps
    if steps is None:
        raise SinefieldError("a fleet counts steps, so that results repeat; give --training.steps")
    clock = _Clock()
    config = kind_of(config).settled(sized(config, max_bytes) if resize else config, data)
    task = make_task(config, data)
    clock.lap("points")
    _train(task, config, steps)
    clock.lap("training")
    packer = _Packer(task, config)
    quantisers = packer.within(max_bytes, Budget(steps=max(round(packing * steps), 1) if packing else None))
    install(task.field, quantisers)
    content = encode(to_packed(task.field, quantisers, {}))
    clock.lap("packing")
    return Small(content, task.field, clock.laps)


def _train(task: Task, config: Config, steps: int) -> None:
    optimizers = make_optimizers(task, config.training)
    base = [o.param_groups[0]["lr"] for o in optimizers]
    for index in range(steps):
        done = index / steps
        for optimizer, lr in zip(optimizers, base, strict=True):
            optimizer.param_groups[0]["lr"] = lr * rate(done, config.training)
            optimizer.zero_grad()
        task.progress = done
        loss = float(task.step(index, step_generator(config.seed, index, task.device)))
        if not math.isfinite(loss):
            raise SinefieldError(f"the loss is {loss} at step {index}; halve training.lr and training.adam_lr")
        for optimizer in optimizers:
            optimizer.step()


class _Clock:
    """CPU seconds of this process between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.last = time.process_time()

    def lap(self, name: str) -> None:
        now = time.process_time()
        self.laps[name], self.last = round(now - self.last, 3), now
