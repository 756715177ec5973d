"""Small packed fields from data in memory: `learning.small`, and an item of a fleet from file to bytes."""

import numpy as np
import pytest
from small import CENTRE, RADIUS, shape_config

from sinefield.data.surfaces.sampling import samples_not_stored
from sinefield.data.surfaces.surface import load_surface
from sinefield.errors import SinefieldError
from sinefield.fleet.work import content_mark, make_item
from sinefield.learning.small import fit_small
from sinefield.store.fields import load_field
from sinefield.strict import to_plain


def test_a_ball_in_few_bytes(ball, tmp_path):
    """Against the ball itself, not its mesh."""
    config = shape_config(ball, steps=60)
    with samples_not_stored():
        made = fit_small(config, load_surface(ball), 1000, packing=0.5)
    (tmp_path / "a.sine").write_bytes(made.content)
    field, note = load_field(tmp_path / "a.sine")
    points = CENTRE + np.random.default_rng(0).uniform(-1.1, 1.1, (20_000, 3)) * RADIUS
    truth = np.linalg.norm(points - CENTRE, axis=1) < RADIUS
    import torch

    found = field.inside(torch.from_numpy(points)).numpy()
    assert np.count_nonzero(found & truth) / np.count_nonzero(found | truth) > 0.9
    assert len(made.content) <= 1000 and not note
    assert list(made.seconds) == ["points", "training", "packing"]


def test_an_item_repeats_to_the_bit_and_leaves_nothing(ball, tmp_path, monkeypatch):
    monkeypatch.setenv("SINEFIELD_CACHE", str(tmp_path))
    scene = to_plain(shape_config(ball, steps=12))
    first, second = (make_item(scene, str(ball), 900, 1.0, True) for _ in range(2))
    assert first.content == second.content and first.scores == second.scores
    assert not list(tmp_path.glob("shape-*"))
    other = make_item({**scene, "seed": 1}, str(ball), 900, 1.0, True)
    assert other.content != first.content
    with pytest.raises(SinefieldError, match="counts steps"):
        make_item(to_plain(shape_config(ball, seconds=1.0)), str(ball), 900, 1.0, True)


def test_the_mark_is_of_the_content(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")
    assert content_mark(str(tmp_path / "a")) == content_mark(str(tmp_path / "b"))
    before = content_mark(str(tmp_path))
    (tmp_path / "b").write_text("2")
    assert content_mark(str(tmp_path / "a")) != content_mark(str(tmp_path / "b")) and before != content_mark(
        str(tmp_path)
    )
    with pytest.raises(SinefieldError, match="no such"):
        content_mark(str(tmp_path / "c"))
