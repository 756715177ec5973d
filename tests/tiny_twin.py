"""A stand-in for the package tinycudann on the CPU, from its documentation: one flat vector of parameters, no biases.

Nothing of it comes from sinefield, so that it can say whether sinefield fills that vector as the package reads it.
"""

import math
import sys
from types import ModuleType

import torch
from torch import nn

BATCH = 256


class Module(nn.Module):
    """Batches are filled up to a multiple of 256 rows, parameters and results rounded to `dtype`."""

    def __init__(self, inputs, outputs, count, dtype):
        super().__init__()
        self.inputs, self.n_output_dims, self.dtype, self.loss_scale = inputs, outputs, dtype, 128.0
        self.params = nn.Parameter(torch.randn(count))
        self.jit_fusion = True

    def forward(self, x):
        assert x.shape[1] == self.inputs and self.params.shape == (self.count,) and not self.jit_fusion
        padded = torch.cat([x.float(), torch.zeros(-len(x) % BATCH, x.shape[1])])
        out = self.evaluate(padded, self.params.to(self.dtype).float()).to(self.dtype)
        return out[: len(x), : self.n_output_dims]


class Network(Module):
    """Matrices (out, in) by rows; inputs padded with 1, and outputs with whatever, to multiples of 16."""

    def __init__(self, n_input_dims, n_output_dims, network_config, dtype=torch.half):
        config = network_config
        width, self.kind = config["n_neurons"], config["activation"]
        assert config["output_activation"] == "None" and config["n_hidden_layers"] >= 1
        if config["otype"] == "FullyFusedMLP":
            assert width in (16, 32, 64, 128)
        else:
            assert config["otype"] == "CutlassMLP" and width % 8 == 0
        first, last = (16 * math.ceil(n / 16) for n in (n_input_dims, n_output_dims))
        hidden = [(width, width)] * (config["n_hidden_layers"] - 1)
        self.shapes = [(width, first), *hidden, (last, width)]
        self.count = sum(a * b for a, b in self.shapes)
        super().__init__(n_input_dims, n_output_dims, self.count, dtype)

    def evaluate(self, x, flat):
        h = torch.cat([x, torch.ones(len(x), self.shapes[0][1] - x.shape[1])], 1).to(self.dtype).float()
        at = 0
        for i, (rows, columns) in enumerate(self.shapes):
            matrix = flat[at : at + rows * columns].view(rows, columns)
            at += rows * columns
            h = h @ matrix.T
            if i < len(self.shapes) - 1:
                h = torch.where(h > 0, h, 0.01 * h if self.kind == "LeakyReLU" else torch.zeros_like(h))
                h = h.to(self.dtype).float()
        return h


class Encoding(Module):
    """The grid's rule, of one level at a time: n·x + ½, first axis fastest, one index modulo the entries."""

    def __init__(self, n_input_dims, encoding_config, dtype=None):
        config = encoding_config
        assert n_input_dims == 3 and config["n_levels"] == 1 and config["interpolation"] == "Linear"
        assert config["otype"] == "HashGrid"
        self.scale = config["base_resolution"] * 1.0 - 1.0
        self.corners = math.ceil(self.scale) + 1
        self.entries = min(8 * math.ceil(self.corners**3 / 8), 2 ** config["log2_hashmap_size"])
        self.features = config["n_features_per_level"]
        self.count = self.entries * self.features
        super().__init__(3, self.features, self.count, dtype)

    def evaluate(self, x, flat):
        table = flat.view(self.entries, self.features)
        position = self.scale * x + 0.5
        low = position.floor()
        total = torch.zeros(len(x), self.features)
        for corner in range(8):
            weight, index, primes = (
                torch.ones(len(x)),
                torch.zeros(len(x), dtype=torch.long),
                (1, 2654435761, 805459861),
            )
            for axis in range(3):
                up = corner >> axis & 1
                part = position[:, axis] - low[:, axis]
                weight = weight * (part if up else 1 - part)
                whole = (low[:, axis].long() + up) % 2**32
                if self.corners**3 <= self.entries:
                    index = (index + whole * self.corners**axis) % 2**32
                else:
                    index = index ^ (whole * primes[axis] % 2**32)
            total = total + weight[:, None] * table[index % self.entries]
        return total


def install(monkeypatch, network=Network, encoding=Encoding):
    """Have `import tinycudann` find this."""
    module = ModuleType("tinycudann")
    module.Network, module.Encoding = network, encoding
    monkeypatch.setitem(sys.modules, "tinycudann", module)
