"""Sine-LoRA, LoRA and DoRA on encoders: DINOv2-small that classifies photographs of textiles or digits, MiniLM that
tells which collection a short Italian text is from.

    python scripts/adapters/pretrained.py dinov2 runs/models/dinov2
    python scripts/tables/adapters_encoders.py textile --model runs/models/dinov2 --data FOLDER
    python scripts/tables/adapters_encoders.py digits --model runs/models/dinov2
    python scripts/adapters/pretrained.py minilm runs/models/minilm
    python scripts/tables/adapters_encoders.py text --model runs/models/minilm --data /usr/share/games/fortunes/it

The textiles are the 2,000 photographs of the package conformal-clip-data (`pip install --no-deps`), a folder for each
class; digits are scikit-learn's; the texts are those of Debian's fortunes-it, by file. A linear head is trained along
with each adapter. Adapters are on the last layers, so that what the frozen layers below give is computed once. Settings
are chosen by the cross-entropy of the validation part, see adapter_sweep.py; the score is the accuracy of the rest.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from adapter_sweep import DOCS, Runs, Setting, Task, add_options, budget, compare, plot, tables, train
from torch import Tensor, nn

from sinefield.errors import SinefieldError
from sinefield.files import write_text

STARTS = {
    "lora": Setting("lora", 4, 16.0, None, 1e-3),
    "dora": Setting("dora", 4, 16.0, None, 1e-3),
    "sine": Setting("sine", 4, 16.0, 200.0, 3e-4),
    "sine-dora": Setting("sine-dora", 4, 16.0, 200.0, 3e-4),
}
SHARES = (0.55, 0.15)
"""Of the examples to train on and to choose by; the rest is for the score."""


class Examples(NamedTuple):
    """Inputs (n, …), labels (n,), and for texts which tokens are there (n, tokens)."""

    inputs: Tensor
    labels: Tensor
    mask: Tensor | None
    what: str


def photographs(folder: Path, side: int) -> Examples:
    """A folder of pictures for each class."""
    from PIL import Image

    classes = sorted(p for p in folder.iterdir() if p.is_dir() and any(p.glob("*.jpg")))
    if len(classes) < 2:
        raise SinefieldError(f"{folder}: holds no two folders of .jpg files")
    found, labels = [], []
    for label, place in enumerate(classes):
        for path in sorted(place.glob("*.jpg")):
            with Image.open(path) as picture:
                found.append(np.asarray(picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)))
            labels.append(label)
    what = f"{len(found):,} photographs of textiles in {len(classes)} classes"
    return Examples(
        _normal(torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2) / 255), torch.tensor(labels), None, what
    )


def digits(side: int) -> Examples:
    """scikit-learn's, enlarged."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(images).float().view(-1, 1, 8, 8) / 16
    large = F.interpolate(small, (side, side), mode="bicubic").clamp(0, 1).expand(-1, 3, -1, -1)
    return Examples(_normal(large), torch.from_numpy(labels).long(), None, f"{len(labels):,} digits of 8×8 pixels")


def _normal(pictures: Tensor) -> Tensor:
    """By ImageNet's mean and deviation, as DINOv2 was trained."""
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (pictures - mean[:, None, None]) / deviation[:, None, None]


def texts(folder: Path, tokenizer: Any, length: int, classes: int = 8, each: int = 300) -> Examples:
    """Texts of the largest files, as many of each at most, labelled by their file."""
    parts = {
        p.name: sorted({t.strip() for t in p.read_text("utf-8", "replace").split("\n%\n")} - {""})
        for p in sorted(folder.iterdir())
        if p.is_file() and p.suffix not in (".dat", ".u8")
    }
    largest = sorted(parts, key=lambda name: -len(parts[name]))[:classes]
    if len(largest) < 2:
        raise SinefieldError(f"{folder}: holds no two files of texts; apt-get install fortunes-it")
    found, labels = [], []
    for label, name in enumerate(sorted(largest)):
        order = torch.randperm(len(parts[name]), generator=torch.Generator().manual_seed(0)).tolist()
        found += [parts[name][i] for i in order[:each]]
        labels += [label] * min(each, len(order))
    coded = tokenizer(found, truncation=True, max_length=length, padding="max_length", return_tensors="pt")
    what = f"{len(found):,} Italian texts of {len(largest)} collections, their first {length} tokens"
    return Examples(coded["input_ids"], torch.tensor(labels), coded["attention_mask"], what)


