"""sinefield reconstruct."""

import argparse

from sinefield.commands.arguments import MESH_FILE, add_out, add_run, add_surface, surface_options
from sinefield.commands.command import Answer, Command

POINTS = "points on the shape's surface, no normals needed: .ply or .xyz; of a mesh its vertices"


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser, "run folder or .sine file of kind shapes")
    parser.add_argument("points", help=POINTS)
    add_out(parser, MESH_FILE)
    add_surface(parser, 96, "points' box")


def run(options: argparse.Namespace) -> Answer:
    from sinefield.export.reconstruct import reconstruct_shape

    report = reconstruct_shape(
        options.run, options.points, options.out, **surface_options(options), overwrite=options.overwrite
    )
    return report, (
        f"{options.out}: from {report['points']:,} points {report['vertices']:,} vertices, {report['faces']:,} faces, "
        f"{'watertight' if report['watertight'] else 'open'}, {report['seconds']:.1f} s"
    )


COMMAND = Command(
    help="find the shape behind a sparse, noisy point cloud",
    example="sinefield reconstruct runs/shapes points.ply out.glb",
    arguments=arguments,
    run=run,
)
