"""The note of a `.sine` file: where its field comes from, as plain data. docs/format.md is its text."""

import json
import math
import zlib
from typing import Any

from sinefield.compress.reader import Reader
from sinefield.compress.values import MAX_WHOLE, object_in, object_out

MAX_NOTE = 1 << 16
NOTE_WORDS = (
    b'{"seed":0,"steps":,"seconds":,"source":"$SINEFIELD_DATA/meshes/.obj","background":"white","downscale":8,'
    b'"holdout":8,"iou":[0.9,0.9],"psnr":[30.,"data":{"path":"lego'
)
"""Preset dictionary of version 1, where the note is JSON in a raw deflate stream. Frozen."""
_NUMBERS = ("seed", "steps", "seconds")
_PAIRS = ("iou", "psnr", "shell_iou")


def note_out(note: dict[str, Any]) -> bytes:
    """A note as plain data; nothing for an empty one.

    Raises:
        ValueError: what no file can hold, or too much of it.
    """
    data = object_out(note) if note else b""
    if len(data) > MAX_NOTE:
        raise ValueError(f"its note takes {len(data):,} bytes, at most {MAX_NOTE:,} can be; shorten it")
    return data


def note_in(data: bytes, version: int) -> dict[str, Any]:
    """Inverse of `note_out`; raises ValueError."""
    if not data:
        return {}
    if version == 1:
        note = _deflated(data)
    else:
        reader = Reader(data, version)
        note = object_in(reader)
        if reader.left:
            raise ValueError("its note is damaged")
    _check(note)
    return note


def _deflated(data: bytes) -> dict[str, Any]:
    opener = zlib.decompressobj(-15, zdict=NOTE_WORDS)
    text = opener.decompress(data, MAX_NOTE)
    if not opener.eof or opener.unused_data:
        raise ValueError("its note is damaged")
    note = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    if not isinstance(note, dict):
        raise ValueError("its note is no object")
    return note


def _whole(digits: str) -> int:
    if len(digits) > 20 or not -MAX_WHOLE <= int(digits) < MAX_WHOLE:
        raise ValueError("its note has a whole number beyond 64 bits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"its note has the number {digits[:20]}, which is not finite")
    return value


def _check(note: dict[str, Any]) -> None:
    """What readers look up has the kind that they expect."""
    for key, value in note.items():
        pair = isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))
        sound = {**dict.fromkeys(_NUMBERS, _is_number(value)), **dict.fromkeys(_PAIRS, pair)}
        sound["data"] = isinstance(value, dict)
        if not sound.get(key, True):
            raise ValueError(f"its note's {key} is of the wrong kind")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
