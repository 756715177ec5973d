"""A wheel is reproducible: built twice, in two folders at two times, it has equal bytes; slow."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("setuptools.build_meta")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


def test_built_twice_equal_bytes(tmp_path):
    if not (ROOT / "setup.cfg").exists():
        pytest.skip("the source is not here")
    wheels = []
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    for name in ("first", "a second, elsewhere"):
        folder = tmp_path / name
        shutil.copytree(ROOT / "sinefield", folder / "sinefield", ignore=shutil.ignore_patterns("__pycache__"))
        for file in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / file, folder)  # with the time of now
        subprocess.run(
            [sys.executable, "-c", BUILD, str(folder)], cwd=folder, env=environment, check=True, capture_output=True
        )
        (wheel,) = folder.glob("*.whl")
        wheels.append(wheel.read_bytes())
        time.sleep(2.1)  # a zip's times are even seconds
    assert wheels[0] == wheels[1] and len(wheels[0]) > 100_000
