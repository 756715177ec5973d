"""Spaces other than a box: NDC, contraction, nested grids."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from small import radiance_config

from sinefield.cameras.cameras import Cameras, orbit
from sinefield.errors import SinefieldError
from sinefield.export.mesh import export_mesh
from sinefield.fields.radiance.training import load_scene, make_field
from sinefield.kernels.cpu.march import march_nested
from sinefield.learning.train import train
from sinefield.render.march import Grid, March, Samples, march, march_reference
from sinefield.render.march_nested import lattice, locate, march_nested_reference
from sinefield.render.occupancy import OccupancyGrid
from sinefield.render.spaces import contract, forward_frame, from_ndc, ndc_box, points_to_ndc, to_ndc
from sinefield.store.fields import load_field


def forward_cameras(n: int = 5, spread: float = 0.3, seed: int = 0) -> Cameras:
    """Cameras near one another that all look along about the same direction of a turned world."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    turn = turn * torch.sign(torch.linalg.det(turn))
    poses = []
    for _ in range(n):
        small = torch.linalg.matrix_exp(_skew(0.1 * torch.randn(3, generator=generator, dtype=torch.float64)))
        place = turn @ (spread * torch.randn(3, generator=generator, dtype=torch.float64)) + torch.tensor([3.0, -1, 2])
        poses.append(torch.cat([turn @ small, place[:, None]], 1))
    return Cameras(
        torch.stack(poses).float(),
        torch.tensor([[50.0, 52.0]]).expand(n, 2),
        torch.tensor([[32.0, 24.0]]).expand(n, 2),
        torch.zeros(n, 4),
        64,
        48,
    )


def _skew(v):
    x, y, z = v.tolist()
    return torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)


def test_ndc_rays_pass_through_the_images_of_world_points():
    cameras = forward_cameras()
    frame = forward_frame(cameras, near=1.5)
    rays_o, rays_d = cameras.view(2)
    start, slope = to_ndc(rays_o, rays_d, frame)
    torch.testing.assert_close(slope.norm(dim=1), torch.ones(len(slope)))
    for share in (0.1, 0.5, 0.9):
        points = start + share * 2 * slope
        world = from_ndc(points, frame)
        torch.testing.assert_close(points_to_ndc(world.float(), frame), points, rtol=1e-3, atol=1e-3)
        # Each lies on its world ray, in front of the near plane.
        along = ((world - rays_o) * rays_d).sum(1)
        away = (world - rays_o - along[:, None] * rays_d).norm(dim=1)
        assert float((away / along).max()) < 1e-4
        assert float(along.min()) > 1.0


def test_ndc_depths_run_from_the_near_plane_to_infinity():
    cameras = forward_cameras(3, spread=0.0)
    near = 2.0
    frame = forward_frame(cameras, near)
    middle = cameras[0]
    rays_o, rays_d = middle.rays(torch.zeros(1, dtype=torch.long), torch.tensor([[32.0, 24.0]]))
    start, slope = to_ndc(rays_o, rays_d, frame)
    turn = frame.turn
    for z, depth in ((-1.0, near), (0.0, 2 * near), (1 - 1e-3, 2 * near / 1e-3)):
        world = from_ndc(start + slope * ((z - start[:, 2]) / slope[:, 2])[:, None], frame).float()
        assert -float(turn[2, :3] @ world[0] + turn[2, 3]) * near == pytest.approx(depth, rel=2e-3)


def test_rays_that_look_backwards_see_nothing():
    cameras = forward_cameras()
    frame = forward_frame(cameras, 1.0)
    box = ndc_box(cameras, frame)
    rays_o, rays_d = cameras.view(0)
    grid = OccupancyGrid(box, 8)
    ahead = grid.sampling(*to_ndc(rays_o, rays_d, frame), 0.1)
    behind = grid.sampling(*to_ndc(rays_o, -rays_d, frame), 0.1)
    assert len(ahead.t_starts) > 10 * len(rays_o) and len(behind.t_starts) == 0


