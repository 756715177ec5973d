"""Extracted surfaces against formulas: place, size, orientation, closedness."""

import numpy as np
import pytest
import torch
import trimesh

from sinefield.errors import SinefieldError
from sinefield.fields.shape.surface import extract_shape
from sinefield.meshing.extract import estimate_bytes, extract, largest_component, without_strays

CUBE = np.array([-1.0, -1, -1, 1, 1, 1])


def sphere(centre, radius):
    centre = torch.tensor(centre, dtype=torch.float32)
    return lambda points: (points - centre).norm(dim=1) - radius


def checked(vertices, faces):
    """The mesh, after the checks that each extracted surface should pass."""
    assert vertices.dtype == np.float64 and faces.dtype == np.int32
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent
    return mesh


@pytest.mark.parametrize(("centre", "radius"), [((0, 0, 0), 1.0), ((1e-3, -2e-3, 5e-3), 1e-3), ((500, -2000, 0), 1e3)])
def test_a_sphere_comes_back_where_it_was(centre, radius):
    box = np.concatenate([np.array(centre) - 1.2 * radius, np.array(centre) + 1.2 * radius])
    vertices, faces, grid = extract(sphere(centre, radius), box, 80, 0.0, "below", progress=False)
    mesh = checked(vertices, faces)
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=2e-3)  # positive: faces look outward
    assert mesh.area == pytest.approx(4 * np.pi * radius**2, rel=2e-3)
    assert mesh.euler_number == 2 and not grid["capped"]
    np.testing.assert_allclose(np.linalg.norm(vertices - centre, axis=1), radius, rtol=1e-3)
    assert grid["pitch"] == pytest.approx(2.4 * radius / 79) and grid["shape"] == [80, 80, 80]


def test_a_sphere_far_away_is_as_exact_as_one_here():
    def at(centre):
        place = torch.tensor(centre, dtype=torch.float64)
        box = np.concatenate([np.array(centre) - 3.6, np.array(centre) + 3.6])
        vertices = extract(lambda points: (points - place).norm(dim=1) - 3, box, 40, 0.0, "below", progress=False)[0]
        return vertices - np.array(centre)

    np.testing.assert_allclose(at([1e7, -1e7, 5e6]), at([0.0, 0.0, 0.0]), atol=3e-7)


def test_above_looks_outward_too():
    vertices, faces, _ = extract(lambda p: torch.exp(-p.square().sum(1) * 4), CUBE, 50, float(np.exp(-1)), "above")
    assert checked(vertices, faces).volume == pytest.approx(np.pi / 6, rel=1e-2)


def test_torus_has_its_hole():
    def torus(p):
        return torch.hypot(torch.hypot(p[:, 0], p[:, 1]) - 0.6, p[:, 2]) - 0.25

    mesh = checked(*extract(torus, CUBE * [1, 1, 0.4, 1, 1, 0.4], 90, 0.0, "below")[:2])
    assert mesh.euler_number == 0
    assert mesh.volume == pytest.approx(2 * np.pi**2 * 0.6 * 0.25**2, rel=5e-3)


def test_chunks_leave_no_trace():
    field = sphere((0.1, 0.2, -0.1), 0.7)
    whole = extract(field, CUBE, 30, 0.0, "below")
    for chunk in (97, 1000):
        parts = extract(field, CUBE, 30, 0.0, "below", chunk=chunk)
        np.testing.assert_array_equal(parts[0], whole[0])
        np.testing.assert_array_equal(parts[1], whole[1])


def test_every_chunk_is_float64_in_input_coordinates_and_within_the_size():
    seen = []

    def evaluate(points):
        seen.append(points)
        return points[:, 0] - 10.5

    box = np.array([10.0, 20, 30, 11, 22, 30.5])
    _, _, grid = extract(evaluate, box, 21, 0.0, "below", chunk=500)
    points = torch.cat(seen).numpy()
    assert max(len(part) for part in seen) <= 500 and points.dtype == np.float64
    assert grid["shape"] == [11, 21, 6] and len(points) == 11 * 21 * 6
    np.testing.assert_allclose(points.min(axis=0), box[:3], rtol=1e-6)
    np.testing.assert_allclose(points.max(axis=0), box[3:], rtol=1e-6)


