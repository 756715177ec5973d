"""Adapt a language model to a benchmark that lies in a folder: GLUE's tasks, or multiple choice of common sense.

    python scripts/adapters/benchmarks.py glue cola --model FacebookAI/roberta-base --data glue/CoLA
    python scripts/adapters/benchmarks.py choices piqa --model HuggingFaceTB/SmolLM2-135M --data piqa

The folder holds what the benchmark's authors publish (`train.tsv` and `dev.tsv` of GLUE, `train.jsonl` and `dev.jsonl`
of the others, PIQA's labels in `train-labels.lst` beside them), or the same rows as Hugging Face's data sets write
them with `to_json` (`train.jsonl`, `validation.jsonl`). Training is on the first, the score is of the second; of MNLI
--part mismatched scores the other second one.

`glue` scores as GLUE does: CoLA by Matthews' correlation, MRPC and QQP by accuracy and F1, STS-B by Pearson's and
Spearman's correlations, the others by accuracy; of two scores the mean, and both in the report. `choices` learns the
right answer after its question, and scores by the answer with the largest log-likelihood a character; --per token
divides by tokens, --per answer by nothing.
"""

import argparse
import csv
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scores
import torch
import torch.nn.functional as F
from adapting import DTYPES, Task, add_options, batches, checkpoint, run
from language import CAUSAL, CLASSIFIER, IGNORED, padded
from torch import Tensor

from sinefield.errors import SinefieldError

Record = dict[str, Any]
HELD_OUT = ("dev", "validation", "val", "valid", "test")


# ---- GLUE


@dataclass(frozen=True)
class Glue:
    """A task: names that its text, second text and label go by, and how it is scored."""

    first: tuple[str, ...]
    second: tuple[str, ...] = ()
    label: tuple[str, ...] = ("label",)
    metrics: tuple[str, ...] = ("accuracy",)
    header: tuple[str, ...] | None = None
    """Of a .tsv that has none."""

    @property
    def regression(self) -> bool:
        return "pearson" in self.metrics


PAIR = {"first": ("sentence1",), "second": ("sentence2",)}
GLUE = {
    "cola": Glue(("sentence",), metrics=("matthews",), header=("source", "label", "mark", "sentence")),
    "sst2": Glue(("sentence",)),
    "mrpc": Glue(("sentence1", "#1 String"), ("sentence2", "#2 String"), ("label", "Quality"), ("accuracy", "f1")),
    "qqp": Glue(("question1",), ("question2",), ("label", "is_duplicate"), ("accuracy", "f1")),
    "stsb": Glue(**PAIR, label=("label", "score"), metrics=("pearson", "spearman")),
    "mnli": Glue(("premise", "sentence1"), ("hypothesis", "sentence2"), ("label", "gold_label")),
    "qnli": Glue(("question",), ("sentence",)),
    "rte": Glue(**PAIR),
    "wnli": Glue(**PAIR),
}
NAMES: dict[str, Callable[..., float]] = {
    **{"accuracy": scores.accuracy, "f1": scores.f1, "matthews": scores.matthews},
    **{"pearson": scores.pearson, "spearman": scores.spearman},
}


def file_of(folder: Path, stems: tuple[str, ...]) -> Path:
    """The first of these that is there, as .tsv or .jsonl."""
    for stem in stems:
        for ending in (".tsv", ".jsonl"):
            if (folder / f"{stem}{ending}").is_file():
                return folder / f"{stem}{ending}"
    raise SinefieldError(f"{folder}: holds no {' or '.join(stems)}, as .tsv or .jsonl")


def records(path: Path, header: tuple[str, ...] | None = None) -> list[Record]:
    """Rows of a .tsv, its quotes as they are, or of a .jsonl."""
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            rows = list(csv.DictReader(text.split("\n"), header, delimiter="\t", quoting=csv.QUOTE_NONE))
            rows = [{k: v.rstrip("\r") for k, v in row.items() if isinstance(v, str)} for row in rows]
    except (ValueError, csv.Error) as error:
        raise SinefieldError(f"{path}: cannot be read ({error}); give the benchmark's own file") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise SinefieldError(f"{path}: holds no rows")
    return rows


def glue_rows(path: Path, task: Glue) -> list[Record]:
    """{"text", "text_pair", "label"}; rows without a label (−1, -) are left out, as MNLI's undecided ones."""
    found = []
    for i, row in enumerate(records(path, task.header if path.suffix == ".tsv" else None)):

        def of(names: tuple[str, ...], row: Record = row, i: int = i) -> str:
            for name in names:
                if row.get(name) is not None:
                    return str(row[name])
            raise SinefieldError(f"{path}: row {i + 1} has no {' or '.join(names)}")

        label = of(task.label)
        if label not in ("-1", "-"):
            found.append(
                {"text": of(task.first), "text_pair": of(task.second) if task.second else None, "label": label}
            )
    if not found:
        raise SinefieldError(f"{path}: no row has a label")
    return found