def test_the_box_of_ndc_holds_what_the_cameras_see():
    cameras = forward_cameras()
    frame = forward_frame(cameras, 1.0)
    box = ndc_box(cameras, frame)
    for view in range(len(cameras)):
        start, slope = to_ndc(*cameras.view(view), frame)
        for point in (start, start + slope * ((1 - start[:, 2]) / slope[:, 2])[:, None]):
            assert bool((point[:, :2] >= box[:2] - 1e-4).all()) and bool((point[:, :2] <= box[3:5] + 1e-4).all())


def test_cameras_that_look_around_do_not_suit_ndc():
    around = forward_cameras(6)
    object.__setattr__(around, "c2w", orbit(6, radius=4.0).float())
    with pytest.raises(SinefieldError, match="contracted"):
        forward_frame(around, 1.0)


def test_contraction_keeps_the_box_and_folds_the_rest():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 3, generator=generator) * 3
    y, reach = contract(x)
    inside = x.abs().amax(1) <= 1
    assert inside.any() and (~inside).any()
    torch.testing.assert_close(y[inside], x[inside])
    far = y[~inside].abs().amax(1)
    torch.testing.assert_close(far, 2 - 1 / x[~inside].abs().amax(1))
    torch.testing.assert_close(reach[:, 0], x.abs().amax(1).clamp(min=1))
    # Directions stay, and infinity is at 2.
    torch.testing.assert_close(torch.nn.functional.normalize(y), torch.nn.functional.normalize(x))
    assert float(contract(torch.tensor([[1e9, 0.0, 0.0]]))[0][0, 0]) == pytest.approx(2.0)


def test_points_belong_to_the_smallest_box_around_them():
    aabb = torch.tensor([-1.0, -2, -3, 1, 2, 3]) + 0.5
    x = torch.tensor([[0.5, 0.5, 0.5], [1.6, 0.5, 0.5], [0.5, 4.4, 0.5], [0.5, 0.5, 13.0], [9.0, 0.5, 0.5]])
    place, level = locate(x, aabb, 3)
    assert level.tolist() == [0, 1, 1, 3, 3]
    torch.testing.assert_close(place[2], torch.tensor([0.5, 0.5 + 3.9 / 8, 0.5]))
    grid = OccupancyGrid(aabb, 8, levels=3)
    # Centres of the cells come back to themselves, those that a smaller box holds being out of use.
    centres = grid.centres()
    own = torch.arange(len(centres)) // 8**3
    _, found = locate(centres, aabb, 3)
    used = grid.allowed.flatten()
    assert bool((found[used] == own[used]).all()) and bool((found[~used] < own[~used]).all())
    assert int(used.sum()) == 8**3 + 2 * (8**3 - 4**3)
    assert bool(grid.occupied(centres[used]).all())
    torch.testing.assert_close(grid.outer_box, torch.tensor([-4.0, -8, -12, 4, 8, 12]) + 0.5)


def rays(n: int, seed: int, spread: float = 1.0):
    generator = torch.Generator().manual_seed(seed)
    d = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=1)
    return spread * torch.randn(n, 3, generator=generator), d, torch.rand(n, generator=generator)


@pytest.mark.parametrize("cone", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("levels", [1, 3])
def test_the_compiled_march_is_the_reference(cone, levels):
    generator = torch.Generator().manual_seed(1)
    aabb = torch.tensor([-1.0, -0.5, -1, 1, 0.5, 1.5])
    binaries = torch.rand(levels * 8, 8, 8, generator=generator) < 0.4
    solid = binaries & (torch.rand(binaries.shape, generator=generator) < 0.05)
    o, d, jitter = rays(300, 2)
    grid = Grid(aabb, binaries, solid, levels)
    given = o, d, grid, March(0.03, cone_angle=cone, near_plane=0.1, far_plane=7.0), jitter
    fast, slow = Samples(*march_nested(*given)), march_nested_reference(*given)
    # A midpoint on a wall may fall either way by rounding; nearly all rays agree, and to the last digits.
    same = fast.packed_info[:, 1] == slow.packed_info[:, 1]
    assert float(same.float().mean()) > 0.97 and len(slow.t_starts) > 500
    keep_fast, keep_slow = same[fast.ray_indices], same[slow.ray_indices]
    torch.testing.assert_close(fast.t_starts[keep_fast], slow.t_starts[keep_slow], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fast.t_ends[keep_fast], slow.t_ends[keep_slow], rtol=1e-4, atol=1e-4)


def test_one_level_without_a_cone_sees_what_the_plain_march_sees():
    binaries = torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(3)) < 0.3
    aabb = torch.tensor([-1.0, -1, -1, 1, 1, 1])
    o, d, _ = rays(200, 4, spread=2.0)
    nested = Samples(*march_nested(o, d, Grid(aabb, binaries), March(0.01)))
    plain = march_reference(o, d, Grid(aabb, binaries), March(0.01))
    # The lattices are shifted against each other: lengths of the occupied stretches agree to a step or two a stretch.
    length = torch.zeros(2, len(o))
    for row, samples in enumerate((nested, plain)):
        length[row].index_add_(0, samples.ray_indices, samples.t_ends - samples.t_starts)
    assert float((length[0] - length[1]).abs().max()) < 0.08 and float(length[1].max()) > 0.5


