"""Processor seconds of the whole command from a mesh to a field, report and pictures; docs/results/whole_command.md.

    python scripts/benchmarks/whole_command.py [--mesh armadillo.obj] [--seeds 3] [--seconds 1.5 2] [--json]

`sinefield train MESH --training.seconds S`, on one core, with an empty cache of samples. "Cold": numba's cache is empty
too, as on a fresh machine. "Warm": a training of 25 seconds has made the compiled kernels before. The processor time is
that of the process and of all that it started, so that other work on the machine changes it little.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from sinefield.config import data_folder
from sinefield.files import write_text
from sinefield.machine import describe_machine
from sinefield.tables import table

OUT = Path(__file__).parents[2] / "docs" / "results" / "whole_command.md"
TEXT = """# The whole command from a mesh to a field

`{command}`, {date}, one core of {cpu}.

{table}

`sinefield train {mesh} --training.seconds S`: reading, sampling, training, scoring, mesh, pictures and scores' table.
Samples are not cached. Cold: no compiled kernel is stored, and so short a training makes none. Warm: a training of 25
seconds made them before. Each list is of seeds 0, 1, 2 and so on; CPU seconds are their median, with those of every
process that the command started. The IoU is the quick score that the command gives.
"""


def one_run(mesh: Path, folder: Path, kernels: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Train once, in a process of its own on this one core."""
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        command = [sys.executable, "-m", "sinefield", "train", str(mesh), "--out", str(Path(cache) / "run")]
        command += ["--training.seconds", str(seconds), "--seed", str(seed), "--json"]
        environment = os.environ | {"SINEFIELD_CACHE": cache, "NUMBA_CACHE_DIR": str(kernels)}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        told, errors = process.communicate()
        if process.returncode:
            sys.exit(errors)
        wanted = [Path(cache) / "run" / name for name in ("report.json", "field.safetensors")]
        assert any((Path(cache) / "run").glob("pictures/*.png")), "no picture"
        assert all(path.is_file() for path in wanted), sorted(map(str, (Path(cache) / "run").iterdir()))
        return json.loads(told.splitlines()[-1])


def measured(mesh: Path, folder: Path, kernels: Path, seconds: float, seed: int) -> dict[str, Any]:
    """A run, and the processor seconds of its process."""
    before = os.times()
    report = one_run(mesh, folder, kernels, seconds, seed)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": seconds, "seed": seed, "iou": report["iou"], "steps": report["steps"], "cpu_seconds": spent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mesh", type=Path, default=data_folder() / "meshes" / "armadillo.obj")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, nargs="+", default=[1.5, 2])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    runs = []
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        for seconds in options.seconds:
            for seed in range(options.seeds):
                with tempfile.TemporaryDirectory(dir=folder) as empty:
                    runs.append({"kernels": "cold"} | measured(options.mesh, folder, Path(empty), seconds, seed))
                print(runs[-1], file=sys.stderr, flush=True)
        kernels = folder / "kernels"
        one_run(options.mesh, folder, kernels, 25, 0)
        for seconds in options.seconds:
            for seed in range(options.seeds):
                runs.append({"kernels": "warm"} | measured(options.mesh, folder, kernels, seconds, seed))
                print(runs[-1], file=sys.stderr, flush=True)
    rows = []
    for state, seconds in dict.fromkeys((run["kernels"], run["seconds"]) for run in runs):
        these = [run for run in runs if (run["kernels"], run["seconds"]) == (state, seconds)]
        row: dict[str, Any] = {"kernels": state, "training": f"{seconds:g} s"}
        row |= {"CPU seconds": f"{median(run['cpu_seconds'] for run in these):.1f}"}
        row |= {"of each": ", ".join(f"{run['cpu_seconds']:.1f}" for run in these)}
        row |= {"IoU": ", ".join(f"{run['iou']:.4f}" for run in these)}
        rows.append(row | {"steps": ", ".join(str(run["steps"]) for run in these)})
    command = f"python scripts/benchmarks/whole_command.py --seeds {options.seeds}"
    command += f" --seconds {' '.join(f'{seconds:g}' for seconds in options.seconds)}"
    write_text(
        OUT,
        TEXT.format(
            command=command,
            date=date.today(),
            cpu=describe_machine()["cpu"],
            table=table(list(rows[0]), rows, markdown=True),
            mesh=options.mesh.name,
        ),
    )
    if options.json:
        print(json.dumps({"runs": runs}))


if __name__ == "__main__":
    main()
