"""sinefield points."""

import argparse

from sinefield.commands.arguments import add_data, add_edits, add_out, add_run, whole, with_notes
from sinefield.commands.command import Answer, Command


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_out(parser, "point cloud: .ply")
    parser.add_argument("--count", type=whole, default=100_000, help="points at most (100000)")
    add_data(parser, "the photographs of a .sine file, where it does not name them")
    add_edits(parser)


def run(options: argparse.Namespace) -> Answer:
    from sinefield.export.points import export_points

    report = export_points(options.run, options.out, options.count, options.data, options.overwrite, options.adapter)
    text = f"{options.out}: {report['points']:,} points with colours and normals, {report['seconds']:.1f} s"
    return report, with_notes(text, report["notes"])


COMMAND = Command(
    help="write a point cloud with colours and normals",
    example="sinefield points runs/fox fox.ply --count 200000",
    arguments=arguments,
    run=run,
)
