"""Sine low rank, plain low rank, dense, and a narrower dense network of equal size on one mesh.

    python scripts/tables/shape_weights.py [scenes/armadillo.yaml] [--steps 400] [--ranks 1 5 20]

Every contender trains on the same points for the same number of steps. Its learning rates (Muon's and Adam's
together) are swept over --rates; a sine network's phase and bound are swept first, at the middle rate. What is kept is
chosen on 30,000 held-out points, what is reported is measured on 300,000 others. Writes CSV, Markdown and a plot to
docs/results/.
"""

import argparse
import csv
import json
import tempfile
import time
from pathlib import Path

import torch

from sinefield.config import ShapeConfig, load_config, make_config
from sinefield.data.surfaces.sampling import REPORTED_SEED, heldout_points
from sinefield.data.surfaces.surface import load_surface
from sinefield.fields.shape.scores import HELDOUT_POINTS
from sinefield.fields.shape.training import ShapeTask
from sinefield.learning.loop import optimise
from sinefield.machine import describe_machine
from sinefield.metrics.shapes import iou
from sinefield.nn.mlp import count_parameters
from sinefield.store.run import Run
from sinefield.strict import to_plain
from sinefield.tables import table

ROOT = Path(__file__).parents[2]
SINES = [{"phase": 0.5, "bound": 4.0}, {"phase": 1.0, "bound": 1.0}, {"phase": 2.5, "bound": 1.0}]


def variant(config: ShapeConfig, rate: float = 1.0, **field: object) -> ShapeConfig:
    """The scene's config with other field settings and both learning rates scaled."""
    plain = to_plain(config)
    plain["field"] |= field
    plain["training"]["lr"] *= rate
    plain["training"]["adam_lr"] *= rate
    return make_config(plain, "variant")


def score(config: ShapeConfig, surface, held_out) -> dict:
    """Train one contender; its IoU on the points for choosing and on those for reporting."""
    task = ShapeTask(config, surface)
    with tempfile.TemporaryDirectory() as folder:
        result = optimise(task, config.training, Run.prepare(Path(folder) / "run", config), config.seed)
    points, inside = held_out
    return {
        "params": count_parameters(task.field),
        "chosen_by": task.quick_score()["iou"],
        "iou": iou(task.field.inside(torch.from_numpy(points)).numpy(), inside),
        "seconds": result["seconds"],
    }


def best(rows: list[dict]) -> dict:
    return max(rows, key=lambda row: row["chosen_by"])


def equal_width(config: ShapeConfig, params: int, surface) -> int:
    """Width of the dense network with the most parameters that is no larger."""

    def size(width: int) -> int:
        encoded = 3 * (1 + 2 * config.field.frequencies)
        return (encoded + 1) * width + (config.field.depth - 1) * (width + 1) * width + width + 1

    return max(w for w in range(1, 1024) if size(w) <= params)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", nargs="?", default=str(ROOT / "scenes" / "armadillo.yaml"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 5, 20])
    parser.add_argument("--rates", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    options = parser.parse_args()
    begin = time.time()
    config = load_config(options.scene, {"training.steps": str(options.steps), "training.score_seconds": "1e9"})
    surface = load_surface(config.data.path)
    held_out = heldout_points(surface, HELDOUT_POINTS, seed=REPORTED_SEED)
    rows = []

    def contend(name: str, rank: int | None, sines: list[dict], /, **field: object) -> int:
        tried, middle = [], options.rates[len(options.rates) // 2]

        def attempt(rate: float, sine: dict) -> None:
            found = score(variant(config, rate, **sine, **field), surface, held_out)
            tried.append({"phase": sine.get("phase"), "bound": sine.get("bound"), "rate": rate, **found})

        for sine in sines:
            attempt(middle, sine)
        kept = {k: best(tried)[k] for k in ("phase", "bound")} if len(sines) > 1 else {}
        for rate in options.rates:
            if rate != middle:
                attempt(rate, kept)
        row = {
            "weights": name,
            "rank": rank,
            "width": field.get("width", config.field.width),
            **best(tried),
            "tried": len(tried),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
        return row["params"]

    contend("dense", None, [{}], weights="dense")
    for rank in options.ranks:
        params = contend("sine low rank", rank, SINES, weights="sine", rank=rank)
        contend("plain low rank", rank, [{}], weights="lowrank", rank=rank)
        contend("narrower dense", rank, [{}], weights="dense", width=equal_width(config, params, surface))

    name = Path(options.scene).stem
    columns = ["weights", "rank", "width", "params", "iou", "rate", "phase", "bound", "tried", "seconds"]
    out = ROOT / "docs" / "results"
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"shape_weights_{name}.csv").open("w") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        row["iou"], row["seconds"] = f"{row['iou']:.4f}", f"{row['seconds']:.0f}"
    command = f"python scripts/tables/shape_weights.py scenes/{name}.yaml --steps {options.steps}"
    about = [
        f"`{command}`: {options.steps} steps of {config.training.batch:,} points, seed {config.seed},",
        f"{describe_machine()['cpu']}, {torch.get_num_threads()} threads, {time.strftime('%Y-%m-%d')},",
        f"{(time.time() - begin) / 60:.0f} minutes for all. IoU on {HELDOUT_POINTS:,} held-out points uniform in the",
        f"object's box. `rate` multiplies the scene's learning rates ({config.training.lr:g} Muon,",
        f"{config.training.adam_lr:g} Adam), the best of {', '.join(f'{r:g}' for r in options.rates)};",
        f"`phase` and `bound` the best of {', '.join('{phase:g} and {bound:g}'.format(**p) for p in SINES)};",
        "all chosen on other held-out points.",
        "The narrower dense network below each pair has as many parameters as they have, or a few less.",
    ]
    picture = f"![IoU over parameters](shape_weights_{name}.png)"
    parts = [f"# Weights compared on {name}", "\n".join(about), table(columns, rows, markdown=True), picture]
    text = "\n\n".join(parts) + "\n"
    (out / f"shape_weights_{name}.md").write_text(text)
    plot(rows, out / f"shape_weights_{name}.png", name)


def plot(rows: list[dict], path: Path, name: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for kind, colour, mark in (
        ("sine low rank", "#b5482a", "o"),
        ("plain low rank", "#1f6f8b", "s"),
        ("narrower dense", "#6a6a6a", "^"),
        ("dense", "#111111", "*"),
    ):
        own = sorted((r for r in rows if r["weights"] == kind), key=lambda r: r["params"])
        axes.plot([r["params"] for r in own], [float(r["iou"]) for r in own], color=colour, marker=mark, label=kind)
    axes.set(xlabel="parameters", ylabel="IoU on held-out points", title=name, xscale="log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
