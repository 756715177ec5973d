"""Steps of a shape's training by how OpenMP's threads wait, on an idle machine and beside one busy process.

    python scripts/benchmarks/waiting.py [--seconds 5] [--rounds 3]

Waiting threads sleep ("PASSIVE", the package's choice unless OMP_WAIT_POLICY is set) or spin ("ACTIVE"). The trainings
take turns; the busy process has the first core for itself. The knot of the demo, 2 threads or more. Counts only mean
something beside each other. Writes docs/results/waiting.md; run it on a machine that does nothing else.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from sinefield.data.made.procedural import demo_shape

OUT = Path(__file__).parents[2] / "docs" / "results" / "waiting.md"
POLICIES = ("PASSIVE", "ACTIVE")


def steps(mesh: Path, policy: str, seconds: float) -> int:
    """How many steps one training takes."""
    command = [sys.executable, "-m", "sinefield", "train", "scenes/demo_shape.yaml", "--data.path", str(mesh)]
    command += ["--out", str(mesh.parent / "run"), "--overwrite", "--training.seconds", str(seconds)]
    told = subprocess.run(
        command, env=os.environ | {"OMP_WAIT_POLICY": policy}, capture_output=True, text=True, check=True
    )
    found = re.search(r"(\d+) steps in", told.stdout)
    assert found is not None, told.stdout
    return int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    counts: dict[tuple[str, str], list[int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        mesh = Path(folder) / "knot.ply"
        demo_shape().export(mesh)
        steps(mesh, "PASSIVE", options.seconds)  # compiles
        for beside in ("nothing", "a busy process"):
            busy = None
            if beside != "nothing":
                busy = subprocess.Popen(["taskset", "-c", "0", sys.executable, "-c", "while True: pass"])
            try:
                for _ in range(options.rounds):
                    for policy in POLICIES:
                        found = steps(mesh, policy, options.seconds)
                        counts.setdefault((beside, policy), []).append(found)
                        print(beside, policy, found, flush=True)
            finally:
                if busy is not None:
                    busy.kill()
    rows = "\n".join(
        f"| {beside} | {policy} | {median(found):g} | {', '.join(map(str, found))} |"
        for (beside, policy), found in counts.items()
    )
    command = f"python scripts/benchmarks/waiting.py --seconds {options.seconds:g} --rounds {options.rounds}"
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    head = "| beside | threads wait | steps, median | of each round |\n|---|---|---|---|"
    what = f"Steps of the demo's knot in {options.seconds:g} s of training, seed 0, {machine}."
    OUT.write_text(f"# How threads wait\n\n`{command}`\n\n{what}\n\n{head}\n{rows}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
