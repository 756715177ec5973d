"""Samples behind opaque matter are not learned from: which they are, and that it changes next to nothing else."""

from dataclasses import replace

import pytest
import torch
from small import radiance_config

from sinefield.config import RadianceFieldConfig
from sinefield.fields.base import make_task, read_data, step_generator
from sinefield.fields.radiance.field import FAINT, MAX_LOG_DENSITY, RadianceField
from sinefield.render.march import Samples
from sinefield.render.ray_error import lit_reference
from sinefield.render.volume import composite

BOX = torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0])
SPACES = {"box": {}, "contracted": {"space": "contracted", "grid_levels": 2}}


def a_field(space: str = "box") -> RadianceField:
    """One whose density is high in some places and low in others."""
    torch.manual_seed(3)
    own = {"encoding": "hash", "depth": 1, "weights": "dense", "log2_table": 10, "levels": 4}
    field = RadianceField(RadianceFieldConfig(**own, **SPACES[space], steps=64), BOX)
    with torch.no_grad():
        field.encoding.table.normal_()
        field.trunk.weights[-1].weight.mul_(8.0)
        field.trunk.biases[-1][0] = 3.0
    return field


def a_view(n: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    rays_o = torch.randn(n, 3, generator=generator)
    rays_o = 2.5 * rays_o / rays_o.norm(dim=1, keepdim=True)
    rays_d = 0.7 * torch.randn(n, 3, generator=generator) - rays_o
    return rays_o, rays_d / rays_d.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("space", ["box", "contracted"])
def test_it_is_what_the_density_says(space):
    field, (rays_o, rays_d) = a_field(space), a_view()
    samples = field.sampling(rays_o, rays_d)
    reached, found = field.lit(rays_o, rays_d, samples, 0.01)
    with torch.no_grad():
        sigmas, _ = field._trunk(samples.points(rays_o, rays_d))
        light = torch.cat([_light(sigmas, samples, ray) for ray in range(samples.n_rays)])
    clear = (light / 0.01).log().abs() > 1e-3  # where light just ends, rounding decides
    assert 0.1 < float(reached.float().mean()) < 0.9 and float(clear.float().mean()) > 0.99
    assert torch.equal(reached[clear], (light > 0.01)[clear])
    _, place, units = field._given(rays_o, rays_d, samples)
    seen = field.encoding(place).detach()
    assert torch.equal(found[reached], seen[reached])
    told = lit_reference(field.trunk, seen, units, MAX_LOG_DENSITY, samples, 0.01)
    assert torch.equal(told[clear], reached[clear])


def _light(sigmas, samples, ray):
    """What is left of one ray's light before each sample: a product, one factor a sample."""
    first, count = samples.packed_info[ray].tolist()
    own = slice(first, first + count)
    passed = torch.exp(-sigmas[own].double() * (samples.t_ends - samples.t_starts)[own])
    return torch.cat([torch.ones(1, dtype=torch.float64), passed.cumprod(0)])[:count]


def test_pixels_and_gradients_hardly_change():
    field, (rays_o, rays_d) = a_field(), a_view()
    samples = field.sampling(rays_o, rays_d)
    background, target = torch.ones(samples.n_rays, 3), torch.rand(samples.n_rays, 3)
    reached, found = field.lit(rays_o, rays_d, samples)
    fewer = samples.where(reached)
    assert len(fewer.t_starts) < 0.8 * len(samples.t_starts) and fewer.n_rays == samples.n_rays
    with torch.no_grad():
        pictures = [field.shade(rays_o, rays_d, some).over(background) for some in (samples, fewer)]
    assert float((pictures[0] - pictures[1]).abs().max()) < 2 * FAINT
    gradients = []
    for some, known in ((samples, None), (fewer, None), (fewer, found[reached])):
        field.zero_grad(set_to_none=True)
        field.squared_error(rays_o, rays_d, some, background, target, None, known).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in field.parameters()]))
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 0.02
    assert torch.equal(gradients[1], gradients[2])


def test_samples_of_some_rays():
    """Rays that lose all samples keep their number."""
    packed = torch.tensor([[0, 2], [2, 0], [2, 3]])
    times = torch.arange(5.0)
    samples = Samples(torch.tensor([0, 0, 2, 2, 2]), times, times + 1, packed)
    some = samples.where(torch.tensor([False, False, True, False, True]))
    assert some.packed_info.tolist() == [[0, 0], [0, 0], [0, 2]] and some.ray_indices.tolist() == [2, 2]
    assert some.t_starts.tolist() == [2, 4]
    assert samples.within(4).n_rays == 2 and samples.within(5) is samples and samples.within(1).n_rays == 1
    sigmas, colours = torch.ones(2), torch.ones(2, 3)
    assert composite(sigmas, colours, some).opacities.shape == (3,)


def test_threads_do_not_matter():
    numba = pytest.importorskip("numba")
    field, (rays_o, rays_d) = a_field(), a_view()
    samples, before = field.sampling(rays_o, rays_d), numba.get_num_threads()
    found = []
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        numba.set_num_threads(threads)
        found.append(field.lit(rays_o, rays_d, samples)[0])
    numba.set_num_threads(before)
    assert torch.equal(*found)


def test_without_a_grid_to_look_up_it_is_not_asked():
    rays_o, rays_d = a_view()
    field = RadianceField(RadianceFieldConfig(steps=64), BOX)
    assert field.lit(rays_o, rays_d, field.sampling(rays_o, rays_d)) is None


def test_a_training_that_goes_on_knows_how_much_was_lit(photographs):
    own = {"encoding": "hash", "depth": 1, "weights": "dense", "log2_table": 10, "levels": 4}
    config = radiance_config(photographs, steps=4)
    config = replace(config, field=RadianceFieldConfig(**own, steps=64))
    data = read_data(config)
    task, other = (make_task(config, data) for _ in range(2))
    assert task.lit == 1.0
    for index in range(2):
        task.step(index, step_generator(0, index))
    assert 0 < task.lit <= 1
    task.lit = 0.5
    other.load_state(task.state())
    assert other.lit == 0.5
    never = replace(config, training=replace(config.training, early_stop_eps=0.0))
    assert make_task(never, data).lit is None and make_task(radiance_config(photographs, steps=4), data).lit is None
