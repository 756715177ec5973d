"""Make the golden files: one small file of every kind, and what each must decode to.

    PYTHONPATH=tests python scripts/make_golden.py tests/golden

They were made once and are not to be made anew: a file of an earlier version must be read alike ever after. So what is
there already stays as it is; only missing files are made, and described in expected.json. Every step is a command of
the package, each with `training.steps` and a seed, on data drawn here.
"""

import argparse
import importlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import golden_reading
import numpy as np
import torch
import trimesh
import yaml
from PIL import Image
from small import write_photographs

from sinefield.adapters import AdapterSpec, save_adapter
from sinefield.adapters.attach import attach_each
from sinefield.adapters.codes import to_packed_code
from sinefield.commands.cli import main
from sinefield.compress.container import encode
from sinefield.config import portable
from sinefield.data.surfaces.surface import Surface, load_surface
from sinefield.fields.mesh.field import MeshField
from sinefield.fields.shared.field import SharedConfig, SharedField, SharedFieldConfig, SharedTrainingConfig
from sinefield.learning.shared import Samples, fit_code, samples_of, train_base
from sinefield.meshing.optimised import LatticeMesh
from sinefield.store.fields import load_field
from sinefield.store.sine_files import to_packed
from sinefield.strict import dump_yaml
from sinefield.tensor_files import load_tensors, save_tensors

SMALL = {"width": 12, "depth": 3, "rank": 3, "frequencies": 2, "bound": 1.0}
FAR = [2.0e5, -3.0e4, 7.0]
"""A place that float32 does not hold to a millionth of a small box."""
SHAPES: dict[str, dict[str, Any]] = {
    "shape": {"width": 16, "depth": 4, "rank": 3, "frequencies": 4, "skips": [2], "phase": 0.5, "bound": 4.0},
    "shape_relu": {**SMALL, "activation": "relu", "loss": "l1", "band": 0.05, "omega": 20.0},
    "shape_far": {**SMALL, "loss": "asinh"},
    "shape_siren": {**SMALL, "frequencies": 0, "activation": "sine", "omega0": 12.0, "bound": 2.0, "phase": 1.0},
    "shape_siren_lowrank": {**SMALL, "frequencies": 0, "activation": "sine", "omega0": 14.0, "weights": "lowrank"},
    "occupancy_lowrank": {
        **{**SMALL, "represents": "occupancy", "weights": "lowrank", "activation": "gaussian", "sigma": 0.4},
        "skips": [1],
    },
    "occupancy_dense": {
        **{**SMALL, "represents": "occupancy", "loss": "mse", "weights": "dense", "activation": "softplus"},
    },
    "shape_sheet": {**SMALL, "represents": "sheet"},
    "shape_octaves": {"width": 32, "depth": 2, "rank": 3, "frequencies": 6, "phase": 0.5, "bound": 1.0},
    "shape_hash": {
        **{**SMALL, "depth": 2, "encoding": "hash", "levels": 4, "log2_table": 6, "coarsest": 2, "finest": 9},
        "phase": 0.5,
    },
    "shape_coloured": {**SMALL, "colours": "yes", "colour_width": 10, "colour_depth": 3, "colour_frequencies": 3},
}
RADIANCE = {"width": 12, "depth": 3, "rank": 3, "frequencies": 3, "features": 5, "head_width": 8, "phase": 0.5}
RADIANCE |= {"bound": 4.0, "grid": 12, "steps": 48}
RADIANCES: dict[str, dict[str, Any]] = {
    "radiance": RADIANCE,
    "radiance_hash": {
        **{**RADIANCE, "encoding": "hash", "levels": 4, "log2_table": 6, "coarsest": 2, "finest": 9, "width": 8},
        **{"activation": "softplus", "weights": "dense", "head_depth": 2},
    },
    "radiance_ndc": {**RADIANCE, "space": "ndc", "activation": "leaky_relu"},
    "radiance_contracted": {
        **{**RADIANCE, "space": "contracted", "grid": 8, "grid_levels": 3, "cone_angle": 0.02, "weights": "lowrank"},
    },
    "surface": {**RADIANCE, "density": "distance", "beta": 0.02, "activation": "softplus"},
}
IMAGE = {"width": 16, "depth": 3, "weights": "sine", "rank": 4, "frequencies": 4, "skips": [2]}
LATENT = {"points": 48, "dim": 8, "tokens": 16, "heads": 2, "blocks": 1, "expand": 2, "rank": 2}
LATENTS: dict[str, dict[str, Any]] = {
    "shapes": LATENT,
    "shapes_dct": {**LATENT, "attention": "x", "graying": "dct", "weights": "lowrank", "epsilon": 0.7},
    "shapes_svd": {
        **{**LATENT, "attention": "x^3", "graying": "svd", "weights": "sine", "represents": "occupancy"},
        **{"skip_attention": False, "blocks": 2, "expand": 1},
    },
}
SHARED = SharedFieldConfig(width=16, depth=3, frequencies=2, rank=2)
SHARED_TRAINING = SharedTrainingConfig(steps=600, batch=4, queries=128, code_steps=300, code_queries=512)
COARSE: dict[str, dict[str, Any]] = {
    "learning.evaluate": {"HELDOUT_POINTS": 20_000, "SURFACE_RESOLUTION": 40},
    "learning.pack": {"JUDGED_POINTS": 10_000},
    "fields.latent.scores": {"POINTS": 4000, "SAMPLES": 4000, "RESOLUTION": 40},
}
"""Scores need no more than this."""
RUNS = {"shape", "radiance", "surface", "image", "shapes"}
"""Of which the run folder is kept too."""


