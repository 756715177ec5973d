"""Sine-LoRA against LoRA, over ranks and bits: a small network that reads digits learns to read them on their side.

    python scripts/tables/adapters_digits.py [--seeds 8] [--quick]

An MLP of two hidden layers of 128 units is trained on scikit-learn's 1,797 digits (8×8); adapters on its hidden layers
then learn the same digits turned by 90° and inverted. Each is trained in float32 and packed at 1 to 8 bits into a
`.sine` file, whose bytes count; at 32 bits they are those of the numbers. Both kinds have sixteen settings, swept for
each rank and chosen for each rank and number of bits by accuracy on other digits than those of the score: LoRA four
learning rates and four α, the sine four learning rates and four ω. A seed draws the split, the base and the adapter.
Writes docs/results/adapters_digits.csv, .md and .png.
"""

import argparse
import copy
import csv
import io
import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from sinefield.adapters import AdapterSpec, attach, detach, remove, restore, save_adapter
from sinefield.adapters.file import pack_adapter
from sinefield.errors import SinefieldError
from sinefield.files import atomic_path, write_text
from sinefield.machine import describe_machine
from sinefield.metrics.rate import bd_rate, pareto
from sinefield.tables import table

STORE = Path(__file__).parents[2] / "docs" / "results" / "adapters_digits.csv"
WIDTH, STEPS, BATCH = 128, 200, 128
RANKS = (1, 2, 4, 8, 16)
BITS = (1, 2, 3, 4, 5, 6, 7, 8, 32)
TUNING = (1000, 1001)  # seeds that choose the settings and are not reported
DRAWS = 2000  # of the bootstrap
PAPER = (2, -41.6)  # bits, BD-rate in percent: the second paper's, on language models


@dataclass(frozen=True)
class Setting:
    kind: str
    lr: float
    alpha: float
    omega: float | None


LORA = [Setting("lora", lr, alpha, None) for lr in (3e-3, 1e-2, 3e-2, 1e-1) for alpha in (4.0, 16.0, 64.0, 256.0)]
SINE = [Setting("sine", lr, 16.0, omega) for lr in (1e-3, 3e-3, 1e-2, 3e-2) for omega in (4.0, 16.0, 64.0, 256.0)]
FULL = (1e-3, 3e-3, 1e-2)  # learning rates of the full fine-tune
SETTINGS = {"lora": LORA, "sine": SINE}


@dataclass
class Digits:
    """Pixels (n, 64) in [0, 1] and classes (n,), upright and shifted, by split."""

    upright: dict[str, tuple[Tensor, Tensor]]
    shifted: dict[str, tuple[Tensor, Tensor]]


