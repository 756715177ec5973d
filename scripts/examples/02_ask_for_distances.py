"""Ask a field for signed distances and their gradients on a plane through it.

Level lines lie 0.1 apart, the surface is black, arrows point away from it. Leaves 02_distances.png.
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

field = sf.load("example:knot")
line = np.linspace(-1.4, 1.4, 141)
x, y = np.meshgrid(line, line)
points = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
distance, gradient = field.sdf(points, gradient=True)
d, g = distance.reshape(x.shape), gradient.reshape(*x.shape, 3)

fig, axes = plt.subplots(figsize=(6, 6), layout="constrained")
axes.contourf(x, y, d, np.arange(-0.3, 1.21, 0.1), cmap="RdBu", extend="both", vmin=-1.2, vmax=1.2)
axes.contour(x, y, d, [0], colors="black")
axes.quiver(*(a[5::10, 5::10] for a in (x, y, g[..., 0], g[..., 1])), scale=30, width=0.003)
axes.set_aspect("equal")
fig.savefig(options.out / "02_distances.png", dpi=80)
print(f"inside: {field.inside(points).mean():.1%} of the plane; farthest point {distance.max():.2f} away")
