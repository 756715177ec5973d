"""Files that are proper containers and absurd in every field, for tests/hostile.py: `.sine` and adapters.

Two ways. One takes a sound file apart by docs/format.md, as tests/second_decoder.py reads it, and replaces some of its
values by others of the same form: a whole number by an extreme one, a float by NaN. The other writes a file by the
format's grammar alone: settings at will, then the rows of exactly the tensors that these settings ask for, so that what
lies behind them is reached. Checksums and lengths hold.
"""

import json
import math
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from unittest.mock import patch

import second_decoder
from hostile_fields import GOLDEN, HEAD, read_adapter, read_sine, sound_ones
from hostile_format import Example, Format

from sinefield.compress.reader import signed, text, varint

WHOLES = [0, 1, 2, 3, 5, 8, 16, 31, 64, 127, 128, 255, 256, 512, 1000, 4096, 8192, 65535, 65536, 1 << 18, 1 << 20]
WHOLES += [(1 << 20) + 1, 1 << 26, (1 << 31) - 1, 1 << 32, 1 << 53, 1 << 62, (1 << 64) - 1, 1 << 70]
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 1e-45, 1e30, 3.4e38, math.inf, -math.inf, math.nan, 100.0, 90.0, 89.9, -1e9]
TEXTS = ["", "a", "a" * 65, "é", "\0", "\x1b[2J", "\n", "../../x", "/etc/passwd", "a.b", ".", "\u202e", "x" * 5000]
JSON = [None, True, [], {}, "", "7", -1, 0, 1, 1e308, 1 << 40, 10**400, "x" * 3000, [[[[[[1]]]]]], "dora", math.nan]
NUMBERS = (("F32", 4),) * 12 + (("F64", 8), ("F16", 2), ("BF16", 2), ("I64", 8), ("BOOL", 1))
BASES = {1: second_decoder.SHAPE, 2: second_decoder.RADIANCE, 3: second_decoder.IMAGE, 5: second_decoder.SHAPES}
SIDES = [0, 1, 1, 2, 2, 3, 4, 4, 6, 8, 16, 31, 64, 256]
LONGEST = 1 << 16
MESH, MESH_KEYS = 6, (46, 47, 48)
ADAPTER, CODE, NAMED = 4, 7, 255


# ---- sound files, taken apart


class Parted(second_decoder.Bytes):
    """Remembers what each of its bytes belongs to."""

    made: "list[Parted]"

    def __init__(self, data: bytes, version: int = 2) -> None:
        super().__init__(data, version)
        self.parts: list[tuple[str, int, int]] = []
        self.made.append(self)

    def take(self, n: int) -> bytes:
        found = super().take(n)
        self.parts.append(("bytes", self.at - n, self.at))
        return found

    def varint(self) -> int:
        count, begin = len(self.parts), self.at
        value = super().varint()
        self.parts[count:] = [("varint", begin, self.at)]
        return value


class Payload(Exception):
    """The coded part is reached."""


def _stop(data: bytes) -> None:
    raise Payload


def _no_table(*_: int) -> None:
    """It takes time, and is for the coded part alone."""


@cache
def _parted() -> list[tuple[int, list[tuple[str, bytes]]]]:
    """Version and parts of every golden file; the last part is what is coded."""
    found = []
    for file in sorted(GOLDEN.glob("*.sine")):
        made: list[Parted] = []
        own = type("Own", (Parted,), {"made": made})
        if file.read_bytes()[HEAD] == MESH:
            found.append((file.read_bytes()[4], _parts_of_mesh(own, file.read_bytes())))
            continue
        with patch.multiple(second_decoder, Bytes=own, Coder=_stop, table=_no_table):
            try:
                _decode(file.read_bytes())
            except Payload:
                reader = made[0]
                parts = [(what, reader.data[begin:end]) for what, begin, end in reader.parts]
                assert b"".join(part for _, part in parts) == reader.data
                found.append((file.read_bytes()[4], parts))
    return found


def _decode(data: bytes) -> None:
    if data[HEAD] == CODE:
        second_decoder.code(data, [])
    elif data[HEAD] == NAMED:
        second_decoder.decode_registered(data, second_decoder.shared_shapes)
    else:
        second_decoder.decode(data)


