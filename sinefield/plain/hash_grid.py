"""Trained feature grids in NumPy alone: the twin of `nn.hashgrid.HashGrid.reference`, and its derivative."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from sinefield.config import NetworkConfig
from sinefield.errors import SinefieldError
from sinefield.kernels.levels import PRIMES, levels_of

FEATURES = 2


class PlainGrid:
    """Features of points, interpolated in grids of growing resolution.

    Args:
        config: the field's settings.
        arrays: by name, those of the field's state dict, `encoding.table` among them.

    Attributes:
        levels: of each, cells along a side, entries, and the first entry.
        table: (entries, 2).

    Raises:
        SinefieldError: the table is missing or does not fit the settings.

    Examples:
        >>> import numpy as np
        >>> from sinefield.config import ShapeFieldConfig
        >>> config = ShapeFieldConfig(encoding="hash", levels=1, coarsest=1, finest=1)
        >>> corners = np.arange(16.0).reshape(8, 2)  # the first feature grows by 8, 4 and 2 along x, y and z
        >>> grid = PlainGrid(config, {"encoding.table": corners})
        >>> features, slopes = grid(np.array([[0.0, 0.0, 1.0]]))
        >>> float(features[0, 0]), slopes[0, 0].tolist()
        (8.0, [4.0, 2.0, 1.0])
    """

    def __init__(self, config: NetworkConfig, arrays: Mapping[str, np.ndarray]) -> None:
        self.levels = levels_of(config.levels, config.log2_table, config.coarsest, config.finest)
        entries = sum(size for _, size, _ in self.levels)
        self.table = np.ascontiguousarray(arrays.get("encoding.table", np.empty((0, 0))), np.float32)
        if self.table.shape != (entries, FEATURES):
            raise SinefieldError(
                f"encoding.table has the shape {self.table.shape}, its settings ask for ({entries}, {FEATURES}); "
                "the file is damaged"
            )

    def __call__(self, x: Float[np.ndarray, "n 3"]) -> tuple[Float[np.ndarray, "n e"], Float[np.ndarray, "n e 3"]]:
        """Features at points in [−1, 1]³, and their derivatives by the coordinates; float32."""
        unit = np.clip(np.asarray(x, np.float32) * np.float32(0.5) + np.float32(0.5), 0, 1)
        features, slopes = [], []
        for cells, size, first in self.levels:
            position = unit * np.float32(cells)
            cell = np.minimum(np.floor(np.nan_to_num(position)), cells - 1)
            part = position - cell
            value = np.zeros((len(unit), FEATURES), np.float32)
            slope = np.zeros((len(unit), FEATURES, 3), np.float32)
            for corner in range(8):
                up = np.array([corner & 1, corner >> 1 & 1, corner >> 2 & 1])
                entry = self.table[first + _entries(cell.astype(np.int64) + up, cells, size)]
                share = np.where(up, part, 1 - part)
                value += share.prod(1, keepdims=True) * entry
                for axis in range(3):
                    rest = share[:, (axis + 1) % 3] * share[:, (axis + 2) % 3]
                    slope[..., axis] += (np.float32(cells / 2 if up[axis] else -cells / 2) * rest)[:, None] * entry
            features.append(value)
            slopes.append(slope)
        return np.concatenate(features, axis=1), np.concatenate(slopes, axis=1)


def _entries(corner: np.ndarray, cells: int, size: int) -> np.ndarray:
    i, j, k = corner.T
    if size == (cells + 1) ** 3:
        return (i * (cells + 1) + j) * (cells + 1) + k
    return ((i * PRIMES[0]) ^ (j * PRIMES[1]) ^ (k * PRIMES[2])) & (size - 1)
