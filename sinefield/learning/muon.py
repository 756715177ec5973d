"""Muon for many small matrices: those of one shape are orthogonalised in one batch."""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sinefield.nn.optimisers import Optimiser

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
MOMENTUM, RISE = (0.85, 0.95), 300
"""At the start and after so many steps: early gradients turn quickly, and old ones lead a short training astray."""


def orthogonalised(matrices: Float[Tensor, "b m n"]) -> Float[Tensor, "b m n"]:
    """About U Vᵀ of each matrix U S Vᵀ, m ≤ n: singular values between 0.7 and 1.2, by Newton–Schulz steps.

    (Jordan et al., "Muon", 2024: the quintic whose slope at zero is largest.)
    """
    a, b, c = COEFFICIENTS
    x = matrices / matrices.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon(Optimiser):
    """Momentum whose every step is orthogonalised; the update of torch.optim.Muon without weight decay, in float32.

    The momentum rises over the first `RISE` steps to torch's 0.95.

    Without decay because the size of a sine weight's factors is the sine's phase, which decay would pull towards plain
    low rank. One matrix at a time takes longer than the arithmetic of a narrow network.

    Args:
        matrices: parameters (m, n).
        lr: length of a step, times √(m/n) where m > n.
    """

    kept = frozenset({"momentum_buffer"})

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(matrices, lr)

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state.setdefault(p, {})
                if not state:
                    state["step"], state["momentum_buffer"] = 0, torch.zeros_like(p)
                state["step"] = state.get("step", RISE) + 1  # states of earlier versions have none
                kept = MOMENTUM[0] + (MOMENTUM[1] - MOMENTUM[0]) * min(float(state["step"]) / RISE, 1.0)
                momentum = state["momentum_buffer"].lerp_(p.grad, 1 - kept)
                direction = p.grad.lerp(momentum, kept)  # Nesterov's
                flat = direction if p.shape[0] <= p.shape[1] else direction.T
                alike[tuple(flat.shape)].append((p, flat))
            for members in alike.values():
                found = orthogonalised(torch.stack([flat for _, flat in members]))
                for (p, _), update in zip(members, found, strict=True):
                    m, n = p.shape
                    p.sub_(update if m <= n else update.T, alpha=group["lr"] * math.sqrt(max(1.0, m / n)))
