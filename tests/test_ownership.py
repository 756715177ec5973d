"""`--overwrite` replaces what a run, or an earlier call of the same command, made, and nothing else."""

import os
from pathlib import Path

import pytest
import yaml
from safetensors.torch import save_file
from small import shape_config
from torch import nn

from sinefield.adapters.attach import attach_each
from sinefield.adapters.deltas import AdapterSpec
from sinefield.adapters.file import merge_files, save_adapter
from sinefield.data.made import synthetic
from sinefield.data.photographs import frames
from sinefield.data.photographs.poses import MODELS
from sinefield.errors import SinefieldError
from sinefield.export import depth
from sinefield.export.video_files import check_folder, check_video_path
from sinefield.files import check_folder_place, foreign, write_bytes
from sinefield.fleet.store import FleetStore
from sinefield.store.run import Run


@pytest.fixture
def config(ball):
    return shape_config(ball, steps=5)


@pytest.fixture
def run(tmp_path, config):
    with Run.prepare(tmp_path / "run", config) as run:
        for path in (run.field_path, run.state_path, run.metrics_path, run.pictures / "shape.png"):
            path.write_bytes(b"old")
        (run.pictures / "curves.png").write_bytes(b"old")
        return run


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_what_a_run_makes_is_removed(run, config):
    mine = [run.folder / "notes.txt", run.pictures / "holiday.png", run.folder / "state" / "mine"]
    for path in mine:
        path.write_bytes(b"mine")
    Run.prepare(run.folder, config, overwrite=True).release()
    assert set(everything(run.folder)) == {*mine, run.config_path}


@pytest.mark.parametrize("content", ["kind: shape\ndata:\n  path: a.ply\n", "name: my project\n", "[", "\0"])
def test_another_config_is_no_run(tmp_path, config, content):
    folder = tmp_path / "project"
    (folder / "pictures").mkdir(parents=True)
    (folder / "config.yaml").write_text(content)
    (folder / "pictures" / "shape.png").write_bytes(b"mine")
    (folder / "report.json").write_bytes(b"mine")
    before = everything(folder)
    with pytest.raises(SinefieldError, match="nothing in it is overwritten"):
        Run.prepare(folder, config, overwrite=True)
    assert everything(folder) == before


def test_a_config_cut_short_is_no_run(run, config):
    content = yaml.safe_load(run.config_path.read_text())
    content["training"] = {"steps": 5}
    run.config_path.write_text(yaml.safe_dump(content))
    with pytest.raises(SinefieldError, match="not written by a run"):
        Run.prepare(run.folder, config, overwrite=True)
    assert run.field_path.read_bytes() == b"old"


def test_a_run_from_before_a_setting_was_there_is_a_run(run, config):
    content = yaml.safe_load(run.config_path.read_text())
    del content["training"]["score_seconds"]
    run.config_path.write_text(yaml.safe_dump(content))
    Run.prepare(run.folder, config, overwrite=True).release()
    assert not run.field_path.exists()


def test_links_are_not_followed(run, tmp_path, config):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("shape.png", "curves.png", "state.safetensors", ".tmp-1"):
        (elsewhere / name).write_bytes(b"mine")
    before = everything(elsewhere)
    (tmp_path / "link").symlink_to(run.folder)
    with pytest.raises(SinefieldError, match="is a link"):
        Run.prepare(tmp_path / "link", config, overwrite=True)
    for inner in ("pictures", "state"):
        (run.folder / inner).rename(run.folder / "kept")
        (run.folder / inner).symlink_to(elsewhere)
        for how in ({"overwrite": True}, {"resume": True}):
            with pytest.raises(SinefieldError, match="is a link"):
                Run.prepare(run.folder, config, **how)
        (run.folder / inner).unlink()
        (run.folder / "kept").rename(run.folder / inner)
    run.metrics_path.unlink()
    run.metrics_path.symlink_to(elsewhere / "shape.png")
    Run.prepare(run.folder, config, overwrite=True).release()
    assert everything(elsewhere) == before and not run.metrics_path.is_symlink()


def checked_run(out):
    with Run.replacing(out, Run(out).config(), overwrite=True):
        raise ZeroDivisionError  # nothing is replaced


FOLDERS = {
    "video": (["0000.png", "0001.png"], lambda out: check_video_path(f"{out}/", overwrite=True)),
    "depth": (["depths.json", "0000.png"], lambda out: check_folder(out, depth.OURS, "ours", overwrite=True)),
    "frames": (["frames.json", "images/frame_00001.jpg"], lambda out: frames._check_out(out, overwrite=True)),
    "synth": (["synth.json", "mesh.ply", "train/r_0.png"], lambda out: synthetic._check_folder(out, overwrite=True)),
    "sparse": (["0/cameras.bin", "0/images.bin"], lambda out: _no_strangers(out)),
}


