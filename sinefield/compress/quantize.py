"""A tensor in few bits: uniform steps or a k-means codebook, as something that can also be trained further.

A quantiser holds the whole numbers a file stores and what turns them back into values. While it is being trained,
`values` is what the network sees and `backward` takes the gradient of those values (straight-through: Bengio et al.,
arXiv 1308.3432; learned steps: Esser et al., ICLR 2020, eq. 3).
"""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sinefield.compress.tensors import Coded
from sinefield.errors import SinefieldError

MAX_LEVEL = 1 << 15


@runtime_checkable
class Quantiser(Protocol):
    """What packing needs of a way to quantise."""

    def parameters(self) -> list[nn.Parameter]:
        """What training may change."""
        ...

    def values(self) -> Tensor:
        """The tensor that a decoder of the file gets, bit for bit."""
        ...

    def levels(self) -> Int[np.ndarray, "*shape"]:
        """The whole numbers that are stored."""
        ...

    def coded(self) -> Coded:
        """What a file stores."""
        ...

    def backward(self, grad: Tensor, rate_weight: float) -> None:
        """Set the gradients of `parameters` from that of `values`, plus `rate_weight` × gradient of the bits."""
        ...


class Uniform:
    """value = offset + step · level, one step a tensor or a row.

    Arguments:
        tensor: what to quantise.
        step: the step; or give `bits`.
        bits: 2^bits levels between the extremes of the tensor (or row), shrunk to where the squared error is least.
        per_row: a step for each index of the first axis.
        affine: an offset is stored too; without it a level is exactly 0.
        groups: columns that have bits counted apart from the others'; None where all are alike.

    Raises:
        SinefieldError: neither or both of step and bits, or bits outside 1 to 8.
    """

    def __init__(
        self,
        tensor: Tensor,
        step: float | Tensor | None = None,
        bits: int | None = None,
        per_row: bool = False,
        affine: bool = False,
        groups: list[np.ndarray] | None = None,
    ) -> None:
        if (step is None) == (bits is None):
            raise SinefieldError("a uniform quantiser needs exactly one of step and bits")
        _check_bits(bits)
        self.bits, self.affine, self.groups = bits, affine, groups or None
        self.latent = nn.Parameter(tensor.detach().float().clone())
        self.per_row = per_row and tensor.dim() > 1
        rows = self.latent.detach().flatten(1) if self.per_row else self.latent.detach().reshape(1, -1)
        if bits is not None:
            found, offset = _least_error(rows, bits, affine)
        else:
            found = torch.as_tensor(step, dtype=torch.float32).expand(len(rows))
            offset = torch.zeros(len(rows))
        shape = (-1,) + (1,) * (tensor.dim() - 1) if self.per_row else ()
        self.log_step = nn.Parameter(found.clamp(min=1e-30).log().reshape(shape))
        self.offset = _bf16(offset).reshape(shape)

    def parameters(self) -> list[nn.Parameter]:
        return [self.latent, self.log_step]

    @property
    def step(self) -> Tensor:
        """Steps as the file stores them, rounded to bfloat16: () or (rows, 1, …)."""
        return _bf16(self.log_step.detach().exp())

    def level_range(self) -> tuple[int, int]:
        """The least and the greatest level."""
        if self.bits is None:
            return -MAX_LEVEL, MAX_LEVEL - 1
        return (0, 2**self.bits - 1) if self.affine else (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1)

    def _levels(self) -> tuple[Tensor, Tensor]:
        raw = (self.latent.detach() - self.offset) / self.step
        return raw, raw.round().clamp(*self.level_range())

    def levels(self) -> Int[np.ndarray, "*shape"]:
        return self._levels()[1].to(torch.int64).numpy()

    def coded(self) -> Coded:
        return Coded(self.levels(), self.step.numpy(), self.offset.numpy())

    def values(self) -> Tensor:
        return self._levels()[1] * self.step + self.offset  # as `Coded.values`, bit for bit

    def backward(self, grad: Tensor, rate_weight: float) -> None:
        raw, levels = self._levels()
        low, high = self.level_range()
        inside = (raw >= low) & (raw <= high)
        step = self.step
        # d value / d step is level − raw where rounding decides, the level itself where the range clips.
        of_step = grad * torch.where(inside, levels - raw, levels)
        self.latent.grad = grad * inside
        of_step = of_step.flatten(1).sum(1).reshape(step.shape) if self.per_row else of_step.sum()
        self.log_step.grad = of_step * step
        if rate_weight:
            latent, scaled = laplace_bits_gradient(self.latent.detach() - self.offset, step, self.groups)
            self.latent.grad += rate_weight * latent
            per_row = scaled.flatten(1).sum(1).reshape(step.shape) if self.per_row else scaled.sum()
            self.log_step.grad += rate_weight * per_row


