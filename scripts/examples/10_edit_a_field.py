"""Change a trained field by an edit of two kilobytes, and leave the field itself as it is.

The edit, an adapter on the field's layers, bends the knot. Leaves 10_bent.sine and 10_before_and_after.png.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import sinefield as sf
from sinefield.config import make_config
from sinefield.learning.adapt import adapt

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", type=Path, default=Path("runs/examples"))
parser.add_argument("--steps", type=int, default=2000)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)

before = sf.load("example:knot")
bent = before.mesh(128)
bent.vertices[:, 2] += 0.25 * bent.vertices[:, 0] ** 2
bent.export(options.out / "10_bent.ply")

data, training = {"path": str(options.out / "10_bent.ply"), "points": 100_000}, {"steps": options.steps, "batch": 8192}
scene = make_config({"kind": "shape", "data": data, "training": training}, "bent")
report = adapt("example:knot", scene, options.out / "10_bent.sine", max_bytes=2000, overwrite=True)
print(f"IoU with the bent knot: {report['iou_base']:.3f} before, {report['iou']:.3f} by {report['bytes']:,} bytes")

after = sf.load("example:knot", [options.out / "10_bent.sine"])
eye = sf.look_at((1, 4, 1.5), (0, 0, 0.1), up=(0, 0, 1))
Image.fromarray(np.hstack([f.render(eye, width=256) for f in (before, after)])).save(
    options.out / "10_before_and_after.png"
)
