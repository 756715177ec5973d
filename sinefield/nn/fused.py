"""A whole network forward and backward by hand, in memory that is used again.

The result is that of the same lines under autograd. Memory is used again from step to step, biases and activations are
applied on the way out of a product, the gradient of a layer overwrites that of the one behind it, and rows are filled
up to few different numbers: docs/speed.md says what each of these gave.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sinefield.kernels.cpu.workspace import ROUND, Workspace, rounded_up
from sinefield.machine import keep_freed_memory
from sinefield.nn import tiled

LEAK, BETA = 0.01, 100.0


def _has_fused_linear() -> bool:
    """Whether torch was built with oneDNN's product that adds the bias and applies the activation on its way out."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


FUSED_LINEAR = _has_fused_linear()


class Activation:
    """An elementwise function, and its derivative from what a layer keeps.

    Args:
        name: "relu", "leaky_relu", "softplus", "gaussian" or "sine".
        sigma: σ of the Gaussian exp(−x²/2σ²).
        omega0: ω₀ of the sine sin(ω₀x).
    """

    NAMES = ("relu", "leaky_relu", "gaussian", "sine", "softplus")

    def __init__(self, name: str, sigma: float, omega0: float) -> None:
        self.name, self.sigma, self.omega0 = name, sigma, omega0
        self.keeps_input = name in ("gaussian", "sine")
        # oneDNN's name for it, and its numbers.
        self.fused = {"relu": ("relu", []), "leaky_relu": ("leaky_relu", [LEAK])}.get(name)

    def __call__(self, x: Tensor) -> Tensor:
        if self.name == "relu":
            return F.relu(x)
        if self.name == "leaky_relu":
            return F.leaky_relu(x, LEAK)
        if self.name == "softplus":
            return F.softplus(x, beta=BETA)
        if self.name == "gaussian":
            return torch.exp(x * x * (-0.5 / self.sigma**2))
        return torch.sin(self.omega0 * x)

    def forward_into(self, z: Tensor, h: Tensor) -> None:
        """Write act(z) to `h`, which is `z` itself unless `keeps_input`."""
        if self.name == "relu":
            h.relu_()
        elif self.name == "leaky_relu":
            F.leaky_relu(h, LEAK, inplace=True)
        elif self.name == "softplus":
            h.copy_(F.softplus(z, beta=BETA))
        elif self.name == "gaussian":
            torch.mul(z, z, out=h).mul_(-0.5 / self.sigma**2).exp_()
        else:
            torch.mul(z, self.omega0, out=h).sin_()

    def backward_in_place(self, g: Tensor, z: Tensor, h: Tensor) -> None:
        """Multiply `g` by act′(z); `z` may be used up."""
        if self.name == "relu":
            torch.ops.aten.threshold_backward.grad_input(g, h, 0, grad_input=g)
        elif self.name == "leaky_relu":
            torch.ops.aten.leaky_relu_backward.grad_input(g, h, LEAK, True, grad_input=g)
        elif self.name == "softplus":
            g.mul_(-torch.expm1(-BETA * h))
        elif self.name == "gaussian":
            g.mul_(z.mul_(-1 / self.sigma**2)).mul_(h)
        else:
            g.mul_(z.mul_(self.omega0).cos_()).mul_(self.omega0)


