"""How a layer holds its (out, in) matrix, and what it does with it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sinefield.errors import SinefieldError


class Layout:
    """`nn.Linear`: x (…, in), weight (out, in)."""

    transposed = False
    factored = True
    """Whether x Aᵀ Bᵀ can be computed in place of x (B A)ᵀ."""

    def size(self, layer: Any) -> tuple[int, int]:
        """(out, in) of the matrix, whatever form the weight is stored in."""
        return layer.out_features, layer.in_features

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as a view (out, in)."""
        return weight

    def shaped(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """Inverse of `matrix`: in the shape of `weight`."""
        return matrix

    def apply(self, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, matrix, bias)

    def grad_input(self, grad: Tensor, x: Tensor, matrix: Tensor) -> Tensor:
        return grad @ matrix

    def grad_matrix(self, grad: Tensor, x: Tensor) -> Tensor:
        return grad.flatten(0, -2).T @ x.flatten(0, -2) if grad.dim() > 1 else torch.outer(grad, x)

    def grad_bias(self, grad: Tensor) -> Tensor:
        return grad.flatten(0, -2).sum(0) if grad.dim() > 1 else grad


class Transposed(Layout):
    """Hugging Face's `Conv1D`: a linear layer whose weight is (in, out)."""

    transposed = True

    def size(self, layer: Any) -> tuple[int, int]:
        return layer.weight.shape[1], layer.weight.shape[0]

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.T

    def shaped(self, matrix: Tensor, weight: Tensor) -> Tensor:
        return matrix.T.contiguous()


class Convolution(Layout):
    """`nn.Conv2d`: x (n, in, height, width) or one image; the matrix is (out, in/groups · kernel height · width)."""

    factored = False

    def __init__(self, layer: nn.Conv2d) -> None:
        self.stride, self.dilation, self.groups = layer.stride, layer.dilation, layer.groups
        self.kernel = tuple(layer.weight.shape[1:])
        self.mode = layer.padding_mode
        self.border = layer._reversed_padding_repeated_twice

    def size(self, layer: Any) -> tuple[int, int]:
        return layer.weight.shape[0], layer.weight[0].numel()

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.flatten(1)

    def shaped(self, matrix: Tensor, weight: Tensor) -> Tensor:
        return matrix.reshape(-1, *self.kernel)

    def apply(self, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(
            self._padded(x), matrix.reshape(-1, *self.kernel), bias, self.stride, 0, self.dilation, self.groups
        )

    def _padded(self, x: Tensor) -> Tensor:
        if not any(self.border):
            return x
        return F.pad(x, self.border, mode="constant" if self.mode == "zeros" else self.mode)

    def _gradients(self, grad: Tensor, padded: Tensor, kernel: Tensor, wanted: list[bool]) -> Any:
        if padded.dim() == 3:
            grad, padded = grad[None], padded[None]
        return torch.ops.aten.convolution_backward(
            grad, padded, kernel, None, self.stride, [0, 0], self.dilation, False, [0, 0], self.groups, wanted
        )

    def grad_input(self, grad: Tensor, x: Tensor, matrix: Tensor) -> Tensor:
        with torch.enable_grad():  # through the padding, whatever its mode
            bare = x.detach().requires_grad_()
            padded = self._padded(bare)
        found = self._gradients(grad, padded.detach(), matrix.reshape(-1, *self.kernel), [True, False, False])[0]
        found = found.reshape(padded.shape)
        return found if padded is bare else torch.autograd.grad(padded, bare, found)[0]

    def grad_matrix(self, grad: Tensor, x: Tensor) -> Tensor:
        kernel = torch.empty(grad.shape[-3], *self.kernel, dtype=x.dtype, device=x.device)
        return self._gradients(grad, self._padded(x), kernel, [False, True, False])[1].flatten(1)

    def grad_bias(self, grad: Tensor) -> Tensor:
        return (grad if grad.dim() == 4 else grad[None]).sum((0, 2, 3))


def usual_class(layer: nn.Module) -> Any:
    """That of torch's `Linear` and `Conv2d` or Hugging Face's `Conv1D` which a layer is or comes from, or None.

    Conv1D is told without importing transformers.
    """
    for kind in type(layer).__mro__:
        if kind in (nn.Linear, nn.Conv2d) or (kind.__name__, kind.__module__) == (
            "Conv1D",
            "transformers.pytorch_utils",
        ):
            return kind
    return None


def supports(layer: nn.Module) -> bool:
    return usual_class(layer) is not None


def layout_of(layer: nn.Module) -> Layout:
    """How to adapt a layer.

    Raises:
        SinefieldError: it is none of those that can be.
    """
    if isinstance(layer, nn.Linear):
        return Layout()
    if isinstance(layer, nn.Conv2d):
        return Convolution(layer)
    if supports(layer):
        return Transposed()
    raise SinefieldError(f"a {type(layer).__name__} cannot be adapted; nn.Linear, nn.Conv2d and Conv1D can")
