"""Fit a field to a mesh in memory, keep it and look at it.

The field is a few thousand numbers that know the distance to the surface. Leaves 01_knot.png and the run 01_knot.
"""

import argparse
from pathlib import Path

from PIL import Image

import sinefield as sf
from sinefield.data.made.procedural import demo_shape

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", type=Path, default=Path("runs/examples"))
parser.add_argument("--steps", type=int, default=1500)
options = parser.parse_args()

mesh = demo_shape()  # any trimesh.Trimesh, or the path of a mesh file
field = sf.fit(mesh, steps=options.steps, points=200_000, batch=8192)
print(field, field.scores)

field.save(options.out / "01_knot", overwrite=True)
above = sf.look_at(eye=(0, -1, 3.5), target=(0, 0, 0))
Image.fromarray(field.render(above, width=320)).save(options.out / "01_knot.png")
