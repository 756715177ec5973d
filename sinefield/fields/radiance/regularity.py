"""What makes a radiance field's density that of a surface: start, schedule and losses of `field.density: distance`."""

from typing import NamedTuple, cast

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from sinefield.config import RadianceConfig
from sinefield.fields.base import kept
from sinefield.fields.radiance.surface import SurfaceField
from sinefield.nn.optimisers import Adam
from sinefield.team import ALONE, Team

FIRST_BETA, NARROWED = 0.03, 0.8
"""β at the start, halves of the box, and the share of the budget after which it is the config's."""
STEPS, POINTS, RATE, BAND = 300, 2048, 5e-3, 0.1
"""Fitting the start to a hull: steps, points of each kind in one, Adam's rate, and how far from the hull, in halves of
the box, points of the second kind are."""
TAP = 0.02
"""Least distance of the points between which slopes and curvatures are measured, halves of the box."""
SHARE = 32
"""One in so many samples of a batch has its slope measured, and as many points of the whole box."""
CLEARANCE = 0.02
"""How far from the surface, in halves of the box, a place that some mask shows to be empty should be."""


def beta_at(progress: float, last: float) -> float:
    """β when `progress` of the budget is spent: wide first, to find the shape; narrow then, to place its surface."""
    done = min(progress / NARROWED, 1.0)
    return max(FIRST_BETA, last) ** (1 - done) * last**done


def differences(field: SurfaceField, x: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Gradients (n, 3) and Laplacians (n,) of the distance at world points, by differences over ±`reach`.

    Lengths are in halves of the box, `reach` too. Differences need no second derivative of the network, and smooth what
    is finer than they reach (Li et al., CVPR 2023, Neuralangelo, where the mean of |Laplacian| is penalised too). Where
    the slope is 1, the Laplacian is the sum of the principal curvatures.
    """
    axes = torch.eye(3, device=x.device)
    taps = torch.cat([axes, -axes, torch.zeros_like(axes[:1])]) * (reach * field.half)
    d, _ = field._distances((x[:, None] + taps).reshape(-1, 3))
    d = d.view(-1, 7)
    plus, minus = d[:, :3], d[:, 3:6]
    return (plus - minus) / (2 * reach), ((plus + minus).sum(1) - 6 * d[:, 6]) / reach**2


def fit_hull(field: SurfaceField, seed: int) -> None:
    """Let the field start as the distance from the hull of the masks, as its grid has it, which is sooner done than to
    carve a sphere ray by ray."""
    grid = field.grid
    sides = ((field.aabb[3:] - field.aabb[:3]) / grid.resolution / field.half).tolist()
    # Beyond the box is outside. Between the last cell within and the first without lies the surface.
    padded = np.pad(grid.allowed.numpy(), 1)
    distances = (cast("np.ndarray", distance_transform_edt(x, sampling=sides)) for x in (~padded, padded))
    outside, inside = (x[1:-1, 1:-1, 1:-1] for x in distances)
    half_cell = np.where(inside > 0, 0.5, -0.5) * sides[0]
    table = torch.from_numpy((outside - inside + half_cell).astype(np.float32)).flatten()
    near = (table.abs() < BAND).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed)
    learned = [*field.encoding.parameters(), *field.trunk.parameters()]
    optimizer = Adam(learned, lr=RATE)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        optimizer.zero_grad()
        anywhere = torch.randint(len(table), (POINTS,), generator=generator)
        cells = torch.cat([anywhere, near[torch.randint(len(near), (POINTS,), generator=generator)]])
        (field._distances(grid.centres(cells))[0] - table[cells]).abs().mean().backward()
        optimizer.step()
    optimizer.zero_grad()


class Place(NamedTuple):
    """Where samples lie among those of all processes: from number `first` on, in all `of`."""

    first: int
    of: int


class Regularity:
    """How wide the surface is, and the losses that colours do not bring: slopes of 1, little curvature, and a clear
    distance where masks show nothing.

    Arguments:
        field: on its device, its grid restricted to the hull already.
    """

    def __init__(self, field: SurfaceField, config: RadianceConfig) -> None:
        self.field, self.config = field, config
        self.n = max(config.training.batch // SHARE, 1)
        self.empty = (~field.grid.allowed).flatten().nonzero()[:, 0]

    def move_to(self, progress: float) -> None:
        """Set the field up for the step at which `progress` of the budget is spent."""
        self.field.beta = beta_at(progress, self.config.field.beta)

    def backward(
        self, near: Tensor, generator: torch.Generator, place: Place | None = None, team: Team = ALONE
    ) -> float | Tensor:
        """Accumulate the gradient of the losses, and return their sum; of several processes, this one's share of both.

        Slopes are measured at some of the points `near` (samples, 3) and at as many anywhere in the box; curvatures at
        the former. Where rays never go, nothing else would tell the field that it is empty.
        """
        field, n, device = self.field, self.n, near.device
        low, high = field.aabb[:3], field.aabb[3:]
        first, of = place or (0, len(near))
        drawn = torch.randint(max(of, 1), (n if of else 0,), generator=generator, device=device)
        chosen = drawn if of == len(near) else drawn[(drawn >= first) & (drawn < first + len(near))] - first
        own = team.part(n)
        free = low + torch.rand(n, 3, generator=generator, device=device)[own] * (high - low)
        points = torch.cat([near[chosen], free])
        training, loss = self.config.training, torch.zeros((), device=device)
        if len(points):
            slope, laplacian = differences(field, points, max(TAP, field.beta))
            share = len(points) / (len(drawn) + n)
            loss = training.eikonal * (slope.norm(dim=1) - 1).square().mean() * share
        if len(chosen):
            loss = loss + training.curvature * laplacian[: len(chosen)].abs().mean() * (len(chosen) / len(drawn))
        if len(self.empty):
            cells = self.empty[torch.randint(len(self.empty), (n,), generator=generator, device=device)][own]
            off = (CLEARANCE - field._distances(field.grid.centres(cells))[0]).clamp(min=0)
            loss = loss + off.mean() * team.share(n)
        if loss.requires_grad:
            loss.backward()
        return kept(loss)
