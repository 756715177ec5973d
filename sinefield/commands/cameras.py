"""sinefield cameras."""

import argparse

from sinefield.commands.arguments import add_data, add_out, add_run
from sinefield.commands.command import Answer, Command

NOTES = """

  The file must lie in the folder of the images or above it, because it names them relative to itself. To train on it:
  --data.path OUT.json. Poses are those of the data, without the corrections that training.fit_poses learned."""


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_out(parser, "pose file: .json, in the folder of the images or above it")
    add_data(parser, "the photographs of a .sine file, where it does not name them")


def run(options: argparse.Namespace) -> Answer:
    from sinefield.export.cameras import export_cameras

    report = export_cameras(options.run, options.out, options.data, options.overwrite)
    counts = ", ".join(f"{count} {split}" for split, count in report["views"].items())
    return report, "\n".join([f"{options.out}: {counts}", *report["notes"]])


COMMAND = Command(
    help="write the cameras of a run's photographs as a transforms.json",
    example="sinefield cameras runs/fern data/fern/transforms.json",
    arguments=arguments,
    run=run,
    notes=NOTES,
)
