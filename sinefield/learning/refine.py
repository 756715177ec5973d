"""Rounded weights that train on: where bits are spent, and what they become.

Steps are first set by measured sensitivity, then learned together with what they round.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from sinefield.compress.quantize import Bank, Quantiser, Uniform
from sinefield.compress.tensors import octaves
from sinefield.config import Schedule
from sinefield.errors import SinefieldError, shown
from sinefield.fields.base import Task, step_generator
from sinefield.learning.clock import Stint, noticing_stops
from sinefield.learning.muon import Muon
from sinefield.nn.optimisers import Adam, Optimiser

STEP_LR = 0.01
"""Adam's rate for the logarithm of a step: at 0.02 small fields lose their way, at 0.005 large ones adapt slowly."""
RISE = 50
"""Steps over which rates rise: Adam's first moves are of full size whatever the gradient."""
MUON_SHARE = 0.25
"""Muon's rate for what is rounded, as a share of that in training: more harms coarse rounding, less gains little."""
LANDING = 0.5
"""Share of the time from which on the size is brought to its target."""
WEIGHED_EVERY, GAIN = 25, 0.1
EFFORTS = 0.05, 50
"""The least and the most that packing may be told to take, in times of what it usually takes."""
REFINING = 10**7
BAR = "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}{postfix}]"


