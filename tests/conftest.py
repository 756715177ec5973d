"""Shared by all tests: shape annotations checked at run time, real data where it is, a cache of their own."""

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

ROOT = Path(__file__).parents[1]
os.environ.setdefault("SINEFIELD_CACHE", str(ROOT / ".pytest_cache" / "sinefield"))
CHECKED = ["nn", "fields", "metrics", "data", "export", "render.march", "render.volume", "render.occupancy"]
install_import_hook([f"sinefield.{name}" for name in CHECKED], "typecheck.checked")  # render.kernels is numba's


@pytest.fixture
def data_folder() -> Path:
    """The folder of real scenes and meshes, or a skip."""
    from sinefield.config import data_folder

    if not data_folder().is_dir():
        pytest.skip(f"{data_folder()} is absent; set SINEFIELD_DATA to a folder of real scenes")
    return data_folder()


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
