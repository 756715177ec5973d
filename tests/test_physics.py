"""Fields in physics engines: a MuJoCo plugin is made and loaded, a warp function says what the field says; slow."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sinefield.export.code import export_code
from sinefield.fields.base import kind_of
from sinefield.store.fields import load_field

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
MODEL = """<mujoco>
<extension><plugin plugin="sinefield.knot"><instance name="k"/></plugin></extension>
<asset><mesh name="k"><plugin instance="k"/></mesh></asset>
<worldbody><geom type="sdf" mesh="k"><plugin instance="k"/></geom>
<body pos="0 0.78 1"><freejoint/><geom type="sphere" size="0.1" mass="0.1"/></body></worldbody></mujoco>"""


@pytest.mark.skipif(not shutil.which("gcc"), reason="no C compiler")
def test_a_plugin_of_the_header_is_taken_by_mujoco(tmp_path):
    mujoco = pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    base = Path(mujoco.__file__).parent
    export_code("example:knot", tmp_path / "knot.h")
    command = [
        "gcc",
        "-O3",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-shared",
        "-fPIC",
        f"-I{tmp_path}",
        f"-I{base / 'include'}",
    ]
    command += ['-DHEADER="knot.h"', "-DFIELD=knot", "-DBOX=KNOT_BOX"]
    source, library = ROOT / "scripts" / "physics" / "mujoco_field.c", next(base.glob("libmujoco.so*"))
    subprocess.run([*command, str(source), str(library), "-lm", "-o", str(tmp_path / "knot.so")], check=True)
    mujoco.mj_loadPluginLibrary(str(tmp_path / "knot.so"))
    model = mujoco.MjModel.from_xml_string(MODEL)
    assert model.nplugin == 1
    data = mujoco.MjData(model)
    for _ in range(10):
        mujoco.mj_step(model, data)
    assert np.isfinite(data.qpos).all() and data.qpos[2] < 1  # it falls


@pytest.mark.nightly
@pytest.mark.skipif(not shutil.which("gcc"), reason="no C compiler")
def test_a_ball_swings_in_a_bowl_as_a_pendulum_and_a_peg_falls_into_a_hole(tmp_path):
    """The ball's period is a pendulum's by its formula; the peg comes to rest in the hole as in one of boxes."""
    pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    spec = importlib.util.spec_from_file_location("physics", ROOT / "scripts" / "benchmarks" / "physics.py")
    physics = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(physics)
    for shape in (physics.bowl, physics.hole):
        assert physics.fitted(shape, 1200, tmp_path)["iou"] > 0.99
    ball = physics.rolled()
    assert ball["period"] == pytest.approx(ball["pendulum"], rel=0.02)
    assert ball["off_sphere"] < 0.005 and ball["deepest"] < 0.005 and 0.2 < ball["energy_left"] < 1.01
    pegs = physics.dropped(1.0)
    assert pegs["field"]["height"] == pytest.approx(pegs["boxes"]["height"], abs=0.06)
    assert pegs["field"]["off_middle"] < physics.WIDE - physics.PEG + 0.03 and pegs["field"]["deepest"] < 0.05


def test_a_field_in_warp():
    wp = pytest.importorskip("warp", reason="warp-lang is not installed")
    from sinefield.export.code_warp import warp_function

    sdf, numbers = warp_function("example:knot")

    @wp.kernel
    def ask(numbers: wp.array(dtype=float), points: wp.array(dtype=wp.vec3), values: wp.array(dtype=float)):
        i = wp.tid()
        values[i] = sdf(numbers, points[i])

    points = np.random.default_rng(0).uniform(-1.5, 1.5, (500, 3)).astype(np.float32)
    values = wp.zeros(500, dtype=float, device="cpu")
    wp.launch(ask, 500, inputs=[numbers, wp.array(points, dtype=wp.vec3, device="cpu"), values], device="cpu")
    field, _ = load_field("example:knot")
    truth = kind_of(field).distance_network(field)(points.astype(np.float64))
    assert np.abs(values.numpy() - truth).max() < 1e-5
