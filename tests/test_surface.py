"""Rays against surfaces known in closed form, and against an independent ray caster's."""

import numpy as np
import pytest
import torch
import trimesh

from sinefield.cameras.cameras import Cameras, look_at
from sinefield.errors import SinefieldError
from sinefield.meshing.extract import extract
from sinefield.render.surface import CastSurface

CENTRE, RADIUS = torch.tensor([0.2, -0.1, 0.25], dtype=torch.float64), 0.7
BOX = np.array([-1.0, -1, -1, 1, 1, 1])


def ball(points):
    return (points - CENTRE).norm(dim=1) - RADIUS


def narrow(points):
    """As trained fields are: right within a band, and beyond it only the side and a bound."""
    return 0.05 * torch.tanh(ball(points) / 0.05)


def occupancy(points):
    return torch.sigmoid(-ball(points) / 0.02)


def torus(points):
    ring = torch.stack([points[:, :2].norm(dim=1) - 0.6, points[:, 2]], 1)
    return ring.norm(dim=1) - 0.2


def rays(n, seed=0, aim=0.9):
    """Rays from a sphere of radius 3 to points inside a box."""
    generator = torch.Generator().manual_seed(seed)
    o = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator, dtype=torch.float64), dim=1) * 3
    target = (torch.rand(n, 3, generator=generator, dtype=torch.float64) * 2 - 1) * aim
    return o, torch.nn.functional.normalize(target - o, dim=1)


def sphere_truth(o, d):
    """Distance to the ball along each ray, and how near each ray's line passes its centre."""
    along = ((CENTRE - o) * d).sum(1)
    near = (o + along[:, None] * d - CENTRE).norm(dim=1)
    return along - (RADIUS**2 - near**2).clamp(min=0).sqrt(), near


SURFACES = {
    "distance": (ball, {"slope": 1.0}),
    "distance of a narrow band": (narrow, {"slope": 1.5}),
    "occupancy": (occupancy, {"level": 0.5, "inside": "above"}),
}


@pytest.mark.parametrize("name", SURFACES)
@pytest.mark.parametrize("resolution", [24, 64])
def test_a_ball_is_met_where_it_is(name, resolution):
    function, options = SURFACES[name]
    surface = CastSurface(function, BOX, resolution=resolution, **options)
    o, d = rays(4000)
    t, hit = surface.cast(o, d)
    truth, near = sphere_truth(o, d)
    # A ray that cuts off less than a step can be stepped over: that is at most this deep.
    depth = RADIUS - (RADIUS**2 - (surface.cell / 2) ** 2) ** 0.5
    assert not hit[near > RADIUS + 1e-6].any() and hit[near < RADIUS - depth].all()
    assert 0.2 < hit.double().mean() < 0.8
    steep = hit & (near < 0.9 * RADIUS)
    assert (t - truth)[steep].abs().max() < 5e-3 * surface.cell
    assert torch.isinf(t[~hit]).all()
    points = o[hit] + t[hit, None] * d[hit]
    outward = (points - CENTRE) / RADIUS
    cosine = (surface.normals(points) * outward).sum(1)
    assert cosine.min() > 1 - 0.5 * (surface.cell / 4 / RADIUS) ** 2


def test_rays_from_inside_and_past_the_box():
    surface = CastSurface(ball, BOX, slope=1.0, resolution=32)
    o = torch.stack([CENTRE, CENTRE + torch.tensor([0, 0, 5.0]), torch.tensor([3.0, 3, 3]), CENTRE + 2])
    d = torch.tensor([[1.0, 0, 0], [0, 0, 1], [1, 0, 0], [-(3**-0.5)] * 3], dtype=torch.float64)
    t, hit = surface.cast(o, d)
    assert hit.tolist() == [True, False, False, True]
    assert t[0] == 0 and abs(t[3] - (2 * 3**0.5 - RADIUS)) < 1e-4
    empty = surface.cast(o[:0], d[:0])
    assert len(empty.t) == len(empty.mask) == 0


