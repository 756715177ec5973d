"""A trained field into a small file: steps by measured sensitivity, then training on with rounded weights."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sinefield.compress.container import encode
from sinefield.compress.quantize import Codebook, Quantiser, Uniform
from sinefield.config import Config, RadianceConfig, locate
from sinefield.data.photographs.images import PosedScene, Views
from sinefield.data.surfaces.sampling import heldout_points
from sinefield.errors import SinefieldError
from sinefield.fields.image.field import ImageField
from sinefield.fields.image.training import image_psnr
from sinefield.fields.radiance.view_fit import ViewFit
from sinefield.fields.shape.field import ShapeField
from sinefield.fields.shape.training import HELDOUT_SEED
from sinefield.files import check_output, write_bytes
from sinefield.learning.evaluate import Data, heldout_iou, mean_psnr
from sinefield.learning.loop import step_generator
from sinefield.learning.pack_shapes import pack_shapes
from sinefield.learning.refine import Budget, allocate, install, refine, sensitivities
from sinefield.learning.tasks import load_data, make_task
from sinefield.metrics import MAIN_SCORE
from sinefield.metrics.shapes import iou
from sinefield.nn.backend import hidden_dtype
from sinefield.store.run import Run, load_field, load_tensors
from sinefield.store.sine_files import is_sine, note_of, save_sine, to_packed

ALLOWED = {"shape": 0.0025, "radiance": 0.15, "image": 0.2}
"""Loss of IoU or dB, as judged, that packing may cost by default."""
JUDGED_POINTS = 100_000
JUDGED_VIEWS = 10
APART = 8
"""One training view in so many is kept out of refining where the data have no validation views to judge by."""
PROBED_POINTS = 16384
HEADROOM = 0.99
"""Share of a byte limit that is aimed at; the limit itself is kept by widening the steps at the end."""
NOTED_FROM, SCORE_BYTES = 1500, 4
ROUNDS, SHRINK = 6, 0.86
"""Default packing: rounds of refining, each aiming at so much of the last one's size."""


