"""sinefield report."""

import argparse

from sinefield.commands.arguments import add_edits, add_out, add_run
from sinefield.commands.command import Answer, Command

PAGE = "page to make: .html; default RUN/report.html, beside a .sine file, or NAME.html of example:NAME"


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_out(parser, PAGE, optional=True, replaces="an earlier page")
    add_edits(parser)


def run(options: argparse.Namespace) -> Answer:
    from sinefield.export.report import write_report

    report = write_report(options.run, options.out, options.overwrite, options.adapter)
    lines = [f"{report['out']}: {report['bytes']:,} bytes, {report['seconds']:.1f} s"]
    return report, "\n".join([*lines, *(f"left out: {what}" for what in report["left_out"])])


COMMAND = Command(
    help="write a run's scores, curves and pictures as one web page",
    example="sinefield report runs/armadillo",
    arguments=arguments,
    run=run,
)
