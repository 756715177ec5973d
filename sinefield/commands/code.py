"""sinefield code."""

import argparse

from sinefield.commands.arguments import add_edits, add_out, add_run, whole
from sinefield.commands.command import Answer, Command


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_out(parser, "C99 header .h, shader .glsl or .wgsl, model .onnx, or grid of distances .npz")
    parser.add_argument("--name", help="prefix of the names in a header or shader; default the file's name")
    parser.add_argument("--resolution", type=whole, default=64, help="samples of a grid along its longest side (64)")
    add_edits(parser)


def run(options: argparse.Namespace) -> Answer:
    from sinefield.export.code import export_code

    report = export_code(options.run, options.out, options.name, options.resolution, options.overwrite, options.adapter)
    notes = "".join(f"\n  note: {note}" for note in report["notes"])
    return report, f"{options.out}: {report['target']}, {report['bytes']:,} bytes{notes}"


COMMAND = Command(
    help="write a shape field for other programs: a C header, a shader, an ONNX model, a grid of distances",
    example="sinefield code example:knot knot.h",
    arguments=arguments,
    run=run,
)
