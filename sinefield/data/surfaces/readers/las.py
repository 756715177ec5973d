"""LAS and LAZ scans, coordinates scaled in double precision.

The header and plain points are read here; lazrs, where it is installed, unpacks packed ones once every number that it
would trust is checked: a general reader loops and allocates as a damaged header says.
"""

import contextlib
import io
import struct
from typing import NamedTuple

import numpy as np

from sinefield.data.surfaces.parts import Part, ShapeFile
from sinefield.data.surfaces.readers.colours import bytes_of
from sinefield.data.surfaces.readers.source import READERS, Source

COLOURS = {2: 20, 3: 28, 5: 28, 7: 30, 8: 30, 10: 30}
"""Where the colours of a point are, by its form."""
SIZES = {0: 20, 1: 28, 2: 26, 3: 34, 4: 57, 5: 63, 6: 30, 7: 36, 8: 38, 9: 59, 10: 67}
"""Bytes of a point, by its form; there may be more."""
GROWTH = 100
"""Bytes of points for each packed one: flat and regular scans come to 40."""
LASZIP = 22204
MAX_CHUNK = 50_000_000
"""Points that may be packed together; 50,000 are usual."""
UNKNOWN = 2**32 - 1
LAYERS = {10: 9, 11: 1, 12: 2, 13: 1}
"""Layers of the kinds of packed items; further bytes have one each."""


class Header(NamedTuple):
    """Where the points are, and what their whole numbers mean."""

    offset: int
    form: int
    size: int
    count: int
    scales: np.ndarray
    origin: np.ndarray
    packed: bool


def read_las(source: Source) -> ShapeFile:
    """Points with the colours they have; raises SinefieldError for what is no LAS or LAZ file."""
    head = _header(source)
    if head.packed:
        table = _unpacked(source, head)
    else:
        source.claims(f"{head.count:,} points", head.offset + head.count * head.size)
        table = np.frombuffer(source.data, np.uint8, head.count * head.size, head.offset)
    table = table.reshape(head.count, head.size)
    whole = np.ascontiguousarray(table[:, :12]).view("<i4")
    points = whole.astype(np.float64) * head.scales + head.origin
    colours = None
    if (at := COLOURS.get(head.form)) is not None:
        own = np.ascontiguousarray(table[:, at : at + 6]).view("<u2")
        colours = bytes_of(own) if own.any() else None  # a form that has colours, and none in it
    return ShapeFile([Part("", points, None, None, None, colours)], None, source.notes)


def _header(source: Source) -> Header:
    data = source.data
    if data[:4] != b"LASF" or len(data) < 227:
        raise source.wrong("has no LAS header")
    offset, _, form, size, count = struct.unpack("<IIBHI", data[96:111])
    if data[25] >= 4 and len(data) >= 375:
        count = struct.unpack("<Q", data[247:255])[0] or count
    packed, form = bool(form & 0x80), form & 0x3F
    if form not in SIZES or size < SIZES[form] or not 227 <= offset <= len(data):
        raise source.wrong(f"has points of form {form} and {size} bytes")
    source.check_points(count)
    if not count:
        raise source.wrong("holds no points")
    numbers = np.frombuffer(data, "<f8", 6, 131)
    return Header(offset, form, size, count, numbers[:3], numbers[3:], packed)


def _unpacked(source: Source, head: Header) -> np.ndarray:
    """The bytes of packed points."""
    try:
        import lazrs
    except ImportError as error:
        raise source.wrong("its points are packed (LAZ)", f"{READERS}, or save it as .las") from error
    record = _record(source, head)
    _check_record(source, head, record)
    room = (len(source.data) - head.offset) * GROWTH
    if head.count * head.size > room:
        raise source.wrong(f"its header claims {head.count:,} points in {len(source.data) - head.offset:,} bytes")
    found = np.zeros(head.count * head.size, np.uint8)
    stream = io.BytesIO(source.data)
    stream.seek(head.offset)
    try:
        with contextlib.closing(stream):
            lazrs.LasZipDecompressor(stream, record).decompress_many(found)
    except MemoryError:
        raise
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            raise
        # What the decoder raises on damage is no Exception where it gives up altogether.
        raise source.wrong(f"its packed points are damaged ({str(error)[:60]})") from error
    return found


def _record(source: Source, head: Header) -> bytes:
    """What the file says of how its points are packed."""
    data = source.data
    at, count = struct.unpack("<H", data[94:96])[0], struct.unpack("<I", data[100:104])[0]
    for _ in range(count):
        if at + 54 > head.offset:
            break
        number, size = struct.unpack("<HH", data[at + 18 : at + 22])
        if number == LASZIP and data[at + 2 : at + 18].startswith(b"laszip encoded"):
            return data[at + 54 : at + 54 + size]
        at += 54 + size
    raise source.wrong("does not say how its points are packed")


def _check_record(source: Source, head: Header, record: bytes) -> None:
    """Refuse a record, or a table of packed chunks, that claims more than the points can be."""
    if len(record) < 34:
        raise source.wrong("does not say how its points are packed")
    compressor, _ = struct.unpack("<HH", record[:4])
    (chunk,) = struct.unpack("<I", record[12:16])
    (items,) = struct.unpack("<H", record[32:34])
    sizes = [struct.unpack("<H", record[36 + 6 * i : 38 + 6 * i])[0] for i in range(items) if len(record) >= 40 + 6 * i]
    if compressor not in (1, 2, 3) or len(sizes) != items or sum(sizes) != head.size:
        raise source.wrong("says nothing sensible of how its points are packed")
    if not chunk or (chunk > MAX_CHUNK and chunk != UNKNOWN):
        raise source.wrong(f"has {chunk:,} points packed together")
    data = source.data
    if compressor == 1 or head.offset + 8 > len(data):
        return
    (table,) = struct.unpack("<q", data[head.offset : head.offset + 8])
    if table == -1:
        (table,) = struct.unpack("<q", data[-8:])
    if not head.offset + 8 <= table <= len(data) - 8:
        raise source.wrong("its table of packed chunks is not there")
    (chunks,) = struct.unpack("<I", data[table + 4 : table + 8])
    if chunks > head.count or chunks > len(data):
        raise source.wrong(f"its table claims {chunks:,} packed chunks")
    if compressor == 3:
        kinds = [struct.unpack("<H", record[34 + 6 * i : 36 + 6 * i])[0] for i in range(items)]
        _check_layers(source, head, sum(LAYERS.get(k, size) for k, size in zip(kinds, sizes, strict=True)), table)


def _check_layers(source: Source, head: Header, layers: int, end: int) -> None:
    """Refuse chunks whose layers claim other sizes than those between the first chunk and `end`: the decoder makes
    room for each as it says."""
    data, at = source.data, head.offset + 8
    while at < end:
        start = at + head.size + 4
        at = start + 4 * layers
        if at > end:
            break
        at += sum(struct.unpack(f"<{layers}I", data[start : start + 4 * layers]))
    if at != end:
        raise source.wrong("its packed points have sizes that do not fit together")