def test_samples_grow_with_distance_and_leave_no_gap():
    t = lattice(torch.tensor([0.1]), 50.0, 0.02, 0.05)[0]
    steps = t.diff()
    torch.testing.assert_close(steps, (0.05 * t[:-1]).clamp(min=0.02), rtol=1e-3, atol=1e-5)
    full = torch.ones(24, 8, 8, dtype=torch.bool)
    o, d, jitter = rays(50, 5, spread=0.1)
    grid = Grid(torch.tensor([-1.0, -1, -1, 1, 1, 1]), full, levels=3)
    samples = march(o, d, grid, March(0.02, cone_angle=0.05, near_plane=0.1), jitter)
    for ray in range(50):
        own = samples.ray_indices == ray
        torch.testing.assert_close(samples.t_starts[own][1:], samples.t_ends[own][:-1])
        # To the wall of the largest box, four times the smallest.
        wall = ((torch.sign(d[ray]) * 4 - o[ray]) / d[ray]).min()
        last = samples.t_ends[own][-1]
        assert float(last) == pytest.approx(float(wall), abs=0.6 * 0.05 * float(wall))


def test_the_cap_drops_whole_rays():
    o, d, _ = rays(40, 6, spread=0.1)
    full = torch.ones(16, 8, 8, dtype=torch.bool)
    aabb = torch.tensor([-1.0, -1, -1, 1, 1, 1])
    grid, settings = Grid(aabb, full, levels=2), March(0.05, cone_angle=0.02)
    for function in (march, march_nested_reference):
        every = function(o, d, grid, settings)
        capped = function(o, d, grid, settings._replace(max_samples=500))
        assert 0 < capped.n_rays < 40 and len(capped.t_starts) <= 500
        torch.testing.assert_close(capped.packed_info, every.packed_info[: capped.n_rays])


def test_a_grid_of_levels_learns_where_matter_is():
    aabb = torch.tensor([-1.0, -1, -1, 1, 1, 1])
    grid = OccupancyGrid(aabb, 16, levels=3)

    def shell(x):  # a ball within the smallest box, and a shell in the largest
        radius = x.norm(dim=1)
        return ((radius < 0.5) | ((radius > 2.5) & (radius < 3.5))).float()

    for seed in range(8):
        grid.update(shell, torch.Generator().manual_seed(seed))
    for radius, expected in ((0.2, True), (0.9, False), (1.5, False), (3.0, True)):
        d = torch.nn.functional.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(9)), dim=1)
        assert float((grid.occupied(radius * d) == expected).float().mean()) > 0.99, radius
    samples = grid.sampling(torch.zeros(1, 3), torch.tensor([[1.0, 0, 0]]), 0.05)
    middle = (samples.t_starts + samples.t_ends) / 2
    assert float(middle.min()) < 0.1 and not bool(((middle > 0.8) & (middle < 2.0)).any())
    assert math.isclose(float(middle.max()), 3.5, abs_tol=0.55)


NEAR_PLANE, FAR_PLANE = 2.0, 6.0


