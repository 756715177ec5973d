"""What a scene file says: plain dataclasses, one comment a field, checked where they are made."""

from dataclasses import dataclass
from dataclasses import field as setting
from typing import Any, Literal

from sinefield.errors import SinefieldError, shown

Activation = Literal["relu", "leaky_relu", "gaussian", "sine", "softplus"]
WEIGHTS = ["sine", "lowrank", "dense"]
"""How square hidden matrices may be stored; `nn.weights.register_weight` adds names."""


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise SinefieldError(message)


def _known_weights(name: str) -> None:
    _check(name in WEIGHTS, f"weights is {shown(name)}; should be one of {', '.join(WEIGHTS)}")


def _positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _check(value is None or value > 0, f"{name} is {value}; should be above 0")


def _usual(config: Any, *names: str) -> None:
    """Factors with which single precision can compute; none that anybody would choose lies outside."""
    for name in names:
        value = getattr(config, name)
        _check(value is None or 1e-6 <= value <= 1e6, f"{name} is {value}; 1e-6 to 1e6")


def _one_of_omega_and_phase(config: Any) -> None:
    """ω, where it is given, replaces the usual phase. Neither, which only an explicit null can ask for, is left to the
    weight."""
    if config.omega is not None and config.phase == type(config).phase:
        config.phase = None
    _check(config.omega is None or config.phase is None, "omega and phase are both given; keep one")


@dataclass
class NetworkConfig:
    """The network that all kinds of field share."""

    width: int = 128  # units in each hidden layer
    depth: int = 3  # hidden layers; the square matrices between them are stored as `weights` says
    skips: list[int] = setting(default_factory=list)  # hidden layers that see the input again
    weights: str = "sine"  # how square hidden matrices are stored: sine, lowrank, dense, or what is registered
    rank: int = 16  # k of the low-rank factors
    omega: float | None = None  # ω of the sine, in place of phase
    phase: float | None = 0.5  # standard deviation of ω·UV at the start, ω = 3·√inputs·phase
    bound: float = 4.0  # largest entry of a sine weight in units of 1/√inputs: √inputs/g
    activation: Activation = "leaky_relu"  # between layers; sine: SIREN
    sigma: float = 0.1  # σ of the Gaussian activation
    omega0: float = 30.0  # ω₀ of the sine activation
    encoding: Literal["frequency", "hash"] = "frequency"  # hash: trained feature grids; sharp sooner, larger files
    frequencies: int = 5  # octaves of the positional encoding; 0 for none
    levels: int = 12  # grids of the hash encoding
    log2_table: int = 15  # entries of each grid's table, as a power of two
    coarsest: int = 16  # cells along each side of the first grid
    finest: int = 512  # cells along each side of the last grid

    def __post_init__(self) -> None:
        _known_weights(self.weights)
        if self.encoding == "hash":
            self.frequencies = 0
        _check(1 <= self.levels <= 32, f"levels is {self.levels}; 1 to 32")
        _check(4 <= self.log2_table <= 24, f"log2_table is {self.log2_table}; 4 to 24")
        _check(
            1 <= self.coarsest <= self.finest <= 65536,
            f"coarsest is {self.coarsest}, finest {self.finest}; 1 ≤ coarsest ≤ finest ≤ 65,536",
        )
        _positive(self, "width", "depth", "rank")
        _usual(self, "omega", "phase", "bound", "sigma", "omega0")
        _check(self.width <= 8192, f"width is {self.width}; at most 8192")
        _check(self.depth <= 64, f"depth is {self.depth}; at most 64")
        _check(
            self.weights == "dense" or self.rank <= self.width,
            f"rank is {self.rank}, larger than the width {self.width}; choose at most {self.width}",
        )
        _one_of_omega_and_phase(self)
        _check(0 <= self.frequencies <= 20, f"frequencies is {self.frequencies}; 0 to 20")
        for skip in self.skips:
            _check(0 < skip < self.depth, f"skips has {skip}; should lie between 1 and depth − 1 = {self.depth - 1}")


