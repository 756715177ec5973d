"""An occupancy grid in few bytes: each row of cells predicted from the plane and the row before it."""

import numpy as np
from jaxtyping import Bool, Int, UInt8

from sinefield.compress.entropy import PRECISION, ROOTS, Decoder, Encoder

CONTEXTS = 2 * 5 * 2 * 3
"""The cell before in x (2), how many of its four neighbours in y and z (5), the cell before in y (2), its two (3)."""


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


def decode_grid(decoder: Decoder, shape: tuple[int, int, int], table: bytes) -> Bool[np.ndarray, "x y z"]:
    """Inverse of `encode_grid`."""
    frequency = _frequency(np.frombuffer(table, np.uint8))
    cells = np.zeros([n + 2 for n in shape], bool)
    for x in range(1, shape[0] + 1):
        plane = _plane_context(cells[x - 1])[1:-1, 1:-1] * 6
        for y in range(1, shape[1] + 1):
            context = plane[y - 1] + _row_context(cells[x, y - 1])[1:-1]
            cells[x, y, 1:-1] = decoder.take_bits(frequency[context])
    return cells[1:-1, 1:-1, 1:-1]


def _plane_context(planes: Bool[np.ndarray, "*x y z"]) -> Int[np.ndarray, "*x y z"]:
    p = planes.astype(np.int64)
    beside = np.roll(p, 1, -1) + np.roll(p, -1, -1) + np.roll(p, 1, -2) + np.roll(p, -1, -2)
    return p * 5 + beside


def _row_context(rows: Bool[np.ndarray, "*xy z"]) -> Int[np.ndarray, "*xy z"]:
    r = rows.astype(np.int64)
    return r * 3 + np.roll(r, 1, -1) + np.roll(r, -1, -1)


def _frequency(table: UInt8[np.ndarray, "k"]) -> Int[np.ndarray, "k"]:
    """Of 2^24: a byte v below 128 is a probability of 2^(−(v + 8)/8) of being 1, from 128 on of being 0."""
    steps = (table.astype(np.int64) & 127) + 8
    rare = np.array([max((ROOTS[s % 8] >> (s // 8)) >> (32 - PRECISION), 1) for s in steps.tolist()])
    return np.where(table < 128, rare, (1 << PRECISION) - rare)


def _nearest(p: float) -> int:
    rare = min(p, 1 - p)
    v = int(np.clip(round(-8 * np.log2(rare)) - 8, 0, 127))
    return v if p <= 0.5 else v + 128
