"""sinefield frames."""

import argparse

from sinefield.commands.arguments import add_out, whole
from sinefield.commands.command import Answer, Command


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", help="video file, of any kind that ffmpeg reads")
    add_out(parser, "folder to make: images, and frames.json", replaces="frames taken earlier")
    add_count(parser)
    parser.add_argument("--png", action="store_true", help="write PNGs; default JPEGs of high quality")


def add_count(parser: argparse.ArgumentParser) -> None:
    """--count of `frames` and `capture`."""
    parser.add_argument("--count", type=whole, default=60, help="frames to take of a video (60)")


def run(options: argparse.Namespace) -> Answer:
    from sinefield.data.photographs.frames import extract_frames

    kind = ".png" if options.png else ".jpg"
    report = extract_frames(options.video, options.out, options.count, kind, options.overwrite)
    return report, f"{options.out}: {report['frames']} of {report['read']:,} frames taken"


COMMAND = Command(
    help="choose sharp photographs from a video, with equal movement between them",
    example="sinefield frames video.mp4 my_photos --count 60",
    arguments=arguments,
    run=run,
)