def digits(seed: int) -> Digits:
    """60 % to train on, 20 % to choose settings by, 20 % for the score."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images / 16, dtype=torch.float32)
    labels = torch.tensor(data.target, dtype=torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    cut = (6 * len(order) // 10, 8 * len(order) // 10)
    places = dict(
        zip(("train", "validation", "test"), (order[: cut[0]], order[cut[0] : cut[1]], order[cut[1] :]), strict=True)
    )
    turned = 1 - images.rot90(1, (1, 2))
    upright, shifted = (
        {name: (x[p].flatten(1).contiguous(), labels[p]) for name, p in places.items()} for x in (images, turned)
    )
    return Digits(upright, shifted)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))


def train(model: nn.Module, data: tuple[Tensor, Tensor], lr: float, seed: int, steps: int = STEPS) -> None:
    """Adam with a cosine to zero on whatever of the model is not frozen."""
    x, y = data
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        batch = torch.randint(0, len(x), (BATCH,), generator=generator)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()


@torch.no_grad()
def scores(model: nn.Module, data: tuple[Tensor, Tensor]) -> dict[str, float]:
    logits = model(data[0])
    accuracy = float((logits.argmax(1) == data[1]).double().mean())
    return {"accuracy": accuracy, "loss": float(F.cross_entropy(logits, data[1]))}


def base(data: Digits, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    model = network()
    train(model, data.upright["train"], 1e-3, seed)
    return model


def adapted(
    model: nn.Sequential, data: Digits, rank: int, setting: Setting, bits: tuple[int, ...], split: str, seed: int
) -> list[dict]:
    """Scores and bytes of one adapter at each number of bits; the model is then as it was."""
    torch.manual_seed(seed)
    attach(model, ["0", "2"], AdapterSpec(setting.kind, rank, setting.alpha, setting.omega))
    train(model, data.shifted["train"], setting.lr, seed)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "adapter.safetensors"
        targets = save_adapter(model, saved)
        numbers = sum(t.numel() for target in targets.values() for t in target.tensors().values())
        whole = scores(model, data.shifted[split])
        remove(model, "default")
        for number in bits:
            row = {"rank": rank, "bits": number, "seed": seed, **asdict(setting)}
            if number == 32:
                rows.append({**row, **whole, "bytes": 4 * numbers})
                continue
            packed = pack_adapter(saved, Path(folder) / "adapter.sine", number, overwrite=True)
            restore(model, Path(folder) / "adapter.sine")
            rows.append({**row, **scores(model, data.shifted[split]), "bytes": packed["bytes"]})
            remove(model, "default")
    detach(model)
    return rows


def choose(seeds: tuple[int, ...]) -> dict[tuple[str, int, int], Setting]:
    """For each kind, rank and number of bits the setting of the best mean accuracy on validation digits."""
    found: dict[tuple, list[tuple[float, float]]] = {}
    bar = tqdm(total=len(seeds) * len(RANKS) * (len(LORA) + len(SINE)), desc="settings", disable=None)
    for seed in seeds:
        data = digits(seed)
        model = base(data, seed)
        for rank in RANKS:
            for setting in LORA + SINE:
                for row in adapted(model, data, rank, setting, BITS, "validation", seed):
                    found.setdefault((setting, rank, row["bits"]), []).append((row["accuracy"], -row["loss"]))
                bar.update()
    bar.close()
    means = {key: tuple(np.mean(values, axis=0)) for key, values in found.items()}
    return {
        (kind, rank, bits): max(settings, key=lambda s: means[s, rank, bits])
        for kind, settings in SETTINGS.items()
        for rank in RANKS
        for bits in BITS
    }


def measure(chosen: dict[tuple[str, int, int], Setting], seeds: int) -> tuple[list[dict], list[dict]]:
    """Rows of adapters, and for each seed what the base and a full fine-tune score."""
    rows, ends = [], []
    bar = tqdm(total=seeds * len(RANKS) * len(SETTINGS), desc="adapters", disable=None)
    for seed in range(seeds):
        data = digits(seed)
        model = base(data, seed)
        before = scores(model, data.shifted["test"])["accuracy"]
        upright = scores(model, data.upright["test"])["accuracy"]
        for rank in RANKS:
            for kind in SETTINGS:
                bits_of: dict[Setting, list[int]] = {}
                for bits in BITS:
                    bits_of.setdefault(chosen[kind, rank, bits], []).append(bits)
                for setting, bits in bits_of.items():
                    rows += adapted(model, data, rank, setting, tuple(bits), "test", seed)
                bar.update()
        full = fine_tuned(model, data, seed)
        ends.append({"seed": seed, "upright": upright, "before": before, "full": full})
    bar.close()
    return rows, ends


def fine_tuned(model: nn.Sequential, data: Digits, seed: int) -> float:
    """Accuracy when all weights learn, at the learning rate that is best on validation digits."""
    found = []
    for lr in FULL:
        tuned = copy.deepcopy(model).requires_grad_(True)
        train(tuned, data.shifted["train"], lr, seed)
        found.append([scores(tuned, data.shifted[split])["accuracy"] for split in ("validation", "test")])
    return max(found)[1]


def grids(rows: list[dict], value: str) -> dict[tuple[str, int], np.ndarray]:
    """(seeds, ranks) of a column, by kind and bits."""
    by = {(r["kind"], r["bits"], r["seed"], r["rank"]): r[value] for r in rows}
    seeds = sorted({r["seed"] for r in rows})
    return {
        (kind, bits): np.array([[by[kind, bits, seed, rank] for rank in RANKS] for seed in seeds])
        for kind in SETTINGS
        for bits in BITS
    }


def change(rows: list[dict], bits: int) -> dict:
    """BD-rate of the sine against LoRA over ranks at equal bits: of the mean over seeds, and a bootstrap over seeds."""
    rate, quality = grids(rows, "bytes"), grids(rows, "accuracy")
    pairs = [(rate[kind, bits], quality[kind, bits]) for kind in ("lora", "sine")]

    def of(seeds: np.ndarray) -> float | None:
        curves = [pareto(r[seeds].mean(0), q[seeds].mean(0)) for r, q in pairs]
        try:
            return bd_rate(*curves[0], *curves[1])
        except SinefieldError:  # too few points that grow, or curves that do not overlap
            return None

    count = len(pairs[0][0])
    chance = np.random.default_rng(0)
    found = [of(chance.integers(0, count, count)) for _ in range(DRAWS)]
    kept = [x for x in found if x is not None]
    low, high = np.percentile(kept, [2.5, 97.5]) if kept else (None, None)
    value = of(np.arange(count))
    return {"bits": bits, "BD-rate %": value, "low": low, "high": high, "draws without": len(found) - len(kept)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="one tuning seed, two seeds, nothing is written")
    options = parser.parse_args()
    begin = time.process_time()
    torch.set_num_threads(1)
    chosen = choose(TUNING[:1] if options.quick else TUNING)
    rows, ends = measure(chosen, 2 if options.quick else options.seeds)
    changes = [change(rows, bits) for bits in BITS]
    print(table(list(changes[0]), changes))
    if options.quick:
        return
    stream = io.StringIO()
    writer = csv.DictWriter(
        stream, ["kind", "rank", "bits", "seed", "lr", "alpha", "omega", "accuracy", "loss", "bytes"]
    )
    writer.writeheader()
    writer.writerows({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    write_text(STORE, stream.getvalue())
    write_text(STORE.with_suffix(".md"), text(rows, ends, changes, options.seeds, time.process_time() - begin))
    plot(rows, ends, changes)


def text(rows: list[dict], ends: list[dict], changes: list[dict], seeds: int, seconds: float) -> str:
    quality, size = grids(rows, "accuracy"), grids(rows, "bytes")
    shown = (1, 2, 3, 4, 6, 8, 32)
    cells = []
    for rank in RANKS:
        for kind in ("lora", "sine"):
            row = {"rank": rank, "adapter": kind}
            for bits in shown:
                accuracy = 100 * quality[kind, bits][:, RANKS.index(rank)]
                error = accuracy.std(ddof=1) / math.sqrt(seeds)
                taken = size[kind, bits][:, RANKS.index(rank)].mean()
                row["1 bit" if bits == 1 else f"{bits} bits"] = f"{accuracy.mean():.1f} ± {error:.1f} ({taken:,.0f})"
            cells.append(row)
    lines = []
    for c in changes:
        known = c["BD-rate %"] is not None and c["low"] is not None
        paper = f"{PAPER[1]:.1f}".replace("-", "−") if c["bits"] == PAPER[0] else ""
        within = f"{c['low']:+.1f} … {c['high']:+.1f}".replace("-", "−") if known else "–"
        value = f"{c['BD-rate %']:+.1f}".replace("-", "−") if known else "–"
        sure = known and (c["high"] < 0 or c["low"] > 0)
        verdict = ("sine" if c["BD-rate %"] < 0 else "LoRA") if sure else "undecided"
        lines.append({"bits": c["bits"], "BD-rate %": value, "95 %": within, "smaller": verdict, "paper": paper})
    means = {k: 100 * np.mean([e[k] for e in ends]) for k in ("upright", "before", "full")}
    used = sorted({(r["kind"], r["rank"], r["lr"], r["alpha"], r["omega"] or 0.0) for r in rows})
    edge = {k: sorted({u[2] for u in used if u[0] == k}) for k in SETTINGS}
    rates = "; ".join(f"{k}: {', '.join(f'{v:g}' for v in edge[k])}" for k in SETTINGS)
    omegas = ", ".join(f"{v:g}" for v in sorted({u[4] for u in used if u[0] == "sine"}))
    return f"""# Sine-LoRA against LoRA: digits on their side

