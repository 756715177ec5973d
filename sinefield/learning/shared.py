"""A network for a set of shapes, learned with a code for each; and the code of a shape that it has not seen.

An auto-decoder (Park et al., DeepSDF, CVPR 2019): codes are parameters, learned with the network; a new shape's code is
found by gradient descent with the network as it is. Codes are rounded to whole levels: random noise of that size stands
for it at first (Ballé et al., ICLR 2017), then the rounding itself, straight-through. The bits that they take under the
tables that the base will hold are part of the loss.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sinefield.compress.code import REACH, ratios, slopes_for
from sinefield.compress.quantize import Quantiser, Uniform
from sinefield.data.surfaces.sampling import sample_shape
from sinefield.data.surfaces.surface import Normalisation, Surface
from sinefield.errors import SinefieldError
from sinefield.fields.base import step_generator
from sinefield.fields.shared.field import SharedConfig, SharedField, SharedTrainingConfig
from sinefield.learning.refine import install
from sinefield.nn.optimisers import Adam
from sinefield.nn.point_error import errors

BITS = 7
"""Of a matrix entry of the base; codes are found for the rounded base."""
RISE = 50
"""Steps over which rates rise."""
SHARPENING = 0.2, 0.8
"""Shares of the steps between which the band narrows."""
ROUNDING = 0.6
"""Share of the steps from which on codes are rounded; before, noise stands for it."""
GAIN_LR = 0.1
"""Adam's rate for the gains, in eighths of a power of two."""
SEEN, LEAST = 0.02, 0.03
"""How fast the tables follow the codes, and the least mean absolute level that they are made for."""


class Samples(NamedTuple):
    """Labelled points of shapes, in random order.

    Attributes:
        points: field coordinates.
        values: signed distances, field units.
    """

    points: Float[np.ndarray, "s n 3"]
    values: Float[np.ndarray, "s n"]


def samples_of(surface: Surface, config: SharedConfig) -> Samples:
    """One shape's labelled points.

    Raises:
        SinefieldError: no mesh, or one that nothing is inside of.
    """
    if surface.faces is None:
        raise SinefieldError(f"{surface.source}: is a point cloud; a shared codec needs closed meshes")
    n = config.data.points or 16384
    place = Normalisation.fit(surface.aabb)
    found = sample_shape(surface, place, n, config.seed, config.data.near_fraction, cache=False)
    if not (found["values"] < 0).any():
        raise SinefieldError(f"{surface.source}: nothing is inside; a shared codec needs closed meshes")
    order = np.random.default_rng(config.seed).permutation(n)
    return Samples(found["points"][order][None], found["values"][order][None])


def train_base(config: SharedConfig, samples: Samples) -> tuple[SharedField, dict[str, Quantiser]]:
    """Learn the network that shapes share.

    Returns:
        the field as a reader of its file has it, and its quantisers.

    Raises:
        SinefieldError: no steps are given, or the loss is not finite.
    """
    training, total = config.training, config.training.steps
    if total is None:
        raise SinefieldError("a shared network is learned in steps, so that it repeats; set training.steps")
    torch.manual_seed(config.seed)
    field = SharedField(config.field)
    codes = _Codes(len(samples.points), field.numbers)
    points, values = torch.from_numpy(samples.points), torch.from_numpy(samples.values / config.field.band)
    own = [p for name, p in field.named_parameters() if name not in ("gains", "slopes")]
    optimiser = Adam([{"params": own, "lr": training.adam_lr}, {"params": [field.gains], "lr": GAIN_LR}])
    means = torch.full((field.numbers,), 2.0)
    n = min(training.queries, points.shape[1])
    for step in range(total):
        draw = step_generator(config.seed, step)
        share, rate = step / total, _rate(step, total)
        for group, lr in zip(optimiser.param_groups, (training.adam_lr, GAIN_LR), strict=True):
            group["lr"] = lr * rate
        chosen = torch.randperm(len(points), generator=draw)[: training.batch]
        first = int(torch.randint(points.shape[1] - n + 1, (), generator=draw))
        latent = codes.latent[chosen].requires_grad_()
        seen = _seen(latent, share, draw)
        x, wanted = points[chosen, first : first + n], values[chosen, first : first + n]
        loss = _loss(field, _encoded(field, x), wanted, seen, training, share)
        bits = _bits(seen, means).sum(1).mean()
        optimiser.zero_grad()
        (loss + training.rate * bits).backward()
        if not math.isfinite(float(loss.detach())):
            raise SinefieldError(f"the loss is {float(loss)} at step {step}; halve training.adam_lr")
        assert latent.grad is not None
        # Each shape's gradient as it would be alone: means over the batch divide it.
        codes.step(chosen, latent.grad * len(chosen), training.code_lr * rate)
        optimiser.step()
        means = (means + SEEN * (latent.detach().abs().mean(0) - means)).clamp(min=LEAST)
    levels = codes.latent.round().abs().mean(0).clamp(min=LEAST)
    with torch.no_grad():
        field.slopes.copy_(torch.from_numpy(slopes_for(levels.numpy())))
    quantisers = rounded_base(field)
    install(field, quantisers)
    return field.eval().requires_grad_(False), quantisers


