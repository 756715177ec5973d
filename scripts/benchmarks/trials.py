"""One scene trained under several settings, by steps and seeds: what of docs/speed.md's tables stands behind a setting.

    python scripts/benchmarks/trials.py SCENE [--steps N | --cpu-seconds S] [--seeds N] SETTINGS ...

SETTINGS are like training.coarse=4,training.batch=8192, or "" for the scene's own. Rows of docs/speed.md's table:

    trials.py lego --steps 800 training.batch=8192,training.coarse={1,3,4,6,8}
    trials.py lego --steps 2000 training.coarse={1,3,4,6}
    trials.py armadillo --steps 250 training.batch=2048,data.near_fraction={0.5,0.7}
    trials.py dragon --steps 2400 data.near_fraction={0.5,0.7}
    trials.py lego_400 --cpu-seconds 60 --seeds 1 training.early_stop_eps={0,0.001}

Prints a table of the scores of whole evaluations. Trainings by CPU seconds (of radiance fields, NUMBA_NUM_THREADS=1)
compare settings that change what a step costs, by the mean over the test views. Single settings differ by up to the
spread between seeds.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from race import trained

from sinefield.config import Config, load_config
from sinefield.fields.base import make_task, read_data
from sinefield.fields.radiance.scores import mean_psnr
from sinefield.learning.train import train
from sinefield.tables import table

ROOT = Path(__file__).parents[2]


def trial(scene: str, steps: int, seed: int, settings: str, cpu_seconds: float | None) -> dict:
    """The report of one training."""
    overrides = {"training.steps": str(steps), "seed": str(seed)}
    overrides |= dict(setting.split("=", 1) for setting in settings.split(",") if setting)
    if cpu_seconds is not None:
        return by_cpu(load_config(ROOT / "scenes" / f"{scene}.yaml", overrides), cpu_seconds)
    with tempfile.TemporaryDirectory() as folder:
        return train(load_config(ROOT / "scenes" / f"{scene}.yaml", overrides), Path(folder) / "run")


def by_cpu(config: Config, seconds: float) -> dict:
    """One radiance field trained for so many seconds of CPU, which nothing but its steps counts for."""
    data = read_data(config)
    task = make_task(config, data)
    steps, spent = trained(task, config, seconds)
    task.field.set_dtype(torch.float32)
    return {"psnr": mean_psnr(task.field, data.scored_views), "steps": steps, "seconds": spent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", help="a file of scenes/, without .yaml")
    parser.add_argument("settings", nargs="+")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--cpu-seconds", type=float)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    rows = []
    for settings in options.settings:
        reports = [
            trial(options.scene, options.steps, seed, settings, options.cpu_seconds) for seed in range(options.seeds)
        ]
        name = "iou" if "iou" in reports[0] else "psnr"
        scores = [report[name] for report in reports]
        rows.append(
            {
                "settings": settings or "the scene's own",
                name: statistics.mean(scores),
                "spread": max(scores) - min(scores),
                "steps": statistics.mean(report["steps"] for report in reports),
                "seconds": statistics.mean(report["seconds"] for report in reports),
            }
        )
        print(table(list(rows[-1]), rows))


if __name__ == "__main__":
    main()