@dataclass
class ShapeFieldConfig(NetworkConfig):
    """A shape: occupancy, signed distance, or an open sheet that holds nothing inside.

    Losses of distance and sheet: "l1" between distances clamped to ±band, or "tanh", L1 between tanh(d/band) of both,
    which is the same with soft shoulders. "asinh" of distances, L1 between asinh(d/band), learns far ones as well.
    Losses of occupancy: "bce" on logits, or "mse" on the raw output (the first paper's).
    """

    represents: Literal["distance", "occupancy", "sheet"] | None = None  # sheet: an open one; by the data if absent
    band: float = 0.03  # distance from the surface, in field units, within which distances are learned
    loss: Literal["tanh", "l1", "bce", "mse", "asinh"] | None = None  # absent: tanh of distances, bce of occupancies
    colours: Literal["auto", "yes", "no"] = "auto"  # learn the input's colours; auto: where it has some
    colour_width: int = 24  # units in each hidden layer of the colour network
    colour_depth: int = 2  # hidden layers of the colour network
    colour_frequencies: int = 4  # octaves of the colour network's own positional encoding

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "band", "colour_width", "colour_depth")
        _check(self.colour_width <= 1024, f"colour_width is {self.colour_width}; at most 1024")
        _check(self.colour_depth <= 16, f"colour_depth is {self.colour_depth}; at most 16")
        _check(0 <= self.colour_frequencies <= 20, f"colour_frequencies is {self.colour_frequencies}; 0 to 20")
        losses: Any = ("bce", "mse") if self.represents == "occupancy" else ("tanh", "l1", "asinh")
        _check(
            self.loss is None or self.loss in losses,
            f"loss {self.loss} does not suit {self.represents or 'distance'}; one of {', '.join(losses)}",
        )
        self.loss = self.loss or losses[0]

    @property
    def outputs(self) -> int:
        """Numbers that the network puts out: of a sheet two, see `data.surfaces.sheet`."""
        return 2 if self.represents == "sheet" else 1

    @property
    def colour_network(self) -> NetworkConfig | None:
        """The network of the surface's colours: dense, with the field's activation; None where there is none."""
        if self.colours != "yes":
            return None
        bent: dict[str, Any] = {"activation": self.activation, "sigma": self.sigma, "omega0": self.omega0}
        own = {"width": self.colour_width, "depth": self.colour_depth, "frequencies": self.colour_frequencies}
        return NetworkConfig(weights="dense", **own, **bent)


@dataclass
class RadianceFieldConfig(NetworkConfig):
    """A radiance field: density trunk and view-dependent colour head."""

    width: int = 64  # units in each hidden layer of the trunk
    depth: int = 4  # hidden layers of the trunk
    activation: Activation = "relu"  # between layers
    frequencies: int = 8  # octaves of the positional encoding; 0 for none
    features: int = 15  # numbers the trunk hands to the colour head
    head_width: int = 64  # units in the colour head's hidden layers
    head_depth: int = 1  # hidden layers of the colour head
    grid: int = 64  # cells along each side of the occupancy grid
    steps: int = 128  # samples along the box's longest side, were all of it occupied
    space: Literal["box", "ndc", "contracted"] = "box"  # ndc: forward-facing captures; contracted: unbounded ones
    grid_levels: int = 1  # nested grids, each over a box twice as large as the last
    cone_angle: float = 0.0  # samples grow with distance, to so much of it; 0: all of one length
    density: Literal["free", "distance"] = "free"  # distance: that of a surface, which the field learns as its 0 level
    beta: float = 0.003  # of a distance: depth in which the surface turns opaque, in halves of the box's longest side

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(1e-4 <= self.beta <= 0.1, f"beta is {self.beta}; 0.0001 to 0.1")
        _positive(self, "features", "head_width", "head_depth", "grid", "steps")
        _check(4 <= self.grid <= 512, f"grid is {self.grid}; 4 to 512")
        _check(self.head_depth <= 64, f"head_depth is {self.head_depth}; at most 64")
        _check(1 <= self.grid_levels <= 10, f"grid_levels is {self.grid_levels}; 1 to 10")
        odd = self.grid_levels > 1 and self.grid % 4
        _check(not odd, f"grid is {self.grid}; with several levels it must be a multiple of 4")
        _check(0 <= self.cone_angle <= 0.1, f"cone_angle is {self.cone_angle}; 0 to 0.1")
        _check(
            self.space != "ndc" or (self.grid_levels == 1 and self.cone_angle == 0),
            "space is ndc, which holds all distances in one box: grid_levels must be 1 and cone_angle 0",
        )
        _check(
            self.space != "contracted" or self.grid_levels > 1,
            "space is contracted, but nothing lies beyond one grid; set grid_levels to 4 or so",
        )
        _check(
            self.density == "free" or (self.space == "box" and self.grid_levels == 1 and self.cone_angle == 0),
            "density is distance, which is learned in one box: space must be box, grid_levels 1 and cone_angle 0",
        )
        _check(self.steps <= 65536, f"steps is {self.steps}; at most 65536")


