"""What a training step costs in one process and in two that share it out, on one machine.

    python scripts/benchmarks/distributed.py --json [--scenes armadillo lego] [--steps 60] [--processes 2] [--times 1]

Each process has one thread. A step is taken apart: `work` is what the processes share out (points or rays, networks
forth and back, and for a radiance field the updates of its grid), `sum` the sum of gradients and what else they tell
each other, `rest` what each does alike (the optimisers). `cpu_ms` is processor time of one process, which does not
depend on how busy the machine is; `wall_ms` does. `ratio` is `work` of one of n processes over a n-th of that of a
single one: 1 were a perfect division. With --times N batches are N times the usual ones. The first steps, which may
compile, do not count.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

ROOT = Path(__file__).parents[2]
SKIPPED = 17
"""Steps that do not count: until after the first update of the grid."""
PREPARED = 200_000
"""Points of a shape: a step costs the same with more of them."""
SHAPES_BATCH = 16384
"""Points of a step where the scene file leaves them to the package."""
PARTS = ("work", "sum", "rest")


def measure(scene: str, steps: int, seed: int, times: float) -> dict[str, Any]:
    """Mean time of each part of a step, of this process."""
    from sinefield.config import load_config
    from sinefield.fields.base import make_task, read_data, settled, step_generator
    from sinefield.learning.loop import make_optimizers
    from sinefield.nn.backend import hidden_dtype
    from sinefield.team import joined

    with joined() as team:
        config = load_config(ROOT / "scenes" / f"{scene}.yaml", {"seed": str(seed)})
        if config.kind == "shape":
            config.data.points = PREPARED
        data = read_data(config)
        config = settled(config, data)
        config.training.batch = round(times * (config.training.batch or SHAPES_BATCH))
        task = make_task(config, data)
        task.team = team
        task.field.set_dtype(hidden_dtype(config.training.precision, task.device))
        optimizers = make_optimizers(task, config.training)
        learned = [p for o in optimizers for group in o.param_groups for p in group["params"]]
        spent = []
        for step in range(SKIPPED + steps):
            marks = [(time.process_time(), time.perf_counter())]

            def mark(marks: list[Any] = marks) -> None:
                marks.append((time.process_time(), time.perf_counter()))

            for p in learned:
                p.grad = None
            task.progress = step / (SKIPPED + steps)
            loss = task.step(step, step_generator(seed, step))
            mark()
            loss = team.add_gradients(learned, loss)
            team.meet(0.0, 0)
            mark()
            for optimizer in optimizers:
                optimizer.step()
            mark()
            spent.append([[b[i] - a[i] for a, b in pairwise(marks)] for i in (0, 1)])
        kept = spent[SKIPPED:]
        found: dict[str, Any] = {}
        for i, clock in enumerate(("cpu_ms", "wall_ms")):
            found[clock] = {part: 1e3 * mean(row[i][j] for row in kept) for j, part in enumerate(PARTS)}
            found[clock]["step"] = sum(found[clock].values())
        found["wall_ms"]["median_step"] = 1e3 * median(sum(row[1]) for row in kept)
        return {**found, "params": sum(p.numel() for p in learned), "loss": loss, "rank": team.rank}


def run(scene: str, processes: int, steps: int, seed: int, times: float) -> list[dict[str, Any]]:
    """`measure` in so many processes."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    started = []
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(processes):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1, "NUMBA_NUM_THREADS": 1}
            out = Path(folder) / str(rank)
            command = [sys.executable, __file__, "--inside", scene, "--steps", str(steps), "--seed", str(seed)]
            command += ["--times", str(times)]
            environment = {**os.environ, **{name: str(value) for name, value in place.items()}}
            started.append(subprocess.Popen([*command, "--out", str(out)], env=environment))
        codes = [one.wait() for one in started]
        if any(codes):
            raise SystemExit(f"{scene}: a process failed")
        return [json.loads((Path(folder) / str(rank)).read_text()) for rank in range(processes)]


def compare(scene: str, processes: int, steps: int, seed: int, times: float) -> dict[str, Any]:
    """One process against several."""
    (one,) = run(scene, 1, steps, seed, times)
    many = run(scene, processes, steps, seed, times)
    work = mean(each["cpu_ms"]["work"] for each in many)
    return {
        "scene": scene,
        "params": one["params"],
        "one": {clock: one[clock] for clock in ("cpu_ms", "wall_ms")},
        "many": [{clock: each[clock] for clock in ("cpu_ms", "wall_ms")} for each in many],
        "ratio": work * processes / one["cpu_ms"]["work"],
        "loss_apart": abs(many[0]["loss"] - one["loss"]) / one["loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="+", default=["armadillo", "lego"])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--times", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        found = measure(options.inside, options.steps, options.seed, options.times)
        Path(options.out).write_text(json.dumps(found))
        return
    from sinefield.machine import describe_machine

    given = options.processes, options.steps, options.seed, options.times
    rows = [compare(scene, *given) for scene in options.scenes]
    if options.json:
        print(
            json.dumps(
                {"processes": options.processes, "times": options.times, "rows": rows, "machine": describe_machine()}
            )
        )
        return
    print("| scene | processes | work, CPU ms | sum | rest | step, wall ms |\n|---|---|---|---|---|---|")
    for row in rows:
        for n, found in ((1, row["one"]), *((options.processes, each) for each in row["many"])):
            cpu = " | ".join(f"{found['cpu_ms'][part]:.2f}" for part in PARTS)
            print(f"| {row['scene']} | {n} | {cpu} | {found['wall_ms']['step']:.1f} |")
        print(f"\n{row['scene']}: {row['ratio']:.3f} times a perfect share of the work\n")


if __name__ == "__main__":
    main()
