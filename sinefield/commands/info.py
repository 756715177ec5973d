"""sinefield info."""

import argparse

from sinefield.commands.arguments import add_run
from sinefield.commands.command import Answer, Command


def run(options: argparse.Namespace) -> Answer:
    from sinefield.export.info import describe
    from sinefield.store.parts import is_parted

    if is_parted(options.run):
        from sinefield.export.parts import describe_parts

        return describe_parts(options.run)
    return describe(options.run)


COMMAND = Command(
    help="describe a run or packed file: parameters, sizes, ranks, scores",
    example="sinefield info runs/armadillo",
    arguments=add_run,
    run=run,
)
