"""A folder of fields, one for each part of a mesh: `parts.json` names them, runs or `.sine` files there hold them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sinefield.errors import SinefieldError
from sinefield.files import read_text, write_text
from sinefield.json_text import from_json, to_json

LIST = "parts.json"
MOST_BYTES, MOST = 1 << 20, 64


class FieldPart(NamedTuple):
    """One field of the folder: its name, and its run folder or `.sine` file there."""

    name: str
    place: str


def is_parted(path: str | Path) -> bool:
    """Whether a path is a folder of parts' fields."""
    return (Path(path) / LIST).is_file()


def place_of(number: int, name: str, suffix: str = "") -> str:
    """What a part's run is called in the folder: its number, and of its name what any file system takes.

    >>> place_of(3, "left/wheel 1")
    '03-left_wheel_1'
    """
    return f"{number:02d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', name)[:40].strip('_') or 'part'}{suffix}"


def write_parts(folder: str | Path, source: str, parts: Sequence[FieldPart], overwrite: bool = False) -> None:
    """Write `parts.json`, atomically."""
    content = {"source": source, "parts": [part._asdict() for part in parts]}
    write_text(Path(folder) / LIST, to_json(content, indent=2) + "\n", overwrite)


def read_parts(folder: str | Path) -> tuple[str, list[FieldPart]]:
    """The file that was split, and its parts, whose places are full paths.

    Raises:
        SinefieldError: no `parts.json`, or one that `write_parts` does not write.
    """
    path = Path(folder) / LIST
    try:
        content: Any = from_json(read_text(path, MOST_BYTES, "list of parts"))
        parts = [FieldPart(**part) for part in content["parts"]]
        source = content["source"]
        sound = isinstance(source, str) and 0 < len(parts) <= MOST and all(map(_sound, parts))
        sound = sound and len({part.place for part in parts}) == len(parts)
    except (ValueError, TypeError, KeyError) as error:
        raise SinefieldError(f"{path}: is no list of parts ({error}); split the mesh again") from error
    if not sound:
        raise SinefieldError(f"{path}: names a part or a place that no split has; split the mesh again")
    return source, [part._replace(place=str(Path(folder) / part.place)) for part in parts]


def _sound(part: FieldPart) -> bool:
    """Whether a part's place lies in the folder itself."""
    plain = isinstance(part.name, str) and isinstance(part.place, str) and 0 < len(part.name) <= 200
    return plain and re.fullmatch(r"\d\d-[A-Za-z0-9_-]{1,40}(\.sine)?", part.place) is not None
