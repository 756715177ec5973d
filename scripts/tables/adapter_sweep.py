"""What the comparisons of adapters on pretrained models share: settings searched, adapters trained, packed and scored.

For each kind of adapter the search begins at one setting of the middle rank, of DoRA where its kind without lengths
ended, and changes one thing at a time, both ways and then on in the better one while that helps: the rate by factors of
3, then, of the sine kinds, ω by 4, then α by 4, each of these with the rate divided along, so that the first steps stay
as large. Other ranks begin there and search the rate. All of that is on the validation part alone; what counts is the
mean over the first `--choose-seeds` seeds and the numbers of bits of `--choose-at`: a rate at which one seed of two
collapses is not taken. Then every seed trains what was found, and each adapter is packed at every number of
bits and scored on the test part. Finished runs are kept, and it goes on from there.
"""

import argparse
import csv
import io
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from sinefield.adapters import AdapterSpec, attach, load_adapter, remove, restore, save_adapter
from sinefield.adapters.deltas import delta
from sinefield.adapters.file import pack_adapter
from sinefield.compress.adapter_table import ADAPTER_KINDS
from sinefield.errors import SinefieldError
from sinefield.files import write_text
from sinefield.machine import describe_machine
from sinefield.metrics.rate import bd_rate, pareto
from sinefield.tables import table
from sinefield.tensor_files import load_tensors, save_tensors

DOCS = Path(__file__).parents[2] / "docs" / "results"
FLOAT = 32
"""Bits of an adapter that is not packed."""
FURTHEST = 3  # steps away from where a search begins
COLUMNS = ["kind", "rank", "alpha", "omega", "lr", "seed", "steps", "bits", "split", "score", "bytes", "seconds"]
PAPER = {2: "−41.6"}
AGAINST = {"sine": "lora", "sine-dora": "dora"}


@dataclass(frozen=True)
class Setting:
    """An adapter and how it is trained."""

    kind: str
    rank: int
    alpha: float
    omega: float | None
    lr: float
    seed: int = 0

    @property
    def name(self) -> str:
        return "_".join(f"{v:g}" if isinstance(v, float) else str(v) for v in vars(self).values())


@dataclass
class Task:
    """What is adapted, and how it is scored.

    Attributes:
        targets: patterns of layers, as `attach` takes them.
        count: examples to train on.
        loss: mean loss of the training examples with these numbers, differentiable.
        worth: of the model as it is on the validation part, without gradients; larger is better.
        score: of the model as it is on the test part, without gradients.
        metric, higher: the score's name, and whether a larger one is better.
        head: what is trained along from a fresh start, or None; its numbers are in no adapter's file.
        head_lr: the rate of the head.
    """

    model: nn.Module
    targets: list[str]
    count: int
    loss: Callable[[Tensor], Tensor]
    worth: Callable[[], float]
    score: Callable[[], float]
    metric: str
    higher: bool
    head: nn.Linear | None = None
    head_lr: float = 3e-3


