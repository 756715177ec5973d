"""Fit a field to a point cloud with normals, as a scanner gives it, and take a closed mesh out of it.

Here the points come from the surface of another field. Leaves 03_surface.ply, the mesh, and 03_surface.png.
"""

import argparse
from pathlib import Path

import trimesh
from PIL import Image

import sinefield as sf

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", type=Path, default=Path("runs/examples"))
parser.add_argument("--steps", type=int, default=1500)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)

scanned = sf.load("example:spot").mesh(128)
points, faces = trimesh.sample.sample_surface(scanned, 20_000, seed=0)
field = sf.fit((points, scanned.face_normals[faces]), steps=options.steps, points=200_000, batch=4096)

mesh = field.mesh(128)
mesh.export(options.out / "03_surface.ply")
Image.fromarray(field.render(width=320)).save(options.out / "03_surface.png")
print(f"{len(points):,} points became {field.params:,} numbers; closed mesh: {mesh.is_watertight}; {field.scores}")
