"""Define a new weight matrix, register it and fit a field with it.

A circulant matrix is one row, turned on by one place from row to row: n numbers for n². Leaves 09_circulant.png.
"""

import argparse
from pathlib import Path

import torch
import trimesh
from PIL import Image

import sinefield as sf
from sinefield.nn.weights import Weight, register_weight


class Circulant(Weight):
    def __init__(self, size):
        super().__init__(size, size)
        self.row = torch.nn.Parameter(torch.randn(size) / size**0.5)
        places = torch.arange(size)
        self.register_buffer("turn", (places - places[:, None]) % size, persistent=False)

    @classmethod
    def start(cls, out_features, in_features, spec, omega0):
        return cls(in_features)

    @staticmethod
    def numbers(out_features, in_features, rank):
        return in_features

    def matrix(self):
        return self.row[self.turn]


register_weight("one_row", Circulant)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", type=Path, default=Path("runs/examples"))
parser.add_argument("--steps", type=int, default=1000)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)

mesh = trimesh.creation.torus(1.0, 0.4)
field = sf.fit(mesh, steps=options.steps, weights="one_row", width=64, points=100_000, batch=4096)
print(field, field.scores)
eye = sf.look_at((2, -4, 3), (0, 0, 0), up=(0, 0, 1))
Image.fromarray(field.render(eye, width=256)).save(options.out / "09_circulant.png")
