"""The one autograd function of everything that brings its own gradient."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sinefield.machine import keep_freed_memory

Pull = Callable[..., tuple[Tensor | None, ...]]
"""From gradients of the outputs to gradients of the inputs, None for those that want none; called once at most."""


def differentiable(step: Callable[..., tuple[Any, Pull]], *inputs: Tensor) -> Any:
    """What `step(wanted, *inputs)` gives, a tensor or a tuple of them, differentiable once by its own gradient.

    Args:
        step: returns its outputs and what makes gradients of theirs. `wanted` says of each input whether its gradient
            will be asked for; of none where nothing is to be differentiated.
    """
    if not (torch.is_grad_enabled() and any(x.requires_grad for x in inputs)):
        return step((False,) * len(inputs), *inputs)[0]
    return _Differentiable.apply(step, *inputs)


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, step, *inputs):
        keep_freed_memory()
        out, ctx.pull = step(ctx.needs_input_grad[1:], *inputs)
        ctx.save_for_backward(*inputs)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        _ = ctx.saved_tensors  # torch refuses where one of them has been written to since
        if ctx.pull is None:
            raise RuntimeError("the gradient of a compiled step was asked for twice; it is gone after the first")
        pull, ctx.pull = ctx.pull, None
        return None, *pull(*grads)
