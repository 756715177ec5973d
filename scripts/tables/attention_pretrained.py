"""Powers in softmax's place and graying on a pretrained start: DINOv2-small, fine-tuned for a few steps.

    python scripts/adapters/pretrained.py dinov2 runs/models/dinov2
    python scripts/tables/attention_pretrained.py --model runs/models/dinov2 --data FOLDER   # of photographs, by class

All weights are trained, with a linear head that starts anew, in float32 with bf16 products. The rate is swept for every
contender with the first seed, by the cross-entropy of the validation part, and on past an end while the best is there;
the other seeds take what was found. The score is the accuracy on the rest. ‖A‖_F, ‖∂A/∂x‖_F and the condition number of
the tokens that enter each attention are measured before the first step and after the last, in float64, on eight
pictures. Finished runs are kept, and it goes on from there.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from adapter_sweep import DOCS
from adapters_encoders import Examples, digits, parts_of, photographs
from torch import Tensor, nn
from tqdm import tqdm

from sinefield.files import write_text
from sinefield.machine import describe_machine
from sinefield.tables import table
from sinefield.transformers.convert import convert
from sinefield.transformers.graying import DCTGraying, SVDGraying
from sinefield.transformers.norms import attention_norms, condition_number

VARIANTS: dict[str, tuple[int | None, Any, bool]] = {
    "softmax": (None, None, False),
    "x/√N": (1, None, False),
    "x/√N, scaled": (1, None, True),
    "x³/√N": (3, None, False),
    "x³/√N, scaled": (3, None, True),
    "softmax, DCT graying 0.95": (None, lambda: DCTGraying(0.95), False),
    "softmax, SVD graying 0.7": (None, lambda: SVDGraying(0.7), False),
}
"""By name: the power, the graying, and whether queries are scaled at the start, layer by layer, so that ‖A‖_F = √N."""
RATES = (3e-5, 1e-4, 3e-4)
PROBED = 8


def build(place: str, power: int | None, graying: Any) -> nn.Module:
    """The model with the contender's parts."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(place, dtype=torch.float32)
    if power is not None or graying is not None:
        convert(model, attention=power, graying=None if graying is None else graying())
    return model


@torch.no_grad()
def scale_queries(model: Any, pictures: Tensor, power: int) -> None:
    """Make ‖A‖_F = √N on these pictures in every layer; scores are linear in the queries."""
    for i, layer in enumerate(model.encoder.layer):
        norm = measure(model, pictures, power)["matrix"][i]
        tokens = model.embeddings(pictures[:1]).shape[1]
        factor = (math.sqrt(tokens) / norm) ** (1 / power)
        layer.attention.q_proj.weight.mul_(factor)
        layer.attention.q_proj.bias.mul_(factor)


@torch.no_grad()
def measure(model: Any, pictures: Tensor, power: int | None) -> dict[str, list[float]]:
    """By layer: medians over pictures of log10 of the tokens' condition number, means of the attention's norms."""
    model = model.double()
    found: dict[str, list[float]] = {"condition": [], "matrix": [], "jacobian": []}
    held: dict[str, Tensor] = {}
    handles = []
    layers = [layer.attention for layer in model.encoder.layer]
    for i, layer in enumerate(layers):
        for part in ("q_proj", "k_proj"):

            def keep(_: Any, given: Any, out: Tensor, name: str = f"{i}{part}") -> None:
                held[name], held[f"{name}in"] = out, given[0]

            handles.append(getattr(layer, part).register_forward_hook(keep))
    model(pictures.double())
    for handle in handles:
        handle.remove()
    heads = model.config.num_attention_heads
    for i in range(len(layers)):
        q, k = (held[f"{i}{part}"].unflatten(-1, (heads, -1)).transpose(1, 2) for part in ("q_proj", "k_proj"))
        norms = attention_norms(q, k, power)
        found["condition"].append(float(condition_number(held[f"{i}q_projin"]).log10().median()))
        found["matrix"].append(float(norms.matrix.mean()))
        found["jacobian"].append(float(norms.jacobian.mean()))
    model.float()
    return found


