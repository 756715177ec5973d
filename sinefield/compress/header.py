"""The head of a `.sine` file: numbers, settings, box and note as bytes. docs/format.md is its text."""

import json
import struct
import types
import zlib
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from sinefield.config import ImageFieldConfig, RadianceFieldConfig, ShapeFieldConfig, ShapesFieldConfig

CONFIGS: dict[str, type] = {
    "shape": ShapeFieldConfig,
    "radiance": RadianceFieldConfig,
    "image": ImageFieldConfig,
    "shapes": ShapesFieldConfig,
}
MAX_NOTE = 1 << 16
SETTINGS = (
    *("width", "depth", "skips", "weights", "rank", "omega", "phase", "bound", "activation", "sigma", "omega0"),
    *("frequencies", "represents", "band", "loss", "features", "head_width", "head_depth", "grid", "steps"),
    *("encoding", "levels", "log2_table", "coarsest", "finest", "space", "grid_levels", "cone_angle"),
    *("density", "beta"),
    *("points", "dim", "tokens", "heads", "blocks", "expand", "attention", "graying", "epsilon"),
    *("skip_attention", "skip_feedforward"),
)
"""A setting's number in the file is its place here, from 1; only ever appended to."""
_NETWORK = {
    **{"skips": [], "weights": "sine", "omega": None, "phase": 2.5, "bound": 1.0, "sigma": 0.1, "omega0": 30.0},
    **{"encoding": "frequency", "levels": 12, "log2_table": 15, "coarsest": 16, "finest": 512},
}
BASE: dict[str, dict[str, Any]] = {
    "shape": {
        **_NETWORK,
        **{"width": 64, "depth": 3, "rank": 10, "activation": "leaky_relu", "frequencies": 5},
        **{"represents": "distance", "band": 0.03, "loss": "tanh"},
    },
    "radiance": {
        **_NETWORK,
        **{"width": 64, "depth": 4, "rank": 16, "phase": 0.5, "bound": 4.0, "activation": "relu", "frequencies": 8},
        **{"features": 15, "head_width": 64, "head_depth": 1, "grid": 64, "steps": 128},
        **{"space": "box", "grid_levels": 1, "cone_angle": 0.0},
        **{"density": "free", "beta": 0.003},
    },
    "image": {
        **_NETWORK,
        **{"width": 96, "depth": 3, "rank": 16, "phase": 0.25, "bound": 2.0, "activation": "gaussian", "sigma": 0.25},
        **{"frequencies": 7},
    },
    "shapes": {
        **{"points": 1024, "dim": 128, "tokens": 192, "heads": 4, "blocks": 5, "expand": 3, "attention": "softmax"},
        **{"graying": "none", "epsilon": 0.9, "skip_attention": True, "skip_feedforward": True},
        **{"weights": "dense", "rank": 16, "omega": None, "phase": 0.5, "bound": 4.0},
        **{"represents": "distance", "band": 0.06},
    },
}
"""What a setting is when the file does not say. Frozen: part of version 1."""
NOTE_WORDS = (
    b'{"seed":0,"steps":,"seconds":,"source":"$SINEFIELD_DATA/meshes/.obj","background":"white","downscale":8,'
    b'"holdout":8,"iou":[0.9,0.9],"psnr":[30.,"data":{"path":"lego'
)
"""Preset dictionary of the note's deflate stream. Frozen: part of version 1."""


class Reader:
    """Bytes from front to back; asking for more than there is is an error."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        if n > len(self.data) - self.at:
            raise ValueError("it ends too early")
        self.at += n
        return self.data[self.at - n : self.at]

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self, limit: int) -> int:
        value, shift = 0, 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            if shift > 56:
                raise ValueError("a number is too long")
        if value > limit:
            raise ValueError(f"a number is {value}, at most {limit} can be")
        return value

    def signed(self, limit: int) -> int:
        value = self.varint(2 * limit + 1)
        return value >> 1 if value % 2 == 0 else -(value >> 1) - 1

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def signed(value: int) -> bytes:
    return varint(2 * value if value >= 0 else -2 * value - 1)


def settings_out(kind: str, settings: dict[str, Any]) -> bytes:
    """Count, then number and value of each setting that is not the base's; None is the number with its high bit."""
    hints = get_type_hints(CONFIGS[kind])
    rows = []
    for name, value in settings.items():
        if value == BASE[kind][name]:
            continue
        number = SETTINGS.index(name) + 1
        rows.append(
            bytes([number | 128]) if value is None else bytes([number]) + _value_out(_plain(hints[name]), value)
        )
    return varint(len(rows)) + b"".join(rows)


def settings_in(kind: str, reader: Reader) -> dict[str, Any]:
    hints = get_type_hints(CONFIGS[kind])
    settings = dict(BASE[kind])
    for _ in range(reader.varint(len(SETTINGS))):
        number = reader.byte()
        name = SETTINGS[(number & 127) - 1] if number & 127 else ""
        if name not in settings:
            raise ValueError(f"setting {number & 127} is unknown")
        settings[name] = None if number & 128 else _value_in(_plain(hints[name]), reader)
    return settings


def _plain(hint: Any) -> Any:
    """A type without its `| None`."""
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = [a for a in get_args(hint) if a is not type(None)]
    return hint


def _value_out(hint: Any, value: Any) -> bytes:
    if get_origin(hint) is Literal:
        return bytes([get_args(hint).index(value)])
    if hint is float:
        return struct.pack("<f", value)
    if hint is int or hint is bool:
        return varint(int(value))
    return varint(len(value)) + b"".join(varint(v) for v in value)


def _value_in(hint: Any, reader: Reader) -> Any:
    if get_origin(hint) is Literal:
        return get_args(hint)[reader.byte()]
    if hint is float:
        return float(str(np.frombuffer(reader.take(4), "<f4")[0]))  # 0.03 is to be 0.03 again
    if hint is bool:
        return bool(reader.varint(1))
    if hint is int:
        return reader.varint(1 << 20)
    return [reader.varint(1 << 20) for _ in range(reader.varint(64))]


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
    if not np.isfinite(box).all() or not (box[3:] >= box[:3]).all() or not (box[3:] - box[:3]).max() > 0:
        raise ValueError("its box is empty or not finite")
    return box


def note_out(note: dict[str, Any]) -> bytes:
    """A JSON object, raw deflate with the preset dictionary; nothing for an empty one."""
    if not note:
        return b""
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=NOTE_WORDS)
    text = json.dumps(note, separators=(",", ":"), sort_keys=True).encode()
    return squeezer.compress(text) + squeezer.flush()


def note_in(data: bytes) -> dict[str, Any]:
    """Inverse of `note_out`; raises ValueError."""
    if not data:
        return {}
    opener = zlib.decompressobj(-15, zdict=NOTE_WORDS)
    text = opener.decompress(data, MAX_NOTE)
    if not opener.eof or opener.unused_data:
        raise ValueError("its note is damaged")
    note = json.loads(text)
    if not isinstance(note, dict):
        raise ValueError("its note is no object")
    number = (int, float)
    for key, value in note.items():
        pair = isinstance(value, list) and len(value) == 2 and all(isinstance(v, number) for v in value)
        kinds = {"data": isinstance(value, dict), "iou": pair, "psnr": pair}
        if not kinds.get(key, isinstance(value, number)):
            raise ValueError(f"its note's {key[:20]} is of the wrong kind")
    return note
