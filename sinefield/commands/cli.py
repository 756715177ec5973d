"""The command line: its commands, one at a time: parse, run, print."""

import argparse
import difflib
import errno
import gc
import logging
import os
import re
import shutil
import signal
import sys
import textwrap
import warnings
from typing import NoReturn

from sinefield.commands import (
    adapt,
    adapter,
    cameras,
    capture,
    code,
    compare,
    depth,
    doctor,
    eval,
    fleet,
    frames,
    image,
    info,
    inspect,
    mesh,
    pack,
    page,
    points,
    poses,
    reconstruct,
    report,
    splats,
    synth,
    train,
    unpack,
    video,
    view,
)
from sinefield.commands.arguments import read_settings
from sinefield.commands.command import Command, Parser
from sinefield.errors import SinefieldError, at_limit, harmless, lacks_memory
from sinefield.json_text import to_json
from sinefield.version import __version__

DESCRIPTION = "3D scenes, shapes and images as small, fast neural fields."
GROUPS: dict[str, dict[str, Command]] = {
    "train a field": {"train": train.COMMAND, "capture": capture.COMMAND, "fleet": fleet.COMMAND},
    "prepare its data": {
        "inspect": inspect.COMMAND,
        "frames": frames.COMMAND,
        "poses": poses.COMMAND,
        "synth": synth.COMMAND,
    },
    "look at it": {
        "view": view.COMMAND,
        "page": page.COMMAND,
        "video": video.COMMAND,
        "image": image.COMMAND,
        "report": report.COMMAND,
    },
    "make it small": {"pack": pack.COMMAND, "unpack": unpack.COMMAND},
    "use it in other programs": {
        "mesh": mesh.COMMAND,
        "code": code.COMMAND,
        "points": points.COMMAND,
        "splats": splats.COMMAND,
        "depth": depth.COMMAND,
        "cameras": cameras.COMMAND,
    },
    "measure it": {"eval": eval.COMMAND, "info": info.COMMAND, "compare": compare.COMMAND},
    "change it, or complete a scan": {
        "adapt": adapt.COMMAND,
        "adapter": adapter.COMMAND,
        "reconstruct": reconstruct.COMMAND,
    },
    "check this machine": {"doctor": doctor.COMMAND},
}
"""Every command, by what people want to do, in the order in which `sinefield --help` lists them."""
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
USUAL = """\
the usual ones:
  sinefield train bust.obj --max-bytes 4000    a mesh, an image, posed photographs
  sinefield capture clip.mp4 --out runs/clip   a video, photographs without poses
  sinefield page example:knot knot.html        a web page that draws a field
"""
LACKS_MEMORY = "out of memory; lower the resolution, the batch or the number of points"
NAMES = 13  # columns that a command's name takes in the list


class MainParser(Parser):
    """The parser of `sinefield` itself: its help lists the commands by group."""

    def format_help(self) -> str:
        width = max(shutil.get_terminal_size().columns - 2, 40)
        lines = [self.format_usage(), DESCRIPTION, "", USUAL.rstrip()]
        for title, group in GROUPS.items():
            lines += ["", f"{title}:"]
            for name, command in group.items():
                indent = " " * (NAMES + 2)
                lines.append(textwrap.fill(f"  {name:<{NAMES}}{command.help}", width, subsequent_indent=indent))
        lines += ["", "sinefield COMMAND --help has arguments and an example; sinefield --version the version."]
        return "\n".join(lines) + "\n"

    def error(self, message: str) -> NoReturn:
        if found := re.search(r"invalid choice: '([^']*)'", message):
            near = difflib.get_close_matches(found[1], COMMANDS, 1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise SinefieldError(f"there is no command '{found[1]}'; {hint}sinefield --help lists all")
        super().error(message)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = MainParser(prog="sinefield", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"sinefield {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, command in COMMANDS.items():
        command.add_to(commands, name)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for bad input, 130 or 143 when interrupted."""
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except SinefieldError as error:
        hidden = lacks_memory(error) and "memory" not in str(error)  # taken for a damaged file
        print(f"sinefield: {LACKS_MEMORY} ({error})" if hidden else f"sinefield: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sinefield: interrupted", file=sys.stderr)
        return 130
    except (
        UnicodeEncodeError,
        UnicodeDecodeError,
    ) as error:  # bytes that are no text can be in names only: contents are checked by their readers
        print(f"sinefield: a file's name is no text ({error.reason}); rename it", file=sys.stderr)
        return 2
    except Exception as error:
        if lacks_memory(error):
            print(f"sinefield: {LACKS_MEMORY}", file=sys.stderr)
            return 2
        if at_limit():  # what lacks memory while it is imported says anything
            print(f"sinefield: {LACKS_MEMORY} ({SinefieldError(str(error))})", file=sys.stderr)
            return 2
        if not isinstance(error, OSError) or error.errno is None:
            raise
        if error.filename is None:
            return _lost_folder(error) if error.errno == errno.ENOENT else _lost_output(error)
        reason = error.strerror or type(error).__name__
        name = SinefieldError(os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename)
        print(f"sinefield: {name}: {reason}; check its permissions and the disk", file=sys.stderr)
        return 2


def _run(arguments: list[str]) -> int:
    parser = make_parser()
    options, rest = parser.parse_known_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    _refuse_many(options.command)
    if options.chosen.settings:
        options.settings = read_settings(rest, options.command)
    elif rest:
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    report, text = options.chosen.run(options)
    print(to_json(report, default=str) if options.json else harmless(text), flush=True)
    return 0


def _refuse_many(command: str) -> None:
    """Refuse to do the same thing several times where torchrun has started several processes; the first one tells."""
    if command != "train" and "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        if os.environ.get("RANK", "0") != "0":
            raise SystemExit(2)
        raise SinefieldError(f"sinefield {command} runs in one process; start it without torchrun")


def _lost_folder(error: OSError) -> int:
    """The exit code where the folder that the process is in was removed, so that no relative path leads anywhere."""
    print(f"sinefield: the current folder is gone ({error.strerror}); change to another", file=sys.stderr)
    return 2


def _lost_output(error: OSError) -> int:
    """The exit code where standard output cannot be written; what is still to come is dropped."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would complain once more at its end
    if isinstance(error, BrokenPipeError):
        return 141
    print(f"sinefield: standard output cannot be written ({error.strerror})", file=sys.stderr)
    return 2


def _open_streams() -> None:
    """Have standard streams that take any name: a closed one is dropped, a character it lacks is written as \\x…"""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed by whoever started us: the next file would take its number
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))
        if number:
            getattr(sys, name).reconfigure(errors="backslashreplace")


def _silence_libraries() -> None:
    """Keep what libraries say of their arithmetic and detours off the terminal; what matters is checked and told."""
    warnings.filterwarnings("ignore", category=RuntimeWarning)  # numpy's: overflow, divisions by zero
    for name in ("trimesh", "matplotlib"):  # tracebacks; that fonts are looked for again, where there is no home
        logging.getLogger(name).addHandler(logging.NullHandler())


def entry() -> None:
    """The console script."""
    # What is imported makes many objects and drops none: searched as often as usual, a tenth of the time that takes.
    gc.set_threshold(20_000, 20, 50)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _open_streams()
    _silence_libraries()
    try:
        code = main()
    except SystemExit as left:  # argparse's, after --help
        code = left.code
    try:
        sys.stdout.flush()
    except OSError as error:
        code = _lost_output(error)
    sys.exit(code)


if __name__ == "__main__":
    entry()
