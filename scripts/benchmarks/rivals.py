"""The baselines of peers.py in plain PyTorch: a NeRF, a hash grid and SIREN."""

import math
from dataclasses import replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sinefield.config import RadianceConfig, ShapeConfig
from sinefield.data.photographs.images import PosedScene, on_background
from sinefield.data.surfaces.sampling import sample_shape
from sinefield.data.surfaces.surface import Normalisation, Surface
from sinefield.fields.radiance.field import MAX_LOG_DENSITY, RadianceField
from sinefield.fields.radiance.training import lengthened
from sinefield.fields.shape.training import prepared_points
from sinefield.nn.encodings import Frequency, SphericalHarmonics
from sinefield.nn.hashgrid import PRIMES
from sinefield.render import volume
from sinefield.render.march import Grid, March, Samples, march, march_reference
from sinefield.render.occupancy import OccupancyGrid, visual_hull


class PlainHash(nn.Module):
    """Müller et al.'s hash encoding of points in [−1, 1]³ as torch operations, looked up in the fastest way found."""

    def __init__(self, levels: int, log2_table: int, coarsest: int, finest: int) -> None:
        super().__init__()
        growth = (finest / coarsest) ** (1 / max(levels - 1, 1))
        self.resolutions = [math.floor(coarsest * growth**level + 1e-6) for level in range(levels)]
        self.tables = nn.ParameterList(
            torch.empty(min((n + 1) ** 3, 1 << log2_table), 2).uniform_(-1e-4, 1e-4) for n in self.resolutions
        )
        self.out_features = 2 * levels
        self.register_buffer("corners", torch.cartesian_prod(*[torch.arange(2)] * 3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        unit = (x * 0.5 + 0.5).clamp(0, 1)
        parts = []
        for n, values in zip(self.resolutions, self.tables, strict=True):
            position = unit * n
            cell = position.floor().clamp(max=n - 1)
            part = (position - cell)[:, None]
            i, j, k = (cell.long()[:, None] + self.corners).unbind(2)
            if len(values) == (n + 1) ** 3:
                entry = (i * (n + 1) + j) * (n + 1) + k
            else:
                entry = (i * PRIMES[0] ^ j * PRIMES[1] ^ k * PRIMES[2]) & (len(values) - 1)
            weight = torch.where(self.corners.bool(), part, 1 - part).prod(2)
            found = values.index_select(0, entry.flatten()).view(-1, 8, 2)
            parts.append((found * weight[..., None]).sum(1))
        return torch.cat(parts, dim=1)


def grid_every(config: RadianceConfig, batch: int) -> int:
    """Steps between two looks at the occupancy grid, which cost as much a sample whatever the batch."""
    return max(config.training.grid_every * config.training.batch // batch, 1)


def relu_network(inputs: int, width: int, depth: int, outputs: int) -> nn.Sequential:
    sizes = [inputs] + [width] * depth
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


class PlainRadiance(nn.Module):
    """A radiance field of the scene's sizes, dense and in fp32, that fits photographs by autograd.

    Args:
        compiled: march and composite by our compiled loops; otherwise in plain torch.
        hull: start the occupancy grid from the masks' visual hull.
        batch: samples a step; the number of rays adapts to it.
        coarse: samples are at first so many times longer than in the end, by the same schedule as ours.

    Attributes:
        progress: share of the budget that is spent, set before each step.
    """

    def __init__(
        self, config: RadianceConfig, scene: PosedScene, compiled: bool, hull: bool, batch: int, coarse: float = 1.0
    ) -> None:
        super().__init__()
        field = self.sizes = replace(config.field, weights="dense", activation="relu", skips=[])
        if field.encoding == "hash":
            self.encoding = PlainHash(field.levels, field.log2_table, field.coarsest, field.finest)
        else:
            self.encoding = Frequency(3, field.frequencies)
        self.directions = SphericalHarmonics()
        self.trunk = relu_network(self.encoding.out_features, field.width, field.depth, 1 + field.features)
        self.head = relu_network(field.features + 16, field.head_width, field.head_depth, 3)
        self.grid = OccupancyGrid(scene.aabb, field.grid)
        self.march = march if compiled else march_reference
        self.composite = volume.composite if compiled else volume.composite_reference
        self.batch, self.n_rays, self.index = batch, batch // 16, 0
        self.coarse, self.progress = coarse, 0.0
        self.grid_every = grid_every(config, batch)
        self.cameras, self.pixels = scene.train.cameras, scene.train.images.flatten(0, 2)
        self.low, self.high = scene.aabb[:3], scene.aabb[3:]
        self.half = float((self.high - self.low).max()) / 2
        self.step_size = 2 * self.half / field.steps
        if hull and scene.has_alpha:
            reach = float((self.high - self.low).norm()) / field.grid / 2 * self.cameras.focal.amax(1)
            alpha = scene.train.images[..., 3]
            found = visual_hull(self.grid.centres(), self.cameras.project, alpha, reach)
            self.grid.restrict(found.view(self.grid.allowed.shape))

    def shade(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Densities per world unit, and features, at world points."""
        out = self.trunk(self.encoding((x - (self.low + self.high) / 2) / self.half))
        return torch.exp(out[:, 0].clamp(max=MAX_LOG_DENSITY)) / self.half, out[:, 1:]

    def colours(self, features: Tensor, directions: Tensor) -> Tensor:
        return torch.sigmoid(self.head(torch.cat([features, directions], dim=1)))

    def optimizers(self, lr: float) -> list[torch.optim.Optimizer]:
        if self.sizes.encoding == "hash":
            return [torch.optim.Adam(self.parameters(), lr=lr, betas=(0.9, 0.99), eps=1e-15, fused=True)]
        return [torch.optim.Adam(self.parameters(), lr=lr, fused=True)]

    def step(self, generator: torch.Generator) -> None:
        """Accumulate the gradient of the mean square error of random pixels on white."""
        if self.index and self.index % self.grid_every == 0:
            with torch.no_grad():
                self.grid.update(self._optical_depth, generator, everything=self.index <= 16 * self.grid_every)
        self.index += 1
        chosen = torch.randint(len(self.pixels), (self.n_rays,), generator=generator)
        width, height = self.cameras.width, self.cameras.height
        places = torch.stack([chosen % width, chosen // width % height], dim=1) + 0.5
        rays_o, rays_d = self.cameras.rays(chosen // (width * height), places)
        jitter = torch.rand(len(rays_o), generator=generator)
        length = self.step_size * lengthened(self.progress, self.coarse)
        grid = Grid(self.grid.aabb, self.grid.binaries, self.grid.solid)
        samples = Samples(*self.march(rays_o, rays_d, grid, March(length, max_samples=2 * self.batch), jitter))
        growth = min(max(self.batch / max(len(samples.t_starts), 1), 0.5), 2.0)
        self.n_rays = int(min(max(samples.n_rays * growth, 64), self.batch))
        if len(samples.t_starts) == 0:
            return
        sigmas, features = self.shade(samples.points(rays_o, rays_d))
        colours = self.colours(features, self.directions(rays_d)[samples.ray_indices])
        white = torch.ones(3)
        seen = self.composite(sigmas, colours, samples).over(white.expand(samples.n_rays, 3))
        (seen - on_background(self.pixels[chosen[: samples.n_rays]], white)).square().mean().backward()

    def _optical_depth(self, x: Tensor) -> Tensor:
        return torch.cat([self.shade(part)[0] for part in x.split(16384)]) * self.step_size

    @torch.no_grad()
    def field(self) -> RadianceField:
        """The same function as a field of the package, so that both sides are scored by one renderer."""
        field = RadianceField(self.sizes, self.grid.aabb).requires_grad_(False)
        for theirs, plain in ((field.trunk, self.trunk), (field.head, self.head)):
            for weight, bias, layer in zip(theirs.weights, theirs.biases, plain[::2], strict=True):
                weight.weight.copy_(layer.weight)
                bias.copy_(layer.bias)
        if self.sizes.encoding == "hash":
            field.encoding.table.copy_(torch.cat(list(self.encoding.tables)))
        field.grid.load_state_dict(self.grid.state_dict())
        return field


class Siren(nn.Module):
    """SIREN as its paper has it: sin(ω₀(Wx + b)) four times, then a linear layer.

    First weights U(±1/in), others U(±√(6/in)/ω₀) (Sitzmann et al., 2020, §3.2); biases are torch's own, as in the
    authors' code.
    """

    def __init__(self, width: int = 256, depth: int = 4, omega0: float = 30.0) -> None:
        super().__init__()
        sizes = [3] + [width] * depth + [1]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.omega0 = omega0
        for i, layer in enumerate(self.layers):
            inputs = layer.in_features
            bound = 1 / inputs if i == 0 else math.sqrt(6 / inputs) / omega0
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.sin(self.omega0 * layer(x))
        return self.layers[-1](x)[:, 0]


class SirenShape(nn.Module):
    """SIREN fitting the labelled points of a shape's scene, as signed distance (our loss) or occupancy (BCE)."""

    def __init__(self, config: ShapeConfig, surface: Surface, represents: str, batch: int) -> None:
        super().__init__()
        self.network = Siren()
        self.normalisation = Normalisation.fit(surface.aabb)
        data = config.data
        n = prepared_points(config)
        labelled = sample_shape(surface, self.normalisation, n, config.seed, near_fraction=data.near_fraction)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(config.seed))
        self.points = torch.from_numpy(labelled["points"])[order]
        values = torch.from_numpy(labelled["values"])[order]
        self.progress = 0.0  # for the loop that trains either; nothing here depends on it
        self.distance, self.batch = represents == "distance", batch
        self.targets = torch.tanh(values / config.field.band) if self.distance else (values < 0).float()

    def optimizers(self, lr: float) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(self.parameters(), lr=lr, fused=True)]

    def step(self, generator: torch.Generator) -> None:
        start = int(torch.randint(len(self.points) - self.batch + 1, (), generator=generator))
        part = slice(start, start + self.batch)
        raw = self.network(self.points[part])
        if self.distance:
            loss = (torch.tanh(raw) - self.targets[part]).abs().mean()
        else:
            loss = F.binary_cross_entropy_with_logits(raw, self.targets[part])
        loss.backward()

    def field(self) -> "SirenShape":
        return self

    @torch.no_grad()
    def inside(self, points: Tensor) -> Tensor:
        """Whether points at the input's coordinates are inside."""
        x = torch.from_numpy(self.normalisation.apply(points.numpy())).float()
        raw = torch.cat([self.network(part) for part in x.split(32768)])
        return raw < 0 if self.distance else raw > 0
