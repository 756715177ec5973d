"""Networks and hash grids by tiny-cuda-nn (package `tinycudann`), held against the compiled ones of the CPU.

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
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sinefield.kernels.inputs import Activation, Levels, Network

ACTIVATIONS = {"relu": "ReLU", "leaky_relu": "LeakyReLU"}
"""Ours that it has too, with the same constants, and that leave 1 at 1."""
FUSED_WIDTHS = (16, 32, 64, 128)
BLOCK = 16
"""Inputs, outputs and CutlassMLP's width are padded to a multiple of so many."""
LOSS_SCALE = 1024.0
"""What gradients are multiplied by on their way through fp16."""


@cache
def why_not(dtype: torch.dtype | None = None, device: str = "cuda") -> str | None:
    """None where a small network and grid gave the CPU's values and gradients, else the reason in a line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it was built for an older GPU is no reason
            with torch.enable_grad():  # the first call may come from rendering
                _try_on(torch.device(device))
    except ImportError as error:
        return f"not installed ({error})"
    except Exception as error:  # without a device its import raises EnvironmentError; kernels can fail in any way
        return " ".join(str(error).split())[:160] or type(error).__name__
    return None


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


@cache
def _network(inputs: int, outputs: int, width: int, hidden: int, activation: str) -> Any:
    """Its module for a network of such sizes: FullyFusedMLP up to 127 units, CutlassMLP beyond."""
    padded = padded_width(width)
    settings = {
        "otype": "FullyFusedMLP" if padded in FUSED_WIDTHS else "CutlassMLP",
        "activation": ACTIVATIONS[activation],
        "output_activation": "None",
        "n_neurons": padded,
        "n_hidden_layers": hidden,
    }
    return _settled(_tinycudann().Network(inputs, outputs, settings))


def network(x: Float[Tensor, "n in"], net: Network) -> Float[Tensor, "n out"]:
    """float32 outputs, computed in fp16; gradients reach the points, the matrices and the biases."""
    width, inputs, outputs = len(net.matrices[0]), x.shape[1], len(net.matrices[-1])
    if len(x) == 0:
        return x.new_zeros(0, outputs, dtype=torch.float32)
    flat, x = pack(net.matrices, net.biases).float(), x.float()
    own_one = inputs % BLOCK == 0  # padding brings the 1 along; where there is none the network has a column of its own
    if own_one:
        x = F.pad(x, (0, 1), value=1.0)
    # Gradients are fp16 between these: small ones would be lost. The scale is undone where they are float32 again.
    flat, x = (_Scaled.apply(v, 1 / LOSS_SCALE) for v in (flat, x))
    module = _network(inputs + own_one, outputs, width, len(net.matrices) - 1, net.activation.name)
    out = torch.func.functional_call(module, {"params": flat}, (x,))
    return _Scaled.apply(out.float(), LOSS_SCALE)


@cache
def _level(n: int, size: int, features: int) -> Any:
    """Its encoding for one level of n cells along a side."""
    settings = {
        "otype": "HashGrid",
        "n_levels": 1,
        "n_features_per_level": features,
        # Of corners, not cells, along each side.
        "base_resolution": n + 1,
        "log2_hashmap_size": 30 if _dense(n, size) else size.bit_length() - 1,
        "per_level_scale": 2.0,
        "interpolation": "Linear",
    }
    return _settled(_tinycudann().Encoding(3, settings, dtype=torch.float32))


def _dense(n: int, size: int) -> bool:
    return size == (n + 1) ** 3


def hashgrid(x: Float[Tensor, "n 3"], table: Float[Tensor, "entries f"], levels: Levels) -> Float[Tensor, "n e"]:
    """Interpolated features of points, float32, level by level; the gradient reaches the table."""
    features = table.shape[1]
    if len(x) == 0:
        return x.new_zeros(0, features * len(levels.plain), dtype=torch.float32)
    unit = (x.float() * 0.5 + 0.5).clamp(0, 1)
    turned = unit.flip(1)  # a dense level's first axis varies fastest there, its last one here
    parts = []
    for n, size, offset in levels.plain:
        # It looks at n·x + ½.
        at = (turned if _dense(n, size) else unit) - 0.5 / n
        entries = F.pad(table[offset : offset + size].flatten(), (0, features * (-size % 8)))
        parts.append(torch.func.functional_call(_level(n, size, features), {"params": entries}, (at,)))
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


def _settled(module: Any) -> torch.nn.Module:
    """No scale of gradients of its own, applied when fp16 has lost them; no run-time fusion, which rewrites them."""
    module.loss_scale = 1.0
    if hasattr(module, "jit_fusion"):
        module.jit_fusion = False
    return module


def _try_on(device: torch.device) -> None:
    """Raise where its numbers are not those of the CPU, a network's first, then those of a grid of three levels."""
    from sinefield.kernels.cpu import hashgrid as grids
    from sinefield.kernels.cpu import layers
    from sinefield.kernels.workspace import Pool

    _tinycudann()
    generator = torch.Generator().manual_seed(0)
    sizes, act = (20, 15, 15, 15, 3), Activation("relu", 1.0, 1.0)
    matrices = [(torch.rand(b, a, generator=generator) * 2 - 1) / a**0.5 for a, b in pairwise(sizes)]
    biases = [torch.rand(n, generator=generator) * 0.5 - 0.25 for n in sizes[1:]]
    x, half = torch.rand(300, 20, generator=generator) * 2 - 1, len(matrices)

    def by(run: Callable[..., Tensor], place: torch.device) -> list[Tensor]:
        def call(*parameters: Tensor) -> Tensor:
            net = Network([*parameters[:half]], [*parameters[half:]], act, frozenset(), torch.float32, Pool())
            return run(x.to(place), net)

        return _outcome(call, [*matrices, *biases], place)

    _compare("network", by(network, device), by(layers.network, torch.device("cpu")), 0.02)
    cells, entries, offsets = (4, 11, 32), (125, 512, 512), (0, 125, 637)
    plain = tuple(zip(cells, entries, offsets, strict=True))
    levels = Levels(torch.tensor(cells), torch.tensor(entries), torch.tensor(offsets), plain)
    table, points = torch.rand(sum(entries), 2, generator=generator) - 0.5, x[:, :3].contiguous()
    there = _outcome(lambda table: hashgrid(points.to(device), table, levels), [table], device)
    here = _outcome(lambda table: grids.hashgrid(points, table, levels), [table], torch.device("cpu"))
    _compare("hash grid", there, here, 1e-3)


def _outcome(call: Callable[..., Tensor], parameters: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The output, and the gradient of its mean square in every parameter, on the CPU."""
    given = [p.detach().to(device, copy=True).requires_grad_() for p in parameters]
    out = call(*given)
    found = [out.detach(), *torch.autograd.grad(out.square().mean(), given)]
    return [x.detach().cpu() for x in found]


def _compare(what: str, ours: list[Tensor], truth: list[Tensor], tolerance: float) -> None:
    for a, b in zip(ours, truth, strict=True):
        off = float((a.float() - b).abs().max() / b.abs().max().clamp(min=1e-12))
        if not off <= tolerance:
            raise RuntimeError(f"its {what} is off the CPU's by {off:.2g} of the largest number")