def test_what_leaves_the_box_is_cut_off_there():
    surface = CastSurface(lambda p: p[:, 2], BOX, slope=1.0, resolution=32)  # the lower half space
    thick = CastSurface(lambda p: torch.sigmoid(-p[:, 2] / 0.1), BOX, 0.5, "above", resolution=32)
    assert thick.cast(torch.tensor([[0.1, 0.2, -3.0]]), torch.tensor([[0.0, 0, 1]])).t.tolist() == pytest.approx([2])
    t, hit = surface.cast(torch.tensor([[0.1, 0.2, -3.0], [0.1, 0.2, 3.0]]), torch.tensor([[0.0, 0, 1], [0, 0, -1]]))
    assert hit.all() and abs(t[0] - 2) < 1e-6 and abs(t[1] - 3) < 1e-6


def test_a_torus_against_the_ray_caster_of_its_mesh():
    box = np.array([-0.9, -0.9, -0.3, 0.9, 0.9, 0.3])
    surface = CastSurface(torus, box, slope=1.0, resolution=72)
    assert surface.shape[2] < surface.shape[0] and surface.shape[0] == surface.shape[1]
    vertices, faces, _ = extract(torus, box, 128, 0.0, "below")
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    pose = look_at(torch.tensor([2.0, 0.4, 1.3]), torch.zeros(3))
    one = torch.ones(1, 2)
    o, d = Cameras(pose[None], 80 * one, 32 * one, torch.zeros(1, 4), 64, 64).view(0)
    t, hit = surface.cast(o, d)
    met, ray, _ = mesh.ray.intersects_location(o.numpy(), d.numpy(), multiple_hits=False)
    truth = np.full(len(o), np.inf)
    truth[ray] = np.linalg.norm(met - o.numpy()[ray], axis=1)
    both = np.isfinite(truth) & hit.numpy()
    assert (np.isfinite(truth) != hit.numpy()).mean() < 5e-3 and both.mean() > 0.1
    off = np.abs(truth[both] - t.numpy()[both])
    assert np.median(off) < 1e-3 and (off < 0.02).mean() > 0.985  # the rest pass an outline on either side
    points = o.double()[hit] + t[hit, None] * d.double()[hit]
    assert torus(points).abs().max() < 2e-3 * surface.cell


def test_the_grid_is_a_distance_that_shades():
    surface = CastSurface(narrow, BOX, slope=1.5, resolution=64)
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(2000, 3, generator=generator) * 1.9 - 0.95
    assert (surface.distance(points).double() - ball(points.double())).abs().max() < 1.5 * surface.cell
    up = torch.tensor([0.0, 0, 1])
    poles = CENTRE.float() + RADIUS * torch.stack([up, -up]) * 1.05
    lit = surface.shadow(poles, up)
    assert lit[0] > 0.99 and lit[1] < 0.01
    # A ball leaves the sky at every point of it more open than a plane would; the foot of a wall, less.
    assert surface.openness(CENTRE.float() + RADIUS * up[None], up[None])[0] > 0.9
    corner = CastSurface(lambda p: torch.minimum(p[:, 0], p[:, 2]), BOX, slope=1.0, resolution=64)
    seen = corner.openness(torch.tensor([[0.02, 0.0, 0.0], [0.6, 0.0, 0.0]]), up.expand(2, 3))
    assert seen[0] < 0.5 < 0.9 < seen[1]


def test_no_surface_and_no_number_are_one_line():
    with pytest.raises(SinefieldError, match=r"no surface.*train longer"):
        CastSurface(lambda p: ball(p) + 10, BOX, slope=1.0, resolution=16)
    with pytest.raises(SinefieldError, match="no surface"):
        CastSurface(lambda p: occupancy(p) * 0.3, BOX, 0.5, "above", resolution=16)
    with pytest.raises(SinefieldError, match="NaN"):
        CastSurface(lambda p: ball(p) * torch.nan, BOX, slope=1.0, resolution=16)
