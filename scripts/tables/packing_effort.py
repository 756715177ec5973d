"""What packing to a size takes and gives by its effort: docs/results/packing_effort.md.

    python scripts/tables/packing_effort.py [--meshes spot.obj …] [--efforts 1 2] [--sizes 4000]

Each row is `sinefield train MESH --training.steps N`, once, then `sinefield pack RUN --max-bytes B --effort E`, a
process of its own whose processor time is counted whole: start, data, training with rounded weights, scores. For 4,000
bytes the usual network is too large, and packing trains a narrower one anew: how long the run was trained says nothing.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from sinefield.config import locate
from sinefield.files import write_text
from sinefield.machine import describe_machine
from sinefield.tables import table

ROOT = Path(__file__).parents[2]
STORE = ROOT / "docs" / "results" / "packing_effort.json"
DEMO = "shape.ply"
MESHES = ("spot.obj", "armadillo.obj", "bunny_closed.obj", "igea.ply", DEMO)
ONE = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def sinefield(*words: str) -> tuple[dict, float]:
    """A command's JSON and its processor seconds, on one core."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "sinefield", *words, "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **ONE}, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout.splitlines()[-1]), spent


def mesh_path(name: str) -> str:
    """A mesh of the data folder, or the demo's shape, made where it is missing."""
    if name != DEMO:
        return f"$SINEFIELD_DATA/meshes/{name}"
    folder = ROOT / "runs" / "demo_data"
    if not (folder / DEMO).exists():
        sinefield("synth", str(folder))
    return str(folder / DEMO)


def trained(name: str, steps: int) -> Path:
    """A run of the usual settings, made where it is missing."""
    run = ROOT / "runs" / "tables" / f"effort_{Path(name).stem}"
    if not (run / "report.json").exists():
        sinefield("train", locate(mesh_path(name)), "--out", str(run), "--training.steps", str(steps), "--overwrite")
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meshes", nargs="*", default=list(MESHES), help="none: write the page anew")
    parser.add_argument("--efforts", nargs="+", type=float, default=[1, 2])
    parser.add_argument("--sizes", nargs="+", type=int, default=[4000])
    parser.add_argument("--steps", type=int, default=100, help="of the run that is packed")
    options = parser.parse_args()
    rows = json.loads(STORE.read_text()) if STORE.exists() else []
    for name in options.meshes:
        run = trained(name, options.steps)
        for size in options.sizes:
            for effort in options.efforts:
                words = ("--max-bytes", str(size), "--effort", f"{effort:g}")
                report, seconds = sinefield("pack", str(run), str(run.with_suffix(".sine")), *words, "--overwrite")
                key = {"mesh": name, "limit": size, "effort": effort}
                rows = [row for row in rows if any(row[k] != v for k, v in key.items())]
                kept = {k: report[k] for k in ("bytes", "params", "iou")}
                about = {
                    "steps": options.steps,
                    "machine": describe_machine()["cpu"],
                    "date": time.strftime("%Y-%m-%d"),
                }
                rows.append({**key, **kept, "narrower": "narrower" in report, "seconds": round(seconds, 1), **about})
                print(json.dumps(rows[-1]), flush=True)
                write_text(STORE, json.dumps(rows, indent=1) + "\n")
    order = {name: place for place, name in enumerate(MESHES)}
    rows.sort(key=lambda row: (row["limit"], order.get(row["mesh"], len(order)), row["mesh"], row["effort"]))
    write_text(STORE, json.dumps(rows, indent=1) + "\n")
    shown = [
        {
            "mesh": "the demo's knot" if row["mesh"] == DEMO else Path(row["mesh"]).stem,
            "at most": f"{row['limit']:,}",
            "effort": f"{row['effort']:g}",
            "numbers": f"{row['params']:,}",
            "bytes": f"{row['bytes']:,}",
            "IoU": f"{row['iou']:.4f}",
            "CPU seconds": f"{row['seconds']:.0f}",
        }
        for row in rows
    ]
    dates = ", ".join(sorted({row["date"] for row in rows}))
    about = (
        "`python scripts/tables/packing_effort.py`: `sinefield pack RUN OUT --max-bytes B --effort E` of runs with\n"
        f"the usual settings; seed 0, one thread of {rows[0]['machine']}, {dates}.\n"
        "Processor time is that of the whole command: start, data, training with rounded weights, scores.\n"
        "The machine's two cores had other work too, which makes such times longer.\n"
        "IoU on 300,000 held-out points. An effort is a number of steps: the same run gives the same bytes again,\n"
        "whatever else the machine does. Only the time differs.\n\n"
        "The runs have 12,929 numbers, too many for 4,000 bytes: packing trains a narrower network anew. So the runs\n"
        f"are of {options.steps:,} steps only, which does not matter here."
    )
    page = ["# Packing by effort", about, table(list(shown[0]), shown, markdown=True)]
    write_text(STORE.with_suffix(".md"), "\n\n".join(page) + "\n")


if __name__ == "__main__":
    main()
