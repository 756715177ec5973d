"""The `.sine` file: a field's settings, box and coded tensors in as few bytes as they take. docs/format.md is its text.

Everything a file claims is checked before anything of its size is made.
"""

import json
import math
import struct
import types
import zlib
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from sinefield.compress.entropy import MAX_SYMBOLS, Decoder, Encoder, fit_table, frequencies
from sinefield.compress.grid import CONTEXTS, decode_grid, encode_grid
from sinefield.compress.quantize import Codebook, Quantiser, Uniform, decode_uniform
from sinefield.config import RadianceFieldConfig, ShapeFieldConfig
from sinefield.errors import SinefieldError

MAGIC = b"SINE"
VERSION = 1
KINDS = {"shape": 1, "radiance": 2}
CONFIGS: dict[str, type] = {"shape": ShapeFieldConfig, "radiance": RadianceFieldConfig}
MAX_FILE = 256 << 20
MAX_NUMBERS = 1 << 26
NUMBERS_A_BYTE = 64
"""A file holds at most so many tensor entries a byte: more than any real one, and a bound on what a lie can take."""
MAX_NOTE = 1 << 16
SETTINGS = (
    *("width", "depth", "skips", "weights", "rank", "omega", "phase", "bound", "activation", "sigma", "omega0"),
    *("frequencies", "represents", "band", "loss", "features", "head_width", "head_depth", "grid", "steps"),
)
"""A setting's number in the file is its place here, from 1; only ever appended to."""
_NETWORK = {"skips": [], "weights": "sine", "omega": None, "phase": 2.5, "bound": 1.0, "sigma": 0.1, "omega0": 30.0}
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
    },
}
"""What a setting is when the file does not say. Frozen: part of version 1."""
NOTE_WORDS = (
    b'{"seed":0,"steps":,"seconds":,"source":"$SINEFIELD_DATA/meshes/.obj","background":"white","downscale":8,'
    b'"holdout":8,"iou":[0.9,0.9],"psnr":[30.,"data":{"path":"lego'
)
"""Preset dictionary of the note's deflate stream. Frozen: part of version 1."""


@dataclass
class Coded:
    """One tensor as whole numbers and what turns them into values.

    Attributes:
        levels: the tensor's shape.
        step, offset: float32, () or (rows, 1, …), of a uniform quantiser.
        entries: (k,) float32 of a codebook; None for a uniform one.
        bytes: what it takes in the file, its share of the coded part included.
    """

    levels: np.ndarray
    step: Tensor | None = None
    offset: Tensor | None = None
    entries: Tensor | None = None
    bytes: float = 0.0

    @classmethod
    def of(cls, quantiser: Quantiser) -> "Coded":
        if isinstance(quantiser, Codebook):
            return cls(quantiser.levels(), entries=quantiser.entries)
        assert isinstance(quantiser, Uniform)
        return cls(quantiser.levels(), quantiser.step, quantiser.offset)

    def values(self) -> Tensor:
        """float32, the same on every machine."""
        levels = torch.from_numpy(self.levels)
        if self.entries is not None:
            return self.entries[levels.long()]
        return decode_uniform(levels, self.step, self.offset)

    @property
    def bits(self) -> float:
        """Mean bits an entry takes in the file."""
        return 8 * self.bytes / max(self.levels.size, 1)


@dataclass
class Packed:
    """What a `.sine` file holds.

    Attributes:
        kind: "shape" or "radiance".
        settings: the field's configuration, complete.
        box: (6,) float64, world or input units.
        tensors: by the parameter's name, in the order of the network.
        background: (3,) of 0 … 1, radiance only.
        cells: (n, n, n) bool occupied cells, radiance only.
        view: (11,) float32, the orbit of a radiance field; see `data.cameras.usual_orbit`.
        note: provenance; any JSON object.
        sizes: bytes by part of the file.
    """

    kind: str
    settings: dict[str, Any]
    box: np.ndarray
    tensors: dict[str, Coded]
    background: np.ndarray | None = None
    cells: np.ndarray | None = None
    view: np.ndarray | None = None
    note: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, float] = field(default_factory=dict)


