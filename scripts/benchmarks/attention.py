"""Attention in O(N) against torch's softmax attention, what graying costs a ViT-Tiny; docs/results/attention_speed.*.

    python scripts/benchmarks/attention.py [--json] [--threads 2]      about two minutes

Times are medians of turns taken by all contenders in one run; memory is the growth of a process of its own, on Linux.
The ViT-Tiny (12 layers of 192 channels, 3 heads, 197 tokens) takes whole training steps of 4 images, with graying and
without in turns.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from sinefield.files import write_text
from sinefield.machine import describe_machine
from sinefield.tables import table
from sinefield.transformers.attention import attention

ROOT = Path(__file__).parents[2]
STORE = ROOT / "docs" / "results" / "attention_speed.json"
CHANNELS, TURNS = 32, 5
LENGTHS = (4096, 16384, 32768)
sys.path.insert(0, str(ROOT / "scripts" / "tables"))


def inputs(n: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 1, n, CHANNELS, generator=generator, requires_grad=True) for _ in range(3)]


def softmax(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def linear(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return attention(q, k, v, power=1)


KINDS: dict[str, Callable[..., torch.Tensor]] = {"softmax": softmax, "x/√N": linear}


def seconds(n: int, backward: bool) -> dict[str, float]:
    """Median seconds of each kind, in turns."""
    tensors, taken = inputs(n), {name: [] for name in KINDS}
    for turn in range(TURNS + 1):
        for name, kind in KINDS.items():
            begin = time.perf_counter()
            out = kind(*tensors)
            if backward:
                torch.autograd.grad(out.sum(), tensors)
            if turn:  # the first one warms up
                taken[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in taken.items()}


def _grown(name: str, n: int, answer: multiprocessing.SimpleQueue) -> None:
    torch.set_num_threads(1)
    KINDS[name](*inputs(64)).sum().backward()
    tensors = inputs(n)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _status("VmRSS")
    KINDS[name](*tensors).sum().backward()
    answer.put((_status("VmHWM") - before) / 1024)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def megabytes(name: str, n: int) -> float:
    """By how much a process's peak memory grows over attention and its gradients."""
    spawn = multiprocessing.get_context("spawn")
    answer = spawn.SimpleQueue()
    process = spawn.Process(target=_grown, args=(name, n, answer))
    process.start()
    process.join()
    return answer.get()


def graying_shares() -> dict[str, float]:
    from attention_vit import Setup, Variant, graying_share, make_vit

    setup = Setup("random", 224, 3, 10, 16, 192, 12, 3)
    data = torch.randn(4, 3, 224, 224), torch.arange(4)
    shares = {}
    for place, label in (("input", ""), ("attention", "_every_layer")):
        for kind, name in (("dct", "graying_share"), ("svd", "svd_share")):
            torch.manual_seed(0)
            model = make_vit(Variant(graying=kind, epsilon=0.9, graying_at=place), setup)
            optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
            shares[name + label] = graying_share(model, optimizer, data, 4)
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows, found = [], {}
    for n in LENGTHS:
        forward, both = seconds(n, False), seconds(n, True)
        for name in KINDS:
            ratio = "" if name == "softmax" else f"{forward['softmax'] / forward[name]:.3g}"
            rows.append(
                {
                    "tokens": f"{n:,}",
                    "attention": name,
                    "forward, ms": f"{1e3 * forward[name]:.4g}",
                    "times faster": ratio,
                    "with gradients, ms": f"{1e3 * both[name]:.4g}",
                    "and so": ratio and f"{both['softmax'] / both[name]:.3g}",
                    "memory, MB": f"{megabytes(name, n):.1f}",
                }
            )
        if n == 16384:
            found["speedup_16k"] = round(forward["softmax"] / forward["x/√N"], 2)
            found["speedup_16k_gradients"] = round(both["softmax"] / both["x/√N"], 2)
    shares = graying_shares()
    found |= {name: round(share, 4) for name, share in shares.items()}
    found["machine"] = describe_machine()
    machine = found["machine"]
    text = (
        "# Attention: speed, memory, graying\n\n"
        f"`python scripts/benchmarks/attention.py`: {machine['cpu']}, {options.threads} threads, "
        f"torch {machine['torch']}, {time.strftime('%Y-%m-%d')}. One head\nof {CHANNELS} channels, float32; "
        "softmax is torch's scaled_dot_product_attention. Memory: growth of a process's peak over a\n"
        "forward and a backward pass.\n\n"
        + table(list(rows[0]), rows, markdown=True)
        + "\n\nA training step of a ViT-Tiny at 224×224, 4 images: DCT graying of the input tokens takes "
        f"{100 * shares['graying_share']:.1f} % of it, SVD\ngraying {100 * shares['svd_share']:.1f} %; before every "
        f"attention they take {100 * shares['graying_share_every_layer']:.1f} and "
        f"{100 * shares['svd_share_every_layer']:.1f} %.\n"
    )
    write_text(STORE, json.dumps({**found, "rows": rows}, indent=1, ensure_ascii=False) + "\n")
    write_text(STORE.with_suffix(".md"), text)
    print(text)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
