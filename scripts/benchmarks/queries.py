"""Distances a second, and how true they are: a field in Python and as a C header beside other libraries; one core.

    python scripts/benchmarks/queries.py [--mesh armadillo.obj] [--steps 8000] [--points 1000000] [--run FOLDER]
        [--json]

A field is trained on the mesh first; a run that FOLDER holds already is taken. CPU seconds on the same points,
uniform in twice the box, by compiled kernels on one thread; libigl, trimesh and Open3D answer on the mesh itself, some
thousands of the points. The header is compiled by gcc -O3 -march=native. Truth is libigl's on the mesh. The file is
the packed field, its load that of a process that has imported sinefield. Writes docs/results/queries.md.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

import numpy as np  # noqa: E402
import torch  # noqa: E402
import trimesh  # noqa: E402

import sinefield as sf  # noqa: E402
from sinefield.config import data_folder  # noqa: E402
from sinefield.data.surfaces.surface import Surface, load_surface, signed_distance  # noqa: E402
from sinefield.export.code import export_code  # noqa: E402
from sinefield.fields.base import kind_of  # noqa: E402
from sinefield.fields.shape.distance_scores import distance_scores  # noqa: E402
from sinefield.files import write_text  # noqa: E402
from sinefield.learning.pack import pack  # noqa: E402
from sinefield.machine import describe_machine  # noqa: E402
from sinefield.store.fields import load_field  # noqa: E402
from sinefield.tables import table  # noqa: E402

OUT = Path(__file__).parents[2] / "docs" / "results" / "queries.md"
LABELS = {
    "sdf_per_s": ("Field.sdf, a second", "2,000,000"),
    "gradient_per_s": ("Field.sdf with gradient, a second", "1,000,000"),
    "twin_gradient_per_s": ("torch twin of the network with autograd, a second", ""),
    "open3d_per_s": ("Open3D, a second", ""),
    "libigl_per_s": ("libigl (distance and fast winding number), a second", ""),
    "trimesh_per_s": ("trimesh, a second", ""),
    "point_us": ("Field.sdf, one point a call, µs", "20"),
    "open3d_point_us": ("Open3D, one point a call, µs", ""),
    "c_point_us": ("C header, one point a call, µs", "1.5"),
    "c_per_s": ("C header, many points, a second", ""),
    "c_gradient_per_s": ("C header with gradient, a second", ""),
    "file_bytes": ("packed file, bytes", "10,000"),
    "load_ms": ("its load after import, ms", "50"),
    "near_error": ("mean error near the surface, % of the diagonal", "0.1"),
    "far_error": ("mean error in twice the box, %", "1"),
    "gradient_median": ("gradient in twice the box, degrees: median", "1"),
    "gradient_95": ("95th percentile", "8"),
    "sign": ("side right, of points further than 0.2 % of the diagonal, %", "99.9"),
}
"""Of each figure: what it is, and what was aimed at."""
TEXT = """# Distances a second

`{command}`,
{date}, one core of {cpu}, {compiler}, CPU seconds, best of three; IoU {iou:.4f}, seed 0.

{table}

