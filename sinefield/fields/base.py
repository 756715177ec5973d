"""What every kind of field brings. A new kind is a field, a task that fits it, and a `Kind` that is registered.

Commands, exporters, the store and the viewer know kinds by this register alone: `kind_of(field)` answers whatever they
have to ask. `tests/test_kinds.py` defines a kind of its own from start to end.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from sinefield.config import KINDS, Config
from sinefield.errors import SinefieldError, harmless
from sinefield.nn.weights import network_numbers as network_numbers
from sinefield.team import ALONE, Team

if TYPE_CHECKING:
    from sinefield.cameras.cameras import Cameras
    from sinefield.compress.container import Packed
    from sinefield.plain.distance import TrueDistance
    from sinefield.plain.distance_network import DistanceNetwork
    from sinefield.render.channels import Layers

Mesh = tuple[Float[np.ndarray, "v 3"], np.ndarray, dict[str, Any]]
"""Vertices in the input's coordinates, faces (f, 3), what `meshing.extract.extract` tells, `level`, `level_note`."""


class Field(nn.Module):
    """Base of all fields: a module that knows its kind, its settings and the arithmetic it computes in.

    Attributes:
        kind: name of its `Kind`.
        config: the group `field` of its scene file.
    """

    kind: ClassVar[str]
    config: Any

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Arithmetic of the hidden layers: torch.float32 or torch.bfloat16, or torch.float16 by tinycudann."""
        raise NotImplementedError

    has_own_box: ClassVar[bool] = False
    """Whether an edit may change the box."""
    not_edited: ClassVar[tuple[str, ...]] = ()
    """What the names of layers begin with that edits leave as they are."""

    @property
    def cells_shape(self) -> tuple[int, ...] | None:
        """Shape of the grid of cells, some of which an edit may fill or empty; None where there is none."""
        return None

    def take_edit(self, boxes: list[Float[np.ndarray, 6]], cells: list[np.ndarray]) -> None:
        """Change what edits say beside their weights: boxes of the changed object, and cells that change."""


class Task:
    """A field being fitted to its data: what a kind brings to the training loop.

    Attributes:
        field: what is trained.
        config: the scene file's settings.
        device: where.
        progress: share of the budget that is spent, set before each step.
        team: the processes among which each batch is shared out.
        shares: whether `step` takes this process's part of a batch alone, of a loss that is the whole batch's.
    """

    field: Any
    config: Any
    device: torch.device
    progress: float
    team: Team = ALONE
    shares: ClassVar[bool] = False

    def halve_batch(self) -> int:
        """Go on with half as large a batch, in settings of its own; returns its size."""
        training = self.config.training
        self.config = replace(self.config, training=replace(training, batch=max(training.batch // 2, 1)))
        return self.config.training.batch

    def step(self, index: int, generator: torch.Generator) -> float | Tensor:
        """Accumulate gradients of one step's loss; return the loss, or NaN-free 0.0 when there was nothing to do.

        On CUDA the loss is a tensor, so that the step need not wait for it.
        """
        raise NotImplementedError

    def quick_score(self) -> dict[str, float]:
        """A cheap held-out score, its name first."""
        raise NotImplementedError

    def hidden_matrices(self) -> list[nn.Parameter]:
        """Parameters that Muon takes; Adam takes the others."""
        return []

    def own_parameters(self) -> list[nn.Parameter]:
        """Parameters that are learned with the field but do not belong to it, at the rate `fit_lr`."""
        return []

    def state(self) -> dict[str, Tensor]:
        """What, beside parameters and optimisers, the next step depends on."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""

    def learned_beside(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was learned about the data themselves, and a note on it: kept in the run beside the field."""
        return None

    def refine_with(self, learned: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]]) -> None:
        """Get ready to train on with rounded weights; `learned` reads what `learned_beside` gave in training."""

    def probe(self) -> Callable[[], Tensor]:
        """What the field puts out on a fixed sample of its data, (n, …), as a function to be asked again and again."""
        raise NotImplementedError


def kept(loss: Tensor) -> float | Tensor:
    """A loss without its graph: a number on the CPU, a tensor that nobody waits for elsewhere."""
    return float(loss.detach()) if loss.device.type == "cpu" else loss.detach()


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Random numbers of one step, from seed and step alone: resuming needs no generator state."""
    return torch.Generator(device).manual_seed((seed * 0x9E3779B97F4A7C15 + step + 1) % 2**63)


ELEVATIONS = -60.0, -20.0, 20.0, 60.0
"""Degrees of the turns from which an object is seen on all sides."""


class Painter:
    """A field as cameras see it.

    Attributes:
        background: (3,) sRGB that its pictures are composited on.
    """

    background: Float[np.ndarray, 3]
    usual_path = "orbit"  # of a video, where none is asked for and the photographs are at hand

    def layers(self, cameras: Cameras, index: int, normals: bool = False) -> Layers:
        """Colours, opacities, depths and if asked for normals that camera `index` sees."""
        raise NotImplementedError

    def orbit(self, frames: int, size: tuple[int | None, int | None], elevation: float | None = None) -> Cameras:
        """Cameras of one turn around the field, all of it in view.

        Arguments:
            size: width and height in pixels; what is None is the field's own choice.
            elevation: degrees above the horizon; the field's own choice when None.
        """
        raise NotImplementedError

    def around(self, frames: int, size: tuple[int | None, int | None]) -> list[Cameras]:
        """Cameras on turns around it, `frames` or a few more. SinefieldError where it cannot be seen from all round."""
        return [self.orbit(-(-frames // len(ELEVATIONS)), size, elevation) for elevation in ELEVATIONS]

    def span(self, cameras: Cameras) -> tuple[float, float]:
        """Nearest and farthest distance, world units, that is worth a colour of its own in a picture of depth."""
        raise NotImplementedError


class Kind:
    """All that the package knows of one kind of field. Subclass it, fill it in, and `register_kind` an instance.

    What a kind cannot do stays as it is here: an error that says what its users do instead.

    Attributes:
        name: as scene files and `.sine` files have it.
        config: dataclass of its scene files, with `kind`, `seed`, `data`, `field` and `training`.
        score: its main score's key in reports, of those in `metrics.SCORES`; more is better.
        quick: what its quick score is measured on, for people.
        colour: of its points in plots.
        affordable: how much of the score default packing may cost, as judged.
        shows: how people look at it: "light" by rays, "surface" as a mesh, "picture" as it is; None not at all.
        instead: the command that serves its users where a command does not.
        pictures, legend: the files of pictures that a report leaves, as a pattern, and what they show.
        placed: shapes of the buffers by which a stored field is placed, which `blank` needs.
        unsaved: buffers that training alone needs, not stored with a field; they keep their first values.
        bits: bool buffers, stored as bits.
        edits: whether an adapter can turn such a field into that of a changed scene.
        beside: bytes of a packed file, about, that are neither its head nor its network.
        trains_rounded: whether packing trains on with rounded weights, or only rounds.
        has_photographs: whether its data are photographs with cameras.
        short_in_torch: whether a training of seconds rather does without compiled kernels than wait for them.
        presets: settings by dotted name, of `balanced` fields and of what else there is.
    """

    name: ClassVar[str]
    config: ClassVar[type]
    score: ClassVar[str] = "psnr"
    quick: ClassVar[str] = "PSNR (dB)"
    colour: ClassVar[str] = "#555555"
    affordable: ClassVar[float] = 0.2
    shows: ClassVar[Literal["light", "surface", "picture"] | None] = None
    instead: ClassVar[str] = "see sinefield --help"
    pictures: ClassVar[str] = "*.png"
    legend: ClassVar[str] = "Reference, prediction, error (brighter is worse)."
    placed: ClassVar[dict[str, tuple[int, ...]]] = {}
    unsaved: ClassVar[frozenset[str]] = frozenset()
    bits: ClassVar[frozenset[str]] = frozenset()
    edits: ClassVar[bool] = False
    beside: ClassVar[int] = 0
    trains_rounded: ClassVar[bool] = True
    has_photographs: ClassVar[bool] = False
    short_in_torch: ClassVar[bool] = False
    presets: ClassVar[dict[str, dict[str, Any]]] = {}

    def of(self, settings: Any) -> Kind:
        """What knows of fields with these settings: this, or a kind that differs from it in some answers."""
        return self

    # Data and training

    def preset(self, name: str | None, path: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings by dotted name that suit the data at `path`: of a small, balanced or best field, as `name` says, or
        the usual ones when None. `given` are those that count in any case."""
        if name is not None and not self.presets:
            self._cannot("has no presets")
        return self.presets.get(name or "balanced", {})

    def settled(self, config: Any, data: Any) -> Any:
        """The configuration with what its data decide. Raises SinefieldError for data that it does not suit."""
        return config

    def chosen(self, config: Any, data: Any) -> str | None:
        """A line for people on what `settled` has decided that they would not expect."""
        return None

    def described(self, data: Any) -> str | None:
        """Lines for people on the data that a training begins with."""
        return None

    def read(self, config: Any) -> Any:
        """The data that a scene file names. Raises SinefieldError for what cannot be read."""
        raise NotImplementedError

    def task(self, config: Any, data: Any, field: Any = None) -> Task:
        """A field ready to be fitted to its data: a new one, or `field`, a trained one, to be fitted on."""
        raise NotImplementedError

    # Files

    def blank(self, settings: Any, placed: dict[str, Tensor]) -> Any:
        """A field of these settings whose numbers are still to come; `placed` holds the buffers that `placed` names."""
        raise NotImplementedError

    def numbers(self, settings: Any) -> int:
        """How many numbers a field of these settings has at least."""
        return 0

    def check(self, tensors: dict[str, Tensor], where: str) -> None:
        """Refuse stored tensors, of the right shapes and finite, that no field has. Raises SinefieldError."""

    def restored(self, field: Any) -> None:
        """Make up for what a `.sine` file does not store, once a field has its numbers."""

    def shapes(self, settings: Any) -> dict[str, tuple[int, ...]]:
        """Names and shapes of a field's parameters, without the memory for them."""
        placed = {name: torch.ones(shape) for name, shape in self.placed.items()}
        with torch.device("meta"):
            return {name: tuple(p.shape) for name, p in self.blank(settings, placed).named_parameters()}

    def parts(self, field: Any) -> dict[str, Any]:
        """What a `.sine` file holds beside settings and parameters, as `compress.container.Packed` has it: here all
        stored buffers as they are."""
        kept = field.state_dict().keys() - dict(field.named_parameters()).keys() - self.unsaved
        return {"box": None, "arrays": {name: field.state_dict()[name].cpu().numpy() for name in sorted(kept)}}

    def from_parts(self, settings: Any, packed: Packed) -> Any:
        """A field with what `parts` gave, its parameters still to come. Raises SinefieldError for what no field has."""
        arrays = {name: torch.from_numpy(array) for name, array in packed.arrays.items()}
        for name, shape in self.placed.items():
            if name not in arrays or arrays[name].shape != shape:
                raise SinefieldError(f"{name} is missing or of a wrong shape; make the file again")
        field = self.blank(settings, {name: arrays[name] for name in self.placed})
        held = field.state_dict()
        for name, array in arrays.items():
            if name not in held or held[name].shape != array.shape:
                raise SinefieldError(f"its {name} does not fit its settings; make the file again")
            held[name].copy_(array)
        self.check({**held, **arrays}, "the file")
        return field

    # Scores

    def report(self, field: Any, config: Any, data: Any, pictures: Path | None) -> dict[str, Any]:
        """All scores of a field against its data, `score` among them, and its pictures where there is a folder."""
        return {self.score: self.quality(field, data)}

    def quick_report(self, field: Any, config: Any, data: Any, pictures: Path | None) -> dict[str, Any]:
        """`report` for those who want to go on: of less where that is sooner done, and then it says of how much."""
        return self.report(field, config, data, pictures)

    def quality(self, field: Any, data: Any) -> float:
        """The main score as `report` has it."""
        raise NotImplementedError

    def quick_quality(self, field: Any, data: Any) -> float:
        """The main score of fewer held-out samples, where that is sooner done."""
        return self.quality(field, data)

    def judge(self, data: Any, apart: bool) -> tuple[Any, Callable[[Any], float]]:
        """The data to train on while packing, and a score to decide by: of other samples than `quality`'s where data
        are held out.

        Arguments:
            apart: judge by what training never sees, at the cost of some of it where need be.
        """
        return data, lambda field: self.quality(field, data)

    def packing(self, config: Any, anew: bool = False) -> Any:
        """The settings that packing trains by: with the steps of an effort of 1, of a trained field or one `anew`."""
        return replace(config, training=replace(config.training, steps=1000))

    # Edits

    def edit_training(self, training: Any) -> Any:
        """How an edit is trained where a scene file says so: without what an edit cannot hold."""
        return training

    def begin_edit(self, field: Any, config: Any, data: Any, base: str) -> Float[np.ndarray, 6] | None:
        """Refuse data that no edit of the field leads to; the changed box, for a kind that has its object's.

        Raises:
            SinefieldError: see above.
        """
        raise SinefieldError(f"{base}: a {self.name} field takes no edits; train it anew")

    def settle_edit(self, task: Task, before: Any, data: Any) -> np.ndarray | None:
        """Which cells of the grid an adapted field is to change against the base's; None for none."""
        return None

    def edit_state(self, field: Any) -> Any:
        """What `settle_edit` has to know of the field before it is adapted."""
        return None

    # What leaves a field

    def extent(self, field: Any) -> tuple[dict[str, Any], str]:
        """How far a field reaches: for reports, and as a line for people."""
        return {}, ""

    def surface(
        self,
        field: Any,
        resolution: int,
        level: float | None = None,
        dense: bool = False,
        crop: Float[np.ndarray, 6] | None = None,
    ) -> Mesh:
        """The field's surface in the coordinates of its data; see `export.mesh.extract_field`."""
        self._cannot("has no surface")

    def true_distance(self, field: Any) -> TrueDistance:
        """Signed distances to the field's surface anywhere in space."""
        self._cannot("has no signed distance")

    def distance_network(self, field: Any) -> DistanceNetwork:
        """The network behind `true_distance`, for programs that evaluate it themselves."""
        self._cannot("has no signed distance")

    def vertex_colours(self, field: Any, vertices: np.ndarray, normals: np.ndarray) -> UInt8[np.ndarray, "v 3"] | None:
        """sRGB of points on the surface, whose outward normals are given; None where a field has no colours."""
        return None

    def colour_at(self, field: Any, points: np.ndarray, directions: np.ndarray | None) -> Float[np.ndarray, "n 3"]:
        """sRGB in [0, 1] at points, where it depends on that seen along directions (n, 3) of any length."""
        self._cannot("has no colour")

    def up(self, field: Any) -> Float[np.ndarray, 3]:
        """Which way is up, world axes."""
        return np.array([0.0, 1.0, 0.0])

    def painter(self, field: Any) -> Painter:
        """The field as cameras see it."""
        self._cannot("cannot be seen by a camera")

    def picture(self, field: Any, width: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
        """The field as a picture of a width in pixels, its own when None."""
        self._cannot("is no picture")

    def _cannot(self, why: str) -> NoReturn:
        raise SinefieldError(f"a field of kind {self.name} {why}; {self.instead}")


_KINDS: dict[str, Kind] = {}


def register_kind(kind: Kind) -> Kind:
    """Let scene files, runs and `.sine` files name a kind. Raises SinefieldError for a name taken, or no plain word."""
    name = kind.name
    if not (name.isidentifier() and name.isascii() and len(name) <= 32):
        raise SinefieldError(f"{name!r} cannot name a kind of field; use at most 32 letters, digits and _")
    if type(_KINDS.get(name, kind)) is not type(kind):
        raise SinefieldError(f"there is a kind of field named {name} already; choose another name")
    _KINDS[name] = kind
    KINDS[name] = kind.config
    return kind


def kind_named(name: str) -> Kind:
    """The registered kind of this name; raises SinefieldError for others."""
    if name not in _KINDS:
        raise SinefieldError(f"kind {name!r} is unknown; one of {', '.join(_KINDS)}")
    return _KINDS[name]


def kind_of(field: Any) -> Kind:
    """The kind of a field or of a scene file's configuration."""
    kind = kind_named(field.kind)
    settings = getattr(field, "field", None) or getattr(field, "config", None)
    return kind if settings is None else kind.of(settings)


def kinds() -> Iterator[Kind]:
    """All registered kinds."""
    yield from _KINDS.values()


def read_data(config: Config) -> Any:
    """The mesh or point cloud, the photographs, the image or the shapes that a config names."""
    return kind_of(config).read(config)


def settled(config: Config, data: Any) -> Config:
    """The configuration with what its data decide; the data and what was decided are told on standard error."""
    if lines := kind_of(config).described(data):
        print(harmless(lines), file=sys.stderr)
    found = kind_of(config).settled(config, data)
    if line := kind_of(found).chosen(config, data):
        print(harmless(line), file=sys.stderr)
    return found


def make_task(config: Config, data: Any, field: Any = None) -> Task:
    """The field that a config describes, ready to be fitted to its data; or `field`, a trained one, to be fitted on."""
    return kind_of(config).task(config, data, field)
