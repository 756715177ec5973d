"""Optimisers with torch's arithmetic and its way to be called, but without what its classes bring along.

To make one of `torch.optim`'s objects imports torch's compiler, which takes two seconds of CPU: as long as a short
training. The steps themselves are torch's own functions.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.adam import adam


class Optimiser:
    """What a training asks of an optimiser: groups of parameters with rates, steps, and a state that can be stored.

    Arguments:
        parameters: leaves of autograd; or groups of them, dicts with `params` and what differs from the defaults.
        lr: the rate of groups without one.

    Attributes:
        param_groups: dicts with `params` and `lr`, which may be changed between steps.
        state: of each parameter that was stepped: its slots by their names, tensors of its shape, and `step`, a number.
    """

    kept: ClassVar[frozenset[str]] = frozenset()
    """Slots that a stored state must have."""

    def __init__(self, parameters: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float = 1e-3) -> None:
        given = list(parameters)
        groups: list[Any] = given if given and isinstance(given[0], dict) else [{"params": given}]
        self.param_groups = [{"lr": lr, **group, "params": list(group["params"])} for group in groups]
        self.state: dict[Tensor, dict[str, Any]] = {}

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        raise NotImplementedError

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, or make them zero."""
        for p in self._parameters():
            if set_to_none:
                p.grad = None
            elif p.grad is not None:
                p.grad.zero_()

    def slots(self) -> dict[int, dict[str, Any]]:
        """The state, by the places of the parameters among those of all groups; not copied."""
        return {i: self.state[p] for i, p in enumerate(self._parameters()) if p in self.state}

    def take_slots(self, slots: dict[int, dict[str, Any]]) -> None:
        """Put a state back that `slots` gave.

        Raises:
            ValueError: a parameter that there is not, a slot that is missing, or one of another shape.
        """
        parameters, state = self._parameters(), {}
        for i, named in slots.items():
            if not 0 <= i < len(parameters):
                raise ValueError(f"a state of parameter {i}, of {len(parameters)}")
            p = parameters[i]
            shapes = {name: torch.as_tensor(value).shape for name, value in named.items()}
            if not self.kept <= shapes.keys():
                raise ValueError(f"a state of parameter {i} without {', '.join(sorted(self.kept - shapes.keys()))}")
            if any(shape != (() if name == "step" else p.shape) for name, shape in shapes.items()):
                raise ValueError(f"a state of another shape for parameter {i}")
            state[p] = {name: _moved(value, p, name) for name, value in named.items()}
        self.state = state

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]


def _moved(value: Any, p: Tensor, name: str) -> Any:
    """A slot where its parameter is, and in its numbers; steps are counted in float32."""
    if not isinstance(value, Tensor):
        return value
    return value.to(p.device, torch.float32 if name == "step" else p.dtype, copy=True)


class Adam(Optimiser):
    """Adam (Kingma and Ba, ICLR 2015) by torch's fused step.

    >>> p = torch.nn.Parameter(torch.ones(2))
    >>> p.grad = torch.tensor([0.5, -3.0])
    >>> Adam([p], lr=0.1).step()
    >>> p.detach()
    tensor([0.9000, 1.1000])

    Arguments:
        betas: shares of the means of gradients and of their squares that a step keeps.
        eps: what is added to the root of the mean square.
    """

    kept = frozenset({"step", "exp_avg", "exp_avg_sq"})

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, lr)
        self.betas, self.eps = betas, eps

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if not moved:
                continue
            for p in moved:
                if p not in self.state:
                    step = torch.zeros((), dtype=torch.float32, device=p.device)
                    means = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                    self.state[p] = {"step": step, **means}
            slots = [self.state[p] for p in moved]
            adam(
                moved,
                [p.grad for p in moved if p.grad is not None],
                [s["exp_avg"] for s in slots],
                [s["exp_avg_sq"] for s in slots],
                [],
                [s["step"] for s in slots],
                fused=True,
                amsgrad=False,
                beta1=self.betas[0],
                beta2=self.betas[1],
                lr=group["lr"],
                weight_decay=0.0,
                eps=self.eps,
                maximize=False,
            )
