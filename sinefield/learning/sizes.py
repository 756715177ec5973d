"""How large a network a number of bytes asks for."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from sinefield.config import Config
from sinefield.errors import SinefieldError
from sinefield.fields.base import kind_of

SIZES, BITS = (2000, 3774, 6861), (5.2, 5.85, 6.08)
"""Bytes, and bits a number of the networks that serve them best: of the seven meshes of docs/results/rate_shapes.md."""
RANKS = (90, 8, 12)
"""Width from which the higher rank is taken, the lower and the higher one; there too."""
HEAD = 60
"""Bytes of a file beside its network."""
NARROWEST, WIDEST = 8, 512
LEAST_TABLE, TABLE_BITS = 6, 4.0
"""Logarithm of the fewest entries of a feature grid's table, and bits a number of a field with such grids."""


def sized(config: Config, max_bytes: int) -> Config:
    """The settings with the width and rank, or of feature grids the tables, that serve a file of so many bytes.

    Raises:
        SinefieldError: not even the narrowest network fits; the least that does is said.
    """
    if not hasattr(config.field, "width"):
        return config
    if getattr(config.field, "encoding", "frequency") == "hash":
        tables = range(LEAST_TABLE, config.field.log2_table + 1)
        bits, sizes = TABLE_BITS, (_with_table(config, size) for size in tables)
    else:
        bits = float(np.interp(math.log(max_bytes), np.log(SIZES), BITS)) if max_bytes > 0 else BITS[0]
        sizes = (_as_wide(config, width) for width in range(NARROWEST, WIDEST + 1, 2))
    beside, best = HEAD + kind_of(config).beside, None
    for tried in sizes:
        least = math.ceil(numbers_of(tried) * bits / 8 + beside)
        if best is None and least - kind_of(config).beside > max_bytes:  # what lies beside may be less
            raise SinefieldError(
                f"--max-bytes {max_bytes}: the smallest field of kind {config.kind} takes about {least} bytes; "
                "give at least that"
            )
        if best is not None and least > max_bytes:
            break
        best = tried
    return best or config


def _with_table(config: Config, log2_table: int) -> Config:
    return replace(config, field=replace(config.field, log2_table=log2_table))


def _as_wide(config: Config, width: int) -> Config:
    above, low, high = RANKS
    changed: dict[str, Any] = {"width": width}
    if config.field.weights != "dense":
        changed["rank"] = min(low if width < above else high, width)
    return replace(config, field=replace(config.field, **changed))


def numbers_of(config: Config) -> int:
    """How many numbers a field of these settings has."""
    return sum(math.prod(shape) for shape in kind_of(config).shapes(config.field).values())
