"""Shared by all tests: shape annotations checked at run time, real data where it is, a cache of their own."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

ROOT = Path(__file__).parents[1]
if "PYTEST_XDIST_WORKER" in os.environ:  # as many workers as cores
    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}  # for numba, and for commands that tests start
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton, which reads it once
os.environ.setdefault("SINEFIELD_CACHE", str(ROOT / ".pytest_cache" / "sinefield"))
# Not the rest of kernels.cpu, which is numba's, nor export.video_files and export.video: the checker takes frames from
# their streams.
CHECKED = [f"nn.{name}" for name in ("weights", "mlp", "encodings", "hashgrid", "spectrum", "points")]
CHECKED += [f"kernels.cuda.{name}" for name in ("attention", "hashgrid", "nerfacc", "rays", "tinycudann")]
CHECKED += ["transformers", "kernels.cpu.layers", "fields", "metrics", "data", "cameras", "meshing"]
CHECKED += ["render.march", "render.march_nested", "render.volume", "render.occupancy", "render.surface"]
CHECKED += ["nn.point_error", "render.ray_error", "render.channels"]
CHECKED += ["export.mesh", "export.report", "export.page", "export.image"]
CHECKED += ["export.field_page"]
CHECKED += ["viewer.picture", "adapters", "compress.adapter_table"]
install_import_hook([f"sinefield.{name}" for name in CHECKED], "typecheck.checked")


@pytest.fixture
def data_folder() -> Path:
    """The folder of real scenes and meshes, or a skip."""
    from sinefield.config import data_folder

    if not data_folder().is_dir():
        pytest.skip(f"{data_folder()} is absent; set SINEFIELD_DATA to a folder of real scenes")
    return data_folder()


@pytest.fixture(autouse=True)
def coarse_scores(monkeypatch):
    """Tests train small fields many times; the surface they are scored by may be coarse, and its pictures small."""
    from sinefield.fields.shape import scores
    from sinefield.metrics import shapes

    monkeypatch.setattr(scores, "SURFACE_RESOLUTION", 56)
    monkeypatch.setattr(scores, "HELDOUT_POINTS", 50_000)
    monkeypatch.setattr(scores, "PICTURE", (64, 1))
    monkeypatch.setattr(shapes, "SAMPLES", 10_000)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def ball(tmp_path_factory) -> Path:
    from small import write_ball

    return write_ball(tmp_path_factory.mktemp("ball"))


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Path:
    from small import write_photographs

    return write_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="session")
def ball_run(ball, tmp_path_factory):
    from small import shape_config

    from sinefield.learning.train import train

    folder = tmp_path_factory.mktemp("runs") / "ball"
    report = train(shape_config(ball, steps=250), folder)
    return folder, report


@pytest.fixture(scope="session")
def photo_run(photographs, tmp_path_factory):
    from small import radiance_config

    from sinefield.learning.train import train

    folder = tmp_path_factory.mktemp("runs") / "photo"
    report = train(radiance_config(photographs, steps=150), folder)
    return folder, report


@pytest.fixture
def disk(tmp_path):
    """A disk of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.hookimpl(tryfirst=True)  # before pytest takes out what -m does not ask for
def pytest_collection_modifyitems(items):
    """A test of the night is a slow one too: forgotten, the mark would bring it into the quick suite."""
    for item in items:
        if item.get_closest_marker("nightly"):
            item.add_marker("slow")
