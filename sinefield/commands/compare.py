"""sinefield compare."""

import argparse

from sinefield.commands.arguments import add_out
from sinefield.commands.command import Answer, Command


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="run", help="run folders and .sine files")
    add_out(parser, "plot of score against bytes to make: .png", optional=True)


def run(options: argparse.Namespace) -> Answer:
    from sinefield.export.compare import compare

    return compare(options.runs, options.out, options.overwrite)


COMMAND = Command(
    help="compare runs and packed files in one table",
    example="sinefield compare runs/* --out sizes.png",
    arguments=arguments,
    run=run,
)
