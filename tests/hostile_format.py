"""What tests/hostile.py needs to know of a kind of file, and what several kinds share."""

import io
import struct
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

Example = dict[str, bytes]
"""A folder's files."""


def _whole(good: list[bytes]) -> list[bytes]:
    return good


def _as_is(data: bytes, rng: Random) -> bytes:
    return data


def _nothing() -> None:
    """A named function: formats go to other processes by pickle."""


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        examples: sound folders.
        damaged: the files in them that are damaged, one a try.
        load: reads a folder.
        words: what stands in such files and may stand in the wrong place.
        open: files as the bytes to damage, where a checksum or compression would hide what lies behind it.
        mend: the damaged bytes as a file again.
        prepare: what a process does before it is watched: compile, import.
        make: a whole folder for a try; examples are then not needed.
        bounded: the bounds of docs/reliability.md on what a file of some size may cost are held against each try.
    """

    name: str
    examples: list[Example]
    damaged: list[str]
    load: Callable[[Path], object]
    words: list[bytes]
    open: Callable[[list[bytes]], list[bytes]] = _whole
    mend: Callable[[bytes, Random], bytes] = _as_is
    prepare: Callable[[], object] = _nothing
    make: Callable[[Random], Example] | None = None
    bounded: bool = False


def words_of(text: str) -> list[bytes]:
    return [word.encode() for word in text.split()]


def folder_of(*writers: Callable[[Path], object]) -> Example:
    with tempfile.TemporaryDirectory() as made:
        for write in writers:
            write(Path(made))
        return {str(file.relative_to(made)): file.read_bytes() for file in Path(made).rglob("*") if file.is_file()}


def opened_zip(good: list[bytes]) -> list[bytes]:
    """Members one after another, uncompressed: name, zero byte, length, content."""
    found = []
    for file in good:
        with zipfile.ZipFile(io.BytesIO(file)) as archive:
            parts = [(n, archive.read(n)) for n in archive.namelist()]
        found.append(b"".join(n.encode() + b"\0" + struct.pack("<I", len(data)) + data for n, data in parts))
    return found


ZIPPED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)


def closed_zip(data: bytes, rng: Random, damaged: float = 0.5, kinds: tuple[int, ...] = ZIPPED) -> bytes:
    """The members as an archive whose checksums hold; or that archive damaged itself."""
    stream, at = io.BytesIO(), 0
    kind = rng.choice(kinds)
    with zipfile.ZipFile(stream, "w", kind) as archive:
        while (end := data.find(b"\0", at)) > 0 and len(data) - end > 5:
            (size,) = struct.unpack("<I", data[end + 1 : end + 5])
            name = data[at:end].decode("latin-1")[:1000]
            if name not in archive.namelist():
                archive.writestr(zipfile.ZipInfo(name), data[end + 5 :][:size], kind)
            at = end + 5 + size
    file = bytearray(stream.getvalue())
    if rng.random() < damaged:
        for _ in range(rng.choice((1, 2, 8))):
            at = rng.randrange(len(file))
            file[at : at + 4] = rng.choice((rng.randbytes(1), rng.randbytes(4), b"\xff\xff\xff\xff", b"\0\0\0\0"))
    return bytes(file)
