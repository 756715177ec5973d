"""A few points that cover many."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sinefield.kernels.choose import choose


def farthest_points(points: Float[Tensor, "b n 3"], k: int) -> Int[Tensor, "b k"]:
    """Places of k of n points, k ≤ n, spread over all: each is the one farthest from those before it.

    The first is the one farthest from the mean, so that the points chosen do not depend on the order they come in, ties
    and rounding aside. (Farthest point sampling: Gonzalez, 1985.) On the CPU whatever the device of the points.
    """
    here = points.detach().float().cpu()
    run = choose("farthest_points", here.device).function or farthest_points_reference
    return run(here, k).to(points.device)


def farthest_points_reference(points: Float[Tensor, "b n 3"], k: int) -> Int[Tensor, "b k"]:
    """The definition in plain torch."""
    chosen = [(points - points.double().mean(1, keepdim=True)).square().sum(2).argmax(1)]
    nearest = torch.full_like(points[..., 0], torch.inf)
    for _ in range(k - 1):
        last = points.gather(1, chosen[-1][:, None, None].expand(-1, 1, 3))
        nearest = torch.minimum(nearest, (points - last).square().sum(2))
        chosen.append(nearest.argmax(1))
    return torch.stack(chosen[:k], 1)
