"""sinefield splats."""

import argparse

from sinefield.commands.arguments import add_data, add_edits, add_out, add_run, whole, with_notes
from sinefield.commands.command import Answer, Command

NOTES = """

  Splats are placed where the field's cameras see surfaces and fitted to its own pictures. The files open in viewers of
  Gaussian splats; .spz is about a tenth as large, with 8 bits for most numbers. A field of photographs is seen from
  their cameras where they are at hand, other fields from turns around them. psnr is between splats and field, on views
  that the fit leaves out."""


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_out(parser, "splat file: .ply or .spz")
    parser.add_argument("--count", type=whole, default=50_000, help="splats (50000)")
    parser.add_argument("--steps", type=whole, default=1_000, help="steps of the fit (1000)")
    parser.add_argument(
        "--degree", type=whole, default=2, help="degree of the colours' change with direction, 0 to 3 (2)"
    )
    add_data(parser, "the photographs of a .sine file, where it does not name them")
    add_edits(parser)


def run(options: argparse.Namespace) -> Answer:
    from sinefield.export.splats import export_splats

    report = export_splats(
        options.run,
        options.out,
        options.count,
        options.steps,
        options.degree,
        options.data,
        options.overwrite,
        options.adapter,
    )
    text = (
        f"{options.out}: {report['splats']:,} splats, {report['bytes']:,} bytes, {report['psnr']:.2f} dB "
        f"against the field, {report['seconds']:.1f} s"
    )
    return report, with_notes(text, report["notes"])


COMMAND = Command(
    help="write a field as Gaussian splats, .ply or .spz",
    example="sinefield splats runs/lego lego.spz",
    arguments=arguments,
    run=run,
    notes=NOTES,
)