def encode(packed: Packed) -> bytes:
    """The file's bytes; sets `bytes` of each tensor and `sizes`."""
    head = bytearray([KINDS[packed.kind]])
    head += _settings_out(packed.kind, packed.settings) + _box_out(packed.box)
    if packed.kind == "radiance":
        head += bytes(np.round(np.asarray(packed.background) * 255).astype(np.uint8))
        head += np.asarray(packed.view, "<f4").tobytes()
    note = _deflate(json.dumps(packed.note, separators=(",", ":"), sort_keys=True).encode()) if packed.note else b""
    head += _varint(len(note)) + note
    encoder = Encoder()
    tables = bytearray()
    for name, coded in packed.tensors.items():
        row, bits = _tensor_out(coded, encoder, octaves(name, packed.settings["frequencies"]))
        coded.bytes = len(row) + bits / 8
        tables += row
    grid = encode_grid(encoder, packed.cells) if packed.kind == "radiance" else b""
    payload = encoder.finish()
    body = bytes(head) + bytes(tables) + grid + payload
    data = MAGIC + bytes([VERSION]) + struct.pack("<I", zlib.crc32(body)) + body
    tensors = sum(coded.bytes for coded in packed.tensors.values())
    packed.sizes = {"header": 9 + len(head) - len(note), "note": len(note), "tensors": tensors}
    packed.sizes["grid"] = len(data) - 9 - len(head) - tensors if packed.kind == "radiance" else 0.0
    packed.sizes["total"] = len(data)
    return data


def decode(data: bytes, shapes, where: str) -> Packed:
    """Read a file's bytes.

    Arguments:
        shapes: function from kind and settings to {name: shape} of the field's tensors, without making them.
        where: the file, for messages.

    Raises:
        SinefieldError: not a `.sine` file, of a newer version, damaged, or claiming more than it can hold.
    """
    if data[:4] != MAGIC:
        raise SinefieldError(f"{where}: is not a .sine file; make one with sinefield pack")
    if len(data) < 5:
        raise SinefieldError(f"{where}: is cut short; copy the file again")
    if data[4] != VERSION:
        raise SinefieldError(f"{where}: is of version {data[4]}, this is for version {VERSION}; update sinefield")
    if len(data) < 10 or zlib.crc32(data[9:]) != struct.unpack("<I", data[5:9])[0]:
        raise SinefieldError(f"{where}: its checksum is wrong: damaged or cut short; copy the file again")
    try:
        with np.errstate(all="ignore"):  # numpy warns of odd numbers that are refused by value later
            return _decode_body(_Reader(data[9:]), shapes, where, len(data))
    except SinefieldError as error:
        raise SinefieldError(str(error) if str(error).startswith(where) else f"{where}: {error}") from error
    except (ValueError, KeyError, IndexError, struct.error, zlib.error, OverflowError, RecursionError) as error:
        # The checksum held, so somebody wrote it like this.
        raise SinefieldError(f"{where}: is not a proper .sine file ({error}); make it again") from error


def _decode_body(reader: "_Reader", shapes, where: str, size: int) -> Packed:
    kind = {number: name for name, number in KINDS.items()}.get(reader.byte())
    if kind is None:
        raise SinefieldError(f"{where}: holds an unknown kind of field; update sinefield")
    settings = _settings_in(kind, reader)
    box = _box_in(reader)
    background = view = None
    if kind == "radiance":
        background = np.frombuffer(reader.take(3), np.uint8).astype(np.float32) / np.float32(255)
        view = np.frombuffer(reader.take(44), "<f4").astype(np.float32)
        if not np.isfinite(view).all():
            raise SinefieldError(f"{where}: its camera path is not finite; make it again")
    note = _inflate(reader.take(reader.varint(MAX_NOTE)))
    expected = shapes(kind, settings)
    numbers = sum(math.prod(shape) for shape in expected.values())
    cells = settings["grid"] ** 3 if kind == "radiance" else 0
    if numbers > min(MAX_NUMBERS, NUMBERS_A_BYTE * size) or cells > max(1 << 18, 256 * size):
        raise SinefieldError(
            f"{where}: claims {numbers:,} numbers and {cells:,} cells in {size:,} bytes; it is no proper .sine file"
        )
    heads = {
        name: _tensor_in(reader, shape, octaves(name, settings["frequencies"])) for name, shape in expected.items()
    }
    table = reader.take(CONTEXTS) if kind == "radiance" else b""
    decoder = Decoder(reader.rest(), where)
    tensors = {name: head(decoder) for name, head in heads.items()}
    occupied = decode_grid(decoder, settings["grid"], table) if kind == "radiance" else None
    decoder.finish()
    return Packed(kind, settings, box, tensors, background, occupied, view, note)


