"""Our networks and hash grids by tiny-cuda-nn (package `tinycudann`), held against their torch twins.

Nothing is trained in tinycudann's own parameters: each call hands it one flat vector made from our matrices, however
these are stored, and autograd carries the gradient back to the factors. It computes networks in fp16, grids in fp32.

Its networks have no biases. A unit whose value is 1 carries ours, at the price of that unit: a network of width w runs
as one of the next width that holds w + 1, so 15, 31, 63 and 127 units cost nothing more.

Its grids differ from ours in how levels grow (cells need not be whole), in a shift by half a cell, in which axis of a
dense level varies fastest and in padding. One level of theirs, asked for with our number of cells and given shifted
coordinates, is one of ours up to rounding; so a hash grid is one call a level.

Written from its sources and documentation; docs/results/gpu.md says what of this has run on a GPU.
"""

import math
import warnings
from collections.abc import Sequence
from functools import cache, partial
from types import ModuleType

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sinefield.nn.hashgrid import FEATURES, HashGrid
from sinefield.nn.mlp import MLP
from sinefield.nn.weights import WeightSpec

ACTIVATIONS = {"relu": "ReLU", "leaky_relu": "LeakyReLU"}
"""Ours that it has too, with the same constants, and that leave 1 at 1."""
FUSED_WIDTHS = (16, 32, 64, 128)
BLOCK = 16
"""Inputs, outputs and CutlassMLP's width are padded to a multiple of so many."""
LOSS_SCALE = 1024.0
"""What gradients are multiplied by on their way through fp16."""


