"""What a command of the command line is, and its parser."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from sinefield.errors import SinefieldError

Answer = tuple[dict[str, Any], str]
"""What a command returns: the report that `--json` prints, and the text for people."""


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one line, and output that cannot be written is an error."""

    def print_help(self, file: Any = None) -> None:
        print(self.format_help(), end="", file=file, flush=True)

    def error(self, message: str) -> NoReturn:
        raise SinefieldError(f"{self.prog}: {message}; see {self.prog} --help")


@dataclass(frozen=True)
class Command:
    """A command: each file of this folder ends with one.

    The file itself imports nothing slow: `sinefield --help` loads them all. `run` imports what it needs.

    Attributes:
        help: what it does, in one line without capital and full stop.
        example: a command line that a person may type.
        arguments: adds its arguments to a parser.
        run: does it.
        notes: what stands below the example.
        settings: it takes the scene file's settings as `--group.name VALUE`; `run` finds them in `options.settings`.
    """

    help: str
    example: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], Answer]
    notes: str = ""
    settings: bool = False

    def add_to(self, commands: Any, name: str) -> None:
        """Make its parser among the `commands` of argparse."""
        parser = commands.add_parser(
            name,
            help=self.help,
            description=self.help[0].upper() + self.help[1:] + ".",
            epilog=f"example:\n  {self.example}{self.notes}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object as the last line of output")
        self.arguments(parser)
        parser.set_defaults(chosen=self, parser=parser)
