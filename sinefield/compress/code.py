"""The code of one shape of a set: whole numbers under tables that the set's base holds.

A code is the base's fingerprint and the coder's words. How likely each number is, the base says by a byte: the slope of
a two-sided geometric table around 0 (`entropy.frequencies`). docs/format.md is its text.
"""

import struct
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from sinefield.compress.entropy import FLAT, Decoder, Encoder, frequencies
from sinefield.errors import SinefieldError

REACH = 127
"""A level lies within ± this."""
LARGEST_SLOPE = FLAT - 1
_MARK = struct.Struct("<I")


def code_out(base: int, levels: Int[np.ndarray, "m"], slopes: Int[np.ndarray, "m"]) -> bytes:
    """A code's bytes.

    Arguments:
        base: fingerprint of the base.
        levels: within ±`REACH`.
        slopes: of each level's table, 0 … `LARGEST_SLOPE`; as the base has them.

    Raises:
        ValueError: levels or slopes out of range, or not equally many.
    """
    if levels.shape != slopes.shape or np.abs(levels).max(initial=0) > REACH:
        raise ValueError(f"a code's {len(levels)} levels lie within ±{REACH}, each with its slope")
    encoder = Encoder()
    for slope, places in _groups(slopes):
        encoder.put(levels[places] + REACH, _table(slope))
    return _MARK.pack(base) + encoder.finish()


def base_of(code: bytes) -> int:
    """Fingerprint of the base that a code was made for; raises ValueError for what is too short to have one."""
    if len(code) < _MARK.size:
        raise ValueError("a code of less than four bytes")
    return int(_MARK.unpack_from(code)[0])


def code_in(code: bytes, slopes: Int[np.ndarray, "m"], where: str) -> Int[np.ndarray, "m"]:
    """Inverse of `code_out`, for the base of these slopes.

    Raises:
        SinefieldError: the words are not those of a code of so many levels.
    """
    decoder = Decoder(code[_MARK.size :], where)
    levels = np.empty(len(slopes), np.int64)
    try:
        for slope, places in _groups(slopes):
            levels[places] = decoder.take(len(places), _table(slope)) - REACH
    except (ValueError, AssertionError) as error:
        raise SinefieldError(f"{where}: its code is damaged; make it again") from error
    decoder.finish()
    return levels


def slopes_for(means: Sequence[float] | np.ndarray) -> Int[np.ndarray, "m"]:
    """The slopes whose tables suit numbers of these mean absolute values (> 0).

    A two-sided geometric distribution of ratio q has mean 2q/(1 − q²), so q = (√(1 + μ²) − 1)/μ.
    """
    mean = np.maximum(np.asarray(means, np.float64), 1e-4)
    q = (np.sqrt(1 + mean**2) - 1) / mean
    slope = np.where(q > 0.5, -8 * np.log2(np.maximum(1 - q, 1e-6)) - 8, 120 - 8 * np.log2(q))
    return np.clip(np.round(slope), 0, LARGEST_SLOPE).astype(np.int64)


def ratios(slopes: np.ndarray) -> np.ndarray:
    """q of each slope's table: a number that is larger by one is so many times as likely."""
    s = np.asarray(slopes, np.float64)
    return np.where(s < 128, 1 - 2 ** (-(s + 8) / 8), 2 ** (-(s - 120) / 8))


def _groups(slopes: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Places of one slope, slopes ascending."""
    return [(int(slope), np.flatnonzero(slopes == slope)) for slope in np.unique(slopes)]


def _table(slope: int) -> np.ndarray:
    return frequencies(2 * REACH + 1, REACH, slope, FLAT)
