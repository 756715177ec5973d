"""The papers' claims on attention and graying, tried on a small ViT and on the shape transformer.

    python scripts/tables/attention.py [activations] [skips] [graying] [feedforward] [linears] [shapes] [--seeds 3]
    python scripts/tables/attention.py --data cifar-10-batches-bin --steps 4000 --as NAME   # or class folders

activations: softmax, x and x³ in attention, each with and without 1/√N. skips: skip connections removed. graying: by
SVD and by DCT, over ε, of the input tokens or before every attention. feedforward: sine low rank, plain low rank and a
narrower dense layer of as many parameters, over ranks. linears: the same in every linear layer of the network, beside
networks with fewer channels. shapes: the activations in the shape transformer.

Every contender trains as many steps at each of three learning rates with the first seed; the rate with the best
validation accuracy (of the shapes, IoU) then trains the other seeds. What is reported is measured on test images, which
chose nothing. The sines' phase is not swept. Finished runs are kept in attention_vit.csv and attention_shapes.csv, and
an interrupted script goes on from them; with --report only tables and plots are made, of the runs that are there. One
thread.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from attention_report import REPORTS, Place
from attention_runs import Row, Runner, Store, swept
from attention_vit import Setup, Variant, digits_setup, fit, folder_setup, make_vit
from tqdm import tqdm

from sinefield.errors import SinefieldError
from sinefield.nn.mlp import count_parameters

OUT = Path(__file__).parents[2] / "docs" / "results"
RANKS = (1, 4, 16)
POWERS = {
    "softmax": Variant(),
    "softmax/√N": Variant(over_root=True),
    "x/√N": Variant(1),
    "x": Variant(1, over_root=False),
    "x³/√N": Variant(3),
    "x³": Variant(3, over_root=False),
}
SKIPS = {
    f"{name}{label}": Variant(power, skip_attention=attention, skip_feedforward=feedforward)
    for name, power in (("softmax", None), ("x³/√N", 3))
    for label, attention, feedforward in (
        ("", True, True),
        (", no attention skip", False, True),
        (", no feed-forward skip", True, False),
        (", no skip", False, False),
    )
}
GRAYING = {"softmax": Variant()} | {
    f"{kind.upper()} {epsilon:g}{label}": Variant(graying=kind, epsilon=epsilon, graying_at=place)
    for place, label in (("input", ""), ("attention", ", every layer"))
    for kind, epsilons in (("dct", (0.8, 0.95)), ("svd", (0.5, 0.7, 0.9)))
    for epsilon in epsilons
}
SHAPES = {
    "softmax": ("softmax", True),
    "x/√N": ("x", True),
    "x": ("x", False),
    "x³/√N": ("x^3", True),
    "x³": ("x^3", False),
}
FACTORS = (0.5, 1.0, 2.0)  # of the scene's learning rates
EXPERIMENTS = "activations", "skips", "graying", "feedforward", "linears", "shapes"


def feedforward(setup: Setup) -> dict[str, Variant]:
    """Sine and plain factors of the ranks, and dense layers with as many numbers or a few less."""
    dim, inner = setup.dim, 4 * setup.dim
    found = {"softmax": Variant()}
    for rank in RANKS:
        # Two matrices of rank k and two biases, against width·(2·dim + 1) + dim.
        width = (2 * rank * (dim + inner) + inner) // (2 * dim + 1)
        found[f"sine {rank}"] = Variant(weights="sine", rank=rank)
        found[f"low rank {rank}"] = Variant(weights="lowrank", rank=rank)
        found[f"dense {rank}"] = Variant(width=width)
    return found


def linears(setup: Setup) -> dict[str, Variant]:
    """Sine and plain factors of the ranks in every linear layer, and networks of fewer channels, no larger."""

    def size(variant: Variant) -> int:
        return count_parameters(make_vit(variant, setup))

    found = {"softmax": Variant()}
    for rank in RANKS:
        found[f"sine {rank}"] = Variant(weights="sine", rank=rank, everywhere=True)
        found[f"low rank {rank}"] = Variant(weights="lowrank", rank=rank, everywhere=True)
        most, dims = size(found[f"sine {rank}"]), range(setup.dim, 0, -setup.heads)
        found[f"dense {rank}"] = next(v for dim in dims if size(v := Variant(dim=dim)) <= most)
    return found


def vit_variants(name: str, setup: Setup) -> dict[str, Variant]:
    if name in FACTORED:
        return FACTORED[name](setup)
    return {"activations": POWERS, "skips": SKIPS, "graying": GRAYING}[name]


FACTORED = {"feedforward": feedforward, "linears": linears}


def results(
    names: Sequence[str], rates: Sequence[float], seeds: Sequence[int], store: Store, run: Runner | None, what: str
) -> dict[str, list[Row]]:
    """Rows of each contender, by seed; see `swept`."""
    bar = tqdm(names, desc=what, disable=None if run else True)
    return {name: swept(store, name, rates, seeds, run) for name in bar}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help=f"of {', '.join(EXPERIMENTS)}; all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200, help="of the ViT")
    parser.add_argument("--shape-steps", type=int, default=250, help="of the shape transformer")
    parser.add_argument("--data", help="CIFAR-10's binary version or a folder of class folders, in the digits' place")
    parser.add_argument("--side", type=int, default=32, help="pixels of those images")
    parser.add_argument("--patch", type=int, default=4, help="pixels of a token of those images")
    parser.add_argument("--as", dest="name", help="what follows the names of the files that are written about --data")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--report", action="store_true", help="train nothing; report the runs that are finished")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        _run(options)
    except SinefieldError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    chosen = options.experiments or list(EXPERIMENTS)
    if strange := [name for name in chosen if name not in EXPERIMENTS]:
        raise SinefieldError(f"no experiment {strange[0]!r}; of {', '.join(EXPERIMENTS)}")
    if options.seeds < 1 or options.steps < 1 or options.shape_steps < 1:
        raise SinefieldError("--seeds, --steps and --shape-steps count from 1")
    if options.data and not options.name:
        raise SinefieldError("files without a name are about the digits; name those of --data by --as")
    seeds, images = range(options.seeds), None
    out = Place(options.out, f"_{options.name}" if options.name else "")
    for name in chosen:
        begin = time.process_time()
        if name == "shapes":
            setup, found = _shapes(options, seeds)
        else:
            if images is None:
                images = (
                    folder_setup(options.data, options.side, options.patch, steps=options.steps)
                    if options.data
                    else digits_setup(steps=options.steps)
                )
            setup, split = images
            variants = vit_variants(name, setup)

            def run(contender: str, lr: float, seed: int, variants=variants, setup=setup, split=split):
                return fit(variants[contender], setup, split(seed), lr, seed)

            store = Store(out.file("attention_vit", "csv"), str(setup))
            found = results(list(variants), setup.rates, seeds, store, None if options.report else run, name)
        if not options.report:
            print(f"{name}: {(time.process_time() - begin) / 60:.1f} minutes of one processor", flush=True)
        complete = {contender: rows for contender, rows in found.items() if rows}
        if complete:
            REPORTS[name](complete, setup, out)


def _shapes(options: argparse.Namespace, seeds: Sequence[int]) -> tuple[dict, dict[str, list[Row]]]:
    from attention_shapes import SCENE, fit, scene

    from sinefield.fields.base import read_data

    changes = {"training": SCENE["training"] | {"steps": options.shape_steps}}
    plain = SCENE | changes
    settings = {key: value for part in ("data", "field", "training") for key, value in plain[part].items()}
    store = Store(options.out / "attention_shapes.csv", " ".join(f"{k} {v}" for k, v in settings.items()))
    shapes = None if options.report else read_data(scene("softmax", 1.0, 0))

    def run(contender: str, lr: float, seed: int) -> dict[str, object]:
        attention, over_root = SHAPES[contender]
        return fit(scene(attention, lr, seed, **changes), shapes, over_root)

    return settings, results(list(SHAPES), FACTORS, seeds, store, None if options.report else run, "shapes")


if __name__ == "__main__":
    sys.exit(main())
