"""The numbers in a glTF file: chunks, buffers, views and accessors, packed ones too, each checked before it is made."""

import base64
import struct
from functools import cached_property
from typing import Any
from urllib.parse import unquote

import numpy as np

from sinefield.data.surfaces.readers.source import MAX_FACES, READERS, Source
from sinefield.json_text import from_json

COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
MESHOPT, DRACO = "EXT_meshopt_compression", "KHR_draco_mesh_compression"
MESHOPT_GROWTH = 72
"""Bytes from each packed one, at most: 16 equal ones need two bits."""
DRACO_GROWTH = 80
"""Faces or points for each packed byte, at most: a flat grid of a million has 68."""
DRACO_SMALL = 1 << 16
"""Faces or points that any packed mesh may have."""


class Document:
    """A glTF file's tree with what its numbers refer to; everything raises SinefieldError, or nearly anything where
    the tree is damaged."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.chunk: bytes | None = None
        self.tree: dict[str, Any] = self._tree()
        self._views: dict[int, tuple[bytes, int]] = {}
        self._arrays: dict[int, np.ndarray] = {}
        self._draco: dict[int, Any] = {}

    def _tree(self) -> dict[str, Any]:
        text = self.source.data
        if text[:4] == b"glTF":
            text = self._chunks()
        elif self.source.path.suffix.lower() == ".glb" and text.lstrip()[:1] != b"{":
            raise self.source.wrong("has no GLB header")
        tree = from_json(text)
        if not isinstance(tree, dict):
            raise self.source.wrong("holds no glTF tree")
        return tree

    def _chunks(self) -> bytes:
        source, data = self.source, self.source.data
        if len(data) < 20:
            raise source.wrong("has no GLB header")
        version, length, first, kind = struct.unpack("<III4s", data[4:20])
        if version != 2:
            raise source.wrong(f"is glTF {version}.0", "convert it to glTF 2.0")
        source.claims(f"{length:,} bytes", max(length, 20 + first))
        if kind != b"JSON":
            raise source.wrong("has no GLB header with a tree")
        at = 20 + first
        while at + 8 <= len(data):
            size, kind = struct.unpack("<I4s", data[at : at + 8])
            source.claims(f"a part of {size:,} bytes", at + 8 + size)
            if kind == b"BIN\0" and self.chunk is None:
                self.chunk = data[at + 8 : at + 8 + size]
            at += 8 + size
        return data[20 : 20 + first]

    def item(self, kind: str, number: Any) -> dict[str, Any]:
        """One of a list of the tree; raises SinefieldError where there is none of that number."""
        held = self.tree.get(kind) or []
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(held):
            raise self.source.wrong(f"refers to number {number!r:.20} of its {len(held)} {kind}")
        if not isinstance(held[number], dict):
            raise self.source.wrong(f"number {number} of its {kind} is none")
        return held[number]

    def whole(self, item: dict[str, Any], key: str, default: int | None = None) -> int:
        """A number that is whole and not below 0."""
        value = item.get(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.source.wrong(f"has {value!r:.20} as a {key}")
        return value

    # ---- bytes

    @cached_property
    def _buffers(self) -> list[bytes | None]:
        return [None] * len(self.tree.get("buffers") or [])

    def buffer(self, number: Any) -> bytes:
        """A buffer's bytes: from the file, a data URI or a file beside it."""
        item = self.item("buffers", number)
        held = self._buffers[number]
        if held is None:
            uri = item.get("uri")
            if uri is None and number == 0 and self.chunk is not None:
                held = self.chunk
            elif isinstance(uri, str):
                held = self.linked(uri)
                if held is None:
                    raise self.source.wrong(
                        f"its buffer {uri[:80]!r} is missing", "put that file beside it, or export a GLB"
                    )
            else:
                raise self.source.wrong(f"its buffer {number} has no data")
            self._buffers[number] = held
        size = self.whole(item, "byteLength", len(held))
        if size > len(held):
            raise self.source.wrong(f"its buffer {number} claims {size:,} bytes, {len(held):,} are there")
        return held

    def linked(self, uri: str) -> bytes | None:
        """What a URI holds: its own data, or the file beside; None where there is no such file."""
        if uri[:5].lower() == "data:":
            head, _, body = uri.partition(",")
            if head.endswith(";base64"):
                return base64.b64decode(body)
            return unquote(body).encode("latin-1")
        return self.source.beside(unquote(uri))

    def view(self, number: Any) -> tuple[bytes, int]:
        """A view's bytes, unpacked where they are packed, and the step between its elements (0: none said)."""
        if number not in self._views:
            item = self.item("bufferViews", number)
            extension = (item.get("extensions") or {}).get(MESHOPT)
            if extension is not None:
                self._views[number] = self._unpacked(extension), self.whole(extension, "byteStride")
            else:
                self._views[number] = self._slice(item), self.whole(item, "byteStride", 0)
        return self._views[number]

    def _slice(self, item: dict[str, Any]) -> bytes:
        data = self.buffer(item.get("buffer"))
        start, size = self.whole(item, "byteOffset", 0), self.whole(item, "byteLength")
        if start + size > len(data):
            raise self.source.wrong(f"a view claims bytes up to {start + size:,} of a buffer of {len(data):,}")
        return data[start : start + size]

    def _unpacked(self, extension: dict[str, Any]) -> bytes:
        """A view packed by meshoptimizer."""
        try:
            from meshoptimizer import _loader
        except ImportError as error:
            raise self.source.wrong(
                f"needs {MESHOPT}", "pip install 'sinefield[meshopt]', or export without"
            ) from error
        data = self._slice(extension)
        count, step = self.whole(extension, "count"), self.whole(extension, "byteStride")
        mode, filtered = str(extension.get("mode")), str(extension.get("filter", "NONE"))
        sizes = {"ATTRIBUTES": range(4, 257, 4), "TRIANGLES": (2, 4), "INDICES": (2, 4)}
        decoders = {"ATTRIBUTES": "Vertex", "TRIANGLES": "Index", "INDICES": "Index"}
        steps = {"NONE": range(257), "OCTAHEDRAL": (4, 8), "QUATERNION": (8,), "EXPONENTIAL": range(4, 257, 4)}
        if step not in sizes.get(mode, ()) or step not in steps.get(filtered, ()):
            raise self.source.wrong(f"has {MESHOPT} of mode {mode!r:.20}, filter {filtered!r:.20}, step {step}")
        if count * step > MESHOPT_GROWTH * len(data) + 256 or (mode == "TRIANGLES" and count % 3):
            raise self.source.wrong(f"has {count:,} packed elements in {len(data):,} bytes")
        packed, found = np.frombuffer(data, np.uint8), np.zeros(count * step, np.uint8)
        decode = getattr(_loader.lib, f"meshopt_decode{decoders[mode]}{'Sequence' if mode == 'INDICES' else 'Buffer'}")
        pointer = packed.ctypes.data_as(decode.argtypes[3])
        if count and decode(found.ctypes.data_as(decode.argtypes[0]), count, step, pointer, len(packed)) != 0:
            raise self.source.wrong(f"its {MESHOPT} is damaged")
        return _filtered(found, count, step, filtered).tobytes()

    # ---- arrays

    def array(self, number: Any) -> np.ndarray:
        """(count, width) of an accessor: float64 where it has floats or normalised numbers, else int64."""
        if number not in self._arrays:
            self._arrays[number] = self._array(self.item("accessors", number))
        return self._arrays[number]

    def _array(self, item: dict[str, Any]) -> np.ndarray:
        kind, width = COMPONENTS.get(item.get("componentType", 0)), WIDTHS.get(item.get("type", ""))
        if kind is None or width is None:
            raise self.source.wrong(f"has numbers of an unknown type ({item.get('componentType')!r:.20})")
        count, dtype = self.whole(item, "count"), np.dtype(kind)
        sparse = item.get("sparse")
        if item.get("bufferView") is None:
            self.source.claims(f"{count:,} numbers without data", count)
            found = np.zeros((count, width), dtype)
        else:
            found = self._elements(item, item["bufferView"], count, width, dtype)
        if sparse is not None:
            found = found.copy()
            number = self.whole(sparse, "count")
            where = self._elements(sparse["indices"], sparse["indices"]["bufferView"], number, 1,
                                   np.dtype(COMPONENTS[sparse["indices"]["componentType"]]))  # fmt: skip
            if number and int(where.max()) >= count:
                raise self.source.wrong(f"replaces number {int(where.max())} of {count}")
            found[where[:, 0].astype(np.int64)] = self._elements(
                sparse["values"], sparse["values"]["bufferView"], number, width, dtype
            )
        return _scaled(found, bool(item.get("normalized")))

    def _elements(self, item: dict[str, Any], view: Any, count: int, width: int, dtype: np.dtype) -> np.ndarray:
        data, step = self.view(view)
        size = width * dtype.itemsize
        start, step = self.whole(item, "byteOffset", 0), step or size
        if step < size or start + (count - 1) * step + size > len(data):
            if count:
                raise self.source.wrong(f"claims {count:,} numbers, which its {len(data):,} bytes cannot hold")
            return np.zeros((0, width), dtype)
        return np.ndarray((count, width), dtype, data, start, (step, dtype.itemsize))

    def draco(self, number: Any) -> Any:
        """A mesh packed by Draco: an object with faces and attributes."""
        if number not in self._draco:
            data = self.view(number)[0]
            self._check_draco(data)
            try:
                import DracoPy
            except ImportError as error:
                raise self.source.wrong(f"needs {DRACO}", f"{READERS}, or export without Draco") from error
            try:
                self._draco[number] = DracoPy.decode(data)
            except MemoryError:
                raise
            except Exception as error:
                raise self.source.wrong(f"its {DRACO} is damaged ({str(error)[:60]})") from error
        return self._draco[number]

    def _check_draco(self, data: bytes) -> None:
        """Refuse what claims more faces or points than such data can hold: the decoder makes room for them at once."""
        if data[:5] != b"DRACO" or len(data) < 14:
            raise self.source.wrong(f"its {DRACO} is no Draco data")
        mesh, method, flags = data[7] == 1, data[8], data[9] | data[10] << 8
        if (data[5], data[6]) != (2, 2):
            raise self.source.wrong(f"its {DRACO} is of version {data[5]}.{data[6]}", "export it anew")
        if flags & 0x8000 or not mesh:
            raise self.source.wrong(f"its {DRACO} has {'metadata' if mesh else 'points'}", "export without Draco")
        at = 12 if method == 1 else 11
        for _ in range(2):
            value, shift = 0, 0
            while at < len(data) and shift < 63:
                value |= (data[at] & 127) << shift
                shift, at = shift + 7, at + 1
                if not data[at - 1] & 128:
                    break
            if value > min(MAX_FACES, max(DRACO_SMALL, DRACO_GROWTH * len(data))):
                raise self.source.wrong(f"its {DRACO} claims {value:,} faces or points in {len(data):,} bytes")


def _scaled(found: np.ndarray, normalised: bool) -> np.ndarray:
    kind = found.dtype
    if kind.kind == "f":
        return found.astype(np.float64)
    if not normalised:
        return found.astype(np.int64)
    values = found / np.float64(np.iinfo(kind).max)
    return np.maximum(values, -1.0) if kind.kind == "i" else values


def _filtered(found: np.ndarray, count: int, step: int, kind: str) -> np.ndarray:
    """What the filters of EXT_meshopt_compression leave: only exponents matter here, the others are of directions."""
    if kind != "EXPONENTIAL":
        return found
    words = found.view("<i4")
    return np.ldexp((words << 8 >> 8).astype(np.float64), words >> 24).astype("<f4").view(np.uint8)
