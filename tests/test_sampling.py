"""Training points: repeatable, where they should be, rightly labelled, and stored safely."""

import numpy as np
import pytest
import trimesh

from sinefield.data.surfaces import sampling
from sinefield.data.surfaces.sampling import heldout_points, sample_shape, surface_samples
from sinefield.data.surfaces.surface import Normalisation, Surface, load_surface
from sinefield.errors import SinefieldError
from sinefield.files import cache_folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SINEFIELD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def surface(mesh):
    return Surface(np.array(mesh.vertices), np.array(mesh.faces, np.int32), None, None, "mesh", {})


SPHERE = surface(trimesh.creation.icosphere(5, 10.0).apply_translation((100, 0, 0)))
BOX = surface(trimesh.creation.box((1.0, 2.0, 4.0)))
FIELD = Normalisation.fit(SPHERE.aabb)


def test_distances_are_in_field_units_at_field_coordinates():
    samples = sample_shape(SPHERE, FIELD, 20_000, seed=0)
    points, values = samples["points"], samples["values"]
    assert points.shape == (20_000, 3) and points.dtype == values.dtype == np.float32
    truth = np.linalg.norm(points, axis=1) - 1 / 1.1
    np.testing.assert_allclose(values, truth, atol=1e-3)


def test_occupancy_is_zero_or_one():
    samples = sample_shape(SPHERE, FIELD, 20_000, seed=0, kind="occupancy")
    truth = np.linalg.norm(samples["points"], axis=1) - 1 / 1.1
    clear = np.abs(truth) > 1e-3
    np.testing.assert_array_equal(samples["values"][clear], (truth < 0)[clear].astype(np.float32))


def test_near_points_come_first_and_spread_as_asked():
    distance = sample_shape(SPHERE, FIELD, 40_000, seed=0, near_fraction=0.25, near_std=(0.01, 0.03))["values"]
    assert distance[:10_000:2].std() == pytest.approx(0.01, rel=0.05)
    assert distance[1:10_000:2].std() == pytest.approx(0.03, rel=0.05)
    assert distance[10_000:].std() > 0.1


def test_volume_points_fill_the_enlarged_box_of_the_object():
    normalisation = Normalisation.fit(BOX.aabb)
    points = sample_shape(BOX, normalisation, 20_000, seed=0, near_fraction=0)["points"]
    half = np.array([1, 2, 4]) / 4 / 1.1 + 0.09
    assert (np.abs(points) <= half + 1e-6).all() and np.abs(points).max() <= 1
    np.testing.assert_allclose(np.abs(points).max(axis=0), half, rtol=0.01)
    np.testing.assert_allclose(points.std(axis=0), half / np.sqrt(3), rtol=0.02)


def test_same_seed_same_points_whatever_the_cache():
    first, again = (sample_shape(SPHERE, FIELD, 1000, seed=3, cache=False) for _ in range(2))
    other = sample_shape(SPHERE, FIELD, 1000, seed=4, cache=False)
    for name in ("points", "values"):
        np.testing.assert_array_equal(first[name], again[name])
        np.testing.assert_array_equal(first[name], sample_shape(SPHERE, FIELD, 1000, seed=3)[name])
        assert (first[name] != other[name]).any()


def test_the_cache_is_used_and_keyed_by_everything(own_cache, monkeypatch):
    base = {"surface": SPHERE, "normalisation": FIELD, "n": 1000, "seed": 0}
    changes = [
        {},
        {"surface": BOX},
        {"normalisation": Normalisation.fit(SPHERE.aabb, 0.2)},
        {"n": 1001},
        {"seed": 1},
        {"near_fraction": 0.4},
        {"near_std": (0.02,)},
        {"kind": "occupancy"},
    ]
    for count, change in enumerate(changes, 1):
        made = sample_shape(**(base | change))
        assert len(list(own_cache.iterdir())) == count
    monkeypatch.setattr(sampling, "_draw", None)  # not called any more
    np.testing.assert_array_equal(sample_shape(**(base | changes[-1]))["values"], made["values"])


@pytest.mark.parametrize("damage", ["truncate", "flip", "garbage", "empty"])
def test_a_damaged_cache_file_is_made_again(damage, own_cache):
    truth = sample_shape(SPHERE, FIELD, 1000, seed=0)
    (path,) = own_cache.iterdir()
    content = bytearray(path.read_bytes())
    content[-9] ^= 255
    path.write_bytes({"truncate": content[:500], "flip": content, "garbage": b"x" * 99, "empty": b""}[damage])
    np.testing.assert_array_equal(sample_shape(SPHERE, FIELD, 1000, seed=0)["values"], truth["values"])
    assert sampling._read(path, (1000,)) is not None


