"""An open race: sinefield beside other programs' own code, each alone on one core, by CPU seconds.

    python scripts/benchmarks/race.py lego --sizes 100 200 --seconds 30 60 120 --tensorf CLONE --iterations 300 1000
    python scripts/benchmarks/race.py image --sizes 256 --seconds 10 30 --siren CLONE --iterations 60
    python scripts/benchmarks/race.py --tables

Nothing of the others is part of this repository: whoever runs the race fetches them and gives their paths, with the
packages that they import on PYTHONPATH. `--tensorf` is a clone of github.com/apchenstu/TensoRF, `--siren` one of
github.com/vsitzmann/siren, `--opensplat` the program of github.com/pierotofu/OpenSplat, `--nerfstudio` the folder
with `ns-train` and `ns-eval`. A contender without a path does not run; its earlier rows stay.

All see the same training views, averaged to the same size, and are scored on the same test views on white. A row is one
training: its CPU seconds, PSNR, and the bytes of what the program saves; sinefield's are float32. Reading photographs
and scoring are not counted, except for programs that cannot be looked into (OpenSplat, nerfstudio). Sinefield trains
anew for each budget, by its preset for the size. The others count iterations: each number of `--iterations` is a
training of its own, its schedule shortened in proportion, with each of the settings of `race_peers.SWEEPS`, the first
being the recommended ones (`--settings N …` for some of them). `--json` prints one row a line. Rows are kept in
docs/results/race.json; a row that is run again takes the place of the old one. Other work on the machine makes CPU
seconds grow, so give all contenders the same; `--beside WORK` notes it on the page.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from race_peers import PEERS, SWEEPS, Row, as_blender, as_nerfstudio, siren

from sinefield.config import data_folder, locate, make_config
from sinefield.data.photographs.capture_settings import PRESETS, capture_settings
from sinefield.data.photographs.images import PosedScene
from sinefield.fields.base import Task, make_task, read_data, step_generator
from sinefield.fields.radiance.scores import mean_psnr
from sinefield.files import write_text
from sinefield.learning.loop import make_optimizers, rate
from sinefield.learning.presets import put_preset
from sinefield.machine import describe_machine
from sinefield.nn.backend import hidden_dtype
from sinefield.pictures import save_png
from sinefield.store.fields import save_field
from sinefield.tables import table

RESULTS = Path(__file__).parents[2] / "docs" / "results"
IMAGE = "skimage:astronaut.png"
SCENES = {"lego": 800, "fern": 4032, "fox": 1920, "image": 512}
"""Scenes, and the longest side of their photographs in pixels."""
SAME = ("contender", "scene", "size", "settings")
LEVELS = (25.0, 28.0, 30.0)
"""PSNR in dB to which times are compared."""


def settings_of(scene: str, size: int, preset: str, seconds: float) -> dict[str, Any]:
    """A scene file's content, as `train` chooses it for data of this size."""
    downscale = SCENES[scene] // size
    if scene == "image":
        content: dict[str, Any] = {"kind": "image", "data": {"path": locate(IMAGE)}}
        put_preset(content, preset, {})
        content["data"]["downscale"] = downscale
    else:
        content = capture_settings(data_folder() / scene, None, downscale, preset)
    content.setdefault("training", {})["seconds"] = seconds
    return content


def trained(task: Task, config: Any, seconds: float) -> tuple[int, float]:
    """Train for so many seconds of CPU, all but the first step's, which may compile; returns steps and seconds."""
    task.field.set_dtype(hidden_dtype("auto", task.device))
    optimizers = make_optimizers(task, config.training)
    base = [o.param_groups[0]["lr"] for o in optimizers]
    steps, spent = 0, 0.0
    while spent < seconds:
        begin = time.process_time()
        for optimizer, lr in zip(optimizers, base, strict=True):
            optimizer.param_groups[0]["lr"] = lr * rate(spent / seconds, config.training)
            optimizer.zero_grad()
        task.progress = spent / seconds
        task.step(steps, step_generator(config.seed, steps))
        for optimizer in optimizers:
            optimizer.step()
        spent += time.process_time() - begin if steps else 0.0
        steps += 1
    task.field.set_dtype(torch.float32)
    return steps, spent