Points are uniform in twice the box. The header has the network alone, and a bound away from the surface;
`Field.sdf` has true distances. Others answer on the mesh itself, so they have no error.
"""


def seconds(call: Callable[[], Any]) -> float:
    """CPU seconds of the best of three calls."""
    best = float("inf")
    for _ in range(3):
        begin = time.process_time()
        call()
        best = min(best, time.process_time() - begin)
    return best


def of_header(field: str, points: np.ndarray) -> dict[str, float]:
    """The header, compiled into a library with a loop of single calls beside its own."""
    with tempfile.TemporaryDirectory() as folder:
        export_code(field, Path(folder) / "f.h")
        source = Path(folder) / "f.c"
        source.write_text(
            '#include "f.h"\n'
            "void many(size_t n, const float *p, float *v, float *g) { f_sdf_many(n, p, v, g); }\n"
            "float one(float x, float y, float z) { return f_sdf(x, y, z, NULL); }\n"
            "void ones(size_t n, const float *p, float *v, float (*volatile f)(float, float, float)) {\n"
            "    for (size_t i = 0; i < n; i++) v[i] = f(p[3 * i], p[3 * i + 1], p[3 * i + 2]);\n}\n"
        )
        library = Path(folder) / "f.so"
        command = [
            "gcc",
            "-std=c99",
            "-O3",
            "-march=native",
            "-shared",
            "-fPIC",
            str(source),
            "-o",
            str(library),
            "-lm",
        ]
        subprocess.run(command, check=True)
        functions = ctypes.CDLL(str(library))
        n, values, grads = ctypes.c_size_t(len(points)), np.empty(len(points), np.float32), np.empty_like(points)
        p, v, g = (ctypes.c_void_p(array.ctypes.data) for array in (points, values, grads))
        plain = seconds(lambda: functions.many(n, p, v, None))
        slopes = seconds(lambda: functions.many(n, p, v, g))
        ones = seconds(lambda: functions.ones(n, p, v, functions.one))
    count = len(points)
    return {"c_per_s": count / plain, "c_gradient_per_s": count / slopes, "c_point_us": 1e6 * ones / count}


def of_python(field: sf.Field, points: np.ndarray) -> dict[str, float]:
    """`Field.sdf` by compiled kernels, and the network alone in torch with autograd."""
    field.prepare()
    one = points[:1]
    found = {
        "sdf_per_s": len(points) / seconds(lambda: field.sdf(points)),
        "gradient_per_s": len(points) / seconds(lambda: field.sdf(points, gradient=True)),
        "point_us": 1e6 * seconds(lambda: [field.sdf(one) for _ in range(1000)]) / 1000,
    }
    network, _ = load_field(field.path)
    asked = ((torch.from_numpy(points[:100_000]).double() - network.centre) * network.scale).float().requires_grad_()

    def twin() -> None:
        for part in asked.split(16384):
            torch.autograd.grad(network(part).sum(), part)

    return found | {"twin_gradient_per_s": len(asked) / seconds(twin)}


def of_others(surface: Surface, points: np.ndarray) -> dict[str, float]:
    """Libraries on the mesh, where they can be imported."""
    few = points[:5000].astype(np.float64)
    mesh = trimesh.Trimesh(surface.vertices, surface.faces, process=False)
    signed_distance(surface, few[:10])  # builds the trees
    found = {"libigl_per_s": len(few) / seconds(lambda: signed_distance(surface, few))}
    with suppress(ImportError):  # without rtree
        trimesh.proximity.signed_distance(mesh, few[:1])
        begin = time.process_time()
        trimesh.proximity.signed_distance(mesh, few[:200])
        found["trimesh_per_s"] = 200 / (time.process_time() - begin)
    try:
        import open3d
    except (ImportError, OSError):
        return found
    scene = open3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(np.asarray(surface.vertices, np.float32), np.asarray(surface.faces, np.uint32))
    many, one = np.float32(points[:20_000]), np.float32(points[:1])
    found["open3d_per_s"] = len(many) / seconds(lambda: scene.compute_signed_distance(many))
    return found | {
        "open3d_point_us": 1e6 * seconds(lambda: [scene.compute_signed_distance(one) for _ in range(500)]) / 500
    }


def of_truth(field: sf.Field, surface: Surface, points: np.ndarray) -> dict[str, float]:
    """Errors against libigl on the mesh."""
    network, _ = load_field(field.path)
    scores = distance_scores(network, kind_of(network).true_distance(network), surface, 20_000)
    asked = points[:50_000].astype(np.float64)
    truth, diagonal = signed_distance(surface, asked), float(np.linalg.norm(surface.aabb[3:] - surface.aabb[:3]))
    clear = np.abs(truth) > 0.002 * diagonal
    return {
        "near_error": scores["sdf_error"],
        "far_error": scores["sdf_error_far"],
        "gradient_median": scores["gradient_error"],
        "gradient_95": scores["gradient_error_95"],
        "sign": 100 * float((np.sign(field.sdf(asked)) == np.sign(truth))[clear].mean()),
    }


def of_file(run: Path, folder: Path) -> dict[str, float]:
    """Size of the packed field, and how long a process that has imported everything takes to load it and to answer."""
    file = folder / "field.sine"
    pack(run, file, bits=6, seconds=0)
    code = "import sys, time; import sinefield as sf; sf.load('example:knot').sdf([[0.0, 0, 0]]); "
    code += "t = time.process_time(); "
    code += "sf.load(sys.argv[1]); print(1000 * (time.process_time() - t))"
    told = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True).stdout
    return {"file_bytes": file.stat().st_size, "load_ms": float(told)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mesh", default="armadillo.obj")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    mesh = data_folder() / "meshes" / options.mesh
    surface = load_surface(mesh)
    with tempfile.TemporaryDirectory() as scratch:
        run = options.run or Path(scratch) / "run"
        field = sf.load(run) if (run / "field.safetensors").exists() else sf.fit(mesh, steps=options.steps, out=run)
        low, high = np.reshape(field.bounds, (2, 3))
        points = np.random.default_rng(0).uniform(low - (high - low) / 2, high + (high - low) / 2, (options.points, 3))
        points = points.astype(np.float32)
        found = of_python(field, points) | of_others(surface, points) | of_header(str(run), points)
        found |= of_file(run, Path(scratch)) | of_truth(field, surface, points)
    rows = [
        {"what": what, "got": f"{found[name]:,.4g}" if found[name] < 1000 else f"{found[name]:,.0f}", "aim": aim}
        for name, (what, aim) in LABELS.items()
        if name in found
    ]
    compiler = subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    command = (
        f"python scripts/benchmarks/queries.py --mesh {options.mesh} --steps {options.steps} --points {options.points}"
    )
    text = TEXT.format(
        command=command, date=date.today(), cpu=describe_machine()["cpu"], compiler=compiler, iou=field.scores["iou"],
        table=table(list(rows[0]), rows, markdown=True),
    )  # fmt: skip
    write_text(OUT, text)
    print(json.dumps({name: round(value, 4) for name, value in found.items()}) if options.json else text)


if __name__ == "__main__":
    main()
