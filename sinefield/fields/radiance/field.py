"""A radiance field: what light a point sends where."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sinefield.config import RadianceFieldConfig
from sinefield.fields.base import Field
from sinefield.nn.encodings import SphericalHarmonics, position_encoding
from sinefield.nn.hashgrid import HashGrid
from sinefield.nn.mlp import MLP
from sinefield.nn.weights import WeightSpec
from sinefield.render.march import Samples
from sinefield.render.march_nested import locate
from sinefield.render.occupancy import OccupancyGrid
from sinefield.render.ray_error import Lines, Places, fits, fused_error, lit, summed_error
from sinefield.render.spaces import ForwardFrame, contract, from_ndc, points_to_ndc, to_ndc
from sinefield.render.volume import Pixels, composite
from sinefield.team import ALONE, Team

MAX_LOG_DENSITY = 12.0
FAINT = 1e-3
"""Share of a ray's light behind which nothing is looked at: a quarter of an 8-bit step."""
FIRST_RAYS = 1 << 12
"""Rays that are marched first, before it is known how many samples they have."""
STRETCH, LONGEST_STRETCH = 8, 16
"""Samples of a ray that are looked at first, and that are looked at together later."""
NEAR = 14
"""Place of the near plane's distance in `RadianceField.frame`."""


