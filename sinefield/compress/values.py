"""Plain data (what JSON can say) in few bytes that need no inflating: notes, and settings of registered kinds."""

import math
import struct
from typing import Any

from sinefield.compress.reader import Reader, signed, text, varint

KEYS = (
    *("seed", "steps", "seconds", "data", "path", "background", "downscale", "holdout", "held_out", "noise"),
    *("iou", "psnr", "source", "license", "author", "title"),
)
"""A usual key's number in the file is its place here, from 1; only ever appended to."""
BEGINNINGS = ("$SINEFIELD_DATA/", "$SINEFIELD_DATA/meshes/", "skimage:", "families:", "https://")
"""A text that begins so is written with the place here; only ever appended to."""
MAX_DEPTH = 8
MAX_WHOLE = 1 << 63
_NONE, _FALSE, _TRUE, _WHOLE, _FLOAT, _TEXT, _LIST, _OBJECT = range(8)
_DECIMAL, _BEGUN = 16, 32
"""The first of 16 tags of decimals with so many places, and of 32 of texts with that beginning."""


def object_out(content: dict[str, Any]) -> bytes:
    """Count, then key and value of each.

    Raises:
        ValueError: what is no plain data, or a number that is not finite or beyond 64 bits.
    """
    return _object_out(content, "", 0)


def value_out(value: Any, where: str = "value", depth: int = 0) -> bytes:
    """One value after its tag; `where` says in errors which it is."""
    if value is None or isinstance(value, bool):
        return bytes([_NONE if value is None else _TRUE if value else _FALSE])
    if isinstance(value, int):
        if not -MAX_WHOLE <= value < MAX_WHOLE:
            raise ValueError(f"{where} is a whole number beyond 64 bits")
        return bytes([_WHOLE]) + signed(value)
    if isinstance(value, float):
        return _float_out(float(value), where)  # NumPy's float64 is one, too, and shows itself in other words
    if isinstance(value, str):
        return _text_out(value)
    if depth == MAX_DEPTH:
        raise ValueError(f"{where} is nested too deep, at most {MAX_DEPTH} levels")
    if isinstance(value, dict):
        return bytes([_OBJECT]) + _object_out(value, where, depth + 1)
    if isinstance(value, list | tuple):
        return bytes([_LIST]) + varint(len(value)) + b"".join(value_out(v, where, depth + 1) for v in value)
    raise ValueError(f"{where} is a {type(value).__name__}, which a file cannot hold")


def _object_out(content: dict[str, Any], where: str, depth: int) -> bytes:
    parts = [varint(len(content))]
    for key, value in content.items():
        if not isinstance(key, str):
            raise ValueError(f"{where or 'it'} has the key {key!r}, which is no text")
        parts.append(bytes([KEYS.index(key) + 1]) if key in KEYS else b"\0" + text(key))
        parts.append(value_out(value, f"{where}.{key}" if where else key, depth))
    return b"".join(parts)


def _float_out(value: float, where: str) -> bytes:
    """As a decimal where that is the very number and shorter than its eight bytes."""
    if not math.isfinite(value):
        raise ValueError(f"{where} is {value}, which a file cannot hold")
    digits, places = _decimal(value)
    if abs(digits) < 1 << 48 and 0 <= places < 16 and digits / 10**places == value and (digits or str(value) == "0.0"):
        return bytes([_DECIMAL + places]) + signed(digits)
    return bytes([_FLOAT]) + struct.pack("<d", value)


def _decimal(value: float) -> tuple[int, int]:
    """(m, e) with m / 10^e as Python writes the number; e may be negative."""
    mantissa, _, exponent = repr(value).partition("e")
    whole, _, part = mantissa.partition(".")
    part = part.rstrip("0")
    places = len(part) - int(exponent or 0)
    digits = int(whole + part)
    return (digits * 10**-places, 0) if -16 < places < 0 else (digits, places)


def _text_out(value: str) -> bytes:
    usual = [(len(start), i) for i, start in enumerate(BEGINNINGS) if value.startswith(start)]
    if not usual:
        return bytes([_TEXT]) + text(value)
    length, place = max(usual)
    return bytes([_BEGUN + place]) + text(value[length:])


def object_in(reader: Reader, depth: int = 0) -> dict[str, Any]:
    """Inverse of `object_out`; raises ValueError."""
    found: dict[str, Any] = {}
    for _ in range(reader.varint(reader.left)):
        number = reader.byte()
        if number > len(KEYS):
            raise ValueError(f"key {number} is unknown")
        key = KEYS[number - 1] if number else reader.text(reader.left)
        if key in found:
            raise ValueError("a key stands twice")
        found[key] = value_in(reader, depth)
    return found


def value_in(reader: Reader, depth: int = 0) -> Any:
    """Inverse of `value_out`; raises ValueError."""
    tag = reader.byte()
    if tag in (_LIST, _OBJECT) and depth == MAX_DEPTH:
        raise ValueError(f"it is nested too deep, at most {MAX_DEPTH} levels")
    if _DECIMAL <= tag < _DECIMAL + 16:
        return reader.signed(1 << 48) / 10 ** (tag - _DECIMAL)
    if _BEGUN <= tag < _BEGUN + len(BEGINNINGS):
        return BEGINNINGS[tag - _BEGUN] + reader.text(reader.left)
    if tag not in _READ:
        raise ValueError(f"a value of the unknown kind {tag}")
    return _READ[tag](reader, depth)


def _float_in(reader: Reader, depth: int) -> float:
    (value,) = struct.unpack("<d", reader.take(8))
    if not math.isfinite(value):
        raise ValueError(f"a number is {value}")
    return value


_READ = {
    _NONE: lambda reader, depth: None,
    _FALSE: lambda reader, depth: False,
    _TRUE: lambda reader, depth: True,
    _WHOLE: lambda reader, depth: reader.signed(MAX_WHOLE - 1),
    _FLOAT: _float_in,
    _TEXT: lambda reader, depth: reader.text(reader.left),
    _LIST: lambda reader, depth: [value_in(reader, depth + 1) for _ in range(reader.varint(reader.left))],
    _OBJECT: lambda reader, depth: object_in(reader, depth + 1),
}