class Bank:
    """Many `Uniform` quantisers as one long vector: a step of training takes a few operations, not some for each.

    From then on their latents and steps are parts of the bank's, which optimisers may move in place. Takes quantisers
    of one step without an offset; see `takes`.
    """

    def __init__(self, members: Sequence[Uniform]) -> None:
        self.members = list(members)
        self.sizes = [q.latent.numel() for q in self.members]
        self.latent = torch.cat([q.latent.detach().flatten() for q in self.members])
        self.log_step = torch.stack([q.log_step.detach() for q in self.members])
        for q, latent, log_step in zip(self.members, self._split(self.latent), self.log_step, strict=True):
            q.latent.data, q.log_step.data = latent, log_step
        device, sizes = self.latent.device, torch.tensor(self.sizes)
        self.of = torch.arange(len(self.members)).repeat_interleave(sizes).to(device)
        ranges = torch.tensor([q.level_range() for q in self.members], device=device, dtype=torch.float32)
        self.low, self.high = ranges[self.of].T.contiguous()
        groups, first = [], 0
        for q in self.members:
            found, count = _grouped(q)
            groups.append(found + first)
            first += count
        self.group = torch.cat(groups).to(device)
        self.counts = torch.bincount(self.group, minlength=first)

    @staticmethod
    def takes(quantiser: object) -> bool:
        """Whether a quantiser can be a member."""
        return isinstance(quantiser, Uniform) and not quantiser.per_row and not quantiser.affine

    def _split(self, flat: Tensor) -> list[Tensor]:
        parts = flat.split(self.sizes)
        return [part.view(q.latent.shape) for part, q in zip(parts, self.members, strict=True)]

    def values(self) -> list[Tensor]:
        """`Uniform.values` of each, bit for bit."""
        self.step = _bf16(self.log_step.exp())[self.of]
        self.raw = self.latent / self.step
        self.levels = self.raw.round().clamp(self.low, self.high)
        return self._split(self.levels * self.step)

    def backward(self, grads: Sequence[Tensor], rate_weight: float) -> None:
        """`Uniform.backward` of each, after `values`."""
        grad = torch.cat([g.flatten() for g in grads])
        inside = (self.raw >= self.low) & (self.raw <= self.high)
        of_step = grad * torch.where(inside, self.levels - self.raw, self.levels) * self.step
        grad = grad * inside
        if rate_weight:
            size = self.raw.abs()
            mean = torch.zeros(len(self.counts), device=size.device).index_add_(0, self.group, size) / self.counts
            slope = rate_weight * _laplace_slope(mean)[self.group]
            grad += slope * self.raw.sign() / self.step
            of_step -= slope * size
        of_steps = torch.zeros_like(self.log_step).index_add_(0, self.of, of_step)
        for q, latent, log_step in zip(self.members, self._split(grad), of_steps, strict=True):
            q.latent.grad, q.log_step.grad = latent, log_step


def _grouped(q: Uniform) -> tuple[Int[Tensor, "n"], int]:
    """For each entry the group whose bits it counts with, and how many groups there are."""
    groups = q.groups or [np.arange(q.latent.shape[-1] if q.latent.dim() else 1)]
    column = torch.zeros(q.latent.shape[-1] if q.latent.dim() else 1, dtype=torch.int64)
    for number, columns in enumerate(groups):
        column[columns] = number
    return column.expand(q.latent.shape).flatten() if q.latent.dim() else column, len(groups)


