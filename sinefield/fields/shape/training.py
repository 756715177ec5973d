"""A mesh or an oriented point cloud into a shape field."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sinefield.config import ShapeConfig, ShapeDataConfig
from sinefield.data.surfaces.sampling import (
    JUDGED_SEED,
    heldout_points,
    heldout_shell,
    sample_shape,
    surface_samples,
)
from sinefield.data.surfaces.sheet import SLAB
from sinefield.data.surfaces.surface import Normalisation, Surface
from sinefield.errors import SinefieldError
from sinefield.fields.base import Task, kept
from sinefield.fields.shape.colours import PROBED, ColourPoints, with_colours
from sinefield.fields.shape.field import ShapeField
from sinefield.kernels.cuda.graph import GraphedStep
from sinefield.metrics.shapes import iou
from sinefield.nn.backend import chunk_for, training_device
from sinefield.nn.point_error import error_sum, errors
from sinefield.nn.weights import materialised

CLOUD_EIKONAL = 0.1
DRAWN, POINTS_A_SECOND, FEWEST, MOST = 8, 30_000, 60_000, 2_000_000
"""Of points that a training prepares unless told: how often each is drawn at least, how many a second of training asks
for, and the fewest and most."""
BATCH_A_SECOND, BATCHES = 1024, (2048, 16384)
"""Points of a step for each second of the budget, and the fewest and most, where no setting says how many."""
QUICK_POINTS = 30_000
PROBED_POINTS = 16384
SHARPENING = 0.2, 0.8
"""Shares of the budget between which the band narrows; from the start on, a short training may find nothing at all."""
PACKED_STEPS, PACKED_BATCH, PACKED_POINTS = 1600, 4096, 300_000
"""Steps of packing with an effort of 1, their points, and how many are prepared at most."""
PACKED_NEAR, PACKED_RATE = 0.9, 3.0
"""Share of these points near the surface, unless a scene file says otherwise; and the rates at which packing trains a
new network, in times of the usual ones. Spot in 4,000 bytes, 2,200 steps of 2,048 points: IoU 0.9933 with the usual
share and rates, 0.9941 with either 0.9 or twice the rates."""
ENCODED_BYTES = 1 << 29
"""Encoded points are kept up to this size; 2 million take 132 MB."""


_held_out = lru_cache(maxsize=1)(heldout_points)


def settled(config: ShapeConfig, surface: Surface) -> ShapeConfig:
    """The configuration with what the data decide: see `represented` and `with_colours`."""
    return with_colours(represented(config, surface), surface)


def represented(config: ShapeConfig, surface: Surface) -> ShapeConfig:
    """The configuration with what the field is to represent decided: a sheet where nothing is inside, else a distance;
    and the weight of the eikonal loss, which point clouds need.

    Raises:
        SinefieldError: nothing is inside, and a field is asked for that says what is.
    """
    asked = config.field.represents
    if asked != "sheet":
        empty = not _held_out(surface, QUICK_POINTS, JUDGED_SEED)[1].any()
        if empty and asked:
            raise SinefieldError(
                f"{surface.source}: nothing is inside, so a field that represents {asked} has nothing to learn; set "
                "field.represents to sheet, which follows an open surface, or close the mesh"
            )
        asked = asked or ("sheet" if empty else "distance")
    eikonal = config.training.eikonal
    if eikonal is None:
        eikonal = CLOUD_EIKONAL if surface.faces is None else 0.0
    training = replace(config.training, eikonal=eikonal)
    field = replace(config.field, represents=asked)
    if training.reach == "far":
        if asked != "distance":
            raise SinefieldError(
                f"training.reach is far, which a field that represents {asked} cannot be; leave training.reach out"
            )
        field = replace(field, loss="asinh")
    return replace(config, field=field, training=training)


def prepared_points(config: ShapeConfig) -> int:
    """How many labelled points a training prepares: what was asked for, or as many as its budget can make use of.

    Labels take some 10 µs of CPU each: a short training would wait for them longer than it learns from them.
    """
    training = config.training
    if config.data.points is not None:
        return config.data.points
    if training.steps is not None:
        wanted = training.steps * points_a_step(config) // DRAWN
    else:
        wanted = round(POINTS_A_SECOND * (training.seconds or 0))
    return min(max(wanted, FEWEST), MOST)


def points_a_step(config: ShapeConfig) -> int:
    """The batch that was asked for, or one that leaves a short training enough steps.

    Small batches serve trainings of a second or two, large ones those of a minute (docs/speed.md).
    """
    training = config.training
    if training.batch is not None:
        return training.batch
    if training.steps is not None or training.seconds is None:
        return BATCHES[1]
    asked = round(BATCH_A_SECOND * training.seconds) // 512 * 512
    return min(max(asked, BATCHES[0]), BATCHES[1])


def packing(config: ShapeConfig, anew: bool) -> ShapeConfig:
    """How packing trains: by many small steps, on few points, which are soon prepared and lie closer to the surface; a
    new network at higher rates, as suits small ones and short trainings."""
    data, training = config.data, config.training
    faster = PACKED_RATE if anew else 1.0
    close = data.near_fraction == ShapeDataConfig().near_fraction and training.reach == "near"
    return replace(
        config,
        data=replace(
            data,
            points=data.points or min(prepared_points(config), PACKED_POINTS),
            near_fraction=PACKED_NEAR if close else data.near_fraction,
        ),
        training=replace(
            training,
            steps=PACKED_STEPS,
            batch=training.batch or PACKED_BATCH,
            lr=faster * training.lr,
            adam_lr=faster * training.adam_lr,
        ),
    )


class ShapeTask(Task):
    """One shape field being fitted to labelled points, prepared before training and drawn at random.

    Arguments:
        field: the one to be fitted, as it is and in its own coordinates; a new one when None.
    """

    shares = True

    def __init__(self, config: ShapeConfig, surface: Surface, field: ShapeField | None = None) -> None:
        # An edit leaves the colours of its field as they are.
        config = represented(config, surface) if field is not None else settled(config, surface)
        self.config = config = replace(config, training=replace(config.training, batch=points_a_step(config)))
        normalisation = Normalisation.fit(surface.aabb)
        if field is not None:
            normalisation = Normalisation(tuple(field.centre.tolist()), float(field.scale))
        data, training = config.data, config.training
        n = prepared_points(config)
        labelled = sample_shape(
            surface,
            normalisation,
            n,
            config.seed,
            near_fraction=data.near_fraction,
            kind=config.field.represents or "distance",
            half=SLAB * config.field.band,
        )
        device = self.device = training_device(config.training.device)
        # Shuffled once, so that a batch is a run of neighbours in memory.
        order = torch.randperm(n, generator=torch.Generator().manual_seed(config.seed))
        self.points = torch.from_numpy(labelled["points"])[order].to(device)
        values = torch.from_numpy(labelled["values"])[order].to(device)
        # Distances in bands, so that the loss reads the same at any band.
        self.values = values if config.field.represents == "occupancy" else values / config.field.band
        sheet = config.field.represents == "sheet"
        self.eikonal = 0.0 if sheet else training.eikonal or 0.0
        self.progress = 0.0
        self._encoded: Tensor | None = None
        self.oriented = None
        if surface.faces is None and not sheet:
            if self.eikonal == 0:
                raise SinefieldError(f"{surface.source}: a cloud needs training.eikonal above 0; leave it out")
            points, normals = surface_samples(surface, min(n, 500_000), config.seed)
            on_surface = normalisation.apply(points).astype(np.float32)
            self.oriented = tuple(torch.from_numpy(x).to(device) for x in (on_surface, normals.astype(np.float32)))
        self.coloured: ColourPoints | None = None
        if field is None and config.field.colours == "yes":
            self.coloured = ColourPoints(surface, normalisation, config.seed, device)
        torch.manual_seed(config.seed)
        centre, scale = (torch.tensor(v, dtype=torch.float64) for v in (normalisation.centre, normalisation.scale))
        made = ShapeField(config.field, centre, scale, torch.from_numpy(surface.aabb)) if field is None else field
        self.field = made.to(device)
        self.field.network.twice_differentiable = self.eikonal > 0
        self.graphed: GraphedStep | None = None
        if device.type == "cuda" and training.backend != "tinycudann" and self.eikonal == 0:
            shape = [*self.field.encoding.parameters(), *self.field.network.parameters()]
            self.graphed = GraphedStep(self._loss_of, shape)
        held_out = heldout_shell if sheet else _held_out
        self.held_out = held_out(surface, QUICK_POINTS, JUDGED_SEED)

    def hidden_matrices(self) -> list[nn.Parameter]:
        colours = self.field.colour_network
        return self.field.network.hidden_matrices() + ([] if colours is None else colours.hidden_matrices())

    def step(self, index: int, generator: torch.Generator) -> float | Tensor:
        """Accumulate the gradient of the mean loss over a random batch of the prepared points, and of its share of the
        coloured ones.

        On CUDA nothing in it waits for the device, and without `training.eikonal` it is one CUDA graph.
        """
        loss = self._shape_step(generator)
        if self.coloured is None:
            return loss
        colours = self.coloured.loss(self.field, self.config.training.batch, index, self.team)
        colours.backward()
        return loss + kept(colours)

    def _shape_step(self, generator: torch.Generator) -> float | Tensor:
        training = self.config.training
        host = generator
        if self.device.type != "cpu":  # a number drawn on the device would have to be waited for
            host = torch.Generator().manual_seed(generator.initial_seed())
        start = int(torch.randint(len(self.points), (), generator=host))
        encoded = self._encode()
        chunk = training.chunk or chunk_for(self.config.field.width, self.device)
        if self.graphed is not None and chunk >= training.batch:
            own = self.team.part(training.batch)
            part = self._run(start + own.start, own.stop - own.start)
            inputs = self.points[part] if encoded is None else encoded[part]
            sharpness = torch.full((), self._sharpness(), device=self.device)
            return self.graphed(inputs, self.values[part], sharpness, key=self.field.network.dtype)
        total = 0.0
        with materialised(self.field):
            for first in range(0, training.batch, chunk):
                n = min(chunk, training.batch - first)
                own = self.team.part(n)
                part = self._run(start + first + own.start, own.stop - own.start)
                seen = self.field.encoding(self.points[part]) if encoded is None else encoded[part]
                wanted = self.values[part].view(len(seen), self.values[:1].numel())
                given = seen, wanted, self.config.field.loss, self._sharpness()
                loss = error_sum(self.field.network, *given) / training.batch
                if self.eikonal:
                    loss = loss + self._gradient_loss(generator, n) * (n / training.batch)
                loss.backward()
                total += kept(loss)
        return total

    def _loss_of(self, inputs: Tensor, values: Tensor, sharpness: Tensor) -> Tensor:
        """Sum of the losses at points (n, 3), or at what the network sees of them, over the number of the batch."""
        raw = self.field(inputs) if inputs.shape[1] == 3 else self.field.from_encoded(inputs)
        return errors(raw, values, self.config.field.loss, sharpness).sum() / self.config.training.batch

    def _run(self, start: int, n: int) -> slice | Tensor:
        """`n` prepared points from `start` on, round the end."""
        total = len(self.points)
        start %= total
        if start + n <= total:
            return slice(start, start + n)
        return torch.arange(start, start + n, device=self.device) % total

    def _encode(self) -> Tensor | None:
        """What the network sees of all prepared points, computed once; None where it changes or takes too much
        memory."""
        dtype = self.field.encoding.dtype if self.config.field.frequencies else torch.float32
        trained = self.config.field.encoding == "hash"
        if trained or len(self.points) * self.field.encoding.out_features * dtype.itemsize > ENCODED_BYTES:
            return None
        if self._encoded is None or self._encoded.dtype != dtype:
            self._encoded = torch.cat([self.field.encoding(part) for part in self.points.split(1 << 16)])
        return self._encoded

    def _sharpness(self) -> float:
        """By how much the band is narrower now: a wide one finds the shape, a narrow one makes its surface exact."""
        begin, end = SHARPENING
        return self.config.training.sharpen ** min(max((self.progress - begin) / (end - begin), 0.0), 1.0)

    def _gradient_loss(self, generator: torch.Generator, n: int) -> Tensor:
        """Eikonal term at random points, and for point clouds distance 0 and the given normals on the surface.

        (Gropp et al., ICML 2020, eq. 2.) The gradient is that of distance in field units.
        """
        # A quarter as many points as the batch: each costs a second derivative.
        n = max(n // 4, 1)
        own = self.team.part(n)
        free = torch.rand(n, 3, generator=generator, device=self.device)[own] * 2 - 1
        chosen = free[:0]
        if self.oriented is not None:
            chosen = torch.randint(len(self.oriented[0]), (n,), generator=generator, device=self.device)[own]
        if not len(free):
            return free.sum()
        slope, _ = self._slope(free)
        loss = self.eikonal * (slope.norm(dim=1) - 1).square().mean()
        if self.oriented is not None:
            points, normals = self.oriented
            slope, raw = self._slope(points[chosen])
            direction = 1 - F.cosine_similarity(slope, normals[chosen])
            loss = loss + raw.abs().mean() + self.eikonal * direction.mean()
        return loss * self.team.share(n)

    def _slope(self, points: Tensor) -> tuple[Tensor, Tensor]:
        points = points.clone().requires_grad_()
        raw = self.field(points)
        (slope,) = torch.autograd.grad(raw.sum() * self.config.field.band, points, create_graph=True)
        return slope, raw

    def probe(self) -> Callable[[], Tensor]:
        field, points = self.field, self.points[:PROBED_POINTS]
        squash = torch.sigmoid if field.config.represents == "occupancy" else torch.tanh
        if self.coloured is None:
            return lambda: squash(field(points))
        painted = self.coloured.points[:PROBED_POINTS]
        return lambda: torch.cat([squash(field(points)).flatten(), PROBED * field.raw_colours(painted).flatten()])

    def quick_score(self) -> dict[str, float]:
        """IoU on a few held-out points; of a sheet that of its shell."""
        self.field.set_dtype(torch.float32)
        points, inside = self.held_out
        if self.field.sheet:
            return {"shell_iou": iou(self.field.shell(torch.from_numpy(points)).cpu().numpy(), inside)}
        return {"iou": iou(self.field.inside(torch.from_numpy(points)).cpu().numpy(), inside)}
