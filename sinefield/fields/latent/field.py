"""Shapes from points: a transformer that reads a cloud into tokens and answers queries about the shape behind it.

In the manner of 3DShape2VecSet (Zhang et al., SIGGRAPH 2023): tokens stand at a subsample of the points and read all of
them by cross-attention, exchange what they know in blocks of self-attention, and any query point reads them by
cross-attention. Ours is the way places enter: queries, keys, values and what comes out are turned by angles linear in
the place (rotary embedding, Su et al., 2021; of values too, Miyato et al., ICLR 2024), so that all that a token
learns of another is relative to where the two are, and heads begin as kernels of distance, each of its own width.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sinefield.config import ShapesFieldConfig
from sinefield.errors import SinefieldError
from sinefield.fields.base import Field
from sinefield.nn.encodings import Frequency
from sinefield.nn.points import farthest_points
from sinefield.nn.weights import WeightSpec
from sinefield.transformers.attention import Attention, attention
from sinefield.transformers.graying import DCTGraying, SVDGraying

MARGIN = 0.1
KERNELS = 1.2, 0.3
"""Widths of the widest and the narrowest head's kernel, field units."""
WAVES = 1.0, 24.0
"""Least and largest spatial frequency of values, radians a field unit."""
PEAK = {"softmax": 6.0, "x": 1.0, "x^3": 1.0}
"""A score at distance 0 before training: of softmax its logarithm of how much more the nearest weigh."""
OCTAVES = 4
FLAT = 1e-3
"""Share of the largest extent below which the smallest is none."""


class Turns(NamedTuple):
    """Cosines and sines, each (b, heads, n, head_dim / 2), that places turn queries and keys, and values, by."""

    score: tuple[Tensor, Tensor]
    value: tuple[Tensor, Tensor]


class Latents(NamedTuple):
    """What is known of a shape: tokens (b, m, dim), and the turns of their places."""

    tokens: Float[Tensor, "b m dim"]
    turns: Turns


class LatentShapeField(Field):
    """Point clouds → tokens → signed distance or occupancy at any place.

    Field coordinates are x = (input − centre) · scale with the cloud's own box: see `placement`. A cloud's order does
    not matter. Distances are learned within ±band only; beyond, the value is a bound with the right sign.
    """

    kind = "shapes"

    kernels: Tensor
    waves: Tensor

    def __init__(self, config: ShapesFieldConfig) -> None:
        super().__init__()
        self.config = config
        self.dtype = torch.float32
        dim = config.dim
        self.encoding = Frequency(3, OCTAVES)
        self.token_place = nn.Linear(self.encoding.out_features, dim)
        self.query_place = nn.Linear(self.encoding.out_features, dim)
        self.point = nn.Parameter(torch.randn(dim))
        self.read = Reader(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.settled = nn.LayerNorm(dim)
        self.answer = Reader(config)
        self.out = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 1))
        # By formula, not learned: a file need not hold them.
        self.register_buffer("kernels", _kernels(config), persistent=False)
        self.register_buffer("waves", _waves(config), persistent=False)

    @property
    def distance(self) -> bool:
        return self.config.represents == "distance"

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Arithmetic of matrices: torch.float32 or torch.bfloat16."""
        self.dtype = dtype

    def forward(self, points: Float[Tensor, "b n 3"], x: Float[Tensor, "b q 3"]) -> Float[Tensor, "b q"]:
        """Raw output at x (field coordinates) of the shapes behind clouds: signed distance / band, or a logit."""
        return self.decode(self.encode(points), x)

    def encode(self, points: Float[Tensor, "b n 3"]) -> Latents:
        """Tokens of point clouds in field coordinates.

        Raises:
            SinefieldError: fewer points than tokens.
        """
        if points.shape[1] < self.config.tokens:
            raise SinefieldError(
                f"{points.shape[1]:,} points are too few for a field of {self.config.tokens} tokens; "
                "scan more points, or train with fewer field.tokens"
            )
        chosen = farthest_points(points, self.config.tokens)
        places = points.gather(1, chosen[..., None].expand(-1, -1, 3))
        with self._arithmetic():
            turns = self._turns(places)
            # Points have no content but their place.
            cloud = Latents(self.point.expand(len(points), 1, -1), self._turns(points))
            tokens = self.read(self.token_place(self._encoded(places)), turns, cloud)
            for block in self.blocks:
                tokens = block(tokens, turns)
            return Latents(self.settled(tokens), turns)

    def decode(self, latents: Latents, x: Float[Tensor, "b q 3"]) -> Float[Tensor, "b q"]:
        """Raw output at places in field coordinates."""
        with self._arithmetic():
            h = self.answer(self.query_place(self._encoded(x)), self._turns(x), latents)
            return self.out(h)[..., 0].float()

    def hidden_matrices(self) -> list[nn.Parameter]:
        """Parameters that Muon takes: all matrices between the embeddings of places and the output."""
        return [p for part in (self.read, self.blocks, self.answer) for p in part.parameters() if p.dim() == 2]

    @torch.no_grad()
    def shape_of(self, cloud: Float[np.ndarray, "n 3"], where: str = "the cloud") -> "LatentShape":
        """The shape behind one cloud (n, 3) of points on its surface, in any units.

        A cloud larger than `config.points` is thinned at random, always in the same way.

        Raises:
            SinefieldError: NaN or infinite coordinates, fewer different points than tokens, all in one plane.
        """
        check_cloud(cloud, self.config.tokens, where)
        if len(cloud) > self.config.points:
            cloud = cloud[np.random.default_rng(0).permutation(len(cloud))[: self.config.points]]
        points = torch.from_numpy(np.asarray(cloud, np.float64))[None]
        centre, scale = placement(points)
        device = self.kernels.device
        latents = self.encode(((points - centre) * scale).float().to(device))
        return LatentShape(
            self, latents, centre[0, 0], scale[0, 0, 0], torch.cat([points[0].amin(0), points[0].amax(0)])
        )

    def _encoded(self, places: Tensor) -> Tensor:
        return self.encoding.reference(places.flatten(0, 1)).unflatten(0, places.shape[:2])

    def _arithmetic(self) -> torch.autocast:
        return torch.autocast(self.kernels.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def _turns(self, places: Tensor) -> Turns:
        def of(frequencies: Tensor) -> tuple[Tensor, Tensor]:
            with torch.autocast(places.device.type, enabled=False):  # bf16 would blur the places
                angles = torch.einsum("bnd,hcd->bhnc", places, frequencies)
            return torch.cos(angles).to(self.dtype), torch.sin(angles).to(self.dtype)

        return Turns(of(self.kernels), of(self.waves))


class LatentShape:
    """One shape as a field reads it from a cloud, in the cloud's coordinates; asked as a `ShapeField` is."""

    kind = "shape"

    def __init__(self, field: LatentShapeField, latents: Latents, centre: Tensor, scale: Tensor, aabb: Tensor) -> None:
        self.field, self.latents, self.centre, self.scale, self.aabb = field, latents, centre, scale, aabb
        self.distance = field.distance
        self.default_level = 0.0 if field.distance else 0.5

    @torch.no_grad()
    def evaluate(self, points: Float[Tensor, "n 3"], chunk: int = 8192) -> Float[Tensor, "n"]:
        """Signed distance in the cloud's units (negative inside) or occupancy in [0, 1]."""
        x = ((points - self.centre) * self.scale).float().to(self.field.kernels.device)
        raw = (
            torch.cat([self.field.decode(self.latents, part[None])[0] for part in x.split(chunk)])
            if len(x)
            else x[:, 0]
        )
        return raw * (self.field.config.band / self.scale).float() if self.distance else torch.sigmoid(raw)

    def inside(self, points: Float[Tensor, "n 3"]) -> Bool[Tensor, "n"]:
        """Whether points are inside the shape."""
        values = self.evaluate(points)
        return values < self.default_level if self.distance else values > self.default_level