@dataclass
class ImageFieldConfig(NetworkConfig):
    """An image: where to which colour. Small files ask for small sine weights, as scenes/image_small.yaml does."""

    width: int = 256  # units in each hidden layer
    weights: str = "dense"  # how square hidden matrices are stored: sine, lowrank, dense, or what is registered
    phase: float | None = 0.25  # standard deviation of ω·UV at the start; 0.5 loses several dB
    bound: float = 2.0  # largest entry of a sine weight in units of 1/√inputs
    activation: Activation = "gaussian"  # between layers; 2 dB above relu at equal size
    sigma: float = 0.25  # σ of the Gaussian activation
    frequencies: int = 7  # octaves of the positional encoding: the last reaches single pixels at 256 a side

    def __post_init__(self) -> None:
        _check(self.encoding == "frequency", "encoding hash is for shapes and radiance fields; use frequency")
        super().__post_init__()


@dataclass
class ShapesFieldConfig:
    """A transformer from points to a shape: `fields.latent_shape`. Distances are learned by L1 between tanh(d/band)."""

    points: int = 1024  # points of a scan; larger ones are thinned to so many
    dim: int = 128  # channels of a token
    tokens: int = 192  # of a shape, each at one of the points
    heads: int = 4  # heads of every attention
    blocks: int = 5  # blocks of self-attention between reading the points and answering queries
    expand: int = 3  # the feed-forward layers' hidden width in units of dim
    attention: Literal["softmax", "x", "x^3"] = "softmax"  # what becomes of scores; powers are divided by √N
    graying: Literal["none", "svd", "dct"] = "none"  # token graying before self-attention
    epsilon: float = 0.9  # ε of the graying
    skip_attention: bool = True  # skip connections round the blocks' self-attention
    skip_feedforward: bool = True  # skip connections round the blocks' feed-forward layers
    weights: str = "dense"  # how the blocks' feed-forward matrices are stored: sine, lowrank or dense
    rank: int = 16  # k of the low-rank factors
    omega: float | None = None  # ω of the sine, in place of phase
    phase: float | None = 0.5  # standard deviation of ω·UV at the start
    bound: float = 4.0  # largest entry of a sine weight in units of 1/√inputs
    represents: Literal["distance", "occupancy"] = "distance"  # signed distance, or whether a point is inside
    band: float = 0.06  # distance from the surface, in field units, within which distances are learned at first

    def __post_init__(self) -> None:
        _known_weights(self.weights)
        _positive(self, "dim", "tokens", "heads", "expand", "rank", "band")
        _usual(self, "omega", "phase", "bound")
        _check(self.dim <= 2048, f"dim is {self.dim}; at most 2048")
        _check(
            self.dim % (2 * self.heads) == 0,
            f"dim is {self.dim} with {self.heads} heads; dim should be a multiple of twice the heads",
        )
        _check(self.points <= 65536, f"points is {self.points}; at most 65,536")
        _check(8 <= self.tokens <= self.points, f"tokens is {self.tokens}; 8 to points, which is {self.points}")
        _check(0 <= self.blocks <= 64, f"blocks is {self.blocks}; 0 to 64")
        _check(self.expand <= 16, f"expand is {self.expand}; at most 16")
        _check(0 < self.epsilon <= 1, f"epsilon is {self.epsilon}; should lie in (0, 1]")
        _check(self.rank <= self.dim, f"rank is {self.rank}, larger than dim {self.dim}; choose at most {self.dim}")
        _one_of_omega_and_phase(self)


@dataclass
class ShapeDataConfig:
    """A mesh or an oriented point cloud, and how training points are drawn from it."""

    path: str = ""  # OBJ, PLY, STL, OFF, GLB or XYZ
    points: int | None = None  # labelled points prepared before training; by the budget, at most 2,000,000
    near_fraction: float = 0.7  # share of them near the surface
    part: int | None = None  # the one part of the mesh that is learned, as train --split counts them; all if absent

    def __post_init__(self) -> None:
        _check(self.points is None or 1000 <= self.points <= 100_000_000, f"points is {self.points}; 1,000 to 1e8")
        _check(0 <= self.near_fraction <= 1, f"near_fraction is {self.near_fraction}; 0 to 1")
        _positive(self, "part")


@dataclass
class ShapesDataConfig:
    """Many shapes, some of them held out, and how each is scanned; lengths are shares of a shape's longest side."""

    path: str = ""  # folder of meshes, its subfolders being categories; or families:, or families:chair,vase
    shapes: int = 800  # of families: how many to train on, equally many of each family
    held_out: int = 8  # of families: unseen shapes of each; of a folder: every so many-th mesh is held out
    noise: float = 0.005  # standard deviation of a scanned point's place

    def __post_init__(self) -> None:
        _check(1 <= self.shapes <= 100_000, f"shapes is {self.shapes}; 1 to 100,000")
        _check(1 <= self.held_out <= 1000, f"held_out is {self.held_out}; 1 to 1,000")
        _check(0 <= self.noise <= 0.1, f"noise is {self.noise}; 0 to 0.1")


