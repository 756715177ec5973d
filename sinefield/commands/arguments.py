"""Arguments that several commands share, each declared once, and settings given as --group.name VALUE."""

import argparse
import math
import re
from collections.abc import Sequence
from typing import Any

from sinefield.errors import SinefieldError, shown

MESH_FILE = "mesh file: .ply .obj .off .stl .glb .usdz .3mf"
UNITS, AXES = ("m", "cm", "mm", "in", "ft"), ("y", "z")


def whole(text: str) -> int:
    """A whole number of the command line, for argparse; `int` alone takes `1_0`, other scripts' digits, any length.

    >>> whole("-12")
    -12
    """
    if not re.fullmatch("[-+]?[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a whole number of at most 18 digits")
    return int(text)


def number(text: str) -> float:
    """A finite number of the command line, for argparse.

    >>> number("1e-3")
    0.001
    """
    if not re.fullmatch(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?", text) or not math.isfinite(float(text)):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a finite number")
    return float(text)


def add_run(parser: argparse.ArgumentParser, help: str = "run folder or .sine file") -> None:
    """RUN: a trained field."""
    parser.add_argument("run", help=help)


def add_overwrite(parser: argparse.ArgumentParser, what: str = "OUT") -> None:
    """--overwrite."""
    parser.add_argument("--overwrite", action="store_true", help=f"replace {what}")


def add_out(parser: argparse.ArgumentParser, help: str, optional: bool = False, replaces: str = "OUT") -> None:
    """OUT, or --out where there is a default; and --overwrite."""
    parser.add_argument("--out" if optional else "out", help=help)
    add_overwrite(parser, replaces)


def add_edits(parser: argparse.ArgumentParser) -> None:
    """--adapter, once or several times."""
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="FILE",
        help="an edit by sinefield adapt, applied to the field; several add up. Or a shape's code, with its set's base",
    )


def add_data(parser: argparse.ArgumentParser, help: str) -> None:
    """--data: where the training data are, if the run or file does not say so."""
    parser.add_argument("--data", help=help)


def add_seed(parser: argparse.ArgumentParser, what: str) -> None:
    """--seed, as text: the scene file's reader checks it."""
    parser.add_argument("--seed", help=f"random seed; the same seed and steps give the same {what}")


def add_surface(parser: argparse.ArgumentParser, resolution: int, box: str, density: str = "") -> None:
    """How a surface is extracted: --resolution, --level, --largest."""
    help_ = f"samples along the longest side of the {box} ({resolution})"
    parser.add_argument("--resolution", type=whole, default=resolution, help=help_)
    help_ = f"level of the surface; default 0 of a distance, 0.5 of an occupancy{density}"
    parser.add_argument("--level", type=number, help=help_)
    parser.add_argument("--largest", action="store_true", help="keep the largest connected piece only")


def add_frame(parser: argparse.ArgumentParser) -> None:
    """Unit and axes of a mesh file: --unit, --up, --input-unit, --input-up."""
    help_ = "unit of the file's numbers; default: not scaled"
    parser.add_argument("--unit", choices=UNITS, help=help_)
    parser.add_argument("--up", choices=AXES, help="axis of the file that is up; default: not turned")
    help_ = "unit of the input, where the field does not know it (m)"
    parser.add_argument("--input-unit", choices=UNITS, help=help_)
    help_ = "axis of the input that is up (for photographs what their cameras say, otherwise y)"
    parser.add_argument("--input-up", choices=AXES, help=help_)


FRAME_NOTES = """

units and axes:
  A mesh keeps the input's numbers, unless one of these four options is given. Then the file's numbers are in --unit
  with --up up. 3MF and USDZ also say their unit, USDZ its axis. A GLB is in metres with y up by its specification:
  a node in it scales and turns the mesh, so that every viewer shows the object upright and in its size."""


def frame_options(options: argparse.Namespace) -> dict[str, Any]:
    """What `add_frame` has read, by name."""
    from sinefield.meshing.frame import Frame

    return {"frame": Frame(options.unit, options.up, options.input_unit, options.input_up)}


def mesh_text(report: dict[str, Any]) -> str:
    """The counts of a mesh file as it was read back."""
    state = {True: "watertight", False: "open", None: "too large to be read back"}[report["watertight"]]
    return f"{report['vertices']:,} vertices, {report['faces']:,} faces, {state}"


def mesh_notes(report: dict[str, Any]) -> str:
    """A line for each thing that was done to a mesh's numbers, each after a line break."""
    notes = [f"{what} {report[what]}" for what in ("scaled", "turned") if report[what]]
    if report["degenerate_faces"]:
        notes.append(f"{report['degenerate_faces']:,} faces have two corners at one place")
    if strays := report.get("strays"):
        from sinefield.meshing.extract import strays_said

        notes.append(strays_said(strays))
    return "".join(f"\nnote: {note}" for note in notes)


def add_quantiser(parser: argparse.ArgumentParser) -> None:
    """--quantiser of `pack` and `adapt`."""
    parser.add_argument("--quantiser", default="uniform", help="uniform, or with --bits kmeans (uniform)")


def add_effort(parser: argparse.ArgumentParser, when: str = "") -> None:
    """--effort of packing."""
    help_ = f"how long packing trains with rounded weights{when}: 1 takes about 30 s of one core for a shape of 4,000"
    parser.add_argument("--effort", type=number, help=f"{help_} bytes, 2 twice as long and so on (1)")


def with_notes(text: str, notes: Sequence[str]) -> str:
    """A command's text, and a line for each note."""
    return "\n".join([text, *(f"note: {note}" for note in notes)])


def split_list(text: str | None) -> list[str]:
    """The parts of a list with commas, none of them empty.

    >>> split_list("0, 5,,b.png")
    ['0', '5', 'b.png']
    """
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def surface_options(options: argparse.Namespace) -> dict[str, Any]:
    """What `add_surface` has read, by name."""
    return {"resolution": options.resolution, "level": options.level, "largest": options.largest}


def read_settings(rest: list[str], command: str) -> dict[str, str]:
    """`--group.name VALUE` and `--group.name=VALUE` pairs."""
    settings = {}
    words = iter(rest)
    for word in words:
        key, equals, value = word.partition("=")
        if not key.startswith("--") or "." not in key:
            raise SinefieldError(f"sinefield {command}: unrecognized argument {word}; settings read --group.name VALUE")
        if not equals:
            value = next(words, None)
            if value is None:
                raise SinefieldError(f"sinefield {command}: {key} has no value; write {key} VALUE")
        settings[key[2:]] = value
    return settings


def scene_settings(options: argparse.Namespace) -> dict[str, str]:
    """The settings given on the command line, `--seed` among them."""
    return options.settings if options.seed is None else {**options.settings, "seed": options.seed}


def parts_text(report: dict[str, Any]) -> str:
    """A table of the fields of a mesh's parts."""
    from sinefield.learning.split import summary
    from sinefield.tables import table

    return table(["part", "score", "value", "params", "bytes"], summary(report))