class Reader(nn.Module):
    """Cross-attention, then a feed-forward layer, both with skip connections: x reads a context."""

    def __init__(self, config: ShapesFieldConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim)
        self.attend = PlacedAttention(config)
        self.forward_norm = nn.LayerNorm(config.dim)
        self.feed = FeedForward(config, WeightSpec("dense"))

    def forward(self, x: Tensor, turns: Turns, context: Latents) -> Float[Tensor, "b n dim"]:
        x = x + self.attend(self.norm(x), turns, context)
        return x + self.feed(self.forward_norm(x))


class Block(nn.Module):
    """Self-attention, grayed tokens before it if asked for, then a feed-forward layer; skips can be taken out."""

    def __init__(self, config: ShapesFieldConfig) -> None:
        super().__init__()
        gray = {"none": nn.Identity, "svd": SVDGraying, "dct": DCTGraying}[config.graying]
        self.norm = nn.LayerNorm(config.dim)
        self.gray = gray() if config.graying == "none" else gray(config.epsilon)
        self.attend = PlacedAttention(config)
        self.forward_norm = nn.LayerNorm(config.dim)
        spec = WeightSpec(config.weights, config.rank, config.omega, config.phase, config.bound)
        self.feed = FeedForward(config, spec)
        self.skips = config.skip_attention, config.skip_feedforward

    def forward(self, x: Float[Tensor, "b n dim"], turns: Turns) -> Float[Tensor, "b n dim"]:
        y = self.attend(self.gray(self.norm(x)), turns)
        x = x + y if self.skips[0] else y
        y = self.feed(self.forward_norm(x))
        return x + y if self.skips[1] else y


