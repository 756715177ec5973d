"""What each part of packing buys: one trained field, rounded in several ways, with and without training on.

    python scripts/tables/packing_steps.py [RUN] [--steps 800]

RUN is a shape's run folder; runs/armadillo, trained here where it is missing, if not given.

Writes docs/results/packing_steps.md. Sizes are those of the whole file.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from sinefield.compress.container import encode
from sinefield.compress.quantize import Codebook, Quantiser, Uniform
from sinefield.config import load_config, make_config
from sinefield.fields.shape.training import ShapeTask
from sinefield.files import write_text
from sinefield.learning.pack import Packer
from sinefield.learning.refine import Budget
from sinefield.learning.train import train
from sinefield.machine import describe_machine
from sinefield.store.run import Run
from sinefield.store.sine_files import to_packed
from sinefield.strict import to_plain
from sinefield.tables import table

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", default=str(ROOT / "runs" / "armadillo"))
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 5, 6])
    parser.add_argument("--pruned", type=float, nargs="+", default=[0.2, 0.4], help="shares set to zero first")
    parser.add_argument("--phases", type=float, nargs="+", default=[0.5, 1.0, 2.5, 5.0], help="trained anew with each")
    options = parser.parse_args()
    run = Run(options.run)
    if not run.field_path.exists():
        train(load_config(ROOT / "scenes" / "armadillo.yaml"), run.folder)
    packer = Packer(run, run.config())
    started = {name: p.detach() for name, p in ShapeTask(run.config(), packer.data).field.named_parameters()}
    number, before = sum(p.numel() for p in packer.field.parameters()), packer.before
    budget, rows, sizes = Budget(steps=options.steps), [], []

    def matrices(make: Callable[[torch.Tensor], Quantiser]) -> dict[str, Quantiser]:
        packer.install_trained()
        return {n: Uniform(p, bits=8) if p.dim() < 2 else make(p) for n, p in packer.field.named_parameters()}

    def row(name: str, bits: int | None, quantisers: dict[str, Quantiser]) -> int:
        size = len(encode(to_packed(packer.field, quantisers, {})))
        score = packer.judged(quantisers) and packer.report()
        rows.append({"how": name, "bits": bits, "bytes": size, "score": f"{score:.4f}"})
        print(json.dumps(rows[-1]), flush=True)
        return size

    for bits in options.bits:
        for name, make in (
            ("k-means, a codebook a tensor", lambda p, b=bits: Codebook(p, b)),
            ("uniform, a step a tensor", lambda p, b=bits: Uniform(p, bits=b)),
            ("uniform, a step a row", lambda p, b=bits: Uniform(p, bits=b, per_row=True)),
        ):
            quantisers = matrices(make)
            size = row(f"{name}, rounded", bits, quantisers)
            packer.refine(quantisers, budget, None, 0.0)
            trained = "codebooks and biases trained" if name[0] == "k" else "trained on, straight through"
            row(f"{name}, {trained}", bits, quantisers)
            if name.startswith("k-means"):
                same = size
                sizes.append(size)
        rounded = packer.within(same, Budget())
        row("steps by sensitivity, same bytes, rounded", None, rounded)
        packed = to_packed(packer.field, rounded, {})
        for name, coded in packed.tensors.items():
            # The start is known from the seed: only the way from there would have to be stored.
            coded.levels = coded.levels - (started[name] / rounded[name].step).round().long().numpy()
        rows.append(
            {"how": "the same as differences from the seeded start", "bits": None, "bytes": len(encode(packed))}
        )
        row("steps by sensitivity, then learned with the bits in the loss", None, packer.within(same, budget))
        for share in options.pruned:
            with pruned(packer, share):
                name = f"the same from a field whose smallest {share:.0%} of each matrix were set to zero"
                row(name, None, packer.within(same, budget))
    for phase in options.phases if packer.config.field.weights == "sine" else []:
        # ω and the bits together: the sine's frequency changes what a rounded factor does to its weight.
        plain = to_plain(packer.config)
        plain["field"]["phase"] = phase
        plain["training"] |= {"steps": options.steps, "seconds": None}
        other = Run(run.folder.with_name(f"{run.folder.name}_phase_{phase:g}"))
        train(make_config(plain, "phase"), other.folder, overwrite=True)
        packer = Packer(other, other.config(), packer.data)
        for size in sizes:
            name = f"phase {phase:g} (ω = {omega(packer.field):.3g}), unpacked {packer.before:.4f}, learned as above"
            row(name, None, packer.within(size, budget))
    machine = describe_machine()
    score = "PSNR" if packer.field.kind == "radiance" else "IoU"
    about = (
        f"`python scripts/tables/packing_steps.py`: {packer.field.kind} field, {Path(packer.config.data.path).name},\n"
        f"{number:,} numbers, unpacked {score} {before:.4f}; {options.steps} steps of training on;\n"
        f"seed {packer.config.seed}, {machine['cpu']}, {machine['threads']} threads, {time.strftime('%Y-%m-%d')}.\n"
        "Biases have 8 bits where matrices have a fixed number."
    )
    text = ["# What each part of packing buys", about, table(list(rows[0]), rows, markdown=True)]
    write_text(ROOT / "docs" / "results" / "packing_steps.md", "\n\n".join(text) + "\n")


@contextmanager
def pruned(packer: Packer, share: float) -> Iterator[None]:
    """The packer with the smallest entries of every trained matrix at zero."""
    kept = packer.trained
    packer.trained = {
        n: p if p.dim() < 2 else p.where(p.abs() > p.abs().flatten().quantile(share), 0.0) for n, p in kept.items()
    }
    yield
    packer.trained = kept


def omega(field: torch.nn.Module) -> float:
    return next(m.omega for m in field.modules() if hasattr(m, "omega"))


if __name__ == "__main__":
    main()
