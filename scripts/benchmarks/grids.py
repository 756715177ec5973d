"""Feature lines and planes in low rank, plain and under a sine, beside hash grids and networks alone.

    python scripts/benchmarks/grids.py [lego demo] [--budgets small large] [--only NAME …] [--tables]

All contenders have about as many numbers, the same colour head, the same rays and the same CPU time; the encodings are
in grid_kinds.py. Rates, and the sine's phase at the start, are swept for each in short trainings of the first scene and
judged by five training views; the best setting is then trained for the full time, and used as it is on the other
scenes. Bytes: that of a `.sine` file with the weights rounded once, steps by sensitivity, to one size for all; nothing
is trained on after rounding. PSNR is the mean over the test views, with float weights and with rounded ones.
Writes docs/results/grids.json, .md and .png.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from grid_kinds import CP, VM, FactoredVM
from torch import nn

from sinefield.compress.container import encode
from sinefield.config import data_folder, make_config
from sinefield.data.made.synthetic import synthesize
from sinefield.fields.base import step_generator
from sinefield.fields.radiance.scores import mean_psnr
from sinefield.fields.radiance.training import RadianceTask, load_scene
from sinefield.files import write_text
from sinefield.learning.loop import make_optimizers, rate
from sinefield.learning.refine import allocate, install, sensitivities
from sinefield.machine import describe_machine
from sinefield.nn.backend import hidden_dtype
from sinefield.nn.mlp import MLP
from sinefield.nn.optimisers import Adam
from sinefield.store.sine_files import to_packed
from sinefield.tables import table

RESULTS = Path(__file__).parents[2] / "docs" / "results"
ONE_LAYER: dict[str, Any] = {"depth": 1, "weights": "dense", "frequencies": 0}
SCENES = {"lego": {"small": 8, "large": 4}, "demo": {"small": 1, "large": 1}, "fern": {"small": 32, "large": 16}}
"""Scenes, and by how much each is downscaled for a budget."""
BUDGETS = {"small": (10_000, 45.0), "large": (40_000, 75.0)}
"""Bytes of a packed field, and CPU seconds of a training."""
SWEEP_SECONDS = 12.0


@dataclass
class Contender:
    """A kind of field of one size, and the settings that are swept: by name the values to try, the first ones usual."""

    settings: dict[str, Any]
    make: Callable[..., nn.Module] | None = None
    sweep: dict[str, list[float]] = field(default_factory=lambda: {"rate": [1.0, 0.3, 3.0]})


def sine(make: Callable[..., nn.Module]) -> Contender:
    return Contender(ONE_LAYER, make, {"phase": [1.0, 0.3, 3.0], "rate": [1.0, 0.3, 3.0]})


def plain(make: Callable[..., nn.Module]) -> Contender:
    return Contender(ONE_LAYER, make)


def hashed(levels: int, log2_table: int, finest: int) -> Contender:
    grid = {"encoding": "hash", "levels": levels, "log2_table": log2_table, "coarsest": 8, "finest": finest}
    return Contender({"depth": 1, "weights": "dense", **grid})


NETWORKS = {"rate": [1.0, 0.5, 2.0]}
CONTENDERS = {
    "small": {
        "network, sine": Contender({}, sweep=NETWORKS),
        "network, dense": Contender({"weights": "dense", "width": 48}, sweep=NETWORKS),
        "hash": hashed(5, 10, 64),
        "CP": plain(lambda phase=None: CP(96, 28)),
        "CP, sine": sine(lambda phase: CP(96, 28, 1, phase)),
        "CP, sine of 2": sine(lambda phase: CP(72, 20, 2, phase)),
        "VM": plain(lambda phase=None: VM(24, 5)),
        "VM, sine": sine(lambda phase: VM(24, 5, 1, phase)),
        "VM, low-rank planes": plain(lambda phase=None: FactoredVM(64, 8, 2)),
        "VM, sine planes": sine(lambda phase: FactoredVM(64, 8, 2, phase)),
    },
    "large": {
        "network, sine": Contender({"width": 128, "rank": 48}, sweep=NETWORKS),
        "network, dense": Contender({"weights": "dense", "width": 112}, sweep=NETWORKS),
        "hash": hashed(7, 12, 128),
        "CP": plain(lambda phase=None: CP(128, 112)),
        "CP, sine": sine(lambda phase: CP(128, 112, 1, phase)),
        "CP, sine of 2": sine(lambda phase: CP(128, 64, 2, phase)),
        "VM": plain(lambda phase=None: VM(48, 7)),
        "VM, sine": sine(lambda phase: VM(48, 7, 1, phase)),
        "VM, low-rank planes": plain(lambda phase=None: FactoredVM(128, 12, 4)),
        "VM, sine planes": sine(lambda phase: FactoredVM(128, 12, 4, phase)),
    },
}


class Trained:
    """A contender that was trained with some settings for a time."""

    def __init__(self, contender: Contender, config: Any, scene: Any, chosen: dict[str, float], seconds: float) -> None:
        config.training.batch = 16384
        self.task, rates = RadianceTask(config, scene), chosen.get("rate", 1.0)
        network, self.scene = self.task.field, scene
        grids: list[nn.Parameter] = []
        if contender.make is not None:
            network.encoding = contender.make(**{k: v for k, v in chosen.items() if k == "phase"})
            network.trunk = MLP.of(config.field, network.encoding.out_features, 1 + config.field.features)
            grids = list(network.encoding.parameters())
        dtype = hidden_dtype("auto", self.task.device)
        network.set_dtype(dtype)
        optimizers = make_optimizers(self.task, config.training)
        own = {id(p) for p in grids}
        for group in optimizers[0].param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in own]
        base = [o.param_groups[0]["lr"] for o in optimizers]
        if grids:
            optimizers.append(Adam(grids, lr=config.training.adam_lr, eps=1e-15))
            base.append(config.training.adam_lr * rates)
        elif config.field.encoding == "hash":
            base[1] *= rates
        else:
            base = [lr * rates for lr in base]
        self.steps, spent = 0, 0.0
        while spent < seconds:
            begin = time.process_time()
            for optimizer, lr in zip(optimizers, base, strict=True):
                optimizer.param_groups[0]["lr"] = lr * rate(spent / seconds, config.training)
                optimizer.zero_grad()
            self.task.progress = spent / seconds
            self.task.step(self.steps, step_generator(0, self.steps))
            for optimizer in optimizers:
                optimizer.step()
            # The first step may compile.
            spent += time.process_time() - begin if self.steps else 0.0
            self.steps += 1
        network.set_dtype(torch.float32)

    def judged(self) -> float:
        return mean_psnr(self.task.field, self.scene.training_views, 5)

    def reported(self, limit: int) -> dict[str, Any]:
        """Numbers, scores, and what a file of at most so many bytes holds."""
        network = self.task.field
        row = {"steps": self.steps, "numbers": sum(p.numel() for p in network.parameters())}
        row["PSNR"] = round(mean_psnr(network, self.scene.scored_views), 2)
        found = sensitivities(network, self.task.probe())
        kept = {name: p.detach().clone() for name, p in network.named_parameters()}
        low, high = 2.0**-12, 2.0**12
        for _ in range(16):
            scale = (low * high) ** 0.5
            with torch.no_grad():
                for name, p in network.named_parameters():
                    p.copy_(kept[name])
            quantisers = allocate(network, found, scale)
            size = len(encode(to_packed(network, quantisers, {})))
            low, high = (low, scale) if size <= limit else (scale, high)
            if size <= limit:
                install(network, quantisers)
                row["bytes"], best = size, {name: p.detach().clone() for name, p in network.named_parameters()}
        with torch.no_grad():
            for name, p in network.named_parameters():
                p.copy_(best[name])
        return row | {"packed PSNR": round(mean_psnr(network, self.scene.scored_views), 2)}


def configured(name: str, budget: str, contender: Contender, folder: str) -> Any:
    data = {"path": folder if name == "demo" else str(data_folder() / name), "downscale": SCENES[name][budget]}
    place = {"space": "ndc", "steps": 192} if name == "fern" else {}
    content = {"kind": "radiance", "data": data, "field": {**place, **contender.settings}, "training": {"seconds": 60}}
    return make_config(content, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*", default=["lego", "demo"], choices=list(SCENES))
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS), choices=list(BUDGETS))
    parser.add_argument("--only", nargs="+", help="contenders by name")
    parser.add_argument("--tables", action="store_true", help="only write the tables anew")
    options = parser.parse_args()
    store = RESULTS / "grids.json"
    kept: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {"rows": [], "sweeps": []}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if "demo" in options.scenes and not options.tables:
            synthesize(f"{folder}/toys", n_train=60)
        for name in options.scenes if not options.tables else []:
            for budget in options.budgets:
                race(name, budget, options.only, f"{folder}/toys", kept, store)
    write(kept)


def race(name: str, budget: str, only: list[str] | None, folder: str, kept: dict[str, Any], store: Path) -> None:
    """All contenders of a budget on a scene; rows take the place of old ones."""
    limit, seconds = BUDGETS[budget]
    scene = None
    for title, contender in CONTENDERS[budget].items():
        if only and title not in only:
            continue
        config = lambda c=contender: configured(name, budget, c, folder)  # noqa: E731
        scene = load_scene(config()) if scene is None else scene
        chosen = swept(title, budget, kept) or sweep(title, budget, contender, config, scene, kept)
        row = {"scene": name, "budget": budget, "contender": title, **chosen}
        row |= Trained(contender, config(), scene, chosen, seconds).reported(limit)
        same = ("scene", "budget", "contender")
        kept["rows"] = [r for r in kept["rows"] if any(r[k] != row[k] for k in same)] + [row]
        kept |= {"machine": describe_machine()["cpu"], "date": time.strftime("%Y-%m-%d")}
        write_text(store, json.dumps(kept, indent=1) + "\n", overwrite=True)
        print(json.dumps(row), flush=True)


def swept(title: str, budget: str, kept: dict[str, Any]) -> dict[str, float] | None:
    """The best settings of an earlier sweep."""
    found = [s for s in kept["sweeps"] if s["contender"] == title and s["budget"] == budget]
    return max(found, key=lambda s: s["judged"])["settings"] if found else None


def sweep(title: str, budget: str, contender: Contender, config: Any, scene: Any, kept: dict[str, Any]) -> Any:
    """One setting after the other, from its usual value."""
    best = {key: values[0] for key, values in contender.sweep.items()}
    tried: dict[tuple[float, ...], float] = {}
    for key, values in contender.sweep.items():
        for value in values:
            settings = {**best, key: value}
            if tuple(settings.values()) not in tried:
                judged = Trained(contender, config(), scene, settings, SWEEP_SECONDS).judged()
                tried[tuple(settings.values())] = judged
                entry = {"contender": title, "budget": budget, "settings": settings, "judged": round(judged, 2)}
                kept["sweeps"].append(entry)
        best = dict(zip(best, max(tried, key=lambda k: tried[k]), strict=True))
    return best


TEXT = """# Feature grids between network and hash grid

