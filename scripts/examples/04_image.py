"""Fit a field to an image, an array of pixels, and draw it at another size.

Leaves 04_image.png: on the left the pixels, on the right the field, both twice as large.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

import sinefield as sf

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", type=Path, default=Path("runs/examples"))
parser.add_argument("--steps", type=int, default=1000)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)

pixels = data.astronaut()[0:192, 128:320]
field = sf.fit(pixels, steps=options.steps)
large = np.kron(pixels, np.ones((2, 2, 1), np.uint8))
Image.fromarray(np.hstack([large, field.image(2 * pixels.shape[1])])).save(options.out / "04_image.png")
print(f"{pixels.nbytes:,} bytes of pixels became {field.params:,} numbers, {field.scores['psnr']:.1f} dB")