def ours(scene: str, size: int, preset: str, budgets: list[float]) -> Iterator[Row]:
    """One training for each budget, in this process."""
    data: Any = None
    for seconds in budgets:
        config = make_config(settings_of(scene, size, preset, seconds), scene)
        data = read_data(config) if data is None else data
        task = make_task(config, data)
        steps, spent = trained(task, config, seconds)
        field: Any = task.field
        posed = isinstance(data, PosedScene)
        score = mean_psnr(field, data.scored_views) if posed else task.quick_score()["psnr"]
        with tempfile.TemporaryDirectory() as folder:
            save_field(Path(folder) / "field.safetensors", field, {})
            size_of = (Path(folder) / "field.safetensors").stat().st_size
        told = f"preset {preset}, budget {seconds:g} s"
        yield {"cpu_seconds": spent, "psnr": score, "bytes": size_of, "settings": told, "steps": steps}


def others(options: argparse.Namespace, scene: str, size: int, folder: Path) -> Iterator[Row]:
    """Every contender that has a path."""
    if scene == "image":
        if options.siren:
            pixels = read_data(make_config(settings_of(scene, size, "balanced", 1.0), scene))
            save_png(folder / "image.png", pixels.numpy())
            for settings, iterations in runs(options, "siren"):
                for row in siren(options.siren, folder, folder / "image.png", settings, iterations):
                    told = f"{described(settings)}, {row.pop('steps')} of {iterations} iterations"
                    yield {"contender": "SIREN", **row, "settings": told}
        return
    peers = {name: path for name in PEERS if (path := getattr(options, name))}
    if not peers:
        return
    data: Any = read_data(make_config(settings_of(scene, size, "balanced", 1.0), scene))
    as_blender(data, folder)
    as_nerfstudio(data, folder / "nerfstudio")
    for name, path in peers.items():
        for settings, iterations in runs(options, name):
            for row in PEERS[name](path, folder, data, settings, iterations):
                yield {"contender": name, **row, "settings": f"{described(settings)}, {iterations} iterations"}


def runs(options: argparse.Namespace, name: str) -> Iterator[tuple[Row, int]]:
    """Which settings and iterations to try."""
    for i, settings in enumerate(SWEEPS[name]):
        for iterations in options.iterations if options.settings is None or i in options.settings else []:
            yield settings, iterations


def described(settings: Row) -> str:
    told = [f"{key} {round(v ** (1 / 3))}³" if "voxel" in key else f"{key} {v:g}" for key, v in settings.items()]
    return ", ".join(told) or "recommended settings"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*", choices=[*SCENES, []], metavar="SCENE", help=", ".join(SCENES))
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 200], help="pixels of the longest side")
    parser.add_argument("--seconds", type=float, nargs="*", default=[30, 60, 120], help="sinefield's budgets")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, help="the usual one for the size, if not given")
    parser.add_argument("--iterations", type=int, nargs="+", default=[300, 1000], help="the others'")
    parser.add_argument("--settings", type=int, nargs="+", help="which of their settings to run, from 0")
    for name in (*PEERS, "siren"):
        parser.add_argument(f"--{name}", metavar="PATH")
    parser.add_argument("--json", action="store_true", help="print one row a line")
    parser.add_argument("--beside", help="other work on the machine meanwhile, in words")
    parser.add_argument("--tables", action="store_true", help="only write the tables anew")
    options = parser.parse_args()
    torch.set_num_threads(1)
    store = RESULTS / "race.json"
    kept: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {"rows": []}
    if options.beside:
        kept["beside"] = options.beside
    for scene in options.scenes if not options.tables else []:
        for size in options.sizes:
            with tempfile.TemporaryDirectory() as folder:
                for row in raced(options, scene, size, Path(folder)):
                    kept["rows"] = [r for r in kept["rows"] if any(r[k] != row[k] for k in SAME)] + [row]
                    kept["rows"].sort(key=lambda r: (r["scene"], r["size"], r["contender"], r["cpu_seconds"]))
                    kept["machine"] = describe_machine()["cpu"]
                    write_text(store, json.dumps(kept, indent=1) + "\n")
                    if options.json:
                        print(json.dumps(row), flush=True)
    write(kept)


def raced(options: argparse.Namespace, scene: str, size: int, folder: Path) -> Iterator[Row]:
    """All rows of a scene and size."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    usual = "small" if scene != "image" and size <= 128 else "balanced"
    presets = options.presets or [usual]
    own = ({"contender": "sinefield", **r} for p in presets for r in ours(scene, size, p, options.seconds))
    for rows in (own, others(options, scene, size, folder)):
        for row in rows:
            place = {"contender": row["contender"], "scene": scene, "size": size}
            numbers = {"cpu_seconds": round(row["cpu_seconds"], 1), "psnr": round(row["psnr"], 2)}
            numbers["bytes"] = row["bytes"]
            yield {**place, **numbers, "settings": row["settings"], "date": time.strftime("%Y-%m-%d")}


TEXT = """# The race: other programs' own code

