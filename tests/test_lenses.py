"""Lenses against pycolmap's own camera models, and against closed forms where pycolmap has none."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sinefield.cameras import pixel_rays
from sinefield.cameras.cameras import Cameras, joined, look_at
from sinefield.cameras.lenses import (
    COLUMNS,
    EQUIRECTANGULAR,
    FISHEYE,
    FOV,
    PERSPECTIVE,
    directions,
    distort,
    fold_radius,
    meet_plane,
    undistort,
)
from sinefield.cameras.pixel_rays import distinct_lenses

SIZE, FOCAL, CENTRE = (64, 48), (41.0, 43.0), (31.3, 24.9)
# Model, focal and distortion as pycolmap has them, and as `COLUMNS` has it.
LENSES = {
    "SIMPLE_RADIAL": (PERSPECTIVE, (-0.11,), {"k1": -0.11}),
    "RADIAL": (PERSPECTIVE, (-0.21, 0.06), {"k1": -0.21, "k2": 0.06}),
    "OPENCV": (PERSPECTIVE, (-0.2, 0.07, 3e-3, -2e-3), {"k1": -0.2, "k2": 0.07, "p1": 3e-3, "p2": -2e-3}),
    "FULL_OPENCV": (
        PERSPECTIVE,
        (0.4, -0.2, 1e-3, -2e-3, 0.05, 0.6, -0.15, 0.02),
        {"k1": 0.4, "k2": -0.2, "p1": 1e-3, "p2": -2e-3, "k3": 0.05, "d1": 0.6, "d2": -0.15, "d3": 0.02},
    ),
    "OPENCV_FISHEYE": (FISHEYE, (-0.03, 0.01, -4e-3, 5e-4), {"k1": -0.03, "k2": 0.01, "k3": -4e-3, "k4": 5e-4}),
    "SIMPLE_RADIAL_FISHEYE": (FISHEYE, (0.04,), {"k1": 0.04}),
    "RADIAL_FISHEYE": (FISHEYE, (-0.04, 6e-3), {"k1": -0.04, "k2": 6e-3}),
    "THIN_PRISM_FISHEYE": (
        FISHEYE,
        (-0.03, 0.01, 1e-3, -2e-3, -4e-3, 5e-4, 3e-3, -1e-3),
        {"k1": -0.03, "k2": 0.01, "p1": 1e-3, "p2": -2e-3, "k3": -4e-3, "k4": 5e-4, "s1": 3e-3, "s2": -1e-3},
    ),
    "FOV": (FOV, (0.9,), {"k1": 0.9}),
}
SINGLE = ("SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")


def row(**numbers: float) -> torch.Tensor:
    return torch.tensor([[numbers.get(name, 0.0) for name in COLUMNS]], dtype=torch.float64)


def pixels() -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(SIZE[1]) + 0.5, torch.arange(SIZE[0]) + 0.5, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2).double()


def placed(model: str) -> tuple[torch.Tensor, torch.Tensor]:
    focal = torch.tensor([FOCAL[0], FOCAL[0]] if model in SINGLE else FOCAL, dtype=torch.float64)
    return focal, torch.tensor(CENTRE, dtype=torch.float64)


@pytest.mark.parametrize("model", LENSES)
def test_pycolmap_projects_each_direction_back_to_its_pixel(model):
    pycolmap = pytest.importorskip("pycolmap")
    kind, params, numbers = LENSES[model]
    focal, centre = placed(model)
    theirs = [*(FOCAL[:1] if model in SINGLE else FOCAL), *CENTRE, *params]
    camera = pycolmap.Camera(model=model, width=SIZE[0], height=SIZE[1], params=theirs)
    asked, lens = pixels(), row(**numbers)
    local, seen = directions((asked - centre) / focal, lens, kind)
    assert seen.all()
    ahead = local[:, 2] < -1e-2  # pycolmap takes points before the camera only
    assert ahead.float().mean() > 0.9
    found = camera.img_from_cam((local[ahead] * torch.tensor([1.0, -1, -1])).numpy())
    assert np.abs(found - asked[ahead].numpy()).max() < 1e-9
    ours = meet_plane(local, lens, kind) * focal + centre
    assert (ours - asked).abs().max() < 1e-9


def test_equirectangular_is_longitude_and_latitude():
    pycolmap = pytest.importorskip("pycolmap")
    asked = torch.rand(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor([64, 32])
    plane = (asked - torch.tensor([32, 16])) / (32 / math.pi)
    local, seen = directions(plane, row(), EQUIRECTANGULAR)
    camera = pycolmap.Camera(model="EQUIRECTANGULAR", width=64, height=32, params=[64, 32])
    theirs = np.stack([camera.cam_ray_from_img(one) for one in asked.numpy()])
    assert seen.all() and np.abs(theirs * [1, -1, -1] - local.numpy()).max() < 1e-12
    assert torch.allclose(meet_plane(local, row(), EQUIRECTANGULAR), plane, atol=1e-12)
    middle = directions(torch.zeros(1, 2), row(), EQUIRECTANGULAR)[0]
    assert torch.allclose(middle, torch.tensor([[0.0, 0, -1]], dtype=torch.float64))


def test_a_fisheye_sees_behind_itself():
    angle = torch.tensor([0.0, 1.0, 2.0, 3.1], dtype=torch.float64)
    plane = torch.stack([angle, torch.zeros(4, dtype=torch.float64)], 1)
    local, seen = directions(plane, row(), FISHEYE)
    assert seen.all() and torch.allclose(local[:, 0], angle.sin()) and torch.allclose(local[:, 2], -angle.cos())
    assert not directions(torch.tensor([[3.2, 0.0]]), row(), FISHEYE)[1].any()


@pytest.mark.parametrize(
    ("numbers", "fold"),
    [
        ({"k1": -0.3}, math.sqrt(1 / 0.9)),  # d(r - 0.3 r³)/dr = 0
        ({"k1": 0.2}, math.inf),
        ({"k2": -0.05}, (1 / 0.25) ** 0.25),
        ({"d1": -0.25}, 2.0),  # a pole
        ({"k1": 0.1, "d1": 0.1}, math.inf),  # cancels
    ],
)
def test_fold_by_hand(numbers, fold):
    assert float(fold_radius(row(**numbers))) == pytest.approx(fold, rel=1e-9)


def test_beyond_the_fold_there_is_nothing():
    lens = row(k1=-0.3)
    fold = float(fold_radius(lens))
    edge = fold * (1 - 0.3 * fold**2)
    plane = torch.tensor([[edge * 0.999, 0.0], [0.0, edge * 1.001], [3.0, 3.0]], dtype=torch.float64)
    found, inside = undistort(plane, lens)
    assert inside.tolist() == [True, False, False]
    assert float(found[0, 0]) < fold and torch.equal(found[1:], plane[1:])
    # A point beyond the fold lands inside the picture by the polynomial alone: at half a unit here.
    folded = torch.tensor([[1.5, 0.0, -1.0]], dtype=torch.float64)
    assert 0 < float(distort(folded[:, :2], lens)[0, 0]) < 0.6
    assert float(meet_plane(folded, lens).max()) < -1e5


def test_the_inverse_has_its_own_derivative():
    lens = row(k1=-0.2, k2=0.04, p1=2e-3, k3=-0.01, d2=0.02, s1=1e-3)
    plane = torch.tensor([[0.3, -0.2], [-0.5, 0.4]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: undistort(x, lens)[0], plane, atol=1e-7)


def test_cameras_of_several_lenses_and_sizes():
    kinds = torch.tensor([PERSPECTIVE, FISHEYE, EQUIRECTANGULAR, FOV])
    lens = torch.cat([row(k1=-0.1), row(k1=0.02, k2=-0.003), row(), row(k1=0.8)]).float()
    sizes = torch.tensor([[40, 30], [30, 40], [40, 20], [40, 30]])
    focal = torch.tensor([[30.0, 31], [20, 20], [40 / (2 * math.pi)] * 2, [28, 29]])
    poses = torch.eye(3, 4).repeat(4, 1, 1)
    cameras = Cameras(poses, focal, sizes / 2, lens, 40, 30, kinds, sizes)
    assert cameras.size(1) == (30, 40) and cameras[1].size(0) == (30, 40) and cameras[1].sizes is None
    for index in range(4):
        d = cameras.view(index)[1]
        width, height = cameras.size(index)
        assert len(d) == width * height and torch.allclose(d.norm(dim=1), torch.ones(len(d)))
        pixels, _ = cameras.project(index, 3 * d)
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        assert (pixels - torch.stack([x, y], -1).reshape(-1, 2)).abs().max() < 2e-4
    some = torch.arange(4).repeat(5)
    spots = torch.rand(20, 2, generator=torch.Generator().manual_seed(0)) * 20
    _, together = cameras.rays(some, spots)
    one = torch.zeros(1, dtype=torch.long)
    apart = torch.cat([cameras[int(i)].rays(one, p[None])[1] for i, p in zip(some, spots, strict=True)])
    assert torch.allclose(together, apart, atol=1e-6)
    small = cameras.downscaled(2)
    assert small.sizes.tolist() == [[20, 15], [15, 20], [20, 10], [20, 15]]


def test_pixel_rays_are_those_of_the_whole_images(monkeypatch):
    sizes = torch.tensor([[7, 5], [4, 6], [7, 5]])
    lens = torch.cat([row(k1=-0.1, k3=0.02), row(k1=0.02), row(k1=-0.1, k3=0.02)]).float()
    poses = look_at(torch.eye(3) * 3 + 0.1, (0.0, 0.0, 0.0))
    alike = torch.full((3, 2), 6.0)
    bent = Cameras(poses, alike, sizes / 2, lens, 7, 5, torch.tensor([PERSPECTIVE, FISHEYE, PERSPECTIVE]), sizes)
    assert distinct_lenses(bent)[0].tolist() in ([0, 1, 0], [1, 0, 1])
    plain = Cameras(poses, alike, sizes / 2, torch.zeros(3, 4), 7, 5, sizes=sizes)
    even = Cameras(poses, alike, sizes[:1].expand(3, 2) / 2, torch.zeros(3, 4), 7, 5)
    for cameras in (bent, plain, even):
        every = torch.arange(int(cameras.every_size.prod(1).sum()))
        o, d = (torch.cat(x) for x in zip(*(cameras.view(i) for i in range(3)), strict=True))
        for most in (1 << 25, 0):  # with a table of directions, and without
            monkeypatch.setattr(pixel_rays, "MOST", most)
            view, ours_o, ours_d = pixel_rays.PixelRays(cameras)(every)
            assert torch.equal(view, torch.arange(3).repeat_interleave(cameras.every_size.prod(1)))
            assert torch.equal(o, ours_o) and torch.allclose(d, ours_d, atol=1e-6)


def test_joined_cameras_keep_their_lenses():
    poses = look_at(torch.eye(3) * 3 + 0.1, (0.0, 0.0, 0.0))
    plain = Cameras(poses, torch.full((3, 2), 6.0), torch.full((3, 2), 3.0), torch.zeros(3, 4), 7, 5)
    wide = Cameras(poses, torch.full((3, 2), 2.0), torch.full((3, 2), 3.0), row(k1=0.1).expand(3, 11).float(), 6, 6)
    both = joined([plain, replace(wide, projection=torch.ones(3, dtype=torch.long))])
    assert [both.size(i) for i in (0, 3)] == [(7, 5), (6, 6)] and both.projection.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.allclose(both.view(4)[1], replace(wide, projection=torch.ones(3, dtype=torch.long)).view(1)[1])
    assert torch.allclose(both.relative_focal[:, 0], torch.tensor([6 / 7] * 3 + [0.5] * 3, dtype=torch.float64))
