"""Fit a radiance field to photographs with known cameras and fly around it.

The photographs are rendered here; a folder of your own takes their place (docs/your_photographs.md).
Leaves 05_orbit.mp4.
"""

import argparse
from pathlib import Path

import imageio
import numpy as np

import sinefield as sf
from sinefield.data.made.synthetic import synthesize

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", type=Path, default=Path("runs/examples"))
parser.add_argument("--steps", type=int, default=800)
parser.add_argument("--pixels", type=int, default=96, help="width of the photographs")
options = parser.parse_args()

folder = options.out / "05_photographs"
synthesize(folder, n_train=40, n_val=0, n_test=4, resolution=options.pixels, overwrite=True)
field = sf.fit(folder, steps=options.steps, batch=16384, phase=0.5, bound=4.0, adam_lr=0.01, **{"field.steps": 128})
print(field, field.scores)

frames = field.render(field.orbit(32, width=2 * options.pixels))
colour, alpha = frames[..., :3], frames[..., 3:] / 255
white = np.uint8(np.round(colour * alpha + 255 * (1 - alpha)))
imageio.mimwrite(options.out / "05_orbit.mp4", white, fps=16)