class Budget(NamedTuple):
    """How long to train with rounded weights: seconds, or steps, which repeat to the bit."""

    seconds: float = 0.0
    steps: int | None = None

    @classmethod
    def of(cls, seconds: float | None, steps: int | None, effort: float | None, usual: int) -> "Budget":
        """What is asked for: `steps`, else `seconds`, else `usual` steps times the effort, 1 when None."""
        if steps is not None:
            return cls(steps=steps)
        if seconds is not None:
            return cls(seconds)
        return cls(steps=max(round(usual * (1.0 if effort is None else effort)), 1))

    def __bool__(self) -> bool:
        return bool(self.steps or self.seconds)

    def split(self, share: float) -> tuple["Budget", "Budget"]:
        """A share of it, and the rest."""
        first = self.steps and min(max(round(share * self.steps), 1), self.steps)
        rest = Budget(self.seconds * (1 - share), self.steps and max(self.steps - (first or 0), 1))
        return Budget(self.seconds * share, first), rest

    def part(self, n: int) -> "Budget":
        """One of `n` equal parts."""
        return Budget(self.seconds / n, max(self.steps // n, 1) if self.steps else None)


def check_effort(effort: float | None) -> None:
    """Raises SinefieldError for what is no effort."""
    low, high = EFFORTS
    number = isinstance(effort, int | float) and not isinstance(effort, bool)
    if effort is not None and not (number and low <= effort <= high):
        raise SinefieldError(f"--effort {shown(effort)}; a number from {low} to {high}; 2 takes twice as long as 1")


def sensitivities(field: nn.Module, outputs: Callable[[], Tensor], seed: int = 0) -> dict[str, float]:
    """Mean square change of the outputs for each unit of mean square change of one tensor, by name.

    Each tensor in turn is disturbed by uniform noise like that of rounding to steps of an eighth of its root mean
    square; twice, and the mean is taken.
    """
    generator = torch.Generator().manual_seed(seed)
    found = {}
    with torch.no_grad():
        still = outputs()
        for name, parameter in field.named_parameters():
            kept = parameter.detach().clone()
            step = max(float(kept.square().mean().sqrt()), 1e-6) / 8
            changes = []
            for _ in range(2):
                noise = (torch.rand(kept.shape, generator=generator) - 0.5) * step
                parameter.copy_(kept + noise)
                changes.append(float((outputs() - still).square().mean()) / float(noise.square().mean()))
                parameter.copy_(kept)
            found[name] = max(sum(changes) / len(changes), 1e-20)
    return found


def allocate(field: nn.Module, found: dict[str, float], scale: float) -> dict[str, Uniform]:
    """Uniform quantisers whose steps spend bits where they buy most.

    A tensor of n entries with step s adds c·s²/12 to the outputs' square error (c: its sensitivity) and takes
    n·(h − log₂ s) bits. One more bit buys the same everywhere where s ∝ √(n/c) (reverse water-filling; Cover & Thomas,
    2006, §10.3.3); `scale` trades all bytes for all quality.
    """

    def groups(name: str) -> list[np.ndarray]:
        settings = getattr(field, "config", None)
        return octaves(getattr(field, "kind", ""), name, {} if settings is None else vars(settings))

    return {
        name: Uniform(p, step=scale * math.sqrt(p.numel() / found[name]), groups=groups(name))
        for name, p in field.named_parameters()
    }


def install(field: nn.Module, quantisers: Mapping[str, Quantiser]) -> None:
    """Give the field the values that a decoder would give it."""
    with torch.no_grad():
        for name, parameter in field.named_parameters():
            parameter.copy_(quantisers[name].values())


def refine(
    task: Task,
    quantisers: Mapping[str, Quantiser],
    weigh: Callable[[Mapping[str, Quantiser]], int],
    budget: "Budget",
    target: float | None,
    rate_weight: float,
    seed: int,
    training: Schedule,
) -> float:
    """Train on with rounded weights: gradients at the rounded values move what is rounded (straight-through).

    The loss is the task's plus `rate_weight` × the estimated bits; steps are learned too. With a `target` the weight
    slowly follows the size, and in the second half all steps move together to land on it. Muon takes the rounded
    hidden matrices where it took them in training (armadillo, 3.7 kB, 2,000 steps: IoU 0.971 against Adam's 0.962).
    The task's `progress` begins anew: what training narrows bit by bit is opened again. Left narrow, the armadillo had
    0.001 more IoU at 6.8 kB, and at 3.7 kB as much or, trained and packed for longer, 0.009 less.

    Arguments:
        weigh: size in bytes of the file that the quantisers would give.
        target: bytes; None leaves the weight as it is.
        rate_weight: loss per bit, at the start.

    Returns:
        The rate weight at the end.
    """
    field = task.field
    rounded = _Rounded(field, quantisers)
    optimizers = _optimizers(task, quantisers, training)
    moved = [group for optimizer in optimizers for group in optimizer.param_groups]
    base = [group["lr"] for group in moved]
    spent, index, done = 0.0, 0, 0.0
    total, unit = (budget.steps, "step") if budget.steps else (budget.seconds, "s")
    with noticing_stops(), tqdm(total=total, desc="pack", unit=unit, leave=False, disable=None, bar_format=BAR) as bar:
        while done < 1:
            stint = Stint()
            for group, rate in zip(moved, base, strict=True):
                group["lr"] = rate * _share(index, done)
            rounded.install()
            field.zero_grad(set_to_none=True)
            task.progress = done
            # Steps of their own random numbers, far from those of training.
            loss = task.step(REFINING + index, step_generator(seed, REFINING + index, task.device))
            if not math.isfinite(loss):
                raise SinefieldError(f"the loss is {loss} while packing; the run's field is damaged, train it again")
            if rounded.backward(rate_weight):
                for optimizer in optimizers:
                    optimizer.step()
            index += 1
            spent += stint.seconds
            done = index / budget.steps if budget.steps else spent / budget.seconds
            if index % WEIGHED_EVERY == 0:
                size = weigh(quantisers)
                if target is not None:
                    rate_weight *= (size / target) ** GAIN
                    if done > LANDING:
                        _shift_steps(quantisers, size - target)
                bar.set_postfix_str(f"{size:,} bytes, loss {loss:.4g}")
            bar.update(max(min(done, 1.0) * total - bar.n, 0))
    install(field, quantisers)
    return rate_weight


class _Rounded:
    """A field and the quantisers of its parameters, as many as can be in one `Bank`."""

    def __init__(self, field: nn.Module, quantisers: Mapping[str, Quantiser]) -> None:
        named = dict(field.named_parameters())
        together = {name: q for name, q in quantisers.items() if isinstance(q, Uniform) and Bank.takes(q)}
        self.bank = Bank(list(together.values())) if together else None
        self.of_bank = [named[name] for name in together]
        self.others = [(named[name], q) for name, q in quantisers.items() if name not in together]

    @torch.no_grad()
    def install(self) -> None:
        """As `install`."""
        if self.bank is not None:
            for parameter, value in zip(self.of_bank, self.bank.values(), strict=True):
                parameter.copy_(value)
        for parameter, quantiser in self.others:
            parameter.copy_(quantiser.values())

    def backward(self, rate_weight: float) -> bool:
        """Hand the parameters' gradients on; False where some have none, as when rays have met no sample at all."""
        grads = [p.grad for p in [*self.of_bank, *(p for p, _ in self.others)]]
        found = [grad for grad in grads if grad is not None]
        if len(found) < len(grads):
            return False
        if self.bank is not None:
            self.bank.backward(found[: len(self.of_bank)], rate_weight)
        for (_, quantiser), grad in zip(self.others, found[len(self.of_bank) :], strict=True):
            quantiser.backward(grad, rate_weight)
        return True


def _optimizers(task: Task, quantisers: Mapping[str, Quantiser], training: Schedule) -> list[Optimiser]:
    """Muon for the rounded hidden matrices where training had it, Adam for everything else and the steps."""
    named = dict(task.field.named_parameters())
    latents = {name: q.parameters()[0] for name, q in quantisers.items()}
    matrices = {id(p) for p in task.hidden_matrices()} if training.optimizer == "muon" else set()
    hidden = [p for n, p in latents.items() if id(named[n]) in matrices and p.dim() == 2]  # a codebook has one axis
    taken, steps = {id(p) for p in hidden}, _steps(quantisers)
    rest = [p for p in latents.values() if id(p) not in taken]
    groups = [{"params": rest, "lr": training.adam_lr}, *([{"params": steps, "lr": STEP_LR}] if steps else [])]
    adam = Adam(groups)
    return [adam, *([Muon(hidden, lr=MUON_SHARE * training.lr)] if hidden else [])]


def _steps(quantisers: Mapping[str, Quantiser]) -> list[nn.Parameter]:
    return [p for q in quantisers.values() for p in q.parameters()[1:]]


def _share(index: int, done: float) -> float:
    """Share of the full rates: up over a few steps, full for the first half, then down a cosine."""
    return min(1.0, (index + 1) / RISE) * (0.505 + 0.495 * math.cos(math.pi * max(2 * done - 1, 0.0)))


@torch.no_grad()
def _shift_steps(quantisers: Mapping[str, Quantiser], too_much: float) -> None:
    """Widen or narrow all steps alike by a part of what brings the size to its target.

    Arguments:
        too_much: bytes above the target.
    """
    entries = sum(q.levels().size for q in quantisers.values())
    # R = n·(h − log₂ s): a third of the way at a time.
    shift = 0.3 * math.log(2) * 8 * too_much / entries
    for p in _steps(quantisers):
        p += shift