class Given(nn.Module):
    """In place of the embeddings: what was computed before."""

    hidden: Tensor

    def forward(self, *_: Any, **__: Any) -> Tensor:
        return self.hidden


class Passing(nn.Module):
    """In place of a layer whose work is done."""

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states


def _run(model: Any, inputs: Tensor, mask: Tensor | None) -> Tensor:
    """Last hidden states; pictures or tokens, or anything of their batch's size where the embeddings are given."""
    if mask is None:
        return model(inputs).last_hidden_state
    return model(input_ids=inputs, attention_mask=mask).last_hidden_state


@torch.no_grad()
def cut(model: Any, examples: Examples, last: int, batch: int = 50) -> tuple[Given, Tensor]:
    """What enters the last layers, computed once; the layers below pass their input on from then on."""
    layers, below = model.encoder.layer, len(model.encoder.layer) - last
    if not 0 <= below < len(layers):
        raise SinefieldError(f"--last {last}: the model has {len(layers)} layers")
    model.eval()
    found: list[Tensor] = []
    handle = layers[below].register_forward_pre_hook(lambda _, args: found.append(args[0]))
    above = [layers[i] for i in range(below, len(layers))]
    for i in range(below + 1, len(layers)):
        layers[i] = Passing()
    dtype = next(model.parameters()).dtype
    for i in range(0, len(examples.labels), batch):
        inputs = examples.inputs[i : i + batch]
        inputs = inputs if examples.mask is not None else inputs.to(dtype)
        _run(model, inputs, None if examples.mask is None else examples.mask[i : i + batch])
    handle.remove()
    for i in range(len(layers)):
        layers[i] = Passing() if i < below else above[i - below]
    model.embeddings = Given()
    return model.embeddings, torch.cat(found)


def parts_of(examples: Examples) -> dict[str, Tensor]:
    """Numbers of the examples of each part, drawn once."""
    order = torch.randperm(len(examples.labels), generator=torch.Generator().manual_seed(0))
    first, second = (int(sum(SHARES[: i + 1]) * len(order)) for i in range(2))
    return {"train": order[:first], "validation": order[first:second], "test": order[second:]}


def make_task(model: Any, examples: Examples, targets: list[str], last: int) -> Task:
    """The model cut, a linear head on its class token and the mean of the others, and their losses."""
    model.requires_grad_(False)
    given, hidden = cut(model, examples, last)
    parts = parts_of(examples)
    head = nn.Linear(2 * hidden.shape[-1], int(examples.labels.max()) + 1)

    def logits(chosen: Tensor) -> Tensor:
        given.hidden = hidden[chosen]
        mask = None if examples.mask is None else examples.mask[chosen]
        if mask is not None:  # no longer than the longest
            longest = int(mask.sum(1).max())
            mask, given.hidden = mask[:, :longest], given.hidden[:, :longest]
        out = _run(model, given.hidden if mask is None else examples.inputs[chosen][:, : mask.shape[1]], mask).float()
        there = torch.ones(out.shape[:2]) if mask is None else mask.float()
        rest = (out[:, 1:] * there[:, 1:, None]).sum(1) / there[:, 1:, None].sum(1).clamp_min(1)
        return head(torch.cat([out[:, 0], rest], 1))

    def loss(chosen: Tensor) -> Tensor:
        rows = parts["train"][chosen]
        return F.cross_entropy(logits(rows), examples.labels[rows])

    @torch.no_grad()
    def outputs(split: str) -> tuple[Tensor, Tensor]:
        return torch.cat([logits(rows) for rows in parts[split].split(64)]), examples.labels[parts[split]]

    def worth() -> float:
        return -float(F.cross_entropy(*outputs("validation")))

    def score() -> float:
        found, labels = outputs("test")
        return 100 * float((found.argmax(1) == labels).float().mean())

    return Task(model, targets, len(parts["train"]), loss, worth, score, "accuracy in %", True, head)


