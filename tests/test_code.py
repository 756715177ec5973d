"""Shape fields for other programs: compiled, run and held against torch."""

import ctypes
import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from sinefield.commands.cli import main
from sinefield.config import make_field_config
from sinefield.errors import SinefieldError
from sinefield.export.code import distance_grid, export_code
from sinefield.export.code_c import c_header
from sinefield.fields.base import kind_named, kind_of
from sinefield.store.fields import load_field

GOLDEN = Path(__file__).parent / "golden"
SHAPES = ["shape", "shape_relu", "shape_siren", "shape_siren_lowrank", "shape_octaves", "shape_codebook"]
SHAPES += ["shape_coloured"]
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2"]
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
needs_compiler = pytest.mark.skipif(not COMPILERS, reason="no C compiler")


def compiled(header: Path, name: str, compiler: str = "gcc"):
    """The two functions of a header as one: points -> values, gradients."""
    source = header.with_suffix(".c")
    source.write_text(
        f'#include "{header.name}"\n'
        f"void many(size_t n, const float *p, float *v, float *g);\n"
        f"void many(size_t n, const float *p, float *v, float *g) {{ {name}_sdf_many(n, p, v, g); }}\n"
    )
    library = header.with_suffix(".so")
    subprocess.run([compiler, *STRICT, "-shared", "-fPIC", str(source), "-o", str(library), "-lm"], check=True)
    function = ctypes.CDLL(str(library)).many
    numbers = ctypes.POINTER(ctypes.c_float)

    def ask(points: np.ndarray, gradient: bool = True):
        points = np.ascontiguousarray(points, np.float32)
        values, grads = np.zeros(len(points), np.float32), np.zeros((len(points), 3), np.float32)
        pointers = [array.ctypes.data_as(numbers) for array in (points, values, grads)]
        function(ctypes.c_size_t(len(points)), *pointers[:2], pointers[2] if gradient else None)
        return values, grads

    return ask


def inside_and_around(field, seed: int = 0) -> np.ndarray:
    box = field.aabb.numpy()
    random = np.random.default_rng(seed)
    return np.float64(np.float32(random.uniform(box[:3], box[3:], (500, 3))))


@needs_compiler
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("golden", [*SHAPES, "shape_hash"])
def test_the_header_is_the_field(golden, compiler, tmp_path):
    field, _ = load_field(GOLDEN / f"{golden}.sine")
    if field.config.represents != "distance":
        pytest.skip("an occupancy")
    out = tmp_path / "shape.h"
    export_code(GOLDEN / f"{golden}.sine", out)
    points = inside_and_around(field)
    values, grads = compiled(out, "shape", compiler)(points)
    size = float((field.aabb[3:] - field.aabb[:3]).max())
    np.testing.assert_allclose(values, field.evaluate(torch.from_numpy(points)).numpy(), atol=1e-5 * size)
    asked = torch.from_numpy(points).requires_grad_()
    raw = field(((asked - field.centre) * field.scale).float()) * (field.config.band / field.scale)
    (truth,) = torch.autograd.grad(raw.sum(), asked)
    # A sine network's gradients are large; where ReLU's kink is crossed by rounding, one side is as good as the other.
    off = np.abs(grads - truth.numpy()).max(axis=1) > 1e-3 * max(1.0, float(truth.abs().max()))
    assert off.mean() < 0.01


@needs_compiler
@pytest.mark.parametrize("settings", [{"skips": [2], "depth": 4}, {"activation": "softplus"}, {"depth": 1}])
def test_every_layout_and_activation(settings, tmp_path):
    asked = {"weights": "sine", "rank": 2, "width": 20, "depth": 3, "frequencies": 3, "represents": "distance"}
    config = make_field_config("shape", asked | settings, "the test")
    torch.manual_seed(0)
    placed = {"centre": torch.tensor([1.0, 2, 3]).double(), "scale": torch.tensor(0.7).double()}
    placed["aabb"] = torch.tensor([0.0, 1, 2, 2, 3, 4]).double()
    field = kind_named("shape").blank(config, placed)
    for parameter in field.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    header = tmp_path / "f.h"
    header.write_text(c_header(kind_of(field).distance_network(field), "f", "*/ odd\nname"))
    points = inside_and_around(field)
    values, grads = compiled(header, "f")(points)
    np.testing.assert_allclose(values, field.evaluate(torch.from_numpy(points)).numpy(), atol=2e-5)
    asked = torch.from_numpy(points).requires_grad_()
    raw = field(((asked - field.centre) * field.scale).float()) * (field.config.band / field.scale)
    (truth,) = torch.autograd.grad(raw.sum(), asked)
    np.testing.assert_allclose(grads, truth.numpy(), atol=1e-3 * max(1.0, float(truth.abs().max())))


@needs_compiler
def test_feature_grids_answer_for_points_that_are_none(tmp_path):
    export_code(GOLDEN / "shape_hash.sine", tmp_path / "f.h")
    values, grads = compiled(tmp_path / "f.h", "f")(np.array([[np.nan, 0, 0], [0, np.inf, 0], [0, 0, 0]]))
    assert np.isnan(values[0]) and values[1] == np.inf and np.isfinite(values[2]) and np.isfinite(grads[2]).all()


