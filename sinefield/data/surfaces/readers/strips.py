"""Strips and fans of triangles as triangles."""

import numpy as np
from jaxtyping import Int


def strips(corners: Int[np.ndarray, "c"], ends: Int[np.ndarray, "s"] | None = None) -> Int[np.ndarray, "t 3"]:
    """Triangles of strips: every second turned over; a strip ends where `ends` say, and at a corner below 0."""
    number = np.zeros(len(corners), np.int64)
    if ends is not None:
        number = np.searchsorted(ends, np.arange(len(corners)), "right")
    apart = corners < 0
    number = number * (len(corners) + 1) + np.cumsum(apart)
    first = np.flatnonzero(np.diff(number, prepend=-1)) if len(number) else np.empty(0, np.int64)
    begin = np.repeat(first, np.diff(first, append=len(corners)))
    begin = begin + apart[begin] if len(begin) else begin  # a corner below 0 is none of the strip it begins
    at = np.arange(max(len(corners) - 2, 0))
    whole = (number[at] == number[at + 2]) & ~apart[at] if len(at) else np.zeros(0, bool)
    at = at[whole]
    odd = (at - begin[at]) % 2 == 1
    found = np.stack([corners[at], corners[at + 1], corners[at + 2]], 1) if len(at) else np.empty((0, 3), np.int64)
    found[odd] = found[odd][:, [1, 0, 2]]
    return found[_three(found)]


def fan(corners: Int[np.ndarray, "c"]) -> Int[np.ndarray, "t 3"]:
    """Triangles of one fan around its first corner."""
    if len(corners) < 3:
        return np.empty((0, 3), np.int64)
    found = np.stack([np.full(len(corners) - 2, corners[0]), corners[1:-1], corners[2:]], 1)
    return found[_three(found)]


def _three(found: np.ndarray) -> np.ndarray:
    """Which have three corners: strips are joined by triangles that have not."""
    return (found[:, 0] != found[:, 1]) & (found[:, 1] != found[:, 2]) & (found[:, 2] != found[:, 0])
