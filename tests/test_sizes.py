"""What a small file may make its reader do: pictures, tables and grids are bounded before they are made."""

import tracemalloc

import numpy as np
import pytest
import torch

from sinefield.cameras.orbits import MAX_SIDE, Orbit
from sinefield.compress import entropy
from sinefield.compress.entropy import Decoder, frequencies
from sinefield.compress.grid import check_work, decode_grid
from sinefield.compress.tensors import check_levels
from sinefield.config import make_config
from sinefield.errors import SinefieldError
from sinefield.export.image import export_image
from sinefield.fields.base import kind_of
from sinefield.fields.image.field import ImageField
from sinefield.store.fields import save_field


def image_field(width, height):
    config = make_config({"kind": "image", "field": {"width": 8, "depth": 2}, "data": {"path": "-"}}, "test").field
    torch.manual_seed(0)
    return ImageField(config, width, height)


@pytest.mark.parametrize(
    ("own", "size"),
    [((1, 16384), (8, None)), ((16384, 1), (None, 8)), ((16384, 16384), (None, None)), ((1, 5000), (None, None))],
)
def test_an_orbit_makes_no_larger_pictures(own, size):
    orbit = Orbit((0, 0, 0), (0, 1, 0), 3.0, 20.0, 1.0, *own)
    with pytest.raises(SinefieldError, match=f"at most {MAX_SIDE} a side"):
        orbit.cameras(2, size)


def test_an_orbit_makes_pictures_of_the_largest_size():
    made = Orbit((0, 0, 0), (0, 1, 0), 3.0, 20.0, 1.0, 512, 1024).cameras(1, (2048, None))
    assert (made.width, made.height) == (2048, 4096)


def test_an_image_that_claims_to_be_huge_is_refused_at_once(tmp_path):
    save_field(tmp_path / "field.safetensors", image_field(16384, 16384))
    tracemalloc.start()
    for export in (
        lambda: export_image(tmp_path / "field.safetensors", tmp_path / "a.png", width=100),
        lambda: kind_of(image_field(16384, 16384)).picture(image_field(16384, 16384)),
    ):
        with pytest.raises(SinefieldError, match="16384×16384"):
            export()
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
    assert not (tmp_path / "a.png").exists()


def test_samples_of_a_smaller_image_are_bounded(monkeypatch):
    field, asked = image_field(9000, 9000), []

    def render(width, height):
        asked.append((width, height))
        return torch.zeros(1, 1, 3, dtype=torch.uint8).expand(height, width, 3)

    monkeypatch.setattr(field, "render", render)
    for width in (8999, 6000, 4500, 3000):
        kind_of(field).picture(field, width)
    assert all(width * height <= 100_000_000 for width, height in asked)
    assert asked == [(8999, 8999), (6000, 6000), (9000, 9000), (9000, 9000)]


def test_a_smaller_image_is_the_mean_of_its_samples():
    field = image_field(40, 30)
    samples = field.render(40, 30).numpy().astype(float).reshape(15, 2, 20, 2, 3).mean((1, 3))
    assert np.abs(kind_of(field).picture(field, 20) - samples).max() <= 0.5


# ---- what the largest claims that pass take


def test_tables_are_bounded_by_the_file():
    check_levels((1 << 18) + 256 * 1000, 1000)
    with pytest.raises(ValueError, match="too many"):
        check_levels((1 << 18) + 256 * 1000 + 1, 1000)


def test_the_largest_table_takes_little_memory():
    entropy._large.cache_clear()
    tracemalloc.start()
    for centre in range(8):
        frequencies(1 << 16, centre, 127, 255)
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("shape", [(1638, 1, 1), (1638, 1, 160), (1, 8188, 32), (91, 86, 33), (64, 64, 64)])
def test_the_largest_grids_take_little_memory(shape):
    check_work(shape, 50)
    tracemalloc.start()
    decode_grid(Decoder(b"\1\0\0\0" * 10, "a"), shape, bytes(60))
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