@dataclass
class RadianceDataConfig:
    """Posed photographs.

    Background rule: an image with alpha is composited on `background`; "random" draws a colour per ray in training and
    is white in evaluation and video. An image without alpha is what it is, and the background shows where the field is
    empty.
    """

    path: str = ""  # folder of photographs and poses (docs/your_photographs.md has the kinds), or its pose file
    downscale: int = 1  # average blocks of this many pixels
    background: Literal["white", "black", "random"] = "white"  # what transparent pixels and empty space show
    aabb: list[float] | None = None  # box as [xmin, ymin, zmin, xmax, ymax, zmax]; from the data when absent
    holdout: int = 8  # where the data names no test views, every n-th is one
    near: float | None = None  # distance from a camera before which it sees nothing; from the data's depths when absent
    masks: Literal["ignore", "object", "unused"] = "ignore"  # what black in masks is: left out; background; nothing
    alpha: Literal["object", "ignore"] = "object"  # what is not opaque: background; left out

    def __post_init__(self) -> None:
        _check(self.downscale >= 1, f"downscale is {self.downscale}; should be at least 1")
        _check(self.holdout >= 2, f"holdout is {self.holdout}; should be at least 2")
        _check(self.near is None or self.near >= 0, f"near is {self.near}; should be at least 0")
        if self.aabb is not None:
            _check(len(self.aabb) == 6, f"aabb has {len(self.aabb)} numbers; should be xmin ymin zmin xmax ymax zmax")
            _check(all(a < b for a, b in zip(self.aabb[:3], self.aabb[3:], strict=True)), "aabb: minimum above maximum")


@dataclass
class ImageDataConfig:
    """One image."""

    path: str = ""  # PNG, JPEG, TIFF, WebP or BMP; skimage:astronaut.png is one of those that scikit-image brings
    downscale: int = 1  # average blocks of this many pixels
    background: Literal["white", "black"] = "white"  # what shows through where the image has alpha

    def __post_init__(self) -> None:
        _check(self.downscale >= 1, f"downscale is {self.downscale}; should be at least 1")


@dataclass
class Schedule:
    """How long and by which rule. With `steps`, these count, and the same seed repeats."""

    seconds: float | None = 60.0  # training time, without evaluation and saving
    steps: int | None = None  # number of steps; makes a run repeatable to the bit (docs/reliability.md)
    optimizer: Literal["muon", "adam"] = "muon"  # muon: for the hidden matrices, Adam for the rest
    lr: float = 0.02  # Muon's rate for hidden matrices (unused with adam)
    adam_lr: float = 1e-2  # Adam's rate
    warmup: float = 0.02  # share of the budget over which rates rise
    final_lr: float = 0.02  # share of the rates left at the end of the cosine
    chunk: int | None = None  # points that go through the network at once; by the width, 16 MB a layer
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # hidden layers' arithmetic; auto: bf16 where it is fast
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda where torch sees a device
    backend: Literal["auto", "torch", "tinycudann"] = "auto"  # what runs the networks on cuda; auto: torch
    save_seconds: float = 30.0  # time between two saves of the resumable state
    score_seconds: float = 10.0  # time between two quick scores; more where they are slow
    tensorboard: bool = False  # write scores for TensorBoard too, into RUN/tensorboard

    def __post_init__(self) -> None:
        _positive(self, "seconds", "steps", "lr", "adam_lr", "chunk", "save_seconds", "score_seconds")
        _check(self.seconds is not None or self.steps is not None, "give training.seconds or training.steps")
        _check(0 <= self.warmup < 1, f"warmup is {self.warmup}; 0 to 1")
        _check(0 <= self.final_lr <= 1, f"final_lr is {self.final_lr}; 0 to 1")
        _positive(self, *["batch"] * hasattr(self, "batch"))


@dataclass
class TrainingConfig(Schedule):
    """A schedule whose steps are of so many points, whatever the budget."""

    batch: int = 16384  # points a step


@dataclass
class ShapeTrainingConfig(Schedule):
    """Shapes' own settings."""

    batch: int | None = None  # points a step; 16,384, but fewer in trainings of less than 16 seconds: 1,024 a second
    sharpen: float = 6.0  # the band in which distances are learned ends so many times narrower than it began
    eikonal: float | None = None  # weight of (|∇d| − 1)²; none: 0.1 for a point cloud, else 0
    reach: Literal["near", "far"] = "near"  # how far the network itself learns distances: its band, or the whole box

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(1 <= self.sharpen <= 100, f"sharpen is {self.sharpen}; 1 (the band stays as it is) to 100")


