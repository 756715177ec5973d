"""Adapt a language model: a causal one of LLaMA's architecture, or RoBERTa to a classification.

    python scripts/adapters/language.py causal --model HuggingFaceTB/SmolLM2-135M --data poems.txt
    python scripts/adapters/language.py classify --model FacebookAI/roberta-base --data reviews.jsonl --kind lora

`causal` takes a .txt, cut into pieces of --length tokens, or a .jsonl of {"prompt": …, "completion": …}, of which only
the completion is learned; its score is the mean loss of a held-out token, in nats. `classify` takes a .jsonl of
{"text": …, "label": …} or a .csv or .tsv with such columns ("text_pair" may stand beside them); its score is accuracy.
Without --test the last tenth of the data is held out.
"""

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from adapting import DTYPES, Task, add_options, batches, checkpoint, run
from torch import Tensor

from sinefield.errors import SinefieldError
from sinefield.files import require_file

CAUSAL = "HuggingFaceTB/SmolLM2-135M"
CLASSIFIER = "FacebookAI/roberta-base"
IGNORED = -100  # as label, in torch's cross-entropy
Row = tuple[list[int], list[int]]


def causal(options: argparse.Namespace) -> Task:
    """Rows are (tokens, labels of the same length)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = checkpoint(AutoTokenizer.from_pretrained, options.model, CAUSAL)
    train, test = _split(options, lambda path: _pieces(path, tokenizer, options.length))
    model = checkpoint(AutoModelForCausalLM.from_pretrained, options.model, CAUSAL, dtype=DTYPES[options.dtype])
    model = model.to(options.device)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def losses(rows: list[Row]) -> Tensor:
        """Of each token that counts."""
        tokens, mask = padded([row[0] for row in rows], pad, options.device)
        labels = padded([row[1] for row in rows], IGNORED, options.device)[0][:, 1:].flatten()
        logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[:, :-1].flatten(0, 1)
        return F.cross_entropy(logits[labels != IGNORED].float(), labels[labels != IGNORED], reduction="none")

    def score() -> float:
        return float(
            torch.cat([losses(test[i : i + options.batch]) for i in range(0, len(test), options.batch)]).mean()
        )

    draw = batches(len(train), options.batch, options.seed)
    note = {"train": len(train), "test": len(test)}
    loss = "nats a held-out token"
    return Task(
        model,
        options.targets,
        lambda: [train[i] for i in draw()],
        lambda b: losses(b).mean(),
        score,
        loss,
        False,
        (),
        note,
    )


def classify(options: argparse.Namespace) -> Task:
    """Rows are (tokens, [class])."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = checkpoint(AutoTokenizer.from_pretrained, options.model, CLASSIFIER)
    train, test = _split(options, _labelled)
    names = sorted({row["label"] for row in train})
    unknown = sorted({row["label"] for row in test} - set(names))
    if len(names) < 2 or unknown:
        raise SinefieldError(
            f"{options.data}: "
            + (f"no row to train on has the label {unknown[0]}" if unknown else "has a single label")
            + "; give rows of every label to train on"
        )

    def encoded(rows: list[dict[str, str]]) -> list[Row]:
        pairs = [(row["text"], row["text_pair"]) if row.get("text_pair") else (row["text"],) for row in rows]
        tokens = [tokenizer(*pair, truncation=True, max_length=options.length)["input_ids"] for pair in pairs]
        return [(t, [names.index(row["label"])]) for t, row in zip(tokens, rows, strict=True)]

    train, test = encoded(train), encoded(test)
    model = checkpoint(
        AutoModelForSequenceClassification.from_pretrained,
        options.model,
        CLASSIFIER,
        num_labels=len(names),
        dtype=DTYPES[options.dtype],
    ).to(options.device)
    if not hasattr(model, "classifier"):
        raise SinefieldError(f"{options.model}: has no module `classifier`, as RoBERTa has; use such a model")
    model.classifier.float()
    pad = tokenizer.pad_token_id

    def logits(rows: list[Row]) -> Tensor:
        tokens, mask = padded([row[0] for row in rows], pad, options.device)
        with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=options.dtype == "bfloat16"):
            return model(input_ids=tokens, attention_mask=mask).logits.float()

    def labels(rows: list[Row]) -> Tensor:
        return torch.tensor([row[1][0] for row in rows], device=options.device)

    def score() -> float:
        parts = [test[i : i + options.batch] for i in range(0, len(test), options.batch)]
        return sum(int((logits(part).argmax(1) == labels(part)).sum()) for part in parts) / len(test)

    draw = batches(len(train), options.batch, options.seed)
    note = {"labels": names, "train": len(train), "test": len(test)}
    return Task(
        **{"model": model, "targets": options.targets, "draw": lambda: [train[i] for i in draw()], "note": note},
        **{"loss": lambda rows: F.cross_entropy(logits(rows), labels(rows)), "score": score},
        **{"metric": "accuracy", "higher": True, "head": ["classifier"]},
    )


