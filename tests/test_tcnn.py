"""What tinycudann is handed, read by a stand-in written from its documentation, against our networks and grids."""

import dataclasses
import sys
from functools import partial

import pytest
import tiny_twin
import torch
from small import radiance_config, shape_config

from sinefield.data.surfaces.surface import load_surface
from sinefield.errors import SinefieldError
from sinefield.fields.base import step_generator
from sinefield.fields.radiance.training import RadianceTask, load_scene
from sinefield.fields.shape.training import ShapeTask
from sinefield.kernels import choose
from sinefield.kernels.cuda import hashgrid as at_once
from sinefield.kernels.cuda import tinycudann as tiny
from sinefield.nn import backend
from sinefield.nn.backend import check_backend, use_backend
from sinefield.nn.hashgrid import HashGrid
from sinefield.nn.mlp import MLP
from sinefield.nn.weights import WeightSpec

HELD = tiny.why_not, tiny._network, tiny._level


def tiny_forget():
    for held in HELD:
        held.cache_clear()
    choose.forget()


@pytest.fixture(autouse=True)
def forget():
    yield tiny_forget()
    tiny_forget()


def exact(monkeypatch):
    tiny_twin.install(monkeypatch, network=partial(tiny_twin.Network, dtype=torch.float32))


def outcome(out, *others):
    return [out.detach(), *torch.autograd.grad((out * torch.linspace(-1, 2, out.numel()).view_as(out)).sum(), others)]


@pytest.mark.parametrize("kind", ["sine", "lowrank", "dense"])
@pytest.mark.parametrize(
    ("inputs", "width", "depth", "outputs", "activation"),
    [(33, 15, 3, 1, "relu"), (32, 16, 2, 16, "leaky_relu"), (31, 64, 1, 3, "relu"), (47, 130, 3, 17, "leaky_relu")],
)
def test_values_and_gradients_are_those_of_the_torch_network(
    monkeypatch, kind, inputs, width, depth, outputs, activation
):
    exact(monkeypatch)
    torch.manual_seed(0)
    net = MLP(inputs, outputs, width, depth, WeightSpec(kind, rank=2), activation)
    x = torch.randn(300, inputs, requires_grad=True)
    wanted = [x, *net.parameters()]
    ours = outcome(tiny.network(x, net.tensors()), *wanted)
    truth = outcome(net.reference(x), *wanted)
    for a, b in zip(ours, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))
    assert tiny.network(x[:0], net.tensors()).shape == (0, outputs)


def test_small_gradients_survive_fp16(monkeypatch):
    tiny_twin.install(monkeypatch)
    torch.manual_seed(0)
    net = MLP(20, 1, 31, 3, WeightSpec("sine", rank=4), "relu")
    x = torch.randn(5000, 20, requires_grad=True)
    # As small as the gradient of a mean over a batch: fp16 has a hundredth of these digits left there.
    parts = []
    for out in (tiny.network(x, net.tensors()), net.reference(x)):
        parts.append(torch.autograd.grad(1e-6 * out.sum(), [x, *net.parameters()]))
    for a, b in zip(*parts, strict=True):
        assert float((a - b).norm() / b.norm()) < 0.03


def test_layout_by_hand():
    flat = tiny.pack([torch.tensor([[2.0, 3.0]]), torch.tensor([[5.0]])], [torch.tensor([7.0]), torch.tensor([11.0])])
    first, last = flat[:256].view(16, 16), flat[256:].view(16, 16)
    assert first[0, :3].tolist() == [2, 3, 7] and first[1, 2] == 1 and first.count_nonzero() == 4
    assert last[0, :2].tolist() == [5, 11] and last.count_nonzero() == 2


def test_what_width_it_takes():
    widths = {15: 16, 16: 32, 31: 32, 63: 64, 64: 128, 127: 128, 128: 144, 255: 256}
    assert {w: tiny.padded_width(w) for w in widths} == widths


def test_grids_are_the_torch_grids(monkeypatch):
    exact(monkeypatch)
    torch.manual_seed(0)
    grid = HashGrid(levels=5, log2_table=10, coarsest=3, finest=200)
    torch.nn.init.normal_(grid.table)
    assert {size == (n + 1) ** 3 for n, size, _ in grid.levels} == {True, False}
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 3)
    x = torch.cat([torch.rand(500, 3) * 2.2 - 1.1, corners])
    ours = outcome(tiny.hashgrid(x, grid.table, grid.given), grid.table)
    truth = outcome(grid.reference(x), grid.table)
    for a, b in zip(ours, truth, strict=True):
        # Rounding moves a point by a ten-thousandth of the finest cell.
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-4 * float(b.abs().max()))
    for a, b in zip(outcome(at_once.hashgrid(x, grid.table, grid.given), grid.table), truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * float(b.abs().max()))
    assert tiny.hashgrid(x[:0], grid.table, grid.given).shape == (0, 10)


