"""Many commands in one process, each run as `entry` would: what they end with, and what they say."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from killed import write_scene
from safetensors.torch import save_file
from small import radiance_config, shape_config, shapes_config
from torch import nn

from sinefield.adapters.attach import attach_each
from sinefield.adapters.deltas import AdapterSpec
from sinefield.adapters.file import save_adapter
from sinefield.commands.cli import main
from sinefield.example_files import file_of
from sinefield.learning.train import train

LINES = {
    "train": "train {i}/scene.yaml --out {o}/train",
    "resume": "train {i}/scene.yaml --out {o}/train --resume --training.steps 9",
    "train_mesh": "train {i}/ball.ply --out {o}/train_mesh --training.steps 2 --field.width 8 --field.rank 2",
    "train_photos": "train {i}/photos.yaml --out {o}/train_photos",
    "inspect": "inspect {i}/ball.ply --out {o}/inspect.png",
    "inspect_photos": "inspect {i}/photos --out {o}/photos.png",
    "frames": "frames {i}/video.mp4 {o}/frames --count 3",
    "synth": "synth {o}/synth --views 2 --test-views 1 --resolution 16",
    "synth_mesh": "synth {o}/synth_mesh --mesh {i}/ball.ply --views 2 --test-views 1 --resolution 16",
    "page": "page {i}/knot.sine {o}/page.html",
    "video": "video {i}/knot.sine {o}/video.mp4 --frames 2 --width 32",
    "pictures": "video {i}/knot.sine {o}/pictures --frames 2 --width 32",
    "image": "image {i}/picture.sine {o}/image.png --width 64",
    "report": "report {i}/run --out {o}/report.html",
    "pack": "pack {i}/run {o}/pack.sine --bits 6 --steps 3",
    "unpack": "unpack {i}/knot.sine {o}/unpack",
    "mesh_ply": "mesh {i}/knot.sine {o}/mesh.ply --resolution 24",
    "mesh_glb": "mesh {i}/run {o}/mesh.glb --resolution 24",
    "mesh_obj": "mesh {i}/toys.sine {o}/mesh.obj --resolution 24 --faces 100 --texture 32",
    "edited": "mesh {i}/run {o}/edited.ply --resolution 16 --adapter {i}/edit.sine",
    "code": "code {i}/knot.sine {o}/code.h",
    "points": "points {i}/toys.sine {o}/points.ply --count 500",
    "splats": "splats {i}/toys.sine {o}/splats.spz --count 100 --steps 2",
    "depth": "depth {i}/toys.sine {o}/depth --count 2",
    "eval": "eval {i}/run",
    "eval_data": "eval {i}/knot.sine --data {i}/ball.ply",
    "info": "info {i}/run",
    "compare": "compare {i}/knot.sine {i}/toys.sine --out {o}/compare.png",
    "adapt": "adapt {i}/run {i}/scene.yaml --out {o}/adapt.sine --bits 4 --training.steps 4",
    "adapter_pack": "adapter pack {i}/adapter.safetensors {o}/adapter.sine --bits 4",
    "adapter_info": "adapter info {i}/adapter.safetensors",
    "adapter_merge": "adapter merge {i}/adapter.safetensors {i}/base {o}/merged",
    "capture": "capture {i}/photos --out {o}/capture --training.steps 3 --field.space box --field.log2_table 10"
    " --field.levels 4 --field.grid 16 --field.steps 32 --training.batch 1024",
    "cameras": "cameras {i}/toys.sine {o}/cameras.json --data {o}/photos",
    "reconstruct": "reconstruct {i}/shapes {i}/ball.ply {o}/reconstruct.ply --resolution 24",
    "fleet": "fleet {i}/fleet.yaml {i}/balls --out {o}/fleet",
    "poses": "poses {i}/photos/train --out {o}/poses",
    "doctor": "doctor",
}
"""With {i} for the inputs and {o} for the folder of what is made."""
UNDONE = ("poses", "fleet")
"""What ends with code 2: COLMAP finds nothing in these photographs, and Ray starts for nobody without a home."""
DRIVER = """
import json, os, sys, traceback
import sinefield.export.capture as capture
import sinefield.export.report as report
import sinefield.fields.shape.scores as scores
import sinefield.metrics.shapes as shapes
from sinefield.commands import cli
scores.SURFACE_RESOLUTION, scores.QUICK_RESOLUTION, scores.HELDOUT_POINTS, scores.PICTURE = 24, 24, 2000, (16, 1)
report.FRAMES, report.VIDEO_WIDTH, report.MESH_RESOLUTION, shapes.SAMPLES = 2, 32, 24, 2000
capture.FRAMES_SHOWN, capture.LONGER_SIDE, capture.RESOLUTION = 2, 32, 16
cli._open_streams()
cli._silence_libraries()
for number, words in enumerate(json.loads(open(sys.argv[1]).read())):
    words = [os.fsdecode(bytes.fromhex(word)) for word in words]
    if len(sys.argv) > 2:
        sys.stdout = open(sys.argv[2], "w")
    try:
        code = cli.main(words)
    except SystemExit as left:
        code = left.code
    except BaseException:
        traceback.print_exc()
        code = 1
    print(f"-- {number} {code}", file=sys.stderr, flush=True)
