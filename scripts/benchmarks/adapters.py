"""Time and memory of one training step of an adapted layer; and what adapters make of a field.

    python scripts/benchmarks/adapters.py [--json] [--quick] [--only layer|fields]

One layer in the middle of a network (its input needs a gradient too), forward, backward and an Adam step on
the adapter: plain LoRA computed as x Aᵀ Bᵀ, the same in PEFT where that is installed, the sine adapter folded
into the weight, that with the factors' gradient from bf16 inputs, the sine as plain torch computes it, and DoRA.
Kinds take turns step by step, so that whatever else the machine does falls on all alike; a step's time is the
median, "of lora" the median of the ratios turn by turn. Memory is the most that is allocated at once within a
step beyond what lay there before it, by torch's profiler (which talks on stderr). Writes docs/results/adapters.*
unless --quick. The fields are field_edits.py's, docs/results/adapters_fields.* theirs.

Of all of it in one JSON object: step_ratio and memory_ratio of the sine adapter to plain LoRA in float32, edit_bytes,
edit_gain_share, edit_4bit_size_cost (of that file, of about 4 bits a number), edit_4bit_cost (of exactly 4 bits).
"""

import argparse
import importlib.util
import json
import statistics
import time
from pathlib import Path

import field_edits
import torch
from torch import nn

from sinefield.adapters.deltas import AdapterSpec
from sinefield.adapters.layers import Adapted
from sinefield.files import write_text
from sinefield.machine import describe_machine
from sinefield.tables import table

OUT = Path(__file__).parents[2] / "docs" / "results" / "adapters"
KINDS = ("lora", "lora of PEFT", "sine", "sine, bf16 gradient", "sine, plain torch", "dora", "sine-dora")


class PlainTorch(Adapted):
    """The formula under autograd: what the adapter would be without a function of its own."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight, self.base.bias)


def make_step(kind: str, width: int, tokens: int, rank: int, dtype: torch.dtype, device: str):
    torch.manual_seed(0)
    base = nn.Linear(width, width, device=device, dtype=dtype).requires_grad_(False)
    if kind.endswith("PEFT"):
        from peft import LoraConfig, get_peft_model

        layer = get_peft_model(nn.Sequential(base), LoraConfig(r=rank, lora_alpha=16, target_modules=["0"]))
    else:
        layer = (PlainTorch if kind.endswith("torch") else Adapted)(base, bf16_gradient=kind.endswith("gradient"))
        layer.adapters["one"] = layer.make("one", AdapterSpec(kind.split(",")[0], rank))
        nn.init.normal_(layer.adapters["one"].b, std=0.01)
        layer.activate(["one"])
    optimizer = torch.optim.Adam([p for p in layer.parameters() if p.requires_grad], 1e-4)
    x = torch.randn(tokens, width, device=device, dtype=dtype, requires_grad=True)
    direction = torch.randn(tokens, width, device=device, dtype=dtype)

    def step() -> None:
        optimizer.zero_grad()
        x.grad = None
        layer(x).backward(direction)
        optimizer.step()

    return step


def peak_bytes(step, device: str) -> int:
    """Most that is allocated at once within a step, its own gradients included."""
    step()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        step()
    # Every allocation and release in order of time; the first release is of the last step's gradient of x.
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def measure(width: int, tokens: int, rank: int, dtype: torch.dtype, device: str, rounds: int) -> list[dict]:
    kinds = [k for k in KINDS if not k.endswith("PEFT") or importlib.util.find_spec("peft")]
    steps = {kind: make_step(kind, width, tokens, rank, dtype, device) for kind in kinds}
    spent: dict[str, list[float]] = {kind: [] for kind in kinds}
    for i in range(rounds + 2):
        for kind, step in steps.items():
            if device == "cuda":
                torch.cuda.synchronize()
            begin = time.perf_counter()
            step()
            if device == "cuda":
                torch.cuda.synchronize()
            if i >= 2:
                spent[kind].append(time.perf_counter() - begin)
    peaks = {kind: peak_bytes(step, device) for kind, step in steps.items()}
    weight = width * width * torch.empty((), dtype=dtype).element_size()
    return [
        {
            "adapter": kind,
            "dtype": str(dtype).removeprefix("torch."),
            "ms": 1e3 * statistics.median(spent[kind]),
            "of lora": statistics.median(a / b for a, b in zip(spent[kind], spent["lora"], strict=True)),
            "peak MB": peaks[kind] / 1e6,
            "more than lora, in weights": (peaks[kind] - peaks["lora"]) / weight,
        }
        for kind in kinds
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="3 rounds, write nothing")
    parser.add_argument("--only", choices=["layer", "fields"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report: dict = {}
    if options.only != "fields":
        report |= layer(options)
        print(table(list(report["rows"][0]), report["rows"]), flush=True)
    if options.only != "layer":
        edits = field_edits.measure(quick=options.quick)
        keys = ("edit_bytes", "edit_gain_share", "edit_4bit_size_cost", "edit_4bit_cost")
        report |= {key: edits[key] for key in keys} | {"edits": edits}
        print(table(field_edits.COLUMNS, edits["rows"]), flush=True)
    if options.json:
        print(json.dumps(report))


def layer(options: argparse.Namespace) -> dict:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rounds = 3 if options.quick else options.rounds
    rows = [
        row
        for dtype in (torch.float32, torch.bfloat16)
        for row in measure(options.width, options.tokens, options.rank, dtype, device, rounds)
    ]
    report = {**describe_machine(), "device": device, "threads": torch.get_num_threads()}
    report |= {k: getattr(options, k) for k in ("width", "tokens", "rank")} | {"rounds": rounds, "rows": rows}
    of = {row["adapter"]: row for row in rows if row["dtype"] == "float32"}
    report |= {
        "step_ratio": of["sine"]["of lora"],
        "memory_ratio": of["sine"]["peak MB"] / of["lora"]["peak MB"],
    }
    if not options.quick:
        write_text(OUT.with_suffix(".json"), json.dumps(report, indent=1) + "\n")
        write_text(OUT.with_suffix(".md"), text(report))
    return report


def text(report: dict) -> str:
    rows = report["rows"]
    return (
        "# A training step of an adapted layer\n\n"
        f"`python scripts/benchmarks/adapters.py`: {report['width']} wide, {report['tokens']:,} tokens, rank "
        f"{report['rank']}, median of {report['rounds']} steps that take turns, {report['threads']} threads.\n\n"
        f"{table(list(rows[0]), rows, markdown=True)}\n\n"
        "Plain LoRA needs two products of the weight's size a step, a delta that is folded into the weight three:\n"
        "the gradient of ΔW is gᵀx, whatever its rank. In bf16 the small rest hardly counts and the ratio nears 3/2;\n"
        "PEFT's LoRA keeps its factors in float32 and pays for that with copies of its inputs. The function of our\n"
        "own is no faster than plain torch, it only takes less memory.\n"
    )


if __name__ == "__main__":
    main()
