"""A field's settings in few bytes: only those that are not usual, each by a number. docs/format.md is its text.

Nothing here follows the package's configuration: numbers, choices and usual values are part of the format and frozen.
"""

import struct
from typing import Any

import numpy as np

from sinefield.compress.reader import Reader, choice, name, varint
from sinefield.compress.values import object_in, object_out, value_in, value_out

LARGEST = 1 << 20
LONGEST_LIST = 64
WHOLE, YES, NUMBER, LIST = "whole", "yes or no", "number", "list"
_WEIGHTS = ("sine", "lowrank", "dense")
_ACTIVATIONS = ("relu", "leaky_relu", "gaussian", "sine", "softplus")
SETTINGS: tuple[tuple[str, str | tuple[str, ...]], ...] = (
    ("width", WHOLE),
    ("depth", WHOLE),
    ("skips", LIST),
    ("weights", _WEIGHTS),
    ("rank", WHOLE),
    ("omega", NUMBER),
    ("phase", NUMBER),
    ("bound", NUMBER),
    ("activation", _ACTIVATIONS),
    ("sigma", NUMBER),
    ("omega0", NUMBER),
    ("frequencies", WHOLE),
    ("represents", ("distance", "occupancy", "sheet")),
    ("band", NUMBER),
    ("loss", ("tanh", "l1", "bce", "mse", "asinh")),
    ("features", WHOLE),
    ("head_width", WHOLE),
    ("head_depth", WHOLE),
    ("grid", WHOLE),
    ("steps", WHOLE),
    ("encoding", ("frequency", "hash")),
    ("levels", WHOLE),
    ("log2_table", WHOLE),
    ("coarsest", WHOLE),
    ("finest", WHOLE),
    ("space", ("box", "ndc", "contracted")),
    ("grid_levels", WHOLE),
    ("cone_angle", NUMBER),
    ("density", ("free", "distance")),
    ("beta", NUMBER),
    ("points", WHOLE),
    ("dim", WHOLE),
    ("tokens", WHOLE),
    ("heads", WHOLE),
    ("blocks", WHOLE),
    ("expand", WHOLE),
    ("attention", ("softmax", "x", "x^3")),
    ("graying", ("none", "svd", "dct")),
    ("epsilon", NUMBER),
    ("skip_attention", YES),
    ("skip_feedforward", YES),
    ("colours", ("no", "yes")),
    ("colour_width", WHOLE),
    ("colour_depth", WHOLE),
    ("colour_frequencies", WHOLE),
    ("vertices", WHOLE),
    ("faces", WHOLE),
    ("digits", WHOLE),
    ("subdivisions", WHOLE),
)
"""Names and values of settings. A setting's number in the file is its place here, from 1, a choice's the place in its
tuple; both are only ever appended to."""
FORMS: dict[str, str | tuple[str, ...]] = dict(SETTINGS)
NUMBERS = {key: number for number, (key, _) in enumerate(SETTINGS, 1)}
_NETWORK = {
    **{"skips": [], "weights": "sine", "omega": None, "phase": 2.5, "bound": 1.0, "sigma": 0.1, "omega0": 30.0},
    **{"encoding": "frequency", "levels": 12, "log2_table": 15, "coarsest": 16, "finest": 512},
}
BASE: dict[str, dict[str, Any]] = {
    "shape": {
        **_NETWORK,
        **{"width": 64, "depth": 3, "rank": 10, "activation": "leaky_relu", "frequencies": 5},
        **{"represents": "distance", "band": 0.03, "loss": "tanh"},
        **{"colours": "no", "colour_width": 24, "colour_depth": 2, "colour_frequencies": 4},
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
    "mesh": {"vertices": 0, "faces": 0, "digits": 8, "subdivisions": 0},
    "code": {},
}
"""What a setting is when the file does not say. Frozen."""


def settings_out(kind: str, settings: dict[str, Any]) -> bytes:
    """Settings of a known kind: count, then number and value of each that is not `BASE`'s.

    None is the number with its high bit. 0 stands for a setting that has no number: its name follows, and its value
    with a tag. Settings of any other kind are plain data.
    """
    if kind not in BASE:
        return object_out(settings)
    base = BASE[kind]
    rows = [_row_out(key, value) for key, value in settings.items() if key not in base or value != base[key]]
    return varint(len(rows)) + b"".join(rows)


def settings_in(kind: str, reader: Reader) -> dict[str, Any]:
    """Inverse of `settings_out`; raises ValueError."""
    if kind not in BASE:
        return object_in(reader)
    settings = dict(BASE[kind])
    for _ in range(reader.varint(reader.left)):
        number = reader.byte()
        if number == 0 and reader.version > 1:
            key = reader.name()
            settings[key] = value_in(reader)
            continue
        key = SETTINGS[(number & 127) - 1][0] if 0 < number & 127 <= len(SETTINGS) else ""
        if key not in settings:
            raise ValueError(f"setting {number & 127} is unknown")
        settings[key] = None if number & 128 else _value_in(FORMS[key], reader)
    return settings


def _row_out(key: str, value: Any) -> bytes:
    if key not in FORMS:
        return b"\0" + name(key) + value_out(value, key)
    number = NUMBERS[key]
    return bytes([number | 128]) if value is None else bytes([number]) + _value_out(FORMS[key], value)


def _value_out(form: str | tuple[str, ...], value: Any) -> bytes:
    if isinstance(form, tuple):
        return choice(value, form)
    if form == NUMBER:
        return struct.pack("<f", value)
    if form == LIST:
        return varint(len(value)) + b"".join(varint(v) for v in value)
    return varint(int(value))


def _value_in(form: str | tuple[str, ...], reader: Reader) -> Any:
    if isinstance(form, tuple):
        return reader.choice(form)
    if form == NUMBER:
        return float(str(np.frombuffer(reader.take(4), "<f4")[0]))  # 0.03 is to be 0.03 again
    if form == LIST:
        return [reader.varint(LARGEST) for _ in range(reader.varint(LONGEST_LIST))]
    return bool(reader.varint(1)) if form == YES else reader.varint(LARGEST)
