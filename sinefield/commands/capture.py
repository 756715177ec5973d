"""sinefield capture."""

import argparse
import sys

from sinefield.commands.arguments import add_seed, scene_settings
from sinefield.commands.command import Answer, Command
from sinefield.commands.frames import add_count
from sinefield.commands.poses import add_search, search_options
from sinefield.commands.scores import summary

NOTES = """

every setting of a scene file can be given as --group.name VALUE, as for sinefield train:
  --training.seconds S  --data.downscale 4  --field.space box …

OUT then holds run (the field), video.mp4, mesh.glb, report.html, photographs (with poses). The same command
continues where an earlier one stopped."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", help="video, folder of photographs, or folder of photographs with poses")
    parser.add_argument("--out", required=True, help="folder to make")
    parser.add_argument("--overwrite", action="store_true", help="start again in the folder of an earlier capture")
    parser.add_argument("--seconds", help="training time (300); the same as --training.seconds")
    add_count(parser)
    add_search(parser)
    add_seed(parser, "poses (with --threads 1) and field")


def run(options: argparse.Namespace) -> Answer:
    from sinefield.export.capture import capture
    from sinefield.learning.loop import Interrupted

    settings = scene_settings(options)
    if options.seconds is not None:
        settings = {**settings, "training.seconds": options.seconds}
    try:
        report = capture(
            options.input,
            options.out,
            settings,
            options.count,
            search_options(options),
            options.overwrite,
            say=lambda line: print(f"capture: {line}", file=sys.stderr),
        )
    except Interrupted as error:
        print(f"sinefield: {error}: the state is saved; the same command without --overwrite goes on", file=sys.stderr)
        raise SystemExit(128 + error.signum) from None
    placed = "photographs came with poses"
    if report["placed"] is not None:
        placed = f"{report['placed']} of {report['images']} photographs placed"
    box = " ".join(f"{value:.3g}" for value in report["box"])
    lines = [summary(report), f"{placed}; space {report['space']}, box {box}, downscale {report['downscale']}"]
    lines += [f"left out: {step}: {why}" for step, why in report["left_out"].items()]
    return report, "\n".join([*lines, f"{options.out}: {', '.join(report['files'])}; {report['minutes']:.1f} minutes"])


COMMAND = Command(
    help="make a field, a video, a mesh and a report from a video or photographs",
    example="sinefield capture video.mp4 --out runs/mine --seconds 300",
    arguments=arguments,
    run=run,
    notes=NOTES,
    settings=True,
)
