"""The armadillo under three byte limits, trained and packed as a user would; docs/results/small_files.* .

    python scripts/tables/small_files.py [--kinds dense sine]     two to four minutes a row on one core

The limits are the sizes of the methods document's table for decimation and Draco. The budget is one of two tried; at
4,000 + 8,000 steps and the scene's own rates the dense rows had 0.9748, 0.9810 and 0.9876.
"""

import argparse
import json
import time
from pathlib import Path

from readme import fill

from sinefield.config import load_config
from sinefield.files import write_text
from sinefield.learning.evaluate import evaluate_file
from sinefield.learning.pack import pack
from sinefield.learning.train import train
from sinefield.machine import describe_machine
from sinefield.tables import table

ROOT = Path(__file__).parents[2]
STORE = ROOT / "docs" / "results" / "small_files.json"
TRAINING, PACKING = 2000, 4000  # steps, which repeat to the bit
RATES = {"training.lr": 0.04, "training.adam_lr": 0.02}  # the best of those that rate_shapes.py swept
SINE = {"phase": 0.5, "bound": 4.0}
# limit: IoU of the table, IoU aimed at, the networks whose weights take five to six bits there
LIMITS = {
    3774: (0.9644, 0.970, {"dense": {"width": 44}, "sine": {"width": 72, "rank": 8, **SINE}}),
    6861: (0.9761, 0.981, {"dense": {"width": 62}, "sine": {"width": 104, "rank": 12, **SINE}}),
    12325: (0.9849, 0.988, {"dense": {"width": 86}, "sine": {"width": 144, "rank": 18, **SINE}}),
}


def measure(limit: int, kind: str) -> dict:
    """One row: what was typed, and what came of it."""
    draco, aim, networks = LIMITS[limit]
    settings = {"field.weights": kind, **{f"field.{k}": v for k, v in networks[kind].items()}}
    settings |= {"training.steps": TRAINING, **RATES}
    out = ROOT / "runs" / "tables" / f"small_{kind}_{limit}"
    begin = time.process_time()
    scene = ROOT / "scenes" / "armadillo.yaml"
    trained = train(load_config(scene, {k: str(v) for k, v in settings.items()}), out, overwrite=True)
    file = out.with_suffix(".sine")
    packed = pack(out, file, max_bytes=limit, steps=PACKING, overwrite=True)
    seconds = time.process_time() - begin
    scores = evaluate_file(file)
    flags = " ".join(f"--{k} {v}" for k, v in settings.items())
    return {
        "train": f"sinefield train scenes/armadillo.yaml {flags}",
        "pack": f"sinefield pack RUN OUT --max-bytes {limit} --steps {PACKING}",
        "limit": limit,
        "weights": kind,
        "bytes": packed["bytes"],
        "params": packed["params"],
        "float_iou": trained["iou"],
        "iou": scores["iou"],
        "chamfer_l1": scores["chamfer_l1"],
        "draco": draco,
        "aim": aim,
        "minutes": seconds / 60,
        "machine": describe_machine(),
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="*", default=["dense", "sine"], help="none: write the tables anew")
    parser.add_argument("--limits", nargs="+", type=int, default=list(LIMITS), choices=list(LIMITS))
    options = parser.parse_args()
    rows = json.loads(STORE.read_text()) if STORE.exists() else []
    for kind in options.kinds:
        for limit in options.limits:
            rows = [r for r in rows if (r["limit"], r["weights"]) != (limit, kind)] + [measure(limit, kind)]
            print(json.dumps(rows[-1]), flush=True)
            rows.sort(key=lambda r: (r["limit"], r["weights"]))
            write_text(STORE, json.dumps(rows, indent=1) + "\n")
    shown = [
        {
            "at most": row["limit"],
            "weights": row["weights"],
            "parameters": row["params"],
            "bytes": row["bytes"],
            "IoU": f"{row['iou']:.4f}",
            "unpacked": f"{row['float_iou']:.4f}",
            "Draco": row["draco"],
            "aim": row["aim"],
            "minutes": f"{row['minutes']:.1f}",
        }
        for row in rows
    ]
    machine = describe_machine()
    dates = sorted({row["date"] for row in rows})
    about = (
        f"Made by `python scripts/tables/small_files.py`: the armadillo, {TRAINING:,} steps of training, then\n"
        f"{PACKING:,} with rounded weights; seed 0, {machine['cpu']}, {', '.join(dates)}. Data and scoring are\n"
        "included in the minutes, of processor time. IoU on 300,000 held-out points; Draco: what decimation and Draco\n"
        "give at that size in the simplest setting (docs/results/draco.csv has better ones)."
    )
    text = table(list(shown[0]), shown, markdown=True) + "\n\n" + about + "\n"
    fill("small", text)
    write_text(STORE.with_suffix(".md"), "# Small files\n\n" + text)


if __name__ == "__main__":
    main()
