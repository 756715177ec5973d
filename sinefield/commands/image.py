"""sinefield image."""

import argparse

from sinefield.commands.arguments import add_edits, add_out, add_run, whole
from sinefield.commands.command import Answer, Command


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_out(parser, "picture: .png")
    parser.add_argument("--width", type=whole, help="pixels; default that of the data; the height follows")
    add_edits(parser)


def run(options: argparse.Namespace) -> Answer:
    from sinefield.export.image import export_image

    report = export_image(options.run, options.out, options.width, options.overwrite, options.adapter)
    return report, f"{options.out}: {report['width']}×{report['height']} pixels, {report['seconds']:.1f} s"


COMMAND = Command(
    help="write an image field as a picture of any size",
    example="sinefield image runs/image large.png --width 2048",
    arguments=arguments,
    run=run,
)
