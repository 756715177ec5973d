"""The command line as a person meets it: what is printed, what is refused, what is left behind."""

import errno
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from sinefield.commands import cli
from sinefield.commands.arguments import split_list
from sinefield.commands.cli import COMMANDS, main, make_parser
from sinefield.commands.train import resume_command
from sinefield.errors import SinefieldError, lacks_memory
from sinefield.files import write_text
from sinefield.learning.loop import Interrupted

KEYS = {"run", "kind", "steps", "seconds", "params", "bytes"}
SCORES = {"shape": {"iou", "chamfer_l1", "chamfer_l2", "fscore", "normal_consistency"}}
SCORES["radiance"] = {"psnr", "ssim", "lpips"}


def run(capfd, *arguments):
    """Exit code, standard output and standard error of one command."""
    code = main([str(a) for a in arguments])
    out, err = capfd.readouterr()
    return code, out, err


def last_json(out):
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A tiny data set by `synth`, scene files for it, and a trained run of each kind."""
    folder = tmp_path_factory.mktemp("workshop")
    assert main(f"synth {folder}/data --views 6 --test-views 2 --resolution 24".split()) == 0
    small = "field:\n  width: 16\n  rank: 4\n  frequencies: 2\n"
    (folder / "shape.yaml").write_text(
        "kind: shape\ndata:\n  path: data/shape.ply\n  points: 20000\n"
        + small
        + "training:\n  steps: 300\n  batch: 2048\n"
    )
    (folder / "photos.yaml").write_text(
        "kind: radiance\ndata:\n  path: data\n" + small + "  grid: 16\n  steps: 32\n"
        "training:\n  steps: 300\n  batch: 2048\n"
    )
    for name in ("shape", "photos"):
        assert main(["train", f"{folder}/{name}.yaml", "--out", f"{folder}/runs/{name}"]) == 0
    return folder


def test_the_list_of_commands_says_what_each_does(capfd):
    code, out, _ = run(capfd)
    text = " ".join(out.split())
    assert code == 0 and all(f" {name} {command.help}" in text for name, command in COMMANDS.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help_an_example_that_parses_and_json(capfd, name):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    out = capfd.readouterr().out
    assert stop.value.code == 0 and "--json" in out
    example = next(line for line in out.split("\nexample:\n")[1].splitlines() if line.strip()).strip()
    program, *words = shlex.split(example)
    options, rest = make_parser().parse_known_args([*words, "--json"])
    assert (program, options.command, options.json) == ("sinefield", name, True)
    assert not rest or COMMANDS[name].settings


def test_help_loads_nothing_slow():
    """A cold `sinefield --help` takes a tenth of a second; torch alone would take seconds."""
    loaded = "import sys; print(sys.modules.keys() & {'torch', 'numpy', 'scipy', 'numba', 'trimesh', 'yaml', 'PIL'})"
    for words in (["--help"], ["mesh", "--help"]):
        code = f"from sinefield.commands.cli import main\ntry: main({words})\nexcept SystemExit: {loaded}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.endswith("\nset()\n"), done.stdout


def test_readme_names_every_command():
    """A row of the table for each command, and no other."""
    readme = (Path(__file__).parents[1] / "docs" / "commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `sinefield (\w+)", readme, re.M)) == set(COMMANDS)


def test_the_resume_command_survives_a_shell(tmp_path, capfd, monkeypatch):
    """Interrupted, `train` prints what a shell reads as the same words, whatever the paths hold."""
    scene, out = tmp_path / "my $HOME scene's.yaml", tmp_path / "a `run` & more"
    scene.write_text("kind: shape\ndata:\n  path: a.obj\n")

    def stopped(*_):
        raise Interrupted(signal.SIGINT)

    importlib.import_module("sinefield.learning.fit")  # first imported below, it would keep `stopped` for good
    monkeypatch.setattr("sinefield.learning.train.train", stopped)
    with pytest.raises(SystemExit) as stop:
        main(["train", str(scene), "--out", str(out), "--seed", "5", "--data.path", "my $(mesh).obj"])
    assert stop.value.code == 130
    command = capfd.readouterr().err.strip().split("resume with: ")[1]
    read = subprocess.run(
        [shutil.which("sh"), "-c", f'sinefield() {{ printf "%s\\n" "$@"; }}; {command}'],
        capture_output=True,
        text=True,
        check=True,
    )
    words = read.stdout.splitlines()
    assert words == ["train", str(scene), "--out", str(out), "--resume", "--data.path=my $(mesh).obj", "--seed=5"]
    options, rest = make_parser().parse_known_args(words)
    assert (options.resume, options.seed, rest) == (True, "5", ["--data.path=my $(mesh).obj"])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "/x/y: No space left on device"),
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), "out of memory"),
        (ImportError("libx.so: failed to map segment from shared object"), "out of memory"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "the current folder is gone"),
    ],
)
def test_what_the_machine_refuses_is_one_line(error, said, capfd, monkeypatch):
    def fails(arguments):
        raise error

    monkeypatch.setattr(cli, "_run", fails)
    assert main(["info", "example:knot"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"sinefield: {said}")


@pytest.mark.parametrize(
    "cause", [MemoryError(), RuntimeError("[enforce fail] can't allocate memory"), OSError(12, "x")]
)
def test_lack_of_memory_is_not_told_as_a_damaged_file(cause, capfd, monkeypatch):
    def fails(arguments):
        try:
            raise cause
        except type(cause) as error:
            raise SinefieldError("a.sine: damaged") from error

    monkeypatch.setattr(cli, "_run", fails)
    assert main(["info", "example:knot"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("sinefield: out of memory") and "a.sine: damaged" in line
    better = SinefieldError("too large for this memory; halve it")
    better.__suppress_context__, better.__context__ = True, MemoryError()
    assert not lacks_memory(better) and not lacks_memory(SinefieldError("damaged"))


def test_in_a_folder_that_is_gone(tmp_path, monkeypatch, capfd):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for words in (["unpack", "example:knot", "run"], ["mesh", "example:knot", "a.ply", "--resolution", "16"]):
        assert main(words) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("sinefield: ")


def test_plain_words_are_not_quoted():
    command = resume_command("scenes/lego.yaml", "runs/lego", {"training.steps": "9"})
    assert command == "sinefield train scenes/lego.yaml --out runs/lego --resume --training.steps=9"


def test_lists_are_split():
    assert split_list("0, 5,,b.png ") == ["0", "5", "b.png"] and split_list(None) == split_list(",") == []


@pytest.mark.parametrize(("name", "kind"), [("shape", "shape"), ("photos", "radiance")])
def test_every_consumer_prints_json_last(workshop, tmp_path, capfd, name, kind):
    trained = workshop / "runs" / name
    code, out, _ = run(capfd, "eval", trained, "--json")
    report = last_json(out)
    assert code == 0 and report["kind"] == kind and report["steps"] == 300
    assert report.keys() >= KEYS | SCORES[kind]
    assert report["bytes"] == (trained / "field.safetensors").stat().st_size
    level = ["--level", 0.2] if kind == "radiance" else []
    for command, target, more in (
        ("mesh", tmp_path / "deep" / "a.ply", ["--resolution", 32, *level]),
        ("video", tmp_path / "a.gif", ["--frames", 2, "--width", 16]),
    ):
        code, out, err = run(capfd, command, trained, target, "--json", *more)
        assert code == 0, err
        assert last_json(out)["out"] == str(target) and target.stat().st_size > 0
    code, out, _ = run(capfd, "info", trained, "--json")
    info = last_json(out)
    assert code == 0 and info["params"] == report["params"] == sum(t["params"] for t in info["tensors"])
    assert {"config.yaml", "field.safetensors", "metrics.jsonl", "report.json", "scores.csv", "pictures", "state"} <= {
        p.name for p in trained.iterdir()
    }


def test_doctor_finds_what_this_machine_needs(capfd):
    code, out, _ = run(capfd, "doctor", "--json")
    rows = {row["name"].split()[0]: row for row in last_json(out)["backends"]}
    assert code == 0
    assert all(rows[name]["works"] for name in ("marcher,", "ray", "winding", "video"))
    # Neither is chosen unless asked for, and the row says what to do.
    tiny = rows["tinycudann"]
    assert ("training.backend" if tiny["works"] else "docs/cuda.md") in tiny["note"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["--training.device", "cuda"], ["training.device is cuda", "use cpu or auto"]),
        (["--training.backend", "tinycudann"], ["training.backend is tinycudann", "for CUDA", "use auto"]),
        (["--training.backend", "tiny"], ["training.backend"]),
    ],
)
def test_a_device_or_backend_that_is_not_there(workshop, tmp_path, capfd, settings, says):
    refused(capfd, tmp_path, "train", workshop / "shape.yaml", "--out", tmp_path / "out", *settings, says=says)


def test_train_json_and_overrides(workshop, tmp_path, capfd):
    command = ["train", workshop / "shape.yaml", "--out", tmp_path / "run", "--training.steps=3", "--field.rank", 2]
    code, out, _ = run(capfd, *command, "--seed", 5, "--json")
    report = last_json(out)
    assert code == 0 and report["steps"] == 3
    assert re.search(r"^seed: 5$", (tmp_path / "run" / "config.yaml").read_text(), re.M)
    # resuming goes on, and a changed architecture is refused with the run left as it was
    code, out, _ = run(capfd, *command[:-3], "--training.steps=6", "--field.rank", 2, "--seed", 5, "--resume", "--json")
    assert code == 0 and last_json(out)["steps"] == 6
    before = (tmp_path / "run" / "field.safetensors").read_bytes()
    code, _, err = run(capfd, *command[:-2], "--field.rank", 3, "--seed", 5, "--resume")
    assert code == 2 and "field.rank was 2 and is now 3" in err
    assert (tmp_path / "run" / "field.safetensors").read_bytes() == before


def refused(capfd, tmp_path, *arguments, says):
    """The command is refused in one line that says all of `says`, and `out` does not come to be."""
    code, _, err = run(capfd, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("sinefield: ")]
    assert code == 2 and len(lines) == 1 and "Traceback" not in err, err
    for text in says:
        assert str(text) in lines[0]
    assert not (tmp_path / "out").exists()


def mesh_file(path, vertices, faces):
    rows = [f"v {x} {y} {z}" for x, y, z in vertices] + [f"f {a} {b} {c}" for a, b, c in faces]
    path.write_text("\n".join(rows) + "\n")


TRIANGLES = [(1, 2, 3), (1, 2, 4), (2, 3, 4), (1, 3, 4)]
CORNERS = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
BAD_MESHES = {
    "missing.obj": (lambda p: None, "no such"),
    "empty.ply": (lambda p: p.write_bytes(b""), "empty"),
    "faceless.obj": (lambda p: mesh_file(p, CORNERS, []), "face"),
    "nan.obj": (lambda p: mesh_file(p, [("nan", 0, 0), *CORNERS[1:]], TRIANGLES), "NaN"),
    "flat.obj": (lambda p: mesh_file(p, [(2, 2, 2)] * 4, TRIANGLES), "extent"),
    "text.stl": (lambda p: p.write_text("hello"), "STL"),
    "mesh.step": (lambda p: p.write_text("hello"), "a STEP file"),
    "mesh.what": (lambda p: p.write_text("hello"), "unknown kind"),
}


@pytest.mark.parametrize("name", BAD_MESHES)
def test_bad_meshes(workshop, tmp_path, capfd, name):
    make, message = BAD_MESHES[name]
    make(tmp_path / name)
    command = ["train", workshop / "shape.yaml", "--out", tmp_path / "out", "--data.path", tmp_path / name]
    refused(capfd, tmp_path, *command, says=[name, message])


def photographs(folder, change=lambda meta: None):
    """Three 8×8 pictures with a transforms.json, changed as a test wishes."""
    folder.mkdir()
    frames = []
    for i in range(3):
        Image.fromarray(np.full((8, 8, 3), 80 * i, np.uint8)).save(folder / f"{i}.png")
        pose = np.eye(4)
        pose[2, 3] = 2 + i
        frames.append({"file_path": f"{i}.png", "transform_matrix": pose.tolist()})
    meta = {"fl_x": 10.0, "w": 8, "h": 8, "frames": frames}
    change(meta)
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


def set_in(path, value):
    def change(meta):
        *parents, last = path
        for key in parents:
            meta = meta[key]
        meta[last] = value

    return change


BAD_POSES = {
    "leaves": (set_in(["frames", 1, "file_path"], "../../etc/passwd.png"), ["frame 1", "leaves the data folder"]),
    "nan": (set_in(["frames", 2, "transform_matrix", 0, 0], float("nan")), ["frame 2", "finite"]),
    "singular": (set_in(["frames", 0, "transform_matrix", 0], [0, 0, 0, 0]), ["frame 0", "invertible"]),
    "size": (lambda meta: meta.update(w=9), ["8x8", "9x8"]),
    "no images": (lambda meta: [f.update(file_path="gone.png") for f in meta["frames"]], ["no usable frames"]),
    "no focal": (lambda meta: meta.pop("fl_x"), ["fl_x"]),
}


@pytest.mark.parametrize("name", BAD_POSES)
def test_bad_poses(workshop, tmp_path, capfd, name):
    change, says = BAD_POSES[name]
    data = photographs(tmp_path / "photos", change)
    command = ["train", workshop / "photos.yaml", "--out", tmp_path / "out", "--data.path", data]
    refused(capfd, tmp_path, *command, says=[data, *says])


def test_bad_images_and_json(workshop, tmp_path, capfd):
    data = photographs(tmp_path / "photos")
    command = ["train", workshop / "photos.yaml", "--out", tmp_path / "out", "--data.path", data]
    whole = (data / "1.png").read_bytes()
    for content in (whole[:40], whole[: len(whole) // 2], b"not a picture"):
        (data / "1.png").write_bytes(content)
        refused(capfd, tmp_path, *command, says=["1.png"])
    Image.fromarray(np.zeros((8, 10, 3), np.uint8)).save(data / "1.png")
    refused(capfd, tmp_path, *command, says=["10x8"])
    (data / "transforms.json").write_text('{"frames": [\n  {,}\n]}')
    refused(capfd, tmp_path, *command, says=["transforms.json", "line 2"])


BAD_SCENES = {
    "kind: shape\ndata:\n  path: a.obj\nfield:\n  widht: 3\n": "did you mean 'width'",
    "kind: shape\ndata:\n  path: a.obj\nfield:\n  width: wide\n": "field.width is 'wide'",
    "kind: shape\ndata:\n  path: a.obj\nfield:\n  width: 8\n  rank: 9\n": "rank is 9, larger than the width 8",
    "kind: shape\ndata: [\n": "line",
    "kind: blob\n": "kind",
}


@pytest.mark.parametrize("text", BAD_SCENES)
def test_bad_scenes(tmp_path, capfd, text):
    (tmp_path / "scene.yaml").write_text(text)
    command = ["train", tmp_path / "scene.yaml", "--out", tmp_path / "out"]
    refused(capfd, tmp_path, *command, says=["scene.yaml", BAD_SCENES[text]])


def test_bad_arguments(workshop, tmp_path, capfd):
    scene, out = workshop / "shape.yaml", tmp_path / "out"
    refused(capfd, tmp_path, "train", scene, "--out", out, "--feild.rank", 3, says=["feild", "did you mean 'field'"])
    refused(capfd, tmp_path, "train", scene, "--out", out, "--field.rank", says=["--field.rank has no value"])
    refused(capfd, tmp_path, "train", scene, "--out", out, "--rank", 3, says=["--rank"])
    refused(capfd, tmp_path, "train", scene, "--out", out, "--training.device", "tpu", says=["training.device", "cuda"])
    refused(capfd, tmp_path, "train", tmp_path / "no.yaml", "--out", out, says=["no.yaml", "no such"])
    refused(capfd, tmp_path, "train", scene, "--out", out, "--resume", says=["holds no run to resume"])
    refused(capfd, tmp_path, "eval", out, says=[out, "no such run folder"])
    refused(capfd, tmp_path, "mesh", out, tmp_path / "a.ply", says=[out])
    refused(capfd, tmp_path, "mesh", workshop / "runs" / "shape", tmp_path / "a.xyz", says=["a.xyz", ".ply"])
    refused(capfd, tmp_path, "frobnicate", says=["frobnicate"])
    refused(capfd, tmp_path, "eval", out, "--rank", 3, says=["--rank"])


def test_a_gpu_that_is_absent(workshop, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    command = ["train", workshop / "shape.yaml", "--out", tmp_path / "out", "--training.device", "cuda"]
    refused(capfd, tmp_path, *command, says=["training.device is cuda", "use cpu or auto"])
    command = ["train", workshop / "photos.yaml", "--out", tmp_path / "out", "--training.marcher", "triton"]
    refused(capfd, tmp_path, *command, says=["training.marcher is triton", "for CUDA", "use auto"])
    refused(capfd, tmp_path, *command[:-1], "tritn", says=["training.marcher", "nerfacc"])


def test_outputs_that_exist_or_cannot_be(workshop, tmp_path, capfd):
    trained, mesh = workshop / "runs" / "shape", tmp_path / "mesh.ply"
    mesh.write_text("mine")
    refused(capfd, tmp_path, "mesh", trained, mesh, says=[mesh, "--overwrite"])
    refused(capfd, tmp_path, "video", trained, tmp_path, says=[tmp_path])
    assert mesh.read_text() == "mine"
    refused(capfd, tmp_path, "train", workshop / "shape.yaml", "--out", trained, says=[trained, "--overwrite"])
    refused(capfd, tmp_path, "train", workshop / "shape.yaml", "--out", mesh, says=[mesh, "is a file"])
    refused(capfd, tmp_path, "train", workshop / "shape.yaml", "--out", mesh / "run", says=[mesh, "is a file"])
    refused(capfd, tmp_path, "train", workshop / "shape.yaml", "--out", tmp_path, says=["not empty"])
    refused(capfd, tmp_path, "synth", tmp_path, says=["not empty"])
    assert main(["mesh", str(trained), str(mesh), "--resolution", "24", "--overwrite"]) == 0
    assert len(trimesh.load(mesh).faces) > 100


def test_a_level_outside_the_range(workshop, tmp_path, capfd):
    trained = workshop / "runs" / "shape"
    command = ["mesh", trained, tmp_path / "a.ply", "--resolution", 24]
    code, _, err = run(capfd, *command, "--level", 99)
    assert code == 2 and "outside the field's range" in err and not (tmp_path / "a.ply").exists()
    suggested = re.search(r"--level (\S+)", err).group(1)
    assert main([str(a) for a in command] + ["--level", suggested]) == 0


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, capfd, workshop):
    target = tmp_path / "a.ply"
    target.write_text("old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = run(capfd, "mesh", workshop / "runs" / "shape", target, "--resolution", 24, "--overwrite")
    assert code == 2 and "disk is full" in err
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.ply"]
    with pytest.raises(SinefieldError, match="disk is full"):
        write_text(target, "new")


def test_a_mistyped_command_is_told_the_nearest(capfd):
    code, _, err = run(capfd, "trian", "bust.obj")
    assert (
        code == 2
        and err == "sinefield: there is no command 'trian'; did you mean 'train'? sinefield --help lists all\n"
    )


def test_training_on_a_run_folder_says_that_it_is_one(capfd, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "field.safetensors").write_bytes(b"")
    (folder / "scores.csv").write_text("name,value\n")
    refused(capfd, tmp_path, "train", folder, "--out", tmp_path / "out", says=[folder, "is a trained run", "--resume"])
