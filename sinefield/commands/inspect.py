"""sinefield inspect."""

import argparse

from sinefield.commands.arguments import add_out
from sinefield.commands.command import Answer, Command


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scene", help="data folder, its pose file, or scene file (YAML)")
    add_out(parser, "picture of cameras, box and sparse points: .png .jpg .pdf .svg", optional=True)


def run(options: argparse.Namespace) -> Answer:
    from sinefield.data.photographs.inspect import inspect

    return inspect(options.scene, options.out, options.overwrite)


COMMAND = Command(
    help="say what a folder of photographs holds, and whether its cameras fit",
    example="sinefield inspect my_photos",
    arguments=arguments,
    run=run,
)