class _Reader:
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


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _signed(value: int) -> bytes:
    return _varint(2 * value if value >= 0 else -2 * value - 1)


def _settings_out(kind: str, settings: dict[str, Any]) -> bytes:
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
    return _varint(len(rows)) + b"".join(rows)


def _settings_in(kind: str, reader: _Reader) -> dict[str, Any]:
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
    if hint is int:
        return _varint(value)
    return _varint(len(value)) + b"".join(_varint(v) for v in value)


def _value_in(hint: Any, reader: _Reader) -> Any:
    if get_origin(hint) is Literal:
        return get_args(hint)[reader.byte()]
    if hint is float:
        return float(str(np.frombuffer(reader.take(4), "<f4")[0]))  # 0.03 is to be 0.03 again
    if hint is int:
        return reader.varint(1 << 20)
    return [reader.varint(1 << 20) for _ in range(reader.varint(64))]


def _box_out(box: np.ndarray) -> bytes:
    """float32 where that moves no wall by more than a millionth of the box, else float64."""
    single = np.asarray(box, "<f4")
    fits = np.abs(single - box).max() <= 1e-6 * (box[3:] - box[:3]).max()
    return b"\0" + single.tobytes() if fits else b"\1" + np.asarray(box, "<f8").tobytes()


def _box_in(reader: _Reader) -> np.ndarray:
    wide = reader.byte()
    if wide > 1:
        raise ValueError("its box is of an unknown form")
    box = np.frombuffer(reader.take(48 if wide else 24), "<f8" if wide else "<f4").astype(np.float64)
    if not np.isfinite(box).all() or not (box[3:] >= box[:3]).all() or not (box[3:] - box[:3]).max() > 0:
        raise ValueError("its box is empty or not finite")
    return box


def _deflate(text: bytes) -> bytes:
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=NOTE_WORDS)
    return squeezer.compress(text) + squeezer.flush()


def _inflate(data: bytes) -> dict[str, Any]:
    if not data:
        return {}
    opener = zlib.decompressobj(-15, zdict=NOTE_WORDS)
    text = opener.decompress(data, MAX_NOTE)
    if not opener.eof or opener.unused_data:
        raise ValueError("its note is damaged")
    note = json.loads(text)
    if not isinstance(note, dict):
        raise ValueError("its note is no object")
    return note


# A tensor's row: form (bit 0: codebook, bit 1: a step a row, bit 2: offset); steps and offsets as bfloat16, or how many
# entries and the entries as float16; then least level, number of levels, and the table's centre, slope, bend: once, or
# (bit 3) for each octave of columns.
_CODEBOOK, _PER_ROW, _OFFSET, _OCTAVES = 1, 2, 4, 8


def _tensor_out(coded: Coded, encoder: Encoder, groups: list[np.ndarray]) -> tuple[bytes, float]:
    """The tensor's row of the table, its levels handed to the coder; and the bits they will take there."""
    whole = _Part.of(coded.levels, coded.entries is None)
    parts = [_Part.of(coded.levels[:, columns], coded.entries is None) for columns in groups]
    grouped = bool(parts) and sum(8 * len(p.row) + p.bits for p in parts) < 8 * len(whole.row) + whole.bits
    if coded.entries is not None:
        entries = coded.entries.half().numpy().astype("<f2")
        form, row = _CODEBOOK, _varint(len(entries)) + entries.tobytes()
    else:
        offset = bool((coded.offset != 0).any())
        form = (_PER_ROW if coded.step.dim() else 0) | (_OFFSET if offset else 0)
        row = _bf16_bytes(coded.step) + (_bf16_bytes(coded.offset) if offset else b"")
    chosen = parts if grouped else [whole]
    for part in chosen:
        encoder.put(part.symbols, part.table)
    row = bytes([form | (_OCTAVES if grouped else 0)]) + row + b"".join(part.row for part in chosen)
    return row, sum(part.bits for part in chosen)


