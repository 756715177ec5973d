"""A tensor as whole numbers under frequency tables, and its row in a `.sine` file. docs/format.md is its text.

A row is a form (`_CODEBOOK` …); steps and offsets as bfloat16, or how many entries and the entries as float16; then of
each part (all columns, or with `_OCTAVES` those of an octave) the least level, how many levels there are, and the
table's centre, slope and bend.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from sinefield.compress.entropy import MAX_SYMBOLS, Decoder, Encoder, fit_table, frequencies
from sinefield.compress.reader import Reader, signed, varint

LEVELS, LEVELS_A_BYTE = 1 << 18, 256
"""A file's tables together have at most so many levels, and so many more a byte of it."""
_CODEBOOK, _PER_ROW, _OFFSET, _OCTAVES = 1, 2, 4, 8
OCTAVES = {
    "network.weights.0.weight": "frequencies",
    "trunk.weights.0.weight": "frequencies",
    "colour_network.weights.0.weight": "colour_frequencies",
}
"""Weights that see an encoding, and the setting with its number of octaves."""


@dataclass
class Coded:
    """One tensor as whole numbers and what turns them into values.

    Attributes:
        levels: the tensor's shape.
        step, offset: float32, () or (rows, 1, …), of a uniform quantiser.
        entries: (k,) float32 of a codebook; None for a uniform one.
        bytes: what it takes in the file, its share of the coded part included.
    """

    levels: Int[np.ndarray, "*shape"]
    step: np.ndarray | None = None
    offset: np.ndarray | None = None
    entries: Float[np.ndarray, "k"] | None = None
    bytes: float = 0.0

    def values(self) -> Float[np.ndarray, "*shape"]:
        """float32, the same on every machine."""
        if self.entries is not None:
            return self.entries[self.levels]
        return decode_uniform(self.levels, *self.uniform())

    def uniform(self) -> tuple[np.ndarray, np.ndarray]:
        """Step and offset of a uniform quantiser."""
        assert self.step is not None and self.offset is not None
        return self.step, self.offset

    @property
    def bits(self) -> float:
        """Mean bits an entry takes in the file."""
        return 8 * self.bytes / max(self.levels.size, 1)


def decode_uniform(levels: np.ndarray, step: np.ndarray, offset: np.ndarray) -> Float[np.ndarray, "*shape"]:
    """One float32 product and one sum, each rounded once: the same on every machine."""
    with np.errstate(all="ignore"):
        return np.asarray(levels.astype(np.float32) * step + offset, np.float32)


def octaves(kind: str, name: str, settings: Mapping[str, Any]) -> list[np.ndarray]:
    """The columns of a weight that sees an encoding of frequencies, by octave; [] for a field's other tensors.

    Bare coordinates come first, then sine and cosine of each frequency. Entries of one octave are about alike, those of
    different ones are not.
    """
    n = settings.get(OCTAVES.get(name, ""), 0)
    if kind not in ("shape", "radiance", "image") or n == 0:
        return []
    d = 2 if kind == "image" else 3
    axes = np.arange(d)
    return [axes] + [np.concatenate([d + d * i + axes, d + d * (n + i) + axes]) for i in range(n)]


# ---- writing


def row_out(coded: Coded, encoder: Encoder, groups: list[np.ndarray]) -> tuple[bytes, int]:
    """The tensor's row, its levels handed to the coder, and how many levels its tables have; sets `coded.bytes`."""
    whole = _Part.of(coded.levels, coded.entries is None)
    parts = [_Part.of(coded.levels[:, columns], coded.entries is None) for columns in groups]
    grouped = bool(parts) and sum(8 * len(p.row) + p.bits for p in parts) < 8 * len(whole.row) + whole.bits
    form, row = _steps_out(coded)
    chosen = parts if grouped else [whole]
    for part in chosen:
        encoder.put(part.symbols, part.table)
    row = bytes([form | (_OCTAVES if grouped else 0)]) + row + b"".join(part.row for part in chosen)
    coded.bytes = len(row) + sum(part.bits for part in chosen) / 8
    return row, sum(len(part.table) for part in chosen)


def _steps_out(coded: Coded) -> tuple[int, bytes]:
    if coded.entries is not None:
        return _CODEBOOK, varint(len(coded.entries)) + coded.entries.astype("<f2").tobytes()
    step, offset = coded.uniform()
    shifted = bool((offset != 0).any())
    form = (_PER_ROW if step.ndim else 0) | (_OFFSET if shifted else 0)
    return form, bf16_bytes(step) + (bf16_bytes(offset) if shifted else b"")


