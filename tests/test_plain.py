"""The network in NumPy alone against its torch twin, and against finite differences in double precision."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from sinefield.config import ShapeFieldConfig
from sinefield.errors import SinefieldError
from sinefield.fields.shape.field import ShapeField
from sinefield.nn.mlp import activate
from sinefield.plain.network import PlainNetwork

WEIGHTS = ["dense", "lowrank", "sine"]
ACTIVATIONS = ["relu", "leaky_relu", "gaussian", "sine", "softplus"]


def field_of(**settings):
    torch.manual_seed(0)
    config = ShapeFieldConfig(**{"width": 24, "depth": 4, "rank": 5, "frequencies": 3, "bound": 1.0, **settings})
    return ShapeField(config, torch.zeros(3), torch.tensor(1.0), torch.zeros(6))


def arrays_of(field):
    return {name: tensor.numpy() for name, tensor in field.state_dict().items()}


def twin(field, x, dtype):
    """Values and gradients by torch."""
    field = field.to(dtype)
    scales = field.encoding.scales
    x = x.to(dtype).requires_grad_()
    # The encoding's own lines round to float32.
    phases = (x[:, None, :] * scales[:, None]).flatten(1)
    matrices = [weight() for weight in field.network.weights]
    field.network.dtype = dtype
    encoded = torch.cat([x, torch.sin(phases), torch.cos(phases)], dim=1)
    h = activate(encoded @ matrices[0].T + field.network.biases[0], field.network.activation)
    for i in range(1, len(matrices) - 1):
        if i in field.network.skips:
            h = torch.cat([h, encoded], dim=1)
        h = activate(h @ matrices[i].T + field.network.biases[i], field.network.activation)
    out = (h @ matrices[-1].T + field.network.biases[-1])[:, 0]
    (gradient,) = torch.autograd.grad(out.sum(), x)
    return out.detach().double().numpy(), gradient.double().numpy()


@pytest.mark.parametrize(("weights", "activation"), list(itertools.product(WEIGHTS, ACTIVATIONS)))
@pytest.mark.parametrize("skips", [[], [1, 3]])
def test_values_and_gradients_are_those_of_torch(weights, activation, skips):
    settings = {"phase": 0.7 if skips else 2.5} if weights == "sine" else {}
    field = field_of(weights=weights, activation=activation, skips=skips, sigma=0.4, omega0=12.0, **settings)
    network = PlainNetwork(field.config, arrays_of(field))
    x = torch.rand(3000, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        reference = field.network.reference(field.encoding.reference(x))[:, 0].double().numpy()
    values, gradients = network.with_gradient(x.numpy())
    assert np.array_equal(values, network(x.numpy())[:, 0])
    single, single_slope = twin(field, x, torch.float32)
    double, double_slope = twin(field, x, torch.float64)
    size, steepness = np.abs(double).max(), np.abs(double_slope).max()
    assert np.abs(values - reference).max() <= 4e-6 * size
    # Single precision rounds in torch as it does here: neither is much further from the truth than the other.
    assert np.abs(values - double).max() <= 2 * np.abs(single - double).max() + 1e-6 * size
    # At a kink the two precisions may be on different sides of it.
    off = np.sort(np.abs(gradients - double_slope).max(axis=1))[: -len(x) // 500]
    of_torch = np.sort(np.abs(single_slope - double_slope).max(axis=1))[: -len(x) // 500]
    assert off.max() <= 2 * of_torch.max() + 1e-6 * steepness


@pytest.mark.parametrize("settings", [{"omega": 20.0}, {"phase": 1.5, "bound": 4.0}, {"frequencies": 0}, {"depth": 1}])
def test_settings_of_sine_weights_and_sizes(settings):
    field = field_of(**settings)
    x = torch.rand(100, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        reference = field.network.reference(field.encoding.reference(x)).numpy()
    found = PlainNetwork(field.config, arrays_of(field))(x.numpy())
    np.testing.assert_allclose(found, reference, rtol=0, atol=4e-6 * np.abs(reference).max())


def test_extreme_preactivations_stay_finite():
    """Softplus of ±1e4 is 1e4 and 0; a Gaussian of 1e4 is 0."""
    for activation in ("softplus", "gaussian"):
        config = ShapeFieldConfig(width=2, depth=1, weights="dense", frequencies=0, activation=activation)
        arrays = {
            "network.weights.0.weight": np.array([[1e4, 0, 0], [-1e4, 0, 0]]),
            "network.weights.1.weight": np.array([[1.0, 0.0]]),
            "network.biases.0": np.zeros(2),
            "network.biases.1": np.zeros(1),
        }
        values, gradients = PlainNetwork(config, arrays).with_gradient(np.array([[1.0, 0, 0], [-1.0, 0, 0]]))
        right = [1e4, 0] if activation == "softplus" else [0, 0]
        assert values.tolist() == right
        assert gradients[:, 0].tolist() == right  # softplus: slope 1 and 0 times the weight 1e4


def test_chunks_and_no_points():
    field = field_of()
    network = PlainNetwork(field.config, arrays_of(field))
    x = np.random.default_rng(0).uniform(-1, 1, (100, 3))
    whole = network.with_gradient(x)
    network.chunk = 7
    parts = network.with_gradient(x)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(one).max())
    assert network(np.zeros((0, 3))).shape == (0, 1)
    assert network.with_gradient(np.zeros((0, 3)))[1].shape == (0, 3)


def test_what_does_not_fit_is_refused():
    field = field_of()
    arrays = arrays_of(field)
    missing = {name: array for name, array in arrays.items() if name != "network.weights.2.u"}
    with pytest.raises(SinefieldError, match=r"network\.weights\.2\.u is missing"):
        PlainNetwork(field.config, missing)
    for name in ("network.biases.4", "network.weights.0.weight"):
        with pytest.raises(SinefieldError, match=f"{name} is missing"):
            PlainNetwork(field.config, {key: array for key, array in arrays.items() if key != name})
    with pytest.raises(SinefieldError, match="settings ask for"):
        PlainNetwork(field.config, arrays | {"network.weights.1.v": np.zeros((5, 23))})
    with pytest.raises(SinefieldError, match="does not fit 3 octaves"):
        PlainNetwork(field.config, arrays | {"network.weights.0.weight": np.zeros((24, 3))})
    with pytest.raises(SinefieldError, match="hash"):
        PlainNetwork(ShapeFieldConfig(encoding="hash"), arrays)
    field.config.weights = "circulant"
    with pytest.raises(SinefieldError, match="weights are circulant"):
        PlainNetwork(field.config, arrays)


def test_nothing_slow_is_imported():
    lines = [
        "import sys, sinefield.plain.network, sinefield.plain.distance",
        "print([m for m in ('torch', 'numba', 'trimesh', 'scipy', 'skimage') if m in sys.modules])",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
