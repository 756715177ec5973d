"""The public API against libigl, analytic shapes and the commands' own results."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import trimesh
from small import CENTRE, RADIUS, radiance_config

import sinefield as sf
from sinefield.errors import SinefieldError
from sinefield.learning.train import train
from sinefield.store.fields import load_field

BACK = np.array([0, 0, RADIUS])
SMALL = {"width": 32, "rank": 4, "frequencies": 2, "points": 20_000, "batch": 2048}


@pytest.fixture(scope="module")
def ball_field(ball_run):
    return sf.load(ball_run[0])


@pytest.fixture(scope="module")
def around(ball_field):
    """Points in four times the box, and their distances from the true ball."""
    low, high = ball_field.bounds
    middle, half = (low + high) / 2, 2 * (high - low)
    points = middle + np.random.default_rng(0).uniform(-1, 1, (4000, 3)) * half
    away = points - CENTRE
    return points, np.linalg.norm(away, axis=1) - RADIUS, away / np.linalg.norm(away, axis=1, keepdims=True)


def test_everything_public_is_there_and_says_what_it_is():
    for name in sf.__all__:
        if not name.startswith("__"):
            assert getattr(sf, name).__doc__, name
    for name, member in vars(sf.Field).items():
        if not name.startswith("_"):
            assert member.__doc__, name
    assert set(sf.__all__) <= set(dir(sf))
    with pytest.raises(AttributeError):
        sf.nothing  # noqa: B018


def test_importing_and_asking_a_shape_needs_no_torch(ball_run):
    code = (
        "import sys, sinefield as sf; assert 'numpy' not in sys.modules; "
        f"f = sf.load({str(ball_run[0])!r}); d, g = f.sdf([[0.0, 0, 0]], gradient=True); "
        "assert f.inside([[0.0, 0, 0]]).tolist() == [False] and f.kind == 'shape' and f.scores['iou'] > 0.9; "
        "assert not {'torch', 'trimesh', 'numba'} & set(sys.modules), 'too much'; print(d[0])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    assert float(found.stdout) == pytest.approx(np.linalg.norm(CENTRE) - RADIUS, rel=1e-3)


def test_distances_are_true_in_four_times_the_box(ball_field, around):
    points, truth, directions = around
    diagonal = np.linalg.norm(np.diff(ball_field.bounds, axis=0))
    found, gradient = ball_field.sdf(points, gradient=True)
    far = np.abs(truth) > 0.01 * diagonal
    assert ((found < 0) == (truth < 0))[far].mean() >= 0.999
    assert np.abs(found - truth).max() < 0.01 * diagonal
    assert np.abs(np.linalg.norm(gradient, axis=1) - 1).max() < 1e-6
    assert np.degrees(np.arccos((gradient * directions).sum(1).clip(-1, 1))).__abs__().mean() < 2
    assert (ball_field.inside(points) == (found < 0)).all()


def test_answers_come_as_questions_did(ball_field, around):
    points, *_ = around
    numpy = ball_field.sdf(points)
    assert numpy.dtype == np.float64 and ball_field.sdf(points.astype(np.float32)).dtype == np.float32
    tensor = ball_field.sdf(torch.from_numpy(points))
    assert isinstance(tensor, torch.Tensor) and np.array_equal(tensor.numpy(), numpy)
    assert ball_field.inside(torch.from_numpy(points).float()).dtype == torch.bool
    assert ball_field.sdf(points.tolist()[:3]).tolist() == numpy[:3].tolist()
    assert len(ball_field.sdf(np.empty((0, 3)))) == 0


def test_torch_and_numpy_agree(ball_field, around, ball_run):
    points, *_ = around
    field, _ = load_field(ball_run[0])
    near = points[np.abs(np.linalg.norm(points - CENTRE, axis=1) - RADIUS) < 0.01]
    assert np.abs(field.evaluate(torch.from_numpy(near)).numpy() - ball_field.sdf(near)).max() < 2e-3


def test_what_a_field_says_of_itself(ball_field, ball_run):
    folder, report = ball_run
    assert (ball_field.kind, ball_field.params) == ("shape", report["params"])
    assert ball_field.nbytes == (folder / "field.safetensors").stat().st_size
    assert ball_field.scores["iou"] == report["iou"]
    assert np.allclose(ball_field.bounds, [CENTRE - RADIUS, CENTRE + RADIUS], atol=0.01)
    assert "shape" in repr(ball_field)


def test_mesh_and_picture_of_a_shape(ball_field):
    mesh = ball_field.mesh(64)
    assert isinstance(mesh, trimesh.Trimesh) and mesh.is_watertight
    assert np.abs(np.linalg.norm(mesh.vertices - CENTRE, axis=1) - RADIUS).max() < 0.05 * RADIUS
    image = ball_field.render(width=48)
    assert image.shape == (48, 48, 4) and image.dtype == np.uint8
    covered = (image[..., 3] > 127).mean()
    assert 0.1 < covered < 0.6 and image[24, 24, 3] == 255 and image[0, 0, 3] == 0
    assert ball_field.render(ball_field.orbit(3, width=16)).shape == (3, 16, 16, 4)


def test_a_camera_of_ones_own(ball_field):
    pose = sf.look_at(CENTRE + 4 * BACK, CENTRE)
    image = ball_field.render(pose, width=40)
    square = np.vstack([pose, [0, 0, 0, 1]])
    assert np.array_equal(image, ball_field.render(square, width=40)) and image[20, 20, 3] == 255
    away = ball_field.render(sf.look_at(CENTRE + 4 * BACK, CENTRE + 9 * BACK), width=40)
    assert not away[..., 3].any()


@pytest.fixture(scope="module")
def light(photo_run):
    return sf.load(photo_run[0])


def test_a_radiance_field(light):
    inside, outside = np.array([[0.0, 0, 0.9]]), np.array([[0.0, 0, 3.0]])
    assert light.kind == "radiance" and light.density(inside)[0] > light.density(outside)[0] == 0
    top = light.colour(np.array([[0.0, 0, 1.0]]), np.array([[0.0, 0, -2.0]]))[0]
    below = light.colour(torch.tensor([[0.0, 0, -1.0]]), torch.tensor([[0.0, 0, 1.0]]))[0]
    assert top[0] > top[2] and below[2] > below[0]  # red above, blue below
    image = light.render(width=24)
    assert image.shape[1:] == (24, 4) and image[..., 3].max() > 200
    mesh = light.mesh(40)
    assert mesh.visual.kind == "vertex"


def test_a_surface_field_has_distances(photographs, tmp_path):
    config = radiance_config(photographs, steps=20)
    config.field.density = "distance"
    train(config, tmp_path / "run")
    distances = sf.load(tmp_path / "run").sdf([[0.0, 0, 0], [0.0, 0, 5.0]])
    assert distances[0] < 0 < distances[1]


def test_fitting_a_mesh_in_memory(tmp_path):
    mesh = trimesh.creation.icosphere(3, radius=2.0)
    mesh.apply_translation([5, 0, 0])
    field = sf.fit(mesh, steps=150, **SMALL)
    assert field.kind == "shape" and field.scores["iou"] > 0.9
    assert field.sdf([[9.0, 0, 0]])[0] == pytest.approx(2, abs=0.1)
    field.save(tmp_path / "ball.sine", max_bytes=3000, seconds=2)
    assert field.nbytes <= 3000 and field.path.endswith("ball.sine") and field.inside([[5.0, 0, 0]])[0]
    with pytest.raises(SinefieldError, match="packed already"):
        field.save(tmp_path / "smaller.sine", max_bytes=1000)
    field.save(tmp_path / "copy.sine")
    assert (tmp_path / "copy.sine").read_bytes() == (tmp_path / "ball.sine").read_bytes()
    with pytest.raises(SinefieldError, match="exists"):
        field.save(tmp_path / "ball.sine")
    field.save(tmp_path / "unpacked")
    assert sf.load(tmp_path / "unpacked").inside([[5.0, 0, 0]])[0]


def test_a_fit_kept_as_a_run_can_be_evaluated_and_packed_again(tmp_path):
    field = sf.fit(trimesh.creation.box(), steps=60, seed=3, **SMALL)
    field.save(tmp_path / "box")
    from sinefield.commands.cli import main

    assert main(["eval", str(tmp_path / "box")]) == 0
    assert main(["pack", str(tmp_path / "box"), str(tmp_path / "box.sine"), "--bits", "6", "--steps", "0"]) == 0
    assert sf.load(tmp_path / "box").scores["iou"] == pytest.approx(field.scores["iou"], abs=1e-6)


def test_the_same_seed_is_the_same_field(tmp_path):
    a, b = (sf.fit(trimesh.creation.box(), steps=20, seed=5, out=tmp_path / name, **SMALL) for name in "ab")
    both = zip(load_field(a.path)[0].parameters(), load_field(b.path)[0].parameters(), strict=True)
    assert a.path != b.path and all(torch.equal(p, q) for p, q in both)


def test_fitting_points_with_normals():
    points, _ = trimesh.sample.sample_surface(trimesh.creation.icosphere(3), 2000, seed=0)
    normals = points / np.linalg.norm(points, axis=1, keepdims=True)
    field = sf.fit((points, torch.from_numpy(normals)), steps=150, **SMALL)
    assert field.inside([[0.0, 0, 0], [1.5, 0, 0]]).tolist() == [True, False]


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_fitting_an_image(kind):
    y, x = np.mgrid[0:24, 0:32] / 32
    image = np.stack([x, y, 0.5 + 0 * x], -1)
    given = (255 * image).astype(np.uint8) if kind is np.uint8 else image.astype(kind)
    field = sf.fit(given, steps=60, width=32, depth=2, batch=768)
    assert field.kind == "image" and field.image().shape == (24, 32, 3) and field.image(64).shape == (48, 64, 3)
    assert np.abs(field.image().astype(float) - 255 * image).mean() < 20


def test_fitting_photographs_and_files(photographs, ball):
    small = {"width": 16, "depth": 2, "rank": 2, "frequencies": 2, "grid": 16, "head_width": 16}
    assert sf.fit(photographs, steps=5, **small, **{"field.steps": 32}).kind == "radiance"
    assert sf.fit(str(ball), steps=5, **SMALL).kind == "shape"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nowhere.obj", "nowhere.obj"),
        (3.5, "a float|shape"),
        (None, "NoneType"),
        (object(), "object"),
        (np.zeros((4, 4)), r"\(4, 4\)"),
        (np.full((4, 4, 3), np.nan), "finite"),
        (np.full((4, 4, 3), 3.0), r"\[0, 1\]"),
        (np.zeros((4, 4, 3), np.int32), "int32"),
        ((np.zeros((4, 3)), np.zeros((5, 3))), "normals"),
        ((np.full((4, 3), np.inf), np.zeros((4, 3))), "infinite"),
        (trimesh.Trimesh(), "no faces"),
        (trimesh.PointCloud(np.zeros((3, 3))), "PointCloud"),
    ],
)
def test_fitting_what_is_nothing(given, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SinefieldError, match=said):
        sf.fit(given, steps=1)
    assert not list(tmp_path.iterdir())


def test_unknown_settings_and_full_folders(ball, tmp_path):
    with pytest.raises(SinefieldError, match="did you mean 'width'"):
        sf.fit(ball, steps=1, widht=8)
    with pytest.raises(SinefieldError, match="rank is 900"):
        sf.fit(ball, steps=1, rank=900)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SinefieldError, match="not empty"):
        sf.fit(ball, steps=1, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("path", ["nowhere", "nowhere.sine", "example:nothing", 3, None])
def test_loading_what_is_none(path):
    with pytest.raises(SinefieldError, match=r"nowhere|nothing|int|NoneType"):
        sf.load(path)


def test_loading_a_file_that_is_none(tmp_path):
    (tmp_path / "a.sine").write_bytes(b"SINE and more")
    (tmp_path / "empty").mkdir()
    for name in ("a.sine", "empty"):
        with pytest.raises(SinefieldError, match=name):
            sf.load(tmp_path / name)


@pytest.mark.parametrize(
    "points", [[1.0, 2, 3], [[1.0, 2]], [[np.nan, 0, 0]], [["a", "b", "c"]], [[1, 2, 3], [4, 5]], 7]
)
def test_points_that_are_none(ball_field, light, points):
    # A distance of no number is no number, with a warning: tests/test_quick_distance.py.
    asked = (ball_field.sdf, ball_field.inside) if points != [[np.nan, 0, 0]] else ()
    for ask in (*asked, light.density, lambda p: light.colour(p, [[0.0, 0, 1]])):
        with pytest.raises(SinefieldError, match=r"point|shape"):
            ask(points)


def test_questions_of_another_kind(ball_field, light):
    for ask, said in (
        (lambda: ball_field.density([[0.0, 0, 0]]), "density"),
        (lambda: light.sdf([[0.0, 0, 0]]), "distance"),
        (lambda: ball_field.image(), "picture"),
        (lambda: light.colour([[0.0, 0, 0]], [[0.0, 0, 0]]), "not zero|zero"),
        (lambda: light.colour([[0.0, 0, 0]], [[0.0, 0, 1]] * 2), "directions"),
    ):
        with pytest.raises(SinefieldError, match=said):
            ask()


@pytest.mark.parametrize(
    ("camera", "size", "said"),
    [
        ("front", {}, "camera"),
        (np.zeros((2, 2)), {}, "camera"),
        (np.zeros((3, 4)), {}, "rotation"),
        (np.full((3, 4), np.nan), {}, "camera"),
        (None, {"width": 0}, "width"),
        (None, {"width": 10**6}, "width"),
        (None, {"height": 2.5}, "height"),
    ],
)
def test_cameras_that_are_none(ball_field, camera, size, said):
    with pytest.raises(SinefieldError, match=said):
        ball_field.render(camera, **size)


def test_resolutions_that_are_none(ball_field):
    for resolution in (0, -3, 2.5, "high", True):
        with pytest.raises(SinefieldError, match="resolution"):
            ball_field.mesh(resolution)
