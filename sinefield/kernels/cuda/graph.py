"""A training step of fixed shape as one CUDA graph: hundreds of small kernels launched at once."""

import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

WARM_UP = 3
"""Runs before capture, in which libraries choose their kernels and make their workspaces."""


class GraphedStep:
    """Loss and gradients of a function of tensors, captured once and replayed; the gradients are set, not accumulated.

    Captured anew when the shapes of its inputs, `key` or the places of the parameters change. Where capture fails,
    which is said once, the function runs as it is.

    Args:
        loss_of: the loss of some inputs; must not wait for the device, nor depend on anything that `key` does not hold.
        parameters: what it is differentiated by; it depends on all of them.
    """

    def __init__(self, loss_of: Callable[..., Tensor], parameters: Sequence[nn.Parameter]) -> None:
        self.loss_of, self.parameters = loss_of, list(parameters)
        self.works = True
        self._made_for: object = None
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._replay: Callable[[], None] | None = None

    def __call__(self, *inputs: Tensor, key: object = None) -> Tensor:
        """The loss, without its graph; parameters have their gradients."""
        made_for = (key, [(x.shape, x.dtype) for x in inputs], [p.data_ptr() for p in self.parameters])
        if self.works and made_for != self._made_for:
            self._make(inputs)
            self._made_for = made_for
        if not self.works or self._replay is None:
            outputs = self._run(inputs)
        else:
            for held, x in zip(self._inputs, inputs, strict=True):
                held.copy_(x)
            self._replay()
            # The next replay writes to the same memory.
            outputs = [self._outputs[0].clone(), *self._outputs[1:]]
        for parameter, gradient in zip(self.parameters, outputs[1:], strict=True):
            parameter.grad = gradient
        return outputs[0]

    def _run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        loss = self.loss_of(*inputs)
        return [loss.detach(), *torch.autograd.grad(loss, self.parameters)]

    def _make(self, inputs: Sequence[Tensor]) -> None:
        self._replay, self._outputs = None, []  # frees the old graph's memory first
        self._inputs = [x.clone() for x in inputs]
        try:
            self._outputs, self._replay = self.capture(lambda: self._run(self._inputs))
        except torch.OutOfMemoryError:
            self._made_for = None
            raise
        except RuntimeError as error:
            self.works = False
            reason = " ".join(str(error).split())[:120]
            tqdm.write(f"the step cannot be captured as a CUDA graph ({reason}); it runs without", file=sys.stderr)

    @staticmethod
    def capture(function: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
        """What `function` returns, and a call that computes it anew in the same memory."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                function()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = function()
        return outputs, graph.replay
