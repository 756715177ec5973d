"""Marching against its definition and brute force; compositing against closed forms and float64 autograd."""

import math

import numpy as np
import pytest
import torch

from sinefield.cameras.cameras import Cameras, orbit
from sinefield.cameras.orbits import Orbit
from sinefield.config import RadianceFieldConfig
from sinefield.errors import SinefieldError
from sinefield.fields.radiance.field import FAINT, RadianceField
from sinefield.kernels import choose
from sinefield.kernels.cpu import network as tiled
from sinefield.kernels.cuda import nerfacc
from sinefield.render.march import Grid, March, Samples, first_meeting, march, march_reference
from sinefield.render.occupancy import OccupancyGrid, marcher, visual_hull
from sinefield.render.ray_error import fused_error
from sinefield.render.volume import composite, composite_reference, render_weights
from sinefield.store.fields import load_field

BOX = torch.tensor([-1.0, -1.2, -0.8, 1.0, 1.0, 1.0])


def rays(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    o = torch.randn(n, 3, generator=g)
    o = o / o.norm(dim=1, keepdim=True) * torch.rand(n, 1, generator=g) * 4
    d = torch.rand(n, 3, generator=g) * 2 - 1 - o
    d = d / d.norm(dim=1, keepdim=True)
    # Axis-parallel rays, through the box and past it, and one that looks away.
    o[:4] = torch.tensor([[0, 0, -3.0], [5, 0, -3], [0, 0, -3], [-1, -1.2, -3]])
    d[:4] = torch.tensor([[0, 0, 1.0], [0, 0, 1], [0, 0, -1], [0, 0, 1]])
    return o, d


@pytest.mark.parametrize("fill", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("with_solid", [False, True])
@pytest.mark.parametrize("cap", [2**31, 700, 5])
@pytest.mark.parametrize("corner", [False, True])
def test_compiled_marcher_is_the_reference(fill, with_solid, cap, corner, monkeypatch):
    g = torch.Generator().manual_seed(1)
    o, d = rays(600)
    cells = torch.rand(13, 17, 11, generator=g) < fill
    if corner:  # what is occupied fills one corner of the box; and rays go in batches
        cells[5:] = cells[:, :9] = cells[..., 3:] = False
        monkeypatch.setattr("sinefield.kernels.cpu.march.SCRATCH", 5000)
    solid = cells & (torch.rand(13, 17, 11, generator=g) < 0.2) if with_solid else None
    jitter = torch.rand(600, generator=g)
    grid, settings = Grid(BOX, cells, solid), March(0.021, near_plane=0.3, far_plane=4.0, max_samples=cap)
    ours, truth = (f(o, d, grid, settings, jitter) for f in (march, march_reference))
    for a, b in zip(ours, truth, strict=True):
        assert torch.equal(a, b)
    assert len(ours.t_starts) <= cap


def test_samples_are_all_and_only_those_in_occupied_cells():
    """Brute force in float64, one ray and one lattice position at a time."""
    o, d = rays(60, seed=3)
    cells = torch.rand(6, 5, 7, generator=torch.Generator().manual_seed(2)) < 0.4
    found = march(o, d, Grid(BOX, cells), March(0.05))
    low, high = BOX[:3].double().numpy(), BOX[3:].double().numpy()
    near_face = 0
    for r in range(60):
        a, b = o[r].double().numpy(), d[r].double().numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            t0, t1 = (low - a) / b, (high - a) / b
        slabs = b != 0
        t_min = max(np.minimum(t0, t1)[slabs].max(), 0.0)
        t_max = np.maximum(t0, t1)[slabs].min()
        if ((b == 0) & ((a < low) | (a > high))).any():
            t_max = -1.0
        expected = []
        for k in range(200):
            middle = t_min + (k + 0.5) * 0.05
            if middle >= t_max:
                break
            position = (a + middle * b - low) / (high - low) * np.array(cells.shape)
            near_face += int((np.abs(position - position.round()) < 1e-4).any())
            cell = np.clip(position.astype(int), 0, np.array(cells.shape) - 1)
            if cells[tuple(cell)]:
                expected.append(t_min + k * 0.05)
        mine = found.t_starts[found.ray_indices == r].numpy()
        # A midpoint on a cell's face may round to either side.
        assert abs(len(mine) - len(expected)) <= near_face
        if len(mine) == len(expected):
            assert np.allclose(mine, expected, atol=1e-5)


def test_samples_stay_in_the_box_and_in_order():
    o, d = rays(300)
    s = march(o, d, Grid(BOX, torch.ones(4, 4, 4, dtype=torch.bool)), March(0.03), torch.rand(300))
    x = s.points(o, d)
    assert ((x >= BOX[:3] - 1e-5) & (x <= BOX[3:] + 1e-5)).all()
    same = s.ray_indices[1:] == s.ray_indices[:-1]
    assert (s.t_starts[1:][same] >= s.t_ends[:-1][same] - 1e-5).all()
    assert torch.equal(s.packed_info[:, 1], torch.bincount(s.ray_indices, minlength=300))


def test_no_rays_and_rays_that_miss():
    cells = torch.ones(2, 2, 2, dtype=torch.bool)
    none = march(torch.zeros(0, 3), torch.zeros(0, 3), Grid(BOX, cells), March(0.1))
    assert none.n_rays == 0 and len(none.t_starts) == 0 and list(none.split(10)) == []
    miss = march(torch.tensor([[9.0, 9, 9]]), torch.tensor([[0.0, 0, 1]]), Grid(BOX, cells), March(0.1))
    assert miss.n_rays == 1 and len(miss.t_starts) == 0


def test_split_loses_nothing():
    o, d = rays(500)
    s = march(o, d, Grid(BOX, torch.rand(9, 9, 9) < 0.3), March(0.02))
    for chunk in (1, 64, 1000, 10**9):
        rays_seen, samples_seen = 0, 0
        for first, part in s.split(chunk):
            assert first == rays_seen
            n = len(part.t_starts)
            assert torch.equal(part.ray_indices + first, s.ray_indices[samples_seen : samples_seen + n])
            assert torch.equal(part.packed_info[:, 1], s.packed_info[first : first + part.n_rays, 1])
            rays_seen, samples_seen = rays_seen + part.n_rays, samples_seen + n
        assert (rays_seen, samples_seen) == (500, len(s.t_starts))


def one_ray(n, step=1e-3):
    t = torch.arange(n, dtype=torch.float64) * step
    t = t.float()
    return Samples(torch.zeros(n, dtype=torch.int64), t, t + step, torch.tensor([[0, n]]))


@pytest.mark.parametrize("function", [composite, composite_reference])
def test_constant_density_has_a_closed_form(function):
    """Opacity 1 − exp(−σL), mean colour constant, however finely it is cut."""
    n, sigma = 4000, 1.7
    pixel = function(torch.full((n,), sigma), torch.full((n, 3), 0.25), one_ray(n))
    opacity = 1 - math.exp(-sigma * n * 1e-3)
    assert float(pixel.opacities[0]) == pytest.approx(opacity, abs=2e-5)
    assert pixel.colours[0].tolist() == pytest.approx([0.25 * opacity] * 3, abs=2e-5)
    assert pixel.over(torch.ones(3))[0].tolist() == pytest.approx([0.25 * opacity + 1 - opacity] * 3, abs=2e-5)


@pytest.mark.parametrize("function", [composite, composite_reference])
def test_a_million_samples_lose_nothing(function):
    """A ray behind a million dense samples of others must come out as if alone."""
    n = 1_000_000
    g = torch.Generator().manual_seed(0)
    t = torch.cat([torch.arange(n) * 1e-3, torch.arange(8) * 0.1]).float()
    samples = Samples(
        torch.cat([torch.zeros(n, dtype=torch.int64), torch.ones(8, dtype=torch.int64)]),
        t,
        t + torch.cat([torch.full((n,), 1e-3), torch.full((8,), 0.1)]),
        torch.tensor([[0, n], [n, 8]]),
    )
    sigmas = torch.cat([torch.rand(n, generator=g) * 5000, torch.rand(8, generator=g)])
    colours = torch.rand(n + 8, 3, generator=g)
    pixel = function(sigmas, colours, samples)
    trans, expected = 1.0, torch.zeros(3, dtype=torch.float64)
    for i in range(n, n + 8):
        left = trans * math.exp(-float(sigmas[i].double() * (samples.t_ends[i] - samples.t_starts[i]).double()))
        expected += (trans - left) * colours[i].double()
        trans = left
    assert pixel.colours[1].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert float(pixel.opacities[1]) == pytest.approx(1 - trans, abs=1e-6)


def test_gradients_against_float64_autograd():
    o, d = rays(200)
    samples = march(o, d, Grid(BOX, torch.rand(9, 9, 9) < 0.5), March(0.05))
    g = torch.Generator().manual_seed(0)
    sigmas = (torch.rand(len(samples.t_starts), generator=g) * 40).requires_grad_()
    colours = torch.rand(len(sigmas), 3, generator=g).requires_grad_()
    outer = [torch.randn(200, 3, generator=g), torch.randn(200, generator=g), torch.randn(200, generator=g)]
    ours = torch.autograd.grad(
        sum((p * w).sum() for p, w in zip(composite(sigmas, colours, samples), outer, strict=True)), [sigmas, colours]
    )
    s64, c64 = sigmas.detach().double().requires_grad_(), colours.detach().double().requires_grad_()
    total = torch.zeros(200, dtype=torch.float64)
    # The definition once more, ray by ray, with nothing shared with the code under test.
    for r in range(200):
        first, count = samples.packed_info[r].tolist()
        part = slice(first, first + count)
        a, b = samples.t_starts[part].double(), samples.t_ends[part].double()
        left = torch.exp(-torch.cumsum(s64[part] * (b - a), 0))
        w = torch.cat([torch.ones(1, dtype=torch.float64), left])[:-1] - left
        total[r] = (
            ((w[:, None] * c64[part]).sum(0) * outer[0][r]).sum()
            + w.sum() * outer[1][r]
            + (w * (a + b) / 2).sum() * outer[2][r]
        )
    truth = torch.autograd.grad(total.sum(), [s64, c64])
    for a, b in zip(ours, truth, strict=True):
        assert torch.allclose(a.double(), b, atol=1e-5, rtol=1e-4)


def test_weights_sum_to_opacity_and_survive_extremes():
    samples = one_ray(5, step=0.5)
    sigmas = torch.tensor([0.0, 1e-8, 3.0, 1e30, 2.0])
    weights, trans = render_weights(sigmas, *samples[1:])
    assert torch.isfinite(weights).all() and float(weights.sum()) == pytest.approx(1.0)
    assert float(trans[-1]) < 1e-300
    assert float(composite(sigmas, torch.ones(5, 3), samples).opacities[0]) == pytest.approx(1.0)


def test_empty_rays_give_zeros():
    samples = Samples(torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(0), torch.zeros(3, 2).long())
    for function in (composite, composite_reference):
        pixel = function(torch.zeros(0), torch.zeros(0, 3), samples)
        assert pixel.colours.shape == (3, 3) and float(pixel.opacities.sum()) == 0


def ball(x):
    return 200.0 * (x.norm(dim=1) < 0.6).float()


def test_grid_finds_a_ball(generator):
    grid = OccupancyGrid(torch.tensor([-1.0, -1, -1, 1, 1, 1]), 16)
    for i in range(30):
        grid.update(lambda x: ball(x) * 0.02, generator, everything=i < 10)
    centres = grid.centres()
    reach = 3**0.5 / 16
    occupied = grid.binaries.flatten()
    assert occupied[centres.norm(dim=1) < 0.6 - reach].all()
    assert not occupied[centres.norm(dim=1) > 0.6 + reach].any()
    assert torch.equal(grid.occupied(centres), occupied)
    assert not grid.occupied(torch.tensor([[1.5, 0, 0]])).any()
    solid = grid.solid.flatten()
    assert solid.any() and (centres[solid].norm(dim=1) < 0.6).all()


def test_rays_stop_in_solid_matter_without_changing_the_picture(generator):
    grid = OccupancyGrid(torch.tensor([-1.0, -1, -1, 1, 1, 1]), 16)
    for _ in range(10):
        grid.update(lambda x: ball(x) * 0.02, generator)
    o, d = rays(500)
    o = o + 2 * o / o.norm(dim=1, keepdim=True)
    stopped = grid.sampling(o, d, 0.02)
    grid.solid.zero_()
    through = grid.sampling(o, d, 0.02)
    assert len(stopped.t_starts) < 0.8 * len(through.t_starts)
    pictures = []
    for s in (stopped, through):
        x = s.points(o, d)
        pictures.append(composite(ball(x), x * 0.5 + 0.5, s).colours)
    assert torch.allclose(*pictures, atol=2e-4)


def test_decay_forgets_what_has_gone(generator):
    grid = OccupancyGrid(torch.tensor([-1.0, -1, -1, 1, 1, 1]), 8)
    grid.update(lambda x: torch.ones(len(x)), generator)
    assert grid.binaries.all()
    for _ in range(120):
        grid.update(lambda x: torch.zeros(len(x)), generator)
    assert not grid.binaries.any()
    assert len(grid.sampling(*rays(50), 0.02).t_starts) == 0


def test_visual_hull_of_a_sphere():
    """Silhouettes of a sphere, drawn in closed form: the hull holds the sphere and little else."""
    poses = orbit(24, radius=4.0, elevation_degrees=torch.linspace(-60, 60, 24), turns=3.0)
    n, size = len(poses), 80
    cameras = Cameras(
        poses.float(), torch.full((n, 2), 100.0), torch.full((n, 2), size / 2), torch.zeros(n, 4), size, size
    )
    masks = []
    for i in range(n):
        o, d = cameras.view(i)
        along = -(o * d).sum(1)
        masks.append(((o + along[:, None] * d).norm(dim=1) < 0.5).view(size, size))
    grid = OccupancyGrid(torch.tensor([-1.0, -1, -1, 1, 1, 1]), 32)
    centres = grid.centres()
    half_diagonal = 3**0.5 / 32
    hull = visual_hull(centres, cameras.project, torch.stack(masks), half_diagonal * cameras.focal.amax(1))
    radius = centres.norm(dim=1)
    assert hull[radius < 0.5 + half_diagonal / 2].all()
    # Besides the sphere and the ball around each cell: the pixel's own size, and what 24 views cannot carve.
    assert float(hull.float().mean()) < 4 / 3 * math.pi * 0.72**3 / 8
    grid.restrict(hull.view(32, 32, 32))
    assert torch.equal(grid.binaries, grid.allowed)


class Traversal:
    """nerfacc's estimator by its documented rule: from `t_min` on, every midpoint in an occupied cell of the box."""

    def sampling(self, rays_o, rays_d, near_plane, far_plane, t_min, render_step_size):
        low, high = self.aabbs[0, :3], self.aabbs[0, 3:]
        resolution = torch.tensor(self.binaries.shape[1:])
        rows = []
        for r in range(len(rays_o)):
            for k in range(400):
                t = max(float(t_min[r]), near_plane) + k * render_step_size
                middle = rays_o[r] + (t + render_step_size / 2) * rays_d[r]
                if (middle > low).all() and (middle < high).all() and t + render_step_size / 2 < far_plane:
                    x, y, z = ((middle - low) / (high - low) * resolution).long().tolist()
                    if self.binaries[0, x, y, z]:
                        rows.append((r, t))
        index = torch.tensor([r for r, _ in rows], dtype=torch.long)
        starts = torch.tensor([t for _, t in rows])
        return index, starts, starts + render_step_size


@pytest.mark.parametrize("cap", [2**31, 40, 3])
def test_nerfacc_behind_the_marchers_call(generator, monkeypatch, cap):
    monkeypatch.setattr(nerfacc, "_estimator", lambda *_: Traversal())
    o = torch.nn.functional.normalize(torch.randn(12, 3, generator=generator), dim=1) * 3
    d = torch.nn.functional.normalize(torch.rand(12, 3, generator=generator) - 0.5 - o, dim=1)
    o[3], d[3] = torch.tensor([5.0, 5, 5]), torch.tensor([0.0, 0, 1])  # misses the box
    box, jitter = torch.tensor([-1.0, -1, -1, 1, 1, 1]), torch.rand(12, generator=generator)
    cells = torch.rand(6, 6, 6, generator=generator) < 0.6
    solid = cells & (torch.rand(6, 6, 6, generator=generator) < 0.5)
    grid, settings = Grid(box, cells, solid), March(0.09, max_samples=cap)
    ours, truth = (f(o, d, grid, settings, jitter) for f in (nerfacc.march, march_reference))
    assert torch.equal(ours.packed_info, truth.packed_info) and torch.equal(ours.ray_indices, truth.ray_indices)
    torch.testing.assert_close(ours.t_starts, truth.t_starts, rtol=0, atol=1e-5)


def test_which_marcher(monkeypatch):
    from sinefield.kernels.cuda import rays as tritons

    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    missing = {}
    for module, name in ((nerfacc, "nerfacc"), (tritons, "triton")):
        monkeypatch.setattr(module, "why_not", lambda dtype, name=name: missing.get(name))

    def chosen(device, asked="auto", **absent):
        missing.clear()
        missing.update(absent)
        choose.forget()
        return marcher(device, asked).name

    assert chosen(cpu) == chosen(cpu, "numba") == "numba"
    assert chosen(cpu, "reference") == chosen(cuda, "reference") == "reference"
    assert chosen(cuda) == "nerfacc" and chosen(cuda, "triton") == "triton"
    assert chosen(cuda, nerfacc="it needs nvcc") == "triton"
    neither = {"nerfacc": "it needs nvcc", "triton": "not installed"}
    assert chosen(cuda, **neither) == "reference"
    for device, asked, why in (
        (cuda, "nerfacc", "it needs nvcc"),
        (cuda, "triton", "not installed"),
        (cuda, "numba", "numba is for the CPU"),
        (cpu, "triton", "triton is for CUDA"),
    ):
        with pytest.raises(SinefieldError, match=f"training.marcher is {asked}.*{why}.*use auto") as caught:
            chosen(device, asked, **neither)
        assert "\n" not in str(caught.value)
    choose.forget()


def test_a_grid_uses_the_marcher_it_was_given(monkeypatch):
    grid = OccupancyGrid(torch.tensor([-1.0, -1, -1, 1, 1, 1]), 8)
    expected = grid.sampling(*rays(50), 0.1)
    grid.marcher = "reference"
    monkeypatch.setattr("sinefield.kernels.cpu.march.walk_rays", None)
    assert torch.equal(grid.sampling(*rays(50), 0.1).t_starts, expected.t_starts)


def test_rays_that_meet_a_grid_are_those_with_samples(generator):
    box = torch.tensor([-1.0, -1, -1, 1, 1, 2])
    cells = torch.rand(7, 9, 8, generator=generator) < 0.03
    rays_o = torch.randn(500, 3, generator=generator)
    rays_o *= 4 / rays_o.norm(dim=1, keepdim=True)
    rays_d = torch.nn.functional.normalize(torch.randn(500, 3, generator=generator) - rays_o, dim=1)
    grid, settings = Grid(box, cells), March(0.02, near_plane=0.5)
    first = first_meeting(rays_o, rays_d, grid, settings)
    samples = march_reference(rays_o, rays_d, grid, settings)
    some = samples.packed_info[:, 1] > 0
    assert torch.equal(first.isfinite(), some) and 0 < int(some.sum()) < 500
    torch.testing.assert_close(first[some], samples.t_starts[samples.packed_info[some, 0]])
    # Nothing is missed by looking from there on only.
    clear = first.nan_to_num(posinf=1e9) - 0.02
    known = march(rays_o, rays_d, grid, settings, clear=clear)
    plain = march(rays_o, rays_d, grid, settings)
    assert all(torch.equal(a, b) for a, b in zip(known, plain, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changes", [{}, {"width": 48, "depth": 2, "features": 7}, {"encoding": "hash", "levels": 4}])
@pytest.mark.parametrize("space", ["box", "contracted"])
def test_fused_error_is_that_of_pixels_under_autograd(dtype, changes, space, monkeypatch, generator):
    """One kernel from samples to gradients against marching, networks and compositing as separate functions."""
    if tiled.why_not(dtype):
        pytest.skip("networks of this precision do not go by tiles here")
    torch.manual_seed(0)
    levels = 3 if space == "contracted" else 1
    config = RadianceFieldConfig(grid=8, space=space, grid_levels=levels, **changes)
    field = RadianceField(config, torch.tensor([-1.0, -1, -1, 1, 1, 1]))
    field.grid.binaries.copy_(torch.rand(8 * levels, 8, 8, generator=generator) < 0.4)
    field.set_dtype(dtype)
    rays_o, rays_d = rays(700)
    # Some rays have no samples, some more than go together.
    samples = field.sampling(rays_o, rays_d, 0.004, torch.rand(700, generator=generator), 40_000)
    n = samples.n_rays
    assert int(samples.packed_info[:, 1].min()) == 0 < 200 < int(samples.packed_info[:, 1].max())
    background, target = torch.rand(2, n, 3, generator=generator)
    found, calls = [], []
    monkeypatch.setattr(
        "sinefield.fields.radiance.field.fused_error", lambda *given: calls.append(1) or fused_error(*given)
    )
    for works in (True, False):
        if not works:
            monkeypatch.setattr("sinefield.fields.radiance.field.fits", lambda *given: False)
        field.zero_grad()
        of_rays = torch.full((n,), torch.nan)
        error = field.squared_error(rays_o[:n], rays_d[:n], samples, background, target, of_rays)
        (error / n).backward()
        found.append((error.detach(), of_rays, [p.grad for p in field.parameters()]))
    assert len(calls) == 1
    (fused, of_rays, ours), (plain, expected, theirs) = found
    torch.testing.assert_close(of_rays.sum(), fused, rtol=1e-5, atol=0)
    torch.testing.assert_close(of_rays, expected, rtol=0.1, atol=0.05)
    # The highest octave multiplies what a point's rounding leaves by 400.
    close = 1e-3 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(fused, plain, rtol=close / 100, atol=0)
    for a, b in zip(ours, theirs, strict=True):
        assert float((a - b).norm()) <= close * float(b.norm())


def test_rays_go_no_further_than_their_light(photo_run, monkeypatch):
    """The picture is that of all samples to a thousandth, and most of what lies behind is not looked at."""
    field, _ = load_field(photo_run[0])
    rays_o, rays_d = Orbit.of(field.view).cameras(3, (40, 40)).view(1)
    asked, shade = [], RadianceField.shade

    def counted(self, o, d, samples):
        asked.append(len(samples.t_starts))
        return shade(self, o, d, samples)

    monkeypatch.setattr(RadianceField, "shade", counted)
    found = field.render(rays_o, rays_d, chunk=500)
    some = sum(asked)
    asked.clear()
    monkeypatch.setattr(RadianceField, "by_stretches", False)
    whole = field.render(rays_o, rays_d, chunk=500)
    assert some < sum(asked)
    for a, b in zip(found, whole, strict=True):
        assert torch.allclose(a, b, atol=4 * FAINT)
    assert (whole.opacities >= found.opacities - 1e-6).all()


def test_few_rays_are_marched_in_vain(photo_run, monkeypatch):
    """However soon a pass is full, the picture is the same, and rays that did not fit are few."""
    field, _ = load_field(photo_run[0])
    rays_o, rays_d = Orbit.of(field.view).cameras(3, (80, 80)).view(1)
    marched, sampling = [], RadianceField.sampling

    def counted(self, o, d, **options):
        marched.append(len(o))
        return sampling(self, o, d, **options)

    monkeypatch.setattr(RadianceField, "sampling", counted)
    whole = field.render(rays_o, rays_d)
    assert sum(marched) == len(rays_o)
    marched.clear()
    cap = 2000
    parts = field.render(rays_o, rays_d, max_samples=cap)
    assert len(marched) > 10
    assert sum(marched) < 2.5 * len(rays_o)
    for a, b in zip(parts, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
