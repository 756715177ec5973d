"""The encodings that grids.py compares: feature lines and planes in low rank, plain and under a sine.

Points are in [−1, 1]³. A *line* holds numbers along one axis, a *plane* over two; between them values are interpolated
linearly. TensoRF (Chen et al., ECCV 2022) has CP, Σ u⊗v⊗w of three lines, and VM, a plane times a line, for each axis.
Under a sine a feature is sin(ω · Σ …) instead: of full rank, though it is made of as few numbers.
"""

import math
from collections.abc import Sequence

import numba
import numpy as np
import torch
from torch import Tensor, nn

from sinefield.kernels.shell import Pull, differentiable

ACROSS = ((0, 1), (0, 2), (1, 2))
"""Axes of the three planes; the line that goes with each runs along the third."""
ALONG = (2, 1, 0)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _place(x, n):
    u = min(max((x + np.float32(1)) * np.float32(0.5), np.float32(0)), np.float32(1)) * np.float32(n - 1)
    low = min(int(u), n - 2)
    return low, u - np.float32(low)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _lines(x, axes, table, out):
    n, c = table.shape[1], table.shape[2]
    for p in range(len(x)):
        for a in range(len(axes)):
            i, f = _place(x[p, axes[a]], n)
            for k in range(c):
                out[p, a, k] = (1 - f) * table[a, i, k] + f * table[a, i + 1, k]


@numba.njit(cache=True, nogil=True, fastmath=True)
def _lines_back(x, axes, grad, found):
    n, c = found.shape[1], found.shape[2]
    for p in range(len(x)):
        for a in range(len(axes)):
            i, f = _place(x[p, axes[a]], n)
            for k in range(c):
                g = grad[p, a, k]
                found[a, i, k] += (1 - f) * g
                found[a, i + 1, k] += f * g


@numba.njit(cache=True, nogil=True, fastmath=True)
def _planes(x, first, second, table, out):
    n, c = table.shape[1], table.shape[3]
    for p in range(len(x)):
        for a in range(3):
            i, f = _place(x[p, first[a]], n)
            j, h = _place(x[p, second[a]], n)
            w00, w01, w10, w11 = (1 - f) * (1 - h), (1 - f) * h, f * (1 - h), f * h
            for k in range(c):
                out[p, a, k] = (
                    w00 * table[a, i, j, k] + w01 * table[a, i, j + 1, k]
                    + w10 * table[a, i + 1, j, k] + w11 * table[a, i + 1, j + 1, k]
                )  # fmt: skip


@numba.njit(cache=True, nogil=True, fastmath=True)
def _planes_back(x, first, second, grad, found):
    n, c = found.shape[1], found.shape[3]
    for p in range(len(x)):
        for a in range(3):
            i, f = _place(x[p, first[a]], n)
            j, h = _place(x[p, second[a]], n)
            w00, w01, w10, w11 = (1 - f) * (1 - h), (1 - f) * h, f * (1 - h), f * h
            for k in range(c):
                g = grad[p, a, k]
                found[a, i, j, k] += w00 * g
                found[a, i, j + 1, k] += w01 * g
                found[a, i + 1, j, k] += w10 * g
                found[a, i + 1, j + 1, k] += w11 * g


def _looked_up(x: Tensor, table: Tensor, forth, back) -> Tensor:
    """(n, 3, c) of a table, differentiable in it."""
    points = x.detach().float().contiguous().numpy()

    def step(wanted: Sequence[bool], table: Tensor) -> tuple[Tensor, Pull]:
        shape = table.shape

        def pull(grad: Tensor) -> tuple[Tensor]:
            found = np.zeros(tuple(shape), np.float32)
            back(points, grad.float().contiguous().numpy(), found)
            return (torch.from_numpy(found),)

        out = np.empty((len(points), 3, shape[-1]), np.float32)
        forth(points, table.detach().contiguous().numpy(), out)
        return torch.from_numpy(out), pull

    return differentiable(step, table)


