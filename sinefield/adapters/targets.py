"""One layer's part of an adapter as plain tensors, between models and files."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sinefield.adapters.deltas import AdapterSpec


@dataclass
class Target:
    """What an adapter has for one layer: `a` (rank, columns), `b` (rows, rank), `magnitude` (rows,) or None.

    `rows` × `columns` is the layer's (out, in) matrix; `transposed` says that the layer holds it as (in, out).
    """

    spec: AdapterSpec
    transposed: bool
    a: Tensor
    b: Tensor
    magnitude: Tensor | None = None

    @property
    def rows(self) -> int:
        return len(self.b)

    @property
    def columns(self) -> int:
        return self.a.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        found = {"a": self.a, "b": self.b, "magnitude": self.magnitude}
        return {name: t for name, t in found.items() if t is not None}

    def settings(self) -> dict[str, Any]:
        sizes = {"transposed": self.transposed, "rows": self.rows, "columns": self.columns}
        return {**dataclasses.asdict(self.spec), **sizes}