def rounded_base(field: SharedField, bits: int = BITS) -> dict[str, Quantiser]:
    """Quantisers of a base: gains in eighths and slopes as they are, matrices with a step a row."""

    def of(name: str, p: Tensor) -> Quantiser:
        if name in ("gains", "slopes"):
            return Uniform(p, step=1.0)
        return Uniform(p, bits=bits, per_row=True) if name.startswith("network.weights") else Uniform(p, bits=8)

    return {name: of(name, p) for name, p in field.named_parameters()}


def fit_code(field: SharedField, samples: Samples, training: SharedTrainingConfig, seed: int) -> Int[np.ndarray, "m"]:
    """The levels of one shape's code, with the network as it is.

    Arguments:
        samples: of one shape.
    """
    codes = _Codes(1, field.numbers)
    encoded = _encoded(field, torch.from_numpy(samples.points))
    values = torch.from_numpy(samples.values / field.config.band)
    slopes = field.slopes.numpy()
    prices = _prices(torch.from_numpy(ratios(slopes)).float())
    total, every = training.code_steps, torch.zeros(1, dtype=torch.long)
    n = min(training.code_queries, encoded.shape[1])
    for step in range(total):
        draw = step_generator(seed, step)
        share = step / total
        first = int(torch.randint(encoded.shape[1] - n + 1, (), generator=draw))
        latent = codes.latent.clone().requires_grad_()
        seen = _seen(latent, share, draw)
        part = slice(first, first + n)
        loss = _loss(field, encoded[:, part], values[:, part], seen, training, share)
        (loss + training.rate * (seen.abs() * prices).sum()).backward()
        assert latent.grad is not None
        codes.step(every, latent.grad, CODE_SPEED * training.code_lr * _rate(step, total))
    return codes.latent[0].round().clamp(-REACH, REACH).to(torch.int64).numpy()


CODE_SPEED = 2.5
"""By how much faster codes move when they alone do."""


class _Codes:
    """Codes as parameters, in levels, with Adam's means of each shape's own steps."""

    def __init__(self, shapes: int, numbers: int) -> None:
        self.latent, self.first, self.second = (torch.zeros(shapes, numbers) for _ in range(3))
        self.steps = torch.zeros(shapes, 1)

    def step(self, chosen: Tensor, gradient: Tensor, lr: float) -> None:
        self.steps[chosen] += 1
        t = self.steps[chosen]
        self.first[chosen] = first = 0.9 * self.first[chosen] + 0.1 * gradient
        self.second[chosen] = second = 0.99 * self.second[chosen] + 0.01 * gradient * gradient
        moved = (first / (1 - 0.9**t)) / ((second / (1 - 0.99**t)).sqrt() + 1e-12)
        self.latent[chosen] = (self.latent[chosen] - lr * moved).clamp(-REACH, REACH)


def _encoded(field: SharedField, points: Float[Tensor, "k n 3"]) -> Float[Tensor, "k n e"]:
    # In plain torch: a few thousand points a step are not worth waking other threads.
    return field.encoding.reference(points.reshape(-1, 3)).view(*points.shape[:2], -1)


def _seen(latent: Float[Tensor, "k m"], share: float, draw: torch.Generator) -> Float[Tensor, "k m"]:
    """Codes as the network sees them: with noise, later rounded."""
    if share < ROUNDING:
        return latent + torch.rand(latent.shape, generator=draw) - 0.5
    return latent + (latent.detach().round() - latent.detach())


def _loss(
    field: SharedField,
    encoded: Tensor,
    wanted: Tensor,
    codes: Tensor,
    training: SharedTrainingConfig,
    share: float,
) -> Float[Tensor, ""]:
    begin, end = SHARPENING
    sharpness = training.sharpen ** min(max((share - begin) / (end - begin), 0.0), 1.0)
    return errors(field.decode(encoded, codes), wanted, "tanh", sharpness).mean()


def _rate(step: int, total: int) -> float:
    """Share of the full rates: up over a few steps, then down a cosine."""
    return min(1.0, (step + 1) / RISE) * max(0.5 + 0.5 * math.cos(math.pi * step / total), 0.02)


def _bits(levels: Float[Tensor, "k m"], means: Float[Tensor, "m"]) -> Float[Tensor, "k m"]:
    """Bits of levels under the tables for these means: two-sided geometric."""
    q = ((1 + means * means).sqrt() - 1) / means
    return torch.log2((1 + q) / (1 - q)) + levels.abs() * _prices(q)


def _prices(q: Tensor) -> Tensor:
    """Bits for each unit of a level's size."""
    return -torch.log2(q)
