"""Which pixels a step looks at: some at random, some where the picture was wrong when it was last looked at."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

RUN = 32
"""Pixels, one after the other, that share a number: so many that a few thousand rays a step keep the numbers fresh."""


class ErrorMap:
    """How wrong the field was at stretches of pixels, and pixels drawn by that.

    Arguments:
        pixels: how many there are.
        share: of the pixels that are drawn by error; the others are drawn at random.

    Attributes:
        errors: one a stretch, the mean of what was found there, the later the more. They start above what any pixel
            can have, so that all stretches are looked at early.
    """

    def __init__(self, pixels: int, share: float, device: torch.device | str = "cpu") -> None:
        self.pixels, self.share = pixels, share
        self.errors = torch.full((-(-pixels // RUN),), 3.0, device=device)

    def draw(self, n: int, generator: torch.Generator) -> Int[Tensor, "n"]:
        """Pixels; the chance of a stretch grows with its root mean square error, since gradients do."""
        device = self.errors.device
        chosen = torch.randint(self.pixels, (n,), generator=generator, device=device)
        if some := round(self.share * n):
            ends = self.errors.sqrt().cumsum(0, dtype=torch.float64)
            places = torch.rand(some, generator=generator, device=device, dtype=torch.float64) * ends[-1]
            stretch = torch.searchsorted(ends, places, right=True).clamp(max=len(ends) - 1)
            inside = torch.randint(RUN, (some,), generator=generator, device=device)
            chosen[:some] = (stretch * RUN + inside).clamp(max=self.pixels - 1)
        return chosen[torch.randperm(n, generator=generator, device=device)] if some else chosen

    def note(self, chosen: Int[Tensor, "n"], errors: Float[Tensor, "n"]) -> None:
        """Take in the errors of pixels; several of one stretch count together."""
        stretches, place, counts = (chosen // RUN).unique(return_inverse=True, return_counts=True)
        sums = self.errors[stretches].index_add_(0, place, errors.to(self.errors.dtype))
        self.errors[stretches] = sums / (1 + counts)