@dataclass
class RadianceTrainingConfig(TrainingConfig):
    """Radiance fields' own settings."""

    seconds: float | None = 180.0  # training time, without evaluation and saving
    batch: int = 32768  # target number of samples a step; the number of rays adapts to it
    eikonal: float = 0.01  # of field.density distance: weight of (|∇d| − 1)² beside the colours' mean square error
    curvature: float = 1e-5  # of field.density distance: weight of |∇²d|, in 1 / half the box's longest side
    coarse: float = 4.0  # samples are at first so many times longer than the field's own, and get shorter evenly
    by_error: float = 0.0  # share of the rays that are drawn where the picture is wrong; the others are at random
    early_stop_eps: float = 1e-3  # hash grids on CPUs: a ray ends where less of its light is left; 0: it never does
    hull: bool = True  # start from the visual hull of the masks where images carry alpha
    grid_every: int = 16  # steps between two updates of the occupancy grid
    fit_poses: bool = False  # learn a small rotation and shift of each training camera
    fit_exposure: bool = False  # learn how bright and tinted each training photograph is
    fit_lr: float = 3e-4  # Adam's rate for what is learned about the photographs: radians, share of the box, gains
    marcher: Literal["auto", "numba", "nerfacc", "triton", "reference"] = "auto"  # what cuts rays into samples
    depth_weight: float = 0.0  # of depth images: weight of the mean square error of distances, in longest box sides

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(0 <= self.by_error <= 1, f"by_error is {self.by_error}; 0 to 1")
        _check(0 <= self.early_stop_eps <= 0.1, f"early_stop_eps is {self.early_stop_eps}; 0 to 0.1")
        for name in ("eikonal", "depth_weight", "curvature"):
            _check(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; 0 or more")
        _check(1 <= self.coarse <= 64, f"coarse is {self.coarse}; 1 (samples are as long as the field's) to 64")


@dataclass
class ImageTrainingConfig(TrainingConfig):
    """Images' own settings."""

    lr: float = 0.04
    adam_lr: float = 2e-2
    batch: int = 8192  # pixels a step, drawn at random


@dataclass
class ShapesTrainingConfig(TrainingConfig):
    """Training on many shapes."""

    seconds: float | None = 600.0  # training time, without evaluation and saving
    adam_lr: float = 2e-3  # Adam's rate
    batch: int = 8  # shapes a step
    score_seconds: float = 60.0  # time between two scores on held-out shapes
    queries: int = 1024  # points a step asks of each, half of them near its surface
    sharpen: float = 3.0  # the band in which distances are learned ends so many times narrower than it began

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "queries")
        _check(1 <= self.sharpen <= 100, f"sharpen is {self.sharpen}; 1 (the band stays as it is) to 100")


@dataclass
class ShapeConfig:
    """A scene file of kind `shape`."""

    kind: Literal["shape"] = "shape"
    seed: int = 0
    data: ShapeDataConfig = setting(default_factory=ShapeDataConfig)
    field: ShapeFieldConfig = setting(default_factory=ShapeFieldConfig)
    training: ShapeTrainingConfig = setting(default_factory=ShapeTrainingConfig)


@dataclass
class RadianceConfig:
    """A scene file of kind `radiance`."""

    kind: Literal["radiance"] = "radiance"
    seed: int = 0
    data: RadianceDataConfig = setting(default_factory=RadianceDataConfig)
    field: RadianceFieldConfig = setting(default_factory=RadianceFieldConfig)
    training: RadianceTrainingConfig = setting(default_factory=RadianceTrainingConfig)


@dataclass
class ImageConfig:
    """A scene file of kind `image`."""

    kind: Literal["image"] = "image"
    seed: int = 0
    data: ImageDataConfig = setting(default_factory=ImageDataConfig)
    field: ImageFieldConfig = setting(default_factory=ImageFieldConfig)
    training: ImageTrainingConfig = setting(default_factory=ImageTrainingConfig)


@dataclass
class ShapesConfig:
    """A scene file of kind `shapes`."""

    kind: Literal["shapes"] = "shapes"
    seed: int = 0
    data: ShapesDataConfig = setting(default_factory=ShapesDataConfig)
    field: ShapesFieldConfig = setting(default_factory=ShapesFieldConfig)
    training: ShapesTrainingConfig = setting(default_factory=ShapesTrainingConfig)
