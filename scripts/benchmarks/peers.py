"""Time to quality: sinefield's scenes against strong baselines in plain PyTorch, on the same CPU in one run.

    python scripts/benchmarks/peers.py [--json] [--only PAIR ...] [--seeds 0 1 2] [--limit 900] [--sweep]

The pairs, each to a target that counts on data neither side sees in training:

nerf    Lego 100 × 100 to 25 dB: scenes/lego.yaml against the same sizes of network with dense weights in fp32 under
        autograd, no visual hull (its occupancy grid starts full and is learned), marching and compositing in plain
        torch, Adam. Samples that are long at first (`training.coarse`, ours by default) are tried for it too;
        nerf_even is the same without that, the baseline's samples of one length throughout.
siren   the armadillo to IoU 0.96: scenes/armadillo.yaml against SIREN (Sitzmann et al., NeurIPS 2020: five layers,
        256 units, ω₀ = 30, its initialisation, Adam) on the same labelled points. The paper's own loss of distances
        needs second derivatives; here it learns occupancy or, where that is sooner, signed distance by our loss.
hash    Lego 200 × 200 to 28 dB: scenes/lego_hash.yaml against a hash grid by index_select and autograd with the same
        tables and network in fp32; hull, compiled marcher and compositing are ours on both sides; Adam, ε 1e-15.

A schedule that decays depends on its budget, so both sides of a pair choose it: each is trained anew for budgets of
4 s · 1.5^k, k rising until the target is reached (falling where 4 s suffice), then once more in the middle of the last
bracket. Rates rise linearly over the first 2 % and, unless the settings say constant, fall as a cosine over the budget.
Every run is scored 20 times (in sweeps once, at the end) with the clock stopped, and gives the moment at which the line
between two scores meets the target; the earliest of all runs counts. Set-up other than reading and labelling data (the
visual hull) is on the clock. The two sides take turns, run by run. A baseline that never reaches the target within
--limit seconds gives a lower bound. Several seeds: medians.

--sweep redoes the sweeps: first variants (both sides: smaller batches, constant rates), then rates, judged by training
views or by other held-out points than those reported; each run has about the seconds that its contender
needs, or with --by-samples as many
samples, which a busy machine does not disturb but which favours small batches. Otherwise settings are those of
docs/results/peers.json, or the usual ones here. With --limit 0 nothing else is timed. Writes docs/results/peers.json,
.md and .png.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from rivals import PlainRadiance, SirenShape, grid_every

from sinefield.config import Config, TrainingConfig, data_folder, load_config, make_config
from sinefield.data.photographs.images import PosedScene
from sinefield.data.surfaces.sampling import JUDGED_SEED, REPORTED_SEED, heldout_points
from sinefield.data.surfaces.surface import Surface, load_surface
from sinefield.fields.base import step_generator
from sinefield.fields.radiance.scores import mean_psnr
from sinefield.fields.radiance.training import RadianceTask, load_scene
from sinefield.fields.shape.scores import HELDOUT_POINTS
from sinefield.fields.shape.training import QUICK_POINTS, ShapeTask
from sinefield.files import write_text
from sinefield.learning.loop import optimise, rate
from sinefield.machine import describe_machine, few_objects_searched
from sinefield.metrics.shapes import iou
from sinefield.store.run import Run
from sinefield.strict import to_plain
from sinefield.tables import table

ROOT = Path(__file__).parents[2]
OUT = ROOT / "docs" / "results" / "peers"
START, FACTOR, CLOSE = 4.0, 1.5, 1.25  # seconds of the first budget; between budgets; a bracket no wider is settled
SCORES = 20  # a run
JUDGED_VIEWS, REPORTED_VIEWS = 8, 5
Score = Callable[[Any], float]
Settings = dict[str, Any]


# Contenders: how one is trained, whatever it is

VARIANTS: tuple[Settings, ...] = ({"batch": 8192}, {"batch": 4096}, {"batch": 2048}, {"schedule": "constant"})
"""What a sweep tries of every contender before it sweeps rates."""


class Ours:
    """A scene file's field by `sinefield train`'s own loop; `rate` multiplies the scene's learning rates."""

    name, rates, variants = "sinefield", (0.5, 1.0, 2.0), VARIANTS

    def __init__(self, scene_file: str, data: PosedScene | Surface, swept: tuple[float, int]) -> None:
        self.scene_file, self.data, self.swept = scene_file, data, swept
        self.usual = {"rate": 1.0, "batch": load_config(scene_file).training.batch}

    def train(
        self, settings: Settings, seed: int, score: Score, scores: int = SCORES, **budget: float
    ) -> list[tuple[float, float]]:
        """(seconds, score) over one run for `seconds`, or for `steps`, which are scored at the end only."""
        every = budget["seconds"] / scores if "seconds" in budget else 1e9
        training = {"batch": settings["batch"], "score_seconds": every, "save_seconds": 1e9, **budget}
        if settings.get("schedule") == "constant":
            training["final_lr"] = 1.0
        usual = load_config(self.scene_file)
        if usual.kind == "radiance":
            training["grid_every"] = grid_every(usual, settings["batch"])
        config = load_config(
            self.scene_file, {"seed": str(seed), **{f"training.{k}": str(v) for k, v in training.items()}}
        )
        plain = to_plain(config)
        plain["training"]["lr"] *= settings["rate"]
        plain["training"]["adam_lr"] *= settings["rate"]
        config = make_config(plain, self.scene_file)
        begin = time.perf_counter()
        task = (RadianceTask if config.kind == "radiance" else ShapeTask)(config, self.data)
        # What a radiance task prepares is the hull; a shape's points are prepared for both sides alike.
        ready = time.perf_counter() - begin if config.kind == "radiance" else 0.0

        def quick_score() -> dict[str, float]:
            task.field.set_dtype(torch.float32)
            return {"score": score(task.field)}

        task.quick_score = quick_score
        with tempfile.TemporaryDirectory() as folder, redirect_stderr(StringIO()):  # the bar
            run = Run.prepare(Path(folder) / "run", config)
            optimise(task, config.training, run, seed)
            return [(ready + line["seconds"], line["score"]) for line in run.read_metrics()]