def test_feature_grids_without_torch_are_those_with_it():
    field, _ = load_field(GOLDEN / "shape_hash.sine")
    network = kind_of(field).distance_network(field).network
    points = torch.rand(300, 3, generator=torch.Generator().manual_seed(0)) * 2.2 - 1.1
    values, grads = network.with_gradient(points.numpy())
    asked = points.clone().requires_grad_()
    raw = field(asked)
    (truth,) = torch.autograd.grad(raw.sum(), asked)
    raw = raw.detach().numpy()
    np.testing.assert_allclose(values, raw, atol=1e-5 * np.abs(raw).max())
    within = (points.abs() < 1).all(1).numpy()  # beyond, features stay as they are: torch gives 0, the twin does not
    np.testing.assert_allclose(grads[within], truth.numpy()[within], atol=1e-4 * float(truth.abs().max()))


@needs_compiler
def test_beyond_the_box_it_is_a_bound_and_true_near_the_surface(tmp_path):
    out = tmp_path / "knot.h"
    assert main(["code", "example:knot", str(out), "--name", "a_knot"]) == 0
    ask = compiled(out, "a_knot")
    field, _ = load_field("example:knot")
    truth = kind_of(field).true_distance(field)
    diagonal = float(np.linalg.norm(truth.high - truth.low))
    random = np.random.default_rng(1)
    points = np.float64(np.float32(random.uniform(-4, 4, (4000, 3))))
    distances, values = truth.sdf(points), ask(points)[0]
    assert (values <= distances + 0.01 * diagonal).all()
    assert (np.sign(values) == np.sign(distances))[np.abs(distances) > 0.01 * diagonal].all()
    near = np.float64(np.float32(truth.surface.vertices[::7] * truth.unit + truth.centre))
    near = near + random.normal(0, 0.002, near.shape)
    assert np.abs(ask(near)[0] - truth.sdf(near)).mean() < 0.001 * diagonal
    # The derivative far out is that of the value: by central differences, in float32.
    far, step = points[np.abs(points).max(axis=1) > 1.5], 0.02
    for axis in range(3):
        offset = np.eye(3)[axis] * step
        slope = (ask(far + offset)[0] - ask(far - offset)[0]) / (2 * step)
        # Where the nearest place of the box comes to an edge, the derivative bends.
        off = np.abs(slope - ask(far)[1][:, axis])
        assert np.quantile(off, 0.98) < 0.02
    values, grads = ask(np.array([[np.nan, 0, 0], [1e30, 0, 0]]))
    assert np.isnan(values[0]) and values[1] == np.float32(1e30)
    np.testing.assert_allclose(grads[1], [1, 0, 0], atol=1e-6)


@pytest.mark.parametrize("golden", SHAPES)
def test_the_onnx_model_is_the_field(golden, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    field, _ = load_field(GOLDEN / f"{golden}.sine")
    if field.config.represents != "distance":
        pytest.skip("an occupancy")
    out = tmp_path / "shape.onnx"
    export_code(GOLDEN / f"{golden}.sine", out)
    points = np.concatenate([inside_and_around(field), 5 * inside_and_around(field, 1)]).astype(np.float32)
    session = runtime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    (values,) = session.run(None, {"points": points})
    network = kind_of(field).distance_network(field)
    np.testing.assert_allclose(values, network(points.astype(np.float64)), atol=2e-5 * float(np.abs(points).max()))
    assert session.run(None, {"points": points[:0]})[0].shape == (0,)


def test_the_grid_holds_true_distances():
    field, _ = load_field("example:knot")
    grid = np.load(io.BytesIO(distance_grid(field, 32)), allow_pickle=False)
    truth = kind_of(field).true_distance(field)
    shape = np.array(grid["sdf"].shape)
    assert shape.max() == 32
    last = grid["origin"] + grid["spacing"] * (shape - 1)
    assert (grid["origin"] < truth.low).all() and (last > truth.high).all()
    for cell in [(3, 4, 5), (16, 16, 10), tuple(shape - 1)]:
        point = grid["origin"] + grid["spacing"] * np.array(cell)
        assert grid["sdf"][cell] == pytest.approx(float(truth.sdf(point[None])[0]), abs=1e-6)


@pytest.mark.parametrize(
    ("field", "out", "options", "words"),
    [
        ("example:toys", "toys.h", [], "radiance"),
        ("example:picture", "picture.npz", [], "image"),
        (GOLDEN / "occupancy_dense.sine", "f.h", [], "OUT.npz"),
        (GOLDEN / "shape_sheet.sine", "f.onnx", [], "OUT.npz"),
        (GOLDEN / "shape_hash.sine", "f.glsl", [], "OUT.h"),
        (GOLDEN / "shape_hash.sine", "f.onnx", [], "OUT.h"),
        ("example:knot", "knot.cpp", [], ".onnx"),
        ("example:knot", "knot.h", ["--name", "two words"], "two words"),
        ("example:knot", "knot.npz", ["--resolution", "100000"], "256"),
    ],
)
def test_what_cannot_be_written_is_one_line(field, out, options, words, tmp_path, capsys):
    assert main(["code", str(field), str(tmp_path / out), *options]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_far_from_the_origin_lost_digits_are_said(tmp_path):
    field, _ = load_field("example:knot")
    field.aabb += 1e6
    field.centre += 1e6
    assert kind_of(field).distance_network(field).digits_lost > 0.01
    with pytest.raises(SinefieldError, match="cannot name"):
        c_header(kind_of(field).distance_network(field), "1st", "a file")
