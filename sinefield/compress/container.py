"""The `.sine` file: a field's settings, box and coded tensors in as few bytes as they take, or an adapter's layers and
tensors. docs/format.md is its text.

Everything a file claims is checked before anything of its size is made.
"""

import math
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sinefield.compress.adapter_table import table_in, table_out
from sinefield.compress.entropy import MAX_SYMBOLS, Decoder, Encoder, fit_table, frequencies
from sinefield.compress.grid import CONTEXTS, decode_grid, encode_grid
from sinefield.compress.header import (
    MAX_NOTE,
    Reader,
    box_in,
    box_out,
    note_in,
    note_out,
    settings_in,
    settings_out,
    signed,
    varint,
)
from sinefield.compress.quantize import Codebook, Quantiser, Uniform, decode_uniform
from sinefield.errors import SinefieldError

MAGIC = b"SINE"
VERSION = 1
KINDS = {"shape": 1, "radiance": 2, "image": 3, "adapter": 4, "shapes": 5}
BOXLESS = {"image", "adapter", "shapes"}
MAX_FILE = 256 << 20
MAX_SIDE = 16384  # pixels of the orbit's own pictures, and of an image
MAX_NUMBERS = 1 << 26
MAX_EDITED = 1 << 24
NUMBERS_A_BYTE = 64
"""A file holds at most so many tensor entries a byte: more than any real one, and a bound on what a lie can take."""


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
        kind: "shape", "radiance", "image", "shapes" or "adapter".
        settings: the field's configuration, complete; of an adapter its layers, see `adapter_table`.
        box: (6,) float64, world or input units; None for an image, an adapter or a field of many shapes.
        tensors: by the parameter's name, in the order of the network.
        background: (3,) of 0 … 1, radiance only.
        cells: (levels · n, n, n) bool, of a radiance field the occupied cells, of an edit of one those that change.
        view: (11,) float32, the orbit of a radiance field; see `cameras.orbits.Orbit`.
        frame: (15,) float32, `RadianceField.frame`, where the field's space is not "box".
        size: width and height, image only.
        note: provenance; any JSON object.
        sizes: bytes by part of the file.
    """

    kind: str
    settings: dict[str, Any]
    box: np.ndarray | None
    tensors: dict[str, Coded]
    background: np.ndarray | None = None
    cells: np.ndarray | None = None
    view: np.ndarray | None = None
    frame: np.ndarray | None = None
    size: tuple[int, int] | None = None
    note: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, float] = field(default_factory=dict)


def encode(packed: Packed) -> bytes:
    """The file's bytes; sets `bytes` of each tensor and `sizes`."""
    head = bytearray([KINDS[packed.kind]])
    head += table_out(packed.settings) if packed.kind == "adapter" else settings_out(packed.kind, packed.settings)
    if packed.kind == "image":
        head += varint(packed.size[0]) + varint(packed.size[1])
    elif packed.kind not in BOXLESS:
        head += box_out(packed.box)
    if packed.kind == "radiance":
        head += bytes(np.round(np.asarray(packed.background) * 255).astype(np.uint8))
        head += np.asarray(packed.view, "<f4").tobytes()
        if packed.settings["space"] != "box":
            head += np.asarray(packed.frame, "<f4").tobytes()
    note = note_out(packed.note)
    head += varint(len(note)) + note
    encoder = Encoder()
    tables = bytearray()
    for name, coded in packed.tensors.items():
        row, bits = _tensor_out(coded, encoder, octaves(packed.kind, name, packed.settings.get("frequencies", 0)))
        coded.bytes = len(row) + bits / 8
        tables += row
    grid = b"" if packed.cells is None else encode_grid(encoder, packed.cells)
    payload = encoder.finish()
    body = bytes(head) + bytes(tables) + grid + payload
    data = MAGIC + bytes([VERSION]) + struct.pack("<I", zlib.crc32(body)) + body
    tensors = sum(coded.bytes for coded in packed.tensors.values())
    packed.sizes = {"header": 9 + len(head) - len(note), "note": len(note), "tensors": tensors}
    packed.sizes["grid"] = 0.0 if packed.cells is None else len(data) - 9 - len(head) - tensors
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
            return _decode_body(Reader(data[9:]), shapes, where, len(data))
    except SinefieldError as error:
        raise SinefieldError(str(error) if str(error).startswith(where) else f"{where}: {error}") from error
    except (ValueError, KeyError, IndexError, struct.error, zlib.error, OverflowError, RecursionError) as error:
        # The checksum held, so somebody wrote it like this.
        raise SinefieldError(f"{where}: is not a proper .sine file ({error}); make it again") from error


