"""Posed photographs into a radiance field."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sinefield.cameras.orbits import usual_orbit
from sinefield.cameras.pixel_rays import PixelRays
from sinefield.config import RadianceConfig
from sinefield.data.photographs.images import PosedScene, load_posed, on_background, reference
from sinefield.data.photographs.masks import Covering
from sinefield.data.photographs.views import Views, kept_numbers
from sinefield.errors import SinefieldError
from sinefield.fields.base import Task, kept, step_generator
from sinefield.fields.radiance.drawing import ErrorMap
from sinefield.fields.radiance.field import NEAR, RadianceField
from sinefield.fields.radiance.hull import hull_of
from sinefield.fields.radiance.regularity import Place, Regularity, fit_hull
from sinefield.fields.radiance.surface import SurfaceField, make_radiance_field
from sinefield.fields.radiance.view_fit import ViewFit
from sinefield.metrics.images import psnr
from sinefield.nn.backend import chunk_for, training_device
from sinefield.nn.weights import materialised
from sinefield.render.march import Grid, March, Samples, first_meeting
from sinefield.render.occupancy import marcher
from sinefield.render.spaces import MARGIN, forward_frame, ndc_box

BACKGROUNDS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0), "random": (1.0, 1.0, 1.0)}
"""What evaluation and video on_background on; see RadianceDataConfig."""
PROBED_SAMPLES = 16384
QUICK_PIXELS = 1 << 12
"""How many pixels of a view a quick score looks at, at least."""
REFINED = 0.9
"""Share of the budget after which samples are as long as the field's own."""
WORTH_LOOKING, LOOK_EVERY = 0.85, 16
"""Share of samples that light reaches, below which each step looks for the others; and how often it looks anyway."""
WARM_UPDATES = 16
"""Updates of the occupancy grid that look at every allowed cell; later ones at the occupied and a random quarter."""


def lengthened(progress: float, coarse: float) -> float:
    """How many times longer than in the end samples are when `progress` of the budget is spent: `coarse` at 0."""
    return 1 + (coarse - 1) * max(1 - progress / REFINED, 0.0)


def load_scene(config: RadianceConfig, splits: tuple[str, ...] = ("train", "val", "test")) -> PosedScene:
    """The photographs that a config names."""
    data = config.data
    covering, depths = Covering(data.masks, data.alpha), config.training.depth_weight > 0
    scene = load_posed(data.path, data.downscale, data.aabb, data.holdout, splits, covering=covering, depths=depths)
    if "train" in splits and len(scene.training_views) == 0:
        raise SinefieldError(f"{data.path}: no training image can be used; provide the image files")
    return scene


def make_field(config: RadianceConfig, scene: PosedScene) -> RadianceField:
    """An untrained field whose space is laid out for the scene.

    Raises:
        SinefieldError: the cameras do not suit the space, or the data do not say how near the scene is.
    """
    space, levels, near = config.field.space, config.field.grid_levels, config.data.near
    if space == "ndc":
        plane, cameras = near or (MARGIN * scene.bounds[0] if scene.bounds else 0.0), scene.training_views.cameras
        if not plane:
            raise SinefieldError(
                f"{config.data.path}: field.space is ndc, but the data do not say how near the scene is; give data.near"
            )
        frame = forward_frame(cameras, plane)
        field = RadianceField(config.field, ndc_box(cameras, frame))
        field.frame.copy_(torch.cat([frame.numbers, torch.tensor([plane])]))
        field.origin = np.array(scene.origin)
        return field
    box = scene.core if space == "contracted" and scene.core is not None else scene.aabb
    if space == "box" and levels > 1:  # the data's box is all there is; the grid refines its middle
        centre, half = (box[:3] + box[3:]) / 2, (box[3:] - box[:3]) / 2 / 2 ** (levels - 1)
        box = torch.cat([centre - half, centre + half])
    field = make_radiance_field(config.field, box)
    field.origin = np.array(scene.origin)
    if near is None:
        near = MARGIN * scene.bounds[0] if space == "contracted" and scene.bounds else 0.0
    field.frame[NEAR] = near
    return field


