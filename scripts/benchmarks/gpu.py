"""What a GPU does with training and rendering; scripts/gpu_check.sh runs it.

    python scripts/benchmarks/gpu.py --out DIR [--seconds 370] [--data LEGO] [--set sine.field.width=192] [--dry]

Four parts, each in a process and with a time limit of its own: one that fails or hangs costs the others nothing.

steps   training steps of shape and radiance fields as shares of the card's bf16 matrix product, by each backend
hash    Lego at 800 × 800 with a hash grid: seconds to 33 and 35 dB
sine    the same with the sine low-rank MLP: seconds to 30, 32 and 33 dB
recipe  the same with nerfacc's recipe for an 8-layer MLP, on the same card, for the ratio

Seconds are those of training, without loading and scoring; a target counts when the mean PSNR over a few test views,
scored every few seconds, passes it. DIR/gpu.json holds all figures; a table comes last. `--dry` goes through everything
on the CPU in seconds, with pictures of a few pixels and targets 20 dB lower: a test of this script, its figures mean
nothing.

The recipe: a plain 8-layer MLP of width 256 with a skip, box ±1.5, occupancy grid 128³, step 5e-3, Adam at 5e-4, times
0.33 at 1/2, 3/4, 5/6 and 9/10 of 50,000 steps, 2^16 samples a batch. Its smooth-L1 loss of colours in [0, 1] is half
the square, whose factor Adam does not see. Not as there: exp instead of ReLU for the density, spherical harmonics of
the direction, 100 training views, and bf16, which makes it faster here than as published.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from contextlib import nullcontext, suppress
from pathlib import Path
from unittest.mock import patch

import torch
import trimesh
from speed import Counter, Stepper, flops

import sinefield.learning.loop as loop
from sinefield.config import data_folder, load_config
from sinefield.data.photographs.images import reference
from sinefield.data.surfaces.surface import load_surface
from sinefield.errors import SinefieldError
from sinefield.fields.radiance.scores import render_view
from sinefield.fields.radiance.training import RadianceTask, load_scene
from sinefield.fields.shape.training import ShapeTask
from sinefield.files import write_text
from sinefield.kernels.cuda import tinycudann
from sinefield.machine import describe_machine
from sinefield.metrics.images import psnr
from sinefield.nn.backend import use_backend
from sinefield.nn.mlp import count_parameters
from sinefield.nn.optimisers import Adam
from sinefield.store.run import Run
from sinefield.tables import table

ROOT = Path(__file__).parents[2]
LIMITS = {"steps": 60.0, "hash": 80.0, "sine": 150.0, "recipe": 1e9}
"""Seconds of each part, all in all; the last one takes what is left."""
TRAINING = {"hash": 40.0, "sine": 80.0, "recipe": 1e9}
"""Seconds of training, by which rates fall."""
AT_THE_END = 20.0
"""Seconds of a part kept for imports, the last score and what comes after training."""
TARGETS = {"hash": (33, 35), "sine": (30, 32, 33), "recipe": (30, 32, 33)}
WATCHED = 3
"""Test views that are scored."""
SCENES = {"hash": "lego_hash.yaml", "sine": "lego.yaml", "recipe": "lego.yaml"}
_LARGE = {"data.downscale": 1, "field.grid": 128, "field.steps": 600}
SETTINGS = {
    "hash": {**_LARGE, "field.levels": 16, "field.log2_table": 19, "field.finest": 2048, "training.batch": 1 << 18},
    "sine": {
        **_LARGE,
        **{"field.width": 256, "field.depth": 6, "field.rank": 32, "field.frequencies": 10},
        **{"training.batch": 1 << 18, "training.adam_lr": 5e-3},
    },
    "recipe": {
        **_LARGE,
        **{"data.aabb": [-1.5, -1.5, -1.5, 1.5, 1.5, 1.5]},
        **{"field.weights": "dense", "field.width": 256, "field.depth": 8, "field.skips": [5], "field.frequencies": 10},
        **{"field.features": 256, "field.head_width": 128},
        **{"training.optimizer": "adam", "training.adam_lr": 5e-4, "training.batch": 1 << 16, "training.hull": False},
        **{"training.steps": 50_000},
    },
}
DRY = {"field.width": 16, "field.depth": 3, "field.skips": [], "field.rank": 4, "field.grid": 16, "field.steps": 32} | {
    **{"field.features": 8, "field.head_width": 16, "training.batch": 2048},
    **{"field.levels": 4, "field.log2_table": 10, "field.finest": 32},
}


class Enough(Exception):
    """The last target is reached, or time is over."""


class Watched(RadianceTask):
    """A radiance task that notes when its held-out score passes what."""

    def __init__(self, config, scene, last_target: float, until: float) -> None:
        super().__init__(config, scene)
        self.last_target, self.until = last_target, until
        self.views = torch.linspace(0, len(self.scored) - 1, min(WATCHED, len(self.scored))).long().tolist()
        self.history: list[tuple[float, float]] = []
        self.looking, self.steps = 0.0, 0
        self.began = time.perf_counter()

    def step(self, index: int, generator: torch.Generator):
        self.steps = index + 1
        return super().step(index, generator)

    def quick_score(self) -> dict[str, float]:
        wait(self.device)
        now = time.perf_counter()
        seconds = now - self.began - self.looking
        background = self.field.background.cpu()
        values = [
            float(psnr(render_view(self.field, self.scored, i), reference(self.scored.images[i], background)))
            for i in self.views
        ]
        self.history.append((seconds, sum(values) / len(values)))
        self.looking += time.perf_counter() - now
        if self.history[-1][1] >= self.last_target or time.perf_counter() >= self.until:
            raise Enough
        return {"psnr": self.history[-1][1]}


def crossings(history: list[tuple[float, float]], targets: tuple[float, ...]) -> dict[str, float | None]:
    """Seconds at which each target was first seen to be reached; None if never."""
    return {str(t): next((round(s, 2) for s, value in history if value >= t), None) for t in targets}


def lego(part: str, options: argparse.Namespace) -> dict:
    """Train one field on Lego until its last target or the end of its time, then render."""
    started = time.perf_counter()
    config = config_of(part, options)
    scene = load_scene(config, ("train", "test"))
    targets = tuple(t - 20 * options.dry for t in TARGETS[part])
    until = started + options.limit - (0 if options.dry else AT_THE_END)
    task = Watched(config, scene, targets[-1], until)
    rules = nullcontext()
    if part == "recipe":
        adam = [Adam(task.field.parameters(), lr=config.training.adam_lr, betas=(0.9, 0.999))]
        rules = patch.multiple(loop, rate=falling_in_steps, make_optimizers=lambda task, config: adam)
    with tempfile.TemporaryDirectory() as folder, rules:
        run = Run.prepare(Path(folder) / "run", config)
        task.began = time.perf_counter()
        with suppress(Enough):
            loop.optimise(task, config.training, run, config.seed)
    last, best = task.history[-1], max(value for _, value in task.history)
    return {
        "targets": crossings(task.history, targets),
        "best": round(best, 2),
        "seconds": round(last[0], 1),
        "steps": task.steps,
        "parameters": count_parameters(task.field),
        "history": [(round(s, 2), round(value, 3)) for s, value in task.history],
        **{f"fps_{str(d).removeprefix('torch.')}": render_speed(task, d) for d in (torch.float32, torch.bfloat16)},
    }


def falling_in_steps(done: float, config) -> float:
    """The recipe's rate, where `loop.rate` has a cosine."""
    return 0.33 ** sum(done >= mark for mark in (1 / 2, 3 / 4, 5 / 6, 9 / 10))


