"""Cameras against closed forms, a written-out lens model, and round trips."""

import math

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from sinefield.cameras.cameras import Cameras, look_at, orbit
from sinefield.cameras.lenses import distort, undistort
from sinefield.errors import SinefieldError

FOX = (0.0578421, -0.0805099, -0.000980296, 0.00015575)


def make(n=3, distortion=(0.0, 0.0, 0.0, 0.0), width=108, height=192) -> Cameras:
    pose = orbit(n, (0.1, -0.2, 0.3), 4.0, 25.0)
    focal = torch.tensor([[137.5, 137.4]]) + torch.arange(n)[:, None]
    centre = torch.tensor([[55.4, 96.5]]).expand(n, 2)
    return Cameras(pose, focal, centre, torch.tensor([distortion]).expand(n, 4), width, height)


def test_axis_ray_is_the_closed_form():
    identity = torch.eye(4)[None, :3]
    camera = Cameras(identity, torch.tensor([[2.0, 4.0]]), torch.tensor([[3.0, 5.0]]), torch.zeros(1, 4), 6, 10)
    pixels = torch.tensor([[3.0, 5.0], [5.0, 5.0], [3.0, 9.0]])
    rays_o, rays_d = camera.rays(torch.zeros(3, dtype=torch.long), pixels)
    half = math.sqrt(0.5)  # one focal length right, then one down, each 45 degrees
    assert torch.equal(rays_o, torch.zeros(3, 3))
    assert torch.allclose(rays_d, torch.tensor([[0, 0, -1.0], [half, 0, -half], [0, -half, -half]]))


def test_view_is_row_major_with_centres_at_half():
    camera = make(2, FOX, width=5, height=4)
    rays_o, rays_d = camera.view(1)
    pixels = torch.tensor([[x + 0.5, y + 0.5] for y in range(4) for x in range(5)])
    expected_o, expected_d = camera.rays(torch.ones(20, dtype=torch.long), pixels)
    assert torch.equal(rays_o, expected_o) and torch.equal(rays_d, expected_d)


def lens_by_the_book(x: float, y: float, k1: float, k2: float, p1: float, p2: float) -> tuple[float, float]:
    """OpenCV's documentation, term by term."""
    r = math.hypot(x, y)
    radial = 1 + k1 * r**2 + k2 * r**4
    return (
        x * radial + 2 * p1 * x * y + p2 * (r**2 + 2 * x**2),
        y * radial + p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y,
    )


def test_project_by_the_book():
    cameras, point = make(3, FOX), torch.tensor([[0.4, 0.3, -0.5]])
    for index in range(3):
        pose = np.vstack([cameras.c2w[index].double().numpy(), [0, 0, 0, 1]])
        x, y, z, _ = np.linalg.inv(pose) @ [0.4, 0.3, -0.5, 1]
        u, v = lens_by_the_book(x / -z, -y / -z, *FOX)
        pixels, depth = cameras.project(index, point)
        expected = np.array([u, v]) * cameras.focal[index].numpy() + cameras.centre[index].numpy()
        assert np.allclose(pixels[0], expected, atol=1e-3)
        assert math.isclose(depth.item(), -z, rel_tol=1e-5)


@pytest.mark.parametrize("distortion", [(0.0, 0.0, 0.0, 0.0), FOX, (-0.25, 0.06, 0.003, -0.002), (0.2, 0.1, 0.0, 0.01)])
def test_points_on_a_ray_project_to_its_pixel(distortion):
    cameras = make(3, distortion)
    pixels = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([108.0, 192.0])
    for index in range(3):
        rays_o, rays_d = cameras.rays(torch.full((500,), index), pixels)
        assert torch.allclose(rays_d.norm(dim=-1), torch.ones(500), atol=1e-6)
        # What is learned about a pose goes through plain torch: to the same rays.
        _, learned = cameras.rays(torch.full((500,), index), pixels.clone().requires_grad_())
        assert learned.requires_grad and torch.allclose(rays_d, learned, atol=3e-7)
        for t in (0.5, 7.0):
            projected, depth = cameras.project(index, rays_o + t * rays_d)
            assert (depth > 0).all()
            assert (projected - pixels).abs().max() < 2e-3
        assert (cameras.project(index, rays_o - rays_d)[1] < 0).all()


def test_undistortion_matches_brute_force():
    distortion = torch.tensor([-0.2, 0.03, 0.002, -0.001])
    points = torch.tensor([[0.5, 0.3], [-0.6, 0.1], [0.0, 0.0], [0.2, -0.7]])
    axis = torch.linspace(-1, 1, 2001)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    bent = distort(grid, distortion)
    for point, found in zip(points, undistort(points, distortion[None])[0], strict=True):
        nearest = grid[(bent - point).square().sum(-1).argmin()]
        assert (nearest - found).abs().max() <= 1.01e-3  # a grid cell


