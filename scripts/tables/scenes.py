"""Every scene of scenes/ as it ships: train and evaluate; docs/results/scenes.*

    python scripts/tables/scenes.py [NAME ...]      without names: all, about an hour on two cores
    python scripts/tables/scenes.py NAME=RUN ...    what a run of that row's command has reported, without training
    python scripts/tables/scenes.py tables        only write the tables anew

Run it on an idle machine: budgets are in seconds. Rows that are not run again stay as they are.
"""

import json
import re
import sys
import time
from pathlib import Path

from sinefield.config import load_config
from sinefield.data.made.synthetic import synthesize
from sinefield.files import write_text
from sinefield.learning.train import train
from sinefield.tables import table

ROOT = Path(__file__).parents[2]
STORE = ROOT / "docs" / "results" / "scenes.json"
# name of the row: scene file, what to override
ROWS = {
    "demo shape": ("demo_shape", {}),
    "armadillo": ("armadillo", {}),
    "dragon": ("dragon", {}),
    "open bunny": ("bunny_open", {}),
    "demo, 100×100": ("demo", {}),
    "Lego, 100×100": ("lego", {}),
    "Lego, 100×100, 12 min": ("lego", {"training.seconds": "720"}),
    "Lego, 200×200, hash": ("lego_hash", {}),
    "Lego, 400×400, hash": ("lego_400", {}),
    "Lego, 800×800, hash": ("lego_800", {}),
    "fern, 504×378": ("fern", {}),
    "fox, 135×240": ("fox", {}),
}


def measure(name: str) -> dict:
    """Train one row's scene into runs/tables/ and return what the table says of it."""
    scene, overrides = ROWS[name]
    out = ROOT / "runs" / "tables" / re.sub(r"\W+", "_", name)
    report = train(load_config(ROOT / "scenes" / f"{scene}.yaml", overrides), out, overwrite=True)
    return row_of(name, report)


def row_of(name: str, report: dict) -> dict:
    """What the table says of a run."""
    scene, overrides = ROWS[name]
    more = "".join(f" --{key} {value}" for key, value in overrides.items())
    keep = ("kind", "params", "bytes", "steps", "seconds", "seed", "psnr", "ssim", "iou", "chamfer_l1", "machine")
    return {
        "command": f"sinefield train scenes/{scene}.yaml{more}",
        **{key: report[key] for key in keep if key in report},
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> None:
    given = dict(name.partition("=")[::2] for name in sys.argv[1:] or ROWS if name != "tables")
    names = list(given)
    if unknown := [name for name in names if name not in ROWS]:
        raise SystemExit(f"unknown {unknown[0]}; one of {', '.join(ROWS)}")
    stored = json.loads(STORE.read_text()) if STORE.exists() else {}
    if any(ROWS[name][0].startswith("demo") for name in names) and not (ROOT / "runs" / "demo_data").exists():
        synthesize(ROOT / "runs" / "demo_data", resolution=100)  # as scripts/demo.sh does
    for name in names:
        stored[name] = (
            row_of(name, json.loads(Path(given[name], "report.json").read_text())) if given[name] else measure(name)
        )
        print(name, json.dumps(stored[name]), flush=True)
        write_text(STORE, json.dumps(stored, indent=1, ensure_ascii=False) + "\n")
    rows = [
        {
            "scene": name,
            "parameters": row["params"],
            "training": f"{row['seconds']:.0f} s" + (", 1 thread" if row["machine"]["threads"] == 1 else ""),
            "steps": row["steps"],
            "score": f"IoU {row['iou']:.4f}" if "iou" in row else f"{row['psnr']:.2f} dB, SSIM {row['ssim']:.3f}",
            "date": row["date"],
            "command": f"`{row['command']}`",
        }
        for name, row in ((name, stored[name]) for name in ROWS if name in stored)
    ]
    machines = {
        f"{r['machine']['cpu']}, {r['machine']['threads']} threads, torch {r['machine']['torch']}"
        for r in stored.values()
    }
    seeds = sorted({row["seed"] for row in stored.values()})
    text = (
        table(list(rows[0]), rows, markdown=True)
        + f"\n\nMade by `python scripts/tables/scenes.py` ({'; '.join(sorted(machines))}; "
        f"seed {', '.join(map(str, seeds))}). IoU on 300,000 held-out points uniform in the object's box;\n"
        "PSNR and SSIM as means over the held-out views, 8-bit, composited on white.\n"
    )
    write_text(STORE.with_suffix(".md"), "# Scenes as they ship\n\n" + text)


if __name__ == "__main__":
    main()