`python scripts/tables/adapters_digits.py`: {seeds} seeds, {seconds / 60:.0f} minutes of one processor
({describe_machine()["cpu"]}). An MLP 64–{WIDTH}–{WIDTH}–10 that reads {means["upright"]:.1f} % of upright
digits reads {means["before"]:.1f} % of those turned by 90° and inverted, and {means["full"]:.1f} % after a full
fine-tune. Adapters on its two hidden layers, {STEPS} steps; each kind had sixteen settings, chosen for each rank and
number of bits on other digits (the script's head says how).

Bytes of sine-LoRA against LoRA at equal accuracy: BD-rate over ranks 1–16 at equal bits, of the mean over seeds, with
95 % of a bootstrap over seeds (not over the choice of settings); below 0 the sine is smaller. The paper's figure is of
language models.

{table(list(lines[0]), lines, markdown=True)}

Accuracy in percent ± standard error (bytes):

{table(list(cells[0]), cells, markdown=True)}

![Accuracy against bytes, and BD-rate against bits](adapters_digits.png)

Learning rates chosen: {rates}. ω chosen: {omegas}. All rows: adapters_digits.csv.
"""


def plot(rows: list[dict], ends: list[dict], changes: list[dict]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    quality, size = grids(rows, "accuracy"), grids(rows, "bytes")
    colours = {"lora": "tab:orange", "sine": "tab:blue"}
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.8), layout="constrained")
    for axis, bits in zip(axes, (1, 2, 4), strict=False):
        for kind, colour in colours.items():
            y = 100 * quality[kind, bits]
            error = y.std(0, ddof=1) / math.sqrt(len(y))
            axis.errorbar(size[kind, bits].mean(0), y.mean(0), error, marker="o", color=colour, label=kind, capsize=2)
        axis.axhline(100 * np.mean([e["full"] for e in ends]), color="grey", lw=0.8, ls="--", label="full fine-tune")
        ticks = size["lora", bits].mean(0)
        axis.set(xscale="log", xlabel="bytes", title=f"{bits} bit{'s' if bits > 1 else ''}, ranks 1–16")
        axis.set_xticks(ticks, [f"{t:,.0f}" for t in ticks], minor=False)
        axis.minorticks_off()
    axes[0].set_ylabel("accuracy, %")
    axes[0].legend()
    known = [c for c in changes if c["BD-rate %"] is not None and c["low"] is not None]
    places = {bits: i for i, bits in enumerate(BITS)}
    y = np.array([c["BD-rate %"] for c in known])
    spread = np.abs(np.array([[c["low"] for c in known], [c["high"] for c in known]]) - y)
    axes[3].errorbar(
        [places[c["bits"]] for c in known], y, spread, fmt="o", color="tab:blue", capsize=3, label="here, 95 %"
    )
    axes[3].plot(places[PAPER[0]], PAPER[1], "k*", ms=10, label="paper, language models")
    axes[3].axhline(0, color="grey", lw=0.8)
    axes[3].set(xticks=range(len(BITS)), xticklabels=BITS, xlabel="bits", ylabel="BD-rate of sine against LoRA, %")
    axes[3].set_title("below 0 the sine is smaller")
    axes[3].legend()
    with atomic_path(STORE.with_suffix(".png")) as path:
        figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