WHAT = {
    "textile": ("DINOv2-small: photographs of textiles", "dinov2"),
    "digits": ("DINOv2-small: digits", "dinov2"),
    "text": ("MiniLM: which collection a text is from", "minilm"),
}
TARGETS = {
    "dinov2": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "minilm": ["query", "key", "value", "attention.output.dense"],
}


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("task", choices=WHAT)
    add("--model", help="folder of the model (runs/models/dinov2, runs/models/minilm)")
    add("--data", help="folder of photographs, or of texts")
    add("--last", type=int, default=3, help="layers that are adapted, from the last one (%(default)s)")
    add("--side", type=int, default=70, help="pixels of a picture's side (%(default)s)")
    add("--length", type=int, default=48, help="tokens of a text (%(default)s)")
    add("--dtype", choices=DTYPES, default="bfloat16", help="of the frozen model (%(default)s)")
    add_options(parser, "runs/adapters_encoders", 60, 16)
    o = parser.parse_args()
    from transformers import AutoModel, AutoTokenizer

    title, which = WHAT[o.task]
    place = o.model or f"runs/models/{which}"
    model = AutoModel.from_pretrained(place, dtype=DTYPES[o.dtype])
    if o.task == "digits":
        examples = digits(o.side)
    elif not o.data:
        parser.error(f"{o.task} needs --data, see --help")
    elif o.task == "textile":
        examples = photographs(Path(o.data), o.side)
    else:
        examples = texts(Path(o.data), AutoTokenizer.from_pretrained(place), o.length)
    task = make_task(model, examples, TARGETS[which], o.last)
    alone = []
    for seed in range(o.seeds):
        train(task, Setting("lora", 0, 1.0, None, 1e-3, seed), o.steps, o.batch)
        alone.append(task.score())
    base = float(np.mean(alone))
    print(f"the head alone: {base:.2f} %", flush=True)
    o.out = str(Path(o.out) / o.task)
    runs = Runs(task, o)
    rows = compare(runs, STARTS)
    sizes = {name: len(rows) for name, rows in parts_of(examples).items()}
    name = f"adapters_{o.task}" + "_dinov2" * (o.task == "digits")  # adapters_digits is another script's
    shown = examples.what if o.task == "text" else f"{examples.what}, {o.side}×{o.side}"
    largest = float(examples.labels[parts_of(examples)["test"]].bincount().max()) / sizes["test"]
    numbers = sum(p.numel() for p in task.head.parameters()) if task.head is not None else 0
    report = f"""# Adapters on {title}

`python scripts/tables/adapters_encoders.py {o.task} --dtype {o.dtype}`: {shown};
{sizes["train"]:,} to train on, {sizes["validation"]:,} to choose by, {sizes["test"]:,} for the score.
{o.steps} steps of {o.batch}; adapters on {", ".join(TARGETS[which])} of the last
{o.last} of {model.config.num_hidden_layers} layers, the model in {o.dtype}, and a linear head of {numbers:,} numbers
trained along, which no file holds. {o.seeds} seeds, {budget(runs)}.
The head alone, on the frozen model, after as many steps: {base:.1f} %; the largest class alone: {100 * largest:.1f} %.

{tables(runs, rows, 1)}

![Accuracy against bytes, and stable rank]({name}.png)

How settings are chosen is in the head of `scripts/tables/adapter_sweep.py`; all rows are in {name}.csv.
"""
    print(report)
    if o.write:
        plot(rows, base, runs, DOCS / f"{name}.png")
        write_text(DOCS / f"{name}.md", report)
        write_text(DOCS / f"{name}.csv", runs.path.read_text())


if __name__ == "__main__":
    main()
