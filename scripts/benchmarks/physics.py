"""A ball in a bowl and a peg in a hole, both fields, in MuJoCo; docs/results/physics.md.

    python scripts/benchmarks/physics.py [--steps 600] [--json]        about two minutes of one core

Bowl and hole are meshes of formulas, fitted by fields, written as C headers and compiled into SDF plugins with
scripts/physics/mujoco_field.c. The ball slides without friction, as a pendulum of the length of the bowl's radius less
its own would swing. The peg, a capsule let go at a slant, falls into a square hole; beside it the same hole is made of
five of MuJoCo's own boxes. MuJoCo's own meshes are no match for either: it takes their convex hulls.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import trimesh
from scipy.special import ellipk
from skimage.measure import marching_cubes

import sinefield as sf
from sinefield.export.code import export_code
from sinefield.files import write_text
from sinefield.machine import describe_machine
from sinefield.tables import table

ROOT = Path(__file__).parents[2]
OUT = ROOT / "docs" / "results" / "physics.md"
RADIUS, CENTRE, BALL = 0.8, np.array([0.0, 0.0, 0.7]), 0.1
WIDE, DEEP, FLOOR, PEG = 0.3, 0.6, -0.3, 0.2
GRAVITY, STEP, ANGLE = 9.81, 0.002, 25.0
WALLS = [(s * 0.65, 0, 0.35, 1) for s in (1, -1)] + [(0, s * 0.65, WIDE, 0.35) for s in (1, -1)]
TEXT = """# Fields in MuJoCo

`{command}`, {date}, one core of {cpu}, MuJoCo {version}, steps of {step} s.

{table}

