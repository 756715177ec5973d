"""sinefield page."""

import argparse

from sinefield.commands.arguments import add_edits, add_out, add_run
from sinefield.commands.command import Answer, Command


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_out(parser, "page to make: .html")
    add_edits(parser)


def run(options: argparse.Namespace) -> Answer:
    from sinefield.export.field_page import write_page

    report = write_page(options.run, options.out, options.overwrite, options.adapter)
    sizes = f"{report['bytes']:,} bytes, {report['gzip_bytes']:,} gzipped, of which code {report['code_gzip_bytes']:,}"
    return report, f"{report['out']}: {sizes}"


COMMAND = Command(
    help="write a field as one web page that draws it",
    example="sinefield page example:toys toys.html",
    arguments=arguments,
    run=run,
)