class Codebook:
    """value = codebook[level], the codebook by k-means (Lloyd) on the tensor's entries; 2^bits entries, sorted.

    The entries are trained, the assignment is fixed. Entries are rounded to float16.
    """

    def __init__(self, tensor: Tensor, bits: int) -> None:
        _check_bits(bits)
        self.bits = bits
        entries, labels = kmeans(tensor.detach().float().flatten().numpy(), 2**bits)
        self.codebook = nn.Parameter(torch.from_numpy(entries))
        self.labels = torch.from_numpy(labels).view(tensor.shape)

    def parameters(self) -> list[nn.Parameter]:
        return [self.codebook]

    @property
    def entries(self) -> Tensor:
        return self.codebook.detach().half().float()

    def levels(self) -> Int[np.ndarray, "*shape"]:
        return self.labels.numpy()

    def coded(self) -> Coded:
        return Coded(self.levels(), entries=self.entries.numpy())

    def values(self) -> Tensor:
        return self.entries[self.labels]

    def backward(self, grad: Tensor, rate_weight: float) -> None:
        total = torch.zeros_like(self.codebook).index_add_(0, self.labels.flatten(), grad.flatten())
        # A mean, so that a learning rate means the same whatever the size of a cluster.
        self.codebook.grad = total / torch.bincount(self.labels.flatten(), minlength=len(total)).clamp(min=1)


def laplace_bits_gradient(
    latent: Tensor, step: Tensor, groups: list[np.ndarray] | None = None
) -> tuple[Tensor, Tensor]:
    """Gradient of the estimated bits of a tensor with respect to its entries and to log step (entry by entry).

    The estimate is n·log₂(1 + 2e·b) with b the mean |entry| in steps: the entropy of a Laplace distribution
    (log₂ 2eb) where steps are small, 0 where everything rounds to 0. With `groups` of columns, b is that of the group.
    """
    scaled = latent / step
    b = scaled.abs().mean()
    if groups is not None:
        b = torch.empty(latent.shape[-1])
        for columns in groups:
            b[columns] = scaled[:, columns].abs().mean()
    slope = _laplace_slope(b)
    return slope * scaled.sign() / step, -slope * scaled.abs()


def _laplace_slope(mean: Tensor) -> Tensor:
    """Gradient of log₂(1 + 2e·b) with respect to b."""
    return 2 * math.e / (1 + 2 * math.e * mean) / math.log(2)


def kmeans(x: Float[np.ndarray, "n"], k: int, rounds: int = 60) -> tuple[Float[np.ndarray, "k"], Int[np.ndarray, "n"]]:
    """Lloyd's algorithm on numbers, started from quantiles: sorted centres (at most k, none empty) and labels."""
    centres = np.unique(np.quantile(x, (np.arange(k) + 0.5) / k))
    for _ in range(rounds):
        labels = np.searchsorted((centres[1:] + centres[:-1]) / 2, x)
        counts = np.bincount(labels, minlength=len(centres))
        sums = np.bincount(labels, x, minlength=len(centres))
        moved = np.where(counts > 0, sums / np.maximum(counts, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = np.sort(moved)
    labels = np.searchsorted((centres[1:] + centres[:-1]) / 2, x)
    used, labels = np.unique(labels, return_inverse=True)
    return centres[used].astype(np.float32), labels.astype(np.int64)


def _bf16(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).float()


def _check_bits(bits: int | None) -> None:
    if bits is not None and not 1 <= bits <= 8:
        raise SinefieldError(f"{bits} bits; 1 to 8")


def _least_error(rows: Tensor, bits: int, affine: bool) -> tuple[Tensor, Tensor]:
    """Step and offset of each row: clipping a few outliers costs less than steps too wide for all others."""
    n = 2**bits
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    best = (torch.full((len(rows), 1), torch.inf), torch.ones(len(rows), 1), torch.zeros(len(rows), 1))
    for shrink in np.linspace(0.2, 1.0, 33):
        if affine:
            middle = (low + high) / 2
            offset = middle + (low - middle) * shrink
            step = (high - low) * shrink / (n - 1)
        else:
            offset = torch.zeros_like(low)
            step = shrink * rows.abs().amax(1, keepdim=True) / max(n // 2 - 0.5, 0.5)
        step, offset = _bf16(step.clamp(min=1e-30)), _bf16(offset)
        levels = ((rows - offset) / step).round()
        levels = levels.clamp(0, n - 1) if affine else levels.clamp(-(n // 2), n // 2 - 1)
        error = (levels * step + offset - rows).square().sum(1, keepdim=True)
        best = tuple(
            torch.where(error < best[0], new, old) for new, old in zip((error, step, offset), best, strict=True)
        )
    return best[1][:, 0], best[2][:, 0]
