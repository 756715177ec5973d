"""Many shapes into one transformer, each seen through random scans."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sinefield.config import ShapesConfig
from sinefield.data.shape_sets import NEAR, SURFACE, VOLUME, Entry, ShapeSet, Solid, scan
from sinefield.errors import SinefieldError
from sinefield.fields.base import Task, kept
from sinefield.fields.latent.field import LatentShapeField, placement
from sinefield.metrics.shapes import iou
from sinefield.nn.backend import training_device

PROBES, PROBE_POINTS, JUDGED_POINTS = 24, 4096, 8192
"""Held-out shapes, and points in the box of each, by which progress is told."""
SHARPENING = 0.3, 0.9
"""Shares of the budget between which the band narrows."""


class ShapesTask(Task):
    """A transformer being fitted to scans of random shapes: new points, new noise, a new mirror image each time.

    Arguments:
        field: the one to be fitted, as it is; a new one when None.

    Raises:
        SinefieldError: more queries a step than there are labelled points of a shape.
    """

    shares = True

    def __init__(self, config: ShapesConfig, shapes: ShapeSet, field: LatentShapeField | None = None) -> None:
        self.config = config
        self.device = training_device(config.training.device)
        half = config.training.queries // 2
        if max(half, config.training.queries - half) > min(NEAR, VOLUME):
            raise SinefieldError(f"training.queries is {config.training.queries}; at most {2 * min(NEAR, VOLUME):,}")
        self.surface, self.points, self.values = (
            t.to(self.device) for t in (shapes.labelled.surface, shapes.labelled.points, shapes.labelled.values)
        )
        self.progress = 0.0
        self.probes = [
            Probe(entry, shapes.noise, config.field.points, PROBE_POINTS, i)
            for i, entry in enumerate(shapes.held_out[:PROBES])
        ]
        torch.manual_seed(config.seed)
        self.field = (LatentShapeField(config.field) if field is None else field).to(self.device)

    def hidden_matrices(self) -> list[nn.Parameter]:
        return self.field.hidden_matrices()

    def step(self, index: int, generator: torch.Generator) -> float | Tensor:
        """Accumulate the gradient of the mean loss over the queries of a batch of scans."""
        own = self.team.part(self.config.training.batch)
        cloud, x, values = (drawn[own] for drawn in self.draw(generator))
        loss = self._loss(self.field(cloud, x), values / self.config.field.band)
        loss = loss * self.team.share(self.config.training.batch)
        loss.backward()
        return kept(loss)

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Scans (b, n, 3), queries (b, q, 3) and their signed distances (b, q), all in field coordinates."""
        data, training = self.config.data, self.config.training
        n, device = self.config.field.points, self.device

        def number(high: int, shape: tuple[int, ...] = ()) -> Tensor:
            return torch.randint(high, shape, generator=generator, device=device)

        batch = training.batch
        chosen = number(len(self.surface), (batch,))
        if n <= SURFACE:
            rows = torch.rand(batch, SURFACE, generator=generator, device=device).argsort(1)[:, :n]
        else:
            rows = number(SURFACE, (batch, n))
        cloud = self.surface[chosen].gather(1, rows[..., None].expand(-1, -1, 3)).float()
        cloud = cloud + data.noise * torch.randn(cloud.shape, generator=generator, device=device)
        near = training.queries // 2
        # Points lie in no order: any run of them will do.
        first, second = int(number(NEAR - near + 1)), NEAR + int(number(VOLUME - (training.queries - near) + 1))
        parts = (chosen, slice(first, first + near)), (chosen, slice(second, second + training.queries - near))
        x = torch.cat([self.points[part] for part in parts], 1).float()
        values = torch.cat([self.values[part] for part in parts], 1).float()
        # Mirror images and quarter turns about z are shapes as good.
        mirror = torch.ones(batch, 1, 3, device=device)
        mirror[..., :2] -= 2 * number(2, (batch, 1, 2))
        swapped = number(2, (batch, 1, 1)).bool()
        cloud, x = (torch.where(swapped, t[..., [1, 0, 2]], t) * mirror for t in (cloud, x))
        centre, scale = placement(cloud)
        return (cloud - centre) * scale, (x - centre) * scale, values * scale[..., 0]

    def _loss(self, raw: Tensor, values: Tensor) -> Tensor:
        if not self.field.distance:
            return F.binary_cross_entropy_with_logits(raw, (values < 0).float())
        begin, end = SHARPENING
        share = min(max((self.progress - begin) / (end - begin), 0.0), 1.0)
        sharpness = self.config.training.sharpen**share
        return (torch.tanh(raw * sharpness) - torch.tanh(values * sharpness)).abs().mean()

    def quick_score(self) -> dict[str, float]:
        """Mean IoU of some held-out shapes."""
        return {"iou": mean_iou(self.field, self.probes)}


class Probe:
    """A held-out shape as it is scored: a scan of it, points uniform in its box, and which of them are inside."""

    def __init__(self, entry: Entry, noise: float, scanned: int, n: int, number: int) -> None:
        self.solid: Solid = entry.make()
        self.cloud = scan(self.solid, scanned, noise, number)
        low, high = self.solid.surface.aabb[:3], self.solid.surface.aabb[3:]
        self.points = low + np.random.default_rng([number, 1]).random((n, 3)) * (high - low)
        self.inside = self.solid.inside(self.points)

    def iou(self, field: LatentShapeField) -> float:
        shape = field.shape_of(self.cloud, self.solid.name)
        return iou(shape.inside(torch.from_numpy(self.points)).cpu().numpy(), self.inside)


def mean_iou(field: LatentShapeField, probes: list[Probe]) -> float:
    """Mean over shapes, in float32."""
    field.set_dtype(torch.float32)
    return float(np.mean([probe.iou(field) for probe in probes]))


def judged_iou(field: LatentShapeField, shapes: ShapeSet) -> float:
    """Mean IoU of all held-out shapes, by fewer points than evaluation takes."""
    some = enumerate(shapes.held_out)
    return mean_iou(field, [Probe(entry, shapes.noise, field.config.points, JUDGED_POINTS, i) for i, entry in some])