def config_of(part: str, options: argparse.Namespace):
    settings = {**SETTINGS[part], "training.seconds": min(TRAINING[part], options.limit)}
    settings |= {"training.score_seconds": 4.0, "training.save_seconds": 1e6}
    if options.dry:
        settings |= DRY | {"data.downscale": options.downscale, "training.device": "cpu", "training.score_seconds": 0.3}
        settings |= {"training.seconds": 1.0, **({"training.steps": 10} if part == "recipe" else {})}
    wanted = dict(text.split("=", 1) for text in options.set)
    settings |= {k.removeprefix(f"{part}."): v for k, v in wanted.items() if k.startswith(f"{part}.")}
    return load_config(
        ROOT / "scenes" / SCENES[part], {"data.path": options.data} | {k: str(v) for k, v in settings.items()}
    )


def render_speed(task: Watched, dtype: torch.dtype) -> float:
    """Whole test views a second, without compositing on the background and copying to the host."""
    field = task.field
    rays = [[r.to(task.device) for r in task.scored.cameras.view(i)] for i in task.views]
    field.set_dtype(dtype)
    with torch.no_grad():
        field.render(*rays[0])
        seconds = timed(lambda: [field.render(*r) for r in rays], 1, 2, task.device)
    return round(len(rays) / seconds, 2)


def steps(options: argparse.Namespace) -> dict:
    """Whole training steps (forward, backward, optimiser) against the product of large bf16 matrices."""
    device = torch.device("cpu" if options.dry else "cuda")
    peak, rows = ceiling(device, options.dry), []
    with tempfile.TemporaryDirectory() as folder:
        ball = Path(folder) / "ball.ply"
        trimesh.creation.icosphere(3 if options.dry else 5).export(ball)
        for backend, width in kinds(options.dry):
            rows.append(attempt(shape_step, ball, backend, width, peak, device, options))
    config = config_of("sine", options)
    config.data.downscale = options.downscale if options.dry else 4
    scene = load_scene(config, ("train",))
    for backend, width in kinds(options.dry):
        rows.append(attempt(radiance_step, scene, backend, width, peak, device, options))
    return {"ceiling_tflops": round(peak / 1e12, 2), "rows": rows}