{rows}

![PSNR by CPU seconds and by bytes](race.png)

## Seconds to a quality

By straight lines between the rows of one contender's best settings for the level; "–": not reached in any row.

{levels}

Made by `python scripts/benchmarks/race.py SCENE --sizes … --seconds … --iterations … --tensorf CLONE --siren CLONE`
(docstring there), each contender alone on one core of {machine}, seed 0 (TensoRF: its own). TensoRF is its authors'
train.py with configs/lego.txt and what *settings* says, its schedule shortened in proportion to the iterations. That
file's own settings are 4,096 rays and grids from 128³ to 300³; where no row has them, they were not run. SIREN is its
authors' loop with the settings of train_img.py, in colour, at the rates shown.{beside}
Bytes are what each program saves: float32 numbers. PSNR of an image is over the pixels it was fitted to.
OpenSplat and nerfstudio have not been run: they were not at hand. Their commands are in the script, untried.
"""


def write(kept: dict[str, Any]) -> None:
    columns = ["contender", "scene", "size", "cpu_seconds", "psnr", "bytes", "settings", "date"]
    rows = kept["rows"]
    levels = []
    for scene, size in sorted({(r["scene"], r["size"]) for r in rows}):
        for contender in sorted({r["contender"] for r in rows if (r["scene"], r["size"]) == (scene, size)}):
            own = [r for r in rows if (r["scene"], r["size"], r["contender"]) == (scene, size, contender)]
            times = {f"{level:g} dB": sooner(own, level) for level in LEVELS}
            levels.append({"scene": scene, "size": size, "contender": contender, **times})
    text = TEXT.format(
        rows=table(columns, rows, markdown=True), machine=kept["machine"],
        beside=f" {kept['beside']}" if "beside" in kept else "",
        levels=table(["scene", "size", "contender", *(f"{level:g} dB" for level in LEVELS)], levels, markdown=True),
    )  # fmt: skip
    write_text(RESULTS / "race.md", text)
    plot(rows)


def sooner(rows: list[Row], level: float) -> str:
    """CPU seconds to a level: the least budget of a row that reaches it, or where a line between two rows does."""
    reached = [r["cpu_seconds"] for r in rows if r["psnr"] >= level]
    if not reached:
        return "–"
    first = min(reached)
    before = [r for r in rows if r["cpu_seconds"] < first]
    if not before:
        return f"≤ {first:g}"
    best, at = max(before, key=lambda r: r["psnr"]), next(r for r in rows if r["cpu_seconds"] == first)
    share = (level - best["psnr"]) / (at["psnr"] - best["psnr"])
    return f"{best['cpu_seconds'] + share * (first - best['cpu_seconds']):.0f}"


AXES = (("cpu_seconds", "CPU seconds", 1), ("bytes", "kB saved", 1000))


def plot(rows: list[Row]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    places = sorted({(r["scene"], r["size"]) for r in rows})
    names = sorted({r["contender"] for r in rows}, key=lambda n: (n != "sinefield", n))
    colours = dict(zip(names, ("#b5482a", "#1f6f8b", "#111111", "#8a8a2a", "#777777"), strict=False))
    figure = Figure(figsize=(7, 2.9 * len(places)), layout="constrained")
    FigureCanvasAgg(figure)
    for row, (scene, size) in zip(figure.subplots(len(places), 2, squeeze=False), places, strict=True):
        for axes, (key, label, unit) in zip(row, AXES, strict=True):
            for name in names:
                own = [r for r in rows if (r["scene"], r["size"], r["contender"]) == (scene, size, name)]
                if own:
                    axes.plot([r[key] for r in own], [r["psnr"] for r in own], "o", color=colours[name], label=name)
            axes.set(xlabel=label, ylabel="PSNR (dB)", xscale="log", title=f"{scene}, {size}")
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if key == "cpu_seconds" else (1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _, unit=unit: f"{value / unit:,.0f}"))
            axes.grid(alpha=0.3)
            axes.legend(frameon=False, fontsize=7)
    figure.savefig(RESULTS / "race.png", dpi=110)


if __name__ == "__main__":
    main()
