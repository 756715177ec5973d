"""An occupancy grid in few bytes: each row of cells predicted from the plane and the row before it."""

import math

import numpy as np
from jaxtyping import Bool, Int, UInt8

from sinefield.compress.entropy import PRECISION, ROOTS, Decoder, Encoder, shares
from sinefield.compress.reader import Reader, varint

CONTEXTS = 2 * 5 * 2 * 3
"""The cell before in x (2), how many of its four neighbours in y and z (5), the cell before in y (2), its two (3)."""
CELLS, CELLS_A_BYTE, CHANGED_A_BYTE = 1 << 18, 1 << 8, 1 << 13
"""A field may have so many cells at least, else so many a byte; an edit, few of whose cells are set, more a byte."""
ROWS, ROWS_A_BYTE = 1 << 13, 1 << 6
"""The same of rows along z, each of which takes some work, as each plane takes that of `PLANE` rows more."""
PLANE = 4
Shape = tuple[int, int, int]
Extent = list[tuple[int, int]]
"""First index and count along each axis."""


def encode_grid(encoder: Encoder, cells: Bool[np.ndarray, "x y z"]) -> bytes:
    """Put a block of bits into the coder; returns what a decoder needs first: a byte a context."""
    padded = np.pad(cells, 1)
    context = _plane_context(padded)[:-2, 1:-1, 1:-1] * 6 + _row_context(padded)[1:-1, :-2, 1:-1]
    bits = cells.astype(np.int64)
    ones = np.bincount(context.ravel(), bits.ravel(), CONTEXTS)
    all_ = np.bincount(context.ravel(), minlength=CONTEXTS)
    table = np.array([_nearest((one + 0.4) / (every + 0.8)) for one, every in zip(ones, all_, strict=True)], np.uint8)
    encoder.put_bits(bits.ravel(), _frequency(table)[context.ravel()])
    return table.tobytes()


def decode_grid(decoder: Decoder, shape: Shape, table: bytes) -> Bool[np.ndarray, "x y z"]:
    """Inverse of `encode_grid`."""
    parts = shares(_frequency(np.frombuffer(table, np.uint8)))
    cells = np.zeros((shape[0], shape[1] + 2, shape[2] + 2), np.int8)  # with a border in y and z
    before = np.zeros(cells.shape[1:], np.int8)
    for plane in cells:
        contexts = _plane_context(before)[1:-1, 1:-1] * np.int8(6)
        for y, context in enumerate(contexts):
            row = plane[y]
            plane[y + 1, 1:-1] = decoder.take_bits(parts[context + 3 * row[1:-1] + row[:-2] + row[2:]])
        before = plane
    return cells[:, 1:-1, 1:-1].view(bool)


def check_work(shape: Shape, length: int, cells_a_byte: int = CELLS_A_BYTE) -> None:
    """Raises ValueError where a block of cells is more work than a file of `length` bytes may ask for."""
    cells, rows = math.prod(shape), shape[0] * (shape[1] + PLANE)
    if cells > max(CELLS, cells_a_byte * length) or rows > max(ROWS, ROWS_A_BYTE * length):
        raise ValueError(
            f"its grid of {cells:,} cells in {shape[0]:,} planes is too large for a file of {length:,} bytes"
        )


def extent_of(cells: Bool[np.ndarray, "x y z"]) -> Extent:
    """The smallest block that holds all set cells; of none an empty one."""
    found: Extent = []
    for axis in range(3):
        at = np.flatnonzero(cells.any(tuple({0, 1, 2} - {axis})))
        found.append((int(at[0]), int(np.ptp(at)) + 1) if len(at) else (0, 0))
    return found


def extent_out(extent: Extent) -> bytes:
    return b"".join(varint(first) + varint(count) for first, count in extent)


def extent_in(reader: Reader, shape: Shape) -> Extent:
    """A block within a grid of this shape; raises ValueError for one that is not."""
    extent: Extent = []
    for side in shape:
        first = reader.varint(side)
        extent.append((first, reader.varint(side - first)))
    return extent


def sides_of(extent: Extent) -> Shape:
    """How many cells the block has along each axis."""
    (_, x), (_, y), (_, z) = extent
    return x, y, z


def slices_of(extent: Extent) -> tuple[slice, ...]:
    return tuple(slice(first, first + count) for first, count in extent)


def _plane_context(planes: Int[np.ndarray, "*x y z"]) -> Int[np.ndarray, "*x y z"]:
    p = planes.astype(np.int8)
    beside = np.roll(p, 1, -1) + np.roll(p, -1, -1) + np.roll(p, 1, -2) + np.roll(p, -1, -2)
    return p * np.int8(5) + beside


def _row_context(rows: Bool[np.ndarray, "*xy z"]) -> Int[np.ndarray, "*xy z"]:
    r = rows.astype(np.int8)
    return r * np.int8(3) + np.roll(r, 1, -1) + np.roll(r, -1, -1)


def _frequency(table: UInt8[np.ndarray, "k"]) -> Int[np.ndarray, "k"]:
    """Of 2^24: a byte v below 128 is a probability of 2^(−(v + 8)/8) of being 1, from 128 on of being 0."""
    steps = (table.astype(np.int64) & 127) + 8
    rare = np.array([max((ROOTS[s % 8] >> (s // 8)) >> (32 - PRECISION), 1) for s in steps.tolist()])
    return np.where(table < 128, rare, (1 << PRECISION) - rare)


def _nearest(p: float) -> int:
    rare = min(p, 1 - p)
    v = int(np.clip(round(-8 * np.log2(rare)) - 8, 0, 127))
    return v if p <= 0.5 else v + 128
