"""The head of a `.sine` file that holds an adapter: its layers and how each is stored. docs/format.md is its text."""

import struct
import zlib
from typing import Any

import numpy as np

from sinefield.compress.parts import box_in, box_out
from sinefield.compress.reader import Reader, choice, varint

ADAPTER_KINDS = ("sine", "lora", "sine-dora", "dora")
"""A kind's number in the file is its place here; only ever appended to."""
MAX_NAMES = 1 << 20  # bytes of all names
MAX_LAYERS = 1 << 16
MAX_SIDE = 1 << 20
EDITED = ("shape", "radiance", "image")
"""A field's number in an edit is its place here; only ever appended to."""
_TRANSPOSED = 1
_BOX, _GRID = 1, 2


def table_out(settings: dict[str, Any]) -> bytes:
    """`settings["targets"]`, by layer name: kind, rank, alpha, omega, transposed, rows, columns.

    Of an edit of a field also `settings["edit"]`: of (kind of field), base (its fingerprint), box ((6,) of the edited
    object, or None), grid (rows and side of the cells that changed, or None).
    """
    targets = settings["targets"]
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    names = squeezer.compress("\n".join(targets).encode()) + squeezer.flush()
    rows = [_form_out(target) for target in targets.values()]
    forms = list(dict.fromkeys(rows))
    edit = _edit_out(settings["edit"]) if settings.get("edit") else b""
    head = varint(len(names)) + names + edit + varint(len(forms)) + b"".join(forms)
    return head + b"".join(varint(forms.index(row)) for row in rows)


def table_in(reader: Reader) -> dict[str, Any]:
    """Inverse of `table_out`; raises ValueError for what no adapter can be."""
    opener = zlib.decompressobj(-15)
    text = opener.decompress(reader.take(reader.varint(MAX_NAMES)), MAX_NAMES)
    if not opener.eof or opener.unused_data:
        raise ValueError("its list of layers is damaged")
    if (count := text.count(b"\n") + 1) > min(MAX_LAYERS, reader.left):
        raise ValueError(f"it names {count:,} layers, at most {min(MAX_LAYERS, reader.left):,} can be")
    names = text.decode().split("\n")
    if len(set(names)) < len(names) or not all(name and name.isprintable() for name in names):
        raise ValueError("its list of layers has a name twice, or one that is none")
    count, edit = reader.varint(len(names)), {}
    if count == 0:  # no adapter has no form
        edit, count = {"edit": _edit_in(reader)}, reader.varint(len(names))
    forms = [_form_in(reader) for _ in range(count)]
    return {"targets": {name: forms[reader.varint(len(forms) - 1)] for name in names}, **edit}


def _edit_out(edit: dict[str, Any]) -> bytes:
    box, grid = edit["box"], edit["grid"]
    flags = (0 if box is None else _BOX) | (0 if grid is None else _GRID)
    head = b"\0" + choice(edit["of"], EDITED) + bytes([flags]) + struct.pack("<I", edit["base"])
    return head + (b"" if box is None else box_out(box)) + (b"" if grid is None else b"".join(map(varint, grid)))


def _edit_in(reader: Reader) -> dict[str, Any]:
    of, flags = reader.choice(EDITED), reader.byte()
    if flags & ~(_BOX | _GRID):
        raise ValueError(f"an edit has the unknown flags {flags}")
    (base,) = struct.unpack("<I", reader.take(4))
    box = box_in(reader) if flags & _BOX else None
    grid = (reader.varint(1 << 13), reader.varint(1 << 9)) if flags & _GRID else None
    if grid is not None and not all(grid):
        raise ValueError("an edit has a grid without cells")
    return {"of": of, "base": base, "box": box, "grid": grid}


def _form_out(target: dict[str, Any]) -> bytes:
    kind = ADAPTER_KINDS.index(target["kind"])
    omega = b"" if target["omega"] is None else struct.pack("<f", target["omega"])
    sides = varint(target["rows"]) + varint(target["columns"])
    head = bytes([kind, _TRANSPOSED if target["transposed"] else 0]) + varint(target["rank"])
    return head + struct.pack("<f", target["alpha"]) + omega + sides


def _form_in(reader: Reader) -> dict[str, Any]:
    kind, flags = reader.byte(), reader.byte()
    if kind >= len(ADAPTER_KINDS) or flags & ~_TRANSPOSED:
        raise ValueError(f"an adapter has the unknown kind {kind}, {flags}")
    name = ADAPTER_KINDS[kind]
    rank = reader.varint(MAX_SIDE)
    alpha = _number(reader)
    omega = _number(reader) if name.startswith("sine") else None
    rows, columns = reader.varint(MAX_SIDE), reader.varint(MAX_SIDE)
    if not 1 <= rank <= min(rows, columns):
        raise ValueError(f"an adapter has rank {rank} on {rows} × {columns}")
    return {
        **{"kind": name, "rank": rank, "alpha": alpha, "omega": omega, "transposed": bool(flags & _TRANSPOSED)},
        **{"rows": rows, "columns": columns},
    }


def _number(reader: Reader) -> float:
    value = float(str(np.frombuffer(reader.take(4), "<f4")[0]))  # 0.3 is to be 0.3 again
    if not 0 < value < float("inf"):
        raise ValueError(f"an adapter's alpha or omega is {value}")
    return value


def tensor_shapes(settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors, in their order: a, b and with DoRA the magnitude of each layer."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, target in settings["targets"].items():
        shapes[f"{name}.a"] = (target["rank"], target["columns"])
        shapes[f"{name}.b"] = (target["rows"], target["rank"])
        if target["kind"].endswith("dora"):
            shapes[f"{name}.magnitude"] = (target["rows"],)
    return shapes
