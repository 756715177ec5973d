"""How much of what the machine can do is used.

    python scripts/benchmarks/speed.py [--json] [--quick]

Figures are ratios within this run, or processor seconds. Steps are whole training steps (forward, backward,
optimiser) of scenes/armadillo.yaml and scenes/lego.yaml at several widths; their arithmetic is that of the network's
matrices, three times 2 · in · out a point, and the ceiling is this machine's own product of square matrices in its
best precision. "plain" is the same step with the network under autograd. Steps are those of the middle of a training:
a radiance field's samples are 2.3 times as long there as in the end, four times at first. Writes docs/results/speed.*
unless --quick.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import torch

from sinefield.cameras.orbits import Orbit
from sinefield.config import data_folder, load_config
from sinefield.data.surfaces.sampling import sample_shape
from sinefield.data.surfaces.surface import Normalisation, load_surface
from sinefield.export.mesh import extract_field
from sinefield.fields.base import step_generator
from sinefield.fields.radiance.training import WARM_UPDATES, RadianceTask, load_scene
from sinefield.fields.shape.training import ShapeTask
from sinefield.files import write_text
from sinefield.kernels import choose
from sinefield.kernels.cpu import network as tiled
from sinefield.kernels.cpu.pixels import ray_error
from sinefield.learning.loop import make_optimizers, optimise
from sinefield.machine import describe_machine
from sinefield.nn.backend import hidden_dtype
from sinefield.nn.mlp import MLP
from sinefield.render.march import Samples
from sinefield.store.run import Run
from sinefield.tables import table

ROOT = Path(__file__).parents[2]
OUT = ROOT / "docs" / "results" / "speed"
WIDTHS = (256, 128, 64)


def ceiling() -> dict[str, float]:
    """GFLOP/s of square matrix products by precision; bf16 without hardware for it takes minutes, and is left out."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16) if choose.why_not_bf16("cpu") is None else (torch.float32,):
        best = 0.0
        for n in (1024, 2048):
            a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
            out = torch.empty(n, n, dtype=dtype)
            best = max(best, 2e-9 * n**3 / fastest(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), 8, 3))
        found[str(dtype).removeprefix("torch.")] = best
    return found


def fastest(function: Callable[[], object], repeats: int, calls: int) -> float:
    """Seconds a call: the best of some repeats, since other programs only ever make it slower."""
    function()
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(calls):
            function()
        best = min(best, (time.perf_counter() - begin) / calls)
    return best


def flops(network) -> int:
    """Of one point, forward and backward."""
    return 6 * sum(w.out_features * w.in_features for w in network.weights)


