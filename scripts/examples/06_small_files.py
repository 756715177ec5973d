"""Save one field in fewer and fewer bytes and see what that costs.

Each file is packed anew: its weights are rounded and trained on. Leaves 06_2000.sine and so on, and 06_sizes.png.
"""

import argparse
from pathlib import Path

import matplotlib
import trimesh

import sinefield as sf

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", type=Path, default=Path("runs/examples"))
parser.add_argument("--steps", type=int, default=800)
options = parser.parse_args()

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

torus = trimesh.creation.torus(1.0, 0.4)
run = options.out / "06_run"
sf.fit(torus, steps=options.steps, width=48, points=200_000, batch=4096).save(run, overwrite=True)
files = []
for limit in (4000, 3000, 2500, 2000):
    field = sf.load(run)
    field.save(options.out / f"06_{limit}.sine", max_bytes=limit, steps=options.steps, overwrite=True)
    print(f"{field.nbytes:,} bytes, IoU {field.scores['iou']:.4f}")
    files.append(field)
fig, axes = plt.subplots(figsize=(5, 3), layout="constrained")
axes.plot([f.nbytes for f in files], [f.scores["iou"] for f in files], "o-")
axes.set(xlabel="bytes", ylabel="IoU")
fig.savefig(options.out / "06_sizes.png")
