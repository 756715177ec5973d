"""How far a network is from what it should say of points, and the gradient of that."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sinefield.kernels.inputs import ERRORS as KINDS
from sinefield.nn.mlp import MLP

__all__ = ["KINDS", "error_sum", "errors"]


def errors(
    raw: Float[Tensor, "*n"], target: Float[Tensor, "*n"], kind: str, sharpness: float | Tensor = 1.0
) -> Float[Tensor, "*n"]:
    """Each number's error.

    Args:
        kind: "tanh" |tanh(s·raw) − tanh(s·target)|, "l1" the same with numbers cut at ±1 in place of tanh, "bce"
            binary cross entropy of logits, "mse" squares, or "asinh" |asinh(s·raw) − asinh(s·target)|: absolute near 0,
            relative far from it.
        sharpness: s.
    """
    if kind in ("tanh", "l1", "asinh"):
        bend = {"tanh": torch.tanh, "asinh": torch.asinh}.get(kind, lambda v: v.clamp(-1, 1))
        return (bend(raw * sharpness) - bend(target * sharpness)).abs()
    if kind == "bce":
        return F.binary_cross_entropy_with_logits(raw, target, reduction="none")
    return (raw - target).square()


def error_sum(
    network: MLP, x: Float[Tensor, "n in"], target: Float[Tensor, "n out"], kind: str, sharpness: float = 1.0
) -> Float[Tensor, ""]:
    """Sum of `errors` of a network's output, differentiable once where one kernel computes it."""
    run = network.choice("point_error", x.dtype, x.device).function if network.backend == "auto" else None
    if run is None:
        return errors(network(x), target, kind, sharpness).sum()
    return run(x, target, network.tensors(), kind, sharpness)
