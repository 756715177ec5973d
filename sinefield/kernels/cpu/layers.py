"""A whole network forward and backward by hand, layer by layer in torch, in memory that is used again.

The result is that of the same lines under autograd. Memory is used again from step to step, biases and activations are
applied on the way out of a product, the gradient of a layer overwrites that of the one behind it, and rows are filled
up to few different numbers: docs/speed.md says what each of these gave.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sinefield.kernels.inputs import BETA, LEAK, Activation, Network
from sinefield.kernels.shell import Pull, differentiable
from sinefield.kernels.workspace import ROUND, Workspace, rounded_up

FUSED_LINEAR = (
    torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    and torch.ops.mkldnn._is_mkldnn_bf16_supported()
)
"""Whether torch was built with oneDNN's product that adds the bias and applies the activation on its way out, and the
processor can do it in bf16: not every one that has AVX2 only."""
FUSED = {"relu": ("relu", []), "leaky_relu": ("leaky_relu", [LEAK])}
"""oneDNN's name for an activation, and its numbers."""
KEEP_INPUT = ("gaussian", "sine")
"""Activations whose derivative needs what they were given; that of the others follows from what they gave."""

Kept = tuple[Tensor, Tensor, Tensor]
"""Input, preactivation and output of a hidden layer; preactivation and output are one tensor unless in `KEEP_INPUT`."""


def network(x: Float[Tensor, "n in"], net: Network) -> Float[Tensor, "n out"]:
    """float32 outputs of rows of any kind; the first layer has that of the rows."""
    return differentiable(partial(_network, net), x, *net.matrices, *net.biases)


def _network(net: Network, wanted: Sequence[bool], x: Tensor, *parameters: Tensor) -> tuple[Tensor, Pull]:
    half, space = len(parameters) // 2, net.pool.take()
    matrices, biases = parameters[:half], parameters[half:]
    keeps = any(wanted)
    out, inputs, kept = _forward(net, space, x, matrices, biases, keeps)
    if not keeps:
        net.pool.give(space)

    def pull(grad: Tensor) -> tuple[Tensor | None, ...]:
        of_x, of_matrices, of_biases = _backward(net, space, (inputs, kept), matrices, grad, wanted[0])
        net.pool.give(space)
        return of_x, *of_matrices, *of_biases

    return out, pull


def _forward(
    net: Network, space: Workspace, x: Tensor, matrices: Sequence[Tensor], biases: Sequence[Tensor], keeps: bool
) -> tuple[Tensor, Tensor, list[Kept]]:
    """The output, the input as skips append it, and what each layer keeps; of the last its input only."""
    asked, kept, dtype = len(x), [], net.dtype
    h = x = _filled_up(space, "x", x, dtype)
    inputs = x.to(dtype) if net.skips else x
    last = len(matrices) - 1
    for i in range(last):
        kind = x.dtype if i == 0 else dtype
        matrix, bias = matrices[i].to(kind), biases[i].to(kind)
        z, new = _layer(net, space, i, h, inputs, matrix, bias, i if keeps else i % 2)
        kept.append((h, z, new))
        h = new
        if kind != dtype:
            h = space.take("cast", len(x), len(matrix), dtype)
            h.copy_(new)
    matrix, bias = matrices[last].to(dtype), biases[last].to(dtype)
    if FUSED_LINEAR and dtype == torch.bfloat16:
        out = torch.ops.mkldnn._linear_pointwise(h, matrix, bias, "none", [], "")
    else:
        out = torch.addmm(bias, h, matrix.t())
    kept.append((h, h, h))
    return out[:asked].float(), inputs, kept


def _layer(
    net: Network, space: Workspace, i: int, h: Tensor, inputs: Tensor, matrix: Tensor, bias: Tensor, name: int
) -> tuple[Tensor, Tensor]:
    """Preactivation and output of hidden layer `i`, in the workspace's memory of that name."""
    act = net.activation
    if FUSED_LINEAR and matrix.dtype == torch.bfloat16 and act.name in FUSED and i not in net.skips:
        # `addmm` writes the bias to memory first, and the activation passes over it once more.
        new = torch.ops.mkldnn._linear_pointwise(h, matrix, bias, *FUSED[act.name], "")
        return new, new
    z = space.take(("z", name), len(h), len(matrix), matrix.dtype)
    if i in net.skips:
        split = h.shape[1]
        torch.addmm(bias, h, matrix[:, :split].t(), out=z)
        z.addmm_(inputs, matrix[:, split:].t())
    else:
        torch.addmm(bias, h, matrix.t(), out=z)
    new = space.take(("h", name), len(h), len(matrix), matrix.dtype) if act.name in KEEP_INPUT else z
    _activate(act, z, new)
    return z, new