class Stepper:
    """Whole training steps of a task."""

    def __init__(self, task, config) -> None:
        self.task, self.index, self.seed = task, 0, config.seed
        task.progress = 0.5
        self.optimizers = make_optimizers(task, config.training)
        task.field.set_dtype(hidden_dtype(config.training.precision, task.device))

    def __call__(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.task.step(self.index, step_generator(self.seed, self.index, self.task.device))
        for optimizer in self.optimizers:
            optimizer.step()
        self.index += 1


def shape_steps(width: int, peak: float, repeats: int) -> dict:
    scene = ROOT / "scenes" / "armadillo.yaml"
    config = load_config(scene, {"field.width": str(width), "data.points": "1000000"})
    row: dict = {"step": "shape", "width": width}
    surface = load_surface(config.data.path)
    for plain in (True, False):
        task = ShapeTask(config, surface)
        task.field.network.twice_differentiable = plain
        stepper = Stepper(task, config)
        seconds = fastest(stepper, repeats, 8)
        work = flops(task.field.network) * config.training.batch / seconds / 1e9
        row |= {"plain ms" if plain else "ms": 1e3 * seconds, "plain share" if plain else "share": work / peak}
    return row | {"points/s": round(config.training.batch / seconds)}


def radiance_steps(width: int, peak: float, repeats: int) -> dict:
    config = load_config(ROOT / "scenes" / "lego.yaml", {"field.width": str(width)})
    scene = load_scene(config)
    row: dict = {"step": "radiance", "width": width}
    for plain in (True, False):
        task = RadianceTask(config, scene)
        field = task.field
        field.trunk.twice_differentiable = field.head.twice_differentiable = plain
        counted, spent = Counter(), Counter()
        field.grid.sampling = counted.samples(spent.timed(field.grid.sampling))
        field.update_grid = spent.timed(field.update_grid)
        stepper = Stepper(task, config)
        # Until the occupancy grid has found the object and looks at some of its cells only, as for most of a training.
        for _ in range((WARM_UPDATES + 1) * config.training.grid_every):
            stepper()
        best, share = float("inf"), 0.0
        for _ in range(repeats):
            counted.total = spent.total = 0
            begin = time.perf_counter()
            for _ in range(config.training.grid_every):
                stepper()
            seconds = (time.perf_counter() - begin) / config.training.grid_every
            if seconds < best:
                best, n = seconds, counted.total / config.training.grid_every
                share = (spent.total / config.training.grid_every + compositing(counted.last)) / seconds
        work = (flops(field.trunk) + flops(field.head)) * n / best / 1e9
        row |= {"plain ms" if plain else "ms": 1e3 * best, "plain share" if plain else "share": work / peak}
    return row | {"points/s": round(n / best), "march share": share}


def compositing(samples: Samples) -> float:
    """Seconds of what a step does, within a larger kernel, to make pixels and gradients of a batch's samples."""
    n, rays = len(samples.t_starts), samples.n_rays
    lengths, middle = samples.t_ends - samples.t_starts, (samples.t_starts + samples.t_ends) / 2
    sizes = (n,), (n, 3), (rays, 3), (rays, 3), (n,), (n, 3)
    sigmas, colours, background, target, *grads = (torch.rand(size).numpy() for size in sizes)
    packed, lengths, middle = (x.numpy() for x in (samples.packed_info, lengths, middle))
    given = packed, sigmas, lengths, middle, colours, background, target, *grads
    return fastest(lambda: pixels(torch.get_num_threads(), *given), 4, 4)


@numba.njit(parallel=True)
def pixels(threads, packed, sigmas, lengths, middle, colours, background, target, grad_sigmas, grad_colours):
    for thread in numba.prange(threads):
        trans = np.empty(len(sigmas) + 1, np.float64)
        for r in range(len(packed) * thread // threads, len(packed) * (thread + 1) // threads):
            ray_error(
                packed[r, 0], packed[r, 1], sigmas, lengths, middle, colours, background[r], target[r], trans,
                grad_sigmas, grad_colours,
            )  # fmt: skip


def network_times(width: int, dtype: torch.dtype, peak: float, repeats: int) -> dict:
    """Forward and backward of Lego's trunk alone on 32,768 points, layer by layer and by tiles, in turns."""
    net, n = MLP(51, 16, width, activation="relu"), 1 << 15
    net.dtype = dtype
    x, grad, best, kept = torch.randn(n, 51).to(dtype), torch.randn(n, 16), {}, tiled.why_not

    def step() -> None:
        torch.autograd.grad(net(x), list(net.parameters()), grad)

    for _ in range(repeats):
        for name, why in {"layers ms": lambda dtype: "compared", "tiles ms": kept}.items():
            tiled.why_not = why
            choose.forget()
            best[name] = min(best.get(name, float("inf")), 1e3 * fastest(step, 2, 4))
    tiled.why_not = kept
    choose.forget()
    share = flops(net) * n / best["tiles ms"] / 1e6 / peak
    return {"network": str(dtype).removeprefix("torch."), "width": width, **best, "tiles share": share}


class Counter:
    """Seconds in some functions, or samples that came out of one, and the last of them."""

    def __init__(self) -> None:
        self.total = 0.0

    def timed(self, function: Callable) -> Callable:
        def call(*args, **kwargs):
            begin = time.perf_counter()
            found = function(*args, **kwargs)
            self.total += time.perf_counter() - begin
            return found

        return call

    def samples(self, function: Callable) -> Callable:
        def call(*args, **kwargs):
            self.last = function(*args, **kwargs)
            self.total += len(self.last.t_starts)
            return self.last

        return call


def mesh_figures(seconds: float) -> dict:
    """A mesh at 512³ from a field trained for a while, and how fast training points are labelled."""
    config = load_config(ROOT / "scenes" / "armadillo.yaml", {"training.seconds": str(seconds)})
    surface = load_surface(config.data.path)
    task = ShapeTask(config, surface)
    with tempfile.TemporaryDirectory() as folder:
        optimise(task, config.training, Run.prepare(Path(folder) / "run", config), config.seed)
    field = task.field.eval().requires_grad_(False)
    began = time.process_time()
    _, faces, found = extract_field(field, 512)
    meshed = time.process_time() - began
    total = found["shape"][0] * found["shape"][1] * found["shape"][2]
    begin = time.perf_counter()
    sample_shape(surface, Normalisation.fit(surface.aabb), 500_000, 7, cache=False)
    labelled = 500_000 / (time.perf_counter() - begin)
    return {
        "mesh_eval_share_512": found["evaluations"] / total,
        "mesh_512_cpu_seconds": meshed,
        "mesh_faces_512": len(faces),
        "labelled_points_in_10_s": round(10 * labelled),
    }


def orbit_frame(seconds: float) -> float:
    """Processor seconds of a frame of a turn around Lego at 200 × 200."""
    config = load_config(ROOT / "scenes" / "lego.yaml", {"training.seconds": str(seconds)})
    task = RadianceTask(config, load_scene(config))
    with tempfile.TemporaryDirectory() as folder:
        optimise(task, config.training, Run.prepare(Path(folder) / "run", config), config.seed)
    field = task.field.eval().requires_grad_(False)
    cameras = Orbit.of(field.view).cameras(12, (200, 200))
    begin = time.process_time()
    for i in range(12):
        with torch.no_grad():
            field.render(*cameras.view(i))
    return (time.process_time() - begin) / 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object on the last line")
    parser.add_argument("--quick", action="store_true", help="fewer repeats; write no file")
    parser.add_argument("--seconds", type=float, default=20.0, help="training before the mesh and the orbit (20)")
    options = parser.parse_args()
    if not (data_folder() / "lego").is_dir():
        parser.error(f"{data_folder()} has no lego; set SINEFIELD_DATA")
    peaks = ceiling()
    peak = max(peaks.values())
    repeats = 3 if options.quick else 8
    rows = [shape_steps(width, peak, repeats) for width in WIDTHS]
    rows += [radiance_steps(width, peak, max(repeats // 2, 2)) for width in WIDTHS]
    alone = [network_times(w, getattr(torch, name), peaks[name], repeats) for name in peaks for w in WIDTHS]
    shown = {f"share_{r['width']}": round(r["share"], 3) for r in rows if r["step"] == "shape"}
    shown |= {f"radiance_share_{r['width']}": round(r["share"], 3) for r in rows if r["step"] == "radiance"}
    shown["march_share"] = round(next(r["march share"] for r in rows if r.get("march share") and r["width"] == 64), 3)
    shown |= {k: round(v, 4) if isinstance(v, float) else v for k, v in mesh_figures(options.seconds).items()}
    shown["orbit_frame_200_cpu_seconds"] = round(orbit_frame(options.seconds), 3)
    shown |= {f"ceiling_{k}_gflops": round(v) for k, v in peaks.items()}
    columns = ["step", "width", "points/s", "ms", "share", "plain ms", "plain share", "march share"]
    print(table(columns, rows))
    print(table(list(alone[0]), alone))
    print(table(["figure", "value"], [{"figure": k, "value": v} for k, v in shown.items()]))
    if not options.quick:
        write(shown, rows, columns, alone)
    if options.json:
        print(json.dumps(shown))


def write(shown: dict, rows: list[dict], columns: list[str], alone: list[dict]) -> None:
    machine = describe_machine()
    about = (
        f"`python scripts/benchmarks/speed.py`: {machine['cpu']}, {machine['threads']} threads,\n"
        f"torch {machine['torch']}, {time.strftime('%Y-%m-%d')}.\n"
        "Shares are of the machine's own bf16 (or fp32) matrix product in this run, its ceiling. Times of meshes and\n"
        "frames are processor seconds: on the clock they depend on who else uses the machine."
    )
    parts = ["# Speed", about, table(columns, rows, markdown=True)]
    parts.append(
        "The network alone, forward and backward of 32,768 points, layer by layer in torch and by tiles; its share is\n"
        "of the square product in its own precision, which for float32 is the library's, not the processor's."
    )
    parts.append(table(list(alone[0]), alone, markdown=True))
    parts.append(table(["figure", "value"], [{"figure": k, "value": str(v)} for k, v in shown.items()], markdown=True))
    write_text(
        OUT.with_suffix(".json"),
        json.dumps({"figures": shown, "steps": rows, "networks": alone, "machine": machine}, indent=1),
    )
    write_text(OUT.with_suffix(".md"), "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