def _parts_of_mesh(own: type[Parted], data: bytes) -> list[tuple[str, bytes]]:
    """Settings, box, code and note, which the second decoder does not read."""
    r = own(data[HEAD:], data[4])
    r.byte()
    for _ in range(r.varint()):
        r.byte()
        r.varint()
    second_decoder.box_of(r)
    for _ in ("code", "note"):
        r.take(r.varint())
    assert r.at == len(r.data)
    return [(what, r.data[begin:end]) for what, begin, end in r.parts]


def of_sound(rng: Random, *kinds: int) -> bytes:
    """A golden file of one of these kinds with one to six of its values replaced."""
    wanted = [found for found in _parted() if found[1][0][1][0] in kinds]
    version, parts = rng.choice(wanted)
    parts = list(parts)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        at = rng.randrange(len(parts)) if rng.random() < 0.7 else rng.randrange(min(len(parts), 30))
        what, old = parts[at]
        if at == len(parts) - 1:
            new = payload(rng, old)
        elif what == "varint":
            new = _whole(rng, old)
        else:
            new = _numbers(rng, old)
            if at and parts[at - 1] == ("varint", varint(len(old))) and rng.random() < 0.5:  # a text or a block
                new = _block(rng, old)
                parts[at - 1] = ("varint", varint(len(new)))
        parts[at] = (what, new)
    return sealed(b"".join(part for _, part in parts), version)


def _whole(rng: Random, old: bytes) -> bytes:
    value = second_decoder.Bytes(old).varint()
    if rng.random() < 0.05:
        return b"\x80" * rng.choice((1, 9, 40)) + old
    return varint(max(rng.choice([value - 1, value + 1, value * 2, *WHOLES]), 0))