def glue(o: argparse.Namespace) -> Task:
    """A classifier, of STS-B a number."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    kind, folder = GLUE[o.name], Path(o.data)
    held = tuple(f"{stem}_{o.part}" for stem in HELD_OUT) if o.name == "mnli" else HELD_OUT
    train, test = (glue_rows(file_of(folder, stems), kind) for stems in (("train",), held))
    names = [] if kind.regression else sorted({row["label"] for row in train})
    unknown = [] if kind.regression else sorted({row["label"] for row in test} - set(names))
    if unknown or (not kind.regression and len(names) < 2):
        raise SinefieldError(
            f"{folder}: " + (f"no row to train on is {unknown[0]}" if unknown else "has one label only")
        )
    tokenizer = checkpoint(AutoTokenizer.from_pretrained, o.model, CLASSIFIER)

    def encoded(rows: list[Record]) -> list[tuple[list[int], float]]:
        found = []
        for row in rows:
            texts = (row["text"],) if row["text_pair"] is None else (row["text"], row["text_pair"])
            try:
                label = float(row["label"]) if kind.regression else float(names.index(row["label"]))
            except ValueError as error:
                raise SinefieldError(f"{folder}: the score {row['label']!r} is no number") from error
            found.append((tokenizer(*texts, truncation=True, max_length=o.length)["input_ids"], label))
        return found

    learned, scored = encoded(train), encoded(test)
    model = checkpoint(
        AutoModelForSequenceClassification.from_pretrained,
        o.model,
        CLASSIFIER,
        num_labels=1 if kind.regression else len(names),
        dtype=DTYPES[o.dtype],
    ).to(o.device)
    if not hasattr(model, "classifier"):
        raise SinefieldError(f"{o.model}: has no module `classifier`, as RoBERTa and BERT have; use such a model")
    model.classifier.float()

    def outputs(rows: list[tuple[list[int], float]]) -> Tensor:
        tokens, mask = padded([row[0] for row in rows], tokenizer.pad_token_id, o.device)
        with torch.autocast(torch.device(o.device).type, torch.bfloat16, enabled=o.dtype == "bfloat16"):
            return model(input_ids=tokens, attention_mask=mask).logits.float()

    def loss(rows: list[tuple[list[int], float]]) -> Tensor:
        wanted = torch.tensor([row[1] for row in rows], device=o.device)
        if kind.regression:
            return F.mse_loss(outputs(rows)[:, 0], wanted)
        return F.cross_entropy(outputs(rows), wanted.long())

    note: Record = {"labels": names, "train": len(train), "test": len(test), "scores": {}}

    def score() -> float:
        found = torch.cat([outputs(scored[i : i + o.batch]) for i in range(0, len(scored), o.batch)])
        values = (found[:, 0] if kind.regression else found.argmax(1)).tolist()
        note["scores"] = {name: NAMES[name](values, [row[1] for row in scored]) for name in kind.metrics}
        return sum(note["scores"].values()) / len(kind.metrics)

    draw = batches(len(learned), o.batch, o.seed)
    return Task(
        **{"model": model, "targets": o.targets, "draw": lambda: [learned[i] for i in draw()], "note": note},
        **{"loss": loss, "score": score, "metric": " and ".join(kind.metrics), "higher": True, "head": ["classifier"]},
    )


# ---- multiple choice


@dataclass(frozen=True)
class Question:
    """What is asked, the answers that follow it, and which is right."""

    prompt: str
    answers: tuple[str, ...]
    right: int


def _piqa(row: Record) -> Question:
    return Question(f"Question: {row['goal']}\nAnswer:", (f" {row['sol1']}", f" {row['sol2']}"), int(row["label"]))


def _hellaswag(row: Record) -> Question:
    endings = row["endings"] if "endings" in row else row["ending_options"]
    return Question(row["ctx"], tuple(f" {e}" for e in endings), int(row["label"]))


def _winogrande(row: Record) -> Question:
    """The rest of the sentence after each option; what is scored is option and rest."""
    before, found, after = row["sentence"].partition("_")
    if not found:
        raise ValueError("its sentence has no gap")
    return Question(before.rstrip(), tuple(f" {row[k]}{after}" for k in ("option1", "option2")), int(row["answer"]) - 1)


def _letters(row: Record) -> Question:
    """ARC and OpenBookQA, in either layout."""
    asked = row["question"] if "question" in row else row["question_stem"]
    choices = row["choices"] if "choices" in row else asked["choices"]
    stem = asked["stem"] if isinstance(asked, dict) else asked
    if isinstance(choices, dict):
        choices = [{"text": t, "label": k} for t, k in zip(choices["text"], choices["label"], strict=True)]
    labels = [c["label"] for c in choices]
    return Question(
        f"Question: {stem}\nAnswer:", tuple(f" {c['text']}" for c in choices), labels.index(row["answerKey"])
    )


def _boolq(row: Record) -> Question:
    prompt = f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"
    return Question(prompt, (" no", " yes"), int(bool(row["answer"] if "answer" in row else row["label"])))


def _siqa(row: Record) -> Question:
    label = row["correct"] if "correct" in row else row["label"]
    right = "ABC".index(label) if str(label) in ("A", "B", "C") else int(label) - 1
    answers = tuple(f" {row[f'answer{k}']}" for k in "ABC")
    return Question(f"{row['context']}\nQuestion: {row['question']}\nAnswer:", answers, right)


CHOICES: dict[str, Callable[[Record], Question]] = {
    **{"piqa": _piqa, "hellaswag": _hellaswag, "winogrande": _winogrande, "boolq": _boolq, "siqa": _siqa},
    **{"arc_easy": _letters, "arc_challenge": _letters, "openbookqa": _letters},
}


def questions(path: Path, read: Callable[[Record], Question]) -> list[Question]:
    """A file's questions; of PIQA the labels are in a file of their own."""
    rows = records(path)
    beside = path.with_name(f"{path.stem}-labels.lst")
    if beside.is_file():
        labels = beside.read_text("utf-8").split()
        if len(labels) != len(rows):
            raise SinefieldError(f"{beside}: has {len(labels)} labels, {path.name} {len(rows)} rows")
        rows = [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]
    found = []
    for i, row in enumerate(rows):
        try:
            question = read(row)
            if not 0 <= question.right < len(question.answers) or not all(a.strip() for a in question.answers):
                raise ValueError("its answer is none of its answers, or one is empty")
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise SinefieldError(f"{path}: row {i + 1} cannot be read ({error!r}); is it this benchmark's?") from error
        found.append(question)
    return found


