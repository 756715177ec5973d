"""The notebook runs from top to bottom on small settings; slow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
NOTEBOOK = Path(__file__).parents[1] / "scripts" / "examples" / "tour.ipynb"


def test_the_notebook_runs_and_holds_no_outputs(tmp_path):
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 5 and not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    script = tmp_path / "tour.py"
    script.write_text("\n\n".join("".join(cell["source"]) for cell in cells))
    environment = {**os.environ, "STEPS": "30", "OUT": str(tmp_path / "out"), "MPLBACKEND": "Agg"}
    command = [sys.executable, "-W", "ignore", str(script)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    made = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert {"gear.sine", "gear.glb", "gear.h", "gear.html"} <= made.keys() and made["gear.sine"] <= 3000