def _numbers(rng: Random, old: bytes) -> bytes:
    """Bytes as whatever numbers have that length."""
    new = bytearray(old)
    if len(old) in (1, 3):
        new[rng.randrange(len(new))] = rng.choice((0, 1, 2, 3, 4, 5, 8, 15, 127, 128, 254, 255, rng.randrange(256)))
        return bytes(new)
    form, size = ("<d", 8) if len(old) == 48 else ("<f", 4) if len(old) % 4 == 0 else ("<e", 2)
    for _ in range(rng.choice((1, 1, 3))):
        at = size * rng.randrange(max(len(new) // size, 1))
        value = rng.choice(FLOATS)
        if size == 2 and rng.random() < 0.7:  # the upper half of a float32
            new[at : at + 2] = struct.pack("<f", value)[2:]
        elif abs(value) < 6e4 or size != 2:
            new[at : at + size] = struct.pack(form, value)
    return bytes(new[: len(old)])


def _block(rng: Random, old: bytes) -> bytes:
    chosen = rng.randrange(4)
    if chosen == 0:
        return rng.choice(TEXTS).encode()
    if chosen == 1:
        return an_object(rng, 0)
    if chosen == 2:
        return _deflated("\n".join(_names(rng)))
    return old * rng.choice((2, 50))


def payload(rng: Random, old: bytes) -> bytes:
    size = rng.choice((0, 4, 400, len(old), len(old) - 4, 2 * len(old), 20_000))
    return rng.choice((old[: max(size, 0)], rng.randbytes(max(size, 0)), bytes(max(size, 0)), b"\xff" * max(size, 0)))


# ---- files by the grammar


def _by_grammar(rng: Random) -> bytes:
    """A field of any kind, with the rows that its settings ask for."""
    kind = rng.choice((1, 2, 3, 5, MESH))
    if kind == MESH:
        return _mesh(rng)
    base = BASES[kind]
    settings, rows = dict(base), b""
    wanted = [key for key in SMALL if key in base] + rng.sample(sorted(base), rng.choice((0, 0, 1, 1, 2, 4)))
    for place, key in enumerate(wanted):
        settings[key], row = _setting(rng, key, base[key], 0.03 if place < len(SMALL) else 0.5)
        rows += row
    head = bytes([kind]) + varint(len(wanted)) + rows
    if kind == 3:
        head += varint(rng.choice(SIDES + WHOLES)) + varint(rng.choice(SIDES))
    elif kind != 5:
        head += a_box(rng)
    if kind == 2:
        head += rng.randbytes(3) + _floats(rng, [0, 0, 0, 0, 0, 1, 3, 20, 1.2, 32, 32])
        head += b"" if settings["space"] == "box" else _floats(rng, [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 1, 1, 1])
    note = an_object(rng, 0) if rng.random() < 0.5 else b""
    head += varint(len(note)) + note
    try:
        shapes, _ = second_decoder.shapes_of(kind, settings) if _few(settings) else ({}, 0)
    except (KeyError, TypeError, OverflowError, ZeroDivisionError, ValueError):
        shapes = {}
    most = rng.choice((1, 1, 2, 17, 300, 65536))
    head += tensor_rows(rng, shapes, most) + (rng.randbytes(60) if kind == 2 else b"")
    return sealed(head + _coded(rng, most))


def _mesh(rng: Random) -> bytes:
    """A mesh whose code is any bytes: each code is of some mesh, but for what it claims."""
    code = payload(rng, rng.randbytes(rng.choice((1, 20, 300, 3000))))
    faces = rng.choice((1, len(code), 4 * len(code), 4 * len(code) + 64, 4 * len(code) + 65, rng.choice(WHOLES)))
    vertices = rng.choice((0, 3, faces // 2 + 2, 3 * faces, 3 * faces + 1, rng.choice(WHOLES)))
    digits = rng.choice((1, 2, 8, 8, 15, 15, 16, rng.choice(WHOLES)))
    rows = b"".join(
        bytes([key]) + varint(value) for key, value in zip(MESH_KEYS, (vertices, faces, digits), strict=True)
    )
    note = an_object(rng, 0) if rng.random() < 0.2 else b""
    return sealed(bytes([MESH, 3]) + rows + a_box(rng) + counted(code) + counted(note))


SMALL = {
    **{"width": (2, 4, 8, 16, 64, 1024), "depth": (1, 2, 3, 16, 64), "rank": (1, 2), "frequencies": (1, 2, 4)},
    **{"grid": (1, 4, 16, 64, 256, 512), "head_width": (1, 2, 16, 64), "features": (1, 3, 16), "dim": (8, 16, 64)},
    **{"blocks": (1, 2, 16), "points": (8, 64, 1024), "tokens": (1, 2, 8)},
}
"""Settings that are given in every file, and what they mostly are, so that many files are read to their end."""


def _coded(rng: Random, most: int) -> bytes:
    """Where each tensor has one level nothing is coded, and a sound file ends here."""
    return b"" if most == 1 and rng.random() < 0.8 else payload(rng, bytes(rng.choice((0, 8, 400, 4000))))


def _few(settings: dict) -> bool:
    """Whether the list of tensors can be written out here."""
    counts = ("depth", "head_depth", "colour_depth", "blocks", "levels")
    none = [key for key, value in settings.items() if value is None and key != "omega"]
    return not none and all(settings.get(key, 0) < 300 for key in counts)


def _setting(rng: Random, key: str, base: object, absurd: float) -> tuple[object, bytes]:
    number = second_decoder.NAMES.split().index(key) + 1
    if rng.random() < absurd / 20:
        return None, bytes([number | 128])
    if key in second_decoder.CHOICES:
        words = second_decoder.CHOICES[key]
        word = rng.choice(words)
        return word, bytes([number]) + (bytes([words.index(word)]) if rng.random() < 0.95 else b"\xff" + text("a"))
    if key == "skips":
        value = [rng.choice((0, 1, 2, 3, 64, 1 << 20)) for _ in range(rng.choice((0, 1, 2, 64, 65)))]
        return value, bytes([number]) + varint(len(value)) + b"".join(varint(v) for v in value)
    if isinstance(base, bool):
        return bool(value := rng.choice((0, 1, 1, 2))), bytes([number]) + varint(value)
    if isinstance(base, int):
        value = rng.choice(WHOLES if rng.random() < absurd else SMALL.get(key, SIDES))
        return value, bytes([number]) + varint(value)
    value = rng.choice(FLOATS)
    return value, bytes([number]) + struct.pack("<f", value)


def tensor_rows(rng: Random, shapes: dict[str, tuple[int, ...]], most: int) -> bytes:
    """A row a tensor; those of a file too long are cut."""
    out = bytearray()
    for shape in shapes.values():
        form = rng.choice((0, 0, 0, 2, 4, 6, 1)) if rng.random() < 0.97 else rng.randrange(256)
        entries = rng.choice((1, 2, 16, 256, 257))
        if form & 1:
            steps = varint(entries) + struct.pack("<e", rng.choice((0.1, 1, 6e4, -0.5))) * entries
        else:
            count = (min(shape[0], LONGEST) if form & 2 else 1) * (2 if form & 4 else 1)
            step = struct.pack("<f", rng.choice(FLOATS) if rng.random() < 0.03 else rng.choice((1e-3, 1, 1e30, -1)))
            steps = step[2:] * count
        levels = rng.choice((1, 2, entries, most)) if most > 1 else 1
        levels = rng.choice(WHOLES) if rng.random() < 0.01 else levels
        low = signed(rng.choice((0, 0, -(levels // 2), 65535, -65536)) if not form & 1 else 0)
        table = varint(rng.choice((0, levels // 2, levels - 1))) + rng.randbytes(2) if levels > 1 else b""
        out += bytes([form]) + steps + low + varint(max(levels - 1, 0)) + table
        if len(out) > LONGEST:
            break
    return bytes(out)


def _packed_adapter(rng: Random) -> bytes:
    names = _names(rng)
    head = b"\4" + counted(_deflated("\n".join(names)))
    grid = False
    if rng.random() < 0.4:
        flags = rng.choice((0, 1, 2, 3))
        grid = bool(flags & 2)
        head += b"\0" + bytes([rng.choice((0, 0, 1, 2, 3)), flags]) + rng.randbytes(4)
        head += a_box(rng) if flags & 1 else b""
        sides = varint(rng.choice(SIDES + WHOLES)), varint(rng.choice((1, 8, 64, 512, 513)))
        head += b"".join(sides) if grid else b""
    count, forms, rows = rng.choice((1, 1, 2, min(len(names), 3000))), [], bytearray()
    for _ in range(count):
        kind, rank = rng.randrange(4), rng.choice((1, 1, 2, 4) if rng.random() < 0.95 else WHOLES)
        high, wide = (rng.choice(SIDES[1:] if rng.random() < 0.9 else WHOLES) for _ in range(2))
        rows += bytes([kind if rng.random() < 0.98 else 9, rng.choice((0, 0, 1, 255))]) + varint(rank)
        for _ in range(2 if kind in (0, 2) else 1):  # alpha, omega
            rows += struct.pack("<f", rng.choice(FLOATS) if rng.random() < 0.1 else 8.0)
        rows += varint(high) + varint(wide)
        forms.append((kind, rank, high, wide))
    chosen = [rng.randrange(count) for _ in names]
    head += varint(count) + rows + b"".join(varint(form) for form in chosen)
    note = an_object(rng, 0) if grid or rng.random() < 0.2 else b""
    head += counted(note)
    shapes: dict[str, tuple[int, ...]] = {}
    for number, form in enumerate(chosen):
        kind, rank, high, wide = forms[form]
        shapes |= {f"{number}.a": (rank, wide), f"{number}.b": (high, rank)}
        shapes |= {f"{number}.magnitude": (high,)} if kind > 1 else {}
    most = rng.choice((1, 1, 2, 17, 65536))
    head += tensor_rows(rng, shapes, most)
    if grid:
        head += b"".join(varint(rng.choice((0, 0, 1, 8, 64, 512, 8192))) for _ in range(6)) + rng.randbytes(60)
    return sealed(head + _coded(rng, most))


def _names(rng: Random) -> list[str]:
    count = rng.choice((1, 1, 2, 3, 40, 3000, 65536, 70000) if rng.random() < 0.3 else (1, 2, 3))
    names = [f"layers.{number}" for number in range(count)]
    if rng.random() < 0.2:
        names[rng.randrange(count)] = rng.choice(TEXTS)
    return names


def _deflated(words: str) -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    return packer.compress(words.encode()) + packer.flush()


def counted(data: bytes) -> bytes:
    return varint(len(data)) + data


def a_box(rng: Random) -> bytes:
    values = [-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]
    if rng.random() < 0.2:
        values[rng.randrange(6)] = rng.choice(FLOATS)
    return b"\0" + struct.pack("<6f", *values) if rng.random() < 0.5 else b"\1" + struct.pack("<6d", *values)


def _floats(rng: Random, values: list[float]) -> bytes:
    values = list(values)
    if rng.random() < 0.3:
        values[rng.randrange(len(values))] = rng.choice(FLOATS)
    return struct.pack(f"<{len(values)}f", *values)


def an_object(rng: Random, depth: int) -> bytes:
    """An object of plain data."""
    count, members = rng.choice((0, 1, 2, 5)), b""
    for _ in range(count):
        members += rng.choice((varint(rng.randrange(1, 17)), b"\0" + text(rng.choice(TEXTS)))) + _value(rng, depth)
    return varint(count if rng.random() < 0.95 else rng.choice(WHOLES)) + members


def _value(rng: Random, depth: int) -> bytes:
    tag = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 16, 31, 32, 36, 40, 255) if depth < 20 else (0, 1, 2))
    if tag in (3, 16, 31):
        return bytes([tag]) + varint(rng.choice(WHOLES))
    if tag == 4:
        return b"\4" + struct.pack("<d", rng.choice(FLOATS))
    if tag in (5, 32, 36):
        return bytes([tag]) + text(rng.choice(TEXTS))
    if tag == 6:
        deep = rng.choice((1, 1, 9, 12, 4000)) if depth == 0 else 1
        return b"\6\1" * (deep - 1) + b"\6" + varint(1) + _value(rng, depth + deep)
    return b"\7" + an_object(rng, depth + 1) if tag == 7 else bytes([tag])


def sealed(body: bytes, version: int = 2) -> bytes:
    body = body[: LONGEST - HEAD]
    return b"SINE" + bytes([version]) + struct.pack("<I", zlib.crc32(body)) + body


def _tensors(rng: Random) -> bytes:
    """An adapter as safetensors: a head of a proper length whose rows are absurd."""
    rows, tensors, at = {}, {}, 0
    for number in range(rng.choice((1, 1, 2, 5, 400))):
        name = rng.choice(TEXTS) if rng.random() < 0.05 else f"{number}"
        rank, high, wide = (rng.choice(SIDES[:8]) for _ in range(3))
        kind = rng.choice(("sine", "lora", "sine-dora", "dora"))
        row = {"kind": kind, "rank": rank, "alpha": 1.0, "omega": 8.0 if "sine" in kind else None}
        row |= {"transposed": False, "rows": high, "columns": wide}
        if rng.random() < 0.2:
            row[rng.choice(sorted(row))] = rng.choice(JSON)
        rows[name] = row if rng.random() < 0.98 else rng.choice(JSON)
        parts = {"a": [rank, wide], "b": [high, rank]} | ({"magnitude": [high]} if "dora" in kind else {})
        for part, shape in parts.items():
            if rng.random() < 0.03:
                shape = rng.choice(([], [1 << 62, 4], [0, 1 << 62], [1] * 300, JSON[rng.randrange(len(JSON))]))
            letters, size = rng.choice(NUMBERS)
            sizes = [n for n in shape if type(n) is int] if isinstance(shape, list) else []
            length = min(math.prod(sizes) * size, 1 << 15)
            place = [at, at + length] if rng.random() < 0.98 else [rng.choice(WHOLES), rng.choice(WHOLES)]
            tensors[f"{name}.{part}"] = {"dtype": letters, "shape": shape, "data_offsets": place}
            at += length
    note = {"adapter": rng.choice((1, 1, 1, 1, 1, 1, 2, "1")), "targets": rows}
    head = json.dumps({"__metadata__": {"sinefield": json.dumps(note)}} | tensors).encode()
    head += b" " * (-len(head) % 8)
    data = struct.pack("<f", rng.choice(FLOATS) if rng.random() < 0.1 else 0.5) * (at // 4 + 1)
    return struct.pack("<Q", len(head)) + head + data[:at]


# ---- the two kinds of tries


def _field(rng: Random) -> Example:
    return {"a.sine": of_sound(rng, *BASES, MESH) if rng.random() < 0.5 else _by_grammar(rng)}


def _adapter(rng: Random) -> Example:
    chosen = rng.randrange(3)
    if chosen == 0:
        return {"a.safetensors": _tensors(rng)}
    return {"a.sine": of_sound(rng, ADAPTER) if chosen == 1 else _packed_adapter(rng)}


def _read_any(folder: Path) -> None:
    (read_sine if (folder / "a.sine").exists() else read_adapter)(folder)


def _absurd(make: Callable[[Random], Example]) -> Format:
    return Format("", [], [], _read_any, [], prepare=sound_ones, make=make, bounded=True)


def absurd_field() -> Format:
    return _absurd(_field)


def absurd_adapter() -> Format:
    return _absurd(_adapter)
