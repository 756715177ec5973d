"""Bytes against quality: packed shape fields of several kinds, and decimated meshes under Draco.

    python scripts/benchmarks/rate_shapes.py [MESH ...] [--all] [--steps 1500] [--kinds sine lowrank dense wide]

Every contender sees the same points for the same number of steps, a third of them before rounding starts, and is packed
to the same sizes. Its learning rate, and how sharp the distances get in the end, are swept on the first mesh at the
middle size (with `--sweep-each` on every mesh at the smallest size, as the anchor's decimator is chosen for each mesh);
what is kept is judged on other held-out points than what is reported. "dense" is the narrower dense
network of about equal bytes, "wide" one as wide as the sine network, packed to the same bytes with fewer bits. The
curve of decimation and Draco is that of scripts/benchmarks/draco.py. Writes docs/results/rate_shapes.*, or NAME.* after
`--name NAME`.
"""

import argparse
import csv
import json
import tempfile
import time
from itertools import product
from pathlib import Path

from draco import STORE as DRACO
from draco import WATERTIGHT

from sinefield.config import ShapeConfig, data_folder, load_config, make_config
from sinefield.data.surfaces.surface import load_surface
from sinefield.errors import SinefieldError
from sinefield.export.mesh import extract_field
from sinefield.fields.shape.training import ShapeTask
from sinefield.files import write_text
from sinefield.learning.loop import optimise
from sinefield.learning.pack import Packer
from sinefield.learning.refine import Budget
from sinefield.machine import describe_machine
from sinefield.metrics.rate import bd_quality, bd_rate, pareto
from sinefield.metrics.shapes import compare_meshes
from sinefield.store.fields import save_field
from sinefield.store.run import Run
from sinefield.store.sine_files import save_sine, to_packed
from sinefield.strict import to_plain
from sinefield.tables import table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
# bytes aimed at: settings of each kind whose file at that size uses about 5.5 bits a parameter
SINE = {"phase": 0.5, "bound": 4.0}  # the best of a few on the armadillo
SIZES = {
    2000: {
        "sine": {"width": 44, "rank": 8, **SINE},
        "lowrank": {"width": 44, "rank": 8},
        "dense": {"width": 30},
        "wide": {"width": 44},
    },
    3774: {
        "sine": {"width": 72, "rank": 8, **SINE},
        "lowrank": {"width": 72, "rank": 8},
        "dense": {"width": 42},
        "wide": {"width": 72},
    },
    6861: {
        "sine": {"width": 104, "rank": 12, **SINE},
        "lowrank": {"width": 104, "rank": 12},
        "dense": {"width": 58},
        "wide": {"width": 104},
    },
}
MIDDLE = 3774
COLUMNS = ["mesh", "kind", "bytes", "params", "bits", "iou", "float_iou", "chamfer_l1", "rate", "sharpen", "steps"]
COLUMNS += ["cpu_seconds"]


def contend(config: ShapeConfig, surface, target: int, steps: int) -> dict:
    """Train, pack and score one contender."""
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = Run.prepare(Path(folder) / "run", config)
        task = ShapeTask(config, surface)
        result = optimise(task, config.training, run, config.seed)
        save_field(run.field_path, task.field, {"seed": config.seed, **result})
        packer = Packer(run, config, surface)
        quantisers = packer.within(target, Budget(steps=2 * steps))
        chosen = packer.judged(quantisers)
        size = save_sine(Path(folder) / "a.sine", to_packed(packer.field, quantisers, {}))
        vertices, faces, _ = extract_field(packer.field, 192)
        params = sum(p.numel() for p in packer.field.parameters())
        return {
            "bytes": size,
            "params": params,
            "bits": round(8 * size / params, 2),
            "iou": round(packer.report(), 5),
            "float_iou": round(packer.before, 5),
            "chosen_by": chosen,
            "chamfer_l1": round(compare_meshes(vertices, faces, surface)["chamfer_l1"], 5),
            "steps": result["steps"] + 2 * steps,
            "cpu_seconds": round(time.process_time() - begin),
        }


