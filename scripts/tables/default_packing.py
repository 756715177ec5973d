"""`sinefield pack RUN OUT` as it comes, on runs that scripts/tables/scenes.py left: docs/results/default_packing.md.

python scripts/tables/default_packing.py [--runs armadillo Lego_100_100 …]
"""

import argparse
import json
import time
from pathlib import Path

from sinefield.files import write_text
from sinefield.learning.evaluate import evaluate_file
from sinefield.learning.pack import pack
from sinefield.machine import describe_machine
from sinefield.tables import table

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", default=["armadillo", "dragon", "Lego_100_100"])
    options = parser.parse_args()
    rows = []
    for name in options.runs:
        run = ROOT / "runs" / "tables" / name
        report = pack(run, run.with_suffix(".sine"), overwrite=True)
        scores = evaluate_file(run.with_suffix(".sine"))
        key, digits = ("psnr", 2) if report["kind"] == "radiance" else ("iou", 4)
        rows.append(
            {
                "run": name,
                "parameters": report["params"],
                "run's bytes": report["float_bytes"],
                "packed bytes": report["bytes"],
                "score": key,
                "before": f"{report[key + '_before']:.{digits}f}",
                "after": f"{scores[key]:.{digits}f}",
                "seconds": round(report["seconds"]),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    machine = describe_machine()
    about = (
        "`python scripts/tables/default_packing.py`: `sinefield pack` with no options, seed 0,\n"
        f"{machine['cpu']}, {machine['threads']} threads, {time.strftime('%Y-%m-%d')}."
    )
    text = "\n\n".join(["# Packing as it comes", about, table(list(rows[0]), rows, markdown=True)])
    write_text(ROOT / "docs" / "results" / "default_packing.md", text + "\n")


if __name__ == "__main__":
    main()
