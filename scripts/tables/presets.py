"""What each preset gives, by the size of the photographs; docs/results/presets.md.

    python scripts/tables/presets.py lego --downscale 8 4 2 1 --presets small balanced best --seconds 300
    python scripts/tables/presets.py meshes/armadillo.obj --seconds 60

Each row is one `sinefield train DATA --preset NAME --training.seconds S`, seed 0; DATA is below $SINEFIELD_DATA. Rows
are kept in docs/results/presets.csv; one that is run again takes the place of the old one.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from sinefield.config import data_folder
from sinefield.files import write_text
from sinefield.machine import describe_machine
from sinefield.tables import table

RESULTS = Path(__file__).parents[2] / "docs" / "results"
KEYS = ("data", "downscale", "preset", "seconds", "threads")
TEXT = """# What the presets give

{table}

Made by `python scripts/tables/presets.py DATA --downscale N --presets NAMES --seconds S`, seed 0, on {cpu},
beside other work. A row is one `sinefield train DATA --preset NAME --training.seconds S`. PSNR is the mean over the
held-out views, IoU that of 300,000 held-out points. Bytes are those of the float32 field, before packing.
"""


def trained(data: str, downscale: int, preset: str, seconds: float) -> dict[str, Any]:
    """One row."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sinefield", "train", str(data_folder() / data), "--preset", preset, "--json"]
        command += ["--training.seconds", str(seconds), "--out", f"{folder}/run", "--full-scores"]
        command += ["--data.downscale", str(downscale)] if downscale else []
        told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        report = json.loads(told.splitlines()[-1])
    score = f"{report['psnr']:.2f} dB" if "psnr" in report else f"IoU {report['iou']:.4f}"
    row = {"data": data, "downscale": downscale or "", "preset": preset, "seconds": f"{seconds:g}"}
    row |= {"threads": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count())), "score": score, "steps": report["steps"]}
    return row | {"numbers": report["params"], "bytes": report["bytes"], "date": str(date.today())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--downscale", type=int, nargs="+", default=[0])
    parser.add_argument("--presets", nargs="+", default=["small", "balanced", "best"])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    file = RESULTS / "presets.csv"
    rows = list(csv.DictReader(file.open(encoding="utf-8"))) if file.exists() else []
    for downscale in options.downscale:
        for preset in options.presets:
            row = {k: str(v) for k, v in trained(options.data, downscale, preset, options.seconds).items()}
            rows = [old for old in rows if any(old[key] != row[key] for key in KEYS)] + [row]
            rows.sort(
                key=lambda r: (r["data"], -int(r["downscale"] or 0), ("small", "balanced", "best").index(r["preset"]))
            )
            lines = [",".join(rows[0]), *(",".join(r.values()) for r in rows)]
            write_text(file, "\n".join(lines) + "\n")
            columns = [*rows[0]]
            text = TEXT.format(table=table(columns, rows, markdown=True), cpu=describe_machine()["cpu"])
            write_text(RESULTS / "presets.md", text)
            print(row, file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