class FusedNetwork:
    """Runs act(W_i h + b_i) for all layers; see `MLP` for what the network computes.

    Args:
        activation: of all layers but the last.
        skips: layers before which the input is appended to the hidden state.
    """

    def __init__(self, activation: Activation, skips: frozenset[int]) -> None:
        self.activation, self.skips = activation, skips
        # One workspace for every forward whose backward is still to come.
        self.free: list[Workspace] = []

    def __deepcopy__(self, memo: dict) -> "FusedNetwork":
        return FusedNetwork(self.activation, self.skips)

    def __call__(
        self, x: Float[Tensor, "n in"], weights: Sequence[Tensor], biases: Sequence[Tensor], dtype: torch.dtype
    ) -> Float[Tensor, "n out"]:
        """float32 output; differentiable once in `x`, weights and biases.

        Args:
            dtype: of the hidden layers; the first layer has that of `x`.
        """
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *weights, *biases))
        by_tiles = x.dtype == dtype and not self.skips and tiled.works(dtype)
        if by_tiles and (slope := tiled.SLOPES.get(self.activation.name)) is not None:
            if learns:
                return tiled.Tiled.apply(self.free, slope, x, *weights, *biases)
            return tiled.run(Workspace(), slope, x, (*weights, *biases), keep=False)[0]
        if learns:
            return _Run.apply(self, dtype, x, *weights, *biases)
        space = self._workspace()
        out, _ = self._forward(space, x, weights, biases, dtype, keep=False)
        self.free.append(space)
        return out

    def _workspace(self) -> Workspace:
        return self.free.pop() if self.free else Workspace()

    def _forward(
        self,
        space: Workspace,
        x: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        dtype: torch.dtype,
        keep: bool,
    ) -> tuple[Tensor, tuple]:
        """The output, and input, preactivation and output of every hidden layer."""
        asked, act, kept = len(x), self.activation, []
        last = len(weights) - 1
        x = self._filled_up(space, "x", x, dtype)
        n = len(x)
        inputs = x.to(dtype) if self.skips else x
        h = x
        for i in range(last):
            kind = x.dtype if i == 0 else dtype
            matrix, bias = weights[i].to(kind), biases[i].to(kind)
            width = len(matrix)
            name = i if keep else i % 2
            if FUSED_LINEAR and kind == torch.bfloat16 and act.fused and i not in self.skips:
                # `addmm` writes the bias to memory first, and the activation passes over it once more.
                z = new = torch.ops.mkldnn._linear_pointwise(h, matrix, bias, *act.fused, "")
            else:
                z = space.take(("z", name), n, width, kind)
                if i in self.skips:
                    split = h.shape[1]
                    torch.addmm(bias, h, matrix[:, :split].t(), out=z)
                    z.addmm_(inputs, matrix[:, split:].t())
                else:
                    torch.addmm(bias, h, matrix.t(), out=z)
                new = space.take(("h", name), n, width, kind) if act.keeps_input else z
                act.forward_into(z, new)
            kept.append((h, z, new))
            h = new
            if kind != dtype:
                h = space.take("cast", n, width, dtype)
                h.copy_(new)
        matrix, bias = weights[last].to(dtype), biases[last].to(dtype)
        if FUSED_LINEAR and dtype == torch.bfloat16:
            out = torch.ops.mkldnn._linear_pointwise(h, matrix, bias, "none", [], "")
        else:
            out = torch.addmm(bias, h, matrix.t())
        kept.append((h, None, None))
        return out[:asked].float(), (inputs, kept)

    @staticmethod
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
        self,
        space: Workspace,
        state: tuple,
        weights: Sequence[Tensor],
        grad: Tensor,
        dtype: torch.dtype,
        needs_input: bool,
    ) -> tuple[Tensor | None, list[Tensor], list[Tensor]]:
        (inputs, kept), act = state, self.activation
        asked, last = len(grad), len(weights) - 1
        of_weights: list[Tensor] = [grad] * (last + 1)
        of_biases: list[Tensor] = [grad] * (last + 1)
        of_input: Tensor | None = None
        g = self._filled_up(space, "grad", grad.to(dtype), dtype)
        n = len(g)
        for i in range(last, -1, -1):
            h = kept[i][0]
            if i < last:
                _, z, new = kept[i]
                g = g.to(z.dtype)
                act.backward_in_place(g, z, new)
            matrix = weights[i].to(g.dtype)
            split = h.shape[1]
            if i in self.skips:
                of_weight = torch.cat([g.t() @ h, g.t() @ inputs], dim=1)
                if needs_input:
                    part = g @ matrix[:, split:]
                    of_input = part if of_input is None else of_input + part
            else:
                # Which of the two is transposed on its way in decides by a quarter where they are not alike.
                of_weight = (h.t() @ g).t() if h.shape[1] < g.shape[1] else g.t() @ h
            of_weights[i] = of_weight.float()
            of_biases[i] = g.sum(0).float()
            if i > 0:
                behind = space.take(("g", i % 2), n, split, g.dtype)
                torch.mm(g, matrix[:, :split], out=behind)
                g = behind
            elif needs_input:
                part = g @ matrix
                of_input = part if of_input is None else part + of_input
        return None if of_input is None else of_input[:asked], of_weights, of_biases


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx, network: FusedNetwork, dtype, x, *parameters):
        keep_freed_memory()
        half = len(parameters) // 2
        space = network._workspace()
        out, state = network._forward(space, x, parameters[:half], parameters[half:], dtype, keep=True)
        ctx.network, ctx.dtype, ctx.space, ctx.state = network, dtype, space, state
        ctx.save_for_backward(*parameters[:half])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        if ctx.space is None:
            raise RuntimeError("a fused network's gradient was asked for twice; its buffers are gone after the first")
        found = ctx.network._backward(
            ctx.space, ctx.state, ctx.saved_tensors, grad, ctx.dtype, needs_input=ctx.needs_input_grad[2]
        )
        ctx.network.free.append(ctx.space)
        ctx.space = ctx.state = None
        of_input, of_weights, of_biases = found
        return (None, None, of_input, *of_weights, *of_biases)