{rows}

![PSNR of each contender](grids.png)

Made by `python scripts/benchmarks/grids.py`, one thread of {machine}, {date}, seed 0, batches of 16,384 samples.
{budgets}
*PSNR* is the mean over the test views with float weights; *packed PSNR* with weights rounded once to a file of at most
that budget's bytes, nothing trained on. Every field with an encoding has one hidden layer of 64 units and the same
colour head; the networks alone have four hidden layers. *Sine* of an encoding: sin(ω·Σ u v w) of the products;
*sine of 2*: of two products' sum; *sine planes*: the planes' entries are sin(ω U V). Phase and rate: see the sweeps.

## Sweeps

Short trainings of {sweep:g} s on Lego, judged by five training views.

{sweeps}
"""


def write(kept: dict[str, Any]) -> None:
    columns = ["scene", "budget", "contender", "numbers", "steps", "PSNR", "bytes", "packed PSNR", "rate", "phase"]
    sweeps = [{**s, **s["settings"]} for s in kept["sweeps"]]
    budgets = "\n".join(
        f"Budget *{name}*: {limit:,} bytes, {seconds:g} s of CPU; Lego at {800 // SCENES['lego'][name]} × "
        f"{800 // SCENES['lego'][name]}."
        for name, (limit, seconds) in BUDGETS.items()
    )
    text = TEXT.format(
        rows=table(columns, kept["rows"], markdown=True), machine=kept["machine"], date=kept["date"], budgets=budgets,
        sweep=SWEEP_SECONDS, sweeps=table(["budget", "contender", "rate", "phase", "judged"], sweeps, markdown=True),
    )  # fmt: skip
    write_text(RESULTS / "grids.md", text, overwrite=True)
    plot(kept["rows"])


def plot(rows: list[dict[str, Any]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = sorted({(r["scene"], r["budget"]) for r in rows}, key=lambda g: (g[1] != "small", g[0] != "lego"))
    figure = Figure(figsize=(4 * len(groups), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        own = [r for r in rows if (r["scene"], r["budget"]) == group][::-1]
        names, places = [r["contender"] for r in own], range(len(own))
        axes.plot([r["packed PSNR"] for r in own], places, "o", color="#b5482a", label="packed")
        axes.plot([r["PSNR"] for r in own], places, "|", color="#1f6f8b", markersize=12, label="float")
        axes.set_yticks(list(places), names, fontsize=8)
        axes.set(xlabel="PSNR (dB)", title=f"{group[0]}, {group[1]}")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=7)
    figure.savefig(RESULTS / "grids.png", dpi=110)


if __name__ == "__main__":
    main()
