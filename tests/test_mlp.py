"""Networks against plain torch written out, and encodings against closed forms."""

import copy
import math

import pytest
import torch

from sinefield.errors import SinefieldError
from sinefield.kernels import choose
from sinefield.kernels.cpu import layers
from sinefield.kernels.cpu import network as tiled
from sinefield.nn.encodings import Frequency, SphericalHarmonics
from sinefield.nn.hashgrid import HashGrid
from sinefield.nn.mlp import MLP, count_parameters
from sinefield.nn.point_error import KINDS, error_sum, errors
from sinefield.nn.weights import WeightSpec

ACTIVATIONS = {
    "relu": torch.relu,
    "leaky_relu": torch.nn.functional.leaky_relu,
    "softplus": lambda x: torch.nn.functional.softplus(x, beta=100),
    "gaussian": lambda x: torch.exp(-(x**2) / (2 * 0.1**2)),
    "sine": lambda x: torch.sin(30 * x),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["sine", "lowrank", "dense"])
def test_network_is_the_formula(activation, kind):
    torch.manual_seed(0)
    net = MLP(3, 2, width=8, depth=3, weights=WeightSpec(kind, rank=2), activation=activation, skips=[2])
    x = torch.randn(5, 3)
    act, w, b = ACTIVATIONS[activation], [m.matrix() for m in net.weights], list(net.biases)
    h = act(x @ w[0].T + b[0])
    h = act(h @ w[1].T + b[1])
    h = act(torch.cat([h, x], 1) @ w[2].T + b[2])
    assert torch.allclose(net(x), h @ w[3].T + b[3], atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("skips", [[], [1, 2]])
def test_fused_gradients_are_those_of_autograd(activation, skips):
    torch.manual_seed(0)
    net = MLP(5, 2, width=8, depth=3, weights=WeightSpec("sine", rank=2), activation=activation, skips=skips).double()
    net.dtype = torch.float64
    x, target = torch.randn(7, 5, dtype=torch.float64, requires_grad=True), torch.randn(7, 2)
    found = {}
    for name, call in {"fused": net, "autograd": net.reference}.items():
        net.zero_grad(set_to_none=True)
        x.grad = None
        # Two forwards before the first backward: each has buffers of its own.
        loss = (call(x) - target).square().sum() + call(2 * x).square().sum()
        loss.backward()
        found[name] = [loss.detach().double(), x.grad.clone(), *(p.grad.clone() for p in net.parameters())]
    for fused, truth in zip(found["fused"], found["autograd"], strict=True):
        # The output is float32 whatever the layers are.
        assert torch.allclose(fused, truth, rtol=1e-5, atol=1e-5 * float(truth.abs().max()))


def gradients(net, call, x, grad):
    """Of input and parameters, float64."""
    net.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_()
    call(x).backward(grad)
    return [t.grad.double().clone() for t in (x, *net.parameters())]


def runs(dtype):
    """Whether tiles of a dtype can run here at all, be something else faster or not."""
    return (tiled.why_not(dtype) or "AMX").find("AMX") >= 0


NO_TILES = "this processor has no AVX512-BF16, or something better"


@pytest.fixture(params=["tiled", "layers", "layers without oneDNN"])
def path(request, monkeypatch):
    """Each way through a bf16 network in turn: also the one of processors for which oneDNN has no product in bf16."""
    if request.param == "tiled" and not runs(torch.bfloat16):
        pytest.skip(NO_TILES)
    if request.param == "layers without oneDNN":
        monkeypatch.setattr(layers, "FUSED_LINEAR", False)
    monkeypatch.setattr(tiled, "why_not", lambda dtype: None if request.param == "tiled" else "not now")
    choose.forget()
    yield request.param
    monkeypatch.undo()
    choose.forget()


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_fused_network_in_bf16_is_as_near_to_float64_as_autograd_in_bf16(activation, path):
    torch.manual_seed(0)
    net = MLP(33, 2, width=72, depth=3, weights=WeightSpec("sine", rank=4), activation=activation)
    exact = copy.deepcopy(net).double()
    exact.dtype, net.dtype = torch.float64, torch.bfloat16
    for n in (1024, 3001):
        x, grad = torch.randn(n, 33).bfloat16(), torch.randn(n, 2)
        out = net(x)
        with torch.no_grad():
            truth = exact.reference(x.double())
            assert float((out - truth).norm()) <= 1.1 * float((net.reference(x) - truth).norm())
            assert torch.equal(net(x), out)
        wanted = gradients(exact, exact.reference, x.double(), grad)
        rough = gradients(net, net.reference, x, grad)
        for mine, theirs, best in zip(gradients(net, net, x, grad), rough, wanted, strict=True):
            assert float((mine - best).norm()) <= 1.5 * float((theirs - best).norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("sizes", [(5, 130, 1), (33, 40, 3), (64, 64, 16), (1, 16, 2)])
def test_tiled_network_is_exact_where_every_number_is(sizes, dtype):
    if tiled.why_not(dtype):
        pytest.skip(NO_TILES)
    n_in, width, n_out = sizes
    torch.manual_seed(0)
    net = MLP(n_in, n_out, width, depth=3, weights=WeightSpec("dense"), activation="relu")
    with torch.no_grad():
        for p in net.parameters():  # few small whole numbers: no sum leaves the 256 that bf16 counts to
            p.copy_(torch.randint(-1, 2, p.shape) * (torch.rand(p.shape) < 4 / p.shape[-1]))
    exact = copy.deepcopy(net).double()
    exact.dtype, net.dtype = torch.float64, dtype
    for n in (1, 10, 63, 64, 65, 500, 0):
        x, grad = torch.randint(-2, 3, (n, n_in)).to(dtype), torch.randint(-2, 3, (n, n_out)).float()
        assert torch.equal(net(x), exact.reference(x.double()))
        wanted = gradients(exact, exact.reference, x.double(), grad)
        for mine, best in zip(gradients(net, net, x, grad), wanted, strict=True):
            assert torch.equal(mine, best)


def test_bf16_network_of_interleaved_and_strided_calls(path):
    torch.manual_seed(0)
    net = MLP(6, 2, width=16, depth=2, weights=WeightSpec("dense"), activation="leaky_relu")
    net.dtype = torch.bfloat16
    x = torch.randn(200, 12).bfloat16()[:, ::2]
    assert torch.equal(net(x), net(x.contiguous()))
    # Two forwards before the first backward: each has buffers of its own.
    together = gradients(net, lambda x: net(x) + net(2 * x), x, torch.ones(200, 2))
    apart = [gradients(net, call, x, torch.ones(200, 2)) for call in (net, lambda x: net(2 * x))]
    for both, one, two in zip(together, *apart, strict=True):
        assert torch.allclose(both, one + two, rtol=0.01, atol=0.02)
    x[3, 0] = math.nan
    lost = net(x).isnan().any(dim=1)
    assert lost[3] and int(lost.sum()) <= 2


def test_a_second_gradient_needs_the_plain_network():
    net = MLP(3, 1, width=8, depth=2, activation="softplus")
    x = torch.randn(4, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        slope.square().sum().backward()
    net.twice_differentiable = True
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert net.biases[0].grad.abs().sum() > 0


def test_parameters_of_the_papers_shape_network():
    """3→256 dense, two hidden 256×256 of rank k, 256→1 dense: 132,865 dense, 1,793 + 1,024 k factored."""
    assert count_parameters(MLP(3, 1, 256, 3, WeightSpec("dense"))) == 132_865
    for rank in (1, 5, 20):
        assert count_parameters(MLP(3, 1, 256, 3, WeightSpec("sine", rank))) == 1_793 + 1_024 * rank


def test_first_and_last_layers_are_dense_and_muon_takes_the_others():
    net = MLP(3, 1, 16, 4, WeightSpec("sine", 2))
    assert [type(w).__name__ for w in net.weights] == ["Dense", *["SineLowRank"] * 3, "Dense"]
    assert [tuple(p.shape) for p in net.hidden_matrices()] == [(16, 2), (2, 16)] * 3


@pytest.mark.parametrize("kind", ["dense", "sine", "lowrank"])
def test_siren_preactivations_keep_their_spread(kind):
    """SIREN's rule: hidden preactivations ω₀(Wx + b) have standard deviation about 1 at any depth."""
    torch.manual_seed(0)
    net = MLP(3, 1, 256, 5, WeightSpec(kind, rank=64, phase=2.5 if kind == "sine" else None), "sine")
    h = torch.sin(30 * (torch.rand(4000, 3) * 2 - 1) @ net.weights[0]().T)
    for weight in list(net.weights)[1:-1]:
        z = 30 * h @ weight().T
        assert 0.7 < float(z.detach().std()) < 1.4
        h = torch.sin(z)


def test_bf16_stays_close_to_float32():
    torch.manual_seed(0)
    net = MLP(24, 3, 64, 4, WeightSpec("sine", 8), "relu")
    x = torch.randn(100, 24)
    exact = net(x)
    net.dtype = torch.bfloat16
    rough = net(x.bfloat16())
    assert rough.dtype == torch.float32
    assert float((rough - exact).detach().norm() / exact.detach().norm()) < 0.05


def test_frequency_encoding_closed_form():
    out = Frequency(2, 3)(torch.tensor([[0.25, -0.5]]))
    assert out.shape == (1, 14)
    expected = [0.25, -0.5]
    for function in (math.sin, math.cos):
        expected += [function(2**i * math.pi * x) for i in range(3) for x in (0.25, -0.5)]
    assert torch.allclose(out, torch.tensor([expected]), atol=1e-6)


@pytest.mark.parametrize("n", [0, 1, 63, 64, 1000])
def test_compiled_encoding(n, generator):
    x = torch.cat([torch.rand(n, 3, generator=generator) * 4 - 2, torch.tensor([[-1.0, 0, 1], [0.25, -0.75, 0.125]])])
    phases = (x.double()[:, None, :] * math.pi * 2.0 ** torch.arange(10)[:, None]).flatten(1)
    truth = torch.cat([x.double(), phases.sin(), phases.cos()], dim=1)
    encoding = Frequency(3, 10)
    assert (encoding(x) - truth).abs().max() < 1e-6
    assert (encoding.reference(x) - truth).abs().max() < 1e-3  # π · 2^i · x is rounded before its sine
    assert encoding(x.requires_grad_()).requires_grad
    encoding.dtype = torch.bfloat16
    assert torch.equal(encoding(x.detach()), encoding(x.detach()).bfloat16())


def test_no_frequencies_pass_the_input_through():
    x = torch.randn(4, 3)
    assert torch.equal(Frequency(3, 0)(x), x)


def test_spherical_harmonics_are_orthonormal():
    """Monte Carlo over the sphere: ∫ Y_i Y_j = δ_ij."""
    d = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    d = (d / d.norm(dim=1, keepdim=True)).float()
    y = SphericalHarmonics()(d).double()
    torch.testing.assert_close(y, SphericalHarmonics().reference(d).double(), rtol=1e-5, atol=1e-6)
    gram = 4 * math.pi * y.T @ y / len(d)
    assert torch.allclose(gram, torch.eye(16, dtype=torch.float64), atol=0.03)


@pytest.mark.parametrize(
    "settings",
    [{"depth": 0}, {"width": 0}, {"activation": "swish"}, {"skips": [0]}, {"skips": [4]}, {"weights": WeightSpec("x")}],
)
def test_bad_networks(settings):
    with pytest.raises(SinefieldError):
        MLP(3, 1, **settings)


def test_hash_grid_interpolates_what_its_corners_hold():
    """A level with an entry for each corner reproduces every trilinear function exactly."""
    grid = HashGrid(levels=1, log2_table=10, coarsest=4, finest=4)
    axis = torch.linspace(-1, 1, 5)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    with torch.no_grad():
        grid.table.copy_(torch.stack([2 * x - y + 0.5 * z + 1, x * y * z], -1).reshape(-1, 2))
    p = torch.rand(300, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = grid(p)
    assert torch.allclose(found[:, 0], p @ torch.tensor([2.0, -1.0, 0.5]) + 1, atol=1e-5)
    corners = torch.stack([x, y, z], -1).reshape(-1, 3)
    assert torch.allclose(grid(corners)[:, 1], corners.prod(1), atol=1e-5)
    assert torch.allclose(grid(torch.tensor([[1.7, -3.0, 0.0]])), grid(torch.tensor([[1.0, -1.0, 0.0]])))
    # What is no number reads nothing outside the table.
    assert torch.equal(grid(torch.full((1, 3), torch.nan)), grid(torch.full((1, 3), -1.0)))


def test_compiled_hash_grid_is_the_plain_one():
    torch.manual_seed(0)
    grid = HashGrid(levels=6, log2_table=9, coarsest=4, finest=100)
    assert grid.resolutions[-1] == 100 and len(set(grid.sizes.tolist())) > 1
    with torch.no_grad():
        grid.table.normal_()
    x, pull = torch.rand(5000, 3) * 2.2 - 1.1, torch.randn(5000, 12)
    for call in (grid, grid.reference):
        grid.zero_grad(set_to_none=True)
        out = call(x)
        (out * pull).sum().backward()
        if call == grid:
            compiled, gradient = out.detach(), grid.table.grad.clone()
    assert torch.allclose(compiled, out, atol=1e-5) and torch.allclose(gradient, grid.table.grad, atol=1e-4)


def test_hash_grid_slopes_come_from_the_plain_one():
    torch.manual_seed(0)
    grid = HashGrid(levels=2, log2_table=12, coarsest=2, finest=5).double()
    x = (torch.rand(8, 3) * 1.8 - 0.9).requires_grad_()
    (slope,) = torch.autograd.grad(grid(x).sum(), x)
    step = 1e-3
    moved = torch.stack(
        [grid.reference(x.detach() + step * e).sum(1) - grid.reference(x.detach()).sum(1) for e in torch.eye(3)]
    )
    inside = ((x.detach() + step) * 0.5 + 0.5)[:, :, None] * grid.resolutions
    same = (inside.floor() == ((x.detach() * 0.5 + 0.5)[:, :, None] * grid.resolutions).floor()).all(-1).all(-1)
    assert same.any() and torch.allclose(slope[same], moved.T[same].float() / step, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outputs", [1, 3])
def test_fused_error_is_that_of_what_the_network_gives(kind, outputs, dtype):
    if tiled.why_not(dtype):
        pytest.skip("networks of this precision do not go by tiles here")
    torch.manual_seed(0)
    net = MLP(10, outputs, 40, 3, activation="leaky_relu")
    net.dtype = dtype
    x = torch.randn(200, 10).to(dtype).requires_grad_()
    target = torch.rand(200, outputs) if kind == "bce" else torch.randn(200, outputs)
    found = []
    for sum_of in (error_sum, lambda net, x, *given: errors(net(x), *given).sum()):
        net.zero_grad()
        x.grad = None
        error = sum_of(net, x, target, kind, 1.7)
        (error / 200).backward()
        found.append((error.detach(), [p.grad for p in (x, *net.parameters())]))
    (fused, ours), (plain, theirs) = found
    close = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(fused, plain, rtol=close, atol=0)
    for a, b in zip(ours, theirs, strict=True):
        assert float((a - b).float().norm()) <= close * float(b.float().norm())
