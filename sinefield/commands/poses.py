"""sinefield poses."""

import argparse

from sinefield.commands.arguments import add_overwrite
from sinefield.commands.command import Answer, Command


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="folder of photographs, or one with a folder 'images' of them")
    parser.add_argument("--quality", default="medium", help="COLMAP's preset: low, medium, high, extreme (medium)")
    add_overwrite(parser, "poses found earlier")


def run(options: argparse.Namespace) -> Answer:
    from sinefield.data.photographs.poses import find_poses

    report = find_poses(options.folder, options.quality, options.overwrite)
    others = f"; {report['models'] - 1} smaller models left out" if report["models"] > 1 else ""
    return report, (
        f"{report['model']}: {report['registered']} of {report['images']} photographs placed, "
        f"{report['points']:,} points, {report['seconds']:.0f} s{others}"
    )


COMMAND = Command(
    help="find the poses of photographs by COLMAP", example="sinefield poses my_photos", arguments=arguments, run=run
)
