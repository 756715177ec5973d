"""Render a radiance field from cameras of your choice.

`look_at` says where a camera stands and what it looks at. Leaves 07_views.png: from afar, from above, close and low.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import sinefield as sf

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", type=Path, default=Path("runs/examples"))
parser.add_argument("--width", type=int, default=240)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)

field = sf.load("example:toys")
middle, up = field.bounds.mean(axis=0), (0, 0, 1)
views = [
    field.render(sf.look_at(middle + eye, middle, up), width=options.width, height=options.width)
    for eye in ((3, -3, 2), (0.1, -0.1, 4), (1.4, 1.2, 0.7), (-2, 0.4, 0.3))
]
Image.fromarray(np.hstack(views)).save(options.out / "07_views.png")