class RadianceField(Field):
    """Density from a frequency-encoded position, colour from the trunk's features and the view direction.

    Two functions, as nerfacc has it: `density(x)` and `forward(x, d) -> (rgb, sigma)`. Positions are coordinates of the
    field's space, which it normalises by its own box; rays are the world's. In the spaces "box" and "contracted"
    positions are world coordinates; in "ndc" they are not (see `render.spaces`). Colours are sRGB in [0, 1]; densities
    are per unit of the field's space. The square hidden matrices of the trunk are stored as the config says (sine low
    rank by default); its first and last layer and the small colour head are dense.

    Args:
        aabb: (6,) box in the field's space: xmin ymin zmin xmax ymax zmax. With several levels of the grid the smallest
            of the nested boxes; in the space "contracted" what lies in it is left as it is.

    Attributes:
        frame: (15,) `camera`, as `ForwardFrame` is stored, then the near plane's distance from a ray's origin (`NEAR`).
        background: (3,) sRGB that evaluation and video composite on.
        origin: (3,) float64, what was taken off the positions of its data: world coordinates are those of the data less
            it. Kept in the notes of files; kinds, cameras from outside and exports put it back.
        view: (11,) the orbit that shows the scene as its photographs did; see `cameras.orbits.Orbit`.
    """

    kind = "radiance"
    one_kernel = True
    """Whether samples become pixels as `render.ray_kernels` has it."""
    by_stretches = True
    """Whether a ray's samples can be shaded some at a time."""

    background: Tensor
    frame: Tensor
    view: Tensor

    def __init__(self, config: RadianceFieldConfig, aabb: Float[Tensor, "6"]) -> None:
        super().__init__()
        self.config = config
        self.origin = np.zeros(3)
        self.grid = OccupancyGrid(aabb, config.grid, config.grid_levels, config.cone_angle)
        self.encoding = position_encoding(config)
        self.directions = SphericalHarmonics()
        self.trunk = MLP.of(config, self.encoding.out_features, 1 + config.features)
        self.head = MLP(
            config.features + self.directions.out_features,
            3,
            config.head_width,
            config.head_depth,
            WeightSpec("dense"),
            "relu",
        )
        self.register_buffer("background", torch.ones(3))
        self.register_buffer("frame", torch.tensor([1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 1, 1, 0]))
        self.register_buffer("view", torch.tensor([0.0, 0, 0, 0, 0, 1, 4, 30, 1.2, 256, 256]))

    @property
    def aabb(self) -> Float[Tensor, "6"]:
        return self.grid.aabb

    @property
    def render_step_size(self) -> float:
        """Length of one sample in units of the field's space; the shortest, where they grow with distance."""
        return float((self.aabb[3:] - self.aabb[:3]).max()) / self.config.steps

    @property
    def near_plane(self) -> float:
        """Distance from a ray's origin before which it sees nothing, in units of the field's space."""
        return float(self.frame[NEAR]) if self.config.space != "ndc" else 0.0

    @property
    def camera(self) -> ForwardFrame:
        """The camera of NDC."""
        return ForwardFrame.of(self.frame)

    @property
    def _points_at_once(self) -> int:
        return 1 << 14 if self.aabb.device.type == "cpu" else 1 << 18

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Arithmetic of the hidden layers: torch.float32 or torch.bfloat16, or torch.float16 by tinycudann."""
        self.encoding.dtype = self.trunk.dtype = self.head.dtype = dtype

    def _trunk(self, x: Tensor) -> tuple[Tensor, Tensor]:
        place, unit = self._inner(x)
        out = self.trunk(self.encoding(place))
        # exp makes density reach opaque surfaces in few steps; in units of 1/half so that any world scale starts alike.
        return torch.exp(out[:, 0].clamp(max=MAX_LOG_DENSITY)) / unit, out[:, 1:]

    def _inner(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Points as the encoding takes them, and the length of a unit there."""
        centre, half = self._centre()
        place, unit = (x - centre) / half, half
        if self.config.space == "contracted":
            # Of the box in these units, so that the whole box is left as it is.
            sides = (self.aabb[3:] - self.aabb[:3]) / 2 / half
            place, reach = contract(place / sides)
            place, unit = place * sides / 2, half * reach[:, 0]
        return place, unit

    def _centre(self) -> tuple[Tensor, Tensor]:
        """Of the box that positions are normalised by; and half of its longest side."""
        box = self.grid.outer_box if self.config.space == "box" else self.aabb
        low, high = box[:3], box[3:]
        # One scale for all axes: a flat box must not see the scene stretched.
        return (low + high) / 2, (high - low).max() / 2

    def enter(
        self, rays_o: Float[Tensor, "r 3"], rays_d: Float[Tensor, "r 3"]
    ) -> tuple[Float[Tensor, "r 3"], Float[Tensor, "r 3"]]:
        """World rays as rays of the field's space, of unit length there."""
        return to_ndc(rays_o, rays_d, self.camera) if self.config.space == "ndc" else (rays_o, rays_d)

    def place(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """World points as points of the field's space."""
        return points_to_ndc(points, self.camera) if self.config.space == "ndc" else points

    def unplace(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Inverse of `place`, float64."""
        return from_ndc(points, self.camera) if self.config.space == "ndc" else points.double()

    def span(self, eyes: Float[Tensor, "n 3"]) -> tuple[float, float]:
        """Nearest and farthest distance that is worth a colour of its own, seen from any of some points of the world.

        The box's, as far as a ball around it; in NDC from the near plane to eight times its distance.
        """
        if self.config.space == "ndc":
            near = self.camera.near
            return near, 8 * near
        box = (self.grid.outer_box if self.config.space == "box" else self.aabb).double().cpu()
        away = (eyes.double().cpu() - (box[:3] + box[3:]) / 2).norm(dim=1)
        half = float((box[3:] - box[:3]).norm()) / 2
        return max(float(away.min()) - half, self.near_plane), float(away.max()) + half

    def sampling(
        self,
        rays_o: Float[Tensor, "r 3"],
        rays_d: Float[Tensor, "r 3"],
        step_size: float | None = None,
        jitter: Float[Tensor, "r"] | None = None,
        max_samples: int = 2**31,
        near_plane: float | None = None,
        clear: Float[Tensor, "r"] | None = None,
    ) -> Samples:
        """Samples of world rays in the grid's occupied cells; `t_starts` and `t_ends` are of the field's space.

        Step size and near plane are the field's where they are not given; reading them off it waits for its device.
        `clear`: how far each ray meets no occupied cell, where that is known.
        """
        step = self.render_step_size if step_size is None else step_size
        near = self.near_plane if near_plane is None else near_plane
        return self.grid.sampling(*self.enter(rays_o, rays_d), step, jitter, max_samples, near_plane=near, clear=clear)

    def density(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """Density per unit of the field's space; the box is not enforced."""
        return self._trunk(x)[0]

    def forward(
        self, x: Float[Tensor, "n 3"], d: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n"]]:
        """Colour and density at points `x` of the field's space seen along unit directions `d` of the world."""
        sigmas, features = self._trunk(x)
        return self._colours(features, self.directions(d)), sigmas

    def _colours(self, features: Tensor, directions: Tensor) -> Tensor:
        kind = self.head.input_dtype
        return torch.sigmoid(self.head(torch.cat([features.to(kind), directions.to(kind)], dim=1)))

    def shade(self, rays_o: Float[Tensor, "r 3"], rays_d: Float[Tensor, "r 3"], samples: Samples) -> Pixels:
        """Evaluate the field at the samples and composite them; one pixel for each of `samples.n_rays` rays."""
        sigmas, features = self._trunk(samples.points(*self.enter(rays_o, rays_d)))
        # Directions are encoded once a ray, not once a sample.
        directions = self.directions(rays_d[: samples.n_rays]).to(self.head.input_dtype)[samples.ray_indices]
        return composite(sigmas, self._colours(features, directions), samples)

    def squared_error(
        self,
        rays_o: Float[Tensor, "r 3"],
        rays_d: Float[Tensor, "r 3"],
        samples: Samples,
        background: Float[Tensor, "r 3"],
        target: Float[Tensor, "r 3"],
        errors: Float[Tensor, "r"] | None = None,
        found: Float[Tensor, "n_samples e"] | None = None,
    ) -> Float[Tensor, ""]:
        """Σ (pixel − target)² over all channels of the rays, which are as many as `samples` has.

        Colours are sRGB; rays are the world's. On the CPU it may be differentiable once only. `errors` is filled with
        each ray's part of the sum, where it is given; `found` is what `lit` found at the samples.
        """
        fixed = not (rays_o.requires_grad or rays_d.requires_grad)
        if self.one_kernel and fixed and fits(self.trunk, self.head, rays_o.device):
            lines, place, inverse_units = self._given(*self.enter(rays_o, rays_d), samples)
            seen = lines or (self.encoding(place) if found is None else self.encoding(place, found))
            if isinstance(seen, Lines) or seen.dtype == self.trunk.dtype:
                directions = self.directions(rays_d).to(self.head.dtype)
                given = seen, inverse_units, MAX_LOG_DENSITY, directions, samples, background, target, errors
                return fused_error(self.trunk, self.head, *given)
        return summed_error(self.shade(rays_o, rays_d, samples).over(background), target, errors)

    def _given(self, rays_o: Tensor, rays_d: Tensor, samples: Samples) -> tuple[Lines | None, Tensor, Tensor]:
        """What makes what the trunk sees of samples on rays of the field's space, or where these lie as the encoding
        takes it; and by what densities are multiplied."""
        octaves = self.config.frequencies if self.config.encoding == "frequency" else 0
        if octaves and self.config.space != "contracted":
            centre, half = self._centre()
            return Lines(rays_o, rays_d, centre, half, octaves), rays_o[:0], 1 / half.view(1)
        place, unit = self._inner(samples.points(rays_o, rays_d))
        return None, place, 1 / unit.view(-1)

    @torch.no_grad()
    def render(
        self,
        rays_o: Float[Tensor, "r 3"],
        rays_d: Float[Tensor, "r 3"],
        chunk: int | None = None,
        max_samples: int = 2**20,
    ) -> Pixels:
        """Pixels of any number of world rays, without jitter, depths being the world's; memory is bounded by
        `max_samples`."""
        chunk = chunk or self._points_at_once
        parts = []
        start, asked = 0, FIRST_RAYS
        while start < len(rays_o):
            o, d = rays_o[start : start + asked], rays_d[start : start + asked]
            samples = self.sampling(o, d, max_samples=max_samples)
            parts.append((self._until_opaque if self.by_stretches else self._shaded)(o, d, samples, chunk))
            start += samples.n_rays
            # Rays beyond the cap are marched in vain, so as many are asked for as it will hold.
            asked = min(2 * asked if samples.n_rays == len(o) else samples.n_rays * 9 // 8 + 1, max_samples)
        if not parts:
            return Pixels(rays_o.new_zeros(0, 3), rays_o.new_zeros(0), rays_o.new_zeros(0))
        pixels = Pixels(*(torch.cat(x) for x in zip(*parts, strict=True)))
        if self.config.space == "ndc":
            start, slope = self.enter(rays_o, rays_d)
            mean = pixels.depths / pixels.opacities.clamp(min=1e-6)
            seen = from_ndc(start + mean[:, None] * slope, self.camera).float()
            pixels = pixels._replace(depths=(seen - rays_o).norm(dim=1) * pixels.opacities)
        return pixels

    def _shaded(self, rays_o: Tensor, rays_d: Tensor, samples: Samples, chunk: int) -> Pixels:
        """`shade`, about `chunk` samples at a time."""
        parts = []
        for first, part in samples.split(chunk):
            rays = slice(first, first + part.n_rays)
            parts.append(self.shade(rays_o[rays], rays_d[rays], part))
        return Pixels(*(torch.cat(x) for x in zip(*parts, strict=True)))

    def _until_opaque(self, rays_o: Tensor, rays_d: Tensor, samples: Samples, chunk: int) -> Pixels:
        """`_shaded` from front to back, a stretch after the other, of the rays that have light left."""
        n, count, begin, length = samples.n_rays, samples.packed_info[:, 1], 0, STRETCH
        seen = rays_o.new_zeros(n, 5)  # colours, opacity, depth
        rays = count.nonzero()[:, 0]
        while len(rays):
            part = self._shaded(rays_o[rays], rays_d[rays], samples.stretch(rays, begin, length), chunk)
            left = 1 - seen[rays, 3:4]
            seen[rays] += left * torch.cat([part.colours, part.opacities[:, None], part.depths[:, None]], dim=1)
            begin, length = begin + length, min(2 * length, LONGEST_STRETCH)
            rays = rays[(seen[rays, 3] < 1 - FAINT) & (count[rays] > begin)]
        return Pixels(seen[:, :3], seen[:, 3], seen[:, 4])

    @torch.no_grad()
    def lit(
        self, rays_o: Float[Tensor, "r 3"], rays_d: Float[Tensor, "r 3"], samples: Samples, least: float = FAINT
    ) -> tuple[Bool[Tensor, "n_samples"], Float[Tensor, "n_samples e"]] | None:
        """Which samples of world rays more than `least` of their ray's light reaches, and what the grid holds there.

        None where that takes no less than to learn from the samples: where there is no hash grid to look up.
        """
        if not isinstance(self.encoding, HashGrid) or not self.by_stretches:
            return None
        _, place, inverse_units = self._given(*self.enter(rays_o, rays_d), samples)
        given = Places(place, self.encoding.table, self.encoding.given)
        return lit(self.trunk, given, inverse_units, MAX_LOG_DENSITY, samples, least)

    def _optical_depth(self, x: Tensor) -> Tensor:
        """Of one sample at points of the grid; samples at the larger boxes are taken to be as much longer."""
        depth = torch.cat([self.density(part) for part in x.split(self._points_at_once)]) * self.render_step_size
        return depth * 2.0 ** locate(x, self.aabb, self.grid.levels)[1] if self.grid.levels > 1 else depth

    def find_solid(self) -> None:
        """Find the grid's solid cells anew, from the density at the centres of its occupied cells."""
        grid = self.grid
        grid.later = None
        cells = grid.binaries.flatten().nonzero()[:, 0]
        grid.occs.zero_()
        with torch.no_grad():
            for part in cells.split(self._points_at_once):
                grid.occs.view(-1)[part] = self._optical_depth(grid.centres(part))
        grid.find_solid()

    def take_cells(self, binaries: Bool[Tensor, "x y z"]) -> None:
        """Have these cells occupied, and the solid ones among them found when they are asked for."""
        self.grid.binaries.copy_(binaries)
        self.grid.later = self.find_solid

    @property
    def cells_shape(self) -> tuple[int, ...]:
        return tuple(self.grid.binaries.shape)

    def take_edit(self, boxes: list[Float[np.ndarray, "6"]], cells: list[Bool[np.ndarray, "x y z"]]) -> None:
        """Cells that change are filled where they were empty, and emptied where they were occupied."""
        before = self.grid.binaries.clone()
        now = before.clone()
        for changed in map(torch.from_numpy, cells):
            now = now & ~(changed & before) | (changed & ~before)
        self.take_cells(now)

    def update_grid(self, generator: torch.Generator, everything: bool = True, team: Team = ALONE) -> None:
        """Move the occupancy grid towards the present density, which each process of a team finds a share of."""
        self.grid.update(team.spread(self._optical_depth), generator, everything=everything)
