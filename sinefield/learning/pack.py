"""A trained field into a small file: steps by measured sensitivity, then training on with rounded weights."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sinefield.compress.container import encode
from sinefield.compress.quantize import Codebook, Quantiser, Uniform
from sinefield.config import Config, locate
from sinefield.errors import SinefieldError
from sinefield.example_files import is_sine
from sinefield.fields.base import kind_of, make_task, read_data, step_generator
from sinefield.files import check_output, write_bytes
from sinefield.learning.pack_rounded import pack_rounded
from sinefield.learning.refine import Budget, allocate, check_effort, install, refine, sensitivities
from sinefield.nn.backend import hidden_dtype
from sinefield.store.fields import load_field
from sinefield.store.run import Run
from sinefield.store.sine_files import note_of, save_sine, to_packed
from sinefield.tensor_files import load_tensors

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
    seconds: float | None = None,
    steps: int | None = None,
    data: str | None = None,
    overwrite: bool = False,
    effort: float | None = None,
) -> dict[str, Any]:
    """Pack a run into a `.sine` file.

    One of `bits` (every matrix at so many, biases at 8), `max_bytes` (the best field that fits) and `min_quality` (the
    smallest field of that IoU or PSNR) may be given; with none, the smallest field that costs at most 0.004 IoU or
    0.2 dB. What is lost is judged on held-out points other than those reported; for radiance on the validation views,
    or, where there are none beside the test views, on training views that refining leaves out. These a field may know
    by heart, as one with a hash grid does: then the judgement is too strict rather than too kind, the file larger. Of
    an image it is the very score that is reported, on the pixels it was fitted to. A field of
    many shapes is only rounded: see `pack_shapes`.

    How long to train with rounded weights is said by one of `steps`, `seconds` and `effort`, in this order. With steps
    and with an effort, which is a number of steps, the same run gives the same file on the same kind of machine.

    Arguments:
        quantiser: "uniform" or, with `bits`, "kmeans".
        seconds: training with rounded weights, in all; 0 for rounding alone.
        steps: of that training; 0 for rounding alone.
        data: where the run's data are now, if they moved.
        effort: that training in times of the kind's usual number of steps; see `Kind.packing`. 1 when None.

    Returns:
        run, out, kind, bytes, float_bytes, params, seconds, and before and after packing iou or psnr, as `eval` has it.

    Raises:
        SinefieldError: bad arguments, no run, no data, a size or quality that cannot be reached.
    """
    out = Path(out)
    check_packing(out, bits, max_bytes, min_quality, quantiser, seconds, steps, overwrite, effort)
    begin = time.perf_counter()
    source = Run(run)
    config = here(source.config(), data)
    kind = kind_of(config)
    if not kind.trains_rounded:
        content, before, after, params = pack_rounded(source, config, bits, max_bytes, min_quality, quantiser)
        write_bytes(out, content, overwrite)
        return packed_report(source, out, config, len(content), params, before, after, begin)
    packer = Packer(source, config, apart=bits is None and max_bytes is None)
    budget = Budget.of(seconds, steps, effort, usual_steps(config))
    if bits is not None:
        quantisers = packer.at_bits(bits, quantiser, budget)
    elif max_bytes is not None:
        quantisers = packer.within(max_bytes, budget)
    else:
        quantisers = packer.reaching(packer.needed(min_quality), budget)
    after, size = packer.save(quantisers, out, overwrite)
    params = sum(p.numel() for p in packer.field.parameters())
    return packed_report(source, out, config, size, params, packer.before, after, begin)


def here(config: Config, data: str | None) -> Config:
    """A run's settings as packing takes them: where its data are here, and the processor, whatever the run trained on.

    What is rounded and coded lies in the processor's memory.
    """
    given = config.data if data is None else replace(config.data, path=locate(data))
    own = {"device": "cpu", "backend": "auto", "marcher": "auto"}
    own = {name: value for name, value in own.items() if hasattr(config.training, name)}
    return replace(config, data=given, training=replace(config.training, **own))


def usual_steps(config: Config) -> int:
    """Training with rounded weights, with an effort of 1."""
    return kind_of(config).packing(config).training.steps


def packed_report(
    run: Run, out: Path, config: Config, size: int, params: int, before: float, after: float, begin: float
) -> dict[str, Any]:
    """What `pack` returns, which began at `begin` of the process' clock."""
    name = kind_of(config).score
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

    def __init__(self, run: Run, config: Config, data: Any = None, apart: bool = False) -> None:
        trained, self.note = load_field(run.folder)
        self.config, self.kind = config, kind_of(config)
        self.noted = True
        self.data = read_data(config) if data is None else data
        refined, self.judged_by = self.kind.judge(self.data, apart)
        self.task = make_task(self.kind.packing(config), refined)
        self.task.refine_with(lambda: load_tensors(run.photographs_path, "file of what was learned beside the field"))
        self.field = self.task.field
        self.field.load_state_dict(trained.state_dict())
        self.measure()

    def measure(self) -> None:
        """Score the field as it is, and find how sensitive it is to rounding."""
        self.before = self.report()
        self.trained = {name: p.detach().clone() for name, p in self.field.named_parameters()}
        self.found = sensitivities(self.field, self.task.probe())

    def judge(self) -> float:
        """What decisions are made by; see `Kind.judge`."""
        self.field.set_dtype(torch.float32)
        return self.judged_by(self.field)

    def needed(self, min_quality: float | None) -> float:
        """What default packing has to be judged, or packing to a quality.

        Raises:
            SinefieldError: the field itself has less than is asked for.
        """
        if min_quality is None:
            return self.judge() - self.kind.affordable
        if min_quality > self.before:
            has = f"the field itself has {self.before:.4g}"
            raise SinefieldError(f"quality {min_quality:g} is asked for, {has}; train it longer")
        return self.judge() - (self.before - min_quality)

    def report(self) -> float:
        """The score that `eval` would give."""
        self.field.set_dtype(torch.float32)
        return self.kind.quality(self.field, self.data)

    def full_note(self, after: float) -> dict[str, Any]:
        """What the file will say of itself."""
        if not self.noted:
            return {}
        scores = {self.kind.score: [round(self.before, 4), round(after, 4)]}
        return note_of(self.config, self.note) | scores

    def weigh(self, quantisers: Mapping[str, Quantiser]) -> int:
        """Size of the file in bytes, up to a byte or two of the score in its note."""
        return len(encode(to_packed(self.field, quantisers, self.full_note(0.98765 * self.before))))

    def save(self, quantisers: Mapping[str, Quantiser], out: str | Path, overwrite: bool = False) -> tuple[float, int]:
        """Write the file; returns its score and its bytes."""
        install(self.field, quantisers)
        after = self.report()
        return after, save_sine(out, to_packed(self.field, quantisers, self.full_note(after)), overwrite)

    def fixed(self, bits: int, quantiser: str) -> Mapping[str, Quantiser]:
        make = Codebook if quantiser == "kmeans" else Uniform
        return {
            name: Uniform(p, bits=8) if p.dim() < 2 else make(p, bits=bits) for name, p in self.field.named_parameters()
        }

    def at_bits(self, bits: int, quantiser: str, budget: Budget) -> Mapping[str, Quantiser]:
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

    def rounded(self, scale: float) -> dict[str, Uniform]:
        """The trained field rounded, nothing trained."""
        self.install_trained()
        return allocate(self.field, self.found, scale)

    def within(self, max_bytes: int, budget: Budget) -> Mapping[str, Quantiser]:
        """The best field of at most `max_bytes`, the digits of the score in its note whatever they be."""
        self.noted = self.noted and max_bytes >= NOTED_FROM  # where every byte counts, provenance is left out
        room = max_bytes - (SCORE_BYTES if self.noted else 0)
        if (least := self.weigh(self.rounded(1e6))) > room:
            raise SinefieldError(f"--max-bytes {max_bytes}: this field takes more than {least}; {self.remedy}")
        _, scale = self._edge(lambda quantisers: self.weigh(quantisers) > room)
        price = self._price(room) if budget else 0.0
        quantisers = self.rounded(scale)
        if not budget:
            return quantisers
        rounded = copy.deepcopy(quantisers)
        # No finer than rounding already is: where the limit is generous, finer steps would buy nothing.
        self.refine(quantisers, budget, min(room * HEADROOM, self.weigh(quantisers)), price)
        while self.weigh(quantisers) > room:
            with torch.no_grad():
                for quantiser in quantisers.values():
                    quantiser.log_step.add_(0.004)
        return self.better(quantisers, rounded)

    def better(self, refined: Mapping[str, Quantiser], rounded: Mapping[str, Quantiser]) -> Mapping[str, Quantiser]:
        """Which is judged better: training on for too short a while does harm."""
        return refined if self.judged(refined) >= self.judged(rounded) else rounded

    def reaching(self, needed: float, budget: Budget) -> Mapping[str, Quantiser]:
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

    def refine(self, quantisers: Mapping[str, Quantiser], budget: Budget, target: float | None, weight: float) -> float:
        self.field.set_dtype(hidden_dtype(self.config.training.precision, self.task.device))
        weight = refine(
            self.task, quantisers, self.weigh, budget, target, weight, self.config.seed, self.config.training
        )
        self.field.set_dtype(torch.float32)
        return weight

    def judged(self, quantisers: Mapping[str, Quantiser]) -> float:
        """`judge` of the field with these values, which stay installed."""
        install(self.field, quantisers)
        return self.judge()

    def _edge(self, fine: Callable[[Mapping[str, Quantiser]], bool]) -> tuple[float, float]:
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
    def _very_fine(quantisers: Mapping[str, Uniform]) -> bool:
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


