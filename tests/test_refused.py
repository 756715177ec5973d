"""What tests/hostile.py and reading the loaders found, each as the smallest file that showed it."""

import contextlib
import json
import resource
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from captures import names, poses, write_images
from PIL import Image
from scipy.spatial import KDTree
from small import shape_config

from sinefield.cameras.path_files import read_camera_path
from sinefield.config import load_config
from sinefield.data.photographs.dtu import read_matrices
from sinefield.data.photographs.image_files import area_average
from sinefield.data.photographs.images import load_posed
from sinefield.data.picture import load_image
from sinefield.data.surfaces.coloured import load_coloured
from sinefield.data.surfaces.mesh_files import read_shape
from sinefield.data.surfaces.nearest import nearest
from sinefield.errors import SinefieldError
from sinefield.store.fields import load_field
from sinefield.store.run import Run
from sinefield.store.sine_files import note_of
from sinefield.tensor_files import load_tensors, save_tensors

SCENE = "kind: shape\ndata:\n  path: a.ply\n"
SCENES = {
    "a kind that cannot be hashed": "kind: [shape]\ndata:\n  path: a.ply\n",
    "more digits than Python writes": SCENE + "seed: 1" + ":1" * 4000 + "\n",
    "the same as hexadecimal": SCENE + "training: 0x" + "F" * 5000 + "\n",
    "the same as kind": "kind: 0x" + "F" * 5000 + "\n",
    "a list of 400 kB": SCENE + "field: [" + "1," * 200_000 + "1]\n",
    "an alias": "a: &a [1]\nb: *a\n",
    "a tag": "kind: !!python/object/apply:os.system [id]\n",
}


def one_line(refusal):
    text = str(refusal.value)
    assert text.isprintable() and len(text) < 600


@pytest.mark.parametrize("name", SCENES)
def test_scene_files(tmp_path, name):
    (tmp_path / "a.yaml").write_text(SCENES[name])
    with pytest.raises(SinefieldError) as refusal:
        load_config(tmp_path / "a.yaml")
    one_line(refusal)


@pytest.mark.parametrize("value", ["2001-99-99", "[" * 3000, "0x" + "F" * 5000])
def test_settings_on_the_command_line(tmp_path, value):
    (tmp_path / "a.yaml").write_text(SCENE)
    with pytest.raises(SinefieldError):
        load_config(tmp_path / "a.yaml", {"field.rank": value})


def test_a_message_cannot_steer_a_terminal():
    error = SinefieldError("a\x1b[2Jb\nc\u202e " + "x" * 100_000 + " do this")
    assert str(error).isprintable() and str(error).startswith("a?[2Jb c? x") and str(error).endswith("x do this")
    assert len(str(error)) < 1000


def transforms(folder, frame=None, **values):
    write_images(folder, names(3))
    frames = [
        {"file_path": name, "transform_matrix": [*pose.tolist(), [0, 0, 0, 1]]}
        for name, pose in zip(names(3), poses(3), strict=True)
    ]
    frames[0] |= frame or {}
    (folder / "transforms.json").write_text(json.dumps({"fl_x": 10.0, "frames": frames} | values))
    return folder


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frame": {"file_path": "\ud800.png"}}, "cannot be looked up"),
        ({"fl_x": 1e-300}, "focal length"),
        ({"fl_x": None, "camera_angle_x": 1e-300}, "focal length"),
        ({"aabb": [[0, 0, 0], [0, 0, 0]]}, "box"),
    ],
)
def test_poses(tmp_path, values, message):
    with pytest.raises(SinefieldError, match=message) as refusal:
        load_posed(transforms(tmp_path, **values))
    one_line(refusal)


@pytest.mark.parametrize(
    "values", [{"scale": 1e-300}, {"aabb_scale": 1e-300, "offset": 7.0}, {"offset": 1e8, "aabb_scale": 1e-3}]
)
def test_a_rule_that_makes_no_box_is_not_followed(tmp_path, values):
    """The box is then where the cameras look, and that is said."""
    scene = load_posed(transforms(tmp_path, **values))
    low, high = scene.aabb[:3], scene.aabb[3:]
    assert (high > low).all() and float((high - low).max()) < 100
    assert any("does not fit what the cameras look at; used is" in note for note in scene.notes)


