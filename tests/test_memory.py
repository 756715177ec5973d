"""How much memory photographs and meshes take: large sets lie in a file, large meshes are refused."""

import errno
import gc
import json
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from conftest import ROOT
from PIL import Image
from small import radiance_config

import sinefield.data.photographs.views as views
from sinefield.cameras.cameras import orbit
from sinefield.data.photographs.images import load_posed
from sinefield.data.photographs.views import room_for
from sinefield.data.surfaces import memory
from sinefield.data.surfaces.mesh_files import read_shape
from sinefield.errors import SinefieldError
from sinefield.learning.evaluate import evaluate
from sinefield.learning.train import train
from sinefield.meshing.extract import MAX_BYTES, estimate_bytes, extract
from sinefield.store.fields import load_field
from sinefield.store.run import Run

LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
MANY, SIZE = 4000, 256


@pytest.fixture
def mapped(monkeypatch, tmp_path):
    """Every set of photographs in a file."""
    monkeypatch.setattr(views, "HELD", 0)
    monkeypatch.setenv("SINEFIELD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files_mapped(folder):
    """How many nameless files of a folder this process has mapped."""
    gc.collect()
    return sum(f" {folder}/" in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.slow
@LINUX
def test_a_set_in_a_file_trains_to_the_same_bits(photographs, tmp_path, mapped, monkeypatch):
    config = radiance_config(photographs, steps=12)
    found = train(config, tmp_path / "mapped")
    scene = load_posed(photographs)
    assert files_mapped(mapped) == 2 and not list(mapped.glob("[!k]*"))  # training and test views; no name is left
    monkeypatch.setattr(views, "HELD", 1 << 30)
    held = load_posed(photographs)
    assert files_mapped(mapped) == 2 and torch.equal(held.train.images, scene.train.images)
    expected = train(config, tmp_path / "held")
    a, b = (load_field(tmp_path / name)[0].state_dict() for name in ("mapped", "held"))
    assert all(torch.equal(a[key], b[key]) for key in b) and found["per_view"] == expected["per_view"]
    del scene
    assert files_mapped(mapped) == 0


def test_no_room_for_a_set_is_one_line(mapped, monkeypatch):
    mapped.write_text("")
    with pytest.raises(SinefieldError, match=r"5 images need 0\.0 GB; use a larger downscale") as refused:
        room_for((5, 4, 3, 3))
    assert str(mapped) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
def test_a_set_too_large_for_the_disk_is_told_which_downscale_would_do(mapped, monkeypatch):
    def full(*given):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(SinefieldError, match=r"10 images need .* free; use downscale 7 or") as refused:
        room_for((10 * 500 * 800, 3), 10, 2)  # 12 MB at 2; 0.98 MB at 7
    assert "\n" not in str(refused.value)


def test_evaluation_holds_one_view_at_a_time(photo_run, monkeypatch):
    import sinefield.fields.radiance.scores as evaluation

    alive, most = set(), 0
    render = evaluation.render_view

    def watched(*arguments):
        nonlocal most
        image = render(*arguments)
        alive.add(id(image))
        weakref.finalize(image, alive.discard, id(image))
        most = max(most, len(alive))
        return image

    monkeypatch.setattr(evaluation, "render_view", watched)
    assert evaluate(Run(photo_run[0]))["views"] == 3
    assert most <= 2  # the one being made, and the one before it


def test_a_mesh_of_1024_is_refused_with_the_number():
    cube = np.array([-1.0, -1, -1, 1, 1, 1])

    def never(points):
        raise AssertionError("evaluated")

    with pytest.raises(
        SinefieldError, match=r"resolution 1024 needs about 5\.7 GiB, more than 3\.5; try --res"
    ) as said:
        extract(never, cube, 1024, 0.0, "below")
    largest = int(str(said.value).rsplit(" ", 1)[1])
    assert 700 < largest < 1024 and estimate_bytes(np.full(3, largest)) <= MAX_BYTES < 4 << 30


def write_many(folder):
    """4,000 photographs of noise, every eighth of which will be a test view."""
    rng = np.random.default_rng(0)
    frames = []
    (folder / "images").mkdir(parents=True)
    noise = rng.integers(0, 256, (SIZE + 64, SIZE, 3), np.uint8) // 32 * 32
    poses = orbit(MANY, radius=4.0, elevation_degrees=torch.linspace(-50, 70, MANY), turns=40.0)
    for i, pose in enumerate(poses):
        name = f"images/{i:04d}.png"
        shown = np.full((SIZE, SIZE, 3), i % 251, np.uint8)
        shown[64:128] = noise[i % 64 : i % 64 + 64]
        Image.fromarray(shown).save(folder / name, compress_level=1)
        frames.append({"file_path": name, "transform_matrix": [*pose.tolist(), [0, 0, 0, 1]]})
    listed = [frame["file_path"] for frame in frames]
    split = {"train_filenames": [name for i, name in enumerate(listed) if i % 500], "test_filenames": listed[::500]}
    (folder / "transforms.json").write_text(json.dumps({"camera_angle_x": 0.8, "frames": frames, **split}))
    return folder


@pytest.mark.slow
@pytest.mark.nightly
@LINUX
def test_4000_photographs_are_not_held(tmp_path, monkeypatch):
    sys.path.insert(0, str(ROOT / "scripts" / "tables"))
    from measure import measure

    sys.path.remove(str(ROOT / "scripts" / "tables"))
    monkeypatch.setenv("SINEFIELD_CACHE", str(tmp_path / "cache"))
    folder = write_many(tmp_path / "many")
    options = ["--data.path", str(folder), "--data.downscale", "1", "--training.steps", "20", "--field.grid", "16"]
    begin = [sys.executable, "-m", "sinefield", "train", str(ROOT / "scenes" / "lego.yaml"), *options]
    used = measure([*begin, "--out", str(tmp_path / "many_run"), "--field.steps", "32", "--training.batch", "4096"])
    assert used.code == 0, used.output
    few = json.loads((folder / "transforms.json").read_text())
    few["train_filenames"] = few["train_filenames"][:40]
    (folder / "transforms.json").write_text(json.dumps(few))
    least = measure([*begin, "--out", str(tmp_path / "few_run"), "--field.steps", "32", "--training.batch", "4096"])
    assert least.code == 0, least.output
    decoded = MANY * SIZE**2 * 3
    print(f"4,000 images: {used}; 40 images: {least}; bytes of pixels {decoded:,}")
    assert decoded > views.HELD
    assert used.own - least.own < decoded / 10


def test_a_large_mesh_says_its_memory_first(tmp_path, monkeypatch, capsys):
    trimesh.creation.icosphere().export(tmp_path / "ball.ply")
    read_shape(tmp_path / "ball.ply")
    assert not capsys.readouterr().err
    monkeypatch.setattr(memory, "SAID", 1 << 16)
    read_shape(tmp_path / "ball.ply")
    assert "GB of memory" in capsys.readouterr().err
    monkeypatch.setattr(memory, "free_memory", lambda: 1 << 17)
    with pytest.raises(SinefieldError, match=r"ball\.ply: .* GB are free; decimate it first"):
        read_shape(tmp_path / "ball.ply")
    assert not capsys.readouterr().err


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ply", "stl", "obj", "off", "glb"])
def test_what_it_says_is_what_it_takes(kind, tmp_path):
    """Within a factor of two, of half a million faces; what the imports take is no part of it."""
    mesh = trimesh.creation.torus(2.0, 0.7, major_sections=500, minor_sections=500)
    mesh.export(tmp_path / f"torus.{kind}")
    code = "import sys; from sinefield.data.surfaces.surface import load_surface\n"
    code += "peak = lambda: next(int(x.split()[1]) for x in open('/proc/self/status') if x.startswith('VmHWM'))\n"
    code += "before = peak(); load_surface(sys.argv[1]); print(1024 * (peak() - before))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / f"torus.{kind}")], capture_output=True, text=True, check=True
    )
    said = memory.TAKEN[kind] * (tmp_path / f"torus.{kind}").stat().st_size
    assert said / 2 < int(done.stdout) < 1.3 * said
