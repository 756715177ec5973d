"""Networks by the kernels of `tile_kernels`: all layers of a few rows at a time."""

from collections.abc import Sequence
from functools import cache
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sinefield.kernels.cpu.workspace import Workspace
from sinefield.machine import cpu_features, keep_freed_memory

SLOPES = {"relu": 0.0, "leaky_relu": 0.01}
"""Activations that the kernels know, by what they multiply negative numbers with."""


@cache
def works(dtype: torch.dtype) -> bool:
    """Whether layers of a dtype go by tiles: numba compiles for this processor as it is, and nothing better is at hand.

    bf16 needs AVX512-BF16; processors with AMX multiply it several times faster by oneDNN.
    """
    import numba

    if numba.config.CPU_NAME or numba.config.CPU_FEATURES or numba.config.DISABLE_JIT:
        return False
    if dtype == torch.bfloat16:
        found = torch.cpu.get_capabilities()
        fast = found.get("avx512_bf16") and cpu_features().get("avx512bf16")
        return bool(fast and not found.get("amx_bf16"))
    return dtype == torch.float32


class Layout:
    """How matrices of some sizes lie in the kernels' memory.

    Args:
        sizes: of the input and of every layer.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        from sinefield.kernels.cpu.tiles import LANES, ROWS, TILE

        self.sizes, self.tile, self.rows = np.array(sizes, np.int64), TILE, ROWS
        self.filled = [ceil(size / LANES) * LANES for size in sizes]
        self.shapes = list(zip(self.filled, self.filled[1:], strict=False))
        self.matrices, self.learned = sum(a * b for a, b in self.shapes), sum((a + ROWS) * b for a, b in self.shapes)
        self.biases, self.hidden = sum(self.filled[1:]), sum(self.filled[1:-1])

    def unpack(self, learned: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Matrices (out, in) and biases (out,) from where `backward` left them."""
        parts = learned.split([(a + self.rows) * b for a, b in self.shapes])
        both = [part.view(-1, b) for part, (_, b) in zip(parts, self.shapes, strict=True)]
        sizes = list(zip(self.sizes, self.sizes[1:], strict=False))
        matrices = [m[:n_in, :n_out].t() for m, (n_in, n_out) in zip(both, sizes, strict=True)]
        return matrices, [m[-self.rows, :n_out] for m, (_, n_out) in zip(both, sizes, strict=True)]


class Tiled(torch.autograd.Function):
    """act(W_i h + b_i) for all layers, of rows of bf16 or float32; float32 out, differentiable once."""

    @staticmethod
    def forward(ctx, free: list[Workspace], slope: float, x: Float[Tensor, "n in"], *parameters: Tensor):
        """`free` holds workspaces that are not in use: one for every forward whose backward is still to come."""
        keep_freed_memory()
        space = free.pop() if free else Workspace()
        out, ctx.state = run(space, slope, x, parameters, keep=True)
        ctx.free, ctx.space, ctx.slope = free, space, slope
        ctx.save_for_backward(x)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        from sinefield.kernels.cpu.tiles import backward

        if ctx.space is None:
            raise RuntimeError("a network's gradient was asked for twice; its buffers are gone after the first")
        (x,) = ctx.saved_tensors
        net, kept, threads = ctx.state
        layout = net.layout
        learned = torch.zeros(threads, layout.learned)
        of_input = torch.empty(len(x) if ctx.needs_input_grad[2] else 0, x.shape[1], dtype=x.dtype)
        grad = grad.to(x.dtype)
        given = flat(x), len(x), flat(grad), net.back, layout.sizes, np.float32(ctx.slope), kept
        backward(*given, learned.numpy(), flat(of_input))
        ctx.free.append(ctx.space)
        ctx.space = ctx.state = None
        matrices, biases = layout.unpack(learned.sum(0))
        return (None, None, of_input if ctx.needs_input_grad[2] else None, *matrices, *biases)


class LaidOut(NamedTuple):
    """A network's numbers as the kernels take them."""

    layout: Layout
    forth: np.ndarray
    biases: np.ndarray
    back: np.ndarray


def lay_out(n_in: int, dtype: torch.dtype, parameters: Sequence[Tensor]) -> LaidOut:
    """Lay out matrices (out, in), the first for `n_in` numbers, and then as many biases."""
    from sinefield.kernels.cpu.tiles import pack

    half = len(parameters) // 2
    layout = Layout([n_in, *(len(w) for w in parameters[:half])])
    given = [
        torch.cat([p.detach().reshape(-1) for p in some]).numpy() for some in (parameters[:half], parameters[half:])
    ]
    forth, back = torch.zeros(2, layout.matrices)
    biases = np.zeros(layout.biases, np.float32)
    pack(*given, layout.sizes, 2 if dtype == torch.bfloat16 else 1, forth.numpy(), back.numpy(), biases)
    return LaidOut(layout, flat(forth.to(dtype)), biases, flat(back.to(dtype)))


def run(space: Workspace, slope: float, x: Tensor, parameters: Sequence[Tensor], keep: bool) -> tuple[Tensor, tuple]:
    """The output, and what a backward needs: the network laid out, what was kept, number of threads."""
    import numba

    from sinefield.kernels.cpu.tiles import forward

    net = lay_out(x.shape[1], x.dtype, parameters)
    layout = net.layout
    rows = ceil(len(x) / layout.tile) * layout.tile if keep else 0
    kept = flat(space.take("kept", rows, layout.hidden, x.dtype))
    out = torch.empty(len(x), int(layout.sizes[-1]))
    threads = numba.get_num_threads()
    forward(threads, flat(x), len(x), net.forth, net.biases, layout.sizes, np.float32(slope), keep, kept, flat(out))
    return out, (net, kept, threads)


def flat(x: Tensor) -> np.ndarray:
    """Numbers one after another, bf16 as the integers of their bits; the same memory where it is contiguous."""
    x = x.detach().contiguous().view(-1)
    return x.view(torch.int16).numpy().view(np.uint16) if x.dtype == torch.bfloat16 else x.numpy()