def kinds(dry: bool) -> list[tuple[str, int]]:
    """Backends and widths; a network of tinycudann has one unit more than ours."""
    found = [("torch", width) for width in ((16,) if dry else (64, 128, 256))]
    if not dry and tinycudann.why_not() is None:
        found += [("tinycudann", 63), ("tinycudann", 127), ("tinycudann", 255)]
    return found


def attempt(measure, *arguments) -> dict:
    try:
        return measure(*arguments)
    except (RuntimeError, SinefieldError) as error:
        named = [a for a in arguments if isinstance(a, str | int)]
        return {"step": measure.__name__, "of": named, "failed": " ".join(str(error).split())[:160]}


def ceiling(device: torch.device, dry: bool) -> float:
    """Operations a second."""
    best = 0.0
    for n in (256,) if dry else (4096, 8192):
        a, b = (torch.randn(n, n, device=device).bfloat16() for _ in range(2))
        out = torch.empty_like(a)
        best = max(best, 2 * n**3 / timed(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), 10, 5, device))
    return best


def shape_step(ball: Path, backend: str, width: int, peak: float, device: torch.device, options) -> dict:
    settings = {"data.path": ball, "data.points": 20_000 if options.dry else 500_000, "field.width": width}
    settings |= {"training.batch": 2048 if options.dry else 1 << 18, "training.device": device.type}
    config = load_config(ROOT / "scenes" / "armadillo.yaml", {k: str(v) for k, v in settings.items()})
    config.training.backend = backend
    row = {"step": "shape", "backend": backend, "width": width}
    for name in ("ms", "uncaptured ms"):
        task = ShapeTask(config, load_surface(ball))
        if name == "uncaptured ms":
            if task.graphed is None:
                break
            task.graphed = None
        stepper = prepared(task, config)
        row[name] = round(1e3 * timed(stepper, *((3, 2) if options.dry else (50, 5)), device), 4)
    work = flops(task.field.network) * config.training.batch / (row["ms"] / 1e3)
    return {**row, "share": round(work / peak, 4), "points/s": round(config.training.batch / (row["ms"] / 1e3))}


def radiance_step(scene, backend: str, width: int, peak: float, device: torch.device, options) -> dict:
    config = config_of("sine", options)
    config.field.width, config.training.backend = width, backend
    config.field.head_width = min(width, 64 if backend == "torch" else 63)
    task = RadianceTask(config, scene)
    counted = Counter()
    task.field.grid.sampling = counted.samples(task.field.grid.sampling)
    stepper = prepared(task, config)
    for _ in range(3 if options.dry else 272):  # until the occupancy grid has found the object and looks at less
        stepper()
    best, n = float("inf"), 0.0
    for _ in range(2 if options.dry else 4):
        counted.total = 0
        seconds = timed(stepper, config.training.grid_every, 1, device, warm=False)
        if seconds < best:
            best, n = seconds, counted.total / config.training.grid_every
    work = (flops(task.field.trunk) + flops(task.field.head)) * n / best
    row = {"step": "radiance", "backend": backend, "width": width, "ms": round(1e3 * best, 4)}
    return {**row, "share": round(work / peak, 4), "points/s": round(n / best)}


def prepared(task, config) -> Stepper:
    stepper = Stepper(task, config)
    if config.training.backend == "tinycudann":
        use_backend(task.field, config.training)
        task.field.set_dtype(torch.float16)
    return stepper


def timed(function, calls: int, repeats: int, device: torch.device, warm: bool = True) -> float:
    """Seconds a call: the best of some repeats."""
    if warm:
        function()
    best = float("inf")
    for _ in range(repeats):
        wait(device)
        begin = time.perf_counter()
        for _ in range(calls):
            function()
        wait(device)
        best = min(best, (time.perf_counter() - begin) / calls)
    return best


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def run_part(part: str, options: argparse.Namespace, limit: float) -> dict:
    """One part in a process of its own; {"failed": reason} where it gives no result."""
    command = [sys.executable, __file__, "--part", part, "--limit", str(limit), "--data", str(options.data)]
    command += ["--downscale", str(options.downscale), *(f"--set={text}" for text in options.set)]
    command += ["--dry"] if options.dry else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"no result within {limit:.0f} s"}
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        lines = done.stderr.strip().splitlines() or ["no word"]
        return {"failed": f"exit {done.returncode}: {lines[-1][:200]}"}


