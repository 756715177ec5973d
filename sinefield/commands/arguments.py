"""Arguments that several commands share, each declared once, and settings given as --group.name VALUE."""

import argparse
from typing import Any

from sinefield.errors import SinefieldError

MESH_FILE = "mesh file: .ply .obj .stl .glb"


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
        help="an edit by sinefield adapt, applied to the field; several add up",
    )


def add_data(parser: argparse.ArgumentParser, help: str) -> None:
    """--data: where the training data are, if the run or file does not say so."""
    parser.add_argument("--data", help=help)


def add_seed(parser: argparse.ArgumentParser, what: str) -> None:
    """--seed, as text: the scene file's reader checks it."""
    parser.add_argument("--seed", help=f"random seed; same seed and steps, same {what}")


def add_surface(parser: argparse.ArgumentParser, resolution: int, box: str, density: str = "") -> None:
    """How a surface is extracted: --resolution, --level, --largest."""
    help_ = f"samples along the longest side of the {box} ({resolution})"
    parser.add_argument("--resolution", type=int, default=resolution, help=help_)
    help_ = f"level of the surface; default 0 of a distance, 0.5 of an occupancy{density}"
    parser.add_argument("--level", type=float, help=help_)
    parser.add_argument("--largest", action="store_true", help="keep the largest connected piece only")


def add_quantiser(parser: argparse.ArgumentParser) -> None:
    """--quantiser of `pack` and `adapt`."""
    parser.add_argument("--quantiser", default="uniform", help="uniform, or with --bits kmeans (uniform)")


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
