"""Take a mesh with colours out of a radiance field, for any 3D program.

Its surface is where the density passes a level; its colours are what the field shows there. Leaves 08_toys.glb.
"""

import argparse
from pathlib import Path

import sinefield as sf

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", type=Path, default=Path("runs/examples"))
parser.add_argument("--resolution", type=int, default=160)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)

field = sf.load("example:toys")
mesh = field.mesh(options.resolution)
mesh.export(options.out / "08_toys.glb")
print(f"{field.nbytes:,} bytes became {len(mesh.faces):,} triangles")
