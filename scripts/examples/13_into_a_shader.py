"""Write a field for shaders and for C, without training anything.

The GLSL file is a whole picture for shadertoy.com. Leaves 13_knot.glsl, 13_knot.wgsl and 13_knot.h.
"""

import argparse
from pathlib import Path

from sinefield.export.code import export_code

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", type=Path, default=Path("runs/examples"))
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)

for ending in ("glsl", "wgsl", "h"):
    report = export_code("example:knot", options.out / f"13_knot.{ending}", name="knot", overwrite=True)
    print(f"{report['out']}: {report['target']}, {report['bytes']:,} bytes")