def train(task: Task, setting: Setting, steps: int, batch: int) -> None:
    """Adam with a short warm-up and a cosine to zero on an attached adapter and on the head; at rank 0 on the
    head alone."""
    torch.manual_seed(setting.seed)
    groups: list[dict] = []
    if setting.rank:
        attach(task.model, task.targets, AdapterSpec(setting.kind, setting.rank, setting.alpha, setting.omega))
        groups.append({"params": [p for p in task.model.parameters() if p.requires_grad], "lr": setting.lr})
    if task.head is not None:
        task.head.reset_parameters()
        groups.append({"params": list(task.head.requires_grad_(True).parameters()), "lr": task.head_lr})
    optimizer = torch.optim.Adam(groups)
    warm = max(steps // 20, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    generator = torch.Generator().manual_seed(setting.seed)
    task.model.eval()  # no dropout: what the frozen layers give is computed once
    for _ in tqdm(range(steps), desc=setting.name, unit="step", disable=None, leave=False):
        optimizer.zero_grad(set_to_none=True)
        task.loss(torch.randint(0, task.count, (batch,), generator=generator)).backward()
        for group in optimizer.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        optimizer.step()
        schedule.step()


class Runs:
    """Rows of finished runs, kept in a CSV beside the adapters."""

    def __init__(self, task: Task, options: argparse.Namespace) -> None:
        self.task, self.options = task, options
        self.out = Path(options.out) / f"{options.steps}x{options.batch}"
        self.path = self.out / "runs.csv"
        self.rows: dict[tuple[Setting, int, str], dict[str, float]] = {}
        if self.path.exists():
            for row in csv.DictReader(io.StringIO(self.path.read_text())):
                omega = float(row["omega"]) if row["omega"] else None
                numbers = float(row["alpha"]), omega, float(row["lr"])
                setting = Setting(row["kind"], int(row["rank"]), *numbers, int(row["seed"]))
                if int(row["steps"]) == options.steps:
                    self.rows[setting, int(row["bits"]), row["split"]] = {
                        **{"score": float(row["score"]), "bytes": int(row["bytes"]), "seconds": float(row["seconds"])}
                    }

    def keep(self) -> None:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for (setting, bits, split), numbers in self.rows.items():
            row = {**asdict(setting), "steps": self.options.steps, "bits": bits, "split": split, **numbers}
            writer.writerow({k: "" if v is None else v for k, v in row.items()})
        write_text(self.path, stream.getvalue())

    def saved(self, setting: Setting) -> Path:
        """The trained adapter's file; trains it where there is none."""
        path = self.out / f"{setting.name}.safetensors"
        if not path.exists():
            begin = time.process_time()
            train(self.task, setting, self.options.steps, self.options.batch)
            if self.task.head is not None:
                save_tensors(self._head(setting), dict(self.task.head.state_dict()), {})
            save_adapter(self.task.model, path)
            remove(self.task.model, "default")
            self.rows[setting, 0, "train"] = {"score": math.nan, "bytes": 0, "seconds": time.process_time() - begin}
        return path

    def _head(self, setting: Setting) -> Path:
        return self.out / f"{setting.name}.head.safetensors"

    def packed(self, setting: Setting, bits: int) -> tuple[Path, int]:
        """The adapter at a number of bits, and its bytes; unrounded those of its numbers in float32."""
        saved = self.saved(setting)
        if bits == FLOAT:
            targets = load_adapter(saved).values()
            return saved, sum(4 * t.numel() for target in targets for t in target.tensors().values())
        path = self.out / f"{setting.name}_{bits}.sine"
        return path, pack_adapter(saved, path, bits, overwrite=True)["bytes"]

    def score(self, setting: Setting, bits: int, split: str) -> float:
        """Score of one adapter at a number of bits; trains, packs and scores what is not there yet."""
        key = (setting, bits, split)
        if key not in self.rows:
            self.saved(setting)
            begin = time.process_time()
            path, size = self.packed(setting, bits)
            restore(self.task.model, path)
            if self.task.head is not None:
                self.task.head.load_state_dict(load_tensors(self._head(setting), "head")[0])
            value = self.task.score() if split == "test" else self.task.worth()
            remove(self.task.model, "default")
            self.rows[key] = {"score": value, "bytes": size, "seconds": time.process_time() - begin}
            self.keep()
        return self.rows[key]["score"]

    def worth(self, setting: Setting) -> float:
        """What a search makes as large as it can."""
        chosen = itertools.product(range(self.options.choose_seeds), self.options.choose_at)
        values = [self.score(replace(setting, seed=seed), bits, "validation") for seed, bits in chosen]
        mean = float(np.mean(values))
        return mean if math.isfinite(mean) else -math.inf


def _round(value: float) -> float:
    return float(f"{value:.3g}")


def _rate(setting: Setting, factor: float) -> Setting:
    return replace(setting, lr=_round(setting.lr * factor))


def _omega(setting: Setting, factor: float) -> Setting:
    return _rate(replace(setting, omega=_round((setting.omega or 0) * factor)), 1 / factor)


def _alpha(setting: Setting, factor: float) -> Setting:
    return _rate(replace(setting, alpha=_round(setting.alpha * factor)), 1 / factor)


def climb(runs: Runs, setting: Setting, move: Callable[[Setting, float], Setting], factor: float) -> Setting:
    """Try both ways, and go on in the better one while that helps."""
    step = max((factor, 1 / factor), key=lambda s: runs.worth(move(setting, s)))
    best = setting
    for _ in range(FURTHEST):
        tried = move(best, step)
        if runs.worth(tried) <= runs.worth(best):
            break
        best = tried
    return best


def search(runs: Runs, start: Setting) -> dict[int, Setting]:
    """The best setting found of one kind for each rank, see the head of this file.

    Arguments:
        start: of any rank.
    """
    ranks = sorted(runs.options.ranks)
    middle = ranks[len(ranks) // 2]
    best = climb(runs, replace(start, rank=middle), _rate, 3.0)
    if best.omega is not None:
        best = climb(runs, best, _omega, 4.0)
    best = climb(runs, best, _alpha, 4.0)
    found = {middle: best}
    for rank in ranks:
        if rank != middle:
            found[rank] = climb(runs, replace(best, rank=rank), _rate, 3.0)
    return found


def compare(runs: Runs, starts: dict[str, Setting]) -> list[dict]:
    """Rows of what is chosen for each kind and rank, by seed and number of bits, with its score on the test part."""
    o, rows = runs.options, []
    chosen: dict[str, dict[int, Setting]] = {}
    for kind in o.kinds:
        start = starts[kind]
        plainer = chosen.get(kind.replace("sine-dora", "sine").replace("dora", "lora"), {})
        if plainer:  # DoRA begins where the kind without lengths ended
            start = replace(plainer[sorted(plainer)[len(plainer) // 2]], kind=kind)
        chosen[kind] = search(runs, start)
    for seed, rank, kind, bits in itertools.product(range(o.seeds), sorted(o.ranks), o.kinds, o.bits):
        setting = replace(chosen[kind][rank], seed=seed)
        value = runs.score(setting, bits, "test")
        rows.append(
            {**asdict(setting), "bits": bits, "score": value, "bytes": runs.rows[setting, bits, "test"]["bytes"]}
        )
    runs.keep()
    return rows


def finished(runs: Runs) -> list[dict]:
    """Rows of what is on the test part so far, however far a comparison came."""
    o, tested = runs.options, [(k, v) for k, v in runs.rows.items() if k[2] == "test"]
    rows = [
        {**asdict(setting), "bits": bits, "score": v["score"], "bytes": v["bytes"]} for (setting, bits, _), v in tested
    ]
    return [r for r in rows if r["kind"] in o.kinds and r["rank"] in o.ranks and r["bits"] in o.bits]


def change(rows: list[dict], bits: int, kind: str, higher: bool) -> tuple[float, float | None, float | None] | None:
    """BD-rate against the plain kind over ranks at equal bits, of the mean over seeds, and the ends of 95 % of a
    bootstrap over seeds; None where the curves do not overlap."""
    against, sign = AGAINST[kind], 1 if higher else -1
    by = {(r["kind"], r["rank"], r["seed"]): r for r in rows if r["bits"] == bits}
    ranks, seeds = (sorted({k[i] for k in by}) for i in (1, 2))
    seeds = [seed for seed in seeds if all((k, rank, seed) in by for k in (kind, against) for rank in ranks)]
    size, value = (
        {k: np.array([[by[k, rank, seed][v] for rank in ranks] for seed in seeds]) for k in (kind, against)}
        for v in ("bytes", "score")
    )

    def of(drawn: np.ndarray) -> float | None:
        curves = [pareto(size[k][drawn].mean(0), sign * value[k][drawn].mean(0)) for k in (against, kind)]
        try:
            return bd_rate(*curves[0], *curves[1])
        except SinefieldError:  # too few ranks, or curves that do not overlap
            return None

    mean = of(np.arange(len(seeds)))
    if mean is None:
        return None
    chance = np.random.default_rng(0)
    found = [x for _ in range(2000) if (x := of(chance.integers(0, len(seeds), len(seeds)))) is not None]
    low, high = np.percentile(found, [2.5, 97.5]) if len(seeds) > 2 and found else (None, None)
    return mean, low, high


def stable_ranks(runs: Runs, setting: Setting, bits: int) -> tuple[float, float]:
    """Stable rank ‖ΔW‖_F² / ‖ΔW‖₂² of the delta before DoRA's lengths, mean over layers, and ‖ΔW's error‖ / ‖ΔW‖."""
    trained, path = load_adapter(runs.saved(setting)), runs.packed(setting, bits)[0]
    found, error, size = [], 0.0, 0.0
    for name, target in load_adapter(path).items():
        seen = delta(target.spec, target.a.float(), target.b.float())
        true = delta(target.spec, trained[name].a, trained[name].b)
        found.append(float(seen.square().sum() / torch.linalg.matrix_norm(seen, 2).square()))
        error, size = error + float((seen - true).square().sum()), size + float(true.square().sum())
    return float(np.mean(found)), math.sqrt(error / size)


# ---- the page


def _label(bits: int) -> str:
    return "unrounded" if bits == FLOAT else f"{bits} bit{'s' if bits > 1 else ''}"


def _mean(values: list[float], digits: int) -> str:
    error = f" ± {np.std(values, ddof=1) / math.sqrt(len(values)):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{error}"


def tables(runs: Runs, rows: list[dict], digits: int) -> str:
    """Scores and bytes, BD-rates, what was chosen, and stable ranks, as Markdown."""
    o, higher = runs.options, runs.task.higher
    ranks, kinds, bits = sorted(o.ranks), o.kinds, sorted(o.bits)
    scores, chosen, stable = [], [], []
    for rank, kind in itertools.product(ranks, kinds):
        mine = [r for r in rows if (r["rank"], r["kind"]) == (rank, kind)]
        line: dict = {"rank": rank, "adapter": kind}
        for b in bits:
            at = [r for r in mine if r["bits"] == b]
            line[_label(b)] = f"{_mean([r['score'] for r in at], digits)} ({np.mean([r['bytes'] for r in at]):,.0f})"
        scores.append(line)
        first = mine[0]
        tried = sum(k[0].kind == kind and k[0].rank == rank and k[2] == "validation" for k in runs.rows)
        setting = Setting(kind, rank, first["alpha"], first["omega"], first["lr"])
        found = {} if o.report else {b: stable_ranks(runs, setting, b) for b in bits}
        chosen.append(
            {
                **{"rank": rank, "adapter": kind, "lr": f"{first['lr']:g}", "α": f"{first['alpha']:g}"},
                **{"ω": "–" if first["omega"] is None else f"{first['omega']:g}"},
                "tried": tried // (len(o.choose_at) * o.choose_seeds),
            }
        )
        stable.append(
            {
                **{"rank": rank, "adapter": kind},
                **{_label(b): f"{s:.2f}" + (f" ({e:.2f})" if b != FLOAT else "") for b, (s, e) in found.items()},
            }
        )
    changes = []
    for b, kind in itertools.product(bits, [k for k in kinds if k in AGAINST and AGAINST[k] in kinds]):
        found = change(rows, b, kind, higher)
        line = {"bits": _label(b), "adapter": kind, "against": AGAINST[kind]}
        line["BD-rate %"] = "no common range" if found is None else f"{found[0]:+.1f}"
        line["95 %"] = "" if found is None or found[1] is None else f"{found[1]:+.1f} … {found[2]:+.1f}"
        changes.append({**line, "paper": PAPER.get(b, "") if kind == "sine" else ""})
    parts = [
        f"{runs.task.metric} ({'higher' if higher else 'lower'} is better) on the test part, ± the standard error over "
        "seeds, and (bytes); unrounded bytes are those of the numbers in float32:",
        table(list(scores[0]), scores, markdown=True),
    ]
    if changes:
        parts += [
            "Bytes of the sine at equal score: BD-rate over ranks at equal bits, of the mean over seeds, with 95 % of "
            "a bootstrap over seeds; below 0 the sine is smaller. The paper's figure is of LLaMA-3-8B:",
            table(list(changes[0]), changes, markdown=True),
        ]
    parts += [
        f"Chosen on the validation part, by the mean over {o.choose_seeds} seeds, out of so many settings tried:",
        table(list(chosen[0]), chosen, markdown=True),
    ]
    parts += (
        []
        if o.report
        else [
            "Stable rank ‖ΔW‖_F² / ‖ΔW‖₂² of the first seed's adapters, mean over layers, and (‖error of ΔW‖ / ‖ΔW‖):",
            table(list(stable[0]), stable, markdown=True),
        ]
    )
    return "\n\n".join(parts)


COLOURS = {"lora": "tab:orange", "sine": "tab:blue", "dora": "tab:red", "sine-dora": "tab:cyan"}


def plot(rows: list[dict], base: float | None, runs: Runs, path: Path) -> None:
    """Score over bytes, a panel for each number of bits, and stable rank over bits."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    o = runs.options
    bits = sorted(o.bits)
    panels = len(bits) + (not o.report)
    across = min(panels, 4)
    down = -(-panels // across)
    figure, grid = plt.subplots(down, across, figsize=(3.4 * across, 3.1 * down), layout="constrained", squeeze=False)
    axes = grid.ravel()
    for axis in axes[panels:]:
        axis.remove()
    for axis, b in zip(axes, bits, strict=False):
        for kind in o.kinds:
            sets = [[r for r in rows if (r["kind"], r["rank"], r["bits"]) == (kind, k, b)] for k in sorted(o.ranks)]
            size = [np.mean([r["bytes"] for r in s]) for s in sets]
            value = [np.mean([r["score"] for r in s]) for s in sets]
            spread = [np.std([r["score"] for r in s], ddof=1) / math.sqrt(len(s)) if len(s) > 1 else 0 for s in sets]
            axis.errorbar(size, value, spread, marker="o", ms=3, lw=1, color=COLOURS[kind], label=kind)
        if base is not None:
            low, high = axis.get_ylim()
            axis.axhline(base, color="grey", lw=0.7, ls=":")
            if (
                not low - (high - low) < base < high + (high - low)
            ):  # so far off that the curves would lie on each other
                axis.set_ylim(low, high)
        axis.set(title=_label(b), xlabel="bytes", xscale="log")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    for axis in grid[:, 0]:
        axis.set_ylabel(runs.task.metric)
    axes[0].legend(fontsize=7)
    if not o.report:
        _plot_ranks(rows, runs, axes[panels - 1], bits)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _plot_ranks(rows: list[dict], runs: Runs, last: Any, bits: list[int]) -> None:
    o, rank = runs.options, sorted(runs.options.ranks)[-1]
    for kind in o.kinds:
        first = next(r for r in rows if (r["kind"], r["rank"], r["seed"]) == (kind, rank, 0))
        setting = Setting(kind, rank, first["alpha"], first["omega"], first["lr"])
        last.plot(
            range(len(bits)), [stable_ranks(runs, setting, b)[0] for b in bits], marker="o", ms=3, color=COLOURS[kind]
        )
    last.set(
        title=f"stable rank, rank {rank}", xticks=range(len(bits)), xticklabels=[_label(b).split()[0] for b in bits]
    )
    last.set_xlabel("bits")


def budget(runs: Runs) -> str:
    """One processor's minutes of all runs, and the processor."""
    seconds = sum(numbers["seconds"] for numbers in runs.rows.values())
    return f"{seconds / 60:.0f} minutes of one processor ({describe_machine()['cpu']})"


def add_options(parser: argparse.ArgumentParser, out: str, steps: int, batch: int) -> None:
    """Those of every comparison."""
    add = parser.add_argument
    add("--out", default=out, help="where runs are kept (%(default)s)")
    add("--kinds", nargs="+", choices=ADAPTER_KINDS, default=["lora", "sine", "dora", "sine-dora"])
    add("--ranks", nargs="+", type=int, default=[1, 4, 16])
    add("--bits", nargs="+", type=int, choices=[*range(1, 9), FLOAT], default=[1, 2, 4, FLOAT])
    add("--choose-at", nargs="+", type=int, choices=[*range(1, 9), FLOAT], default=[2, FLOAT])
    add("--seeds", type=int, default=3)
    add("--choose-seeds", type=int, default=2, help="seeds that settings are chosen by (%(default)s)")
    add("--steps", type=int, default=steps)
    add("--batch", type=int, default=batch)
    add("--report", action="store_true", help="only the page of the runs there are, without stable ranks")
    add("--write", action="store_true", help="write the page, its plot and its rows to docs/results")