@cache
def why_not_tinycudann(device: str = "cuda") -> str | None:
    """None where a small network and grid gave the torch twins' values and gradients, else the reason in a line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it was built for an older GPU is no reason
            _trial(device)
    except ImportError as error:
        return f"not installed ({error})"
    except Exception as error:  # without a device its import raises EnvironmentError; kernels can fail in any way
        return " ".join(str(error).split())[:160] or type(error).__name__
    return None


def why_not_network(
    activation: str, skips: Sequence[int], bare_coordinates: bool = False, second_gradients: bool = False
) -> str | None:
    """None where tinycudann can run such a network, else the reason.

    Args:
        bare_coordinates: the input is not encoded.
        second_gradients: the loss holds gradients of the output.
    """
    if activation not in ACTIVATIONS:
        return f"it has no activation like {activation}; {' or '.join(ACTIVATIONS)}"
    if skips:
        return "it has no skips"
    if bare_coordinates:
        return "fp16 is too coarse for bare coordinates; set field.frequencies or field.encoding"
    return "its networks have no second gradients, which training.eikonal needs" if second_gradients else None


def padded_width(width: int) -> int:
    """Units that a layer has there: `width` and the unit that is 1, filled up to what a kernel exists for."""
    return next((w for w in FUSED_WIDTHS if w > width), _filled(width + 1))


def pack(matrices: Sequence[Tensor], biases: Sequence[Tensor]) -> Float[Tensor, "n"]:
    """Matrices (out, in) and biases of a network as tinycudann's flat parameters, differentiable.

    Its layout: (width, in), (width, width) …, (out, width), row by row and one after another; in, out and width are
    padded to multiples of 16, and it feeds padded inputs with 1. Here the input after the last of ours is such a 1. It
    carries the first biases and makes the unit after the last of ours 1, which every layer passes on to the next.
    """
    width, flat = padded_width(len(matrices[0])), []
    for i, (matrix, bias) in enumerate(zip(matrices, biases, strict=True)):
        rows, columns = matrix.shape
        last = i == len(matrices) - 1
        height, breadth = _filled(rows) if last else width, _filled(columns + 1) if i == 0 else width
        block = F.pad(torch.cat([matrix, bias[:, None]], dim=1), (0, breadth - columns - 1, 0, height - rows))
        if not last:
            one = torch.zeros_like(block)
            one[rows, columns].fill_(1)
            block = block + one
        flat.append(block.flatten())
    return torch.cat(flat)


def _filled(n: int) -> int:
    return math.ceil(n / BLOCK) * BLOCK


class TinyNetwork:
    """Runs an `MLP` whose `why_not_network` is None: FullyFusedMLP up to 127 units, CutlassMLP beyond.

    Called with the points, the matrices and the biases; float32 output. Gradients reach all three.
    """

    def __init__(self, network: MLP) -> None:
        width = network.weights[0].out_features
        self.inputs = network.weights[0].in_features
        # Padding brings the 1 along; where there is none the network is given a column of its own.
        self.own_one = self.inputs % BLOCK == 0
        self.outputs = network.weights[-1].out_features
        padded = padded_width(width)
        self.net = _tinycudann().Network(
            self.inputs + self.own_one,
            self.outputs,
            {
                "otype": "FullyFusedMLP" if padded in FUSED_WIDTHS else "CutlassMLP",
                "activation": ACTIVATIONS[network.activation.name],
                "output_activation": "None",
                "n_neurons": padded,
                "n_hidden_layers": len(network.weights) - 1,
            },
        )
        _settle(self.net)

    def __call__(
        self, x: Float[Tensor, "n in"], matrices: Sequence[Tensor], biases: Sequence[Tensor]
    ) -> Float[Tensor, "n out"]:
        if len(x) == 0:
            return x.new_zeros(0, self.outputs, dtype=torch.float32)
        flat, x = pack(matrices, biases).float(), x.float()
        if self.own_one:
            x = F.pad(x, (0, 1), value=1.0)
        # Gradients are fp16 between these: small ones would be lost. The scale is undone where they are float32 again.
        flat, x = (_Scaled.apply(v, 1 / LOSS_SCALE) for v in (flat, x))
        out = torch.func.functional_call(self.net, {"params": flat}, (x,))
        return _Scaled.apply(out.float(), LOSS_SCALE)


class TinyGrid:
    """Runs a `HashGrid`, float32, level by level.

    Called with points in [−1, 1]³ and the table; gradients reach the table.
    """

    def __init__(self, grid: HashGrid) -> None:
        self.levels = []
        for n, size, offset in grid.levels:
            dense = size == (n + 1) ** 3
            level = _tinycudann().Encoding(
                3,
                {
                    "otype": "HashGrid",
                    "n_levels": 1,
                    "n_features_per_level": FEATURES,
                    # Of corners, not cells, along each side.
                    "base_resolution": n + 1,
                    "log2_hashmap_size": 30 if dense else size.bit_length() - 1,
                    "per_level_scale": 2.0,
                    "interpolation": "Linear",
                },
                dtype=torch.float32,
            )
            _settle(level)
            self.levels.append((level, n, size, offset, dense))

    def __call__(self, x: Float[Tensor, "n 3"], table: Float[Tensor, "entries 2"]) -> Float[Tensor, "n e"]:
        if len(x) == 0:
            return x.new_zeros(0, FEATURES * len(self.levels), dtype=torch.float32)
        unit = (x.float() * 0.5 + 0.5).clamp(0, 1)
        turned = unit.flip(1)  # a dense level's first axis varies fastest there, its last one here
        parts = []
        for level, n, size, offset, dense in self.levels:
            # It looks at n·x + ½.
            at = (turned if dense else unit) - 0.5 / n
            entries = F.pad(table[offset : offset + size].flatten(), (0, FEATURES * (-size % 8)))
            parts.append(torch.func.functional_call(level, {"params": entries}, (at,)))
        return torch.cat(parts, dim=1)


class _Scaled(torch.autograd.Function):
    """The same values; the gradient times a number."""

    @staticmethod
    def forward(ctx, x, scale):
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.scale, None


def _tinycudann() -> ModuleType:
    import tinycudann

    return tinycudann


def _settle(module: torch.nn.Module) -> None:
    """No scale of gradients of its own, applied when fp16 has lost them; no run-time fusion, which rewrites them."""
    module.loss_scale = 1.0
    if hasattr(module, "jit_fusion"):
        module.jit_fusion = False


def _trial(device: str) -> None:
    _tinycudann()
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MLP(20, 3, width=15, depth=3, weights=WeightSpec("sine", rank=2), activation="relu").to(device)
        grid = HashGrid(levels=3, log2_table=9, coarsest=4, finest=32).to(device)
    x = (torch.rand(300, 20, generator=generator) * 2 - 1).to(device)
    tiny = TinyNetwork(network)
    by_tiny = _outcome(lambda: tiny(x, [w() for w in network.weights], list(network.biases)), network)
    _compare("network", by_tiny, _outcome(partial(network.reference, x), network), 0.02)
    points = x[:, :3].contiguous()
    encode = TinyGrid(grid)
    by_tiny = _outcome(lambda: encode(points, grid.table), grid)
    _compare("hash grid", by_tiny, _outcome(partial(grid.reference, points), grid), 1e-3)


def _outcome(call, module: torch.nn.Module) -> list[Tensor]:
    """The output, and the gradient of its mean square in every parameter."""
    out = call()
    return [out.detach(), *torch.autograd.grad(out.square().mean(), list(module.parameters()))]


def _compare(what: str, ours: list[Tensor], truth: list[Tensor], tolerance: float) -> None:
    for a, b in zip(ours, truth, strict=True):
        off = float((a.float() - b).abs().max() / b.abs().max().clamp(min=1e-12))
        if not off <= tolerance:
            raise RuntimeError(f"its {what} is off the torch twin's by {off:.2g} of the largest number")