def config_for(mesh: str, kind: str, size: int, steps: int, rate: float, sharpen: float) -> ShapeConfig:
    path = next((data_folder() / "meshes").glob(f"{mesh}.*"))
    base = load_config(
        ROOT / "scenes" / "armadillo.yaml",
        {
            "data.path": str(path),
            "training.steps": str(steps),
            "training.score_seconds": "1e9",
            "data.points": "1000000",
        },
    )
    plain = to_plain(base)
    plain["field"] |= {"weights": "dense" if kind == "wide" else kind, **SIZES[size][kind]}
    plain["training"]["lr"] *= rate
    plain["training"]["adam_lr"] *= rate
    plain["training"]["sharpen"] = sharpen
    return make_config(plain, mesh)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", nargs="*", default=[])
    parser.add_argument("--all", action="store_true", help="every watertight mesh of the data folder")
    parser.add_argument("--steps", type=int, default=1500, help="before rounding, and twice as many after (1500)")
    parser.add_argument(
        "--kinds", nargs="*", default=["sine", "lowrank", "dense", "wide"], help="none: write the tables anew"
    )
    parser.add_argument("--rates", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--sharpen", type=float, nargs="+", default=[6.0, 10.0])
    parser.add_argument("--sweep-each", action="store_true", help="sweep for each mesh, at the smallest size")
    parser.add_argument("--name", default="rate_shapes", help="of the results in docs/results")
    options = parser.parse_args()
    meshes = WATERTIGHT if options.all else options.meshes or ["armadillo"]
    store = RESULTS / f"{options.name}.csv"
    rows = list(csv.DictReader(store.open())) if store.exists() else []
    best: dict[str, tuple[float, float]] = {}
    swept = min(SIZES) if options.sweep_each else MIDDLE
    for mesh in meshes:
        if options.sweep_each:
            best = {}
        surface = load_surface(next((data_folder() / "meshes").glob(f"{mesh}.*")))
        for kind in options.kinds:
            for size in sorted(SIZES, key=lambda s: s != swept):  # the size that the rates are swept at comes first
                tried = []
                sweep = product(options.rates, options.sharpen)
                for rate, sharpen in [best[kind]] if kind in best else sweep:
                    config = config_for(mesh, kind, size, options.steps, rate, sharpen)
                    found = contend(config, surface, size, options.steps)
                    tried.append({"mesh": mesh, "kind": kind, "rate": rate, "sharpen": sharpen, **found})
                    print(json.dumps(tried[-1]), flush=True)
                row = max(tried, key=lambda r: r["chosen_by"])
                best.setdefault(kind, (row["rate"], row["sharpen"]))
                rows = [r for r in rows if not (r["mesh"] == mesh and r["kind"] == kind and same_size(r, size))]
                rows.append(row)
                write(store, rows)
    where = "each mesh at the smallest size" if options.sweep_each else "the first mesh at the middle size"
    report(rows, options.name, where)


def same_size(row: dict, size: int) -> bool:
    return min(SIZES, key=lambda s: abs(s - int(row["bytes"]))) == size


def write(path: Path, rows: list[dict]) -> None:
    lines = [",".join(COLUMNS), *(",".join(str(r[c]) for c in COLUMNS) for r in rows)]
    write_text(path, "\n".join(lines) + "\n")


def curve(rows: list[dict]) -> tuple[list[float], list[float]]:
    rate, quality = pareto([float(r["bytes"]) for r in rows], [float(r["iou"]) for r in rows])
    return list(rate), list(quality)


def report(rows: list[dict], name: str, swept: str) -> None:
    """The table, the Bjøntegaard deltas against Draco, and a plot a mesh."""
    draco = [r for r in csv.DictReader(DRACO.open()) if r["frontier"] == "1"]
    meshes = list(dict.fromkeys(r["mesh"] for r in rows))
    deltas = []
    for mesh in meshes:
        anchor = curve([r for r in draco if r["mesh"] == mesh])
        for kind in dict.fromkeys(r["kind"] for r in rows if r["mesh"] == mesh):
            own = curve([r for r in rows if r["mesh"] == mesh and r["kind"] == kind])
            row: dict = {"mesh": mesh, "kind": kind}
            try:
                row["BD-rate %"] = round(bd_rate(*anchor, *own), 1)
                row["BD-IoU"] = round(bd_quality(*anchor, *own), 4)
            except SinefieldError:
                above = min(own[1]) > max(q for r, q in zip(*anchor, strict=True) if r <= max(own[0]))
                row["BD-rate %"] = "no common quality: " + ("better everywhere" if above else "worse everywhere")
            deltas.append(row)
    shown = [{c: r[c] for c in COLUMNS} for r in rows]
    steps = int(rows[0]["steps"]) // 3  # before rounding; all contenders have as many
    machine = describe_machine()
    about = [
        f"`python scripts/benchmarks/rate_shapes.py --steps {steps} --name {name}`: {steps} steps of 16,384 points,",
        f"{2 * steps} with rounded weights, seed 0, {machine['cpu']}, {machine['threads']} threads,",
        f"{time.strftime('%Y-%m-%d')}.",
        f"`rate` multiplies the scene's learning rates; it and `sharpen` were swept for each kind on {swept}.",
        "`dense` is narrower than `sine`, of about equal bytes; `wide` as wide, with fewer bits.",
        "Negative BD-rate: so much",
        "smaller than the best of two decimators and four position widths under Draco (draco.csv) at equal IoU.",
        "Decimated vertices stay where they are; docs/small_files.md says what optimising them changes.",
    ]
    text = [
        "# Bytes against IoU: packed fields, and decimated meshes under Draco",
        "\n".join(about),
        table(["mesh", "kind", "BD-rate %", "BD-IoU"], deltas, markdown=True),
        table(COLUMNS, shown, markdown=True),
        "\n".join(f"![{mesh}]({name}_{mesh}.png)" for mesh in meshes),
    ]
    write_text(RESULTS / f"{name}.md", "\n\n".join(text) + "\n")
    for mesh in meshes:
        own = [r for r in rows if r["mesh"] == mesh]
        plot(RESULTS / f"{name}_{mesh}.png", own, [r for r in draco if r["mesh"] == mesh])


def plot(path: Path, rows: list[dict], draco: list[dict]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(*curve(draco), color="#888888", marker="x", label="decimation + Draco")
    looks = {"sine": ("#b5482a", "o"), "lowrank": ("#1f6f8b", "s"), "dense": ("#111111", "^"), "wide": ("#7a8f2a", "v")}
    for kind, (colour, mark) in looks.items():
        own = [r for r in rows if r["kind"] == kind]
        if own:
            axes.plot(*curve(own), color=colour, marker=mark, label=kind)
    low = min(float(r["iou"]) for r in rows)
    axes.set(xlabel="bytes", ylabel="IoU on held-out points", title=rows[0]["mesh"], xscale="log", xlim=(1000, 20000))
    axes.set_ylim(low - 0.03, None)
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
