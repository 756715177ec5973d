"""sinefield synth."""

import argparse
from pathlib import Path

from sinefield.commands.arguments import add_out, whole
from sinefield.commands.command import Answer, Command


def arguments(parser: argparse.ArgumentParser) -> None:
    add_out(parser, "folder to make", replaces="an earlier data set in OUT")
    parser.add_argument("--mesh", help="your mesh, with vertex or texture colours; default the demo scene")
    parser.add_argument("--views", type=whole, default=100, help="training views (100)")
    parser.add_argument("--test-views", type=whole, default=20, help="test views (20)")
    parser.add_argument("--resolution", type=whole, default=128, help="pixels along each side (128)")
    parser.add_argument("--seed", type=whole, default=0, help="random seed of the views (0)")


def run(options: argparse.Namespace) -> Answer:
    from sinefield.data.made.synthetic import synthesize

    report = synthesize(
        Path(options.out),
        mesh=Path(options.mesh) if options.mesh else None,
        n_train=options.views,
        n_test=options.test_views,
        resolution=options.resolution,
        seed=options.seed,
        overwrite=options.overwrite,
    )
    views = f"{options.views} training and {options.test_views} test views"
    return report, f"{options.out}: {views} of {options.resolution}²"


COMMAND = Command(
    help="render posed photographs of a mesh, or of the demo's scene",
    example="sinefield synth runs/demo_data",
    arguments=arguments,
    run=run,
)