class Peer:
    """A baseline in plain torch under the same clock and the same schedule."""

    def __init__(
        self,
        name: str,
        make: Callable[[Settings, int], Any],
        usual: Settings,
        rates: tuple[float, ...],
        variants: tuple[Settings, ...],
        swept: tuple[float, int],
    ) -> None:
        self.name, self.make, self.usual, self.rates = name, make, usual, rates
        self.variants, self.swept = variants, swept

    def train(
        self, settings: Settings, seed: int, score: Score, scores: int = SCORES, **budget: float
    ) -> list[tuple[float, float]]:
        """As `Ours.train`."""
        torch.manual_seed(seed)
        begin = time.perf_counter()
        peer = self.make(settings, seed)
        clock = time.perf_counter() - begin if isinstance(peer, PlainRadiance) else 0.0
        ready, curve, scored, index = clock, [], 0, 0
        seconds, steps = budget.get("seconds", math.inf), budget.get("steps", math.inf)
        optimizers = peer.optimizers(settings["rate"])
        schedule = TrainingConfig()
        if settings.get("schedule") == "constant":
            schedule.final_lr = 1.0
        with few_objects_searched():  # as in our own loop
            while (done := max((clock - ready) / seconds, index / steps)) < 1:
                begin = time.perf_counter()
                for optimizer in optimizers:
                    optimizer.param_groups[0]["lr"] = settings["rate"] * rate(done, schedule)
                    optimizer.zero_grad(set_to_none=True)
                peer.progress = done
                peer.step(step_generator(seed, index))
                for optimizer in optimizers:
                    optimizer.step()
                index += 1
                clock += time.perf_counter() - begin
                mark = scores * (clock - ready) / seconds
                if mark >= scored + 1 or index >= steps:
                    curve.append((clock, score(peer.field())))
                    scored = math.floor(mark)
        return curve


