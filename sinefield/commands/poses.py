"""sinefield poses."""

import argparse
import re
from typing import Any

from sinefield.commands.arguments import add_out, whole
from sinefield.commands.command import Answer, Command
from sinefield.errors import SinefieldError, shown

NOTES = """

  A folder masks, beside images or in the folder, hides what is black in masks/NAME.png from the search.
  One thread and the same seed give the same poses again."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="folder of photographs, or one with a folder 'images' of them")
    help_ = "new folder for upright copies and their poses; default: poses go beside the photographs"
    add_out(parser, help_, optional=True, replaces="poses found earlier")
    add_search(parser)
    parser.add_argument("--seed", help="seed of COLMAP's random choices (0)")


def add_search(parser: argparse.ArgumentParser) -> None:
    """How poses are looked for: --quality, --matching, --program, --threads."""
    parser.add_argument("--quality", default="medium", help="COLMAP's preset: low, medium, high, extreme (medium)")
    help_ = (
        "pairs to compare: exhaustive, sequential (neighbours by name), or auto: exhaustive for up to 150 photographs"
    )
    parser.add_argument("--matching", default="auto", help=f"{help_}, sequential for more and for frames of a video")
    parser.add_argument("--program", help="pycolmap, or colmap, the program; default what is installed")
    parser.add_argument("--threads", type=whole, help="threads; default all cores")


def search_options(options: argparse.Namespace) -> Any:
    """What `add_search` has read."""
    from sinefield.data.photographs.poses import Search

    seed = str(options.seed or 0)
    if not re.fullmatch("[0-9]{1,9}", seed):
        raise SinefieldError(f"--seed {shown(seed)}: a whole number from 0, of at most 9 digits")
    return Search(options.quality, options.matching, options.program, options.threads, int(seed))


def run(options: argparse.Namespace) -> Answer:
    from sinefield.data.photographs.poses import find_poses

    report = find_poses(options.folder, search_options(options), options.out, options.overwrite)
    return report, poses_text(report)


def poses_text(report: dict[str, Any]) -> str:
    """How many were placed, and what to do about the rest."""
    others = f"; {report['models'] - 1} smaller models left out" if report["models"] > 1 else ""
    lines = [
        f"{report['model']}: {report['registered']} of {report['images']} photographs placed, "
        f"{report['points']:,} points, {report['seconds']:.0f} s{others}"
    ]
    lines += [f"note: {name} left out: {why}" for name, why in list(report["left_out"].items())[:5]]
    if len(report["left_out"]) > 5:
        lines.append(f"note: {len(report['left_out']) - 5} more left out")
    if rest := report["unplaced"]:
        named = ", ".join(rest[:5]) + (", …" if len(rest) > 5 else "")
        advice = "retake them sharp and overlapping with the others"
        if report["matching"] == "sequential":
            advice += ", or try --matching exhaustive"
        lines.append(f"note: {len(rest)} not placed ({named}): training goes without them; {advice}")
    return "\n".join(lines)


COMMAND = Command(
    help="find the camera poses of photographs by COLMAP",
    example="sinefield poses my_photos --out my_scene",
    arguments=arguments,
    run=run,
    notes=NOTES,
)
