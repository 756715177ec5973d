"""A trained field onto a changed scene by an adapter of a few kilobytes, whose factors train on as they are rounded."""

import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sinefield.adapters.edits import to_packed_edit
from sinefield.adapters.fields import adapt_field, choose_layers, fingerprint
from sinefield.adapters.layers import AdapterSpec
from sinefield.compress.container import Packed, encode
from sinefield.compress.quantize import Quantiser
from sinefield.config import Config
from sinefield.data.surfaces.sampling import heldout_points
from sinefield.data.surfaces.surface import Normalisation
from sinefield.errors import SinefieldError
from sinefield.fields.image.field import ImageField
from sinefield.fields.shape.field import ShapeField
from sinefield.fields.shape.training import HELDOUT_SEED
from sinefield.learning.evaluate import Data, mean_psnr
from sinefield.learning.loop import Interrupted, NotFinite, optimise
from sinefield.learning.pack import JUDGED_POINTS, JUDGED_VIEWS, NOTED_FROM, Packer, check_packing, main_score
from sinefield.learning.refine import Budget, install, sensitivities
from sinefield.learning.tasks import load_data, make_task
from sinefield.metrics import MAIN_SCORE
from sinefield.store.run import Run, load_field
from sinefield.store.sine_files import save_sine

SPEC = AdapterSpec("sine", rank=8, alpha=16.0, omega=20.0)
MAX_BYTES = 3000
ROUNDED = 2 / 3
"""Share of the budget that trains with rounded factors."""
WORTH = 0.3
"""dB that a grid of its own must bring, else an edit leaves the base's as it is."""


