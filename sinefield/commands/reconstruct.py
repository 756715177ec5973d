"""sinefield reconstruct."""

import argparse

from sinefield.commands.arguments import (
    FRAME_NOTES,
    MESH_FILE,
    add_frame,
    add_out,
    add_run,
    add_surface,
    frame_options,
    mesh_notes,
    mesh_text,
    surface_options,
)
from sinefield.commands.command import Answer, Command

POINTS = "points on the shape's surface, no normals needed: .ply or .xyz; of a mesh its vertices"


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser, "run folder or .sine file of kind shapes")
    parser.add_argument("points", help=POINTS)
    add_out(parser, MESH_FILE)
    add_surface(parser, 96, "points' box")
    add_frame(parser)


def run(options: argparse.Namespace) -> Answer:
    from sinefield.export.reconstruct import reconstruct_shape

    report = reconstruct_shape(
        options.run,
        options.points,
        options.out,
        **surface_options(options),
        **frame_options(options),
        overwrite=options.overwrite,
    )
    return report, (
        f"{options.out}: from {report['points']:,} points {mesh_text(report)}, {report['seconds']:.1f} s"
        f"{mesh_notes(report)}"
    )


COMMAND = Command(
    help="find the shape of a sparse, noisy point cloud",
    example="sinefield reconstruct runs/shapes points.ply out.glb",
    arguments=arguments,
    run=run,
    notes=FRAME_NOTES,
)