def write_forward_facing(folder, n=5, size=(32, 24), focal=30.0):
    """A disc before a patterned wall, drawn in closed form from cameras on a small lattice, in LLFF's format."""
    (folder / "images").mkdir(parents=True)
    width, height = size
    rows = []
    for i in range(n * n):
        eye = np.array([0.25 * (i % n - n // 2), 0.25 * (i // n - n // 2), 0.0])
        y, x = np.mgrid[0:height, 0:width] + 0.5
        d = np.stack([(x - width / 2) / focal, (height / 2 - y) / focal, -np.ones_like(x)], -1)
        disc, wall = eye + NEAR_PLANE * d, eye + FAR_PLANE * d
        pattern = 0.5 + 0.4 * np.stack([np.sin(2 * wall[..., 0]), np.cos(2 * wall[..., 1]), 0 * x], -1)
        hit = (disc[..., :2] ** 2).sum(-1) < 0.3**2
        rgb = np.where(hit[..., None], [0.9, 0.2, 0.1], pattern)
        Image.fromarray((255 * rgb).round().astype(np.uint8)).save(folder / f"images/{i:03d}.png")
        # Columns down, right, back, position, (height, width, focal length).
        matrix = np.stack([[0, -1, 0], [1, 0, 0], [0, 0, 1], eye, [height, width, focal]], 1)
        rows.append([*matrix.flatten(), 1.8, 7.0])
    np.save(folder / "poses_bounds.npy", np.array(rows, dtype=np.float64))
    return folder


SPACES = {
    "ndc": {"space": "ndc", "grid": 24, "steps": 64},
    "contracted": {"space": "contracted", "grid": 24, "steps": 48, "grid_levels": 3, "cone_angle": 0.02},
}


@pytest.mark.slow
@pytest.mark.parametrize("space", list(SPACES))
def test_a_forward_facing_capture_is_learned(space, tmp_path):
    config = radiance_config(write_forward_facing(tmp_path / "data"), steps=400)
    config.data.background = "black"
    for key, value in SPACES[space].items():
        setattr(config.field, key, value)
    report = train(config, tmp_path / "run")
    assert report["psnr"] > 22.0
    field, _ = load_field(tmp_path / "run")
    rays_o = torch.zeros(2, 3)
    rays_d = torch.nn.functional.normalize(torch.tensor([[0.0, 0, -1], [0.3, 0.2, -1]]), dim=1)
    pixels = field.render(rays_o, rays_d)
    # Depths are the world's: the disc in the middle, the wall beside it.
    depths = pixels.depths / pixels.opacities
    assert float(depths[0]) == pytest.approx(NEAR_PLANE, rel=0.25)
    assert float(depths[1]) == pytest.approx(FAR_PLANE * math.sqrt(1.13), rel=0.25)
    # So is the mesh: there is much of it about the disc, in its colour.
    export_mesh(tmp_path / "run", tmp_path / "mesh.ply", resolution=48)
    mesh = trimesh.load(tmp_path / "mesh.ply")
    on_disc = (np.linalg.norm(mesh.vertices[:, :2], axis=1) < 0.3) & (np.abs(mesh.vertices[:, 2] + NEAR_PLANE) < 0.5)
    assert on_disc.sum() > 20
    red, green = (np.median(mesh.visual.vertex_colors[on_disc, c]) for c in (0, 1))
    assert red > 1.5 * green


def test_ndc_needs_to_know_how_near_the_scene_is(tmp_path):
    config = radiance_config(write_forward_facing(tmp_path / "data", n=3))
    config.field.space = "ndc"
    scene = load_scene(config)
    assert float(make_field(config, scene).frame[14]) == pytest.approx(0.75 * 1.8)
    config.data.near = 0.5
    assert float(make_field(config, scene).frame[14]) == 0.5
    config.data.near = None
    with pytest.raises(SinefieldError, match=r"data\.near"):
        make_field(config, dataclasses.replace(scene, bounds=None))


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"space": "ndc", "cone_angle": 0.01}, "ndc"),
        ({"space": "contracted"}, "grid_levels"),
        ({"grid_levels": 2, "grid": 22}, "multiple of 4"),
        ({"cone_angle": 0.5}, "cone_angle"),
        ({"space": "sphere"}, "space"),
    ],
)
def test_settings_that_do_not_go_together(settings, said):
    from sinefield.config import make_config

    with pytest.raises(SinefieldError, match=said):
        make_config({"kind": "radiance", "field": settings, "data": {"path": "-"}}, "scene.yaml")