@pytest.mark.parametrize("inside", ["above", "below"])
def test_what_leaves_the_box_is_capped_half_a_voxel_outside(inside):
    sign = 1 if inside == "below" else -1
    vertices, faces, grid = extract(lambda p: sign * (p[:, 0] - 0.013), CUBE, 21, 0.0, inside)
    mesh = checked(vertices, faces)
    assert grid["capped"]
    np.testing.assert_allclose(mesh.bounds, [[-1.05, -1.05, -1.05], [0.013, 1.05, 1.05]], atol=1e-4)
    assert mesh.volume == pytest.approx(1.063 * 2.1**2, rel=0.01)


def test_samples_exactly_on_the_level():
    vertices, faces, _ = extract(lambda p: p.abs().amax(1) - 0.5, CUBE, 9, 0.0, "below")
    assert checked(vertices, faces).volume == pytest.approx(1, rel=0.3)


@pytest.mark.parametrize(
    ("evaluate", "level", "message"),
    [
        (lambda p: p[:, 0], 5.0, r"level 5 is outside the field's range -1 to 1, .*; try --level 0\.9"),
        (lambda p: p[:, 0] * 0 + 3, 0.5, "the field is 3 all over the box"),
        (lambda p: torch.where(p[:, 0] > 0.9, torch.nan, p[:, 1]), 0.0, "NaN or infinite at"),
        (lambda p: p[:, 0] / 0, 0.0, "NaN or infinite at"),
    ],
)
def test_fields_without_a_surface(evaluate, level, message):
    with pytest.raises(SinefieldError, match=message):
        extract(evaluate, CUBE, 21, level, "above")


@pytest.mark.parametrize(
    ("box", "resolution", "message"),
    [
        (CUBE[::-1], 10, "is empty"),
        (np.zeros(6), 10, "is empty"),
        (CUBE * np.nan, 10, "is empty"),
        (CUBE, 1, "resolution is 1"),
        (CUBE, 4096, "needs about .* GiB, more than 3.5; try --resolution 8"),
    ],
)
def test_boxes_and_resolutions_refused_before_any_work(box, resolution, message):
    with pytest.raises(SinefieldError, match=message):
        extract(lambda p: pytest.fail("evaluated"), box, resolution, 0.0, "below")


def test_the_suggested_resolution_fits():
    with pytest.raises(SinefieldError) as caught:
        extract(sphere((0, 0, 0), 0.5), CUBE, 400, 0.0, "below", max_bytes=20 << 20)
    suggested = int(str(caught.value).split()[-1])
    assert 60 < suggested < 400 and estimate_bytes(np.full(3, suggested)) < 20 << 20


def test_largest_component():
    def two(p):
        return torch.minimum(sphere((-0.5, 0, 0), 0.4)(p), sphere((0.6, 0, 0), 0.2)(p))

    vertices, faces, _ = extract(two, CUBE, 60, 0.0, "below")
    colours = np.arange(3 * len(vertices), dtype=np.uint64).reshape(-1, 3).astype(np.uint8)
    assert trimesh.Trimesh(vertices, faces, process=False).body_count == 2
    v, f, c = largest_component(vertices, faces, colours)
    mesh = checked(v, f)
    assert mesh.body_count == 1 and mesh.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.02)
    assert len(c) == len(v) < len(vertices)
    colour_at = dict(zip(map(tuple, vertices), map(tuple, colours), strict=True))
    assert all(colour_at[tuple(place)] == tuple(colour) for place, colour in zip(v, c, strict=True))
    assert len(largest_component(v, f)) == 2
    assert len(largest_component(v[:0], f[:0])[1]) == 0