def adapt(
    base: str | Path,
    config: Config,
    out: str | Path,
    layers: Sequence[str] = ("*",),
    spec: AdapterSpec = SPEC,
    bits: int | None = None,
    max_bytes: int | None = None,
    quantiser: str = "uniform",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Adapt a trained field to the scene that `config` names, and write the edit as one `.sine` file.

    The base stays as it is. The field's settings and coordinates are the base's; of `config` the data, the training and
    the seed count. Its budget, `training.steps` or `training.seconds`, is that of all training, rounded or not.

    Arguments:
        base: run folder or `.sine` file; the edit is for this very one.
        layers: patterns of the layers that get an adapter, see `choose_layers`.
        spec: its rank is lowered where a layer is smaller.
        bits: each factor at so many bits an entry; or `max_bytes`, the best edit that fits (3,000 when neither).
        quantiser: "uniform" or, with `bits`, "kmeans".

    Returns:
        run, out, kind, layers, params, bytes, grid_changed, steps (None of a budget in seconds), seconds, and iou or
        psnr on the changed scene: that of the base (NAME_base), of the adapter before packing (NAME_before) and after.

    Raises:
        SinefieldError: bad arguments, no base, another kind of scene, data beyond the base's box, a size that cannot be
            reached, a loss that is not finite.
    """
    check_packing(Path(out), bits, max_bytes, None, quantiser, overwrite=overwrite)
    begin = time.perf_counter()
    adaptation = Adaptation(base, config, layers, spec)
    done = adaptation.train(1 - ROUNDED)
    if config.training.steps:
        budget = Budget(steps=config.training.steps - done["steps"])
    else:
        budget = Budget(ROUNDED * config.training.seconds)
    packer = EditPacker(adaptation)
    packer.noted = bits is not None or (max_bytes or MAX_BYTES) >= NOTED_FROM
    if bits is None:
        quantisers = packer.within(max_bytes or MAX_BYTES, budget)
    else:
        quantisers = packer.at_bits(bits, quantiser, budget)
    after, size = packer.save(quantisers, out, overwrite)
    name = MAIN_SCORE[config.kind]
    return {
        **{"run": str(base), "out": str(out), "kind": config.kind, "layers": adaptation.layers},
        **{"params": sum(p.numel() for p in packer.field.parameters()), "bytes": size},
        **{f"{name}_base": adaptation.unedited, f"{name}_before": packer.before, name: after},
        **{"grid_changed": adaptation.cells is not None, "steps": config.training.steps},
        "seconds": round(time.perf_counter() - begin, 2),
    }


class Adaptation:
    """A field with an adapter on it, and the changed scene that it is to become.

    Attributes:
        field, task: what is trained; the adapter's factors are the field's only parameters.
        data: the changed scene; `config` says how to train on it.
        layers: names of the adapted ones.
        base: the base's fingerprint.
        box: (6,) of the changed shape, None of other kinds.
        cells: (levels · n, n, n) bool, cells of the grid that differ from the base's; None where none do.
        unedited: the base's score on the changed scene.
        done: what training reported: steps, seconds.

    Raises:
        SinefieldError: as `adapt`.
    """

    def __init__(
        self, base: str | Path, config: Config, layers: Sequence[str] = ("*",), spec: AdapterSpec = SPEC
    ) -> None:
        field, _ = load_field(base)
        if field.kind != config.kind:
            raise SinefieldError(f"{base}: is a {field.kind} field, the scene a {config.kind}; give one of its kind")
        if config.kind == "shapes":
            raise SinefieldError(f"{base}: knows many shapes, which no adapter changes; train it on other shapes")
        config.field = field.config
        config.training.device, config.training.backend = "cpu", "auto"
        if config.kind == "radiance":
            config.training.marcher = "auto"
            config.training.fit_poses = config.training.fit_exposure = False
        self.config, self.field = config, field
        self.layers = choose_layers(field, layers)
        self.base = fingerprint(field)
        self.data: Data = load_data(config)
        self.box = _fitting_box(field, self.data, str(base)) if isinstance(field, ShapeField) else None
        if isinstance(field, ImageField) and self.data.shape[:2] != (field.height, field.width):
            raise SinefieldError(
                f"{config.data.path}: is not {field.width}×{field.height} pixels as {base} is; resize it"
            )
        self.cells: np.ndarray | None = None
        self.unedited = main_score(field, self.data)
        self.done: dict[str, Any] = {}
        self._before = field.grid.binaries.clone() if config.kind == "radiance" else None
        torch.manual_seed(config.seed)
        adapt_field(field, dict.fromkeys(self.layers, spec))
        self.task = make_task(config, self.data, field)

    def train(self, share: float = 1.0) -> dict[str, Any]:
        """Train the factors, unrounded, for a share of the budget; returns steps, seconds and loss."""
        training = self.config.training
        steps = None if training.steps is None else max(round(share * training.steps), 1)
        part = replace(training, steps=steps, seconds=training.seconds and share * training.seconds)
        with tempfile.TemporaryDirectory() as folder:
            try:
                with Run.prepare(Path(folder) / "adapt", self.config) as run:
                    self.done = optimise(self.task, part, run, self.config.seed)
            except Interrupted as error:
                if error.signum == signal.SIGINT:
                    raise KeyboardInterrupt from None
                raise SystemExit(128 + error.signum) from None
            except NotFinite as error:
                raise SinefieldError(
                    "the loss is not finite while adapting; halve training.lr and training.adam_lr"
                ) from error
        if self._before is not None:
            self._choose_grid()
        return self.done

    def _choose_grid(self) -> None:
        """Keep the base's grid where the pictures are as good with it: an edit that moves nothing need not say so."""
        grid, views = self.field.grid, self.data.val or self.data.train
        learned = grid.binaries.clone()
        own = mean_psnr(self.field, views, JUDGED_VIEWS)
        grid.binaries.copy_(self._before)
        self.field.find_solid()
        if own > mean_psnr(self.field, views, JUDGED_VIEWS) + WORTH:
            self.cells = (learned ^ self._before).numpy()
            grid.binaries.copy_(learned)
            self.field.find_solid()
        self.task.grid_moves = False


class EditPacker(Packer):
    """An adaptation being packed."""

    remedy = (
        "allow more, give a lower --rank or fewer --layers (where something moved, changed cells of the grid count)"
    )

    def __init__(self, adaptation: Adaptation) -> None:
        self.adaptation, self.config, self.data = adaptation, adaptation.config, adaptation.data
        self.task, self.field = adaptation.task, adaptation.field
        self.noted, self.note = True, {"seed": self.config.seed, **adaptation.done}
        if self.config.kind == "shape":
            self.judging = heldout_points(self.data, JUDGED_POINTS, seed=HELDOUT_SEED)
        elif self.config.kind == "radiance":
            self.judging = self.data.val or self.data.train
        self.before = self.report()
        self.trained = {name: p.detach().clone() for name, p in self.field.named_parameters()}
        self.found = sensitivities(self.field, self._probe())

    def packed(self, quantisers: dict[str, Quantiser], score: float) -> Packed:
        """The file's content, its note with this score after packing."""
        edit = self.adaptation
        return to_packed_edit(self.field, edit.base, quantisers, self.full_note(score), edit.box, edit.cells)

    def weigh(self, quantisers: dict[str, Quantiser]) -> int:
        return len(encode(self.packed(quantisers, 0.98765 * self.before)))

    def save(self, quantisers: dict[str, Quantiser], out: str | Path, overwrite: bool = False) -> tuple[float, int]:
        """Write the edit; returns its score and its bytes."""
        install(self.field, quantisers)
        after = self.report()
        return after, save_sine(out, self.packed(quantisers, after), overwrite)


def _fitting_box(field: ShapeField, surface: Any, base: str) -> np.ndarray:
    """(6,) box of the changed shape, which must lie in the cube that the base was trained in."""
    normalisation = Normalisation(tuple(field.centre.tolist()), float(field.scale))
    reach = float(np.abs(normalisation.apply(surface.aabb.reshape(2, 3))).max())
    if reach > 1:
        raise SinefieldError(
            f"{surface.source}: reaches {100 * (reach - 1):.0f} % beyond the cube that {base} was trained in; "
            "move or shrink it, or train it anew"
        )
    return surface.aabb
