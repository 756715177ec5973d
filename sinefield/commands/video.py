"""sinefield video."""

import argparse

from sinefield.commands.arguments import add_data, add_edits, add_out, add_run, number, split_list, whole
from sinefield.commands.command import Answer, Command
from sinefield.errors import SinefieldError

PATH = (
    "orbit: one turn; ellipse: through the training cameras; spiral: in front of what they face; walk: along them; "
    "cameras: see --cameras; or a nerfstudio camera path FILE.json (orbit; walk or spiral where the scene goes on "
    "beyond its photographs)"
)
SIDE = "pixels; default that of the data, 256 for a shape"
NOTES = """
  sinefield video runs/fern fern.webm --path spiral --channel depth
  sinefield video runs/lego between.mp4 --cameras 0,5,12
  sinefield video runs/lego frames/ --alpha"""


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_out(parser, "video file: .mp4, .webm or .gif; or with a / at its end a folder of PNGs")
    _add_flight(parser)
    channels = ["rgb", "depth", "opacity", "normals"]
    parser.add_argument("--channel", choices=channels, default="rgb", help="what to show")
    parser.add_argument("--alpha", action="store_true", help="keep transparency, in .webm and PNGs")
    add_data(parser, "the photographs of a .sine file, where a path needs them and it does not name them")
    add_edits(parser)


def _add_flight(parser: argparse.ArgumentParser) -> None:
    cameras = "fly through these cameras: training views' numbers or any views' names, 0,5,12"
    beside = "the test views, each beside its photograph, in place of a path"
    elevation = "an orbit's degrees above the horizon; default the cameras', 20 for a shape"
    parser.add_argument("--path", help=PATH)
    parser.add_argument("--cameras", help=cameras)
    parser.add_argument("--beside", action="store_true", help=beside)
    parser.add_argument("--frames", type=whole, help="frames in all (90)")
    parser.add_argument("--fps", type=number, help="frames a second (30; 2 with --beside; a FILE.json's own)")
    parser.add_argument("--width", type=whole, help=SIDE)
    parser.add_argument("--height", type=whole, help=SIDE)
    parser.add_argument("--elevation", type=number, help=elevation)


def run(options: argparse.Namespace) -> Answer:
    from sinefield.export.flight import Flight
    from sinefield.export.video import export_video

    cameras = split_list(options.cameras)
    if options.cameras is not None and not cameras:
        raise SinefieldError(f"--cameras {options.cameras}: names no camera; give numbers or names like 0,5,frame_12")
    flight = Flight(
        path=options.path,
        cameras=cameras,
        frames=options.frames,
        fps=options.fps,
        size=(options.width, options.height),
        elevation=options.elevation,
        beside=options.beside,
        data=options.data,
    )
    report = export_video(
        options.run, options.out, flight, options.channel, options.alpha, options.overwrite, options.adapter
    )
    size = f"{report['width']}×{report['height']}"
    note = f"\nnote: {report['path_note']}" if report["path_note"] else ""
    return report, f"{options.out}: {report['frames']} frames of {size}, {report['seconds']:.1f} s{note}"


COMMAND = Command(
    help="render a video: one turn around it, or a camera path",
    example="sinefield video runs/lego lego.mp4 --frames 90",
    arguments=arguments,
    run=run,
    notes=NOTES,
)