class Specked:
    """A ball of radius 0.4 in its box, with a speck that a field got wrong outside it, and one inside the box."""

    aabb = torch.tensor([-0.4, -0.4, -0.4, 0.4, 0.4, 0.4], dtype=torch.float64)
    distance, default_level = True, 0.0

    def __init__(self, *specks):
        self.specks = specks

    def evaluate(self, points):
        return torch.stack([sphere(c, r)(points) for c, r in [((0, 0, 0), 0.4), *self.specks]]).amin(dim=0)


OUT, IN = ((0.42, -0.39, 0.1), 0.011), ((-0.37, 0.37, 0.37), 0.02)


@pytest.mark.parametrize(("specks", "strays", "bodies"), [((), 0, 1), ((OUT,), 1, 1), ((IN,), 0, 2), ((IN, OUT), 1, 2)])
def test_pieces_wholly_outside_the_box_are_left_out_and_counted(specks, strays, bodies):
    vertices, faces, about = extract_shape(Specked(*specks), 160, dense=True)
    mesh = checked(vertices, faces)
    assert about["strays"] == strays and mesh.body_count == bodies
    assert np.abs(mesh.bounds).max() == pytest.approx(0.4, abs=0.001)


def test_a_piece_less_than_a_voxel_outside_the_box_is_kept():
    """A small part that an object ends in may be learned a little too far out."""
    assert extract_shape(Specked(((0.414, 0.0, 0.37), 0.012)), 100, dense=True)[2]["strays"] == 0


def test_other_levels_and_surfaces_that_lie_wholly_outside_keep_all_pieces():
    assert extract_shape(Specked(OUT), 100, level=-0.005, dense=True)[2]["strays"] == 0
    vertices, faces, _ = extract(sphere((0, 0, 0), 0.1), CUBE / 2, 40, 0.0, "below")
    kept = without_strays(vertices, faces, np.array([1, 1, 1, 2, 2, 2.0]))
    assert kept[0] is vertices and kept[1] is faces and kept[2] == 0
    assert without_strays(vertices[:0], faces[:0], CUBE)[2] == 0


def gyroid(p):
    x, y, z = (2 * p).unbind(1)
    return torch.sin(x) * torch.cos(y) + torch.sin(y) * torch.cos(z) + torch.sin(z) * torch.cos(x) + 0.9


def shell_and_dust(p):
    """Exact distance to a torus and to a ball smaller than a block."""
    ring = torch.stack([p[:, :2].norm(dim=1) - 0.6, p[:, 2]], 1).norm(dim=1) - 0.15
    return torch.minimum(ring, (p - torch.tensor([0.03, 0.02, 0.05])).norm(dim=1) - 0.025)


@pytest.mark.parametrize("block", [4, 8])
@pytest.mark.parametrize(("function", "slope"), [(gyroid, None), (shell_and_dust, 1.0)])
@pytest.mark.parametrize("box", [CUBE, CUBE * [1, 0.71, 0.3, 1, 0.71, 0.3]])
def test_the_surface_near_which_alone_is_evaluated_is_the_whole(block, function, slope, box):
    dense = extract(function, box, 83, 0.0, "below")
    near = extract(function, box, 83, 0.0, "below", block=block, slope=slope, chunk=5000)
    assert np.array_equal(dense[0], near[0]) and np.array_equal(dense[1], near[1])
    assert dense[2]["evaluations"] == np.prod(dense[2]["shape"])


def test_most_of_the_grid_is_left_out():
    _, _, found = extract(shell_and_dust, CUBE, 200, 0.0, "below", block=4, slope=1.0)
    assert found["evaluations"] < 0.12 * 200**3


def test_a_bound_on_the_slope_finds_what_no_corner_shows():
    # Without the bound the ball inside a block is missed: that is what the bound is for.
    ring = extract(shell_and_dust, CUBE, 83, 0.0, "below", block=8)
    both = extract(shell_and_dust, CUBE, 83, 0.0, "below", block=8, slope=1.0)
    pieces = [len(trimesh.Trimesh(*found[:2], process=False).split()) for found in (ring, both)]
    assert pieces == [1, 2]
