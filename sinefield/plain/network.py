"""A field's network in NumPy alone: values and gradients of small batches, where importing torch would take seconds.

The twin of `encodings.Frequency.reference` followed by `mlp.MLP.reference`, in float32, with the reverse mode written
out by hand. It reads the arrays of a state dict by their names, and the settings of any `NetworkConfig`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sinefield.config import NetworkConfig, ShapeFieldConfig
from sinefield.errors import SinefieldError
from sinefield.plain.hash_grid import FEATURES, PlainGrid

Array = np.ndarray
LEAK, BETA = np.float32(0.01), np.float32(100.0)
CHUNK_NUMBERS = 1 << 17
"""Numbers of one layer's output that are at work at once: half a megabyte, so that a layer stays in the cache."""


class PlainNetwork:
    """A frequency encoding and a multilayer perceptron, materialised once and then evaluated in NumPy.

    Args:
        config: the field's settings.
        arrays: by name, those of the field's state dict; others are left alone.
        prefix: what the names of the network's arrays begin with.
        grid: what encodes the points of a field with trained feature grids.

    Raises:
        SinefieldError: the encoding is a hash grid and no `grid` is given, the weights are of a kind registered from
            outside, or an array is missing or does not fit the settings.

    Examples:
        >>> import numpy as np
        >>> from sinefield.config import ShapeFieldConfig
        >>> config = ShapeFieldConfig(width=4, depth=1, weights="dense", frequencies=0)
        >>> arrays = {"network.weights.0.weight": np.eye(4, 3), "network.biases.0": np.zeros(4)}
        >>> arrays |= {"network.weights.1.weight": np.ones((1, 4)), "network.biases.1": np.zeros(1)}
        >>> PlainNetwork(config, arrays)(np.array([[1.0, 2.0, 3.0]]))
        array([[6.]], dtype=float32)
    """

    def __init__(
        self,
        config: NetworkConfig,
        arrays: Mapping[str, Array],
        prefix: str = "network.",
        grid: PlainGrid | None = None,
    ) -> None:
        self.grid = grid
        if config.encoding != "frequency" and grid is None:
            raise SinefieldError(f"encoding is {config.encoding}; without torch only frequency can be evaluated")
        self.activation = ACTIVATIONS[config.activation](config)
        self.skips = frozenset(config.skips)
        self.scales = np.array([math.pi * 2.0**octave for octave in range(config.frequencies)], np.float32)
        self.matrices, self.biases = _layers(config, _Arrays(arrays, prefix))
        inputs, seen = self.matrices[0].shape[1], 1 + 2 * len(self.scales)
        self.dimensions, rest = divmod(inputs, seen) if grid is None else (3, inputs - FEATURES * len(grid.levels))
        if rest:
            raise SinefieldError(
                f"{prefix}weights.0.weight does not fit {config.frequencies} octaves; the file is damaged"
            )
        self.chunk = max(CHUNK_NUMBERS // max(len(matrix) for matrix in self.matrices), 1)

    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n out"]:
        """Output at points in [−1, 1]^d; float32."""
        x = np.asarray(x, np.float32)
        out = np.empty((len(x), len(self.matrices[-1])), np.float32)
        for start in range(0, len(x), self.chunk):
            part = slice(start, start + self.chunk)
            out[part] = self._forward(self._encoded(x[part])[0])[0]
        return out

    def with_gradient(self, x: Float[Array, "n d"], channel: int = 0) -> tuple[Float[Array, "n"], Float[Array, "n d"]]:
        """One channel of the output, and its gradient with respect to the points; float32."""
        x = np.asarray(x, np.float32)
        values, gradients = np.empty(len(x), np.float32), np.empty(x.shape, np.float32)
        for start in range(0, len(x), self.chunk):
            part = slice(start, start + self.chunk)
            encoded, sines, cosines = self._encoded(x[part])
            out, slopes = self._forward(encoded, keep=True)
            values[part] = out[:, channel]
            gradients[part] = self._to_points(self._backward(slopes, channel), sines, cosines)
        return values, gradients

    def _encoded(self, x: Array) -> tuple[Array, Array, Array]:
        """What the network sees of points, and its sines and cosines; of a grid its slopes, twice."""
        if self.grid is not None:
            features, slopes = self.grid(x)
            return features, slopes, slopes
        phases = (x[:, None, :] * self.scales[:, None]).reshape(len(x), -1)
        sines, cosines = np.sin(phases), np.cos(phases)
        return np.concatenate([x, sines, cosines], axis=1), sines, cosines

    def _to_points(self, g: Array, sines: Array, cosines: Array) -> Array:
        """Gradient of the encoding into that of the points."""
        if self.grid is not None:
            return np.einsum("ne,nea->na", g, sines)
        d, waves = self.dimensions, sines.shape[1]
        turned = g[:, d : d + waves] * cosines - g[:, d + waves :] * sines
        by_octave = turned.reshape(len(g), -1, d) * self.scales[:, None]
        return g[:, :d] + by_octave.sum(axis=1)

    def _forward(self, inputs: Array, keep: bool = False) -> tuple[Array, list[Array]]:
        """Output, and where `keep` says so the activation's derivative at each hidden layer."""
        h, slopes, last = inputs, [], len(self.matrices) - 1
        for i, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            if i in self.skips:
                h = np.concatenate([h, inputs], axis=1)
            h = h @ matrix.T
            h += bias
            if i < last:
                if keep:
                    slopes.append(self.activation.slope(h))
                h = self.activation.value(h)
        return h, slopes

    def _backward(self, slopes: list[Array], channel: int) -> Array:
        """Gradient of one output with respect to what the network sees."""
        g, of_inputs = self.matrices[-1][channel] * slopes[-1], 0.0
        for i in range(len(self.matrices) - 2, 0, -1):
            g = g @ self.matrices[i]
            if i in self.skips:
                width = slopes[i - 1].shape[1]
                of_inputs, g = of_inputs + g[:, width:], g[:, :width]
            g = g * slopes[i - 1]
        return g @ self.matrices[0] + of_inputs


def _factors(rows: int, columns: int, rank: int) -> dict[str, tuple[int, ...]]:
    return {"u": (rows, rank), "v": (rank, columns)}


STORED: dict[str, Callable[[int, int, int], dict[str, tuple[int, ...]]]] = {
    "dense": lambda rows, columns, rank: {"weight": (rows, columns)},
    "lowrank": _factors,
    "sine": _factors,
}
"""Names and shapes of what a hidden matrix is stored as."""


@dataclass(frozen=True)
class _Arrays:
    """Arrays by name, which complain where one is missing or has another shape than it should."""

    arrays: Mapping[str, Array]
    prefix: str

    def any(self, name: str, axes: int) -> Array:
        """An array of any sizes."""
        if self.prefix + name not in self.arrays:
            raise SinefieldError(f"{self.prefix}{name} is missing; the file is damaged or of another version")
        array = np.ascontiguousarray(self.arrays[self.prefix + name], np.float32)
        if array.ndim != axes:
            raise SinefieldError(f"{self.prefix}{name} has the shape {array.shape}; the file is damaged")
        return array

    def take(self, name: str, *shape: int) -> Array:
        """An array of just these sizes."""
        array = self.any(name, len(shape))
        if array.shape != shape:
            raise SinefieldError(
                f"{self.prefix}{name} has the shape {array.shape}, its settings ask for {shape}; the file is damaged"
            )
        return array


def _layers(config: NetworkConfig, arrays: _Arrays) -> tuple[list[Array], list[Array]]:
    """All matrices (out, in) and biases of a network; the first and the last matrix are dense."""
    width, depth = config.width, config.depth
    # The settings say neither how many numbers go in nor how many come out.
    inputs, outputs = arrays.any("weights.0.weight", 2).shape[1], len(arrays.any(f"biases.{depth}", 1))
    matrices = [arrays.take("weights.0.weight", width, inputs)]
    for i in range(1, depth):
        matrices.append(_hidden(config, arrays, i, width + (inputs if i in config.skips else 0)))
    matrices.append(arrays.take(f"weights.{depth}.weight", outputs, width))
    return matrices, [arrays.take(f"biases.{i}", len(matrix)) for i, matrix in enumerate(matrices)]


def _hidden(config: NetworkConfig, arrays: _Arrays, i: int, n: int) -> Array:
    """The i-th matrix, of `n` inputs: see `start` and `matrix` of the classes in `weights`."""
    if config.weights not in STORED:
        raise SinefieldError(
            f"weights are {config.weights}; without torch only dense, lowrank and sine can be evaluated"
        )
    width, siren, root = config.width, config.activation == "sine", math.sqrt(n)
    if config.weights == "dense":
        return arrays.take(f"weights.{i}.weight", width, n)
    u, v = arrays.take(f"weights.{i}.u", width, config.rank), arrays.take(f"weights.{i}.v", config.rank, n)
    if config.weights == "lowrank":
        return np.float32(3 * math.sqrt(2) / config.omega0 if siren else 1.0) * (u @ v)
    phase = 2.5 if config.phase is None else config.phase
    omega = 3 * root * phase if config.omega is None else config.omega
    gain = (root * config.omega0 / 2 if siren else root) / config.bound
    return np.sin(np.float32(omega) * (u @ v)) / np.float32(gain)


@dataclass(frozen=True)
class PlainActivation:
    """An elementwise function and its derivative, both of the preactivation; `value` may overwrite it."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]


def _relu(_: NetworkConfig) -> PlainActivation:
    return PlainActivation(lambda z: np.maximum(z, 0, out=z), lambda z: (z > 0).astype(np.float32))


def _leaky_relu(_: NetworkConfig) -> PlainActivation:
    return PlainActivation(lambda z: np.maximum(z, LEAK * z, out=z), lambda z: np.where(z > 0, np.float32(1), LEAK))


def _gaussian(config: NetworkConfig) -> PlainActivation:
    sharpness = np.float32(1 / config.sigma**2)

    def value(z: Array) -> Array:
        return np.exp(z * z * np.float32(-0.5 / config.sigma**2))

    return PlainActivation(value, lambda z: -sharpness * z * value(z))


def _sine(config: NetworkConfig) -> PlainActivation:
    omega = np.float32(config.omega0)
    return PlainActivation(lambda z: np.sin(omega * z), lambda z: omega * np.cos(omega * z))


def _softplus(_: NetworkConfig) -> PlainActivation:
    # max(z, 0) + log(1 + exp(−β|z|)) / β does not overflow.
    def value(z: Array) -> Array:
        return np.maximum(z, 0) + np.log1p(np.exp(-BETA * np.abs(z))) / BETA

    def slope(z: Array) -> Array:
        e = np.exp(-BETA * np.abs(z))
        return np.where(z > 0, np.float32(1), e) / (1 + e)

    return PlainActivation(value, slope)


ACTIVATIONS: dict[str, Callable[[NetworkConfig], PlainActivation]] = {
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "gaussian": _gaussian,
    "sine": _sine,
    "softplus": _softplus,
}


def parameter_shapes(
    config: NetworkConfig, dimensions: int = 3, outputs: int = 1, prefix: str = "network."
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters of a field with one network, in the order of torch's `named_parameters`.

    Raises:
        SinefieldError: what `PlainNetwork` refuses.
    """
    if config.encoding != "frequency" or config.weights not in STORED:
        raise SinefieldError(f"{config.encoding} encoding with {config.weights} weights needs torch")
    inputs, width = dimensions * (1 + 2 * config.frequencies), config.width
    shapes: dict[str, tuple[int, ...]] = {f"{prefix}weights.0.weight": (width, inputs)}
    for i in range(1, config.depth):
        columns = width + (inputs if i in config.skips else 0)
        for name, shape in STORED[config.weights](width, columns, config.rank).items():
            shapes[f"{prefix}weights.{i}.{name}"] = shape
    shapes[f"{prefix}weights.{config.depth}.weight"] = (outputs, width)
    sizes = [*([width] * config.depth), outputs]
    return shapes | {f"{prefix}biases.{i}": (size,) for i, size in enumerate(sizes)}


def shape_parameters(config: ShapeFieldConfig) -> dict[str, tuple[int, ...]]:
    """`parameter_shapes` of a shape field, of its colours too; raises as it does."""
    shapes, colours = parameter_shapes(config, outputs=config.outputs), config.colour_network
    return shapes if colours is None else shapes | parameter_shapes(colours, outputs=3, prefix="colour_network.")
