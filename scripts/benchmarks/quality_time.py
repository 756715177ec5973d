"""Quality over time of the present settings against those of an earlier commit.

    python scripts/benchmarks/quality_time.py [--before COMMIT] [--json] [--scenes NAME ...]
        [--shape-seconds 60] [--radiance-seconds 120] [--shares 0.25 0.333 0.5 0.667 1]

The earlier commit is checked out into a temporary folder and trains its own scene files with its own code for the whole
budget: e26d54f, if none is named, the last one before packed files and before any work on speed.
The present code then trains its scene files for shares of that budget, smallest first, until its final score reaches
the earlier one's: rates fall over the budget, so each share is a training of its own. Final scores are those of
`sinefield eval` (PSNR over the test views, IoU on 300,000 points), by each commit's own. Before the clock runs, a few
steps of each compile what is compiled on first use. Aim: a share of 2/3 at most.

Where a scene is run again, its figures replace the old ones. Writes docs/results/quality_time.json, .md and .png.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sinefield.config import data_folder
from sinefield.data.made.synthetic import synthesize
from sinefield.files import write_text
from sinefield.machine import describe_machine
from sinefield.store.run import Run
from sinefield.tables import table

ROOT = Path(__file__).parents[2]
OUT = ROOT / "docs" / "results" / "quality_time"
DEMO = ROOT / "runs" / "demo_data"
BEFORE = "e26d54f"
AIM = 2 / 3
SCORES = 20  # a run
# scene file: kind, and what to override in both commits
SCENES: dict[str, tuple[str, dict[str, str]]] = {
    "armadillo": ("shape", {}),
    "dragon": ("shape", {}),
    "lego": ("radiance", {}),
    "demo": ("radiance", {"data.path": str(DEMO)}),
}


def check_out(commit: str, folder: Path) -> str:
    """This repository at `commit` in `folder`; the commit's full name."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"git {' '.join(words)}: {done.stderr.strip().splitlines()[-1]}")
        return done.stdout.strip()

    name = git("-C", str(ROOT), "rev-parse", "--verify", f"{commit}^{{commit}}")
    git("clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(folder))
    git("-C", str(folder), "checkout", "--quiet", "--detach", name)
    return name


def train(source: Path, scene: str, out: Path, seed: int, **training: float) -> dict[str, Any]:
    """One `sinefield train` by the code and scene file of `source`, in a process of its own."""
    overrides = {**SCENES[scene][1], **{f"training.{key}": str(value) for key, value in training.items()}}
    words = [sys.executable, "-m", "sinefield", "train", str(source / "scenes" / f"{scene}.yaml")]
    words += ["--out", str(out), "--seed", str(seed), "--overwrite", "--json"]
    words += [word for key, value in overrides.items() for word in (f"--{key}", value)]
    environment = {**os.environ, "PYTHONPATH": str(source), "SINEFIELD_DATA": str(data_folder())}
    begin = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=source)
    if done.returncode:
        raise SystemExit(f"{source.name}, {scene}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    report = json.loads(done.stdout.strip().splitlines()[-1])
    name = "iou" if report["kind"] == "shape" else "psnr"
    return {
        "score": report[name],
        "steps": report["steps"],
        "seconds": report["seconds"],
        "command_seconds": round(time.perf_counter() - begin, 1),
        "curve": [(line["seconds"], line[name]) for line in Run(out).read_metrics()],
    }


def compare(scene: str, before: Path, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The earlier run of a scene, and present ones until one is as good."""
    kind = SCENES[scene][0]
    budget = options.shape_seconds if kind == "shape" else options.radiance_seconds
    for source in (before, ROOT):
        train(source, scene, scratch / "run", options.seed, steps=20)

    def timed(source: Path, share: float) -> dict[str, Any]:
        seconds = round(share * budget, 2)
        run = train(source, scene, scratch / "run", options.seed, seconds=seconds, score_seconds=seconds / SCORES)
        who = "before" if source == before else "now"
        print(f"{scene}, {who}: {run['score']:.4f} after {run['seconds']:.1f} s", file=sys.stderr, flush=True)
        return {"share": round(share, 3), **run}

    old = timed(before, 1.0)
    new = []
    for share in sorted(options.shares):
        new.append(timed(ROOT, share))
        if new[-1]["score"] >= old["score"] and not options.all_shares:
            break
    reached = [run["share"] for run in new if run["score"] >= old["score"]]
    return {
        "kind": kind,
        "budget": budget,
        "before": old,
        "now": new,
        "share": min(reached, default=None),
        "seed": options.seed,
        "machine": describe_machine(),
        "date": time.strftime("%Y-%m-%d"),
    }


def write(stored: dict[str, Any]) -> None:
    write_text(OUT.with_suffix(".json"), json.dumps(stored, indent=1) + "\n")
    rows = []
    for scene, found in stored["scenes"].items():
        digits = 4 if found["kind"] == "shape" else 2
        old = found["before"]
        tried = (f"{r['share']:g}: {r['score']:.{digits}f}" for r in found["now"])
        rows.append(
            {
                "scene": scene,
                "budget": f"{found['budget']:g} s",
                "before": f"{old['score']:.{digits}f}, {old['steps']:,} steps",
                "now, by share of the budget": "; ".join(tried),
                "share": "not reached" if found["share"] is None else f"{found['share']:g}",
                "aim": f"≤ {AIM:.2f}",
                "seed": found["seed"],
            }
        )
    machines = {
        f"{found['machine']['cpu']}, {found['machine']['threads']} threads, {found['date']}"
        for found in stored["scenes"].values()
    }
    about = (
        f"`python scripts/benchmarks/quality_time.py --before {stored['before'][:7]}`: {'; '.join(sorted(machines))}.\n"
        "Share: of the earlier commit's time, what the present code needs for a final score as good, among the shares\n"
        "tried (rates fall over the budget, so each is a training of its own). PSNR in dB over the test views, IoU on\n"
        "300,000 points; the dots of the figure. Its curves are quick scores in training: one test view, 30,000 points."
    )
    parts = ["# Quality over time, before and now", about, table(list(rows[0]), rows, markdown=True)]
    write_text(OUT.with_suffix(".md"), "\n\n".join([*parts, "![Quality over time](quality_time.png)"]) + "\n")
    plot(stored["scenes"])


def plot(scenes: dict[str, dict[str, Any]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(scenes), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (scene, found) in zip(figure.subplots(1, len(scenes), squeeze=False)[0], scenes.items(), strict=True):
        runs = [("before", found["before"], "#6a6a6a")] + [("now", run, "#b5482a") for run in found["now"]]
        for i, (label, run, colour) in enumerate(runs):
            if run["curve"]:
                axes.plot(*zip(*run["curve"], strict=True), color=colour, lw=1.2, label=label if i < 2 else None)
            axes.plot(run["seconds"], run["score"], "o", color=colour, ms=4)
        axes.axhline(found["before"]["score"], color="#6a6a6a", lw=0.8, ls="--")
        scores = [run["score"] for _, run, _ in runs]
        # The first steps would take all the height.
        room = max(max(scores) - min(scores), 0.02 if found["kind"] == "shape" else 2.0)
        axes.set_ylim(min(scores) - 2 * room, max(scores) + room)
        axes.set(title=scene, xlabel="seconds of training", ylabel="IoU" if found["kind"] == "shape" else "PSNR (dB)")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="lower right")
    figure.savefig(OUT.with_suffix(".png"), dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object on the last line")
    parser.add_argument("--before", default=BEFORE, metavar="COMMIT", help=f"the earlier commit ({BEFORE})")
    parser.add_argument("--scenes", nargs="+", choices=list(SCENES), default=list(SCENES), help="all, if none is named")
    parser.add_argument("--shape-seconds", type=float, default=60.0, help="the earlier commit's budget a shape (60)")
    parser.add_argument("--radiance-seconds", type=float, default=120.0, help="and a radiance field (120)")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 1 / 3, 0.5, 2 / 3, 1.0])
    parser.add_argument(
        "--all-shares", action="store_true", help="go on after the share that reaches the earlier score"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not (data_folder() / "lego").is_dir():
        parser.error(f"{data_folder()} has no lego; set SINEFIELD_DATA")
    if "demo" in options.scenes and not DEMO.exists():
        synthesize(DEMO, resolution=100)  # as scripts/demo.sh does
    store = OUT.with_suffix(".json")
    with tempfile.TemporaryDirectory() as scratch:
        before = Path(scratch) / "before"
        name = check_out(options.before, before)
        stored = json.loads(store.read_text()) if store.exists() else {}
        if stored.get("before") != name:  # figures against another commit say nothing beside these
            stored = {"before": name, "scenes": {}}
        for scene in options.scenes:
            stored["scenes"][scene] = compare(scene, before, options, Path(scratch))
            stored["scenes"] = {s: stored["scenes"][s] for s in SCENES if s in stored["scenes"]}
            write(stored)
            print(f"{scene}: share {stored['scenes'][scene]['share']}", flush=True)
    if options.json:
        print(json.dumps({f"share_{scene}": found["share"] for scene, found in stored["scenes"].items()}))


if __name__ == "__main__":
    main()
