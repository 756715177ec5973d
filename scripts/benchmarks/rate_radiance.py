"""Bytes against PSNR of packed radiance fields on one photographed scene, several kinds of weight.

    python scripts/benchmarks/rate_radiance.py [scenes/lego.yaml] [--downscale 8] [--steps 1500] [--kinds sine dense]

Each kind is trained once, for the same number of steps on the same rays, with its learning rates swept, and packed to
several sizes with as many steps each. "dense" has as many parameters as the sine field, or a few less. PSNR over the
test views; the choice of rates is made on training views. Writes docs/results/rate_<scene>.* with published points
(other resolutions and protocols: for orientation) drawn beside.

    python scripts/benchmarks/rate_radiance.py --sized --downscale 4 --kinds sine dense grids --sizes 4000 … 400000

trains a field of its own for each size, with the width, or of feature grids (*grids*) the tables, that
`train --max-bytes` chooses for it. Writes docs/results/rate_sized_<scene>.*
"""

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path

from sinefield.config import RadianceConfig, load_config, make_config
from sinefield.fields.radiance.training import RadianceTask, load_scene
from sinefield.files import write_text
from sinefield.learning.budget import sized
from sinefield.learning.loop import optimise
from sinefield.learning.pack import Packer
from sinefield.learning.refine import Budget
from sinefield.machine import describe_machine
from sinefield.store.fields import save_field
from sinefield.store.run import Run
from sinefield.store.sine_files import save_sine, to_packed
from sinefield.strict import to_plain
from sinefield.tables import table

ROOT = Path(__file__).parents[2]
KINDS = {
    "sine": {},
    "lowrank": {"weights": "lowrank"},
    "dense": {"weights": "dense", "width": 45},
    "grids": {"weights": "dense", "depth": 1, "encoding": "hash", "log2_table": 18},
}
# Mean of the eight synthetic scenes at 800 × 800 unless said, from the papers: bytes, PSNR
PUBLISHED = {
    "Compact NGP": (360_000, 30.66),
    "CNC": (420_000, 33.19),
    "BiRF": (700_000, 31.53),
    "Masked wavelet": (830_000, 31.94),
    "nerfacc MLP": (2_400_000, 31.55),
    "NeRF MLP": (5_000_000, 31.01),
    "HAC++, Lego": (844_000, 34.33),
}


def trained(config: RadianceConfig, scene, folder: Path) -> Packer:
    """A field trained as the config says, ready to be packed."""
    task = RadianceTask(config, scene)
    run = Run.prepare(folder, config)
    result = optimise(task, config.training, run, config.seed)
    save_field(run.field_path, task.field, {"seed": config.seed, **result})
    return Packer(run, config, scene)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", nargs="?", default=str(ROOT / "scenes" / "lego.yaml"))
    parser.add_argument("--downscale", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1500, help="of training, and of each packing (1500)")
    parser.add_argument("--kinds", nargs="+", default=["sine", "dense"], choices=list(KINDS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[8000, 12000, 20000])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.5, 1.0])
    parser.add_argument("--sized", action="store_true", help="a field for each size; see above")
    options = parser.parse_args()
    quiet = {"training.steps": str(options.steps), "training.score_seconds": "1e9", "training.save_seconds": "1e9"}
    base = load_config(options.scene, {"data.downscale": str(options.downscale), **quiet})
    scene = load_scene(base)
    rows = []
    together = [[size] for size in options.sizes] if options.sized else [options.sizes]
    for kind, sizes in itertools.product(options.kinds, together):
        with tempfile.TemporaryDirectory() as scratch:
            tried = []
            for rate in options.rates:
                plain = to_plain(base)
                plain["field"] |= KINDS[kind]
                plain["training"]["lr"] *= rate
                plain["training"]["adam_lr"] *= rate
                config = make_config(plain, kind)
                config = sized(config, sizes[0]) if options.sized else config
                packer = trained(config, scene, Path(scratch) / f"{rate}")
                tried.append((packer.judge(), rate, packer))
            _, rate, packer = max(tried, key=lambda t: t[0])
            for size in sizes:
                begin = time.perf_counter()
                quantisers = packer.within(size, Budget(steps=options.steps))
                psnr = packer.judged(quantisers) and packer.report()
                number = sum(p.numel() for p in packer.field.parameters())
                packed = to_packed(packer.field, quantisers, {})
                rows.append(
                    {
                        "kind": kind,
                        "bytes": save_sine(Path(scratch) / "a.sine", packed),
                        "grid bytes": round(packed.sizes["grid"]),
                        "params": number,
                        "PSNR": round(psnr, 2),
                        "unpacked": round(packer.before, 2),
                        "rate": rate,
                        "seconds": round(time.perf_counter() - begin),
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
    name = Path(options.scene).stem
    title = f"sized_{name}" if options.sized else name
    out = ROOT / "docs" / "results" / f"rate_{title}"
    lines = [",".join(rows[0]), *(",".join(str(v) for v in row.values()) for row in rows)]
    write_text(out.with_suffix(".csv"), "\n".join(lines) + "\n")
    machine = describe_machine()
    command = f"rate_radiance.py scenes/{name}.yaml --downscale {options.downscale} --steps {options.steps}"
    command += f" --sized --kinds {' '.join(options.kinds)}" if options.sized else ""
    about = (
        f"`python scripts/benchmarks/{command}`: {options.steps} steps of training, as many\n"
        f"with rounded weights for each size, seed 0, {machine['cpu']}, {machine['threads']} threads,\n"
        f"{time.strftime('%Y-%m-%d')}. PSNR over the test views, on white."
    )
    published = [{"method": k, "bytes": b, "PSNR": q} for k, (b, q) in PUBLISHED.items()]
    note = "Published, mean of eight synthetic scenes at 800 × 800 (not this resolution: for orientation only):"
    parts = [f"# Bytes against PSNR: {name}", about, table(list(rows[0]), rows, markdown=True), note]
    parts += [table(["method", "bytes", "PSNR"], published, markdown=True), f"![Bytes against PSNR](rate_{title}.png)"]
    write_text(out.with_suffix(".md"), "\n\n".join(parts) + "\n")
    plot(rows, out.with_suffix(".png"), name)


def plot(rows: list[dict], path: Path, name: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    looks = {"sine": ("#b5482a", "o"), "lowrank": ("#1f6f8b", "s"), "dense": ("#111111", "^")}
    looks["grids"] = ("#8a8a2a", "D")
    for kind, (colour, mark) in looks.items():
        own = sorted((r for r in rows if r["kind"] == kind), key=lambda r: r["bytes"])
        if own:
            axes.plot([r["bytes"] for r in own], [r["PSNR"] for r in own], color=colour, marker=mark, label=kind)
    for method, (size, quality) in PUBLISHED.items():
        axes.plot(size, quality, ".", color="#999999")
        axes.annotate(method, (size, quality), fontsize=7, color="#777777", xytext=(3, 3), textcoords="offset points")
    axes.set(xlabel="bytes", ylabel="PSNR (dB)", xscale="log", title=f"{name}; grey: published, 800 × 800, mean of 8")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