def _decode_body(reader: "Reader", shapes, where: str, length: int) -> Packed:
    kind = {number: name for name, number in KINDS.items()}.get(reader.byte())
    if kind is None:
        raise SinefieldError(f"{where}: holds an unknown kind of field; update sinefield")
    settings = table_in(reader) if kind == "adapter" else settings_in(kind, reader)
    box = background = view = frame = size = None
    if kind == "image":
        size = reader.varint(MAX_SIDE), reader.varint(MAX_SIDE)
        if not all(size):
            raise ValueError("its image has no pixels")
    elif kind not in BOXLESS:
        box = box_in(reader)
    if kind == "radiance":
        background = np.frombuffer(reader.take(3), np.uint8).astype(np.float32) / np.float32(255)
        view = np.frombuffer(reader.take(44), "<f4").astype(np.float32)
        sound = np.isfinite(view).all() and view[3:6].any() and view[6] > 0 and abs(view[7]) < 90
        if not sound or not (view[9:] >= 1).all() or not (view[9:] <= MAX_SIDE).all():
            raise SinefieldError(f"{where}: its camera path cannot be flown; make it again")
        if settings["space"] != "box":
            frame = np.frombuffer(reader.take(60), "<f4").astype(np.float32)
            if not (np.abs(frame) < 1e9).all() or not (frame[12:14] > 0).all() or frame[14] < 0:
                raise ValueError("its frame is no camera's")
    note = note_in(reader.take(reader.varint(MAX_NOTE)))
    expected = shapes(kind, settings)
    numbers = sum(math.prod(shape) for shape in expected.values())
    grid = _grid_of(kind, settings)
    cells = 0 if grid is None else math.prod(grid)
    few = MAX_EDITED if kind == "adapter" else 1 << 18  # of an edit the base has the cells, few of which change
    if numbers > min(MAX_NUMBERS, NUMBERS_A_BYTE * length) or cells > max(few, 256 * length):
        raise SinefieldError(
            f"{where}: claims {numbers:,} numbers and {cells:,} cells in {length:,} bytes; it is no proper .sine file"
        )
    heads = {
        name: _tensor_in(reader, shape, octaves(kind, name, settings.get("frequencies", 0)))
        for name, shape in expected.items()
    }
    table = b"" if grid is None else reader.take(CONTEXTS)
    decoder = Decoder(reader.rest(), where)
    tensors = {name: head(decoder) for name, head in heads.items()}
    occupied = None if grid is None else decode_grid(decoder, grid, table)
    decoder.finish()
    return Packed(kind, settings, box, tensors, background, occupied, view, frame, size, note)


def _grid_of(kind: str, settings: dict[str, Any]) -> tuple[int, int, int] | None:
    """Shape of the block of cells at a file's end, where it has one."""
    if kind == "radiance":
        return settings["grid_levels"] * settings["grid"], settings["grid"], settings["grid"]
    changed = settings["edit"]["grid"] if kind == "adapter" and "edit" in settings else None
    return None if changed is None else (*changed, changed[1])


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
        form, row = _CODEBOOK, varint(len(entries)) + entries.tobytes()
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
        row = signed(low) + varint(n - 1) + (varint(centre) + bytes([slope, bend]) if n > 1 else b"")
        return cls(symbols, frequencies(n, centre, slope, bend), row, bits)


def _tensor_in(reader: Reader, shape: tuple[int, ...], groups: list[np.ndarray]):
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


def octaves(kind: str, name: str, n: int) -> list[np.ndarray]:
    """The columns of a weight that sees the encoding with `n` frequencies, by octave; [] for a field's other tensors.

    Bare coordinates come first, then sine and cosine of each frequency. Entries of one octave are about alike, those of
    different ones are not.
    """
    if n == 0 or name not in ("network.weights.0.weight", "trunk.weights.0.weight"):
        return []
    d = 2 if kind == "image" else 3
    axes = np.arange(d)
    return [axes] + [np.concatenate([d + d * i + axes, d + d * (n + i) + axes]) for i in range(n)]


def _bf16_bytes(values: Tensor) -> bytes:
    return values.reshape(-1).to(torch.bfloat16).view(torch.int16).numpy().astype("<i2").tobytes()


def _bf16_values(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, "<i2").astype(np.int16)).view(torch.bfloat16).float()
