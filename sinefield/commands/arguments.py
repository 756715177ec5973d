"""What the command line takes: every command's arguments, and settings given as --group.name VALUE."""

import argparse
from typing import NoReturn

from sinefield import __version__
from sinefield.errors import SinefieldError

DESCRIPTION = "3D scenes, shapes and images as small, fast neural fields."
CONTROL = {
    "train": (
        "train a field from a scene file",
        "sinefield train scenes/armadillo.yaml --out runs/armadillo --training.seconds 60",
    ),
    "eval": ("score a trained field", "sinefield eval runs/armadillo"),
    "mesh": ("extract a mesh", "sinefield mesh runs/armadillo armadillo.glb --resolution 256"),
    "video": ("render a video", "sinefield video runs/lego lego.mp4 --frames 90"),
    "image": ("render an image field, at its own or any size", "sinefield image runs/image large.png --width 2048"),
    "reconstruct": (
        "find the shape behind a sparse, noisy point cloud",
        "sinefield reconstruct runs/shapes points.ply out.glb",
    ),
    "pack": (
        "pack a trained field into one small file",
        "sinefield pack runs/armadillo armadillo.sine --max-bytes 8000",
    ),
    "unpack": ("turn a packed field back into a run folder", "sinefield unpack armadillo.sine runs/unpacked"),
    "synth": ("render a posed data set from a mesh, or the demo's", "sinefield synth runs/demo_data"),
    "info": ("describe a run or packed file: parameters, sizes, ranks, scores", "sinefield info runs/armadillo"),
    "compare": ("put runs and packed files beside each other", "sinefield compare runs/* --out sizes.png"),
    "report": ("write a run as one web page", "sinefield report runs/armadillo"),
    "view": ("look at a run in the browser, finished or in training", "sinefield view runs/demo"),
    "poses": ("find the poses of photographs by COLMAP", "sinefield poses my_photos"),
    "inspect": ("say what a folder of photographs holds, and whether its cameras fit", "sinefield inspect my_photos"),
    "adapt": (
        "adapt a trained field to a changed scene by an adapter of a few kilobytes",
        "sinefield adapt runs/armadillo scenes/armadillo.yaml --data.path bent.obj --out bent.sine --max-bytes 3000",
    ),
    "adapter": (
        "pack, describe or merge an adapter saved by sinefield.adapters",
        "sinefield adapter pack adapter.safetensors adapter.sine --bits 4",
    ),
    "doctor": ("say what this machine can run, and why the rest is not used", "sinefield doctor"),
}


class _Parser(argparse.ArgumentParser):
    """argparse, but an error is one line."""

    def error(self, message: str) -> NoReturn:
        raise SinefieldError(f"{self.prog}: {message}; see {self.prog} --help")


