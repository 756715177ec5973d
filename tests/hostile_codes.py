"""Codes of shapes and the bases that they change, absurd on either side, for tests/hostile.py.

A base is taken apart as tests/hostile_absurd.py does it, or written by the format's grammar for settings at will, or
made with them; a code is taken apart too, or has any payload. Most codes have the fingerprint of the base beside them,
so that what lies behind it is reached.
"""

import struct
from pathlib import Path
from random import Random

import numpy as np
import second_decoder
import torch
from hostile_absurd import (
    CODE,
    FLOATS,
    LONGEST,
    NAMED,
    WHOLES,
    a_box,
    an_object,
    counted,
    of_sound,
    payload,
    sealed,
    tensor_rows,
)
from hostile_fields import GOLDEN, sound_ones
from hostile_format import Example, Format

from sinefield.adapters.fields import fingerprint
from sinefield.compress.code import LARGEST_SLOPE, REACH, code_out
from sinefield.compress.container import decode, encode
from sinefield.compress.reader import name, signed, varint
from sinefield.compress.values import object_out
from sinefield.errors import SinefieldError
from sinefield.fields.shared.field import SharedField, SharedFieldConfig
from sinefield.learning.shared import rounded_base
from sinefield.store.fields import load_field
from sinefield.store.sine_files import _shapes, from_packed, to_packed

SETTINGS = {
    "width": (1, 2, 12, 64, 300, 1024),
    "depth": (1, 2, 3, 16),
    "rank": (1, 2, 16),
    "frequencies": (0, 2, 5, 20),
}
DEEPEST = 300
"""Layers above which the list of tensors is not written out here."""
GAINS = (-40, -2000, 0, 8, 100, 1015, 1024, 8000)


def _grammar(rng: Random) -> bytes:
    """A base with the rows that its settings ask for, mostly with one level a tensor."""
    settings: dict = {key: rng.choice(values) for key, values in SETTINGS.items()} | {"band": 0.03}
    if rng.random() < 0.2:
        settings[rng.choice(sorted(settings))] = rng.choice([*WHOLES[:24], None, True, "a", [], *FLOATS[:8]])
    try:
        body = bytes([NAMED]) + name("shared") + object_out(settings)
        if isinstance(settings["depth"], int) and settings["depth"] > DEEPEST:
            return sealed(body + varint(0) * 2)
        shapes = second_decoder.shared_shapes("shared", settings)
    except (TypeError, ValueError, OverflowError):
        return _grammar(rng)
    if not all(isinstance(side, int) for shape in shapes.values() for side in shape):
        return sealed(body + varint(0) * 2)
    head = body + varint(0) + counted(an_object(rng, 0) if rng.random() < 0.2 else b"")
    most = rng.choice((1, 1, 1, 2, 300))
    if rng.random() < 0.3 or any(min(shape, default=0) < 0 or max(shape) > LONGEST for shape in shapes.values()):
        return sealed(head + tensor_rows(rng, shapes, most) + payload(rng, bytes(8)))
    own = {"gains": rng.choice(GAINS), "slopes": rng.choice((0, 3, 119, 127, 128, 200, LARGEST_SLOPE, 255, -1))}
    rows = b"".join(
        b"\0\x80\x3f" + signed(own[key]) + varint(0) if key in own else tensor_rows(rng, {key: shape}, 1)
        for key, shape in shapes.items()
    )
    filler = bytes([0]) * rng.choice((0, 100, 3000, LONGEST))
    return _noted(head, filler, rows)


def _noted(head: bytes, filler: bytes, rows: bytes) -> bytes:
    """With a long text in the note, so that the file's size allows a larger network."""
    if not filler or head[-1:] != b"\0":
        return sealed(head + rows)
    note = object_out({"author": "a" * (len(filler) - 20)})
    return sealed(head[:-1] + counted(note) + rows)


def _made(rng: Random) -> bytes:
    """A sound base of settings at will, every number drawn."""
    settings = {key: rng.choice(values[:4]) for key, values in SETTINGS.items()} | {"depth": rng.choice((2, 3))}
    torch.manual_seed(rng.randrange(1 << 30))
    field = SharedField(SharedFieldConfig(**settings))
    with torch.no_grad():
        low = rng.choice(GAINS)
        field.gains.copy_(torch.randint(low, low + 40, field.gains.shape).float())
        field.slopes.copy_(torch.randint(0, LARGEST_SLOPE + 1, field.slopes.shape).float())
    return encode(to_packed(field, rounded_base(field), {}))


def _opened(base: bytes) -> SharedField | None:
    try:
        field, _ = from_packed(decode(base, _shapes, "base"), "base")
    except SinefieldError:
        return None
    return field if isinstance(field, SharedField) else None


def _code(rng: Random, field: SharedField | None) -> bytes:
    """A code, mostly for that base."""
    mark, words = rng.randrange(1 << 32), payload(rng, rng.randbytes(4 * rng.choice((0, 1, 50, 2000))))
    if field is not None:
        mark = fingerprint(field)
        slopes = field.slopes.numpy()
        if rng.random() < 0.5 and ((slopes >= 0) & (slopes <= LARGEST_SLOPE)).all():
            reach = rng.choice((0, 1, 5, REACH))
            levels = np.random.default_rng(rng.randrange(1 << 30)).integers(-reach, reach + 1, field.numbers)
            words = code_out(mark, levels, slopes.astype(np.int64))[4:]
    code = (struct.pack("<I", mark) + words)[: rng.choice((3, LONGEST)) if rng.random() < 0.05 else LONGEST]
    return sealed(
        bytes([CODE, 0]) + a_box(rng) + counted(code) + counted(an_object(rng, 0) if rng.random() < 0.2 else b"")
    )


def _example(rng: Random) -> Example:
    chosen = rng.randrange(5)
    if chosen == 0:
        return {"base.sine": (GOLDEN / "shared.sine").read_bytes(), "code.sine": of_sound(rng, CODE)}
    if chosen == 1:
        base = (GOLDEN / "shared.sine").read_bytes()
    else:
        base = of_sound(rng, NAMED) if chosen == 2 else _grammar(rng) if chosen == 3 else _made(rng)
    return {"base.sine": base, "code.sine": _code(rng, _opened(base))}


def _read(folder: Path) -> None:
    load_field(folder / "base.sine", [folder / "code.sine"])


def absurd_code() -> Format:
    return Format("", [], [], _read, [], prepare=sound_ones, make=_example, bounded=True)
