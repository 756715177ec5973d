"""What the pipelines of this folder share: options, checkpoints, and adapting, packing and scoring a model."""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sinefield.adapters import AdapterSpec, attach, remove, restore, save_adapter
from sinefield.adapters.file import QUANTISERS, pack_adapter
from sinefield.compress.adapter_table import ADAPTER_KINDS
from sinefield.errors import SinefieldError
from sinefield.files import check_output, write_text
from sinefield.tensor_files import save_tensors

PARTS = ("adapter.safetensors", "adapter.sine", "head.safetensors", "report.json")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class Task:
    """What is to be adapted, to what, and how it is scored.

    Attributes:
        model: on its device, its weights as the checkpoint has them.
        targets: patterns of layers, as `attach` takes them.
        draw: the next batch to train on.
        loss: of a batch, differentiable.
        score: of the model on held-out data; called without gradients, the model in eval mode.
        metric: the score's name.
        higher: whether a larger score is better.
        head: names of modules that are new with the task: trained with all their numbers, before the adapter
            and along with it. The adapter's file does not hold them.
        note: what the report also has.
        show: called before each score with "before", "after" or "packed", as `score` is.
    """

    model: nn.Module
    targets: Sequence[str]
    draw: Callable[[], Any]
    loss: Callable[[Any], Tensor]
    score: Callable[[], float]
    metric: str
    higher: bool
    head: Sequence[str] = ()
    note: dict[str, Any] = field(default_factory=dict)
    show: Callable[[str], None] | None = None


def add_options(parser: argparse.ArgumentParser, source: str, targets: Sequence[str]) -> None:
    """Those of every pipeline."""
    add = parser.add_argument
    add("--model", default=source, help="checkpoint: a local folder, or a name on the Hugging Face hub (%(default)s)")
    add("--targets", nargs="+", default=list(targets), help="patterns of layers to adapt (%(default)s)")
    add("--kind", choices=ADAPTER_KINDS, default="sine", help="of adapter (%(default)s)")
    add("--rank", type=int, default=8)
    add("--alpha", type=float, default=16.0)
    add("--omega", type=float, default=50.0, help="ω of the sine kinds (%(default)s)")
    add("--bits", type=int, default=4, help="of the packed adapter, 1 to 8 (%(default)s)")
    add("--quantiser", choices=QUANTISERS, default="kmeans")
    add("--steps", type=int, default=500)
    add("--batch", type=int, default=8)
    add("--lr", type=float, default=5e-4)
    add("--seed", type=int, default=0)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--dtype", choices=DTYPES, default="float32", help="of the frozen model; adapters are float32 (%(default)s)")
    add("--out", default="runs/adapter", help="folder for adapter, packed adapter and report (%(default)s)")
    add("--overwrite", action="store_true")
    add("--json", action="store_true", help="print the report as one object, the last line")


def checkpoint(make: Callable[..., Any], source: str, get: str, **settings: Any) -> Any:
    """`make(source, **settings)`, a `from_pretrained`, or one line on how to get what is missing.

    Arguments:
        get: a public checkpoint of this kind.

    Raises:
        SinefieldError: it is not there, or not of this kind.
    """
    how = f"`hf download {get} --local-dir DIR` and --model DIR, or --model {get} while there is a network"
    local = Path(source).is_dir()
    if not local and (Path(source).is_absolute() or source.startswith((".", "~")) or source.count("/") != 1):
        raise SinefieldError(f"{source}: no such checkpoint; {how}")
    try:
        return make(source, **settings)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise SinefieldError(f"{source}: cannot be loaded ({reason}); {how}") from error


