"""Sine-LoRA against LoRA on a language model: SmolLM2-135M-Instruct learns Italian.

    python scripts/adapters/pretrained.py smollm2 runs/models/smollm2
    python scripts/tables/adapters_language.py --model runs/models/smollm2 --data /usr/share/games/fortunes/it
    python scripts/tables/adapters_language.py … --kinds lora sine dora sine-dora --ranks 1 2 4 8 16 \
        --bits 1 2 3 4 5 6 7 8 32 --seeds 3 --steps 1000 --batch 16 --omegas 50 200 800 --alphas 8 16 64 --device cuda

The text is the fortunes of Debian's package fortunes-it (`apt-get install fortunes-it`), each once, in an order drawn
once: a twentieth to choose by, a twentieth for the score, the rest to train on. An adapter is trained in float32 on a
frozen model and then packed at each number of bits; at 32 bits its bytes are those of the numbers. Rates are swept for
each kind, rank, α and ω: three, and on past the end while the best is at an end. What is chosen for a number of bits
has the least loss at that number of bits on the text to choose by. Only what is chosen is scored on the rest. Seeds
draw the adapter's start and the order of the batches. Finished runs are kept in --out, and it goes on from there.
"""

import argparse
import csv
import io
import itertools
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from sinefield.adapters import AdapterSpec, attach, load_adapter, remove, restore, save_adapter
from sinefield.adapters.file import pack_adapter
from sinefield.compress.adapter_table import ADAPTER_KINDS
from sinefield.errors import SinefieldError
from sinefield.files import write_text
from sinefield.machine import describe_machine
from sinefield.metrics.rate import bd_rate, pareto
from sinefield.tables import table

DOCS = Path(__file__).parents[2] / "docs" / "results"
START = {"lora": 3e-3, "dora": 3e-3, "sine": 1e-3, "sine-dora": 1e-3}
"""Rates where each sweep begins; it goes on by factors of 3 both ways."""
FURTHEST = 3  # steps of the sweep from where it begins
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
COLUMNS = ["kind", "rank", "alpha", "omega", "lr", "seed", "steps", "bits", "split", "nats", "bytes", "seconds"]


@dataclass(frozen=True)
class Setting:
    kind: str
    rank: int
    alpha: float
    omega: float | None
    lr: float
    seed: int

    @property
    def name(self) -> str:
        return "_".join(f"{v:g}" if isinstance(v, float) else str(v) for v in vars(self).values())


def fortunes(folder: Path) -> list[str]:
    """Each fortune once, sorted; they are parted by lines of %."""
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and p.suffix not in (".dat", ".u8")]
    found = {part.strip() for p in files for part in p.read_text("utf-8", "replace").split("\n%\n")}
    if len(found) < 100:
        raise SinefieldError(f"{folder}: holds {len(found)} fortunes; apt-get install fortunes-it")
    return sorted(found - {""})


def splits(texts: list[str], tokenizer, length: int) -> dict[str, Tensor]:
    """(pieces, length) tokens of the three parts; a fortune ends in the model's end of text."""
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    cut = len(order) // 20
    places = {"validation": order[:cut], "test": order[cut : 2 * cut], "train": order[2 * cut :]}
    found = {}
    for name, chosen in places.items():
        tokens = [t for i in chosen for t in [*tokenizer(texts[i])["input_ids"], tokenizer.eos_token_id]]
        count = len(tokens) // length
        found[name] = torch.tensor(tokens[: count * length]).view(count, length)
    return found


def losses(model: nn.Module, tokens: Tensor) -> Tensor:
    """Of every token but each piece's first, in nats."""
    tokens = tokens.to(next(model.parameters()).device)
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].float()
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")


@torch.no_grad()
def score(model: nn.Module, pieces: Tensor, batch: int) -> float:
    model.eval()
    return float(torch.cat([losses(model, part) for part in pieces.split(batch)]).double().mean())