The ball has a radius of {ball} and slides without friction in a bowl of radius {radius}; formula is the same ball
in a plugin of the bowl's exact distance. Its period is that of the second half swing, the pendulum's that of a
point. The peg is a capsule of radius {peg} and length 0.9 in a hole 0.6 wide. Sunk in: the deepest contact of all
steps. Energy: what is left of it at the end, of the height above the lowest place; contacts are soft and damped. IoU
and distance error (% of the box's diagonal) are those of the two fields, {steps} steps each, seed 0.
"""


OF_BALL = [
    ("period, s", "period", 3),
    ("off its sphere, at most", "off_sphere", 4),
    ("sunk in", "deepest", 4),
    ("energy left after 1.5 s", "energy_left", 2),
]
OF_PEG = [("height at rest", "height"), ("sunk in", "deepest"), ("CPU s for 2 s", "cpu_seconds")]


def _box(p: np.ndarray, half: tuple[float, ...]) -> np.ndarray:
    return np.max(np.abs(p) - np.array(half), axis=-1)


def bowl(p: np.ndarray) -> np.ndarray:
    """Negative inside of a block with a spherical hollow."""
    return np.maximum(_box(p, (1, 1, 0.5)), RADIUS - np.linalg.norm(p - CENTRE, axis=-1))


def hole(p: np.ndarray) -> np.ndarray:
    """Negative inside of a block with a square hole that ends at `FLOOR`."""
    return np.maximum(_box(p, (1, 1, DEEP)), -np.maximum(_box(p[..., :2], (WIDE, WIDE)), FLOOR - p[..., 2]))


def fitted(shape: Callable[[np.ndarray], np.ndarray], steps: int, folder: Path) -> dict[str, float]:
    """Fit a field to a formula's mesh and load it into MuJoCo as the plugin sinefield.NAME; returns its scores."""
    name, side = shape.__name__, np.linspace(-1.25, 1.25, 80)
    values = shape(np.stack(np.meshgrid(side, side, side, indexing="ij"), -1))
    vertices, faces, _, _ = marching_cubes(values, 0.0, spacing=[side[1] - side[0]] * 3)
    trimesh.Trimesh(vertices - 1.25, faces).export(folder / f"{name}.ply")
    field = sf.fit(folder / f"{name}.ply", steps=steps, batch=8192, out=folder / name)
    export_code(folder / name, folder / f"{name}.h")
    plugin(name, folder)
    return field.scores


def plugin(name: str, folder: Path) -> None:
    """Compile the header NAME.h into a plugin, and load it."""
    base = Path(mujoco.__file__).parent
    command = ["gcc", "-O3", "-march=native", "-shared", "-fPIC", f"-I{folder}", f"-I{base / 'include'}"]
    command += [f'-DHEADER="{name}.h"', f"-DFIELD={name}", f"-DBOX={name.upper()}_BOX"]
    source, library = ROOT / "scripts" / "physics" / "mujoco_field.c", next(base.glob("libmujoco.so*"))
    subprocess.run([*command, str(source), str(library), "-lm", "-o", str(folder / f"{name}.so")], check=True)
    mujoco.mj_loadPluginLibrary(str(folder / f"{name}.so"))


EXACT = f"""#include <math.h>
#include <stddef.h>
#define EXACT_BOX {{-1.0f, -1.0f, -0.5f, 1.0f, 1.0f, 0.5f}}
static inline float exact_sdf(float x, float y, float z, float *g) {{
    const float away = sqrtf(x * x + y * y + (z - {CENTRE[2]}f) * (z - {CENTRE[2]}f));
    if (g) g[0] = -x / away, g[1] = -y / away, g[2] = -(z - {CENTRE[2]}f) / away;
    return {RADIUS}f - away;
}}
"""
"""The bowl's hollow by its formula, where the ball is."""


def of_field(name: str, body: str, more: str = "") -> str:
    """A model whose world is a field."""
    return f"""<mujoco><option timestep="{STEP}"/>
    <extension><plugin plugin="sinefield.{name}"><instance name="f"/></plugin></extension>
    <asset><mesh name="f"><plugin instance="f"/></mesh></asset>
    <worldbody><geom type="sdf" mesh="f" {more}><plugin instance="f"/></geom>{body}</worldbody></mujoco>"""


def of_boxes(body: str) -> str:
    """The hole as MuJoCo's own boxes."""
    boxes = "".join(f'<geom type="box" pos="{x} {y} 0" size="{a} {b} {DEEP}"/>' for x, y, a, b in WALLS)
    boxes += f'<geom type="box" pos="0 0 {(FLOOR - DEEP) / 2}" size="{WIDE} {WIDE} {(FLOOR + DEEP) / 2}"/>'
    return f'<mujoco><option timestep="{STEP}"/><worldbody>{boxes}{body}</worldbody></mujoco>'


def run(model: str, seconds: float) -> dict[str, Any]:
    """Places (steps, 3) and speeds of the one body, the deepest contact, CPU seconds."""
    made = mujoco.MjModel.from_xml_string(model)
    data, places, speeds, deepest, begin = mujoco.MjData(made), [], [], 0.0, time.process_time()
    for _ in range(round(seconds / STEP)):
        mujoco.mj_step(made, data)
        places.append(data.qpos[:3].copy())
        speeds.append(float(np.linalg.norm(data.qvel[:3])))
        deepest = max([deepest, *(-float(data.contact.dist[k]) for k in range(data.ncon))])
    spent = time.process_time() - begin
    return {"places": np.array(places), "speeds": np.array(speeds), "deepest": deepest, "cpu_seconds": spent}


def rolled(name: str = "bowl", seconds: float = 1.5) -> dict[str, float]:
    """The ball in the bowl, let go at `ANGLE` degrees: how far it leaves its sphere, and its period."""
    length, angle = RADIUS - BALL, np.radians(ANGLE)
    x, y, z = CENTRE + length * np.array([np.sin(angle), 0, -np.cos(angle)])
    body = f'<body pos="{x} {y} {z}"><freejoint/><geom type="sphere" size="{BALL}" mass="0.5" condim="1"/></body>'
    found = run(of_field(name, body, 'condim="1"'), seconds)
    places = found["places"]
    off = np.abs(np.linalg.norm(places - CENTRE, axis=1) - length)
    energy = 0.5 * found["speeds"] ** 2 + GRAVITY * (places[:, 2] - CENTRE[2] + length)
    lowest = np.nonzero(np.diff(np.sign(places[:, 0])))[0] * STEP
    return {
        "off_sphere": float(off.max()), "deepest": found["deepest"], "energy_left": float(energy[-1] / energy[0]),
        "period": 2 * float(lowest[1] - lowest[0]) if len(lowest) > 1 else float("nan"),
        "pendulum": float(4 * np.sqrt(length / GRAVITY) * ellipk(np.sin(angle / 2) ** 2)),
        "cpu_seconds": found["cpu_seconds"],
    }  # fmt: skip


def dropped(seconds: float = 2.0) -> dict[str, dict[str, float]]:
    """The peg in the hole, of the field and of boxes: height at the end, and the deepest contact."""
    geom = f'<geom type="capsule" size="{PEG} 0.25" mass="0.5"/>'
    body = f'<body pos="0.05 0.03 1.0" euler="4 3 0"><freejoint/>{geom}</body>'
    rows = {}
    for name, model in (("field", of_field("hole", body)), ("boxes", of_boxes(body))):
        found = run(model, seconds)
        rows[name] = {"height": float(found["places"][-50:, 2].mean()), "off_middle": float(
            np.abs(found["places"][-1, :2]).max()), "deepest": found["deepest"], "cpu_seconds": found["cpu_seconds"],
        }  # fmt: skip
    return rows


def row(what: str, value: float, digits: int, **beside: float) -> dict[str, str]:
    """A line of the table."""
    others = ", ".join(f"{name} {other:.{digits}f}" for name, other in beside.items())
    return {"what": what, "field": f"{value:.{digits}f}", "beside": others}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not shutil.which("gcc"):
        sys.exit("physics.py needs gcc")
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        scores = {shape.__name__: fitted(shape, options.steps, Path(folder)) for shape in (bowl, hole)}
        (Path(folder) / "exact.h").write_text(EXACT)
        plugin("exact", Path(folder))
        ball, exact, pegs = rolled(), rolled("exact"), dropped()
    rows = [row(f"ball: {what}", ball[key], digits, formula=exact[key]) for what, key, digits in OF_BALL]
    rows[0]["beside"] += f", pendulum {ball['pendulum']:.3f}"
    rows += [row(f"peg: {what}", pegs["field"][key], 3, boxes=pegs["boxes"][key]) for what, key in OF_PEG]
    rows += [
        {"what": f"{name}: IoU, distance error", "field": f"{s['iou']:.4f}, {s['sdf_error']:.3f} %", "beside": ""}
        for name, s in scores.items()
    ]
    text = TEXT.format(
        command=f"python scripts/benchmarks/physics.py --steps {options.steps}", date=date.today(), step=STEP,
        cpu=describe_machine()["cpu"], version=mujoco.__version__, table=table(list(rows[0]), rows, markdown=True),
        ball=BALL, radius=RADIUS, peg=PEG, steps=options.steps,
    )  # fmt: skip
    write_text(OUT, text)
    print(json.dumps({"ball": ball, "exact": exact, "peg": pegs, "fields": scores}) if options.json else text)


if __name__ == "__main__":
    main()