@pytest.mark.parametrize("key", ["fov", "aspect", "camera_to_world"])
def test_camera_paths(tmp_path, key):
    frame = {"camera_to_world": [*poses(1)[0].ravel().tolist(), 0, 0, 0, 1], "fov": 50, "aspect": 1.5}
    huge = 10**400
    frame[key] = [huge] * 16 if key == "camera_to_world" else huge
    (tmp_path / "a.json").write_text(json.dumps({"camera_path": [frame]}))
    with pytest.raises(SinefieldError) as refusal:
        read_camera_path(tmp_path / "a.json")
    one_line(refusal)


def test_a_field_takes_no_memory_before_its_tensors_are_there(ball_run, tmp_path):
    tensors, note = load_tensors(ball_run[0] / "field.safetensors", "field")
    for claim in (
        {"width": 8192, "depth": 24, "weights": "dense"},
        {"encoding": "hash", "log2_table": 24, "levels": 32},
    ):
        save_tensors(tmp_path / "a.safetensors", tensors, note | {"field": note["field"] | claim})
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(SinefieldError, match="settings"):
            load_field(tmp_path / "a.safetensors")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


def test_notes_that_are_none(ball_run, tmp_path):
    tensors, note = load_tensors(ball_run[0] / "field.safetensors", "field")
    for wrong in ([note], "text", 5, note | {"seconds": "long"}, note | {"kind": ["shape"]}, note | {"field": None}):
        save_tensors(tmp_path / "a.safetensors", tensors, wrong)
        with pytest.raises(SinefieldError) as refusal:
            load_field(tmp_path / "a.safetensors")
        one_line(refusal)


def test_damaged_metrics_are_left_out(tmp_path, ball):
    run = Run.prepare(tmp_path / "run", shape_config(ball, steps=5))
    good = {"step": 2, "seconds": 0.5, "loss": 0.1, "iou": 0.5}
    lines = [b"5", b"[]", b'{"step": "x"}', b"\xff\xfe", b"[" * 5000, b'{"step": 3', json.dumps(good).encode()]
    run.metrics_path.write_bytes(b"\n".join(lines))
    run.cut_metrics(4)
    assert run.read_metrics() == [good]


def test_two_runs_cannot_hold_one_folder(tmp_path, ball):
    config = shape_config(ball, steps=5)
    with Run.prepare(tmp_path / "run", config):
        for again in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(SinefieldError, match="another process is training"):
                Run.prepare(tmp_path / "run", config, **again)
    Run.prepare(tmp_path / "run", config, resume=True).release()


def test_a_packed_file_says_nothing_of_the_clock_where_steps_decide(ball):
    note = {"seed": 0, "steps": 5, "seconds": 7.3}
    assert "seconds" not in note_of(shape_config(ball, steps=5), note)
    assert note_of(shape_config(ball, seconds=7.0), note)["seconds"] == 7


