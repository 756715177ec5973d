"""Ask a field where rays meet it, and draw what they see.

Rays are sphere traced by the field's true distances; each hit has a normal. Leaves 11_rays.png.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np

import sinefield as sf

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", type=Path, default=Path("runs/examples"))
parser.add_argument("--width", type=int, default=160, help="pixels")
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

field = sf.load("example:spot")
low, high = field.bounds
middle, size = (low + high) / 2, (high - low).max()
line = (np.arange(options.width) + 0.5) / options.width - 0.5
x, y = np.meshgrid(1.3 * size * line, -1.3 * size * line)
forth = np.array([-0.8, -0.4, 1.0]) / np.linalg.norm([-0.8, -0.4, 1.0])
right = np.cross(forth, [0, 1, 0]) / np.linalg.norm(np.cross(forth, [0, 1, 0]))
up = np.cross(right, forth)
origins = middle - 2 * size * forth + x.reshape(-1, 1) * right + y.reshape(-1, 1) * up
hits = field.ray(origins, np.broadcast_to(forth, origins.shape))

light = np.where(hits.hit, 0.25 + 0.75 * np.maximum(-(np.nan_to_num(hits.normals) @ (forth - 0.5 * up)), 0) / 1.12, 1.0)
plt.imsave(options.out / "11_rays.png", light.reshape(x.shape), cmap="gray", vmin=0, vmax=1)
print(f"{hits.hit.mean():.1%} of {len(origins):,} rays meet it, the nearest after {hits.t.min():.3f}")
