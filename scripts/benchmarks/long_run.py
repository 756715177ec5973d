"""Does training stay as it begins? Memory and steps a second over a long one; docs/results/long_run.*

    python scripts/benchmarks/long_run.py SECONDS [radiance|shape ...]      both, SECONDS each

Lego at 100×100 and the armadillo ($SINEFIELD_DATA), as their scene files ship but for the budget. Memory is looked at
from outside, steps are read from metrics.jsonl. The verdict leaves out the first tenth, while the occupancy grid finds
its cells, and compares the two halves of what is left: memory flat within 2 %, steps a second within 5 %. Linux, on
an idle one.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from sinefield.files import atomic_path, write_text
from sinefield.machine import describe_machine
from sinefield.tables import table

ROOT = Path(__file__).parents[2]
STORE = ROOT / "docs" / "results" / "long_run.json"
SCENES = {"radiance": "lego", "shape": "armadillo"}
MEMORY, SPEED = 0.02, 0.05
LOOKS = 120  # at memory, and as many scores


def watch(kind: str, seconds: float, out: Path) -> dict[str, Any]:
    """Train for so long; seconds and bytes of the looks at memory, seconds and steps of the scores."""
    command = [sys.executable, "-m", "sinefield", "train", str(ROOT / "scenes" / f"{SCENES[kind]}.yaml")]
    every = max(seconds / LOOKS, 0.5)
    command += ["--training.seconds", str(seconds), "--training.score_seconds", str(every), "--out", str(out)]
    log, begin, looks = out.with_suffix(".log"), time.monotonic(), []
    with log.open("w") as stream, subprocess.Popen(command, stdout=stream, stderr=stream) as process:
        metrics, status = out / "metrics.jsonl", Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            # Training begins with the first score, and ends with the last: scoring afterwards is another matter.
            if metrics.exists() and (lines := read(metrics)) and lines[-1]["seconds"] < seconds:
                own = next((line for line in status.read_text().splitlines() if line.startswith("RssAnon")), None)
                if own:
                    looks.append((time.monotonic() - begin, 1024 * int(own.split()[1])))
            time.sleep(every)
    if process.returncode:
        raise SystemExit(log.read_text())
    return {"memory": looks, "steps": [(line["seconds"], line["step"]) for line in read(metrics)]}


def read(metrics: Path) -> list[dict[str, Any]]:
    """Whole lines; the last may be half written."""
    return [json.loads(line) for line in metrics.read_text().splitlines(True) if line.endswith("\n")]


def verdict(found: dict[str, Any]) -> dict[str, Any]:
    """What changed from the first half to the second, as a share, after the first tenth was left out."""
    at, own = np.array(found["memory"], float).T
    seconds, steps = np.array(found["steps"], float).T
    own = own[at >= at[0] + 0.1 * (at[-1] - at[0])]
    first, middle, last = np.interp(seconds[-1] * np.array([0.1, 0.55, 1.0]), seconds, steps)
    memory = float(np.median(own[len(own) // 2 :]) / np.median(own[: len(own) // 2]) - 1)
    speed = float((last - middle) / (middle - first) - 1)
    return {
        "seconds": float(seconds[-1]),
        "trained": int(steps[-1]),
        "own_bytes": int(own.max()),
        "memory_change": memory,
        "speed_change": speed,
        "flat": abs(memory) <= MEMORY and abs(speed) <= SPEED,
    }


def draw(runs: dict[str, Any]) -> None:
    """Memory and steps a second over time, one column a training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(runs), 5), layout="constrained")
    for column, (kind, found) in enumerate(runs.items()):
        rows = 2 if found["steps"] else 1  # of the run of 2026-11-26 memory and the verdict were kept
        above, *below = (figure.add_subplot(rows, len(runs), 1 + column + row * len(runs)) for row in range(rows))
        at, own = np.array(found["memory"], float).T
        above.plot(at / 60, own / 2**20)
        above.set(title=kind, ylabel="own memory, MiB", ylim=(0, 1.2 * own.max() / 2**20))
        above.set_xlabel("minutes")
        for axes in below:
            seconds, steps = np.array(found["steps"], float).T
            rates = np.diff(steps) / np.diff(seconds).clip(1e-9)
            axes.plot(seconds[1:] / 60, rates)
            axes.set(xlabel="minutes", ylabel="steps a second", ylim=(0, 1.2 * rates.max()))
    with atomic_path(STORE.with_suffix(".png")) as temporary:
        figure.savefig(temporary, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=" ".join(SCENES))
    options = parser.parse_args()
    if unknown := set(options.kinds) - SCENES.keys():
        parser.error(f"unknown {', '.join(unknown)}; choose from {', '.join(SCENES)}")
    stored = json.loads(STORE.read_text()) if STORE.exists() else {}
    for kind in options.kinds or SCENES:
        with tempfile.TemporaryDirectory() as folder:
            found = watch(kind, options.seconds, Path(folder) / kind)
        stored[kind] = {**found, **verdict(found), "date": time.strftime("%Y-%m-%d"), "machine": describe_machine()}
        print(kind, json.dumps({k: v for k, v in stored[kind].items() if k not in found}), flush=True)
        write_text(STORE, json.dumps(stored) + "\n")
    report(stored)


def report(stored: dict[str, Any]) -> None:
    """The picture and the page of all runs that are kept."""
    draw(stored)
    rows = [
        {
            "training": f"{kind}, {found['seconds'] / 60:.0f} min",
            "steps": f"{found['trained']:,}",
            "own memory": f"{found['own_bytes'] / 2**20:.0f} MiB",
            "memory, second half against first": f"{100 * found['memory_change']:+.1f} %",
            "steps a second": f"{100 * found['speed_change']:+.1f} %",
            "flat": "yes" if found["flat"] else "no",
            "date": found["date"],
        }
        for kind, found in stored.items()
    ]
    about = "Flat is within 2 % of memory and 5 % of speed, the first tenth left out."
    by = "Made by `python scripts/benchmarks/long_run.py SECONDS [KIND]`; threads and date are in long_run.json.\n"
    by += (
        "The run of 2026-11-26 had one thread and other work beside it; from its 13th minute on its process came first."
    )
    shown = table(list(rows[0]), rows, markdown=True)
    text = f"# A long run\n\n{shown}\n\n{about} {by}\n\n![memory and speed](long_run.png)\n"
    write_text(STORE.with_suffix(".md"), text)


if __name__ == "__main__":
    main()
