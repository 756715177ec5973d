"""sinefield mesh."""

import argparse

from sinefield.commands.arguments import (
    FRAME_NOTES,
    MESH_FILE,
    add_edits,
    add_frame,
    add_out,
    add_run,
    add_surface,
    frame_options,
    mesh_notes,
    mesh_text,
    number,
    surface_options,
    whole,
)
from sinefield.commands.command import Answer, Command
from sinefield.errors import SinefieldError

BOX = ("XMIN", "YMIN", "ZMIN", "XMAX", "YMAX", "ZMAX")


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_out(parser, MESH_FILE)
    add_surface(parser, 256, "box", ", of a density what the field suggests")
    parser.add_argument("--crop", type=number, nargs=6, metavar=BOX, help="keep what lies in this box, in input units")
    parser.add_argument("--faces", type=whole, help="decimate to at most about this many triangles")
    parser.add_argument("--no-colours", action="store_true", help="leave the field's colours out")
    parser.add_argument(
        "--texture", type=whole, metavar="PIXELS", help="colours as a texture of this side, for .glb or .obj"
    )
    parser.add_argument(
        "--dense", action="store_true", help="evaluate every point of the grid, not only near the surface"
    )
    add_frame(parser)
    add_edits(parser)


def run(options: argparse.Namespace) -> Answer:
    from sinefield.export.mesh import export_mesh
    from sinefield.store.parts import is_parted

    given = {
        **surface_options(options),
        **frame_options(options),
        "crop": options.crop,
        "faces": options.faces,
        "colours": not options.no_colours,
        "dense": options.dense,
        "overwrite": options.overwrite,
    }
    if is_parted(options.run):
        from sinefield.export.parts import export_parts

        if options.texture is not None or options.adapter:
            raise SinefieldError(
                f"{options.run}: --texture and --adapter are for one field; give them with one of the folder's runs"
            )
        report = export_parts(options.run, options.out, **given)
    else:
        report = export_mesh(options.run, options.out, texture=options.texture, adapters=options.adapter, **given)
    why = report["level_note"]
    parts = f", {len(report['parts'])} parts" if "parts" in report else ""
    note = f"\nnote: a density mesh is an estimate; its level: {why}" if why else ""
    return report, (
        f"{options.out}: {mesh_text(report)}, level {report['level']:g}, {report['seconds']:.1f} s"
        f"{parts}{mesh_notes(report)}{note}"
    )


COMMAND = Command(
    help="write the surface as a mesh file",
    example="sinefield mesh runs/armadillo armadillo.glb --resolution 256",
    arguments=arguments,
    run=run,
    notes=FRAME_NOTES,
)