def test_averaging_takes_memory_by_the_band():
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 2000, 4), dtype=np.uint8)
    tracemalloc.start()
    area_average(pixels, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 << 20  # all at once takes 290


def test_coloured_meshes_that_claim_too_much(tmp_path):
    header = (
        "ply\nformat binary_little_endian 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    )
    (tmp_path / "a.ply").write_text(
        header + "element face 4294967295\nproperty list uchar int vertex_indices\nend_header\n"
    )
    (tmp_path / "b.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n")
    (tmp_path / "c.zip").write_bytes(b"PK\x03\x04")
    for name, message in (("a.ply", "claims"), ("b.obj", "vertex 9 of 3"), ("c.zip", "ZIP archive")):
        with pytest.raises(SinefieldError, match=message) as refusal:
            load_coloured(tmp_path / name)
        one_line(refusal)


def test_a_png_whose_chunk_claims_gigabytes(tmp_path):
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    at = data.index(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(data[:at] + b"\xff\xff\xff\xf0" + data[at + 4 :])
    tracemalloc.start()
    with contextlib.suppress(SinefieldError):
        load_image(tmp_path / "a.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20


def test_a_glb_whose_part_claims_gigabytes(tmp_path):
    tree = b'{"asset":{"version":"2.0"}}  '
    head = b"glTF" + struct.pack("<III4s", 2, 28 + len(tree), len(tree), b"JSON")
    (tmp_path / "a.glb").write_bytes(head + tree + struct.pack("<I4s", 2**32 - 16, b"BIN\0"))
    with pytest.raises(SinefieldError, match="claims a part of 4,294,967,280 bytes") as refusal:
        read_shape(tmp_path / "a.glb")
    one_line(refusal)


def test_archives_of_every_compression(tmp_path):
    """Compressions that numpy never writes, one of which takes as much memory as a member asks for."""
    for kind in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        with zipfile.ZipFile(tmp_path / "cameras_sphere.npz", "w", kind) as archive:
            archive.writestr("world_mat_0.npy", bytes(300))
        with pytest.raises(SinefieldError, match="unusual way") as refusal:
            read_matrices(tmp_path / "cameras_sphere.npz")
        one_line(refusal)


def test_a_jpeg_of_many_scans(tmp_path):
    """33 bytes a scan, 50 ms each at 100 megapixels: minutes of decoding in a file of 100 kB."""
    Image.new("L", (64, 64), 100).save(tmp_path / "a.jpg", progressive=True)
    data = (tmp_path / "a.jpg").read_bytes()
    *_, last = data.removesuffix(b"\xff\xd9").split(b"\xff\xda")
    assert load_image(tmp_path / "a.jpg").shape == (64, 64, 3)
    (tmp_path / "b.jpg").write_bytes(data[:-2] + (b"\xff\xda" + last) * 3000 + b"\xff\xd9")
    with pytest.raises(SinefieldError, match="scans") as refusal:
        load_image(tmp_path / "b.jpg")
    one_line(refusal)


@pytest.mark.parametrize("kind", ["png", "bmp", "tif"])
def test_image_bombs(tmp_path, kind):
    """60,000 x 60,000 pixels, declared by a file of some hundred bytes."""
    Image.new("L", (5, 5)).save(tmp_path / f"a.{kind}")
    data = bytearray((tmp_path / f"a.{kind}").read_bytes())
    if kind == "png":
        data[16:24] = struct.pack(">II", 60000, 60000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif kind == "bmp":
        data[18:26] = struct.pack("<II", 60000, 60000)
    else:
        (at,) = struct.unpack("<I", data[4:8])
        for entry in range(at + 2, len(data) - 12, 12):
            if struct.unpack("<H", data[entry : entry + 2])[0] in (256, 257):
                data[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, 60000)
    (tmp_path / f"a.{kind}").write_bytes(data)
    with pytest.raises(SinefieldError, match=r"claims .* megapixels") as refusal:
        load_image(tmp_path / f"a.{kind}")
    one_line(refusal)


def test_nearest_points_are_those_of_scipy():
    rng = np.random.default_rng(0)
    tree, points = KDTree(rng.random((500, 3))), rng.random((5003, 3))
    for k in (1, [4]):
        for found, truth in zip(nearest(tree, points, k), tree.query(points, k), strict=True):
            assert np.array_equal(found, truth)


def test_an_interruption_waits_for_the_threads():
    """With scipy's own threads, the process crashes in some of these."""
    code = (
        "import os, signal, sys, threading, numpy as np\n"
        "from scipy.spatial import KDTree\n"
        "from sinefield.data.surfaces.nearest import nearest\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "points = np.random.default_rng(0).random((300_000, 3))\n"
        "tree = KDTree(points[:100_000])\n"
        "threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
        "while True:\n"
        "    nearest(tree, points)\n"
    )
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 143