class _Part(NamedTuple):
    """Levels under one table: from the least on, the table, its description, and the bits they take."""

    symbols: np.ndarray
    table: tuple[int, ...]
    row: bytes
    bits: float

    @classmethod
    def of(cls, levels: np.ndarray, centred: bool) -> "_Part":
        """`centred`: level 0 is the middle of the table where it occurs."""
        low = int(levels.min())
        symbols = levels.ravel() - low
        n = int(symbols.max()) + 1
        centre, slope, bend, bits = fit_table(symbols, n, -low if centred and low <= 0 < low + n else None)
        row = _signed(low) + _varint(n - 1) + (_varint(centre) + bytes([slope, bend]) if n > 1 else b"")
        return cls(symbols, frequencies(n, centre, slope, bend), row, bits)


def _tensor_in(reader: _Reader, shape: tuple[int, ...], groups: list[np.ndarray]):
    """Read a tensor's row; returns a function that takes its levels from the coder."""
    form = reader.byte()
    if form > 15 or (form & _CODEBOOK and form & ~_OCTAVES != _CODEBOOK) or (form & _OCTAVES and not groups):
        raise ValueError(f"a tensor has the unknown form {form}")
    step = offset = entries = None
    if form & _CODEBOOK:
        k = reader.varint(256)
        entries = torch.from_numpy(np.frombuffer(reader.take(2 * k), "<f2").astype(np.float32))
        parts = [entries]
    else:
        rows = shape[0] if form & _PER_ROW else 1
        sizes = (-1,) + (1,) * (len(shape) - 1) if form & _PER_ROW else ()
        step = _bf16_values(reader.take(2 * rows)).reshape(sizes)
        offset = _bf16_values(reader.take(2 * rows)).reshape(sizes) if form & _OFFSET else torch.zeros_like(step)
        parts = [step, offset]
    if not all(torch.isfinite(part).all() for part in parts):
        raise ValueError("a tensor's steps are not finite")
    chosen = groups if form & _OCTAVES else [np.arange(shape[-1])]
    tables = []
    for _ in chosen:
        low = reader.signed(1 << 16)
        n = reader.varint(MAX_SYMBOLS - 1) + 1
        tables.append(
            (low, frequencies(n, reader.varint(n - 1), reader.byte(), reader.byte()) if n > 1 else (1 << 24,))
        )
        if entries is not None and (low < 0 or low + n > len(entries)):
            raise ValueError(f"a codebook of {len(entries)} entries is asked for entry {low + n - 1}")

    def finish(decoder: Decoder) -> Coded:
        levels = np.empty(shape, np.int64)
        for columns, (low, table) in zip(chosen, tables, strict=True):
            part = (*shape[:-1], len(columns))
            levels[..., columns] = decoder.take(math.prod(part), table).reshape(part) + low
        return Coded(levels, step, offset, entries)

    return finish


def octaves(name: str, n: int) -> list[np.ndarray]:
    """The columns of a weight that sees the encoding with `n` frequencies, by octave; [] for other tensors.

    Bare coordinates come first, then sine and cosine of each frequency. Entries of one octave are about alike, those of
    different ones are not.
    """
    if n == 0 or name not in ("network.weights.0.weight", "trunk.weights.0.weight"):
        return []
    axes = np.arange(3)
    return [axes] + [np.concatenate([3 + 3 * i + axes, 3 + 3 * (n + i) + axes]) for i in range(n)]


def _bf16_bytes(values: Tensor) -> bytes:
    return values.reshape(-1).to(torch.bfloat16).view(torch.int16).numpy().astype("<i2").tobytes()


def _bf16_values(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, "<i2").astype(np.int16)).view(torch.bfloat16).float()
