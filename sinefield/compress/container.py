"""The `.sine` file: a field's settings, box and coded tensors in as few bytes as they take, or an adapter's layers and
tensors. docs/format.md is its text.

Everything a file claims is checked before anything of its size is made. Reading needs NumPy alone.
"""

import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sinefield.compress.adapter_table import table_in, table_out
from sinefield.compress.entropy import Decoder, Encoder
from sinefield.compress.grid import (
    CELLS_A_BYTE,
    CHANGED_A_BYTE,
    CONTEXTS,
    Extent,
    Shape,
    check_work,
    decode_grid,
    encode_grid,
    extent_in,
    extent_of,
    extent_out,
    sides_of,
    slices_of,
)
from sinefield.compress.note import MAX_NOTE, note_in, note_out
from sinefield.compress.parts import READ, WRITE, parts_of
from sinefield.compress.reader import NAMED, Reader, name, varint
from sinefield.compress.settings import settings_in, settings_out
from sinefield.compress.tensors import Coded, check_levels, octaves, row_out, rows_in
from sinefield.errors import SinefieldError

MAGIC = b"SINE"
VERSION = 2
KINDS = {"shape": 1, "radiance": 2, "image": 3, "adapter": 4, "shapes": 5, "mesh": 6, "code": 7}
"""Kinds with a number; a code is no field, but what makes one of its base. Any other kind is written by its name, its
settings as plain data, what else it has as arrays."""
HEAD = 9  # bytes before the kind
MAX_FILE = 256 << 20
MAX_NUMBERS = 1 << 26
MAX_CELLS = 1 << 24
NUMBERS_A_BYTE = 64
"""A file holds at most so many tensor entries a byte: more than any real one, and a bound on what a lie can take."""
Shapes = dict[str, tuple[int, ...]]


@dataclass
class Packed:
    """What a `.sine` file holds. `parts.parts_of` says which of the optional parts a kind has; the others are None.

    Attributes:
        kind: "shape", "radiance", "image", "shapes", "adapter", "mesh", "code", or the name of a registered kind.
        settings: the field's configuration, complete; of an adapter its layers, see `adapter_table`.
        box: (6,) float64, world or input units; see `parts.BOX`.
        tensors: by the parameter's name, in the order of the network.
        background: (3,) of 0 … 1.
        cells: (levels · n, n, n) bool, of a radiance field the occupied cells, of an edit of one those that change.
        view: (11,) float32, the orbit of a radiance field; see `parts.ORBIT`.
        frame: (15,) float32, `RadianceField.frame`, where the field's space is not "box"; see `parts.FRAME`.
        size: width and height of an image.
        code: bytes of a mesh, see `mesh_code`, or of a shape of a set, see `code`.
        note: provenance; plain data.
        arrays: by name, float32, float64, int64 or bool: what else a registered kind needs to be rebuilt.
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
    code: bytes | None = None
    note: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    sizes: dict[str, float] = field(default_factory=dict)


# ---- writing


def encode(packed: Packed) -> bytes:
    """The file's bytes; sets `bytes` of each tensor and `sizes`.

    Raises:
        SinefieldError: a setting, note or array that no file can hold, or steps too fine for one.
    """
    try:
        return _encode(packed)
    except (ValueError, OverflowError, struct.error) as error:
        raise SinefieldError(f"a {packed.kind} field cannot be put into a .sine file: {error}") from error


def _encode(packed: Packed) -> bytes:
    head, note = _head_out(packed), note_out(packed.note)
    encoder, rows, levels = Encoder(), bytearray(), 0
    for key, coded in packed.tensors.items():
        row, n = row_out(coded, encoder, octaves(packed.kind, key, packed.settings))
        rows, levels = rows + row, levels + n
    extent, grid = None, b""
    if packed.cells is not None:
        extent = _extent_of(packed.kind, packed.cells)
        grid = _grid_out(packed.kind, packed.cells, extent, encoder)
    body = b"".join((head, varint(len(note)), note, rows, grid, encoder.finish()))
    data = MAGIC + bytes([VERSION]) + struct.pack("<I", zlib.crc32(body)) + body
    check_levels(levels, len(data))
    if extent is not None:
        _check_work(packed.kind, extent, len(data))
    code = len(packed.code or b"")
    header = HEAD + len(head) - code + len(varint(len(note)))
    tensors = sum(coded.bytes for coded in packed.tensors.values())
    packed.sizes = {"header": header, "note": len(note), "tensors": tensors}
    packed.sizes["code"] = code
    packed.sizes["grid"] = 0.0 if packed.cells is None else len(data) - header - len(note) - tensors
    packed.sizes["total"] = len(data)
    return data


def _head_out(packed: Packed) -> bytes:
    """Kind, settings or layers, and the kind's parts."""
    kind, settings = packed.kind, packed.settings
    head = bytes([KINDS[kind]]) if kind in KINDS else bytes([NAMED]) + name(kind)
    head += table_out(settings) if kind == "adapter" else settings_out(kind, settings)
    return head + b"".join(WRITE[part](getattr(packed, part)) for part in parts_of(kind, settings))


