"""TensorBoard has the scores that metrics.jsonl has."""

import sys

import pytest
from small import shape_config
from tensorboardX.proto.event_pb2 import Event

from sinefield.errors import SinefieldError
from sinefield.learning.train import train
from sinefield.store.run import Run


def points(folder):
    """(step, name) -> value of all event files, by length-prefixed records and the package's own messages."""
    found = {}
    for file in sorted(folder.glob("events.out.tfevents.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
            at += 16 + length
    return found


def test_scores_are_there_too(ball, tmp_path):
    config = shape_config(ball, steps=6, tensorboard=True, score_seconds=1e-6)
    train(config, tmp_path / "run")
    run = Run(tmp_path / "run")
    lines = run.read_metrics()
    wanted = {
        (line["step"], name): value for line in lines for name, value in line.items() if name not in ("step", "seconds")
    }
    found = points(run.board)
    assert len(lines) == 6 and found.keys() == wanted.keys()
    assert all(found[key] == pytest.approx(wanted[key], rel=1e-6) for key in wanted)
    assert run.strangers() == []
    train(shape_config(ball, steps=2), tmp_path / "run", overwrite=True)
    assert not points(run.board)


def test_none_without_the_setting(ball_run):
    assert not (ball_run[0] / "tensorboard").exists()


def test_the_package_that_is_missing_is_named(ball, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(SinefieldError, match=r"pip install 'sinefield\[tensorboard\]'"):
        train(shape_config(ball, steps=2, tensorboard=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()