def lines_at(x: Tensor, table: Tensor, axes: tuple[int, int, int]) -> Tensor:
    """(n, 3, c) of lines (3, size, c), each along its axis."""
    of = np.array(axes)
    return _looked_up(x, table, lambda p, t, o: _lines(p, of, t, o), lambda p, g, f: _lines_back(p, of, g, f))


def planes_at(x: Tensor, table: Tensor) -> Tensor:
    """(n, 3, c) of planes (3, size, size, c) over `ACROSS`."""
    one, two = (np.array(axes) for axes in zip(*ACROSS, strict=True))
    return _looked_up(
        x, table, lambda p, t, o: _planes(p, one, two, t, o), lambda p, g, f: _planes_back(p, one, two, g, f)
    )


class LowRank(nn.Module):
    """Base of the encodings: numbers per feature, and what becomes of the products.

    Args:
        size: entries along each axis.
        features: how many products, of each axis where there are three kinds.
        terms: products that are added up in a feature.
        phase: standard deviation of what the sine sees at the start; None: no sine.
    """

    lengths = 3

    def __init__(self, size: int, features: int, terms: int = 1, phase: float | None = None, spread: float = 0.5):
        super().__init__()
        self.size, self.features, self.terms, self.phase = size, features, terms, phase
        self.dtype = torch.float32
        self.omega = 1.0 if phase is None else phase / (math.sqrt(terms) * spread**self.factors)
        self.spread = spread

    factors = 3

    def drawn(self, *shape: int) -> nn.Parameter:
        return nn.Parameter(torch.randn(shape) * self.spread)

    def forward(self, x: Tensor) -> Tensor:
        products = self.products(x.float())
        summed = products.view(len(x), -1, self.terms).sum(2) if self.terms > 1 else products
        return (summed if self.phase is None else torch.sin(self.omega * summed)).to(self.dtype)

    def products(self, x: Tensor) -> Tensor:
        """(n, features · terms)."""
        raise NotImplementedError


class CP(LowRank):
    """Σ u(x) v(y) w(z): three lines a term."""

    def __init__(self, size: int, features: int, terms: int = 1, phase: float | None = None) -> None:
        super().__init__(size, features, terms, phase)
        self.lines = self.drawn(3, size, features * terms)
        self.out_features = features

    def products(self, x: Tensor) -> Tensor:
        return lines_at(x, self.lines, (0, 1, 2)).prod(1)


class VM(LowRank):
    """A plane times a line for each axis, all of them features."""

    factors = 2

    def __init__(self, size: int, features: int, terms: int = 1, phase: float | None = None) -> None:
        super().__init__(size, features, terms, phase)
        self.planes, self.lines = self.drawn(3, size, size, features * terms), self.drawn(3, size, features * terms)
        self.out_features = 3 * features

    def products(self, x: Tensor) -> Tensor:
        return (planes_at(x, self.planes) * lines_at(x, self.lines, ALONG)).flatten(1)


class FactoredVM(LowRank):
    """VM whose planes are low-rank matrices U·V, or with a phase sin(ω U·V): many entries from few numbers.

    The sine is inside, on the plane's entries, as in a layer's weights; the product with the line is left as it is.
    """

    factors = 2

    def __init__(self, size: int, features: int, rank: int, phase: float | None = None) -> None:
        super().__init__(size, features, rank, phase)
        self.u, self.v = self.drawn(3, features, size, rank), self.drawn(3, features, rank, size)
        self.lines = self.drawn(3, size, features)
        self.out_features = 3 * features

    def forward(self, x: Tensor) -> Tensor:
        planes = self.u @ self.v
        planes = planes if self.phase is None else self.spread * torch.sin(self.omega * planes)
        found = planes_at(x.float(), planes.permute(0, 2, 3, 1))
        return (found * lines_at(x.float(), self.lines, ALONG)).flatten(1).to(self.dtype)
