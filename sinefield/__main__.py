"""`python -m sinefield`: the command line."""

from sinefield.commands.cli import entry

entry()
