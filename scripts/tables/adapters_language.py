"""Sine-LoRA, LoRA and DoRA on a language model: SmolLM2-135M-Instruct learns Italian.

    python scripts/adapters/pretrained.py smollm2 runs/models/smollm2
    python scripts/tables/adapters_language.py --model runs/models/smollm2 --data /usr/share/games/fortunes/it
    python scripts/tables/adapters_language.py … --last 30 --train 400000 --ranks 1 2 4 8 16 --steps 1000 \
        --bits 1 2 3 4 5 6 7 8 32 --device cuda

The text is the fortunes of Debian's package fortunes-it (`apt-get install fortunes-it`), each once, in an order drawn
once: a twentieth to choose by, a twentieth for the score, the rest to train on. Adapters are on the last layers of the
model, so that what the frozen layers below them give is computed once; --last 30 is the whole model. How settings are
chosen: adapter_sweep.py. Seeds draw the adapter's start and the order of the batches.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from adapter_sweep import DOCS, Runs, Setting, Task, add_options, budget, compare, finished, plot, tables
from torch import Tensor, nn

from sinefield.errors import SinefieldError
from sinefield.files import write_text
from sinefield.tensor_files import load_tensors, save_tensors

STARTS = {
    "lora": Setting("lora", 4, 16.0, None, 3e-3),
    "dora": Setting("dora", 4, 16.0, None, 3e-3),
    "sine": Setting("sine", 4, 16.0, 200.0, 1e-3),
    "sine-dora": Setting("sine-dora", 4, 16.0, 200.0, 1e-3),
}
METRIC = "nats a token"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def fortunes(folder: Path) -> list[str]:
    """Each fortune once, sorted; they are parted by lines of %."""
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and p.suffix not in (".dat", ".u8")]
    found = {part.strip() for p in files for part in p.read_text("utf-8", "replace").split("\n%\n")}
    if len(found) < 100:
        raise SinefieldError(f"{folder}: holds {len(found)} fortunes; apt-get install fortunes-it")
    return sorted(found - {""})


def splits(texts: list[str], tokenizer: Any, length: int) -> dict[str, Tensor]:
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


class Passing(nn.Module):
    """In place of a layer whose work is done."""

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states


@torch.no_grad()
def cut(model: Any, pieces: dict[str, Tensor], last: int, batch: int, kept: Path | None = None) -> dict[str, Tensor]:
    """What enters the last layers of a causal model, computed once; the layers below pass their input on from then on,
    and keep their places, so that an adapter's file fits the whole model.

    Arguments:
        kept: a file to keep it in, or to take it from.
    """
    body = model.model
    model.eval()
    layers, norm = body.layers, body.norm
    below = len(layers) - last
    if not 0 <= below < len(layers):
        raise SinefieldError(f"--last {last}: the model has {len(layers)} layers")
    above = [layers[i] for i in range(below, len(layers))]
    for i in range(below, len(layers)):
        layers[i] = Passing()
    body.norm = nn.Identity()
    if kept is not None and kept.exists():
        found = load_tensors(kept, "hidden states")[0]
    else:
        found = {
            name: torch.cat(
                [body(input_ids=p.to(model.device), use_cache=False).last_hidden_state for p in part.split(batch)]
            )
            for name, part in pieces.items()
        }
        if kept is not None:
            save_tensors(kept, found, {})
    body.norm = norm
    for i in range(len(layers)):
        layers[i] = Passing() if i < below else above[i - below]
    return found


class Nats(torch.autograd.Function):
    """−log p of each token under a frozen head, a few rows at a time: no logits of a whole batch are kept."""

    ROWS = 64

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, tokens: Tensor) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        loss, grads = [], []
        for rows, right in zip(hidden.split(Nats.ROWS), tokens.split(Nats.ROWS), strict=True):
            logits = (rows @ head.T).float()
            most = logits.logsumexp(1, keepdim=True)
            loss.append((most - logits.gather(1, right[:, None]))[:, 0])
            if wanted:
                chance = logits.sub_(most).exp_()
                chance[torch.arange(len(right)), right] -= 1
                grads.append(chance.to(head.dtype) @ head)
        if wanted:
            ctx.save_for_backward(torch.cat(grads))
        return torch.cat(loss)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return (slope * grads[0][:, None]).to(slope.dtype), None, None


def losses(model: Any, head: Tensor, hidden: Tensor, tokens: Tensor) -> Tensor:
    """Of every token but each piece's first, in nats, from what enters the last layers.

    Arguments:
        head: (vocabulary, channels).
        tokens: as the head numbers them.
    """
    out = model.model(inputs_embeds=hidden, use_cache=False).last_hidden_state[:, :-1]
    return Nats.apply(out.flatten(0, 1), head, tokens[:, 1:].flatten().to(hidden.device))


def make_task(
    model: Any,
    pieces: dict[str, Tensor],
    targets: list[str],
    last: int,
    whole: bool = True,
    batch: int = 8,
    kept: Path | None = None,
) -> Task:
    """The model cut, and its losses.

    Arguments:
        whole: the softmax runs over the whole vocabulary; else over the tokens that occur in the pieces.
        kept: see `cut`.
    """
    model.requires_grad_(False)
    hidden = cut(model, pieces, last, batch, kept)
    head, numbered = model.lm_head.weight.detach(), pieces
    if not whole:
        used = torch.cat([part.flatten() for part in pieces.values()]).unique()
        head, numbered = head[used], {name: torch.searchsorted(used, part) for name, part in pieces.items()}

    def loss(chosen: Tensor) -> Tensor:
        return losses(model, head, hidden["train"][chosen], numbered["train"][chosen]).mean()

    @torch.no_grad()
    def nats(split: str) -> float:
        parts = zip(hidden[split].split(batch), numbered[split].split(batch), strict=True)
        return float(torch.cat([losses(model, head, h, t) for h, t in parts]).double().mean())

    count = len(pieces["train"])
    return Task(model, targets, count, loss, lambda: -nats("validation"), lambda: nats("test"), METRIC, False)


def prepare(o: argparse.Namespace) -> tuple[dict[str, Any], Task]:
    """What the page tells of model and data, and the task."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(o.model)
    pieces = splits(fortunes(Path(o.data)), tokenizer, o.length)
    pieces = {name: part[: max(getattr(o, name) // o.length, 1)] for name, part in pieces.items()}
    model = AutoModelForCausalLM.from_pretrained(o.model, dtype=DTYPES[o.dtype]).to(o.device)
    name = "_".join(str(v) for v in ("hidden", o.last, o.length, o.train, o.validation, o.test, o.dtype))
    kept = Path(o.out) / f"{name}.safetensors"
    task = make_task(model, pieces, o.targets, o.last, o.whole_vocabulary, kept=kept)
    base = task.score()
    print(f"the model alone: {base:.4f} nats a token", flush=True)
    counts = {name: part.numel() for name, part in pieces.items()}
    return {"base": base, "counts": counts, "layers": model.config.num_hidden_layers}, task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="runs/models/smollm2", help="folder of a causal model and its tokenizer (%(default)s)")
    add("--data", default="/usr/share/games/fortunes/it", help="folder of fortunes (%(default)s)")
    add("--targets", nargs="+", default=["q_proj", "k_proj", "v_proj", "o_proj"])
    add("--last", type=int, default=4, help="layers that are adapted, from the last one (%(default)s)")
    add("--length", type=int, default=128)
    add("--train", type=int, default=32768, help="tokens to train on, at most (%(default)s)")
    add("--validation", type=int, default=4096, help="tokens to choose by, at most (%(default)s)")
    add("--test", type=int, default=20480, help="tokens of the score, at most (%(default)s)")
    add("--whole-vocabulary", action="store_true", help="not only the tokens that occur in the text")
    add("--dtype", choices=DTYPES, default="bfloat16", help="of the frozen model (%(default)s)")
    add("--device", default="cpu")
    add_options(parser, "runs/adapters_language", 40, 4)
    o = parser.parse_args()
    facts_path = Path(o.out) / f"facts_{o.steps}x{o.batch}.json"
    if o.report:
        facts, task = json.loads(facts_path.read_text()), Task(nn.Identity(), [], 0, abs, float, float, METRIC, False)
        runs = Runs(task, o)
        rows = finished(runs)
    else:
        facts, task = prepare(o)
        write_text(facts_path, json.dumps(facts))
        runs = Runs(task, o)
        rows = compare(runs, STARTS)
    base, counts = facts["base"], facts["counts"]
    over = "the whole vocabulary" if o.whole_vocabulary else "the tokens that occur in the text"
    seeds = " and ".join(
        f"{len({r['seed'] for r in rows if r['rank'] == rank})} at rank {rank}"
        for rank in sorted({r["rank"] for r in rows})
    )
    report = f"""# Adapters on SmolLM2-135M-Instruct: Italian

`python scripts/tables/adapters_language.py --kinds {" ".join(o.kinds)}`:
{o.steps} steps of {o.batch} pieces of {o.length} tokens, drawn from
{counts["train"]:,} tokens of Italian fortunes; settings are chosen on {counts["validation"]:,} others, scores are of
{counts["test"]:,} further ones. Adapters on {", ".join(o.targets)} of the last {o.last} of
{facts["layers"]} layers, the model in {o.dtype}; seeds: {seeds}. {budget(runs)}.
The softmax runs over {over}, for all alike. The model alone has {base:.3f} nats a token there.

{tables(runs, rows, 3)}

![Score against bytes](adapters_language.png)

How settings are chosen is in the head of `scripts/tables/adapter_sweep.py`; all rows are in adapters_language.csv.
"""
    print(report)
    if o.write:
        plot(rows, base, runs, DOCS / "adapters_language.png")
        write_text(DOCS / "adapters_language.md", report)
        write_text(DOCS / "adapters_language.csv", runs.path.read_text())


if __name__ == "__main__":
    main()
