"""JSON that is read and written strictly: numbers are finite, no key stands twice, and every fault is a ValueError."""

import json
import math
from typing import Any

WHOLE = 1 << 63
"""Whole numbers reach to ±2^63, as in most programs; a longer one is read as the nearest float."""


def from_json(content: str | bytes, finite: bool = True) -> Any:
    """Plain data from JSON; bytes are UTF-8, with or without a byte-order mark.

    Arguments:
        finite: refuse NaN and infinities; without, whoever uses a number checks it, and can say where it stands.

    Raises:
        ValueError: not UTF-8, not JSON (`json.JSONDecodeError`, which has the line), nested too deep, a key that stands
            twice, NaN, or a number too large for a float.

    Examples:
        >>> from_json('{"a": [1, 2.5, null]}')
        {'a': [1, 2.5, None]}
    """
    text = content if isinstance(content, str) else content.decode("utf-8-sig")
    try:
        number, constant = (_finite, _constant) if finite else (float, float)
        return json.loads(
            text, parse_int=_whole, parse_float=number, parse_constant=constant, object_pairs_hook=_object
        )
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """Plain data as JSON; a number that is not finite becomes null, for JSON has none.

    Arguments:
        indent: spaces a level; one line when None.
        options: what else `json.dumps` takes.

    Examples:
        >>> to_json({"psnr": float("inf"), "views": 3})
        '{"psnr": null, "views": 3}'
    """
    return json.dumps(_strict(value), indent=indent, allow_nan=False, **options)


def finite_number(value: Any) -> float | None:
    """A number of plain data as a float; None for what is no number, or none that a float holds.

    Examples:
        >>> finite_number(3), finite_number(True), finite_number(10**400), finite_number("3")
        (3.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _whole(digits: str) -> int | float:
    if len(digits) <= 20 and -WHOLE <= (value := int(digits)) < WHOLE:
        return value
    return _finite(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:12]}… is too large for a finite number")
    return value


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no finite number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice[:40]!r} stands twice")
    return found


def _strict(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value
