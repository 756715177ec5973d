"""sinefield pack."""

import argparse
from pathlib import Path

from sinefield.commands.arguments import (
    add_data,
    add_effort,
    add_out,
    add_quantiser,
    add_run,
    number,
    parts_text,
    whole,
)
from sinefield.commands.command import Answer, Command
from sinefield.errors import SinefieldError

NOTES = """

without --bits, --max-bytes and --min-quality: the smallest field that costs at most 0.004 IoU or 0.2 dB;
a mesh file with --max-bytes: the best mesh that fits, decimated and optimised (not a field):
  sinefield pack bunny.obj bunny.sine --max-bytes 4000"""


def arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser, "run folder; or a closed mesh file, to be packed as a mesh of fewer faces")
    add_out(parser, "packed file: .sine; of a folder of parts a folder")
    parser.add_argument("--bits", type=whole, help="bits for each entry of every matrix, 1 to 8")
    parser.add_argument("--max-bytes", type=whole, help="the best field of at most this many bytes")
    parser.add_argument("--min-quality", type=number, help="the smallest field with this IoU or PSNR")
    add_quantiser(parser)
    add_effort(parser)
    help_ = "the same in steps, in place of an effort; 0 for rounding alone"
    parser.add_argument("--steps", type=whole, help=help_)
    help_ = "the same in seconds, of which a busy machine makes less; an effort and steps repeat to the bit"
    parser.add_argument("--seconds", type=number, help=help_)
    add_data(parser, "where the run's mesh, photographs or image are, if they moved")


def run(options: argparse.Namespace) -> Answer:
    from sinefield.learning.budget import pack_run
    from sinefield.metrics import SCORES
    from sinefield.store.parts import is_parted

    if is_mesh(options.run):
        from sinefield.learning.pack_mesh import pack_mesh

        refuse_with_mesh(options)
        report = pack_mesh(options.run, options.out, options.max_bytes, options.overwrite)
        smooth = ("", ", subdivided once", ", subdivided twice")[report["subdivisions"]]
        return report, (
            f"{options.out}: {report['bytes']:,} bytes, a mesh of {report['faces']:,} faces{smooth}; "
            f"iou {report['iou']:.4g}, {report['seconds']:.0f} s"
        )
    names = ("bits", "max_bytes", "min_quality", "quantiser", "seconds", "steps", "data", "overwrite", "effort")
    given = {name: getattr(options, name) for name in names}
    if is_parted(options.run):
        from sinefield.learning.split import pack_parts

        report = pack_parts(options.run, options.out, **given)
        smaller = report["float_bytes"] / report["bytes"]
        return report, f"{parts_text(report)}\n{options.out}: {report['bytes']:,} bytes, {smaller:.1f} times smaller"
    report = pack_run(options.run, options.out, **given)
    name = next(score for score in SCORES if score + "_before" in report)
    text = (
        f"{options.out}: {report['bytes']:,} bytes, {report['float_bytes'] / report['bytes']:.1f} times smaller; "
        f"{name} {report[name + '_before']:.4g} before, {report[name]:.4g} after, {report['seconds']:.0f} s"
    )
    if "narrower" in report:
        text += f"\nnote: the run's network is too large for so few bytes; one of {report['narrower']:,} was trained"
    return report, text


def is_mesh(path: str) -> bool:
    """Whether a path names a file of a mesh, not a run.

    >>> is_mesh("bunny.obj"), is_mesh("runs/bunny")
    (True, False)
    """
    from sinefield.data.surfaces.mesh_files import EXTENSIONS

    return Path(path).suffix.lower() in EXTENSIONS and not Path(path).is_dir()


def refuse_with_mesh(options: argparse.Namespace) -> None:
    """Raises SinefieldError for options that say how a field is trained."""
    asked = ("bits", "min_quality", "effort", "steps", "seconds")
    if named := [name.replace("_", "-") for name in asked if getattr(options, name) is not None]:
        raise SinefieldError(f"{options.run}: --{named[0]} is for a field; a mesh is packed by --max-bytes alone")


COMMAND = Command(
    help="pack a trained field into one small file",
    example="sinefield pack runs/armadillo armadillo.sine --max-bytes 8000",
    arguments=arguments,
    run=run,
    notes=NOTES,
)
