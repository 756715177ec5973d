"""What a GPU changes about training, on the CPU: losses that come late, steps that are captured."""

from contextlib import nullcontext

import pytest
import torch
from small import shape_config

from sinefield.data.surfaces.surface import load_surface
from sinefield.errors import SinefieldError
from sinefield.fields.base import step_generator
from sinefield.fields.shape.training import ShapeTask
from sinefield.kernels.cuda.graph import GraphedStep
from sinefield.learning import loop
from sinefield.learning.loop import optimise
from sinefield.store.run import Run
from sinefield.tensor_files import load_tensors


class Late:
    """A task whose losses come as a GPU gives them: tensors, looked at now and then; one of them may not be finite."""

    device = torch.device("meta")

    def __init__(self, task, monkeypatch, broken_at=None):
        self.task, self.broken_at, self.done = task, broken_at, []
        monkeypatch.setattr(loop, "LOOK_EVERY", 4)
        monkeypatch.setattr(loop, "step_generator", lambda seed, step, device: step_generator(seed, step))

    def __getattr__(self, name):
        return getattr(self.task, name)

    def step(self, index, generator):
        self.done.append(index)
        self.task.progress = self.progress
        loss = self.task.step(index, generator)
        return torch.tensor(float("nan") if index == self.broken_at else loss)


def test_losses_looked_at_late_give_the_same_run(ball, tmp_path, monkeypatch):
    config = shape_config(ball, steps=10, precision="fp32")
    results = []
    for name in ("soon", "late"):
        task = ShapeTask(config, load_surface(ball))
        if name == "late":
            task = Late(task, monkeypatch)
        run = Run.prepare(tmp_path / name, config)
        results.append((optimise(task, config.training, run, 0), run.read_metrics(), task.field.state_dict()))
    (soon, lines, state), (late_result, late_lines, late_state) = results
    assert soon["loss"] == pytest.approx(late_result["loss"], rel=1e-6)
    assert [line["iou"] for line in lines] == [line["iou"] for line in late_lines]
    assert all(torch.equal(state[name], late_state[name]) for name in state)


def test_nothing_is_saved_after_a_loss_nobody_looked_at(ball, tmp_path, monkeypatch):
    for every, steps_done in ((1e6, 8), (1e-9, 7)):
        config = shape_config(ball, steps=40, precision="fp32", save_seconds=every)
        task = Late(ShapeTask(config, load_surface(ball)), monkeypatch, broken_at=6)
        run = Run.prepare(tmp_path / str(steps_done), config)
        with pytest.raises(SinefieldError, match="the loss is nan at step 6"):
            optimise(task, config.training, run, 0)
        assert len(task.done) == steps_done
        if every < 1:
            assert load_tensors(run.state_path, "state")[1]["step"] == 6
        else:
            assert not run.state_path.exists()


def test_a_captured_step_is_captured_anew_where_it_must_be(ball):
    config = shape_config(ball)
    plain, task = (ShapeTask(config, load_surface(ball)) for _ in range(2))
    captures = []

    def capture(function):
        captures.append(1)
        outputs = function()

        def replay():
            for held, new in zip(outputs, function(), strict=True):
                held.copy_(new)

        return outputs, replay

    task.graphed = GraphedStep(task._loss_of, list(task.field.parameters()))
    task.graphed.capture = capture
    for of in (plain, task):
        of.config.training.chunk = of.config.training.batch
    losses = []
    for index, batch in ((0, 2048), (1, 2048), (2, 1024)):
        for of in (plain, task):
            of.config.training.batch = batch
        losses.append(task.step(index, step_generator(0, index)))
        assert float(losses[-1]) == pytest.approx(plain.step(index, step_generator(0, index)), rel=1e-5)
        for a, b in zip(task.field.parameters(), plain.field.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5)
        plain.field.zero_grad(set_to_none=True)
        assert len(captures) == (1 if index < 2 else 2)
    assert losses[0] != losses[1]
    task.field.set_dtype(torch.bfloat16)
    task.step(3, step_generator(0, 3))
    task.field.network.biases[0].data = task.field.network.biases[0].data.clone()
    task.step(4, step_generator(0, 4))
    assert len(captures) == 4


def test_a_step_that_cannot_be_captured_runs_as_it_is(ball, capfd):
    config = shape_config(ball)
    plain, task = (ShapeTask(config, load_surface(ball)) for _ in range(2))
    for of in (plain, task):
        of.config.training.chunk = of.config.training.batch

    def capture(function):
        raise RuntimeError("operation not permitted when stream is capturing")

    task.graphed = GraphedStep(task._loss_of, list(task.field.parameters()))
    task.graphed.capture = capture
    for index in range(2):
        loss = task.step(index, step_generator(0, index))
        assert float(loss) == pytest.approx(plain.step(index, step_generator(0, index)), rel=1e-5)
    assert capfd.readouterr().err.count("cannot be captured") == 1


def test_a_capture_that_lacks_memory_is_tried_again_with_a_smaller_batch(ball):
    task = ShapeTask(shape_config(ball), load_surface(ball))

    def capture(function):
        if len(task.graphed._inputs[0]) > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return function(), lambda: None

    task.graphed = GraphedStep(task._loss_of, list(task.field.parameters()))
    task.graphed.capture = capture
    for n, fits in ((200, False), (200, False), (100, True)):
        with nullcontext() if fits else pytest.raises(torch.OutOfMemoryError):
            task.graphed(task.points[:n], task.values[:n], torch.ones(()))
    assert task.graphed.works
