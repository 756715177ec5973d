"""Whole numbers to bytes: an ANS coder over integer frequency tables that every machine computes alike.

constriction's coder does the coding (range asymmetric numeral systems, 24-bit frequencies, 32-bit words). A table comes
from two bytes by integer arithmetic alone, so that no rounding of a mathematics library can part encoder and decoder.
docs/format.md specifies all of it.
"""

from functools import lru_cache

import constriction
import numpy as np
from jaxtyping import Float, Int

from sinefield.errors import SinefieldError

PRECISION = 24
ONE = 1 << 32
ROOTS = tuple(round(ONE * 2 ** (-j / 8)) for j in range(8))
"""2^(−j/8) in 32-bit fixed point; docs/format.md lists the numbers."""
MAX_SYMBOLS = 1 << 16
FLAT = 255
"""The byte that stands for a ratio of exactly 1."""


def _ratio(index: int) -> int:
    """A ratio in 32-bit fixed point: 1 − 2^(−(index + 8)/8) below 128, then 2^(−(index − 120)/8); 1 for `FLAT`."""
    if index == FLAT:
        return ONE
    steps = index + 8 if index < 128 else index - 120
    part = ROOTS[steps % 8] >> (steps // 8)
    return ONE - part if index < 128 else part


def frequencies(n: int, centre: int, slope: int, bend: int) -> Int[np.ndarray, "n"]:
    """Frequencies of symbols 0 … n − 1, each at least 1, summing to 2^24.

    Going outwards from `centre`, a symbol's weight is the last one's times q, and q itself is multiplied by c at each
    step; `slope` and `bend` say q at the start and c, as `_ratio` has it. With bend = 255 that is a two-sided
    geometric (Laplace) distribution, with 0 < bend = slope − 8 < 120 about a Gaussian, with both 255 uniform.
    """
    return (_small if n <= FEW else _large)(n, centre, slope, bend)


def _side(reach: int, slope: int, bend: int) -> Int[np.ndarray, "m"]:
    """Weights at 0 … `reach` steps from the centre."""
    side, weight, q, c = [ONE], ONE, _ratio(slope), _ratio(bend)
    while len(side) <= reach and weight:  # beyond a weight of 0 all are 0
        weight = weight * q >> 32
        q = q * c >> 32
        side.append(weight)
    half = np.zeros(reach + 1, np.int64)
    half[: len(side)] = side
    return half


def _frequencies(n: int, centre: int, slope: int, bend: int) -> Int[np.ndarray, "n"]:
    # Of few symbols all tables of these two bytes share their weights.
    half = _few_sides(FEW, slope, bend) if n <= FEW else _side(max(centre, n - 1 - centre), slope, bend)
    weights = half[np.abs(np.arange(n) - centre)]
    counts = weights * ((1 << PRECISION) - n) // weights.sum() + 1  # below 2^56
    counts[centre] += (1 << PRECISION) - counts.sum()
    counts.flags.writeable = False  # it is kept for the next call
    return counts


FEW = 256
"""Up to so many symbols many tables are kept: an adapter has hundreds of tensors, whose searches meet the same ones."""
_few_sides = lru_cache(maxsize=1 << 12)(_side)
_small, _large = lru_cache(maxsize=1 << 13)(_frequencies), lru_cache(maxsize=64)(_frequencies)


def _costs(n: int, centre: int, slope: int, bend: int) -> Float[np.ndarray, "n"]:
    """Bits of each symbol."""
    return PRECISION - np.log2(np.asarray(frequencies(n, centre, slope, bend), np.float64))


_kept_costs = lru_cache(maxsize=1 << 13)(_costs)


def fit_table(symbols: Int[np.ndarray, "m"], n: int, centre: int | None = None) -> tuple[int, int, int, float]:
    """The table that codes `symbols` (0 … n − 1) in fewest bits: centre, slope, bend, bits.

    Arguments:
        centre: its middle where it is known; searched around the mean when None.
    """
    counts = np.bincount(symbols, minlength=n).astype(np.float64)
    if centre is None:
        middle = int(np.clip(round((counts @ np.arange(n)) / max(counts.sum(), 1)), 0, n - 1))
        around = {int(np.clip(middle + d, 0, n - 1)) for d in (-2, -1, 0, 1, 2)}
        return min((fit_table(symbols, n, c) for c in around), key=lambda found: found[3])

    def bits(slope: int, bend: int) -> float:
        return float(counts @ (_kept_costs if n <= FEW else _costs)(n, centre, slope, bend))

    # Cost is smooth in both bytes: start from Laplace, Gaussian and flat tables, then go downhill.
    starts = [(s, b) for s in (*range(0, 120, 8), *range(136, 240, 16)) for b in (s - 8, FLAT) if b >= 0]
    best = min((bits(s, b), s, b) for s, b in [*starts, (FLAT, FLAT), (200, 20)])
    for step in (8, 4, 2, 1):
        while True:
            _, s0, b0 = best
            tries = [(s0 + i * step, b0 + j * step) for i, j in ((-1, 0), (1, 0), (0, -1), (0, 1), (1, 1), (-1, -1))]
            better = min([best, *((bits(s, b), s, b) for s, b in tries if 0 <= s <= FLAT and 0 <= b <= FLAT)])
            if better == best:
                break
            best = better
    return centre, best[1], best[2], best[0]


def _model(table: Int[np.ndarray, "n"]):
    # constriction adds 1 to each symbol's share of 2^24 − n: handed shares that are whole, it has nothing to round.
    return constriction.stream.model.Categorical(np.asarray(table, np.float64) - 1, perfect=False)


class Encoder:
    """Symbols with their tables, in the order in which a `Decoder` reads them."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, object, tuple]] = []

    def put(self, symbols: Int[np.ndarray, "m"], table: Int[np.ndarray, "n"]) -> None:
        """Symbols 0 … n − 1 under one table."""
        if len(table) > 1:
            self._parts.append((np.ascontiguousarray(symbols, np.int32), _model(table), ()))

    def put_bits(self, bits: np.ndarray, ones: Int[np.ndarray, "m"]) -> None:
        """Bits, each with its own frequency of being 1 (of 2^24)."""
        self._parts.append((np.ascontiguousarray(bits, np.int32), _BITS, (shares(ones),)))

    def finish(self) -> bytes:
        coder = constriction.stream.stack.AnsCoder()
        for symbols, model, parameters in reversed(self._parts):
            if len(symbols):
                coder.encode_reverse(symbols, model, *parameters)
        return coder.get_compressed().astype("<u4").tobytes()


_BITS = constriction.stream.model.Categorical(perfect=False)


def shares(ones: Int[np.ndarray, "m"]) -> Float[np.ndarray, "m 2"]:
    """What the coder takes for bits of these frequencies of being 1 (of 2^24)."""
    ones = np.asarray(ones, np.float64)
    return np.stack([(1 << PRECISION) - ones - 1, ones - 1], axis=1)


class Decoder:
    """Reads what an `Encoder` wrote.

    Raises:
        SinefieldError: the bytes cannot be one of its streams.
    """

    def __init__(self, data: bytes, where: str) -> None:
        if len(data) % 4:
            raise SinefieldError(f"{where}: the coded part has {len(data)} bytes, not whole words; the file is damaged")
        self.where = where
        words = np.frombuffer(data, "<u4").astype(np.uint32)
        if len(words) and words[-1] == 0:
            raise SinefieldError(f"{where}: the coded part ends in an empty word; the file is damaged")
        self._coder = constriction.stream.stack.AnsCoder(words)

    def take(self, count: int, table: Int[np.ndarray, "n"]) -> Int[np.ndarray, "m"]:
        if len(table) <= 1 or count == 0:
            return np.zeros(count, np.int32)
        return self._coder.decode(_model(table), count)

    def take_bits(self, parts: Float[np.ndarray, "m 2"]) -> Int[np.ndarray, "m"]:
        """Bits, each under its own `shares`."""
        return self._coder.decode(_BITS, parts) if len(parts) else np.zeros(0, np.int32)

    def finish(self) -> None:
        """Everything must have been read."""
        if not self._coder.is_empty():
            raise SinefieldError(f"{self.where}: the coded part has more than the field needs; the file is damaged")