def _activate(act: Activation, z: Tensor, h: Tensor) -> None:
    """Write act(z) to `h`, which is `z` itself unless the activation is in `KEEP_INPUT`."""
    if act.name == "relu":
        h.relu_()
    elif act.name == "leaky_relu":
        F.leaky_relu(h, LEAK, inplace=True)
    elif act.name == "softplus":
        h.copy_(F.softplus(z, beta=BETA))
    elif act.name == "gaussian":
        torch.mul(z, z, out=h).mul_(-0.5 / act.sigma**2).exp_()
    else:
        torch.mul(z, act.omega0, out=h).sin_()


def _deactivate(act: Activation, g: Tensor, z: Tensor, h: Tensor) -> None:
    """Multiply `g` by act′(z), in place; `z` may be used up."""
    if act.name == "relu":
        torch.ops.aten.threshold_backward.grad_input(g, h, 0, grad_input=g)
    elif act.name == "leaky_relu":
        torch.ops.aten.leaky_relu_backward.grad_input(g, h, LEAK, True, grad_input=g)
    elif act.name == "softplus":
        g.mul_(-torch.expm1(-BETA * h))
    elif act.name == "gaussian":
        g.mul_(z.mul_(-1 / act.sigma**2)).mul_(h)
    else:
        g.mul_(z.mul_(act.omega0).cos_()).mul_(act.omega0)


def _filled_up(space: Workspace, key: str, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """`rows` and rows of zeros below them."""
    n = len(rows)
    total = rounded_up(n) if n > ROUND and dtype == torch.bfloat16 else n
    if total == n:
        return rows
    filled = space.take(key, total, rows.shape[1], rows.dtype)
    filled[:n].copy_(rows)
    filled[n:].zero_()
    return filled


def _backward(
    net: Network,
    space: Workspace,
    state: tuple[Tensor, list[Kept]],
    matrices: Sequence[Tensor],
    grad: Tensor,
    needs_input: bool,
) -> tuple[Tensor | None, list[Tensor], list[Tensor]]:
    """Gradients of the input, the matrices and the biases."""
    inputs, kept = state
    asked, last = len(grad), len(matrices) - 1
    of_matrices, of_biases, of_input = [grad] * (last + 1), [grad] * (last + 1), None
    g = _filled_up(space, "grad", grad.to(net.dtype), net.dtype)
    n = len(g)
    for i in range(last, -1, -1):
        h, z, new = kept[i]
        if i < last:
            g = g.to(z.dtype)
            _deactivate(net.activation, g, z, new)
        matrix, split = matrices[i].to(g.dtype), h.shape[1]
        of_matrices[i] = _of_matrix(g, h, inputs if i in net.skips else None).float()
        of_biases[i] = g.sum(0).float()
        if needs_input and (i == 0 or i in net.skips):
            part = g @ (matrix[:, split:] if i else matrix)
            of_input = part if of_input is None else part + of_input
        if i > 0:
            before = space.take(("g", i % 2), n, split, g.dtype)
            torch.mm(g, matrix[:, :split], out=before)
            g = before
    return None if of_input is None else of_input[:asked], of_matrices, of_biases


def _of_matrix(g: Tensor, h: Tensor, inputs: Tensor | None) -> Tensor:
    if inputs is not None:
        return torch.cat([_of_matrix(g, h, None), _of_matrix(g, inputs, None)], dim=1)
    # Which of the two is transposed on its way in decides by a quarter where they are not alike; and the other way
    # round a long sum for a narrow matrix would be cut into as many parts as there are threads.
    return (h.t() @ g).t() if h.shape[1] < g.shape[1] else g.t() @ h