def make_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the command line, and those of its commands by name."""
    parser = _Parser(prog="sinefield", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"sinefield {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    made = {}
    for name, (help_, example) in CONTROL.items():
        sub = commands.add_parser(
            name,
            help=help_,
            description=help_[0].upper() + help_[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.add_argument("--json", action="store_true", help="print one JSON object as the last line of output")
        made[name] = sub
    p = made["train"]
    p.add_argument("scene", help="scene file (YAML)")
    p.add_argument("--out", help="run folder; default runs/<name of the scene file>")
    p.add_argument("--seed", help="random seed; same seed and steps, same field")
    p.add_argument("--resume", action="store_true", help="go on from the run's saved state")
    p.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    p.epilog += (
        "\n\nevery setting of the scene file can be given as --group.name VALUE:\n"
        "  --training.seconds S  --training.steps N  --data.path P  --field.rank 8 …"
    )
    p = made["eval"]
    p.add_argument("run", help="run folder or .sine file")
    p.add_argument("--data", help="what a .sine file was trained on, or an adapter, where it does not name it")
    p = made["mesh"]
    p.add_argument("run", help="run folder or .sine file")
    p.add_argument("out", help="mesh file: .ply .obj .stl .glb")
    p.add_argument("--resolution", type=int, default=256, help="samples along the longest side of the box (256)")
    p.add_argument(
        "--level",
        type=float,
        help="level of the surface; default 0 of a distance, 0.5 of an occupancy, of a density what the field suggests",
    )
    p.add_argument("--largest", action="store_true", help="keep the largest connected piece only")
    box = ("XMIN", "YMIN", "ZMIN", "XMAX", "YMAX", "ZMAX")
    p.add_argument("--crop", type=float, nargs=6, metavar=box, help="keep what lies in this box, input units")
    p.add_argument("--faces", type=int, help="decimate to about so many triangles at most")
    p.add_argument("--no-colours", action="store_true", help="leave a radiance field's colours out")
    p.add_argument("--dense", action="store_true", help="evaluate every point of the grid, not only near the surface")
    p.add_argument("--overwrite", action="store_true", help="replace OUT")
    p = made["video"]
    p.add_argument("run", help="run folder or .sine file")
    p.add_argument("out", help="video file: .mp4, .webm or .gif; or with a / at its end a folder of PNGs")
    p.add_argument(
        "--path",
        help="orbit; through the training cameras' places an ellipse, or before what they face a spiral; cameras, see "
        "--cameras; or a nerfstudio camera path FILE.json (orbit)",
    )
    p.add_argument("--cameras", help="fly through these cameras: training views' numbers or any views' names, 0,5,12")
    p.add_argument("--channel", choices=["rgb", "depth", "opacity", "normals"], default="rgb", help="what to show")
    p.add_argument(
        "--beside", action="store_true", help="the test views, each beside its photograph, in place of a path"
    )
    p.add_argument("--alpha", action="store_true", help="keep transparency, in .webm and PNGs")
    p.add_argument("--frames", type=int, help="frames in all (90)")
    p.add_argument("--fps", type=float, help="frames a second (30; 2 with --beside; a FILE.json's own)")
    p.add_argument("--width", type=int, help="pixels; default that of the data, 256 for a shape")
    p.add_argument("--height", type=int, help="pixels; default that of the data, 256 for a shape")
    p.add_argument(
        "--elevation", type=float, help="an orbit's degrees above the horizon; default the cameras', 20 for a shape"
    )
    p.add_argument("--data", help="the photographs of a .sine file, where a path needs them and it does not name them")
    p.add_argument("--overwrite", action="store_true", help="replace OUT")
    p.epilog += (
        "\n  sinefield video runs/fern fern.webm --path spiral --channel depth"
        "\n  sinefield video runs/lego between.mp4 --cameras 0,5,12"
        "\n  sinefield video runs/lego frames/ --alpha"
    )
    p = made["image"]
    p.add_argument("run", help="run folder or .sine file")
    p.add_argument("out", help="picture: .png")
    p.add_argument("--width", type=int, help="pixels; default that of the data; the height follows")
    p.add_argument("--overwrite", action="store_true", help="replace OUT")
    p = made["reconstruct"]
    p.add_argument("run", help="run folder or .sine file of kind shapes")
    p.add_argument(
        "points", help="points on the shape's surface, no normals needed: .ply or .xyz; of a mesh its vertices"
    )
    p.add_argument("out", help="mesh file: .ply .obj .stl .glb")
    p.add_argument("--resolution", type=int, default=96, help="samples along the longest side of the points' box (96)")
    p.add_argument("--level", type=float, help="level of the surface; default 0 of a distance, 0.5 of an occupancy")
    p.add_argument("--largest", action="store_true", help="keep the largest connected piece only")
    p.add_argument("--overwrite", action="store_true", help="replace OUT")
    p = made["pack"]
    p.add_argument("run", help="run folder")
    p.add_argument("out", help="packed file: .sine")
    p.add_argument("--bits", type=int, help="every matrix at so many bits an entry, 1 to 8")
    p.add_argument("--max-bytes", type=int, help="the best field that fits into so many bytes")
    p.add_argument("--min-quality", type=float, help="the smallest field with this IoU or PSNR")
    p.add_argument("--quantiser", default="uniform", help="uniform, or with --bits kmeans (uniform)")
    p.add_argument("--seconds", type=float, default=120, help="training with rounded weights; 0 for none (120)")
    p.add_argument("--steps", type=int, help="the same in steps, which repeat to the bit")
    p.add_argument("--data", help="where the run's mesh, photographs or image are, if they moved")
    p.add_argument("--overwrite", action="store_true", help="replace OUT")
    p.epilog += (
        "\n\nwithout --bits, --max-bytes and --min-quality: the smallest field that costs at most 0.004 IoU or 0.2 dB"
    )
    p = made["unpack"]
    p.add_argument("file", help="packed file: .sine; with --adapter a run folder too")
    p.add_argument("out", help="run folder to make")
    p.add_argument("--overwrite", action="store_true", help="replace the run in OUT")
    p = made["synth"]
    p.add_argument("out", help="folder to make")
    p.add_argument("--mesh", help="a mesh of yours with vertex or texture colours; default the demo scene")
    p.add_argument("--views", type=int, default=100, help="training views (100)")
    p.add_argument("--test-views", type=int, default=20, help="test views (20)")
    p.add_argument("--resolution", type=int, default=128, help="pixels along each side (128)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--overwrite", action="store_true", help="replace an earlier data set in OUT")
    p = made["info"]
    p.add_argument("run", help="run folder or .sine file")
    p = made["compare"]
    p.add_argument("runs", nargs="+", metavar="run", help="run folders and .sine files")
    p.add_argument("--out", help="plot of score against bytes to make: .png")
    p.add_argument("--overwrite", action="store_true", help="replace OUT")
    p = made["report"]
    p.add_argument("run", help="run folder or .sine file")
    p.add_argument("--out", help="page to make: .html; default RUN/report.html, or beside a .sine file")
    p.add_argument("--overwrite", action="store_true", help="replace an earlier page")
    p = made["view"]
    p.add_argument("run", help="run folder, in training or finished, or .sine file")
    p.add_argument("--port", type=int, default=8080, help="port of the page; 0 for any free one (8080)")
    p.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in (127.0.0.1)"
    )
    p.add_argument("--no-browser", action="store_true", help="print the address only")
    for name in ("eval", "mesh", "video", "image", "unpack", "report", "view"):
        made[name].add_argument(
            "--adapter",
            action="append",
            default=[],
            metavar="FILE",
            help="an edit by sinefield adapt, applied to the field; several add up",
        )
    p = made["adapt"]
    p.add_argument("run", help="the base: run folder or .sine file")
    p.add_argument("scene", help="scene file (YAML) of the changed scene; its data, training and seed count")
    p.add_argument("--out", help="packed adapter; default runs/<name of the scene file>.adapter.sine")
    p.add_argument("--max-bytes", type=int, help="the best adapter that fits into so many bytes (3000)")
    p.add_argument("--bits", type=int, help="or every factor at so many bits an entry, 1 to 8")
    p.add_argument("--quantiser", default="uniform", help="uniform, or with --bits kmeans (uniform)")
    p.add_argument("--rank", type=int, help="of the adapter, lowered where a layer is smaller")
    p.add_argument("--omega", type=float, help="ω of its sine; 0 for plain LoRA")
    p.add_argument("--alpha", type=float, help="its scale is alpha/rank")
    p.add_argument("--layers", default="*", help="patterns of the layers that get one, as in 'trunk.*,head.*' (all)")
    p.add_argument("--seed", help="random seed; same seed and steps, same adapter")
    p.add_argument("--overwrite", action="store_true", help="replace OUT")
    p.epilog += (
        "\n  sinefield mesh runs/armadillo bent.ply --adapter bent.sine"
        "\n\nsettings of the scene file can be given as --group.name VALUE; training.steps or .seconds is the budget"
    )
    p = made["poses"]
    p.add_argument("folder", help="folder of photographs, or one with a folder 'images' of them")
    p.add_argument("--quality", default="medium", help="COLMAP's preset: low, medium, high, extreme (medium)")
    p.add_argument("--overwrite", action="store_true", help="replace poses found earlier")
    p = made["inspect"]
    p.add_argument("scene", help="data folder, its pose file, or scene file (YAML)")
    p.add_argument("--out", help="picture of cameras, box and sparse points: .png .jpg .pdf .svg")
    p.add_argument("--overwrite", action="store_true", help="replace OUT")
    _adapter_parsers(made["adapter"])
    return parser, made


def _adapter_parsers(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=_Parser)
    pack = actions.add_parser("pack", help="quantise an adapter into one small file", allow_abbrev=False)
    pack.add_argument("adapter", help="adapter: .safetensors")
    pack.add_argument("out", help="packed adapter: .sine")
    pack.add_argument("--bits", type=int, required=True, help="bits an entry before entropy coding, 1 to 8")
    pack.add_argument("--quantiser", default="kmeans", help="kmeans or uniform (kmeans)")
    info = actions.add_parser("info", help="list an adapter's layers, ranks and sizes", allow_abbrev=False)
    info.add_argument("adapter", help="adapter: .safetensors or .sine")
    merge = actions.add_parser(
        "merge", help="write a base model's weights with the adapter in them", allow_abbrev=False
    )
    merge.add_argument("adapter", help="adapter: .safetensors or .sine")
    merge.add_argument("base", help="base model: a .safetensors file or a folder of them")
    merge.add_argument("out", help="file or folder to make, as the base is")
    for action in (pack, merge):
        action.add_argument("--overwrite", action="store_true", help="replace OUT")
    for action in (pack, info, merge):
        # Given after the action too; it must not undo what was given before.
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object")


def read_overrides(rest: list[str], command: str = "train") -> dict[str, str]:
    """`--group.name VALUE` and `--group.name=VALUE` pairs."""
    overrides = {}
    i = 0
    while i < len(rest):
        key, equals, value = rest[i].partition("=")
        if not key.startswith("--") or "." not in key:
            raise SinefieldError(
                f"sinefield {command}: unrecognized argument {rest[i]}; settings read --group.name VALUE"
            )
        if not equals:
            i += 1
            if i == len(rest):
                raise SinefieldError(f"sinefield {command}: {key} has no value; write {key} VALUE")
            value = rest[i]
        overrides[key[2:]] = value
        i += 1
    return overrides