def pack(
    run: str | Path,
    out: str | Path,
    bits: int | None = None,
    max_bytes: int | None = None,
    min_quality: float | None = None,
    quantiser: str = "uniform",
    seconds: float = 120.0,
    steps: int | None = None,
    data: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Pack a run into a `.sine` file.

    One of `bits` (every matrix at so many, biases at 8), `max_bytes` (the best field that fits) and `min_quality` (the
    smallest field of that IoU or PSNR) may be given; with none, the smallest field that costs at most 0.004 IoU or
    0.2 dB. What is lost is judged on held-out points other than those reported; for radiance on the validation views,
    or, where there are none beside the test views, on training views that refining leaves out. These a field may know
    by heart, as one with a hash grid does: then the judgement is too strict rather than too kind, the file larger. Of
    an image it is the very score that is reported, on the pixels it was fitted to. A field of
    many shapes is only rounded: see `pack_shapes`.

    Arguments:
        quantiser: "uniform" or, with `bits`, "kmeans".
        seconds: training with rounded weights, in all; 0 for rounding alone.
        steps: the same in steps, which repeat to the bit.
        data: where the run's data are now, if they moved.

    Returns:
        run, out, kind, bytes, float_bytes, params, seconds, and before and after packing iou or psnr, as `eval` has it.

    Raises:
        SinefieldError: bad arguments, no run, no data, a size or quality that cannot be reached.
    """
    out = Path(out)
    check_packing(out, bits, max_bytes, min_quality, quantiser, seconds, steps, overwrite)
    begin = time.perf_counter()
    run = Run(run)
    config = run.config()
    if data is not None:
        config.data.path = locate(data)
    if not torch.cuda.is_available():  # a run trained on CUDA packs here too
        config.training.device = config.training.backend = "auto"
        if config.kind == "radiance":
            config.training.marcher = "auto"
    if config.kind == "shapes":
        content, before, after, params = pack_shapes(run, config, bits, max_bytes, min_quality, quantiser)
        write_bytes(out, content, overwrite)
        return _packed_report(run, out, config, len(content), params, before, after, begin)
    packer = Packer(run, config, apart=bits is None and max_bytes is None)
    # Where every byte counts, provenance is left out.
    packer.noted = max_bytes is None or max_bytes >= NOTED_FROM
    budget = Budget(seconds if steps is None else 0.0, steps)
    if bits is not None:
        quantisers = packer.at_bits(bits, quantiser, budget)
    elif max_bytes is not None:
        quantisers = packer.within(max_bytes, budget)
    else:
        if min_quality is not None and min_quality > packer.before:
            has = f"the field itself has {packer.before:.4g}"
            raise SinefieldError(f"quality {min_quality:g} is asked for, {has}; train it longer")
        lost = ALLOWED[config.kind] if min_quality is None else packer.before - min_quality
        quantisers = packer.reaching(packer.judge() - lost, budget)
    install(packer.field, quantisers)
    after = packer.report()
    size = save_sine(out, to_packed(packer.field, quantisers, packer.full_note(after)), overwrite)
    params = sum(p.numel() for p in packer.field.parameters())
    return _packed_report(run, out, config, size, params, packer.before, after, begin)


def _packed_report(
    run: Run, out: Path, config: Config, size: int, params: int, before: float, after: float, begin: float
) -> dict[str, Any]:
    name = MAIN_SCORE[config.kind]
    return {
        "run": str(run.folder),
        "out": str(out),
        "kind": config.kind,
        "bytes": size,
        "float_bytes": run.field_path.stat().st_size,
        "params": params,
        name: after,
        f"{name}_before": before,
        "seconds": round(time.perf_counter() - begin, 2),
    }


class Packer:
    """One run being packed: its task with the trained field, and the scores that decide.

    Arguments:
        data: the run's data where the caller holds them already.
        apart: judge radiance by views that refining never sees, at the cost of some training views where need be.
    """

    remedy = "train a narrower one"

    def __init__(self, run: Run, config: Config, data: Data | None = None, apart: bool = False) -> None:
        trained, self.note = load_field(run.folder)
        self.config = config
        self.noted = True
        self.data = refined = load_data(config) if data is None else data
        if config.kind == "shape":
            self.judging = heldout_points(self.data, JUDGED_POINTS, seed=HELDOUT_SEED)
        elif config.kind == "radiance":
            refined, self.judging = _divide(self.data, apart)
        self.task = make_task(config, refined)
        if config.kind == "radiance":
            self.task.fit = _learned_of(run, config, refined)
            self.task.grid_moves = False  # the trained grid stays: its averages are not in the run
        self.field = self.task.field
        self.field.load_state_dict(trained.state_dict())
        self.before = self.report()
        self.trained = {name: p.detach().clone() for name, p in self.field.named_parameters()}
        self.found = sensitivities(self.field, self._probe())

    def _probe(self) -> Callable[[], Tensor]:
        """What the field puts out on a fixed sample of its data."""
        field = self.field
        if isinstance(field, ShapeField):
            points = self.task.points[:PROBED_POINTS]
            squash = torch.tanh if field.distance else torch.sigmoid
            return lambda: squash(field(points))
        if isinstance(field, ImageField):
            pixels = torch.randint(len(self.task.pixels), (PROBED_POINTS,), generator=torch.Generator().manual_seed(0))
            points = self.task.points(pixels.to(self.task.device))
            return lambda: field(points)
        rays_o, rays_d, samples = self.task.probe(step_generator(0, 0, self.task.device), PROBED_POINTS)
        return lambda: field.shade(rays_o, rays_d, samples).colours

    def judge(self) -> float:
        """What decisions are made by: IoU on held-out points, PSNR on some views that are not the test views or of the
        image."""
        self.field.set_dtype(torch.float32)
        if isinstance(self.field, ShapeField):
            points, inside = self.judging
            return iou(self.field.inside(torch.from_numpy(points)).cpu().numpy(), inside)
        if isinstance(self.field, ImageField):
            return image_psnr(self.field, self.data)
        return mean_psnr(self.field, self.judging, JUDGED_VIEWS)

    def report(self) -> float:
        """The score that `eval` would give."""
        return main_score(self.field, self.data)

    def full_note(self, after: float) -> dict[str, Any]:
        """What the file will say of itself."""
        if not self.noted:
            return {}
        scores = {MAIN_SCORE[self.config.kind]: [round(self.before, 4), round(after, 4)]}
        return note_of(self.config, self.note) | scores

    def weigh(self, quantisers: dict[str, Quantiser]) -> int:
        """Size of the file in bytes, up to a byte or two of the score in its note."""
        return len(encode(to_packed(self.field, quantisers, self.full_note(0.98765 * self.before))))

    def fixed(self, bits: int, quantiser: str) -> dict[str, Quantiser]:
        make = Codebook if quantiser == "kmeans" else Uniform
        return {
            name: Uniform(p, bits=8) if p.dim() < 2 else make(p, bits=bits) for name, p in self.field.named_parameters()
        }

    def at_bits(self, bits: int, quantiser: str, budget: Budget) -> dict[str, Quantiser]:
        """Every matrix at so many bits an entry."""
        quantisers = self.fixed(bits, quantiser)
        if not budget:
            return quantisers
        rounded = copy.deepcopy(quantisers)
        self.refine(quantisers, budget, None, 0.0)
        return self.better(quantisers, rounded)

    def install_trained(self) -> None:
        """Give the field its unrounded values back."""
        with torch.no_grad():
            for name, p in self.field.named_parameters():
                p.copy_(self.trained[name])

    def rounded(self, scale: float) -> dict[str, Quantiser]:
        """The trained field rounded, nothing trained."""
        self.install_trained()
        return allocate(self.field, self.found, scale)

    def within(self, max_bytes: int, budget: Budget) -> dict[str, Quantiser]:
        """The best field of at most `max_bytes`, the digits of the score in its note whatever they be."""
        room = max_bytes - (SCORE_BYTES if self.noted else 0)
        if (least := self.weigh(self.rounded(1e6))) > room:
            raise SinefieldError(f"--max-bytes {max_bytes}: this field takes more than {least}; {self.remedy}")
        _, scale = self._edge(lambda quantisers: self.weigh(quantisers) > room)
        price = self._price(room) if budget else 0.0
        quantisers = self.rounded(scale)
        if not budget:
            return quantisers
        rounded = copy.deepcopy(quantisers)
        self.refine(quantisers, budget, room * HEADROOM, price)
        while self.weigh(quantisers) > room:
            with torch.no_grad():
                for quantiser in quantisers.values():
                    quantiser.log_step += 0.004
        return self.better(quantisers, rounded)

    def better(self, refined: dict[str, Quantiser], rounded: dict[str, Quantiser]) -> dict[str, Quantiser]:
        """Which is judged better: training on for too short a while does harm."""
        return refined if self.judged(refined) >= self.judged(rounded) else rounded

    def reaching(self, needed: float, budget: Budget) -> dict[str, Quantiser]:
        """The smallest field that is judged `needed` or better: rounds of refining, each at a smaller size."""
        low, _ = self._edge(lambda quantisers: self.judged(quantisers) >= needed)
        best = self.rounded(low)
        size = self.weigh(best)
        if not budget:
            return best
        weight = self._price(size)
        quantisers = self.rounded(low)
        for _ in range(ROUNDS):
            size = round(size * SHRINK)
            weight = self.refine(quantisers, budget.part(ROUNDS), size, weight)
            if self.judged(quantisers) >= needed:
                best = copy.deepcopy(quantisers)
            else:
                break
        return best

    def refine(self, quantisers: dict[str, Quantiser], budget: Budget, target: float | None, weight: float) -> float:
        self.field.set_dtype(hidden_dtype(self.config.training.precision, self.task.device))
        weight = refine(
            self.task, quantisers, self.weigh, budget, target, weight, self.config.seed, self.config.training
        )
        self.field.set_dtype(torch.float32)
        return weight

    def judged(self, quantisers: dict[str, Quantiser]) -> float:
        """`judge` of the field with these values, which stay installed."""
        install(self.field, quantisers)
        return self.judge()

    def _edge(self, fine: Callable[[dict[str, Quantiser]], bool]) -> tuple[float, float]:
        """Two neighbouring scales: the widest steps that are `fine` and the finest that are not.

        Steps of less than 2^-12 of a tensor's largest entry are taken as fine whatever `fine` says.
        """
        low = high = 1.0
        while not self._very_fine(quantisers := self.rounded(low)) and not fine(quantisers):
            low, high = low / 2, low
        while low == high and fine(self.rounded(high * 2)):
            low = high = high * 2
        high = max(high, low * 2) if low == high else high
        while high / low > 1.003:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if fine(self.rounded(middle)) else (low, middle)
        return low, high

    @staticmethod
    def _very_fine(quantisers: dict[str, Quantiser]) -> bool:
        return max(float(q.latent.detach().abs().max() / q.step) for q in quantisers.values()) > 4096

    def _price(self, size: int) -> float:
        """Loss per bit to start with: that at which the bits of the file weigh three times the loss itself.

        Found to be within a factor of two of where the weight ends, for all kinds of field and size tried.
        """
        self.install_trained()
        steps = (self.task.step(i, step_generator(self.config.seed, i, self.task.device)) for i in range(1, 9))
        loss = sum(float(step) for step in steps) / 8
        self.field.zero_grad(set_to_none=True)
        return 3.0 * loss / (8 * size)


def main_score(field: nn.Module, data: Data) -> float:
    """IoU or PSNR of a field as `eval` has it."""
    field.set_dtype(torch.float32)
    if isinstance(field, ShapeField):
        return heldout_iou(field, data)
    if isinstance(field, ImageField):
        return image_psnr(field, data)
    return mean_psnr(field, data.test or data.val or data.train)


def _divide(scene: PosedScene, apart: bool) -> tuple[PosedScene, Views]:
    """The scene to refine on, and the views to judge by."""
    if scene.test and scene.val:
        return scene, scene.val
    if not apart or len(scene.train) < APART:
        return scene, scene.train
    judging = torch.arange(len(scene.train)) % APART == APART // 2
    return replace(scene, train=scene.train[~judging]), scene.train[judging]


def _learned_of(run: Run, config: RadianceConfig, scene: PosedScene) -> ViewFit | None:
    """What the run learned about the photographs that refining looks at."""
    if not (config.training.fit_poses or config.training.fit_exposure):
        return None
    settled, note = load_tensors(run.photographs_path, "file of what was learned about the photographs")
    try:
        names = {name: row for row, name in enumerate(note["names"])}
        return ViewFit.of(settled, [names[name] for name in scene.train.names])
    except (LookupError, RuntimeError, TypeError) as error:
        raise SinefieldError(f"{run.photographs_path}: does not fit the data ({error}); train again") from error


def check_packing(
    out: Path,
    bits: int | None,
    max_bytes: int | None,
    min_quality: float | None,
    quantiser: str,
    seconds: float = 0.0,
    steps: int | None = None,
    overwrite: bool = False,
) -> None:
    """Refuse what cannot be packed so, before any long work; raises SinefieldError."""
    if not is_sine(out):
        raise SinefieldError(f"{out}: a packed field's name ends in .sine; call it {out.stem}.sine")
    if sum(x is not None for x in (bits, max_bytes, min_quality)) > 1:
        raise SinefieldError("--bits, --max-bytes and --min-quality exclude each other; give one")
    if bits is not None and not 1 <= bits <= 8:
        raise SinefieldError(f"--bits {bits}; 1 to 8")
    if quantiser not in ("uniform", "kmeans") or (quantiser == "kmeans" and bits is None):
        raise SinefieldError(f"--quantiser {quantiser}; uniform, or kmeans with --bits")
    if not 0 <= seconds <= 86400:
        raise SinefieldError(f"--seconds {seconds}; 0 to 86,400")
    if steps is not None and steps < 0:
        raise SinefieldError(f"--steps {steps}; 0 or more")
    check_output(out, overwrite)
