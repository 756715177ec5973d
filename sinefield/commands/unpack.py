"""sinefield unpack."""

import argparse

from sinefield.commands.arguments import add_edits, add_out
from sinefield.commands.command import Answer, Command


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="packed file: .sine; with --adapter a run folder too")
    add_out(parser, "run folder to make", replaces="the run in OUT")
    add_edits(parser)


def run(options: argparse.Namespace) -> Answer:
    from sinefield.store.unpack import unpack

    report = unpack(options.file, options.out, options.overwrite, options.adapter)
    line = f"{options.out}: {report['kind']} field, {report['params']:,} parameters; what eval and the rest take"
    return report, line


COMMAND = Command(
    help="turn a packed field back into a run folder",
    example="sinefield unpack armadillo.sine runs/unpacked",
    arguments=arguments,
    run=run,
)