def _split(options: argparse.Namespace, read: Any) -> tuple[list, list]:
    rows = read(require_file(options.data, "data"))
    if options.test:
        return rows, read(require_file(options.test, "test data"))
    held = max(len(rows) // 10, 1)
    if len(rows) <= held:
        raise SinefieldError(f"{options.data}: {len(rows)} rows; give at least two, or held-out ones by --test")
    return rows[:-held], rows[-held:]


def _pieces(path: Path, tokenizer: Any, length: int) -> list[Row]:
    if path.suffix != ".jsonl":
        tokens = tokenizer(_text(path), add_special_tokens=False, verbose=False)["input_ids"]
        pieces = [tokens[i : i + length] for i in range(0, len(tokens), length)]
        return [(piece, piece) for piece in pieces if len(piece) > 1]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    rows = []
    for row in _json_rows(path, ("prompt", "completion")):
        prompt = tokenizer(row["prompt"])["input_ids"]
        if prompt[-1:] == end:  # some tokenizers close what they are given
            prompt = prompt[:-1]
        completion = tokenizer(row["completion"], add_special_tokens=False)["input_ids"] + end
        prompt = prompt[max(len(prompt) + len(completion) - length, 0) :]  # the end of a prompt is nearest
        rows.append(((prompt + completion)[:length], ([IGNORED] * len(prompt) + completion)[:length]))
    return rows


def _labelled(path: Path) -> list[dict[str, str]]:
    if path.suffix == ".jsonl":
        return _json_rows(path, ("text", "label"))
    rows = list(csv.DictReader(_text(path).splitlines(), delimiter="\t" if path.suffix == ".tsv" else ","))
    return _checked(path, rows, ("text", "label"))


def _json_rows(path: Path, keys: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        rows = [json.loads(line) for line in _text(path).splitlines() if line.strip()]
    except ValueError as error:
        raise SinefieldError(f"{path}: is no JSON, one object a line ({error})") from error
    return _checked(path, rows, keys)


def _checked(path: Path, rows: list[Any], keys: tuple[str, ...]) -> list[dict[str, str]]:
    for i, row in enumerate(rows):
        missing = [k for k in keys if not isinstance(row, dict) or row.get(k) is None]
        if missing:
            raise SinefieldError(f"{path}: row {i + 1} has no {missing[0]}; each needs {' and '.join(keys)}")
    return [{k: str(v) for k, v in row.items() if v is not None} for row in rows]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise SinefieldError(f"{path}: is no UTF-8 text ({error.reason}); give text") from error


def padded(rows: list[list[int]], value: int, device: str) -> tuple[Tensor, Tensor]:
    """(rows, longest) filled up on the right, and which are not filling."""
    longest = max(len(row) for row in rows)
    full = torch.tensor([row + [value] * (longest - len(row)) for row in rows], device=device)
    return full, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(dest="task", required=True)
    layers = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
    for name, source, targets in (("causal", CAUSAL, layers), ("classify", CLASSIFIER, ("query", "value"))):
        made = tasks.add_parser(name, allow_abbrev=False)
        add_options(made, source, targets)
        made.add_argument("--data", required=True, help="what to train on")
        made.add_argument("--test", help="what to score on; without it, the last tenth of the data")
        made.add_argument("--length", type=int, default=256, help="most tokens of a row (%(default)s)")
    return run(parser, lambda options: {"causal": causal, "classify": classify}[options.task](options), argv)


if __name__ == "__main__":
    sys.exit(main())