# The pairs. `usual` is what a contender takes where nothing was swept; docs/results/peers.md has the sweeps.


class Pair:
    """A scene, a target and the two who run for it."""

    def __init__(self, key: str, scene: str, overrides: dict[str, str], target: float, unit: str, aim: float) -> None:
        self.key, self.target, self.unit, self.aim = key, target, unit, aim
        self.scene_file = str(ROOT / "scenes" / f"{scene}.yaml")
        self.config = load_config(self.scene_file, overrides)
        self.title = f"{scene} to {target:g} {unit}"

    def load(self) -> None:
        """Read the data; make contenders and scores."""
        if self.config.kind == "shape":
            data = load_surface(self.config.data.path)
            self.report = heldout_score(data, HELDOUT_POINTS, REPORTED_SEED)
            self.judge = heldout_score(data, QUICK_POINTS, JUDGED_SEED)
        else:
            data = load_scene(self.config)
            self.report = lambda field: mean_psnr(field, data.test, REPORTED_VIEWS)
            self.judge = lambda field: mean_psnr(field, data.train, JUDGED_VIEWS)
        (ours, swept, samples), name, make, settings, rates, variants = CONTENDERS[self.key]
        swept = swept, samples
        self.contenders = [
            Ours(self.scene_file, data, (ours, samples)),
            Peer(
                name, lambda s, seed: make(replace(self.config, seed=seed), data, s), settings, rates, variants, swept
            ),
        ]


def heldout_score(surface: Surface, n: int, seed: int) -> Score:
    """IoU on points uniform in the object's box."""
    points, inside = heldout_points(surface, n, seed=seed)
    return lambda field: float(iou(field.inside(torch.from_numpy(points)).numpy(), inside))


def sizes(settings: Settings) -> dict[str, Any]:
    return {"batch": settings["batch"], "coarse": settings.get("coarse", 1.0)}


def plain_nerf(config: Config, data: Any, settings: Settings) -> PlainRadiance:
    return PlainRadiance(config, data, compiled=False, hull=False, **sizes(settings))


def plain_hash(config: Config, data: Any, settings: Settings) -> PlainRadiance:
    return PlainRadiance(config, data, compiled=True, hull=True, **sizes(settings))


def siren(config: Config, data: Any, settings: Settings) -> SirenShape:
    return SirenShape(config, data, settings["represents"], settings["batch"])


# pair: seconds of each run of a sweep, ours and the baseline's, about what each needs, or samples; the baseline's name,
# maker, usual settings, rates and variants
CONTENDERS: dict[str, tuple] = {
    "nerf": (
        (6.0, 25.0, 150 << 15),
        "plain NeRF",
        plain_nerf,
        {"rate": 5e-3, "batch": 32768},
        (2.5e-3, 5e-3, 1e-2, 2e-2),
        (*VARIANTS, {"coarse": 4.0}),
    ),
    "nerf_even": (
        (6.0, 25.0, 150 << 15),
        "plain NeRF, even samples",
        plain_nerf,
        {"rate": 5e-3, "batch": 8192},
        (2.5e-3, 5e-3, 1e-2, 2e-2),
        VARIANTS,
    ),
    "siren": (
        (0.5, 2.0, 20 << 15),
        "SIREN",
        siren,
        {"rate": 3e-4, "batch": 32768, "represents": "distance"},
        (1e-4, 3e-4, 1e-3, 3e-3),
        (*VARIANTS, {"represents": "occupancy"}),
    ),
    "hash": (
        (15.0, 60.0, 150 << 15),
        "plain hash grid",
        plain_hash,
        {"rate": 1e-2, "batch": 32768},
        (3e-3, 1e-2, 3e-2),
        (*VARIANTS, {"coarse": 4.0}),
    ),
}
PAIRS = {
    "nerf": ("lego", {"data.downscale": "8"}, 25.0, "dB", 6.0),
    "nerf_even": ("lego", {"data.downscale": "8"}, 25.0, "dB", 6.0),
    "siren": ("armadillo", {}, 0.96, "IoU", 5.0),
    "hash": ("lego_hash", {"data.downscale": "4"}, 28.0, "dB", 3.0),
}


