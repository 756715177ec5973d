"""A file in memory, and what every reader says of it: limits, refusals, notes, the files beside it."""

import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Int

from sinefield.errors import SinefieldError
from sinefield.files import read_bytes

MAX_FACES = 20_000_000
MAX_POINTS = 50_000_000
MAX_BYTES = 4 << 30
MAX_PARTS = 4096
"""More names than these make one part."""
MAX_RATIO = 200
"""Of unpacked bytes to packed ones: a mesh as text rarely has more than 20."""
SMALL = 16 << 20
"""Bytes that may be unpacked from anything."""
READERS = "pip install 'sinefield[readers]'"
"""What unpacks Draco and LAZ."""
AGAIN = "it is truncated or damaged; export it again"


@dataclass(eq=False)
class Source:
    """One file: where it lies, what is in it, and what there is to say of how it was read."""

    path: Path
    data: bytes
    notes: list[str] = field(default_factory=list)

    def wrong(self, what: str, remedy: str = AGAIN) -> SinefieldError:
        """The one line that refuses it."""
        return SinefieldError(f"{self.path}: {what}; {remedy}")

    def note(self, text: str) -> None:
        """Say something, once."""
        if text not in self.notes:
            self.notes.append(text)

    def claims(self, what: str, needed: int) -> None:
        """Refuse what promises more bytes than the file has, before anything is allocated for it."""
        if needed > len(self.data):
            raise self.wrong(f"its header claims {what}, which the file's {len(self.data):,} bytes cannot hold")

    def check_faces(self, count: int) -> None:
        """Refuse too many."""
        check_count(self.path, "faces", count, MAX_FACES)

    def check_points(self, count: int) -> None:
        """Refuse too many."""
        check_count(self.path, "points", count, MAX_POINTS)

    def check_corners(self, corners: Int[np.ndarray, "..."], vertices: int, first: int = 0) -> None:
        """Refuse faces that name vertices that are not there; `first` is the number of the first vertex."""
        if corners.size and (corners.min() < 0 or corners.max() >= vertices):
            wrong = corners.min() if corners.min() < 0 else corners.max()
            raise self.wrong(f"a face names vertex {wrong + first} of {vertices}")

    def beside(self, name: str, limit: int = MAX_BYTES) -> bytes | None:
        """The content of a file in the same folder or below; None where there is none, or it lies elsewhere.

        Of a path that leads elsewhere the last name is looked for beside the file.
        """
        steps = PurePosixPath(name.strip().replace("\\", "/"))
        if ".." in steps.parts or steps.is_absolute() or ":" in name or "\0" in name:
            steps = PurePosixPath(re.split(r"[/:\0]", str(steps))[-1])
        folder = self.path.parent.resolve()
        try:
            file = (folder / steps).resolve()
            if not file.is_relative_to(folder) or not file.is_file() or file.stat().st_size > limit:
                return None
            return read_bytes(file, limit, "file beside")
        except (OSError, ValueError, SinefieldError):  # a name that no file can have; nothing to be read
            return None


def check_count(path: Path, what: str, count: int, limit: int) -> None:
    """Refuse more than `limit` of something."""
    if count > limit:
        raise SinefieldError(f"{path}: has {count:,} {what}, more than {limit:,}; decimate it first")


def room(packed: int) -> int:
    """How many bytes may come out of so many packed ones."""
    return min(MAX_BYTES, max(SMALL, MAX_RATIO * packed))


def gunzip(source: Source) -> bytes:
    """What a .gz file holds, no more than `room` says.

    Raises:
        SinefieldError: damaged, cut off, or a bomb.
    """
    found, rest, limit = [], source.data, room(len(source.data))
    while rest[:2] == b"\x1f\x8b":  # members may follow one another; zeros after the last are padding
        unpacker = zlib.decompressobj(31)
        try:
            found.append(unpacker.decompress(rest, limit + 1))
        except zlib.error as error:
            raise source.wrong(f"cannot be unpacked ({error})") from error
        limit -= len(found[-1])
        if limit < 0:
            raise source.wrong(f"unpacks to more than {MAX_RATIO} times its size", "unpack it yourself if you trust it")
        if not unpacker.eof:
            raise source.wrong("ends in the middle of its packed data")
        rest = unpacker.unused_data
    return b"".join(found)
