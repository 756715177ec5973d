"""A trained field onto a changed scene by an adapter of a few kilobytes, whose factors train on as they are rounded."""

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sinefield.adapters.deltas import AdapterSpec
from sinefield.adapters.edits import to_packed_edit
from sinefield.adapters.fields import adapt_field, choose_layers, fingerprint
from sinefield.compress.container import Packed, encode
from sinefield.compress.quantize import Quantiser
from sinefield.config import Config
from sinefield.errors import SinefieldError
from sinefield.fields.base import kind_of, make_task, read_data
from sinefield.files import scratch_folder
from sinefield.learning.loop import Interrupted, NotFinite, optimise
from sinefield.learning.pack import Packer, check_packing
from sinefield.learning.refine import Budget, install
from sinefield.store.fields import load_field
from sinefield.store.run import Run
from sinefield.store.sine_files import save_sine

SPEC = AdapterSpec("sine", rank=8, alpha=16.0, omega=20.0)
MAX_BYTES = 3000
ROUNDED = 2 / 3
"""Share of the budget that trains with rounded factors."""


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
    if bits is None:
        quantisers = packer.within(max_bytes or MAX_BYTES, budget)
    else:
        quantisers = packer.at_bits(bits, quantiser, budget)
    after, size = packer.save(quantisers, out, overwrite)
    name = kind_of(config).score
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
        self.kind = kind_of(field)
        training = self.kind.edit_training(replace(config.training, device="cpu", backend="auto"))
        self.config = config = replace(config, field=field.config, training=training)
        self.field = field
        if not self.kind.edits:
            raise SinefieldError(f"{base}: a field of kind {field.kind} takes no edits; train it anew on the new data")
        self.layers = choose_layers(field, layers)
        self.base = fingerprint(field)
        self.data = read_data(config)
        self.box = self.kind.begin_edit(field, config, self.data, str(base))
        self.cells: np.ndarray | None = None
        field.set_dtype(torch.float32)
        self.unedited = self.kind.quality(field, self.data)
        self.done: dict[str, Any] = {}
        self._before = self.kind.edit_state(field)
        torch.manual_seed(config.seed)
        adapt_field(field, dict.fromkeys(self.layers, spec))
        self.task = make_task(config, self.data, field)

    def train(self, share: float = 1.0) -> dict[str, Any]:
        """Train the factors, unrounded, for a share of the budget; returns steps, seconds and loss."""
        training = self.config.training
        steps = None if training.steps is None else max(round(share * training.steps), 1)
        part = replace(training, steps=steps, seconds=training.seconds and share * training.seconds)
        with scratch_folder() as folder:
            try:
                with Run.prepare(folder / "adapt", self.config) as run:
                    self.done = optimise(self.task, part, run, self.config.seed)
            except Interrupted as error:
                if error.signum == signal.SIGINT:
                    raise KeyboardInterrupt from None
                raise SystemExit(128 + error.signum) from None
            except NotFinite as error:
                raise SinefieldError(
                    "the loss is not finite while adapting; halve training.lr and training.adam_lr"
                ) from error
        self.cells = self.kind.settle_edit(self.task, self._before, self.data)
        return self.done


class EditPacker(Packer):
    """An adaptation being packed."""

    remedy = (
        "allow more, give a lower --rank or fewer --layers (where something moved, changed cells of the grid count)"
    )

    def __init__(self, adaptation: Adaptation) -> None:
        self.adaptation, self.config, self.data = adaptation, adaptation.config, adaptation.data
        self.kind, self.task, self.field = adaptation.kind, adaptation.task, adaptation.field
        self.noted, self.note = True, {"seed": self.config.seed, **adaptation.done}
        _, self.judged_by = self.kind.judge(self.data, apart=False)
        self.measure()

    def packed(self, quantisers: Mapping[str, Quantiser], score: float) -> Packed:
        """The file's content, its note with this score after packing."""
        edit = self.adaptation
        return to_packed_edit(self.field, edit.base, quantisers, self.full_note(score), edit.box, edit.cells)

    def weigh(self, quantisers: Mapping[str, Quantiser]) -> int:
        return len(encode(self.packed(quantisers, 0.98765 * self.before)))

    def save(self, quantisers: Mapping[str, Quantiser], out: str | Path, overwrite: bool = False) -> tuple[float, int]:
        """Write the edit; returns its score and its bytes."""
        install(self.field, quantisers)
        after = self.report()
        return after, save_sine(out, self.packed(quantisers, after), overwrite)
