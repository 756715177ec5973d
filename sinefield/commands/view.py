"""sinefield view."""

import argparse

from sinefield.commands.arguments import add_edits, add_run, whole
from sinefield.commands.command import Answer, Command

HOST = "address to listen on; 0.0.0.0 lets other machines in (127.0.0.1)"
NAME = "another host name by which browsers reach this machine; may be repeated"


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser, "run folder, in training or finished, or .sine file")
    parser.add_argument("--port", type=whole, default=8080, help="port of the page; 0 for any free one (8080)")
    parser.add_argument("--host", default="127.0.0.1", help=HOST)
    parser.add_argument("--name", action="append", default=[], help=NAME)
    parser.add_argument("--visitors", type=whole, default=8, help="pages that may be open at the same time (8)")
    parser.add_argument("--no-browser", action="store_true", help="print the address only")
    add_edits(parser)


def run(options: argparse.Namespace) -> Answer:
    from sinefield.viewer.server import view

    own = options.run, options.host, options.port, not options.no_browser, options.adapter
    report = view(*own, names=options.name, visitors=options.visitors)
    return report, f"{report['visitors']} visits, {report['pictures']} pictures, {report['seconds']:.0f} s"


COMMAND = Command(
    help="show a run in the browser, also while it trains",
    example="sinefield view runs/demo",
    arguments=arguments,
    run=run,
)