def train(model: nn.Module, pieces: Tensor, lr: float, seed: int, steps: int, batch: int, label: str) -> None:
    """Adam with a short warm-up and a cosine to zero on whatever of the model is not frozen."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr)
    generator = torch.Generator().manual_seed(seed)
    warm = max(steps // 20, 1)
    model.train()
    for step in tqdm(range(steps), desc=label, unit="step", disable=None, leave=False):
        optimizer.param_groups[0]["lr"] = lr * min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        chosen = torch.randint(0, len(pieces), (batch,), generator=generator)
        optimizer.zero_grad(set_to_none=True)
        losses(model, pieces[chosen]).mean().backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()


class Runs:
    """Rows of finished runs, kept in a CSV beside the adapters."""

    def __init__(self, model: nn.Module, data: dict[str, Tensor], options: argparse.Namespace) -> None:
        self.model, self.data, self.options = model, data, options
        self.out = Path(options.out)
        self.path = self.out / "runs.csv"
        self.rows: dict[tuple, dict] = {}
        if self.path.exists():
            for row in csv.DictReader(io.StringIO(self.path.read_text())):
                setting = Setting(
                    row["kind"],
                    int(row["rank"]),
                    float(row["alpha"]),
                    float(row["omega"]) if row["omega"] else None,
                    float(row["lr"]),
                    int(row["seed"]),
                )
                if int(row["steps"]) == options.steps:
                    numbers = {"nats": float(row["nats"]), "bytes": int(row["bytes"]), "seconds": float(row["seconds"])}
                    self.rows[setting, int(row["bits"]), row["split"]] = numbers

    def keep(self) -> None:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        for (setting, bits, split), numbers in self.rows.items():
            row = {**asdict(setting), "steps": self.options.steps, "bits": bits, "split": split, **numbers}
            writer.writerow({k: "" if v is None else f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
        write_text(self.path, stream.getvalue())

    def nats(self, setting: Setting, bits: int, split: str) -> float:
        """Loss of one adapter at a number of bits; trains, packs and scores what is not there yet."""
        if (setting, bits, split) not in self.rows:
            if split == "validation":
                self.train(setting)
            else:
                self.score(setting, bits, split, 0.0)
            self.keep()
        return self.rows[setting, bits, split]["nats"]

    def train(self, setting: Setting) -> None:
        o, begin = self.options, time.process_time()
        torch.manual_seed(setting.seed)
        attach(self.model, o.targets, AdapterSpec(setting.kind, setting.rank, setting.alpha, setting.omega))
        train(self.model, self.data["train"], setting.lr, setting.seed, o.steps, o.batch, setting.name)
        save_adapter(self.model, self.out / f"{setting.name}.safetensors")
        remove(self.model, "default")
        seconds = time.process_time() - begin
        for bits in o.bits:
            self.score(setting, bits, "validation", seconds)

    def score(self, setting: Setting, bits: int, split: str, seconds: float) -> None:
        saved = self.out / f"{setting.name}.safetensors"
        if bits == 32:
            size = sum(4 * t.numel() for target in load_adapter(saved).values() for t in target.tensors().values())
        else:
            packed = self.out / f"{setting.name}_{bits}.sine"
            size = pack_adapter(saved, packed, bits, overwrite=True)["bytes"]
            saved = packed
        restore(self.model, saved)
        nats = score(self.model, self.data[split], self.options.batch)
        remove(self.model, "default")
        self.rows[setting, bits, split] = {"nats": nats, "bytes": size, "seconds": seconds}


def sweep(runs: Runs, kind: str, rank: int, alpha: float, omega: float | None, seed: int) -> list[Setting]:
    """Settings of one α and ω, by rates; on past an end while the best of some number of bits is there."""
    places = [0, -1, 1]
    bits = runs.options.bits

    def setting(place: int) -> Setting:
        return Setting(kind, rank, alpha, omega, float(f"{START[kind] * 3.0**place:.3g}"), seed)

    while True:
        values = {p: [runs.nats(setting(p), b, "validation") for b in bits] for p in places}
        best = {min(places, key=lambda p, i=i: _or_inf(values[p][i])) for i in range(len(bits))}
        more = {p + d for p in best for d in (-1, 1) if p + d not in places and abs(p + d) <= FURTHEST}
        if not more:
            return [setting(p) for p in sorted(places)]
        places += sorted(more)


def _or_inf(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def choose(runs: Runs) -> list[dict]:
    """Rows of what is chosen for each kind, rank, seed and number of bits, with its score on the test text."""
    o, rows = runs.options, []
    for rank, seed, kind in itertools.product(o.ranks, range(o.seeds), o.kinds):
        omegas = o.omegas if kind.startswith("sine") else [None]
        tried = [s for a, w in itertools.product(o.alphas, omegas) for s in sweep(runs, kind, rank, a, w, seed)]
        for bits in o.bits:
            best = min(tried, key=lambda s: _or_inf(runs.nats(s, bits, "validation")))
            nats = runs.nats(best, bits, "test")
            size = runs.rows[best, bits, "test"]["bytes"]
            rows.append({**asdict(best), "bits": bits, "nats": nats, "bytes": size, "tried": len(tried)})
    return rows


def change(rows: list[dict], bits: int, kind: str, against: str) -> tuple[float, float | None, float | None] | None:
    """BD-rate over ranks at equal bits of the mean over seeds, and the ends of 95 % of a bootstrap over seeds."""
    by = {(r["kind"], r["rank"], r["seed"]): r for r in rows if r["bits"] == bits}
    ranks, seeds = (sorted({k[i] for k in by}) for i in (1, 2))
    size, nats = (
        {k: np.array([[by[k, rank, seed][v] for rank in ranks] for seed in seeds]) for k in (kind, against)}
        for v in ("bytes", "nats")
    )

    def of(chosen: np.ndarray) -> float | None:
        curves = [pareto(size[k][chosen].mean(0), -nats[k][chosen].mean(0)) for k in (against, kind)]
        try:
            return bd_rate(*curves[0], *curves[1])
        except SinefieldError:  # too few ranks, or curves that do not overlap
            return None

    value = of(np.arange(len(seeds)))
    if value is None:
        return None
    chance = np.random.default_rng(0)
    found = [x for _ in range(2000) if (x := of(chance.integers(0, len(seeds), len(seeds)))) is not None]
    low, high = np.percentile(found, [2.5, 97.5]) if len(seeds) > 2 and found else (None, None)
    return value, low, high


def text(rows: list[dict], base: float, counts: dict[str, int], options: argparse.Namespace, seconds: float) -> str:
    cells, changes = [], []
    for rank, bits, kind in itertools.product(options.ranks, options.bits, options.kinds):
        found = [r for r in rows if (r["rank"], r["bits"], r["kind"]) == (rank, bits, kind)]
        nats = np.array([r["nats"] for r in found])
        error = f" ± {nats.std(ddof=1) / math.sqrt(len(nats)):.3f}" if len(nats) > 1 else ""
        cells.append(
            {
                "rank": rank,
                "bits": bits,
                "adapter": kind,
                "bytes": f"{np.mean([r['bytes'] for r in found]):,.0f}",
                "nats a held-out token": f"{nats.mean():.3f}{error}",
                "rate chosen": ", ".join(f"{v:g}" for v in sorted({r["lr"] for r in found})),
                "tried": found[0]["tried"],
            }
        )
    for bits, kind in itertools.product(options.bits, [k for k in options.kinds if k.startswith("sine")]):
        against = kind.replace("sine-dora", "dora").replace("sine", "lora")
        found = change(rows, bits, kind, against) if against in options.kinds else None
        if found is not None:
            within = "–" if found[1] is None else f"{found[1]:+.1f} … {found[2]:+.1f}"
            changes.append({"bits": bits, "adapter": kind, "against": against, "BD-rate %": f"{found[0]:+.1f}"})
            changes[-1]["95 %"] = within
    tokens = options.steps * options.batch * options.length
    bytes_at = f"\n{table(list(changes[0]), changes, markdown=True)}\n" if changes else ""
    seeds = f"{options.seeds} seed{'s' if options.seeds > 1 else ''}"
    return f"""# Adapters on SmolLM2-135M-Instruct: Italian

