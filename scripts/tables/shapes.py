"""The shape transformer as it ships: trained, scored on shapes it has not seen, packed, asked; docs/results/shapes.*.

python scripts/tables/shapes.py       about 15 minutes, making the shapes included
"""

import json
import shutil
import time
from pathlib import Path

import trimesh

from sinefield.config import load_config
from sinefield.data.made.families import make_shape
from sinefield.data.shape_sets import scan, solid_of_shape
from sinefield.export.reconstruct import reconstruct_shape
from sinefield.files import write_text
from sinefield.learning.pack import pack
from sinefield.learning.train import train
from sinefield.machine import describe_machine
from sinefield.tables import table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
UNSEEN = 2_000_000  # a seed that neither training nor scoring takes


def measure(run: Path) -> dict:
    """Train, pack and reconstruct; the numbers of the table."""
    begin = time.perf_counter()
    trained = train(load_config(ROOT / "scenes" / "shapes.yaml", {}), run, overwrite=True)
    minutes = (time.perf_counter() - begin) / 60
    file = run.with_suffix(".sine")
    packed = pack(run, file, max_bytes=2_000_000, overwrite=True)
    points = run / "points.ply"
    trimesh.PointCloud(scan(solid_of_shape(make_shape("chair", UNSEEN)), 1024, 0.005, seed=0)).export(points)
    found = reconstruct_shape(file, points, run / "found.glb", overwrite=True)
    keep = ("iou", "chamfer_l1", "fscore", "normal_consistency", "categories", "params", "steps", "seconds", "seed")
    return {
        **{key: trained[key] for key in keep},
        "minutes": minutes,
        "packed": {key: packed[key] for key in ("bytes", "float_bytes", "iou_before", "iou", "seconds")},
        "reconstruct_seconds": found["seconds"],
        "machine": describe_machine(),
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> None:
    run = ROOT / "runs" / "tables" / "shapes"
    row = measure(run)
    write_text(RESULTS / "shapes.json", json.dumps(row, indent=1) + "\n")
    shutil.copyfile(run / "pictures" / "shapes.png", RESULTS / "shapes.png")
    scores = ("shapes", "iou", "chamfer_l1", "fscore", "normal_consistency")
    rows = [{"category": name, **{key: found[key] for key in scores}} for name, found in row["categories"].items()]
    rows.append({"category": "all", "shapes": sum(r["shapes"] for r in rows), **{key: row[key] for key in scores[1:]}})
    rows = [{key: f"{v:.4f}" if isinstance(v, float) else v for key, v in r.items()} for r in rows]
    packed, machine = row["packed"], row["machine"]
    text = [
        "# Shapes from scans: held-out shapes",
        f"`python scripts/tables/shapes.py`: {row['seconds']:.0f} s of training ({row['steps']:,} steps; "
        f"{row['minutes']:.0f} minutes with making the\nshapes and scoring), {row['params']:,} parameters, seed "
        f"{row['seed']}, {machine['cpu']}, {machine['threads']} threads, {row['date']}. Each shape from 1,024 points,\n"
        "noise 0.005 of its longest side; Chamfer and F-score (at 0.02) in units of that side.",
        table(["category", *scores], rows, markdown=True),
        f"Packed: {packed['bytes']:,} bytes ({packed['float_bytes'] / packed['bytes']:.1f} times smaller), mean IoU "
        f"{packed['iou_before']:.4f} before and {packed['iou']:.4f} after, {packed['seconds']:.0f} s.\n"
        f"`sinefield reconstruct` of a chair's scan by that file: {row['reconstruct_seconds']:.1f} s.",
        "![scan, shape found and truth, one of each family](shapes.png)",
    ]
    write_text(RESULTS / "shapes.md", "\n\n".join(text) + "\n")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
