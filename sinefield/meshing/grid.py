"""A function's values on a grid: everywhere, or only where its level set may be."""

import itertools
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from sinefield.errors import SinefieldError


class GridFiller:
    """Evaluates a function at points of a grid and writes the values into it.

    Args:
        core: (x, y, z) values to be written.
        evaluate: values (n,) at float64 points (n, 3).
        origin: (3,) the grid's first point.
        pitch: distance between neighbours.
        chunk: points given to `evaluate` at once.
    """

    def __init__(
        self,
        core: Float[np.ndarray, "x y z"],
        evaluate: Callable[[Tensor], Tensor],
        origin: Float[np.ndarray, "3"],
        pitch: float,
        chunk: int,
        progress: bool = True,
    ) -> None:
        self.core, self.evaluate, self.origin, self.pitch, self.chunk = core, evaluate, origin, pitch, chunk
        self.evaluations = 0
        self.bar = tqdm(unit=" points", leave=False, disable=None if progress else True)

    def everywhere(self) -> None:
        """Evaluate every point."""
        self.bar.reset(self.core.size)
        for start in range(0, self.core.size, self.chunk):
            flat = np.arange(start, min(start + self.chunk, self.core.size))
            self._write(np.stack(np.unravel_index(flat, self.core.shape), axis=1))

    def near(self, level: float, block: int, slope: float | None) -> None:
        """Evaluate only blocks of `block`³ cells that may hold a part of the level set.

        Blocks' corners are evaluated first. A block is looked into where its corners lie on both sides of the level
        or, with a `slope`, where the value nearest to the level could reach it within the block. Then the surface is
        followed: wherever it leaves the blocks looked into, the next ones are. What is not looked into gets the value
        of a corner. With a valid `slope` nothing is missed; without, only pieces that lie wholly inside one block
        and touch no other.

        Args:
            slope: the largest change of the function per unit length; None where it is not known.
        """
        shape = np.array(self.core.shape)
        blocks = -(-(shape - 1) // block)
        lines = [np.minimum(np.arange(n + 1) * block, s - 1) for n, s in zip(blocks, shape, strict=True)]
        self.bar.reset(int(np.prod(blocks + 1)))
        corners = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1)
        for part in np.array_split(corners.reshape(-1, 3), -(-corners[..., 0].size // self.chunk)):
            self._write(part)
        values = self.core[np.ix_(*lines)].astype(np.float64) - level
        for axis, (line, n) in enumerate(zip(lines, shape, strict=True)):
            self._spread(axis, line, int(n))
        low, high = _pooled(values, np.minimum), _pooled(values, np.maximum)
        active = (low <= 0) & (high >= 0)
        if slope is not None:
            # No point of a block is further than half its diagonal from its nearest corner.
            active |= _pooled(np.abs(values), np.minimum) <= slope * self.pitch * block * np.sqrt(3) / 2
        looked_into = np.zeros_like(active)
        while active.any():
            cells = np.argwhere(active)
            self.bar.total = self.bar.n + len(cells) * block**3
            for part in np.array_split(cells, -(-len(cells) * (block + 1) ** 3 // self.chunk)):
                self._write(self._points_of(part, block))
            looked_into |= active
            active = self._crossed(level, block, blocks) & ~looked_into

    def _spread(self, axis: int, line: Int[np.ndarray, "k"], n: int) -> None:
        """Give all points the value of the corner before them, along one axis."""
        view = np.moveaxis(self.core, axis, 0)
        # Axes not yet spread hold values at their corners only; the rest is overwritten in its turn.
        for first, last in itertools.pairwise(line):
            view[first + 1 : last] = view[first]

    def _points_of(self, cells: Int[np.ndarray, "k 3"], block: int) -> Int[np.ndarray, "n 3"]:
        """All points of some blocks, each once."""
        offsets = np.stack(np.meshgrid(*[np.arange(block + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        points = (cells[:, None] * block + offsets).reshape(-1, 3)
        points = points[(points < self.core.shape).all(1)]
        flat = np.unique(np.ravel_multi_index(tuple(points.T), self.core.shape))
        return np.stack(np.unravel_index(flat, self.core.shape), axis=1)

    def _crossed(self, level: float, block: int, blocks: np.ndarray) -> Bool[np.ndarray, "x y z"]:
        """Blocks with points on both sides of the level."""
        # One slab of blocks at a time: the comparison of the whole grid would take a quarter of its memory.
        found = np.zeros(blocks, np.bool_)
        for i in range(blocks[0]):
            above = self.core[i * block : (i + 1) * block + 1] > level
            some, every = np.asarray(above.any(0)), np.asarray(above.all(0))
            for axis in (0, 1):
                some = _reduced(some, block, axis, np.logical_or)
                every = _reduced(every, block, axis, np.logical_and)
            found[i] = some & ~every
        return found

    def _write(self, cells: Int[np.ndarray, "n 3"]) -> None:
        with torch.no_grad():
            points = torch.from_numpy(self.origin + cells * self.pitch)
            values = self.evaluate(points).detach().float().cpu().numpy()
        if not np.isfinite(values).all():
            bad = points[int(np.flatnonzero(~np.isfinite(values))[0])].tolist()
            raise SinefieldError(f"the field is NaN or infinite at {bad}; train again, with a lower rate")
        self.core[tuple(cells.T)] = values
        self.evaluations += len(cells)
        self.bar.update(len(cells))


def _pooled(corners: np.ndarray, operation: np.ufunc) -> np.ndarray:
    """`operation` over the eight corners of each block."""
    for axis in range(3):
        n = corners.shape[axis]
        corners = operation(corners.take(range(n - 1), axis), corners.take(range(1, n), axis))
    return corners


def _reduced(values: np.ndarray, block: int, axis: int, operation: np.ufunc) -> np.ndarray:
    """`operation` over each block's points along an axis, the first point of the next block included."""
    starts = np.arange(0, values.shape[axis] - 1, block)
    inner = operation.reduceat(values, starts, axis)
    ends = np.minimum(starts + block, values.shape[axis] - 1)
    return operation(inner, values.take(ends, axis))
