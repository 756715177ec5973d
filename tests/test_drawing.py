"""Pixels that are drawn where the picture is wrong."""

import pytest
import torch
from small import radiance_config

from sinefield.errors import SinefieldError
from sinefield.fields.base import step_generator
from sinefield.fields.radiance.drawing import RUN, ErrorMap
from sinefield.fields.radiance.training import RadianceTask, load_scene


def test_stretches_are_drawn_by_their_root_mean_square_error(generator):
    errors = ErrorMap(5 * RUN - 3, 0.5)
    truth = torch.tensor([0.0, 0.01, 0.04, 0.0, 0.25])
    for _ in range(40):
        errors.note(torch.arange(5) * RUN, truth)
    torch.testing.assert_close(errors.errors, truth, atol=1e-6, rtol=1e-4)
    n = 200_000
    drawn = errors.draw(n, generator)
    assert int(drawn.min()) >= 0 and int(drawn.max()) == errors.pixels - 1
    counts = torch.bincount(drawn // RUN, minlength=5) / n
    pixels = torch.tensor([RUN, RUN, RUN, RUN, RUN - 3])
    expected = 0.5 * pixels / pixels.sum() + 0.5 * truth.sqrt() / truth.sqrt().sum()
    torch.testing.assert_close(counts, expected, atol=0.006, rtol=0)


def test_pixels_of_one_stretch_count_together():
    errors = ErrorMap(2 * RUN, 1.0)
    errors.note(torch.tensor([0, 1, RUN]), torch.tensor([0.6, 0.9, 1.0]))
    torch.testing.assert_close(errors.errors, torch.tensor([(3 + 0.6 + 0.9) / 3, 2.0]))


@pytest.fixture
def task(photographs):
    config = radiance_config(photographs, steps=4, by_error=0.5)
    return RadianceTask(config, load_scene(config))


def test_a_step_notes_the_errors_of_its_rays(task):
    task.step(0, step_generator(0, 0))
    assert task.errors is not None
    first = task.errors.errors.clone()
    assert bool((first < 3).any()) and bool((first >= 0).all())
    # Going on from a stored state is the same to the bit.
    other = RadianceTask(task.config, load_scene(task.config))
    other.field.load_state_dict(task.field.state_dict())
    other.load_state({key: value.clone() for key, value in task.state().items()})
    assert float(task.step(1, step_generator(0, 1))) == float(other.step(1, step_generator(0, 1)))
    assert torch.equal(task.errors.errors, other.errors.errors)


def test_a_share_beyond_all_is_refused(photographs):
    with pytest.raises(SinefieldError, match=r"by_error is 1\.5; 0 to 1"):
        radiance_config(photographs, steps=4, by_error=1.5)