class RadianceTask(Task):
    """One radiance field being fitted to posed images, a bounded number of samples a step.

    Arguments:
        field: the one to be fitted, as it is, background, orbit and box its own; a new one when None. Its grid starts
            as the hull of the masks, where they count, else as it is.
    """

    shares = True

    def __init__(self, config: RadianceConfig, scene: PosedScene, field: RadianceField | None = None) -> None:
        self.config = config
        self.device = training_device(config.training.device)
        marcher(self.device, config.training.marcher)  # refuses what does not work before anything is done
        views = scene.training_views
        self.cameras = views.cameras.to(self.device)
        self.rays = PixelRays(self.cameras)
        self.pixels = views.pixels.to(self.device)
        self.distances = self._distances(views)
        self.scored = scene.scored_views
        self.names = views.names
        self.n_rays = config.training.batch // 16
        self.grid_moves = True
        self.progress = 0.0
        # The pixels that rays are drawn from, where not all of them, and how far their rays meet nothing.
        self.drawn = None if views.kept is None else kept_numbers(views.kept, config.data.path).to(self.device)
        self.clear: Tensor | None = None
        self.errors: ErrorMap | None = None  # laid out at the first step, when it is known which pixels are drawn
        torch.manual_seed(config.seed)
        self.fresh = field is None
        self.field = make_field(config, scene) if field is None else field
        self.field.grid.marcher = config.training.marcher
        if self.fresh:
            self.field.background.copy_(torch.tensor(BACKGROUNDS[config.data.background]))
            self.field.view.copy_(usual_orbit(views.cameras).to_vector())
        if config.training.hull and scene.has_alpha and config.field.space == "box" and config.field.grid_levels == 1:
            self._start_from_hull(views)
        fits = config.training.fit_poses, config.training.fit_exposure
        if config.training.fit_poses and config.field.encoding == "hash":
            raise SinefieldError("training.fit_poses needs field.encoding frequency: hash grids are not smooth enough")
        length = float((scene.aabb[3:] - scene.aabb[:3]).max())
        self.length = length
        self.fit = ViewFit(len(views), length, *fits).to(self.device) if any(fits) else None
        # Asked for before the box is on a GPU.
        self.step_size, self.near_plane = self.field.render_step_size, self.field.near_plane
        self.field.to(self.device)
        # Share of samples that light reaches; None where it is not looked for.
        stops = config.training.early_stop_eps > 0 and config.field.encoding == "hash"
        self.lit = 1.0 if stops and self.device.type == "cpu" else None
        surface = isinstance(self.field, SurfaceField)
        self.regularity = Regularity(self.field, config) if surface else None

    def _distances(self, views: Views) -> Tensor | None:
        """How far each pixel's surface is, where depths are to be learned from."""
        if self.config.training.depth_weight == 0:
            return None
        if self.config.field.space == "ndc":
            raise SinefieldError(
                "training.depth_weight needs distances of the world, which ndc has not; use contracted"
            )
        if views.distances is None or not bool(views.distances.isfinite().any()):
            raise SinefieldError(
                f"{self.config.data.path}: training.depth_weight is set, but no training view has depths "
                "(depth_file_path); add them or set it to 0"
            )
        return views.distances.to(self.device)

    def _start_from_hull(self, views: Views) -> None:
        grid = self.field.grid
        half_diagonal = float((grid.aabb[3:] - grid.aabb[:3]).norm()) / grid.resolution / 2
        hull = hull_of(grid.centres(), views, half_diagonal)
        if hull.any():  # masks that contradict the poses leave nothing; then the images have to say where it is
            grid.restrict(hull.view(grid.allowed.shape))
            if self.device.type == "cpu" and not self.config.training.fit_poses:
                self._draw_from(grid.allowed, views)
            if self.fresh and isinstance(self.field, SurfaceField):
                fit_hull(self.field, self.config.seed)

    def _draw_from(self, allowed: Tensor, views: Views) -> None:
        """Draw only pixels whose rays can have samples, unless that is none of them."""
        step = self.field.render_step_size / 4  # a ray through less of a cell than that is not missed
        rays = (views.cameras.view(i) for i in range(len(views.cameras)))
        grid, settings = Grid(self.field.aabb, allowed), March(step, self.field.near_plane)
        found = [first_meeting(o, d, grid, settings) for o, d in rays]
        first = torch.cat(found)
        meets = first.isfinite() if views.kept is None else first.isfinite() & views.kept
        chosen = meets.nonzero()[:, 0]
        if len(chosen):
            self.drawn, self.clear = chosen, first[chosen] - step

    def hidden_matrices(self) -> list[nn.Parameter]:
        return self.field.trunk.hidden_matrices() + self.field.head.hidden_matrices()

    def own_parameters(self) -> list[nn.Parameter]:
        return [p for p in self.fit.parameters() if p.requires_grad] if self.fit else []

    def state(self) -> dict[str, Tensor]:
        fit = {f"fit.{k}": v for k, v in self.fit.state_dict().items()} if self.fit else {}
        errors = {"errors": self.errors.errors} if self.errors else {}
        lit = {} if self.lit is None else {"lit": torch.tensor(self.lit)}
        return {"n_rays": torch.tensor(self.n_rays), **lit, **errors, **fit}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.n_rays = int(state["n_rays"])
        if "lit" in state and self.lit is not None:
            self.lit = float(state["lit"])
        if "errors" in state:
            self._lay_out_errors().errors.copy_(state["errors"])
        if self.fit:
            self.fit.load_state_dict({k[4:]: v for k, v in state.items() if k.startswith("fit.")})

    def step(self, index: int, generator: torch.Generator) -> float | Tensor:
        """Draw rays, march, shade and on_background chunk by chunk; accumulate the gradient of the mean square error.

        On CUDA it waits for the device where the marcher needs the number of samples, since they are stored flat, where
        the occupancy grid is updated, once in `grid_every` steps, and where one chunk does not hold the batch.
        """
        field, training = self.field, self.config.training
        if self.grid_moves and self.regularity and self.fresh:
            self.regularity.move_to(self.progress)
        if self.grid_moves and index % training.grid_every == 0 and index > 0:
            with torch.no_grad(), materialised(field):
                field.update_grid(generator, index <= WARM_UPDATES * training.grid_every, self.team)
        chosen = self._chosen(generator)
        view, *camera_rays, target, background, clear, distances = self._draw(generator, chosen)
        fitted = self._fitted(view, *camera_rays)
        # Each chunk's backward ends at these; what led to them is gone through once, after the last.
        rays_o, rays_d = _leaf(fitted[0]), _leaf(fitted[1])
        gain = None if fitted[2] is None else _leaf(fitted[2])
        jitter = torch.rand(self.n_rays, generator=generator, device=self.device)[self.team.part(self.n_rays)]
        # The cap is hard: memory is bounded even when the grid suddenly fills.
        asked = rays_o.detach(), rays_d.detach()
        samples, found = self._sampled(index, *asked, jitter, clear)
        samples, used, place = self._within(samples, 2 * training.batch)
        n_samples = place.of
        growth = training.batch / max(n_samples, 1)
        self.n_rays = int(min(max(used * min(max(growth, 0.5), 2.0), 64), training.batch))
        if n_samples == 0:
            return 0.0
        loss, errors = 0.0, None if self.errors is None else torch.empty(samples.n_rays, device=self.device)
        with materialised(field):
            at = 0
            for first, part in samples.split(training.chunk or chunk_for(self.config.field.width, self.device)):
                rays, own = slice(first, first + part.n_rays), slice(at, at := at + len(part.t_starts))
                given = rays_o[rays], rays_d[rays], part
                if distances is not None:
                    error = self._with_depth(given, background[rays], target[rays], distances[rays], gain, rays)
                elif gain is None:
                    of_rays = None if errors is None else errors[rays]
                    known = None if found is None else found[own]
                    error = field.squared_error(*given, background[rays], target[rays], of_rays, known)
                else:
                    error = (field.shade(*given).over(background[rays]) * gain[rays] - target[rays]).square().sum()
                error = error / (3 * used)
                if len(part.t_starts):
                    error.backward()
                loss += kept(error)
            if self.regularity:
                loss += self.regularity.backward(samples.points(*asked), generator, place, self.team)
        self._pass_on(fitted, (rays_o, rays_d, gain))
        if self.errors and errors is not None:
            self.errors.note(chosen[: len(errors)], errors)
        return loss

    def _sampled(
        self, index: int, rays_o: Tensor, rays_d: Tensor, jitter: Tensor, clear: Tensor | None
    ) -> tuple[Samples, Float[Tensor, "n e"] | None]:
        """Samples of a step's rays, and what was found at them already.

        About half of them lie behind what no light passes. These are looked for as long as there are many: what the
        grid holds is looked up anyway, and the network's way forth is a small part of what learning takes. Without a
        grid it is a third, and as much is lost as gained.
        """
        field, most = self.field, 2 * self.config.training.batch
        looks = self.lit is not None and (self.lit < WORTH_LOOKING or index % LOOK_EVERY == 0)
        size, cap = self._step_size(), 2 * most if looks else most
        samples = field.sampling(rays_o, rays_d, size, jitter, cap, self.near_plane, clear)
        told = field.lit(rays_o, rays_d, samples, self.config.training.early_stop_eps) if looks else None
        if told is None:  # a short training, for which nothing is compiled
            return samples.within(most), None
        reached, found = told
        self.lit = float(reached.float().mean()) if len(reached) else 1.0
        samples = samples.where(reached).within(most)
        return samples, None if found is None else found[reached][: len(samples.t_starts)]

    def _within(self, samples: Samples, most: int) -> tuple[Samples, int, Place]:
        """Of samples of this process's rays those that a cap on all processes' leaves; of how many rays all are, and
        where among all they lie."""
        if self.team.size == 1:
            return samples, samples.n_rays, Place(0, len(samples.t_starts))
        own = self.team.part(self.n_rays)
        counts = torch.full((own.stop - own.start,), most + 1, device=self.device)  # what the march's own cap left out
        counts[: samples.n_rays] = samples.packed_info[:, 1]
        ends = torch.cat([counts.new_zeros(1), self.team.whole(counts, self.n_rays).cumsum(0)])
        used = int((ends <= most).sum()) - 1
        samples = samples.first(min(max(used - own.start, 0), own.stop - own.start))
        return samples, used, Place(int(ends[min(own.start, used)]), int(ends[used]))

    def _with_depth(
        self, given: tuple[Tensor, Tensor, Samples], background: Tensor, target: Tensor, distances: Tensor,
        gain: Tensor | None, rays: slice,
    ) -> Tensor:  # fmt: skip
        """Squared error of colours, and three times that of distances, weighed, since it is of one channel.

        The distance of a ray is Σ w t: what lets light through is too near.
        """
        pixels, known = self.field.shade(*given), distances.isfinite()
        colours = pixels.over(background) if gain is None else pixels.over(background) * gain[rays]
        away = torch.where(known, pixels.depths.to(distances.dtype) - distances, 0.0) / self.length
        return (colours - target).square().sum() + 3 * self.config.training.depth_weight * away.square().sum()

    def _step_size(self) -> float:
        """Length of a sample now: long ones at first, so that a batch sees more rays, then ever finer ones."""
        return self.step_size * (lengthened(self.progress, self.config.training.coarse) if self.fresh else 1.0)

    def _fitted(self, view: Tensor, rays_o: Tensor, rays_d: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rays with their views' poses as learned, and the gains of their colours, None where none are learned."""
        if self.fit is None:
            return rays_o, rays_d, None
        gain = self.fit.exposures(view) if self.fit.fits_exposure else None
        return *self.fit.rays(view, rays_o, rays_d), gain

    def _pass_on(self, fitted: tuple[Tensor | None, ...], leaves: tuple[Tensor | None, ...]) -> None:
        """Carry gradients from the leaves that the chunks saw back to what is learned about the photographs."""
        pairs = [(x, leaf.grad) for x, leaf in zip(fitted, leaves, strict=True) if leaf is not None]
        pairs = [(x, grad) for x, grad in pairs if grad is not None]
        if pairs:
            torch.autograd.backward(*zip(*pairs, strict=True))

    def _chosen(self, generator: torch.Generator) -> Tensor:
        """Random numbers of pixels among those that rays are drawn from: of this process's rays."""
        by_error = self.config.training.by_error and self.team.size == 1 and self.fit is None and self.distances is None
        if by_error and self.grid_moves:
            return (self.errors or self._lay_out_errors()).draw(self.n_rays, generator)
        some = self.pixels if self.drawn is None else self.drawn
        return torch.randint(len(some), (self.n_rays,), generator=generator, device=self.device)[
            self.team.part(self.n_rays)
        ]

    def _lay_out_errors(self) -> ErrorMap:
        some = self.pixels if self.drawn is None else self.drawn
        self.errors = ErrorMap(len(some), self.config.training.by_error, self.device)
        return self.errors

    def _draw(
        self, generator: torch.Generator, chosen: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """The views of chosen pixels, rays through them, reference colours and backgrounds, how far the rays meet
        nothing, where that is known, and how far they meet a surface, where that is learned."""
        chosen, clear = self._chosen(generator) if chosen is None else chosen, None
        if self.drawn is not None:
            clear = None if self.clear is None else self.clear[chosen]
            chosen = self.drawn[chosen]
        view, rays_o, rays_d = self.rays(chosen)
        if self.config.data.background == "random":
            background = torch.rand(self.n_rays, 3, generator=generator, device=self.device)
            background = background[self.team.part(self.n_rays)]
        else:
            background = self.field.background.expand(len(chosen), 3)
        distances = None if self.distances is None else self.distances[chosen]
        return view, rays_o, rays_d, on_background(self.pixels[chosen], background), background, clear, distances

    def learned_beside(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Small corrections of the photographs' poses and exposures."""
        return (self.fit.settled(), {"names": self.names}) if self.fit else None

    def refine_with(self, learned: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]]) -> None:
        """The trained grid stays, since its averages are not in the run; corrections of the photographs too."""
        self.grid_moves = False
        if self.fit is None:
            return
        settled, note = learned()
        try:
            rows = {name: row for row, name in enumerate(note["names"])}
            self.fit = ViewFit.of(settled, [rows[name] for name in self.names]).to(self.device)
        except (LookupError, RuntimeError, TypeError) as error:
            raise SinefieldError(f"what was learned of the photographs does not fit ({error}); train again") from error

    def probe(self) -> Callable[[], Tensor]:
        rays_o, rays_d, samples = self.probe_samples(step_generator(0, 0, self.device), PROBED_SAMPLES)
        return lambda: self.field.shade(rays_o, rays_d, samples).colours

    def probe_samples(self, generator: torch.Generator, n: int) -> tuple[Tensor, Tensor, Samples]:
        """About `n` fixed samples of random training rays: rays_o, rays_d and the samples."""
        self.n_rays, kept = n, self.n_rays
        view, rays_o, rays_d, *_ = self._draw(generator)
        self.n_rays = kept
        rays_o, rays_d = (x.detach() for x in self._fitted(view, rays_o, rays_d)[:2])
        samples = self.field.sampling(rays_o, rays_d, max_samples=n)
        return rays_o[: samples.n_rays], rays_d[: samples.n_rays], samples

    def quick_score(self) -> dict[str, float]:
        """PSNR of one held-out view, or of a lattice of its pixels where it has many; of those that count."""
        truth = reference(self.scored.image(0), self.field.background.cpu()).flatten(0, 1)
        kept = self.scored.kept_of(0)
        pixels = torch.arange(len(truth)) if kept is None or not kept.any() else kept.flatten().nonzero()[:, 0]
        every = max(len(pixels) // QUICK_PIXELS, 1)
        pixels = pixels[every // 2 :: every]
        rays_o, rays_d = (rays[pixels].to(self.device) for rays in self.scored.cameras.view(0))
        self.field.set_dtype(torch.float32)
        image = self.field.render(rays_o, rays_d).over(self.field.background).clamp(0, 1).cpu()
        return {"psnr": float(psnr(image[None], truth[pixels][None]))}


def _leaf(x: Tensor) -> Tensor:
    """The same values as the root of a graph of their own."""
    return x.detach().requires_grad_(x.requires_grad)
