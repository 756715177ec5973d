"""Fields of data far from the origin of their coordinates: the offset that was taken off, in the notes of files."""

from typing import Any

import numpy as np
from jaxtyping import Float

from sinefield.errors import SinefieldError

FARTHEST = 1e9


def origin_of(field: Any) -> Float[np.ndarray, "3"]:
    """What was taken off the positions of a field's data, float64: zero for kinds that know no offset."""
    return getattr(field, "origin", np.zeros(3))


def origin_note(field: Any) -> dict[str, Any]:
    """What a file's note says of a field whose data lie far from the origin: `origin`, what was taken off them."""
    return {"origin": origin_of(field).tolist()} if origin_of(field).any() else {}


def take_origin(field: Any, note: dict[str, Any], where: str) -> None:
    """Take back what `origin_note` gave; of a note without it, zero. Raises SinefieldError for what is no place."""
    if "origin" not in note or not hasattr(field, "origin"):
        return
    given = note["origin"]
    proper = isinstance(given, list) and len(given) == 3
    if not proper or not all(type(v) in (int, float) and -FARTHEST < v < FARTHEST for v in given):
        raise SinefieldError(f"{where}: its note's origin is no place; the file is damaged, make it again")
    field.origin = np.array(given, np.float64)