def _no_strangers(out):
    if odd := foreign(out, MODELS):
        raise SinefieldError(odd[0])


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_with_something_else_are_not_replaced(name, tmp_path):
    own, check = FOLDERS[name]
    out = tmp_path / "out"
    for path in own:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(b"old")
    check(out)
    for path in (
        "mine.txt",
        "images/holiday.jpg",
        "train/mine.png",
        "0000.png/mine",
        ".hidden",
        "new/mine",
        "0/a b.bin",
    ):
        made = [out / path, (out / path).parent]
        if made[1].is_file():
            continue
        there = made[1].exists()
        made[1].mkdir(exist_ok=True)
        made[0].write_bytes(b"mine")
        before = everything(out)
        with pytest.raises(SinefieldError):
            check(out)
        assert everything(out) == before
        made[0].unlink()
        if not there:
            made[1].rmdir()
    check(out)
    (tmp_path / "mine").write_bytes(b"mine")
    (out / own[-1]).unlink()
    (out / own[-1]).symlink_to(tmp_path / "mine")
    with pytest.raises(SinefieldError):
        check(out)


def test_a_run_with_something_else_is_not_replaced_as_a_whole(run, config):
    with pytest.raises(ZeroDivisionError):
        checked_run(run.folder)
    before = everything(run.folder)
    for path in (run.folder / "notes.txt", run.pictures / "holiday.png", run.folder / "state" / "mine"):
        path.write_bytes(b"mine")
        with pytest.raises(SinefieldError, match=f"holds .*{path.name}"):
            checked_run(run.folder)
        assert everything(run.folder) == {**before, path: b"mine"}
        path.unlink()
    (run.folder.parent / "link").symlink_to(run.folder)
    with pytest.raises(SinefieldError, match="is a link"):
        checked_run(run.folder.parent / "link")


def test_a_model_is_not_merged_into_a_folder_of_something_else(tmp_path):
    model = nn.Sequential(nn.Linear(8, 8))
    base, out, adapter = tmp_path / "base", tmp_path / "out", tmp_path / "adapter.safetensors"
    base.mkdir()
    (base / "config.json").write_text("{}")
    save_file(model.state_dict(), base / "model.safetensors")
    attach_each(model, {"0": AdapterSpec("lora", 2, 2.0)}, "default")
    save_adapter(model, adapter)
    merge_files(adapter, base, out)
    merge_files(adapter, base, out, overwrite=True)
    (out / "holiday.png").write_bytes(b"mine")
    before = everything(out)
    with pytest.raises(SinefieldError, match=r"holds 'holiday\.png'"):
        merge_files(adapter, base, out, overwrite=True)
    assert everything(out) == before


def test_a_fleet_is_not_begun_over_something_else(tmp_path):
    (tmp_path / "fleet.json").write_text('{"name": "my ships"}')
    (tmp_path / "README.md").write_text("mine")
    before = everything(tmp_path)
    with pytest.raises(SinefieldError, match="no fleet's"):
        FleetStore(str(tmp_path)).begin("shape", overwrite=True)
    assert everything(tmp_path) == before
    (tmp_path / "fleet.json").write_text('{"format": "sinefield fleet 1", "kind": "shape"}')
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.parquet").write_text("mine")
    before = everything(tmp_path)
    with pytest.raises(SinefieldError, match=r"mine\.parquet"):
        FleetStore(str(tmp_path)).begin("shape", overwrite=True)
    assert everything(tmp_path) == before


def test_outputs_that_are_links_pipes_or_devices(tmp_path, monkeypatch):
    target, link, nowhere, pipe = (tmp_path / name for name in ("target.ply", "link.ply", "nowhere.ply", "pipe.ply"))
    target.write_bytes(b"mine")
    link.symlink_to(target)
    nowhere.symlink_to(tmp_path / "none")
    os.mkfifo(pipe)
    for path in (link, nowhere):
        with pytest.raises(SinefieldError, match="exists already"):
            write_bytes(path, b"new", overwrite=False)
        assert path.is_symlink()
        write_bytes(path, b"new")  # the link is replaced, not what it leads to
        assert not path.is_symlink() and path.read_bytes() == b"new"
    assert target.read_bytes() == b"mine" and not (tmp_path / "none").exists()
    for path in (pipe, Path("/dev/null")):
        with pytest.raises(SinefieldError, match="pipe or a device"):
            write_bytes(path, b"new")
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(SinefieldError, match="current folder"):
        check_folder_place(".")
    for place, says in ((Path("/dev/shm"), "disk of its own"), (tmp_path / "nothing", "is a link")):
        if says == "is a link":
            place.symlink_to(tmp_path / "none")
        with pytest.raises(SinefieldError, match=says):
            check_folder_place(place)
    (tmp_path / "to_empty").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    check_folder_place(tmp_path / "to_empty")
