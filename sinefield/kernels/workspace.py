"""Memory that is used again from step to step."""

import math

import torch
from torch import Tensor

ROUND = 512
"""Batches of bf16 are filled up to a multiple of so many rows: oneDNN compiles a kernel for each new shape."""


class Workspace:
    """Buffers by name that grow and are used again."""

    def __init__(self) -> None:
        self.held: dict[object, Tensor] = {}

    def take(self, key: object, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """An uninitialised (rows, columns) tensor; the same memory each time."""
        held = self.held.get(key)
        if held is None or len(held) < rows or held.shape[1] != columns or held.dtype != dtype:
            held = torch.empty(rounded_up(rows), columns, dtype=dtype)
            self.held[key] = held
        return held[:rows]


class Pool:
    """Workspaces that are not in use: one for every forward whose backward is still to come. A copy starts empty."""

    def __init__(self) -> None:
        self.free: list[Workspace] = []

    def __deepcopy__(self, memo: dict) -> "Pool":
        return Pool()

    def take(self) -> Workspace:
        return self.free.pop() if self.free else Workspace()

    def give(self, space: Workspace) -> None:
        self.free.append(space)


def rounded_up(rows: int) -> int:
    """The next multiple of `ROUND`."""
    return max(math.ceil(rows / ROUND), 1) * ROUND