def run(o: argparse.Namespace, examples: Examples, name: str, lr: float, seed: int) -> dict[str, Any]:
    """Train one contender; its scores and measures."""
    power, graying, scaled = VARIANTS[name]
    begin = time.process_time()
    torch.manual_seed(seed)
    model: Any = build(o.model, power, graying)
    parts = parts_of(examples)
    head = nn.Linear(2 * model.config.hidden_size, int(examples.labels.max()) + 1)
    probe = examples.inputs[parts["validation"][:PROBED]]
    model.eval()
    if scaled and power is not None:
        scale_queries(model, probe, power)
    before = measure(model, probe, power) if seed == 0 else None

    def logits(rows: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            out = model(examples.inputs[rows]).last_hidden_state.float()
        return head(torch.cat([out[:, 0], out[:, 1:].mean(1)], 1))

    def outputs(split: str) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return torch.cat([logits(rows) for rows in parts[split].split(64)]), examples.labels[parts[split]]

    optimizer = torch.optim.AdamW(
        [{"params": list(model.parameters()), "lr": lr}, {"params": list(head.parameters()), "lr": max(lr, 1e-3)}],
        weight_decay=0.0,
    )
    warm = max(o.steps // 10, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / o.steps))
    )
    generator = torch.Generator().manual_seed(seed)
    for _ in tqdm(range(o.steps), desc=f"{name} {lr:g}", unit="step", disable=None, leave=False):
        rows = parts["train"][torch.randint(0, len(parts["train"]), (o.batch,), generator=generator)]
        loss = F.cross_entropy(logits(rows), examples.labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*model.parameters(), *head.parameters()], 1.0)
        optimizer.step()
        schedule.step()
    chosen_by = float(F.cross_entropy(*outputs("validation")))
    found, labels = outputs("test")
    accuracy = 100 * float((found.argmax(1) == labels).float().mean())
    finite = all(bool(torch.isfinite(p).all()) for p in model.parameters())
    return {
        **{"name": name, "lr": lr, "seed": seed, "validation": chosen_by, "accuracy": accuracy, "before": before},
        **{"after": measure(model, probe, power) if seed == 0 and finite else None},
        "seconds": time.process_time() - begin,
    }


class Store:
    """Finished runs in one JSON file."""

    def __init__(self, o: argparse.Namespace, examples: Examples) -> None:
        self.options, self.examples = o, examples
        self.path = Path(o.out) / f"runs_{o.steps}x{o.batch}.json"
        self.rows: list[dict[str, Any]] = json.loads(self.path.read_text()) if self.path.exists() else []

    def get(self, name: str, lr: float, seed: int) -> dict[str, Any]:
        for row in self.rows:
            if (row["name"], row["lr"], row["seed"]) == (name, lr, seed):
                return row
        self.rows.append(run(self.options, self.examples, name, lr, seed))
        write_text(self.path, json.dumps(self.rows))
        return self.rows[-1]

    def best(self, name: str) -> float:
        """The rate of least validation loss; on past an end while it is there."""
        rates = list(RATES)
        while True:
            worth = [self.get(name, lr, 0)["validation"] for lr in rates]
            place = int(np.argmin([v if math.isfinite(v) else math.inf for v in worth]))
            if len(rates) > 5 or 0 < place < len(rates) - 1:
                return rates[place]
            end = rates[0] / 3 if place == 0 else rates[-1] * 3
            rates = sorted([*rates, float(f"{end:.1g}")])


