"""One scene trained under several settings, by steps and seeds: what of docs/speed.md's tables stands behind a setting.

    python scripts/benchmarks/trials.py SCENE [--steps N] [--seeds N] SETTINGS ...

SETTINGS are like training.coarse=4,training.batch=8192, or "" for the scene's own. Rows of docs/speed.md's table:

    trials.py lego --steps 800 training.batch=8192,training.coarse={1,3,4,6,8}
    trials.py lego --steps 2000 training.coarse={1,3,4,6}
    trials.py armadillo --steps 250 training.batch=2048,data.near_fraction={0.5,0.7}
    trials.py dragon --steps 2400 data.near_fraction={0.5,0.7}

Prints a table of the scores of whole evaluations; single settings differ by up to the spread between seeds.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from sinefield.config import load_config
from sinefield.learning.train import train
from sinefield.tables import table

ROOT = Path(__file__).parents[2]


def trial(scene: str, steps: int, seed: int, settings: str) -> dict:
    """The report of one training."""
    overrides = {"training.steps": str(steps), "seed": str(seed)}
    overrides |= dict(setting.split("=", 1) for setting in settings.split(",") if setting)
    with tempfile.TemporaryDirectory() as folder:
        return train(load_config(ROOT / "scenes" / f"{scene}.yaml", overrides), Path(folder) / "run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", help="a file of scenes/, without .yaml")
    parser.add_argument("settings", nargs="+")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    rows = []
    for settings in options.settings:
        reports = [trial(options.scene, options.steps, seed, settings) for seed in range(options.seeds)]
        name = "iou" if "iou" in reports[0] else "psnr"
        scores = [report[name] for report in reports]
        rows.append(
            {
                "settings": settings or "the scene's own",
                name: statistics.mean(scores),
                "spread": max(scores) - min(scores),
                "seconds": statistics.mean(report["seconds"] for report in reports),
            }
        )
        print(table(list(rows[-1]), rows))


if __name__ == "__main__":
    main()