`python scripts/tables/adapters_language.py` with steps {options.steps}, batch {options.batch}, length {options.length},
α {_listed(options.alphas)}, ω {_listed(options.omegas)} of the sine kinds, on {_listed(options.targets)}, the model in
{options.dtype}; {seeds}, {seconds / 60:.0f} minutes of training on one processor ({describe_machine()["cpu"]}).
An adapter sees {tokens:,} tokens of the {counts["train"]:,} there are to train on. Rates are chosen on
{counts["validation"]:,} tokens, the scores are of {counts["test"]:,} others. The model alone has {base:.3f} nats there.

{table(list(cells[0]), cells, markdown=True)}
{bytes_at}
At 32 bits the bytes are those of the numbers in float32. The script's head says what is chosen by what.
"""


def _listed(values: list) -> str:
    return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="runs/models/smollm2", help="folder of a causal model and its tokenizer (%(default)s)")
    add("--data", default="/usr/share/games/fortunes/it", help="folder of fortunes (%(default)s)")
    add("--out", default="runs/adapters_language", help="where runs are kept (%(default)s)")
    add("--targets", nargs="+", default=["q_proj", "v_proj"])
    add("--kinds", nargs="+", choices=ADAPTER_KINDS, default=["lora", "sine"])
    add("--ranks", nargs="+", type=int, default=[1, 4])
    add("--bits", nargs="+", type=int, choices=[*range(1, 9), 32], default=[2, 4])
    add("--alphas", nargs="+", type=float, default=[16.0])
    add("--omegas", nargs="+", type=float, default=[200.0])
    add("--seeds", type=int, default=1)
    add("--steps", type=int, default=60)
    add("--batch", type=int, default=4)
    add("--length", type=int, default=128)
    add("--validation", type=int, default=8192, help="tokens to choose by, at most (%(default)s)")
    add("--test", type=int, default=20480, help="tokens of the score, at most (%(default)s)")
    add("--dtype", choices=DTYPES, default="bfloat16", help="of the frozen model (%(default)s)")
    add("--device", default="cpu")
    add("--write", action="store_true", help="write docs/results/adapters_language.md and .csv")
    options = parser.parse_args()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    data = splits(fortunes(Path(options.data)), tokenizer, options.length)
    for name in ("validation", "test"):
        data[name] = data[name][: max(getattr(options, name) // options.length, 1)]
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=DTYPES[options.dtype]).to(options.device)
    model.requires_grad_(False)
    runs = Runs(model, data, options)
    rows = choose(runs)
    base = score(model, data["test"], options.batch)
    seconds = sum(
        {setting: r["seconds"] for (setting, _, split), r in runs.rows.items() if split == "validation"}.values()
    )
    counts = {name: part.numel() for name, part in data.items()}
    report = text(rows, base, counts, options, seconds)
    print(report)
    if options.write:
        write_text(DOCS / "adapters_language.md", report)
        write_text(DOCS / "adapters_language.csv", runs.path.read_text())


if __name__ == "__main__":
    main()
