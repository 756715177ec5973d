"""How far a network is from what it should say of points, and the gradient of that."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sinefield.machine import keep_freed_memory
from sinefield.nn import tiled
from sinefield.nn.mlp import MLP

KINDS = "tanh", "l1", "bce", "mse"


def errors(
    raw: Float[Tensor, "*n"], target: Float[Tensor, "*n"], kind: str, sharpness: float | Tensor = 1.0
) -> Float[Tensor, "*n"]:
    """Each number's error.

    Args:
        kind: "tanh" |tanh(s·raw) − tanh(s·target)|, "l1" the same with numbers cut at ±1 in place of tanh, "bce"
            binary cross entropy of logits, or "mse" squares.
        sharpness: s.
    """
    if kind in ("tanh", "l1"):
        bend = torch.tanh if kind == "tanh" else lambda v: v.clamp(-1, 1)
        return (bend(raw * sharpness) - bend(target * sharpness)).abs()
    if kind == "bce":
        return F.binary_cross_entropy_with_logits(raw, target, reduction="none")
    return (raw - target).square()


def error_sum(
    network: MLP, x: Float[Tensor, "n in"], target: Float[Tensor, "n out"], kind: str, sharpness: float = 1.0
) -> Float[Tensor, ""]:
    """Sum of `errors` of a network's output; where the network goes by tiles, in one kernel and differentiable once."""
    plain = network.accelerated is None and not network.twice_differentiable and not network.skips
    slope = tiled.SLOPES.get(network.activation.name)
    by_tiles = plain and slope is not None and x.device.type == "cpu" and x.dtype == network.dtype
    if not (by_tiles and tiled.works(x.dtype)):
        return errors(network(x), target, kind, sharpness).sum()
    matrices = [weight() for weight in network.weights]
    return _PointError.apply(slope, target, KINDS.index(kind), sharpness, x, *matrices, *network.biases)


class _PointError(torch.autograd.Function):
    @staticmethod
    def forward(ctx, slope, target, kind, sharpness, x, *parameters):
        import numba

        from sinefield.kernels.cpu.points import point_errors

        keep_freed_memory()
        net = tiled.lay_out(x.shape[1], x.dtype, parameters)
        learned = torch.zeros(numba.get_num_threads(), net.layout.learned)
        of_x = torch.empty(len(x) if ctx.needs_input_grad[4] else 0, x.shape[1], dtype=x.dtype)
        error = point_errors(
            tiled.flat(x),
            len(x),
            tiled.flat(target.float()),
            kind,
            np.float32(sharpness),
            net.layout.sizes,
            net.forth,
            net.biases,
            net.back,
            np.float32(slope),
            learned.numpy(),
            tiled.flat(of_x),
        )
        ctx.found = net, learned, of_x
        return torch.tensor(error, dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        if ctx.found is None:
            raise RuntimeError("the gradient of a fused error was asked for twice; it is gone after the first")
        (net, learned, of_x), ctx.found = ctx.found, None
        matrices, biases = net.layout.unpack(learned.sum(0) * grad)
        return (None,) * 4 + (of_x * grad.to(of_x.dtype) if ctx.needs_input_grad[4] else None, *matrices, *biases)
