"""What a field has beside settings and tensors: its box, its size, its camera path. docs/format.md is its text.

Each part has one writer and one reader here. A reader raises ValueError for what no field can have.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from sinefield.compress.reader import Reader, name, varint

MAX_SIDE = 16384  # pixels of the orbit's own pictures, and of an image
BOX = np.dtype([("low", "f8", 3), ("high", "f8", 3)])
"""(6,) as what it means: xmin ymin zmin, xmax ymax zmax in world or input units."""
ORBIT = np.dtype(
    [
        *(("centre", "<f4", 3), ("up", "<f4", 3), ("distance", "<f4"), ("elevation", "<f4"), ("focal", "<f4")),
        ("size", "<f4", 2),
    ]
)
"""(11,) as what it means: distance in world units, elevation in degrees, focal length in image widths, pixels."""
FRAME = np.dtype([("to_frame", "<f4", (3, 4)), ("scale", "<f4", 2), ("near", "<f4")])
"""(15,) as what it means: world to the frame of NDC, 2 fx/width and 2 fy/height, distance of the near plane."""
DTYPES = ("<f4", "<f8", "<i8", "|b1")
"""An array's type is its place here."""
MAX_AXES = 8


def parts_of(kind: str, settings: dict[str, Any]) -> tuple[str, ...]:
    """Names of the parts that a file of this kind has, in their order."""
    if kind == "radiance":
        return ("box", "background", "view") + (() if settings["space"] == "box" else ("frame",))
    fixed = {"shape": ("box",), "image": ("size",), "shapes": (), "adapter": (), "mesh": ("box", "code")}
    return {**fixed, "code": ("box", "code")}.get(kind, ("arrays",))


def box_out(box: np.ndarray) -> bytes:
    """float32 where that moves no wall by more than a millionth of the box, else float64."""
    single = np.asarray(box, "<f4")
    fits = np.abs(single - box).max() <= 1e-6 * (box[3:] - box[:3]).max()
    return b"\0" + single.tobytes() if fits else b"\1" + np.asarray(box, "<f8").tobytes()


def box_in(reader: Reader) -> np.ndarray:
    wide = reader.byte()
    if wide > 1:
        raise ValueError("its box is of an unknown form")
    box = np.frombuffer(reader.take(48 if wide else 24), "<f8" if wide else "<f4").astype(np.float64)
    low, high = _named(box, BOX)
    if not np.isfinite(box).all() or not (high >= low).all() or not (high - low).max() > 0:
        raise ValueError("its box is empty or not finite")
    return box


def size_out(size: tuple[int, int]) -> bytes:
    return varint(size[0]) + varint(size[1])


def size_in(reader: Reader) -> tuple[int, int]:
    size = reader.varint(MAX_SIDE), reader.varint(MAX_SIDE)
    if not all(size):
        raise ValueError("its image has no pixels")
    return size


def background_out(background: np.ndarray) -> bytes:
    return bytes(np.round(np.asarray(background) * 255).astype(np.uint8))


def background_in(reader: Reader) -> np.ndarray:
    return np.frombuffer(reader.take(3), np.uint8).astype(np.float32) / np.float32(255)


def view_out(view: np.ndarray) -> bytes:
    return np.asarray(view, "<f4").tobytes()


def view_in(reader: Reader) -> np.ndarray:
    view = np.frombuffer(reader.take(ORBIT.itemsize), "<f4").astype(np.float32)
    _, up, distance, elevation, _, size = _named(view, ORBIT)
    sound = np.isfinite(view).all() and up.any() and distance > 0 and abs(elevation) < 90
    if not sound or not (size >= 1).all() or not (size <= MAX_SIDE).all():
        raise ValueError("its camera path cannot be flown; make it again")
    return view


def code_out(code: bytes) -> bytes:
    return varint(len(code)) + code


def code_in(reader: Reader) -> bytes:
    return reader.take(reader.varint(reader.left))


def frame_out(frame: np.ndarray) -> bytes:
    return np.asarray(frame, "<f4").tobytes()


def frame_in(reader: Reader) -> np.ndarray:
    frame = np.frombuffer(reader.take(FRAME.itemsize), "<f4").astype(np.float32)
    _, scale, near = _named(frame, FRAME)
    if not (np.abs(frame) < 1e9).all() or not (scale > 0).all() or near < 0:
        raise ValueError("its frame is no camera's")
    return frame


def _named(vector: np.ndarray, names: np.dtype) -> Any:
    """A vector's numbers by what they mean."""
    return vector.view(names)[0]


def arrays_out(arrays: dict[str, np.ndarray]) -> bytes:
    """Count, then for each its name, type, shape and entries as they are; bools eight a byte, the first lowest."""
    out = [varint(len(arrays))]
    for key, array in arrays.items():
        kinds = [place for place, dtype in enumerate(DTYPES) if np.dtype(dtype) == array.dtype]
        if not kinds:
            raise ValueError(f"{key} is {array.dtype}; should be float32, float64, int64 or bool")
        data = np.packbits(array, bitorder="little") if array.dtype == bool else array.astype(DTYPES[kinds[0]])
        out += [name(key), bytes(kinds), varint(array.ndim), *map(varint, array.shape), data.tobytes()]
    return b"".join(out)


def arrays_in(reader: Reader) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for _ in range(reader.varint(reader.left)):
        key, kind = reader.name(), reader.byte()
        if key in found or kind >= len(DTYPES):
            raise ValueError(f"the array {key} stands twice, or is of the unknown type {kind}")
        shape = tuple(reader.varint(1 << 31) for _ in range(reader.varint(MAX_AXES)))
        found[key] = _entries_in(reader, np.dtype(DTYPES[kind]), math.prod(shape)).reshape(shape)
    return found


def _entries_in(reader: Reader, dtype: np.dtype, count: int) -> np.ndarray:
    if dtype.kind == "b":
        data = np.frombuffer(reader.take((count + 7) // 8), np.uint8)
        return np.unpackbits(data, count=count, bitorder="little").astype(bool)
    return np.frombuffer(reader.take(count * dtype.itemsize), dtype).astype(dtype.newbyteorder("="))


WRITE: dict[str, Callable[[Any], bytes]] = {
    **{"box": box_out, "size": size_out, "background": background_out, "view": view_out, "frame": frame_out},
    "arrays": arrays_out,
    "code": code_out,
}
READ: dict[str, Callable[[Reader], Any]] = {
    **{"box": box_in, "size": size_in, "background": background_in, "view": view_in, "frame": frame_in},
    "arrays": arrays_in,
    "code": code_in,
}