def test_a_cache_folder_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        assert len(sample_shape(SPHERE, FIELD, 100, seed=0, cache=folder)["values"]) == 100


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("SINEFIELD_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "sinefield"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache" / "sinefield"


@pytest.mark.parametrize("wrong", [{"n": 0}, {"near_fraction": 1.5}, {"near_std": ()}])
def test_senseless_requests(wrong):
    with pytest.raises(SinefieldError, match="give n"):
        sample_shape(SPHERE, FIELD, **({"n": 10, "seed": 0} | wrong))


def test_surface_samples_are_area_uniform_with_outward_normals():
    points, normals = surface_samples(BOX, 28_000, seed=0)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
    axis = np.abs(normals).argmax(axis=1)
    half = np.array([0.5, 1, 2])
    np.testing.assert_allclose(
        np.take_along_axis(points, axis[:, None], 1)[:, 0], (half * normals)[range(28_000), axis]
    )
    # Sides of 8, 4 and 2: 28 in all.
    np.testing.assert_allclose(np.bincount(axis), [16_000, 8_000, 4_000], rtol=0.05)
    top = points[normals[:, 0] > 0.5]
    np.testing.assert_allclose(top.std(axis=0), [0, 2 / np.sqrt(12), 4 / np.sqrt(12)], rtol=0.03, atol=1e-9)


def test_zero_area_faces_are_never_drawn():
    faces = np.vstack([BOX.faces, [[0, 1, 8]]]).astype(np.int32)
    vertices = np.vstack([BOX.vertices, BOX.vertices[[0, 1]].mean(axis=0)])
    _, normals = surface_samples(Surface(vertices, faces, None, None, "mesh", {}), 5000, seed=0)
    assert np.isfinite(normals).all()


def test_point_clouds_give_their_own_points():
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(3000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    cloud = Surface(2 * normals, None, normals, None, "cloud", {})
    points, drawn = surface_samples(cloud, 500, seed=0)
    np.testing.assert_allclose(points, 2 * drawn)
    values = sample_shape(cloud, Normalisation.fit(cloud.aabb), 3000, seed=0)
    truth = np.linalg.norm(values["points"], axis=1) - 1 / 1.1
    assert np.abs(values["values"] - truth).max() < 0.06
    held, inside = heldout_points(cloud, 3000, seed=5)
    assert ((np.linalg.norm(held, axis=1) < 2) == inside).mean() > 0.98


def test_heldout_points_are_uniform_in_the_box():
    points, inside = heldout_points(SPHERE, 20_000, seed=5)
    assert points.dtype == np.float64 and inside.dtype == bool
    assert (points >= SPHERE.aabb[:3]).all() and (points <= SPHERE.aabb[3:]).all()
    assert inside.mean() == pytest.approx(np.pi / 6, abs=0.01)
    truth = np.linalg.norm(points - (100, 0, 0), axis=1)
    clear = np.abs(truth - 10) > 0.02
    np.testing.assert_array_equal(inside[clear], (truth < 10)[clear])


def test_no_point_that_is_reported_is_judged_by(ball, ball_run, monkeypatch):
    """What packing decides by and what is reported are other points, and neither is a quick score's to reuse."""
    from sinefield.data.surfaces import sampling
    from sinefield.fields.base import kind_named
    from sinefield.fields.shape import scores
    from sinefield.store.fields import load_field

    seen: list[np.ndarray] = []

    def noted(surface, n, seed=sampling.REPORTED_SEED):
        points, inside = sampling.heldout_points(surface, n, seed)
        seen.append(points)
        return points, inside

    monkeypatch.setattr(scores, "heldout_points", noted)
    monkeypatch.setattr(scores, "HELDOUT_POINTS", 3000)
    monkeypatch.setattr(scores, "JUDGED_POINTS", 3000)

    kind, surface, field = kind_named("shape"), load_surface(ball), load_field(ball_run[0])[0]
    _, judge = kind.judge(surface, apart=True)
    judge(field)
    kind.quality(field, surface)
    judged, reported = ({tuple(p) for p in points} for points in seen)
    assert len(judged) == len(reported) == 3000 and not judged & reported
