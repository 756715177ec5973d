"""How much of its rank a matrix uses."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sinefield.nn.weights import Weight


def stable_rank(matrix: Float[Tensor, "out in"]) -> float:
    """‖W‖_F² / ‖W‖₂², between 1 and min(out, in); 0 for a zero matrix."""
    values = torch.linalg.svdvals(matrix.detach().double())
    return float((values**2).sum() / values[0] ** 2) if values[0] > 0 else 0.0


def numerical_rank(matrix: Float[Tensor, "out in"], tolerance: float = 1e-3) -> int:
    """Number of singular values above `tolerance` times the largest."""
    values = torch.linalg.svdvals(matrix.detach().double())
    return int((values > tolerance * values[0]).sum()) if values[0] > 0 else 0


def effective_rank(matrix: Float[Tensor, "out in"]) -> float:
    """exp of the entropy of the normalised singular values (Roy & Vetterli, 2007); 0 for a zero matrix."""
    values = torch.linalg.svdvals(matrix.detach().double())
    if not values[0] > 0:
        return 0.0
    p = values[values > 0] / values.sum()
    return float(torch.exp(-(p * p.log()).sum()))


def spectrum_report(module: nn.Module) -> list[dict]:
    """One row a weight below `module`: name, class, shape, parameters, stable, effective and numerical rank."""
    rows = []
    for name, weight in module.named_modules():
        if isinstance(weight, Weight):
            matrix = weight.matrix()
            rows.append(
                {
                    "name": name,
                    "weight": type(weight).__name__,
                    "shape": list(matrix.shape),
                    "params": sum(p.numel() for p in weight.parameters()),
                    "stable_rank": round(stable_rank(matrix), 3),
                    "effective_rank": round(effective_rank(matrix), 3),
                    "numerical_rank": numerical_rank(matrix),
                }
            )
    return rows