class PlacedAttention(nn.Module):
    """Attention whose scores and values depend on where tokens are only through how far apart they are, and which way.

    A query at x and a key at p are turned by ω·x and ω·p, so that their product knows x − p; a value is turned by its
    place and, once summed, back by the query's.
    """

    def __init__(self, config: ShapesFieldConfig) -> None:
        super().__init__()
        self.power = {"softmax": None, "x": 1, "x^3": 3}[config.attention]
        self.project = Attention(config.dim, config.heads, power=self.power)
        # The constant part of queries and keys makes a head begin as a kernel: Σ cos ω·(x − p) over its frequencies.
        half = self.project.head_dim // 2
        size = math.sqrt(PEAK[config.attention] * math.sqrt(2 * half) / half)
        with torch.no_grad():
            for bias in (self.project.query.bias, self.project.key.bias):
                bias.zero_().view(config.heads, 2, half)[:, 0] = size

    def forward(self, x: Tensor, turns: Turns, context: Latents | None = None) -> Float[Tensor, "b n dim"]:
        q, k, v = self.project.heads(x, None if context is None else context.tokens)
        there = turns if context is None else context.turns
        q, k, v = turned(q, turns.score), turned(k, there.score), turned(v, there.value)
        y = attention(q, k, v, self.power, divisor=self.project.divisor)
        cosine, sine = turns.value
        return self.project.out(turned(y, (cosine, -sine)).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """W₂ gelu(W₁ x + b₁) + b₂ with the matrices stored as `spec` says."""

    def __init__(self, config: ShapesFieldConfig, spec: WeightSpec) -> None:
        super().__init__()
        dim, inner = config.dim, config.expand * config.dim
        self.up, self.down = spec.make(inner, dim, "relu", 1.0), spec.make(dim, inner, "relu", 1.0)
        self.up_bias, self.down_bias = nn.Parameter(torch.zeros(inner)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Float[Tensor, "b n dim"]) -> Float[Tensor, "b n dim"]:
        return F.linear(F.gelu(F.linear(x, self.up(), self.up_bias)), self.down(), self.down_bias)


def turned(x: Float[Tensor, "b h m d"], turn: tuple[Tensor, Tensor]) -> Float[Tensor, "b h n d"]:
    """Pairs (x_c, x_{c + d/2}) turned by angles whose cosine and sine (b, h, n, d/2) are given; one x serves all n."""
    cosine, sine = turn
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cosine - b * sine, a * sine + b * cosine], dim=-1)


def placement(points: Float[Tensor, "b n 3"]) -> tuple[Float[Tensor, "b 1 3"], Float[Tensor, "b 1 1"]]:
    """Centre and scale that bring clouds into the field: their box's longest side fills [−1, 1] / (1 + MARGIN)."""
    low, high = points.amin(1, keepdim=True), points.amax(1, keepdim=True)
    longest = (high - low).amax(2, keepdim=True)
    return (low + high) / 2, 2 / ((1 + MARGIN) * longest)


def check_cloud(cloud: Float[np.ndarray, "n 3"], tokens: int, where: str) -> None:
    """Refuse a cloud that no shape can be read from; see `LatentShapeField.shape_of`."""
    if not np.isfinite(cloud).all():
        bad = int((~np.isfinite(cloud)).any(axis=1).sum())
        raise SinefieldError(f"{where}: {bad:,} of {len(cloud):,} points are NaN or infinite; remove them")
    different = len(np.unique(cloud, axis=0))
    if different < tokens:
        raise SinefieldError(
            f"{where}: has {different:,} different points, fewer than the field's {tokens} tokens; scan more points"
        )
    extents = np.linalg.svd(cloud - cloud.mean(0), compute_uv=False)
    if extents[2] <= FLAT * extents[0]:
        raise SinefieldError(f"{where}: all points lie in one plane, which bounds no shape; scan it from several sides")


def _spread(n: int) -> Float[np.ndarray, "n 3"]:
    """n points spread evenly over the unit cube: an additive recurrence (Roberts, 2018), the same on every machine."""
    root = 1.2207440846057596  # x⁴ = x + 1
    return (0.5 + np.outer(np.arange(1, n + 1), root ** -np.arange(1.0, 4.0))) % 1


def _normals(config: ShapesFieldConfig) -> Float[Tensor, "h c 3"]:
    """Normal deviates, float64, spread evenly over each head's frequencies."""
    half = config.dim // config.heads // 2
    spread = torch.from_numpy(_spread(config.heads * half))
    return torch.special.ndtri(spread).view(half, config.heads, 3).transpose(0, 1)


def _kernels(config: ShapesFieldConfig) -> Float[Tensor, "h c 3"]:
    """Frequencies of each head's scores: normal, so that their cosines sum to a Gaussian (Rahimi and Recht, 2007)."""
    widths = torch.from_numpy(np.geomspace(*KERNELS, config.heads))
    return (_normals(config) / widths[:, None, None]).float().contiguous()


def _waves(config: ShapesFieldConfig) -> Float[Tensor, "h c 3"]:
    """Frequencies of each head's values: in all directions, lengths in equal steps of their logarithm."""
    normals = _normals(config)
    lengths = torch.from_numpy(np.geomspace(*WAVES, normals.shape[1]))
    return (F.normalize(normals, dim=-1) * lengths[None, :, None]).float().contiguous()
