"""sinefield depth."""

import argparse

from sinefield.commands.arguments import add_data, add_edits, add_out, add_run, whole, with_notes
from sinefield.commands.command import Answer, Command

NOTES = """

  A value of a picture, times the unit in depths.json, is the depth along the camera's axis in the input's units of
  length; 0 is where nothing opaque is. Cameras are pinholes: those of the photographs without their lens distortion."""


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_out(parser, "folder of 16-bit pictures 0000.png … and depths.json")
    parser.add_argument("--count", type=whole, default=100, help="views at most (100)")
    add_data(parser, "the photographs of a .sine file, where it does not name them")
    add_edits(parser)


def run(options: argparse.Namespace) -> Answer:
    from sinefield.export.depth import export_depth

    report = export_depth(options.run, options.out, options.count, options.data, options.overwrite, options.adapter)
    text = (
        f"{options.out}: {report['views']} depth maps, {report['nearest']:.4g} to {report['farthest']:.4g}, unit "
        f"{report['unit']:g}, {report['seconds']:.1f} s"
    )
    return report, with_notes(text, report["notes"])


COMMAND = Command(
    help="write depth maps of a field",
    example="sinefield depth runs/fox depths",
    arguments=arguments,
    run=run,
    notes=NOTES,
)
