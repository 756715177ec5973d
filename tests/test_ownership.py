"""`--overwrite` replaces what a run made, and nothing else."""

import pytest
import yaml
from small import shape_config

from sinefield.errors import SinefieldError
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