class _Part(NamedTuple):
    """Levels under one table: from the least on, the table, its description, and the bits they take."""

    symbols: np.ndarray
    table: Int[np.ndarray, "n"]
    row: bytes
    bits: float

    @classmethod
    def of(cls, levels: np.ndarray, centred: bool) -> "_Part":
        """`centred`: level 0 is the middle of the table where it occurs."""
        low = int(levels.min()) if levels.size else 0
        symbols = levels.ravel() - low
        n = int(symbols.max(initial=0)) + 1
        if n > MAX_SYMBOLS:
            raise ValueError(f"a tensor has {n:,} levels, at most {MAX_SYMBOLS:,} can be; take larger steps")
        centre, slope, bend, bits = fit_table(symbols, n, -low if centred and low <= 0 < low + n else None)
        row = signed(low) + varint(n - 1) + (varint(centre) + bytes([slope, bend]) if n > 1 else b"")
        return cls(symbols, frequencies(n, centre, slope, bend), row, bits)


# ---- reading


class Table(NamedTuple):
    """What a row says of one part: its columns (None: all), their least level, the table of the n levels from there."""

    columns: Int[np.ndarray, "c"] | None
    low: int
    n: int
    centre: int = 0
    slope: int = 0
    bend: int = 0


class Row(NamedTuple):
    """What a file says of a tensor before the coder's part: all of a `Coded` but its levels, and their tables."""

    shape: tuple[int, ...]
    step: np.ndarray | None
    offset: np.ndarray | None
    entries: np.ndarray | None
    tables: list[Table]

    def take(self, decoder: Decoder) -> Coded:
        """The tensor, its levels taken from the coder."""
        levels = np.empty(self.shape, np.int64)
        for table in self.tables:
            columns = ... if table.columns is None else (..., table.columns)
            part = self.shape if table.columns is None else (*self.shape[:-1], len(table.columns))
            counts = frequencies(*table[2:])
            levels[columns] = decoder.take(math.prod(part), counts).reshape(part) + table.low
        return Coded(levels, self.step, self.offset, self.entries)


def row_in(reader: Reader, shape: tuple[int, ...], groups: list[np.ndarray]) -> Row:
    """Read a tensor's row; raises ValueError for what none can be."""
    form = reader.byte()
    if form > 15 or (form & _CODEBOOK and form & ~_OCTAVES != _CODEBOOK) or (form & _OCTAVES and not groups):
        raise ValueError(f"a tensor has the unknown form {form}")
    step, offset, entries = _steps_in(reader, form, shape)
    if not all(part is None or np.isfinite(part).all() for part in (step, offset, entries)):
        raise ValueError("a tensor's steps are not finite")
    columns = groups if form & _OCTAVES else [None]
    return Row(shape, step, offset, entries, [_table_in(reader, part, entries) for part in columns])


def rows_in(
    reader: Reader, expected: dict[str, tuple[tuple[int, ...], list[np.ndarray]]], length: int
) -> dict[str, Row]:
    """Read all rows.

    Arguments:
        expected: shape and `octaves` of each tensor.
        length: of the file, whose tables together must not be larger than its share.
    """
    rows, levels = {}, 0
    for name, (shape, groups) in expected.items():
        rows[name] = row_in(reader, shape, groups)
        levels += sum(table.n for table in rows[name].tables)
        check_levels(levels, length)
    return rows


def check_levels(levels: int, length: int) -> None:
    """Raises ValueError where all tables together are larger than a file of `length` bytes may have them."""
    if levels > LEVELS + LEVELS_A_BYTE * length:
        raise ValueError(f"its tables have {levels:,} levels in {length:,} bytes, which is too many; take larger steps")


def _steps_in(reader: Reader, form: int, shape: tuple[int, ...]) -> tuple[np.ndarray | None, ...]:
    """Step, offset and entries, those that the form has."""
    if form & _CODEBOOK:
        return None, None, np.frombuffer(reader.take(2 * reader.varint(256)), "<f2").astype(np.float32)
    rows = shape[0] if form & _PER_ROW else 1
    sizes = (-1,) + (1,) * (len(shape) - 1) if form & _PER_ROW else ()
    step = bf16_values(reader.take(2 * rows)).reshape(sizes)
    offset = bf16_values(reader.take(2 * rows)).reshape(sizes) if form & _OFFSET else np.zeros_like(step)
    return step, offset, None


def _table_in(reader: Reader, columns: np.ndarray | None, entries: np.ndarray | None) -> Table:
    low = reader.signed(1 << 16)
    n = reader.varint(MAX_SYMBOLS - 1) + 1
    if entries is not None and (low < 0 or low + n > len(entries)):
        raise ValueError(f"a codebook of {len(entries)} entries is asked for entry {low + n - 1}")
    return Table(columns, low, n, *((reader.varint(n - 1), reader.byte(), reader.byte()) if n > 1 else ()))


def bf16_bytes(values: Float[np.ndarray, "*shape"]) -> bytes:
    """float32 as bfloat16, the nearest one, of two the even."""
    bits = np.asarray(values, "<f4").reshape(-1).view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()


def bf16_values(data: bytes) -> Float[np.ndarray, "n"]:
    return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
