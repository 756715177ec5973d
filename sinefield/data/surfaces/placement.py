"""Where an object lies in a field's coordinates."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sinefield.errors import SinefieldError

MARGIN = 0.1


def centre_of(aabb: Float[np.ndarray, "6"]) -> Float[np.ndarray, "3"]:
    """The middle of a box xmin ymin zmin xmax ymax zmax."""
    return (aabb[:3] + aabb[3:]) / 2


@dataclass(frozen=True)
class Normalisation:
    """x_field = (x − centre) · scale; stored with the field so that exports return to the input's coordinates."""

    centre: tuple[float, float, float]
    scale: float

    @classmethod
    def fit(cls, aabb: Float[np.ndarray, "6"], margin: float = MARGIN) -> "Normalisation":
        """Centre the box (6,) and make its longest side fill [−1, 1] / (1 + margin).

        Raises:
            SinefieldError: the box has no extent.
        """
        longest = float((aabb[3:] - aabb[:3]).max())
        if not longest > 0:
            raise SinefieldError(f"box {np.asarray(aabb).tolist()} has no extent; give minimum before maximum")
        x, y, z = (float(c) for c in centre_of(aabb))
        return cls((x, y, z), 2 / ((1 + margin) * longest))

    def apply(self, x: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Input coordinates (n, 3) to field coordinates."""
        return (np.asarray(x, np.float64) - self.centre) * self.scale

    def invert(self, x: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Field coordinates (n, 3) to input coordinates."""
        return np.asarray(x, np.float64) / self.scale + self.centre