def test_a_network_and_a_grid_use_it_where_told(monkeypatch):
    exact(monkeypatch)
    net = MLP(20, 2, 15, 2, WeightSpec("dense"), "relu")
    on_the_cpu(monkeypatch)
    net.backend = "tinycudann"
    x = torch.randn(4, 20)
    tiny._network(20, 2, 15, 2, "relu").evaluate = lambda x, flat: torch.full((len(x), 16), 42.0)
    assert (net(x) != 42).all()
    net.dtype = torch.float16
    assert (net(x) == 42).all()
    assert set(net.state_dict()) == {"weights.0.weight", "weights.1.weight", "weights.2.weight"} | {
        f"biases.{i}" for i in range(3)
    }


def on_the_cpu(monkeypatch):
    """Register it for the CPU, and find that it works."""
    for op in ("network", "hashgrid"):
        known = [one._replace(device="cpu") if one.name == "tinycudann" else one for one in choose.OPERATIONS[op].known]
        monkeypatch.setitem(choose.OPERATIONS, op, choose.OPERATIONS[op]._replace(known=tuple(known)))
    monkeypatch.setattr(tiny, "why_not", lambda dtype: None)
    choose.forget()


def test_it_is_tried(monkeypatch):
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    assert tiny.why_not(device="cpu").startswith("not installed")
    tiny_forget()
    tiny_twin.install(monkeypatch)
    assert tiny.why_not(device="cpu") is None

    class Biased(tiny_twin.Network):
        def evaluate(self, x, flat):
            return super().evaluate(x, flat) + 0.1

    class Shifted(tiny_twin.Encoding):
        def evaluate(self, x, flat):
            return super().evaluate(x + 0.01, flat)

    for broken, says in (({"network": Biased}, "network"), ({"encoding": Shifted}, "hash grid")):
        tiny_forget()
        tiny_twin.install(monkeypatch, **broken)
        assert says in tiny.why_not(device="cpu")


def tasks(monkeypatch, kind, ball, photographs, **field):
    """The same task twice, the second by the stand-in, with the rest of its step as on a device."""
    tiny_twin.install(monkeypatch)
    on_the_cpu(monkeypatch)
    config = shape_config(ball) if kind == "shape" else radiance_config(photographs)
    config.field = dataclasses.replace(config.field, activation="relu", **field)
    made = [
        ShapeTask(config, load_surface(ball)) if kind == "shape" else RadianceTask(config, load_scene(config))
        for _ in range(2)
    ]
    use_backend(made[1].field, dataclasses.replace(config.training, backend="tinycudann"))
    return made


@pytest.mark.parametrize("kind", ["shape", "radiance"])
@pytest.mark.parametrize("encoding", ["frequency", "hash"])
def test_a_step_has_the_torch_step_s_gradients(monkeypatch, ball, photographs, kind, encoding):
    grids = {"encoding": "hash", "levels": 4, "log2_table": 9, "coarsest": 4, "finest": 40, "weights": "dense"}
    plain, other = tasks(monkeypatch, kind, ball, photographs, **(grids if encoding == "hash" else {}))
    other.field.set_dtype(torch.float16)
    losses = [task.step(0, step_generator(0, 0)) for task in (plain, other)]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    for (name, a), b in zip(other.field.named_parameters(), plain.field.parameters(), strict=True):
        assert float((a.grad - b.grad).norm() / b.grad.norm()) < 0.03, name


def test_a_backend_that_cannot_do_it_is_refused(monkeypatch, ball):
    config = shape_config(ball, backend="tinycudann")
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    with pytest.raises(SinefieldError, match=r"training\.backend is tinycudann, .*tinycudann is for CUDA.*use auto"):
        check_backend(dataclasses.replace(config, training=dataclasses.replace(config.training, device="cpu")))
    monkeypatch.setattr(backend, "training_device", lambda asked: torch.device("cuda"))
    with pytest.raises(SinefieldError, match="not installed"):
        check_backend(config)
    tiny_forget()
    monkeypatch.setattr(tiny, "why_not", lambda dtype: None)
    check_backend(config)
    for change, says in (({"precision": "fp32"}, "fp16"), ({"eikonal": 0.1}, "second")):
        with pytest.raises(SinefieldError, match=says):
            check_backend(dataclasses.replace(config, training=dataclasses.replace(config.training, **change)))
    for change, says in (({"activation": "sine"}, "sine"), ({"skips": [1]}, "skips"), ({"frequencies": 0}, "bare")):
        with pytest.raises(SinefieldError, match=says):
            check_backend(dataclasses.replace(config, field=dataclasses.replace(config.field, **change)))
