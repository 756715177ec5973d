"""Sparse points of a scene: the file beside a transforms.json, and the box that points give."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float

from sinefield.cameras.cameras import LARGEST
from sinefield.errors import SinefieldError
from sinefield.files import read_bytes

KEY = "ply_file_path"
MAX_BYTES = 1 << 30
MOST, FEWEST = 1_000_000, 8
"""Points that are looked at, of more every so many-th; and that say where a scene is."""
TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"}
TYPES |= {"float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4"}
TYPES |= {"uint32": "u4", "float32": "f4", "float64": "f8"}
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
BOX_PERCENTILES = (1, 99)
BOX_MARGIN = 0.05  # of the longest side, on each
ASTRAY = 20.0
"""Medians of the points' distances to their middle beyond which one is a wrong match, however many there are."""


def points_box(points: Float[np.ndarray, "p 3"]) -> list[float] | None:
    """The box of the middle 98 % along each axis, and a margin; xmin ymin zmin xmax ymax zmax.

    Points farther from the middle than 20 times the median are wrong matches and not counted. None for fewer than 8
    points, or all in one spot.

    >>> points_box(np.random.default_rng(0).uniform(-1, 1, (9999, 3)))[0] < -1
    True
    """
    if len(points) < FEWEST:
        return None
    away = np.linalg.norm(points - np.median(points, 0), axis=1)
    low, high = np.percentile(points[away <= ASTRAY * np.median(away)], BOX_PERCENTILES, axis=0)
    margin = BOX_MARGIN * float((high - low).max())
    return [*(low - margin).tolist(), *(high + margin).tolist()] if margin > 0 else None


def read_points(meta: dict[str, Any], folder: Path) -> tuple[Float[np.ndarray, "p 3"] | None, list[str]]:
    """The points of the PLY that `ply_file_path` names, (p, 3) float64 in the coordinates of the poses, and notes.

    None, with a note on what is wrong, where there is no such file beside the poses or it cannot be read: the scene can
    be trained without.
    """
    value = meta.get(KEY)
    if value is None:
        return None, []
    try:
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise SinefieldError("it is no path")
        name = PurePosixPath(value.replace("\\", "/"))
        file = folder / (name if (folder / name).is_file() else name.name)  # paths of another machine: by the last part
        if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
            return None, [f"{KEY} {value[:80]!r} is not there: no sparse points are used"]
        points = _vertices(read_bytes(file, MAX_BYTES, "file of points"))
    except (SinefieldError, OSError, ValueError, RuntimeError) as error:
        return None, [f"{KEY} {str(value)[:80]!r} is not used: {str(error)[:160]}"]
    return points, []


def _vertices(data: bytes) -> np.ndarray:
    """(p, 3) float64 places of a PLY's vertices, of many every so many-th; raises SinefieldError for what is no PLY of
    points. No count in it is trusted before it was compared with the file's size."""
    head = re.match(rb"ply\r?\n(.{0,65536}?)\bend_header[ \t]*\r?\n", data, re.DOTALL)
    if head is None:
        raise SinefieldError("it has no PLY header")
    lines = [line.split() for line in head[1].decode("latin-1").splitlines()]
    form = next((line[1] for line in lines if line[:1] == ["format"] and len(line) > 1), "")
    at = [index for index, line in enumerate(lines) if line[:1] == ["element"]]
    first = lines[at[0]] if at else []
    if form not in ORDERS or first[1:2] != ["vertex"] or not re.fullmatch(r"\d{1,18}", "".join(first[2:])):
        raise SinefieldError("its header is not of a PLY that begins with vertices")
    columns = [line for line in lines[at[0] + 1 : at[1] if len(at) > 1 else None] if line[:1] == ["property"]]
    names = [line[-1] for line in columns]
    if any(len(line) != 3 or line[1] not in TYPES for line in columns) or len({*names}) < len(names):
        raise SinefieldError("its vertices have properties of an unknown type")
    if not {*"xyz"} <= {*names}:
        raise SinefieldError("its vertices have no x, y and z")
    count, body = int(first[2]), data[head.end() :]
    if form == "ascii":
        rows = body.strip().split(b"\n")[:count]
        if len(rows) < count:
            raise SinefieldError(f"its header claims {count:,} points, more than it holds")
        table = [row.split() for row in rows[:: every(count)]]
        if any(len(row) != len(names) for row in table):
            raise SinefieldError("a line of it is no point")
        values = np.array([[row[names.index(axis)] for axis in "xyz"] for row in table], np.float64)
    else:
        dtype = np.dtype([(line[2], ORDERS[form] + TYPES[line[1]]) for line in columns])
        if count * dtype.itemsize > len(body):
            raise SinefieldError(f"its header claims {count:,} points, more than it holds")
        rows = np.frombuffer(body, dtype, count)[:: every(count)]
        values = np.stack([rows[axis].astype(np.float64) for axis in "xyz"], 1)
    values = values.reshape(-1, 3)
    if not (np.abs(values) < LARGEST).all():
        raise SinefieldError("it has coordinates that are not finite or beyond 1e9")
    return values


def every(count: int) -> int:
    """Which of so many points are looked at: every so many-th."""
    return max(-(-count // MOST), 1)