def summary(parts: dict[str, dict], before: list[dict]) -> list[dict]:
    """The rows of the table: those of `before`, then what the parts found."""
    rows = list(before)
    rows += [
        {"figure": part, "value": f"FAILED: {found['failed']}"} for part, found in parts.items() if "failed" in found
    ]
    found = {part: figures for part, figures in parts.items() if "failed" not in figures}
    if "steps" in found:
        rows.append({"figure": "bf16 ceiling", "value": f"{found['steps']['ceiling_tflops']:.4g} TFLOP/s"})
    for row in found.get("steps", {}).get("rows", []):
        if "failed" in row:
            rows.append({"figure": f"{row['step']} {row['of']}", "value": f"FAILED: {row['failed']}"})
            continue
        slower = f", {row['uncaptured ms']:.3g} ms without a graph" if "uncaptured ms" in row else ""
        value = f"{row['ms']:.3g} ms, {100 * row['share']:.3g} % of the ceiling{slower}"
        rows.append({"figure": f"{row['step']} step, {row['backend']}, width {row['width']}", "value": value})
    for part in ("hash", "sine", "recipe"):
        if part in found:
            names, times = " / ".join(found[part]["targets"]), found[part]["targets"].values()
            value = " / ".join("–" if t is None else f"{t:.3g}" for t in times) + " s"
            value += f" (best {found[part]['best']:.2f} dB in {found[part]['seconds']:.0f} s)"
            rows.append({"figure": f"Lego to {names} dB, {part}", "value": value})
    if "sine" in found and "recipe" in found:
        theirs, ours = found["recipe"], found["sine"]["targets"]
        value = " / ".join(ratio(ours[t], theirs["targets"][t], theirs["seconds"]) for t in ours)
        rows.append({"figure": "recipe ÷ sine", "value": value})
    for part in [p for p in TARGETS if p in found]:
        value = f"{found[part]['fps_bfloat16']:.3g} frames/s in bf16, {found[part]['fps_float32']:.3g} in fp32"
        rows.append({"figure": f"rendering at full size, {part}", "value": value})
    return rows


def ratio(ours: float | None, theirs: float | None, spent: float) -> str:
    """How many times as long the recipe took; a bound where it did not get there in the `spent` seconds."""
    if ours is None:
        return "–"
    return f"{theirs / ours:.3g}" if theirs is not None else f"> {spent / ours:.3g}"


def found_before(folder: Path) -> list[dict]:
    """What `doctor` said of the GPU's backends and pytest of the CUDA tests, where scripts/gpu_check.sh left them."""
    rows = []
    with suppress(OSError, ValueError):
        for row in json.loads((folder / "doctor.json").read_text())["backends"]:
            if any(word in row["name"].lower() for word in ("cuda", "nerfacc", "triton")):
                value = ("works; " if row["works"] else "does not work; ") + row["note"][:80]
                rows.append({"figure": row["name"], "value": value})
    with suppress(OSError, ElementTree.ParseError):
        suite = ElementTree.parse(folder / "cuda_tests.xml").getroot().find("testsuite")
        total, skipped, failures, errors = (int(suite.get(k, 0)) for k in ("tests", "skipped", "failures", "errors"))
        bad = failures + errors
        rows.append(
            {"figure": "CUDA tests", "value": f"{total - skipped - bad} passed, {bad} failed, {skipped} skipped"}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_check"), help="folder of gpu.json")
    parser.add_argument("--seconds", type=float, default=370.0, help="for all parts together")
    parser.add_argument("--data", type=Path, default=data_folder() / "lego", help="a Blender folder")
    parser.add_argument("--set", action="append", default=[], help="part.setting=value")
    parser.add_argument("--dry", action="store_true", help="everything, tiny, on the CPU")
    parser.add_argument("--downscale", type=int, default=50, help="of the pictures with --dry")
    parser.add_argument("--part", choices=LIMITS, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.data = options.data.absolute()
    if options.part:
        found = steps(options) if options.part == "steps" else lego(options.part, options)
        print(json.dumps(found))
        return
    if not options.dry and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --dry goes through it on the CPU")
    if not options.data.is_dir():
        parser.error(f"{options.data} is no folder; give --data or set SINEFIELD_DATA")
    end, parts = time.perf_counter() + options.seconds, {}
    for part, limit in LIMITS.items():
        left = min(limit, end - time.perf_counter())
        parts[part] = run_part(part, options, left) if left > 1 else {"failed": "no time was left"}
        about = {"machine": describe_machine(), "dry": options.dry, "set": options.set, "parts": parts}
        write_text(options.out / "gpu.json", json.dumps(about, indent=1))
    rows = summary(parts, found_before(options.out))
    print(table(["figure", "value"], rows))
    if any("FAILED" in row["value"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