def choices(o: argparse.Namespace) -> Task:
    """A causal model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, read = Path(o.data), CHOICES[o.name]
    train, test = (questions(file_of(folder, stems), read) for stems in (("train",), HELD_OUT))
    tokenizer = checkpoint(AutoTokenizer.from_pretrained, o.model, CAUSAL)
    model = checkpoint(AutoModelForCausalLM.from_pretrained, o.model, CAUSAL, dtype=DTYPES[o.dtype]).to(o.device)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def encoded(question: Question, answer: int) -> tuple[list[int], list[int]]:
        """Tokens, and labels of the answer's alone; a prompt loses its beginning where both are too long."""
        prompt = tokenizer(question.prompt)["input_ids"]
        if prompt[-1:] == [tokenizer.eos_token_id]:  # some tokenizers close what they are given
            prompt = prompt[:-1]
        tokens = tokenizer(question.answers[answer], add_special_tokens=False)["input_ids"][: o.length - 1]
        prompt = prompt[max(len(prompt) + len(tokens) - o.length, 0) :]
        return prompt + tokens, [IGNORED] * len(prompt) + tokens

    def losses(rows: list[tuple[list[int], list[int]]]) -> Tensor:
        """(rows, tokens) −log p, 0 of tokens that do not count."""
        tokens, mask = padded([row[0] for row in rows], pad, o.device)
        labels = padded([row[1] for row in rows], IGNORED, o.device)[0][:, 1:]
        logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED)

    learned = [encoded(q, q.right) for q in train]
    asked = [[encoded(q, i) for i in range(len(q.answers))] for q in test]

    def loss(rows: list[tuple[list[int], list[int]]]) -> Tensor:
        return losses(rows).sum() / sum(label != IGNORED for row in rows for label in row[1][1:])

    def score() -> float:
        flat = [row for rows in asked for row in rows]
        sums = torch.cat([-losses(flat[i : i + o.batch]).sum(1) for i in range(0, len(flat), o.batch)]).tolist()
        likely, sizes = [], []
        for question, rows in zip(test, asked, strict=True):
            likely.append([sums.pop(0) for _ in rows])
            counted = [sum(label != IGNORED for label in row[1]) for row in rows]
            lengths = {"character": [len(a) - 1 for a in question.answers], "token": counted, "answer": [1] * len(rows)}
            sizes.append(lengths[o.per])
        return scores.accuracy(scores.likeliest(likely, sizes), [q.right for q in test])

    draw = batches(len(learned), o.batch, o.seed)
    return Task(
        **{"model": model, "targets": o.targets, "draw": lambda: [learned[i] for i in draw()], "loss": loss},
        **{"score": score, "metric": f"accuracy by log-likelihood a{'n' if o.per == 'answer' else ''} {o.per}"},
        **{"higher": True, "note": {"train": len(train), "test": len(test), "per": o.per}},
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind_of_task", required=True)
    layers = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
    for kind, names, source, targets in (
        ("glue", GLUE, CLASSIFIER, ("query", "value")),
        ("choices", CHOICES, CAUSAL, layers),
    ):
        made = kinds.add_parser(kind, allow_abbrev=False)
        made.add_argument("name", choices=names)
        add_options(made, source, targets)
        made.add_argument("--data", required=True, help="the benchmark's folder")
        made.add_argument("--length", type=int, default=256, help="most tokens of a row (%(default)s)")
        if kind == "glue":
            made.add_argument(
                "--part", choices=("matched", "mismatched"), default="matched", help="of MNLI (%(default)s)"
            )
        else:
            made.add_argument("--per", choices=("character", "token", "answer"), default="character")
    return run(parser, lambda o: {"glue": glue, "choices": choices}[o.kind_of_task](o), argv)


if __name__ == "__main__":
    sys.exit(main())