# Sweeps and the search for the budget


def sweep(contender: Ours | Peer, judge: Score, by_samples: bool) -> list[dict]:
    """Variants at the usual rate, then rates of the best of them; the best row is marked."""
    rows: list[dict] = []

    def attempt(settings: Settings) -> None:
        seconds, samples = contender.swept
        budget = {"steps": samples // settings["batch"]} if by_samples else {"seconds": seconds}
        found = contender.train(settings, 0, judge, 1, **budget)[-1][1]
        rows.append({"contender": contender.name, "settings": settings, **budget, "judged": found})
        print(json.dumps(rows[-1]), flush=True)

    def best() -> Settings:
        return max(rows, key=lambda r: r["judged"])["settings"]

    attempt(contender.usual)
    for variant in contender.variants:
        # One after the other: what was better so far is kept.
        attempt(best() | variant)
    kept = best()
    for lr in contender.rates:
        if lr != kept["rate"]:
            attempt(kept | {"rate": lr})
    for row in rows:
        row["best"] = row["settings"] is best()
    return rows


def chosen(contender: Ours | Peer, rows: list[dict]) -> Settings:
    """The best settings of a stored sweep, or the usual ones."""
    best = (row["settings"] for row in rows if row["contender"] == contender.name and row["best"])
    return next(best, contender.usual)


def crossing(curve: list[tuple[float, float]], target: float) -> float | None:
    """Seconds at which the line through the scores first meets the target; None where it does not."""
    before: tuple[float, float] | None = None
    for seconds, score in curve:
        if score >= target:
            if before is None:
                return seconds
            return before[0] + (seconds - before[0]) * (target - before[1]) / (score - before[1])
        before = seconds, score
    return None


def search(train: Callable[[float], list[tuple[float, float]]], target: float, limit: float) -> Iterator[dict]:
    """Runs for growing budgets until one reaches the target and a neighbour that does not is close below it."""
    failed, reached = 0.0, math.inf
    while reached > CLOSE * failed and failed < limit:
        if reached == math.inf:
            budget = min(failed * FACTOR or START, limit)
        else:
            budget = math.sqrt(failed * reached) if failed else reached / FACTOR
        curve = train(budget)
        when = crossing(curve, target)
        if when is None:
            failed = budget
        else:
            reached = budget
        yield {"budget": round(budget, 2), "reached": when, "curve": curve}
        if budget < 0.25:
            return


def measure(pair: Pair, settings: list[Settings], seeds: list[int], limit: float) -> list[dict]:
    """What each contender of a pair needs; they take turns."""
    for contender, own in zip(pair.contenders, settings, strict=True):
        contender.train(own, 0, pair.report, steps=20)  # compiles what is compiled when first used
    found = [{"contender": c.name, "settings": s, "runs": []} for c, s in zip(pair.contenders, settings, strict=True)]
    for seed in seeds:

        def runs(i: int, seed: int = seed) -> Iterator[dict]:
            contender, own = pair.contenders[i], settings[i]
            return search(lambda b: contender.train(own, seed, pair.report, seconds=b), pair.target, limit)

        turns = {i: runs(i) for i in range(len(found))}
        while turns:
            for i in list(turns):
                run = next(turns[i], None)
                if run is None:
                    del turns[i]
                    continue
                found[i]["runs"].append({"seed": seed, **run})
                said = "not reached" if run["reached"] is None else f"reached at {run['reached']:.1f} s"
                last = run["curve"][-1][1]
                print(
                    f"{pair.title}: {found[i]['contender']}, {run['budget']:g} s, {said}, {last:.4g}", file=sys.stderr
                )
    for row in found:
        times = []
        for seed in seeds:
            own = [r for r in row["runs"] if r["seed"] == seed]
            times.append(min((r["reached"] for r in own if r["reached"] is not None), default=math.inf))
        middle = statistics.median(times)
        row["seconds"] = None if math.isinf(middle) else round(middle, 2)
        row["times"] = [None if math.isinf(t) else round(t, 2) for t in times]
        row["longest"] = max(r["budget"] for r in row["runs"])
    return found


def compare(rows: list[dict]) -> tuple[float | None, bool]:
    """How many times sooner ours is there, and whether that is only a lower bound."""
    ours, peer = rows
    if ours["seconds"] is None:
        return None, False
    return round((peer["seconds"] or peer["longest"]) / ours["seconds"], 2), peer["seconds"] is None


# What is written


def best_run(row: dict) -> dict:
    """The run that reached the target first, or else the longest."""
    reached = [r for r in row["runs"] if r["reached"] is not None]
    return min(reached, key=lambda r: r["reached"]) if reached else max(row["runs"], key=lambda r: r["budget"])


def short(curve: list[tuple[float, float]], most: int = 6) -> list[tuple[float, float]]:
    kept = sorted({round(i * (len(curve) - 1) / (most - 1)) for i in range(most)})
    return [(round(curve[i][0], 2), round(curve[i][1], 4)) for i in kept]


def figures(stored: dict, keys: list[str]) -> dict:
    """What `--json` prints: speedups, whether each is a lower bound, times, short curves."""
    shown: dict[str, Any] = {}
    for key in keys:
        if pair := stored["pairs"].get(key):
            shown[f"speedup_{key}"] = pair["speedup"]
            if pair["lower_bound"]:
                shown[f"lower_bound_{key}"] = True
            for side, row in zip(("ours", "peer"), pair["contenders"], strict=True):
                shown[f"{key}_{side}_seconds"] = row["seconds"]
                shown[f"{key}_{side}_curve"] = short(best_run(row)["curve"])
    return shown


def write(stored: dict) -> None:
    write_text(OUT.with_suffix(".json"), json.dumps(stored, indent=1, ensure_ascii=False) + "\n")
    parts = ["# Time to quality beside baselines in plain PyTorch"]
    rows = []
    for pair in stored["pairs"].values():
        for i, row in enumerate(pair["contenders"]):
            sure = "≥ " if pair["lower_bound"] else ""
            seconds = row["seconds"]
            rows.append(
                {
                    "pair": pair["title"] if i == 0 else "",
                    "contender": row["contender"],
                    "settings": words(row["settings"]),
                    "budget": f"{best_run(row)['budget']:.1f} s",
                    "time to target": f"> {row['longest']:.0f} s" if seconds is None else f"{seconds:.1f} s",
                    "speedup": f"{sure}{pair['speedup']}" if i == 0 else "",
                    "aim": f"≥ {pair['aim']:g}" if i == 0 else "",
                    "seeds": ", ".join(map(str, pair["seeds"])),
                    "command": f"`{pair['command']}`",
                }
            )
    if rows:
        origins = {
            f"{m['cpu']}, {m['threads']} threads, torch {m['torch']}, {pair['date']}"
            for pair in stored["pairs"].values()
            for m in [pair["machine"]]
        }
        parts.append(
            f"{'; '.join(sorted(origins))}.\n"
            "Seconds of training until the held-out score is reached: PSNR over 5 of the 25 test views, IoU on\n"
            "300,000 points. Both sides of a pair take turns in one run, each with the settings of its sweep and the\n"
            "budget that serves it best of those tried (see the head of scripts/benchmarks/peers.py); `rate` of\n"
            "sinefield multiplies its scene's learning rates."
        )
        parts += [table(list(rows[0]), rows, markdown=True), "![Quality over time](peers.png)"]
    parts.append("## Sweeps")
    parts.append(
        "Budgets in steps are of as many samples each. Judged on 8 training views or 30,000 other held-out\n"
        "points, none of which times are measured on."
    )
    for key, tried in stored["sweeps"].items():
        lines = [
            {
                "contender": row["contender"],
                "settings": words(row["settings"]),
                "budget": f"{row['seconds']:g} s" if "seconds" in row else f"{row['steps']} steps",
                "judged": f"{row['judged']:.4f}",
                "best": "•" if row["best"] else "",
            }
            for row in tried
        ]
        parts += [f"### {key}", table(list(lines[0]), lines, markdown=True)]
    write_text(OUT.with_suffix(".md"), "\n\n".join(parts) + "\n")
    if stored["pairs"]:
        plot(stored["pairs"])


def words(settings: Settings) -> str:
    return ", ".join(f"{k} {v:g}" if isinstance(v, int | float) else f"{k} {v}" for k, v in settings.items())


def plot(pairs: dict[str, dict]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(4.2 * len(pairs), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, pair in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs.values(), strict=True):
        scores = []
        for row, colour in zip(pair["contenders"], ("#b5482a", "#1f6f8b"), strict=True):
            best = best_run(row)
            for run in row["runs"]:
                shown = {"lw": 1.8, "label": row["contender"]} if run is best else {"lw": 0.7, "alpha": 0.4}
                axes.plot(*zip(*run["curve"], strict=True), color=colour, **shown)
                scores += [score for _, score in run["curve"]]
        axes.axhline(pair["target"], color="#555555", lw=0.8, ls="--")
        spread = max(scores) - pair["target"]
        axes.set_ylim(max(min(scores), pair["target"] - 3 * max(spread, 0.01)), None)
        axes.set(xscale="log", xlabel="seconds of training", ylabel=pair["unit"], title=pair["title"])
        axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.grid(alpha=0.3, which="both")
        axes.legend(frameon=False, loc="lower right")
    figure.savefig(OUT.with_suffix(".png"), dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object on the last line")
    parser.add_argument("--only", nargs="+", choices=list(PAIRS), default=list(PAIRS), help="these pairs; others stay")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--limit", type=float, default=900.0, help="longest budget, seconds (900); 0 times nothing")
    parser.add_argument("--sweep", action="store_true", help="sweep settings and rates anew first")
    parser.add_argument("--by-samples", action="store_true", help="sweep with equal samples instead of equal seconds")
    options = parser.parse_args()
    if not (data_folder() / "lego").is_dir():
        parser.error(f"{data_folder()} has no lego; set SINEFIELD_DATA")
    store = OUT.with_suffix(".json")
    stored = json.loads(store.read_text()) if store.exists() else {"pairs": {}, "sweeps": {}}
    for key in options.only:
        pair = Pair(key, *PAIRS[key])
        pair.load()
        if options.sweep:
            stored["sweeps"][key] = [row for c in pair.contenders for row in sweep(c, pair.judge, options.by_samples)]
            write(stored)
        if options.limit <= 0:
            continue
        settings = [chosen(c, stored["sweeps"].get(key, [])) for c in pair.contenders]
        rows = measure(pair, settings, options.seeds, options.limit)
        speedup, bound = compare(rows)
        seeds = " ".join(map(str, options.seeds))
        stored["pairs"][key] = {
            "title": pair.title,
            "target": pair.target,
            "unit": pair.unit,
            "aim": pair.aim,
            "speedup": speedup,
            "lower_bound": bound,
            "contenders": rows,
            "seeds": options.seeds,
            "command": f"python scripts/benchmarks/peers.py --only {key} --seeds {seeds} --limit {options.limit:g}",
            "machine": describe_machine(),
            "date": time.strftime("%Y-%m-%d"),
        }
        stored["pairs"] = {k: stored["pairs"][k] for k in PAIRS if k in stored["pairs"]}
        write(stored)
        print(f"{pair.title}: {speedup} times sooner than {rows[1]['contender']}" + (" at least" if bound else ""))
    if options.json:
        print(json.dumps(figures(stored, options.only)))


if __name__ == "__main__":
    main()