def write_meshes(folder: Path) -> None:
    """a ring, the same with a ball below it, and the ring far from the origin."""
    ring = trimesh.creation.torus(1.0, 0.35, major_sections=32, minor_sections=16)
    ring.apply_transform(trimesh.transformations.rotation_matrix(0.6, [1, 2, 0.5], [0, 0, 0]))
    ring.export(folder / "ring.ply")
    painted = np.round(255 * (0.5 + 0.4 * np.sin(3 * ring.vertices))).astype(np.uint8)
    trimesh.Trimesh(ring.vertices, ring.faces, vertex_colors=painted).export(folder / "painted.ply")
    ball = trimesh.creation.icosphere(2, radius=0.5)
    ball.apply_translation([0.1, 0.2, -0.7])
    trimesh.util.concatenate([ring, ball]).export(folder / "ring_and_ball.ply")
    text = [f"v {x!r} {y!r} {z!r}" for x, y, z in (ring.vertices + FAR).tolist()]
    text += [f"f {a} {b} {c}" for a, b, c in (ring.faces + 1).tolist()]
    (folder / "far.obj").write_text("\n".join(text) + "\n")


def write_forward_facing(folder: Path, n: int = 4, size: tuple[int, int] = (24, 18), focal: float = 22.0) -> None:
    """A disc at distance 2 before a patterned wall at 6, from cameras on a lattice, in LLFF's format."""
    (folder / "images").mkdir(parents=True)
    width, height = size
    rows = []
    for i in range(n * n):
        eye = np.array([0.3 * (i % n - n // 2), 0.3 * (i // n - n // 2), 0.0])
        y, x = np.mgrid[0:height, 0:width] + 0.5
        d = np.stack([(x - width / 2) / focal, (height / 2 - y) / focal, -np.ones_like(x)], -1)
        disc, wall = eye + 2 * d, eye + 6 * d
        pattern = 0.5 + 0.4 * np.stack([np.sin(wall[..., 0]), np.cos(wall[..., 1]), 0 * x], -1)
        rgb = np.where(((disc[..., :2] ** 2).sum(-1) < 0.4**2)[..., None], [0.9, 0.2, 0.1], pattern)
        Image.fromarray((255 * rgb).round().astype(np.uint8)).save(folder / f"images/{i:03d}.png")
        matrix = np.stack([[0, -1, 0], [1, 0, 0], [0, 0, 1], eye, [height, width, focal]], 1)
        rows.append([*matrix.flatten(), 1.8, 7.0])
    np.save(folder / "poses_bounds.npy", np.array(rows))


def write_changed(photographs: Path, folder: Path) -> None:
    """The same photographs with colours exchanged, and a quarter of each left empty."""
    shutil.copytree(photographs, folder)
    for path in folder.glob("*/*.png"):
        pixels = np.array(Image.open(path))[..., [1, 0, 2, 3]]
        pixels[: len(pixels) // 2, : len(pixels) // 2] = 0
        Image.fromarray(pixels).save(path)


class Maker:
    """Makes what is missing in a folder, in a working folder beside the data."""

    def __init__(self, out: Path, work: Path) -> None:
        self.out, self.work = out, work
        write_meshes(work)
        (work / "ball").mkdir()
        write_photographs(work / "ball")
        write_changed(work / "ball", work / "changed")
        write_forward_facing(work / "wall")
        y, x = np.mgrid[0:32, 0:32] / 32
        waves = np.stack([np.sin(9 * x), np.cos(7 * y), np.sin(5 * (x + y))], -1)
        Image.fromarray((127 + 120 * waves).astype(np.uint8)).save(work / "waves.png")

    def command(self, *arguments: str) -> None:
        if code := main([str(argument) for argument in arguments]):
            raise SystemExit(code)

    def scene(self, name: str, content: dict[str, Any]) -> Path:
        path = self.work / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def train(self, name: str, kind: str, data: dict[str, Any], field: dict[str, Any], steps: int, batch: int) -> Path:
        training = {"steps": steps, "batch": batch, "precision": "fp32", "device": "cpu"}
        scene = self.scene(name, {"kind": kind, "seed": 3, "data": data, "field": field, "training": training})
        run = self.work / "runs" / name
        if not run.exists():
            self.command("train", scene, "--out", run)
        return run

    def smoothed(self, train: Callable[[], Path]) -> Path:
        """A run whose first layer hears each octave half as loud as the last, so that a file codes each on its own."""
        run = train()
        tensors, note = load_tensors(run / "field.safetensors", "field")
        octaves = torch.arange(6.0).repeat_interleave(3)
        tensors["network.weights.0.weight"] *= 0.5 ** torch.cat([torch.zeros(3), octaves, octaves])
        save_tensors(run / "field.safetensors", tensors, note)
        return run

    def keep_run(self, name: str, run: Path) -> None:
        """Keep settings and field; of the training its seconds become 1, and its data's path loses its folder."""
        if (folder := self.out / "runs" / name).exists():
            return
        folder.mkdir(parents=True)
        content = yaml.safe_load((run / "config.yaml").read_text())
        path = content["data"]["path"]
        content["data"]["path"] = portable(path) or Path(path).name
        (folder / "config.yaml").write_text(dump_yaml(content))
        tensors, note = load_tensors(run / "field.safetensors", "field")
        save_tensors(folder / "field.safetensors", tensors, {**note, "seconds": 1.0})

    def make(self, name: str, run: Callable[[], Path], packing: list[str]) -> None:
        """NAME.sine, and the run folder where it is to be kept."""
        file = self.out / f"{name}.sine"
        wanted = [file] + ([self.out / "runs" / name] if name in RUNS else [])
        if all(path.exists() for path in wanted):
            return
        folder = run()
        if name in RUNS:
            self.keep_run(name, folder)
        if not file.exists():
            self.command("pack", folder, file, *packing, "--seconds", "0")

    def fields(self) -> None:
        for name, field in SHAPES.items():
            meshes = {"occupancy_dense": "far.obj", "shape_coloured": "painted.ply"}
            data = {"path": meshes.get(name, "ring.ply"), "points": 5000}
            train = partial(self.train, name, "shape", data, field, 100, 1024)
            train = partial(self.smoothed, train) if name == "shape_octaves" else train
            self.make(name, train, ["--max-bytes", "1600"] if name == "shape" else ["--bits", "6"])
            if name == "shape":
                self.make("shape_codebook", train, ["--bits", "4", "--quantiser", "kmeans"])
        for name, field in RADIANCES.items():
            wall = {"path": "wall", "background": "black"}
            data, steps = (wall, 400) if name.endswith(("ndc", "contracted")) else ({"path": "ball"}, 60)
            self.make(name, partial(self.train, name, "radiance", data, field, steps, 2048), ["--bits", "6"])
        picture = {"path": "skimage:astronaut.png", "downscale": 16}
        self.make("image", partial(self.train, "image", "image", picture, IMAGE, 100, 1024), ["--bits", "6"])
        families = {"path": "families:table,vase", "shapes": 4, "held_out": 1}
        for name, field in LATENTS.items():
            self.make(name, partial(self.train, name, "shapes", families, field, 200, 4), ["--bits", "6"])

    def edits(self) -> None:
        training = {"steps": 45, "batch": 1024, "precision": "fp32"}
        for name, kind, path in (
            ("shape", "shape", "ring_and_ball.ply"),
            ("radiance", "radiance", "changed"),
            ("image", "image", "waves.png"),
        ):
            out = self.out / f"edit_of_{name}.sine"
            if out.exists():
                continue
            data = {"path": path, **({"points": 5000} if kind == "shape" else {})}
            scene = self.scene(f"edit_{name}", {"kind": kind, "seed": 4, "data": data, "training": training})
            kinds = ["--omega", "0"] if kind == "image" else []
            self.command("adapt", self.out / f"{name}.sine", scene, "--rank", "2", "--bits", "5", *kinds, "--out", out)

    def adapters(self) -> None:
        """All four kinds of delta, on a linear layer, one that holds its matrix transposed, and a convolution."""
        model = golden_reading.SmallModel()
        specs = {
            "first": AdapterSpec("sine", 2, 4.0, 9.0),
            "second": AdapterSpec("lora", 2, 3.0),
            "third": AdapterSpec("sine-dora", 2, 4.0, 7.5),
            "fourth": AdapterSpec("dora", 1, 2.0),
        }
        attach_each(model, specs, "default")
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith((".a", ".b", ".magnitude")):
                    parameter.add_(torch.randn(parameter.shape, generator=generator) / 4)
        floats = self.work / "adapter.safetensors"
        save_adapter(model, floats)
        kept = self.out / "adapter.safetensors"
        if not kept.exists():
            shutil.copy(floats, kept)
        for quantiser in ("kmeans", "uniform"):
            out = self.out / f"adapter_{quantiser}.sine"
            if not out.exists():
                self.command("adapter", "pack", floats, out, "--bits", "4", "--quantiser", quantiser)

    def mesh(self) -> None:
        """A ball with a corner drawn out, on a lattice; of fewer faces, subdivided twice."""
        for name, fineness, subdivisions in (("mesh", 2, 0), ("mesh_subdivided", 1, 2)):
            out = self.out / f"{name}.sine"
            if not out.exists():
                ball = trimesh.creation.icosphere(fineness)
                nodes = np.round((ball.vertices + 1) * 100).astype(np.int64)
                nodes[0] *= 2
                mesh = LatticeMesh(nodes, np.asarray(ball.faces), -np.ones(3), 0.01, subdivisions)
                out.write_bytes(encode(to_packed(MeshField.of(mesh), {}, {})))

    def shared(self) -> None:
        """What rings of four thicknesses share, and the code of a fifth."""
        base, code = self.out / "shared.sine", self.out / "code_of_shared.sine"
        if base.exists() and code.exists():
            return
        config = SharedConfig(seed=3, field=SHARED, training=SHARED_TRAINING)
        config.data.points = 4000
        *rings, unseen = (self.ring(thickness) for thickness in (0.2, 0.3, 0.45, 0.55, 0.38))
        parts = [samples_of(ring, config) for ring in rings]
        samples = Samples(*(np.concatenate(kind) for kind in zip(*parts, strict=True)))
        field, quantisers = train_base(config, samples)
        base.write_bytes(encode(to_packed(field, quantisers, {})))
        field, _ = load_field(base)
        assert isinstance(field, SharedField)
        levels = fit_code(field, samples_of(unseen, config), config.training, config.seed)
        code.write_bytes(encode(to_packed_code(field, levels, unseen.aabb)))

    def ring(self, thickness: float) -> Surface:
        file = self.work / f"ring_{thickness}.ply"
        trimesh.creation.torus(1.0, thickness, major_sections=32, minor_sections=16).export(file)
        return load_surface(str(file))

    def describe(self) -> None:
        """Add to expected.json whatever it does not have."""
        path = self.out / "expected.json"
        expected = json.loads(path.read_text()) if path.exists() else {"ask": questions(), "files": {}}
        known = expected["files"]
        for name in golden_reading.names_in(self.out):
            if name not in known:
                known[name] = golden_reading.read(self.out, name, expected["ask"])
        expected["files"] = dict(sorted(known.items()))
        path.write_text(golden_reading.as_text(expected))


def spread(n: int, dimensions: int) -> np.ndarray:
    """n points spread over the unit cube by an additive recurrence, four decimals."""
    root = {2: 1.324717957244746, 3: 1.2207440846057596}[dimensions]
    return ((0.5 + np.outer(np.arange(1, n + 1), root ** -np.arange(1.0, dimensions + 1))) % 1).round(4)


def questions() -> dict[str, Any]:
    """What every field is asked."""
    u = spread(16, 2)
    z, turn = 2 * u[:, 0] - 1, 2 * math.pi * u[:, 1]
    flat = np.sqrt(1 - z**2)
    directions = np.stack([flat * np.cos(turn), flat * np.sin(turn), z], 1).round(6)
    v = spread(64, 2)
    height, around = 2 * v[:, 0] - 1, 2 * math.pi * v[:, 1]
    radius = 0.5 + 0.2 * np.cos(3 * around) * (1 - height**2)
    cloud = np.stack([radius * np.cos(around), 0.7 * radius * np.sin(around), 0.8 * height], 1)
    return {
        "points": spread(16, 3).tolist(),
        "directions": directions.tolist(),
        "cloud": (10 * cloud + 3).round(4).tolist(),
        "eyes": {"world": [2.6, -2.2, 1.6], "ndc": [0.1, -0.1, 0.0], "contracted": [0.1, -0.1, 0.0]},
    }


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the golden files")
    options = parser.parse_args()
    out = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    for name, values in COARSE.items():
        module = importlib.import_module(f"sinefield.{name}")
        for key, value in values.items():
            setattr(module, key, value)
    with tempfile.TemporaryDirectory() as folder:
        maker = Maker(out, Path(folder).resolve())
        maker.fields()
        maker.edits()
        maker.adapters()
        maker.mesh()
        maker.shared()
        maker.describe()


if __name__ == "__main__":
    run()
