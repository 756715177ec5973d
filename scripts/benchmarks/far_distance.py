"""Distances and sides of trained shape fields near their surface and far from it, against libigl's on the meshes.

    python scripts/benchmarks/far_distance.py [NAME ...] [--runs FOLDER] [--steps N] [--json]

Without names: six closed meshes. Fields have the settings of scenes/armadillo.yaml with a smaller batch and fewer
labelled points; a run that is in FOLDER already is taken from there. Points are drawn around the surface, and in the
object's box made 1, 2 and 4 times as large. Errors of distance are in per cent of the box's diagonal. The side counts
where a point is further than 1 % of the diagonal from the surface. Beside `TrueDistance` stands the network's value.
Writes docs/results/far_distance.json and .md.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import igl
import numpy as np
import torch
from tqdm import tqdm

from sinefield.config import Config, data_folder, load_config
from sinefield.data.surfaces.sampling import surface_samples
from sinefield.data.surfaces.surface import Surface, load_surface, signed_distance
from sinefield.fields.shape.field import ShapeField
from sinefield.fields.shape.training import ShapeTask
from sinefield.files import write_text
from sinefield.learning.loop import optimise
from sinefield.machine import describe_machine
from sinefield.plain.distance import TrueDistance
from sinefield.store.fields import load_field, save_field
from sinefield.store.run import Run

ROOT = Path(__file__).parents[2]
STORE = ROOT / "docs" / "results" / "far_distance"
NAMES = ["armadillo", "bunny_closed", "igea", "rocker-arm", "spot", "fandisk"]
SETTINGS = {"data.points": "400000", "training.batch": "4096", "training.device": "cpu"}
QUIET = {"training.score_seconds": "1e6", "training.save_seconds": "1e6"}
PLACES = ["near", "box", "2 × box", "4 × box"]
NEAR = 0.003
"""Standard deviation of the points around the surface, in diagonals."""
POINTS, SEED = 20_000, 0


def trained(name: str, steps: int, runs: Path) -> tuple[ShapeField, Surface]:
    """The field of a mesh from its run, which is made where there is none."""
    path = next((data_folder() / "meshes").glob(f"{name}.*"))
    surface, folder = load_surface(path), runs / name
    if not (folder / "field.safetensors").exists():
        settings = {"data.path": str(path), "training.steps": str(steps), **SETTINGS, **QUIET}
        _train(load_config(ROOT / "scenes" / "armadillo.yaml", settings), surface, folder)
    return load_field(folder)[0], surface


def _train(config: Config, surface: Surface, folder: Path) -> None:
    """Train without the evaluation that `sinefield train` ends with."""
    task = ShapeTask(config, surface)
    with Run.prepare(folder, config, overwrite=True) as run:
        result = optimise(task, config.training, run, config.seed)
        save_field(run.field_path, task.field, {"seed": config.seed, **result})


def drawn(surface: Surface, place: str) -> np.ndarray:
    """Points (n, 3) in input coordinates at one of `PLACES`."""
    low, high = surface.aabb[:3], surface.aabb[3:]
    rng = np.random.default_rng(SEED)
    if place == "near":
        points, normals = surface_samples(surface, POINTS, SEED)
        return points + NEAR * np.linalg.norm(high - low) * rng.standard_normal((POINTS, 1)) * normals
    times = 1 if place == "box" else int(place[0])
    return (low + high) / 2 + (rng.random((POINTS, 3)) - 0.5) * (high - low) * times


def truth(surface: Surface, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signed distances (n,) and their gradients (n, 3) by libigl."""
    distances = signed_distance(surface, points)
    tree, faces = igl.AABB(), surface.faces.astype(np.int64)
    tree.init(surface.vertices, faces)
    _, _, closest = tree.squared_distance(surface.vertices, faces, points)
    return distances, (points - closest) / np.where(distances == 0, 1.0, distances)[:, None]


def errors(
    answer: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], points: np.ndarray, truth: tuple, diagonal: float
) -> dict[str, float]:
    """Shares and errors of one way to ask a field."""
    begin = time.process_time()
    distances, directions = answer(points)
    seconds = time.process_time() - begin
    right, far = truth[0], np.abs(truth[0]) > 0.01 * diagonal
    off = 100 * np.abs(distances - right) / diagonal
    cosines = (directions * truth[1]).sum(axis=1) / np.maximum(np.linalg.norm(directions, axis=1), 1e-300)
    # A point nearer than a millionth has no direction that libigl could tell.
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))[np.abs(right) > 1e-6 * diagonal]
    return {
        "side_right": float((np.sign(distances) == np.sign(right))[far].mean()) if far.any() else None,
        "mean": float(off.mean()),
        "percentile_99": float(np.quantile(off, 0.99)),
        "worst": float(off.max()),
        "degrees_median": float(np.median(angles)),
        "degrees_95": float(np.quantile(angles, 0.95)),
        "microseconds": seconds / len(points) * 1e6,
    }