def check_packing(
    out: Path,
    bits: int | None,
    max_bytes: int | None,
    min_quality: float | None,
    quantiser: str,
    seconds: float | None = None,
    steps: int | None = None,
    overwrite: bool = False,
    effort: float | None = None,
) -> None:
    """Refuse what cannot be packed so, before any long work; raises SinefieldError."""
    if not is_sine(out):
        raise SinefieldError(f"{out}: a packed field's name ends in .sine; call it {out.stem}.sine")
    if sum(x is not None for x in (bits, max_bytes, min_quality)) > 1:
        raise SinefieldError("--bits, --max-bytes and --min-quality exclude each other; give one")
    if bits is not None and not 1 <= bits <= 8:
        raise SinefieldError(f"--bits {bits}; 1 to 8")
    if min_quality is not None and not math.isfinite(min_quality):
        raise SinefieldError(f"--min-quality {min_quality}; a finite number: an IoU, or a PSNR in dB")
    if quantiser not in ("uniform", "kmeans") or (quantiser == "kmeans" and bits is None):
        raise SinefieldError(f"--quantiser {quantiser}; uniform, or kmeans with --bits")
    if seconds is not None and not 0 <= seconds <= 86400:
        raise SinefieldError(f"--seconds {seconds}; 0 to 86,400")
    if steps is not None and steps < 0:
        raise SinefieldError(f"--steps {steps}; 0 or more")
    check_effort(effort)
    check_output(out, overwrite)
