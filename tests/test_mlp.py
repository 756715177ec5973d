"""Networks against plain torch written out, and encodings against closed forms."""

import math

import pytest
import torch

from sinefield.errors import SinefieldError
from sinefield.nn.encodings import Frequency, SphericalHarmonics
from sinefield.nn.mlp import MLP, WeightSpec, count_parameters

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


def test_no_frequencies_pass_the_input_through():
    x = torch.randn(4, 3)
    assert torch.equal(Frequency(3, 0)(x), x)


def test_spherical_harmonics_are_orthonormal():
    """Monte Carlo over the sphere: ∫ Y_i Y_j = δ_ij."""
    d = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    d = (d / d.norm(dim=1, keepdim=True)).float()
    y = SphericalHarmonics()(d).double()
    gram = 4 * math.pi * y.T @ y / len(d)
    assert torch.allclose(gram, torch.eye(16, dtype=torch.float64), atol=0.03)


@pytest.mark.parametrize(
    "settings",
    [{"depth": 0}, {"width": 0}, {"activation": "swish"}, {"skips": [0]}, {"skips": [4]}, {"weights": WeightSpec("x")}],
)
def test_bad_networks(settings):
    with pytest.raises(SinefieldError):
        MLP(3, 1, **settings)
