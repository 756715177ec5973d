"""`python -m sinefield`: the command line."""

from sinefield.commands.cli import entry

if __name__ == "__main__":
    entry()
