"""sinefield adapt."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sinefield.commands.arguments import add_out, add_quantiser, add_run, add_seed, number, scene_settings, whole
from sinefield.commands.command import Answer, Command

if TYPE_CHECKING:
    from sinefield.adapters.deltas import AdapterSpec

NOTES = """
  sinefield mesh runs/armadillo bent.ply --adapter bent.sine

settings of the scene file can be given as --group.name VALUE; training.steps or .seconds is the budget"""


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser, "the base: run folder or .sine file")
    parser.add_argument("scene", help="scene file (YAML) of the changed scene; its data, training and seed are used")
    add_out(parser, "packed adapter; default runs/<name of the scene file>.adapter.sine", optional=True)
    parser.add_argument("--max-bytes", type=whole, help="the best adapter of at most this many bytes (3000)")
    parser.add_argument("--bits", type=whole, help="or bits for each entry of every factor, 1 to 8")
    add_quantiser(parser)
    parser.add_argument("--rank", type=whole, help="rank of the adapter; a smaller layer gets a lower one")
    parser.add_argument("--omega", type=number, help="ω of the adapter's sine; 0 for plain LoRA")
    parser.add_argument("--alpha", type=number, help="the adapter's scale is alpha/rank")
    layers = "patterns of the layers that get one, as in 'trunk.*,head.*' (all)"
    parser.add_argument("--layers", default="*", help=layers)
    add_seed(parser, "adapter")


def run(options: argparse.Namespace) -> Answer:
    from sinefield.config import load_config
    from sinefield.learning.adapt import adapt
    from sinefield.metrics import SCORES

    out = options.out or str(Path("runs") / f"{Path(options.scene).stem}.adapter.sine")
    report = adapt(
        options.run,
        load_config(options.scene, scene_settings(options)),
        out,
        layers=[pattern.strip() for pattern in options.layers.split(",")],
        spec=_spec(options),
        bits=options.bits,
        max_bytes=options.max_bytes,
        quantiser=options.quantiser,
        overwrite=options.overwrite,
    )
    name = next(score for score in SCORES if score + "_base" in report)
    return report, (
        f"{out}: {report['bytes']:,} bytes on {len(report['layers'])} layers; {name} of the base "
        f"{report[name + '_base']:.4g}, adapted {report[name + '_before']:.4g}, packed {report[name]:.4g}, "
        f"{report['seconds']:.0f} s"
    )


def _spec(options: argparse.Namespace) -> "AdapterSpec":
    from sinefield.adapters.deltas import AdapterSpec
    from sinefield.learning.adapt import SPEC

    rank = SPEC.rank if options.rank is None else options.rank
    alpha = SPEC.alpha if options.alpha is None else options.alpha
    omega = SPEC.omega if options.omega is None else options.omega
    return AdapterSpec("sine" if omega else "lora", rank, alpha, omega or None)


COMMAND = Command(
    help="adapt a trained field to a changed scene by an adapter of a few kilobytes",
    example=(
        "sinefield adapt runs/armadillo scenes/armadillo.yaml --data.path bent.obj --out bent.sine --max-bytes 3000"
    ),
    arguments=arguments,
    run=run,
    notes=NOTES,
    settings=True,
)
