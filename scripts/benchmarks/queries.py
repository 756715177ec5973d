"""Distances a second: the C header against Python, and against Open3D where it is installed; one core.

    python scripts/benchmarks/queries.py [--field example:knot] [--points 200000] [--json]

CPU seconds on the same points, uniform in twice the field's box. The header is compiled by gcc -O3 -march=native.
Writes docs/results/queries.md.
"""

import argparse
import ctypes
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

import numpy as np  # noqa: E402

import sinefield as sf  # noqa: E402
from sinefield.export.code import export_code  # noqa: E402

OUT = Path(__file__).parents[2] / "docs" / "results" / "queries.md"
LABELS = {
    "c_per_s": "C header, many points, a second",
    "c_gradient_per_s": "C header with gradient, a second",
    "c_point_us": "C header, one point a call, µs",
    "sdf_per_s": "Field.sdf (true distances), a second",
    "gradient_per_s": "Field.sdf with gradient, a second",
    "point_us": "Field.sdf, one point a call, µs",
    "open3d_per_s": "Open3D on the field's mesh, a second",
}


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


def of_python(field: str, points: np.ndarray) -> dict[str, float]:
    """`Field.sdf`, after its first question, which extracts the surface."""
    loaded, one = sf.load(field), points[:1]
    loaded.sdf(one)
    return {
        "sdf_per_s": len(points) / seconds(lambda: loaded.sdf(points)),
        "gradient_per_s": len(points) / seconds(lambda: loaded.sdf(points, gradient=True)),
        "point_us": 1e6 * seconds(lambda: [loaded.sdf(one) for _ in range(200)]) / 200,
    }


def of_open3d(field: str, points: np.ndarray) -> dict[str, float]:
    """Open3D's ray-casting scene on the field's mesh, one thread; nothing where it is absent."""
    try:
        import open3d
    except (ImportError, OSError):
        return {}
    mesh, scene = sf.load(field).mesh(), open3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.uint32))
    few = points[: len(points) // 10]
    return {"open3d_per_s": len(few) / seconds(lambda: scene.compute_signed_distance(few))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--field", default="example:knot")
    parser.add_argument("--points", type=int, default=200_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    low, high = (np.array(corner) for corner in np.reshape(sf.load(options.field).bounds, (2, 3)))
    middle, half = (low + high) / 2, high - low
    points = np.random.default_rng(0).uniform(middle - half, middle + half, (options.points, 3)).astype(np.float32)
    found = of_header(options.field, points) | of_python(options.field, points) | of_open3d(options.field, points)
    rows = "\n".join(f"| {LABELS[name]} | {value:,.2f} |" for name, value in found.items())
    compiler = subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    OUT.write_text(
        f"# Queries\n\n`python scripts/benchmarks/queries.py --field {options.field} --points {options.points}`, "
        f"{date.today()}, {platform.processor() or platform.machine()}, {compiler}, one core, CPU seconds.\n"
        "The header has the network alone, a bound away from the surface; `Field.sdf` has true distances.\n\n"
        f"| what | |\n|---|---:|\n{rows}\n"
    )
    print(json.dumps({name: round(value, 3) for name, value in found.items()}) if options.json else OUT.read_text())


if __name__ == "__main__":
    main()
