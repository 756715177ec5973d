"""Ask how far apart two fields are, and where the nearest places of one are.

The same shape twice; then points around it, moved onto its surface. Leaves 12_closest.png.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np

import sinefield as sf

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", type=Path, default=Path("runs/examples"))
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

knot, spot = sf.load("example:knot"), sf.load("example:spot")
apart = knot.distance_to(spot)
print(f"knot and spot: {apart.distance:.3f}, to within {apart.error:.3f}")

points = np.random.default_rng(0).uniform(-1.3, 1.3, (400, 3))
near = knot.closest(points)
fig, axes = plt.subplots(figsize=(6, 6), layout="constrained")
for start, end in zip(points, near.points, strict=True):
    axes.plot(*np.stack([start, end])[:, :2].T, color="lightgray", linewidth=0.7)
axes.scatter(*near.points[:, :2].T, c=near.distances, cmap="RdBu", s=12)
axes.set_aspect("equal")
fig.savefig(options.out / "12_closest.png", dpi=80)
print(f"{near.found.mean():.0%} of {len(points)} places verified")