def adapt(task: Task, options: argparse.Namespace) -> dict[str, Any]:
    """Train an adapter, pack it, load the packed one again; scores before, after and packed, and bytes."""
    begin = time.perf_counter()
    out = Path(options.out)
    model = task.model.requires_grad_(False)
    head = nn.ModuleDict({name.replace(".", "-"): model.get_submodule(name) for name in task.head})
    if head:
        _train(task, options, list(head.requires_grad_(True).parameters()), "the new head alone")
    before = _score(task, "before")
    attached = attach(model, task.targets, _spec(options))
    trained = [p for p in model.parameters() if p.requires_grad]
    if head:
        trained += list(head.requires_grad_(True).parameters())
    print(attached, file=sys.stderr)
    _train(task, options, trained, "adapter")
    after = _score(task, "after")
    save_adapter(model, out / "adapter.safetensors", overwrite=options.overwrite)
    if head:
        save_tensors(out / "head.safetensors", head.state_dict(), {"head": list(task.head)}, options.overwrite)
    packed = pack_adapter(
        out / "adapter.safetensors", out / "adapter.sine", options.bits, options.quantiser, options.overwrite
    )
    remove(model, "default")
    restore(model, out / "adapter.sine")
    settings = ("model", "kind", "rank", "alpha", "bits", "quantiser", "steps", "batch", "lr", "seed")
    report = {
        **{k: getattr(options, k) for k in settings},
        **{"omega": options.omega if options.kind.startswith("sine") else None, "metric": task.metric},
        **{
            "before": before,
            "after": after,
            "packed": _score(task, "packed"),
            "better": "higher" if task.higher else "lower",
        },
        **{"layers": len(attached.targets), "trainable": attached.trainable, "share": attached.share},
        **{k: packed[k] for k in ("bytes", "float_bytes", "delta_error")},
        **{"head_bytes": sum(4 * p.numel() for p in head.parameters()), "out": str(out)},
        **{"seconds": round(time.perf_counter() - begin, 1)},
        **task.note,
    }
    write_text(out / "report.json", json.dumps(report, indent=1) + "\n", options.overwrite)
    return report


def run(parser: argparse.ArgumentParser, make: Callable[[argparse.Namespace], Task], argv: list[str] | None) -> int:
    """Parse, make the task, adapt, print; returns the exit code, 2 for bad input."""
    options = parser.parse_args(argv)
    try:
        _spec(options)
        for name, least in (("bits", 1), ("steps", 1), ("batch", 1)):
            if getattr(options, name) < least or (name == "bits" and options.bits > 8):
                raise SinefieldError(
                    f"--{name} {getattr(options, name)}: {'1 to 8' if name == 'bits' else 'at least 1'}"
                )
        for part in PARTS:
            check_output(Path(options.out) / part, options.overwrite)
        torch.manual_seed(options.seed)
        report = adapt(make(options), options)
    except SinefieldError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 130
    print(json.dumps(report) if options.json else text(report))
    return 0


def text(report: dict[str, Any]) -> str:
    """A report in two lines."""
    scores = ", ".join(f"{name} {report[name]:.4g}" for name in ("before", "after", "packed"))
    head = f", beside a head of {report['head_bytes']:,}" if report["head_bytes"] else ""
    return (
        f"{report['metric']} ({report['better']} is better): {scores}\n"
        f"{report['out']}/adapter.sine: {report['bytes']:,} bytes at {report['bits']} bits, "
        f"{report['float_bytes']:,} as float32{head}"
    )


def _spec(options: argparse.Namespace) -> AdapterSpec:
    return AdapterSpec(options.kind, options.rank, options.alpha, options.omega)


def _train(task: Task, options: argparse.Namespace, parameters: list[nn.Parameter], what: str) -> None:
    optimizer = torch.optim.AdamW(parameters, options.lr, weight_decay=0.0)
    warm = max(options.steps // 20, 1)

    def rate(step: int) -> float:
        return min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / options.steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    task.model.train()
    bar = tqdm(range(options.steps), desc=what, unit="step", disable=None, leave=False)
    for step in bar:
        loss = task.loss(task.draw())
        if not torch.isfinite(loss):
            raise SinefieldError(f"the loss of {what} is {loss.item()} at step {step}; lower --lr or --omega")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3g}")


@torch.no_grad()
def _score(task: Task, stage: str) -> float:
    task.model.eval()
    if task.show is not None:
        task.show(stage)
    return float(task.score())


def batches(count: int, size: int, seed: int) -> Callable[[], list[int]]:
    """Draws places 0 … count − 1 in shuffled rounds, `size` at a time."""
    generator = torch.Generator().manual_seed(seed)
    left: list[int] = []

    def draw() -> list[int]:
        while len(left) < size:
            left.extend(torch.randperm(count, generator=generator).tolist())
        chosen = left[:size]
        del left[:size]
        return chosen

    return draw