def _extent_of(kind: str, cells: np.ndarray) -> Extent:
    """The block of cells that is coded: of an edit the smallest that holds all cells that change."""
    return extent_of(cells) if kind == "adapter" else [(0, side) for side in cells.shape]


def _grid_out(kind: str, cells: np.ndarray, extent: Extent, encoder: Encoder) -> bytes:
    contexts = encode_grid(encoder, cells[slices_of(extent)])
    return (extent_out(extent) if kind == "adapter" else b"") + contexts


# ---- reading


def decode(data: bytes, shapes: Callable[[str, dict[str, Any]], Shapes], where: str) -> Packed:
    """Read a file's bytes, of this version or an older one.

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
    version = data[4]
    if not 1 <= version <= VERSION:
        raise SinefieldError(f"{where}: is of version {version}, this is for version {VERSION}; update sinefield")
    if len(data) <= HEAD or zlib.crc32(data[HEAD:]) != struct.unpack("<I", data[5:HEAD])[0]:
        raise SinefieldError(f"{where}: its checksum is wrong: damaged or cut short; copy the file again")
    try:
        with np.errstate(all="ignore"):  # numpy warns of odd numbers that are refused by value later
            return _decode_body(Reader(data[HEAD:], version), shapes, where)
    except SinefieldError as error:
        raise SinefieldError(str(error) if str(error).startswith(where) else f"{where}: {error}") from error
    except (ValueError, KeyError, IndexError, struct.error, zlib.error, OverflowError, RecursionError) as error:
        # The checksum held, so somebody wrote it like this.
        raise SinefieldError(f"{where}: is not a proper .sine file ({error}); make it again") from error


def _decode_body(reader: Reader, shapes: Callable[[str, dict[str, Any]], Shapes], where: str) -> Packed:
    length = HEAD + reader.left
    kind = _kind_in(reader)
    settings = table_in(reader) if kind == "adapter" else settings_in(kind, reader)
    parts = {part: READ[part](reader) for part in parts_of(kind, settings)}
    note = note_in(reader.take(reader.varint(MAX_NOTE)), reader.version)
    expected = shapes(kind, settings)
    grid = _grid_of(kind, settings)
    _check_claims(expected, grid, length)
    rows = rows_in(reader, {key: (shape, octaves(kind, key, settings)) for key, shape in expected.items()}, length)
    extent = None if grid is None else _extent_in(reader, kind, grid, length)
    contexts = b"" if grid is None else reader.take(CONTEXTS)
    decoder = Decoder(reader.rest(), where)
    tensors = {key: row.take(decoder) for key, row in rows.items()}
    cells = None if grid is None or extent is None else _cells_in(decoder, grid, extent, contexts)
    decoder.finish()
    return Packed(kind, settings, tensors=tensors, cells=cells, note=note, **{"box": None, **parts})


def _kind_in(reader: Reader) -> str:
    number = reader.byte()
    if number == NAMED and reader.version > 1:
        kind = reader.name()
        if kind in KINDS:
            raise ValueError(f"its kind {kind} has a number, which is to be used")
        return kind
    known = {number: kind for kind, number in KINDS.items()}
    if number not in known:
        raise SinefieldError("holds an unknown kind of field; update sinefield")
    return known[number]


def _check_claims(expected: Shapes, grid: Shape | None, length: int) -> None:
    numbers = sum(math.prod(shape) for shape in expected.values())
    cells = 0 if grid is None else math.prod(grid)
    if numbers > min(MAX_NUMBERS, NUMBERS_A_BYTE * length) or cells > max(MAX_CELLS, CELLS_A_BYTE * length):
        raise SinefieldError(
            f"claims {numbers:,} numbers and {cells:,} cells in {length:,} bytes; it is no proper .sine file"
        )


def _grid_of(kind: str, settings: dict[str, Any]) -> Shape | None:
    """Shape of the block of cells at a file's end, where it has one."""
    if kind == "radiance":
        return settings["grid_levels"] * settings["grid"], settings["grid"], settings["grid"]
    changed = settings["edit"]["grid"] if kind == "adapter" and "edit" in settings else None
    return None if changed is None else (*changed, changed[1])


def _extent_in(reader: Reader, kind: str, grid: Shape, length: int) -> Extent:
    """The block of cells that is coded; in version 1 an edit, too, codes its whole grid."""
    partial = kind == "adapter" and reader.version > 1
    extent = extent_in(reader, grid) if partial else [(0, side) for side in grid]
    _check_work(kind, extent, length)
    return extent


def _check_work(kind: str, extent: Extent, length: int) -> None:
    check_work(sides_of(extent), length, CHANGED_A_BYTE if kind == "adapter" else CELLS_A_BYTE)


def _cells_in(decoder: Decoder, grid: Shape, extent: Extent, contexts: bytes) -> np.ndarray:
    coded = decode_grid(decoder, sides_of(extent), contexts)
    if coded.shape == grid:
        return coded
    cells = np.zeros(grid, bool)
    cells[slices_of(extent)] = coded
    return cells
