"""sinefield inspect."""

import argparse
from pathlib import Path

from sinefield.commands.arguments import add_out
from sinefield.commands.command import Answer, Command


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scene", help="data folder, its pose file, a mesh or point cloud, or scene file (YAML)")
    add_out(parser, "picture: .png .jpg .pdf .svg; of a mesh .png .jpg", optional=True)


def run(options: argparse.Namespace) -> Answer:
    from sinefield.export.surface_account import inspect_surface, surface_named

    surface = surface_named(options.scene)
    if surface is not None:
        return inspect_surface(surface, options.out, options.overwrite)
    from sinefield.data.photographs.inspect import inspect

    return inspect(Path(options.scene), options.out, options.overwrite)


COMMAND = Command(
    help="check a mesh, a point cloud or photographs before training",
    example="sinefield inspect my_photos",
    arguments=arguments,
    run=run,
)