def test_pixels_without_an_ideal_point_keep_a_finite_ray():
    beyond, inside = undistort(torch.tensor([[3.0, 3.0], [0.0, 50.0]]), torch.tensor([[-0.5, 0.0, 0.0, 0.0]]))
    assert torch.equal(beyond.float(), torch.tensor([[3.0, 3.0], [0.0, 50.0]])) and not inside.any()


def test_indexing():
    cameras = make(4, FOX)
    assert len(cameras) == 4 and len(cameras[1:3]) == 2 and len(cameras[-1]) == 1
    assert torch.equal(cameras[-1].c2w[0], cameras.c2w[3])
    assert torch.equal(cameras[torch.tensor([2, 0])].focal, cameras.focal[[2, 0]])
    assert len(list(cameras)) == 4
    with pytest.raises(IndexError):
        cameras[4]
    assert cameras.to("cpu").width == 108


def test_downscaled_keeps_directions():
    full = make(1, FOX, width=109, height=195)
    small = full.downscaled(4)
    assert (small.width, small.height) == (27, 48)
    index = torch.zeros(1, dtype=torch.long)
    # The corner shared by four blocks is the same point of the scene at either size.
    expected = full.rays(index, torch.tensor([[40.0, 80.0]]))[1]
    assert torch.allclose(small.rays(index, torch.tensor([[10.0, 20.0]]))[1], expected, atol=1e-6)


@pytest.mark.parametrize("factor", [0, -1, 2.5, 109])
def test_downscaled_refuses(factor):
    with pytest.raises((SinefieldError, TypeCheckError), match="downscale"):
        make(1).downscaled(factor)


def test_look_at_sees_the_target_in_the_middle_and_up_upwards():
    pose = look_at((1.0, 2.0, 3.0), (0.0, -1.0, 0.5))
    rotation = pose[:, :3].double()
    assert torch.allclose(rotation.T @ rotation, torch.eye(3, dtype=torch.float64), atol=1e-6)
    assert torch.linalg.det(rotation) > 0
    camera = Cameras(pose[None], torch.ones(1, 2), torch.zeros(1, 2), torch.zeros(1, 4), 1, 1)
    pixels, depth = camera.project(0, torch.tensor([[0.0, -1.0, 0.5], [0.0, -1.0, 1.0]]))
    assert pixels[0].abs().max() < 1e-5 and math.isclose(depth[0], math.sqrt(16.25), rel_tol=1e-5)
    assert pixels[1, 0].abs() < 1e-5 and pixels[1, 1] < 0  # image y points down


@pytest.mark.parametrize("up", [(0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.3, -2.0, 0.5)])
def test_orbit_closed_form(up):
    centre, up = torch.tensor([1.0, 2.0, 3.0]), torch.tensor(up)
    poses = orbit(8, centre, 4.031, 30.0, up)
    offsets = poses[:, :, 3] - centre
    assert torch.allclose(offsets.norm(dim=-1), torch.full((8,), 4.031))
    assert torch.allclose(offsets @ (up / up.norm()), torch.full((8,), 4.031 / 2), atol=1e-5)
    assert torch.allclose(offsets / 4.031, poses[:, :, 2], atol=1e-6)  # looking along -z, at the centre
    step = (offsets.roll(-1, 0) - offsets).norm(dim=-1)
    assert torch.allclose(step, step[0].expand(8), atol=1e-5)
    turn = torch.linalg.cross(offsets, offsets.roll(-1, 0)) @ up
    assert (turn > 0).all()


def test_orbit_starts_on_the_x_axis_and_spirals():
    poses = orbit(3, radius=2.0, elevation_degrees=[0.0, 30.0, 60.0])
    assert torch.allclose(poses[0, :, 3], torch.tensor([2.0, 0.0, 0.0]))
    assert torch.allclose(poses[:, 2, 3], torch.tensor([0.0, 1.0, math.sqrt(3)]), atol=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda: look_at((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
        lambda: look_at((0.0, 0.0, 2.0), (0.0, 0.0, 0.0)),
        lambda: look_at((0.0, float("nan"), 2.0), (0.0, 0.0, 0.0)),
        lambda: orbit(0),
        lambda: orbit(4, radius=0.0),
        lambda: orbit(4, elevation_degrees=90.0),
    ],
)
def test_degenerate_poses_are_refused(call):
    with pytest.raises(SinefieldError):
        call()
