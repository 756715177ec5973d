"""A multilayer perceptron over any kind of weight."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sinefield.config import NetworkConfig
from sinefield.errors import SinefieldError
from sinefield.kernels.choose import Choice, choose
from sinefield.kernels.inputs import BETA, LEAK, Activation, Network
from sinefield.kernels.workspace import Pool
from sinefield.nn.weights import Dense, Weight, WeightSpec, drawn

ACTIVATIONS = ("relu", "leaky_relu", "gaussian", "sine", "softplus")


class MLP(nn.Module):
    """`depth` hidden layers of `width` units; first and last matrix dense, those between as `weights` says.

    Layer i computes act(W_i h + b_i); the last one is linear. At the hidden layers in `skips` (counted from 0,
    never 0) the input is concatenated to the hidden state first. Matrices (out, in) and biases:
    in→width, (depth − 1) × width→width (or width + in→width at a skip), width→out. So a
    network without skips and with rank-k hidden weights has
    (in + 1)·width + (depth − 1)·(2·k·width + width) + (width + 1)·out parameters.

    The first layer runs in the dtype of its input (bare coordinates do not survive bf16, a frequency encoding
    does); the hidden layers run in `dtype`; the output is float32. `reference` is the definition; what runs instead of
    it may be differentiable once only: set `twice_differentiable` where a loss contains gradients. `backend` is
    "tinycudann" where that is to run the network while `dtype` is float16, which is its own.

    Args:
        activation: "relu", "leaky_relu" (slope 0.01), "softplus" (β=100), "gaussian" exp(−x²/2σ²) or
            "sine" sin(ω₀x) with SIREN's initialisation (Sitzmann et al., NeurIPS 2020).
        sigma: σ of the Gaussian activation.
        omega0: ω₀ of the sine activation.
    """

    @classmethod
    def of(cls, config: NetworkConfig, in_features: int, out_features: int) -> "MLP":
        """The network that a field's settings describe, between inputs and outputs of their own widths."""
        spec = WeightSpec(config.weights, config.rank, config.omega, config.phase, config.bound)
        sizes = (config.width, config.depth, spec, config.activation, config.skips, config.sigma, config.omega0)
        return cls(in_features, out_features, *sizes)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        width: int = 64,
        depth: int = 4,
        weights: WeightSpec | None = None,
        activation: str = "relu",
        skips: Sequence[int] = (),
        sigma: float = 0.1,
        omega0: float = 30.0,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise SinefieldError(f"unknown activation {activation!r}; one of {', '.join(ACTIVATIONS)}")
        if depth < 1 or width < 1:
            raise SinefieldError(f"a network needs depth and width of at least 1, got depth {depth}, width {width}")
        if any(not 0 < s < depth for s in skips):
            raise SinefieldError(f"skips {list(skips)} must lie between 1 and depth − 1 = {depth - 1}")
        spec = weights or WeightSpec()
        self.skips = frozenset(skips)
        self.activation = Activation(activation, sigma, omega0)
        self.needs = frozenset({activation, "skips"} if skips else {activation})
        self.pool = Pool()
        self.twice_differentiable = False
        self.backend = "auto"
        self.dtype = torch.float32
        siren = activation == "sine"
        layers: list[Weight] = [Dense(width, in_features, bound=1 / in_features if siren else None)]
        for i in range(1, depth):
            layers.append(spec.make(width, width + (in_features if i in self.skips else 0), activation, omega0))
        layers.append(Dense(out_features, width, bound=math.sqrt(6 / width) / omega0 if siren else None))
        self.weights = nn.ModuleList(layers)
        self.biases = nn.ParameterList(
            nn.Parameter(drawn(torch.empty(w.out_features), 1, math.sqrt(w.in_features))) for w in layers
        )

    @property
    def input_dtype(self) -> torch.dtype:
        """What trained inputs are to be given in: tinycudann rounds them, their gradient scaled."""
        return self.dtype if self.backend == "auto" else torch.float32

    def choice(self, op: str, x_dtype: torch.dtype, device: torch.device) -> Choice:
        """The implementation of an operation on this network, whose input is of a dtype, on a device."""
        asked = self.backend if self.dtype == torch.float16 else "auto"
        mixed = asked == "auto" and x_dtype != self.dtype
        needs = self.needs | {"layers of two dtypes"} if mixed else self.needs
        return choose(op, device, self.dtype, 1 + self.twice_differentiable, asked, needs)

    def tensors(self) -> Network:
        """All layers as operations take them."""
        matrices = [weight() for weight in self.weights]
        return Network(matrices, list(self.biases), self.activation, self.skips, self.dtype, self.pool)

    def forward(self, x: Float[Tensor, "n in"]) -> Float[Tensor, "n out"]:
        net, run = self.tensors(), self.choice("network", x.dtype, x.device).function
        return self.reference(x, net.matrices) if run is None else run(x, net)

    def reference(self, x: Float[Tensor, "n in"], matrices: Sequence[Tensor] | None = None) -> Float[Tensor, "n out"]:
        """The network in plain torch, for any device and any number of derivatives."""
        matrices = [weight() for weight in self.weights] if matrices is None else matrices
        h = F.linear(x, matrices[0].to(x.dtype), self.biases[0].to(x.dtype))
        h = activate(h, self.activation).to(self.dtype)
        inputs = x.to(self.dtype) if self.skips else None
        for i in range(1, len(matrices) - 1):
            if inputs is not None and i in self.skips:
                h = torch.cat([h, inputs], dim=1)
            h = activate(F.linear(h, matrices[i].to(self.dtype), self.biases[i].to(self.dtype)), self.activation)
        return F.linear(h, matrices[-1].to(self.dtype), self.biases[-1].to(self.dtype)).float()

    def hidden_matrices(self) -> list[nn.Parameter]:
        """Matrices among the parameters of the hidden weights: the ones Muon takes."""
        return [p for w in list(self.weights)[1:-1] for p in w.parameters() if p.dim() == 2]


def activate(x: Float[Tensor, "*n"], activation: Activation) -> Float[Tensor, "*n"]:
    """The activation of every number."""
    if activation.name == "relu":
        return F.relu(x)
    if activation.name == "leaky_relu":
        return F.leaky_relu(x, LEAK)
    if activation.name == "softplus":
        return F.softplus(x, beta=BETA)
    if activation.name == "gaussian":
        return torch.exp(x * x * (-0.5 / activation.sigma**2))
    return torch.sin(activation.omega0 * x)


def count_parameters(module: nn.Module) -> int:
    """Number of trainable numbers in a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
