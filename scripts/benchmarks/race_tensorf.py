"""Runs TensoRF's own train.py, from a clone of theirs, and notes when it had which score; race.py starts it.

    python scripts/benchmarks/race_tensorf.py CLONE OUT.jsonl [options of their train.py]

Nothing of theirs is changed. Their evaluation is called as they call it, but on the device that they train on (they
leave it at CUDA), without SSIM and LPIPS, and its time is taken off. The clock is this process's CPU time, from the
moment at which their model is made: reading the photographs is not on it.
"""

import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    clone, out = str(Path(sys.argv[1]).resolve()), Path(sys.argv[2]).resolve()
    sys.argv = [f"{clone}/train.py", *sys.argv[3:]]
    sys.path.insert(0, clone)
    import models.tensorBase as base  # pyright: ignore[reportMissingImports]
    import renderer  # pyright: ignore[reportMissingImports]

    clock = {"begin": 0.0, "off": 0.0}
    make, evaluate = base.TensorBase.__init__, renderer.evaluation

    def made(self: Any, *given: Any, **named: Any) -> None:
        clock["begin"] = time.process_time()
        make(self, *given, **named)

    def evaluated(data: Any, model: Any, *given: Any, **named: Any) -> Any:
        now = time.process_time()
        found = evaluate(data, model, *given, **{**named, "device": "cpu", "compute_extra_metrics": False})
        row = {"cpu_seconds": now - clock["begin"] - clock["off"], "psnr": float(sum(found) / len(found))}
        row["numbers"] = sum(p.numel() for p in model.parameters())
        with out.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        clock["off"] += time.process_time() - now
        return found

    base.TensorBase.__init__, renderer.evaluation = made, evaluated
    runpy.run_path(f"{clone}/train.py", run_name="__main__")


if __name__ == "__main__":
    main()