def page(o: argparse.Namespace, store: Store, what: str) -> str:
    rows, measured = [], []
    for name in VARIANTS:
        lr = store.best(name)
        found = [store.get(name, lr, seed) for seed in range(o.seeds)]
        values = [r["accuracy"] for r in found]
        error = f" ± {np.std(values, ddof=1) / math.sqrt(len(values)):.1f}" if len(values) > 1 else ""
        nats = np.mean([r["validation"] for r in found])
        rows.append({"attention": name, "accuracy in %": f"{np.mean(values):.1f}{error}"})
        rows[-1] |= {"validation loss": f"{nats:.3f}", "rate": f"{lr:g}"}
        for when in ("before", "after"):
            m = found[0][when]
            if m is not None:
                line: dict[str, Any] = {"attention": name, "training": when}
                for i in (0, 5, 11):
                    line[f"log₁₀ κ, layer {i + 1}"] = f"{m['condition'][i]:.2f}"
                for i in (0, 5, 11):
                    line[f"‖A‖, layer {i + 1}"] = f"{m['matrix'][i]:.3g}"
                line["‖∂A/∂x‖, layer 12"] = f"{m['jacobian'][11]:.3g}"
                measured.append(line)
    minutes = sum(r["seconds"] for r in store.rows) / 60
    sizes = {k: len(v) for k, v in parts_of(store.examples).items()}
    return f"""# Powers and graying on DINOv2-small

`python scripts/tables/attention_pretrained.py`: {what}; {sizes["train"]:,} to train on,
{sizes["validation"]:,} to choose rates by, {sizes["test"]:,} for the score. All weights train, {o.steps} steps
of {o.batch}; {o.seeds} seeds, {minutes:.0f} minutes of one processor ({describe_machine()["cpu"]}). It was trained with
softmax: powers start from those weights and have to learn what their scores mean; "scaled" ones start with queries
scaled, layer by layer, so that ‖A‖_F = √N.

{table(list(rows[0]), rows, markdown=True)}

Condition numbers κ of the tokens that enter an attention (median over {PROBED} pictures), and norms of the attention
matrix and of its Jacobian (means over pictures and heads), with the first seed. √N is
{math.sqrt((o.side // 14) ** 2 + 1):.2f}: softmax's ‖A‖ stays below it, its Jacobian's below twice that.

{table(list(measured[0]), measured, markdown=True)}

![Accuracy, condition numbers and norms](attention_pretrained.png)
"""


def plot(o: argparse.Namespace, store: Store, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    for i, name in enumerate(VARIANTS):
        found = [store.get(name, store.best(name), seed) for seed in range(o.seeds)]
        values = [r["accuracy"] for r in found]
        axes[0].plot(values, [i] * len(values), "o", ms=4, color=f"C{i}")
        for when, style in (("before", ":"), ("after", "-")):
            if found[0][when] is not None:
                layers = range(1, 13)
                axes[1].plot(layers, found[0][when]["condition"], style, color=f"C{i}")
                axes[2].semilogy(layers, found[0][when]["matrix"], style, color=f"C{i}")
    axes[0].set(yticks=range(len(VARIANTS)), yticklabels=list(VARIANTS), xlabel="accuracy in %")
    axes[0].invert_yaxis()
    axes[1].set(xlabel="layer", ylabel="log₁₀ κ of its tokens (dotted: before)")
    axes[2].set(xlabel="layer", ylabel="‖A‖_F")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="runs/models/dinov2", help="folder of the model (%(default)s)")
    add("--data", help="folder of photographs, a folder for each class; scikit-learn's digits without")
    add("--out", default="runs/attention_pretrained", help="where runs are kept (%(default)s)")
    add("--side", type=int, default=70, help="pixels of a picture's side (%(default)s)")
    add("--steps", type=int, default=40)
    add("--batch", type=int, default=16)
    add("--seeds", type=int, default=3)
    add("--write", action="store_true", help="write docs/results/attention_pretrained.md and .png")
    o = parser.parse_args()
    examples = photographs(Path(o.data), o.side) if o.data else digits(o.side)
    store = Store(o, examples)
    report = page(o, store, f"{examples.what}, {o.side}×{o.side}")
    print(report)
    if o.write:
        plot(o, store, DOCS / "attention_pretrained.png")
        write_text(DOCS / "attention_pretrained.md", report)


if __name__ == "__main__":
    main()