def network_alone(field: ShapeField) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """`ShapeField.evaluate` and its gradient."""

    def answer(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = ((torch.from_numpy(points) - field.centre) * field.scale).float().requires_grad_()
        raw = field(x)
        (gradient,) = torch.autograd.grad(raw.sum(), x)
        return field.evaluate(torch.from_numpy(points)).double().numpy(), gradient.double().numpy()

    return answer


def measure(name: str, steps: int, runs: Path) -> dict[str, Any]:
    """All figures of one mesh."""
    field, surface = trained(name, steps, runs)
    arrays = {key: tensor.numpy() for key, tensor in field.state_dict().items()}
    distance = TrueDistance.of_arrays(field.config, arrays)
    begin = time.process_time()
    vertices = len(distance.surface.vertices)
    report: dict[str, Any] = {"mesh": name, "extraction_seconds": time.process_time() - begin, "vertices": vertices}
    ways = {"true_distance": lambda p: distance.sdf(p, gradient=True), "network": network_alone(field)}
    diagonal = float(np.linalg.norm(surface.aabb[3:] - surface.aabb[:3]))
    for place in PLACES:
        points = drawn(surface, place)
        right = truth(surface, points)
        report[place] = {way: errors(answer, points, right, diagonal) for way, answer in ways.items()}
    return report


def table(result: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        "# Distances far from a shape",
        "",
        f"`{result['command']}`, {result['steps']:,} steps of {result['batch']:,} points, seed {SEED}; "
        f"{result['processor']}, {result['threads']} thread. {POINTS:,} points a row.",
        "",
        "Errors of distance in per cent of the box's diagonal, of gradients in degrees, against libigl on the mesh. "
        "In brackets: the network's own value. Side: share of the points further than 1 % of the diagonal from the "
        "surface. CPU µs of a point, its gradient included.",
        "",
        "| mesh | points | side right, % | mean | 99 % | worst | gradient: median | 95 % | µs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    columns = ["side_right", "mean", "percentile_99", "worst", "degrees_median", "degrees_95", "microseconds"]
    for row in result["meshes"]:
        for place in PLACES:
            ours, network = row[place]["true_distance"], row[place]["network"]
            cells = [_cell(key, ours[key], network[key]) for key in columns]
            lines.append(f"| {row['mesh']} | {place} | " + " | ".join(cells) + " |")
    lines += ["", "| mesh | extraction, CPU s | vertices |", "|---|---|---|"]
    lines += [f"| {r['mesh']} | {r['extraction_seconds']:.2f} | {r['vertices']:,} |" for r in result["meshes"]]
    return "\n".join(lines) + "\n"


def _cell(key: str, ours: float | None, network: float | None) -> str:
    if ours is None or network is None:
        return "–"
    if key == "side_right":
        return f"{100 * ours:.2f} ({100 * network:.2f})"
    digits = 1 if key in ("microseconds", "degrees_median", "degrees_95") else 3
    return f"{ours:.{digits}f} ({network:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, help="meshes of the data folder")
    parser.add_argument("--runs", type=Path, help="folder of runs to take, and to keep new ones in")
    parser.add_argument("--steps", type=int, default=2000, help="of each training")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        runs = given.runs or Path(scratch)
        meshes = [measure(name, given.steps, runs) for name in tqdm(given.names, unit=" meshes")]
    result = {
        "command": "python scripts/benchmarks/far_distance.py",
        "steps": given.steps,
        "batch": int(SETTINGS["training.batch"]),
        "processor": describe_machine()["cpu"],
        "threads": 1,
        "python": platform.python_version(),
        "meshes": meshes,
    }
    if given.names == NAMES:
        write_text(STORE.with_suffix(".json"), json.dumps(result, indent=1) + "\n")
        write_text(STORE.with_suffix(".md"), table(result))
    print(json.dumps(result) if given.json else table(result))


if __name__ == "__main__":
    main()
