"""What the race gives to other programs, and reads back from them."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from sinefield.data.photographs.images import load_posed
from sinefield.errors import SinefieldError
from sinefield.export.splat_files import splat_file
from sinefield.render.splats import Splats


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    """Scripts import their neighbours."""
    monkeypatch.syspath_prepend(ROOT / "scripts" / "benchmarks")


@pytest.fixture
def race_peers():
    return importlib.import_module("race_peers")


@pytest.fixture
def race():
    return importlib.import_module("race")


def test_others_see_the_same_photographs(race_peers, photographs, tmp_path):
    scene = load_posed(photographs, downscale=2)
    race_peers.as_blender(scene, tmp_path / "blender")
    again = load_posed(tmp_path / "blender")
    for ours, theirs in ((scene.training_views, again.training_views), (scene.scored_views, again.scored_views)):
        assert len(ours) == len(theirs)
        torch.testing.assert_close(ours.cameras.c2w, theirs.cameras.c2w)
        torch.testing.assert_close(ours.cameras.focal, theirs.cameras.focal, rtol=1e-5, atol=0)
        assert int((ours.pixels.int() - theirs.pixels.int()).abs().max()) <= 1  # straight alpha is rounded once more
    race_peers.as_nerfstudio(scene, tmp_path / "nerfstudio")
    meta = json.loads((tmp_path / "nerfstudio" / "transforms.json").read_text())
    names = [Path(frame["file_path"]) for frame in meta["frames"]]
    assert sum("eval" in name.name for name in names) == len(scene.scored_views)
    assert all((tmp_path / "nerfstudio" / name).is_file() for name in [*names, Path(meta["ply_file_path"])])


def test_splats_are_read_as_they_were_written(race_peers, tmp_path, generator):
    parts = [torch.randn(7, *shape, generator=generator) for shape in ((3,), (3,), (4,), (), (9, 3))]
    parts[2] = torch.nn.functional.normalize(parts[2], dim=1) * torch.sign(parts[2][:, :1])
    splats = Splats(*parts)
    (tmp_path / "a.ply").write_bytes(splat_file(splats, ".ply", {}))
    for ours, theirs in zip(splats, race_peers.read_splats(tmp_path / "a.ply"), strict=True):
        torch.testing.assert_close(ours, theirs)
    (tmp_path / "a.ply").write_bytes(b"ply\nend_header\n")
    with pytest.raises(SinefieldError, match="is no PLY of splats"):
        race_peers.read_splats(tmp_path / "a.ply")


def test_time_to_a_quality_lies_on_the_line_between_two_rows(race):
    rows = [{"cpu_seconds": s, "psnr": p} for s, p in ((10.0, 24.0), (30.0, 28.0), (20.0, 23.0))]
    assert [race.sooner(rows, level) for level in (20, 24, 25, 29)] == ["≤ 10", "≤ 10", "15", "–"]