"""


def run(folder: Path, lines: list[list[bytes]], variables: dict[str, str], *more: str, before: list[str] = []) -> list:  # noqa: B006
    """(line, exit code, lines on standard error) of each.

    Arguments:
        folder: that they run in; `listed.json` and `said` in it are this function's.
        lines: what follows `sinefield`.
        variables: of the environment.
        more: the file that is their standard output.
        before: words before the interpreter's name, as of `setpriv`.
    """
    listed = folder / "listed.json"
    listed.write_text(json.dumps([[word.hex() for word in line] for line in lines]))
    environment = {**os.environ, **variables, "OMP_NUM_THREADS": "1"}
    with (folder / "said").open("wb") as said:
        subprocess.run(
            [*before, sys.executable, "-c", DRIVER, str(listed), *more],
            cwd=folder,
            env=environment,
            stderr=said,
            stdout=subprocess.DEVNULL,
        )
    told = (folder / "said").read_bytes().decode("latin-1")
    found, said = [], []
    for line in told.splitlines():
        if line.startswith("-- "):
            found.append((lines[int(line.split()[1])], line.split()[2], said))
            said = []
        else:
            said.append(line)
    assert len(found) == len(lines), (said, lines[len(found)])
    return found


def write_inputs(place: Path, ball: Path, photographs: Path) -> None:
    """What LINES reads, in a folder."""
    shutil.copy(ball, place)
    shutil.copytree(photographs, place / "photos")
    (place / "balls").mkdir()
    shutil.copy(ball, place / "balls")
    for name in ("knot", "toys", "picture"):
        shutil.copy(file_of(f"example:{name}"), place / f"{name}.sine")
    write_scene(place / "scene.yaml", shape_config(place / "ball.ply", steps=6))
    write_scene(place / "fleet.yaml", shape_config("-", steps=2))
    write_scene(place / "photos.yaml", radiance_config(place / "photos", steps=3))
    train(shape_config(place / "ball.ply", steps=6), place / "run")
    model = nn.Sequential(nn.Linear(8, 8))
    (place / "base").mkdir()
    (place / "base" / "config.json").write_text("{}")
    save_file(model.state_dict(), place / "base" / "model.safetensors")
    attach_each(model, {"0": AdapterSpec("lora", 2, 2.0)}, "default")
    save_adapter(model, place / "adapter.safetensors")
    made = f"adapt {place}/run {place}/scene.yaml --out {place}/edit.sine --bits 4 --training.steps 4"
    assert main(made.split()) == 0
    assert main(["video", f"{place}/knot.sine", f"{place}/video.mp4", "--frames", "5", "--width", "32"]) == 0
    train(shapes_config(steps=2), place / "shapes")
