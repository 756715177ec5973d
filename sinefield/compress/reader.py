"""Bytes from front to back, and the whole numbers and texts in them. docs/format.md is the text of the format."""

MAX_NAME = 64
"""Bytes of a name."""


class Reader:
    """Bytes from front to back; asking for more than there is is a ValueError.

    Arguments:
        data: the bytes.
        version: of the format, which some parts are read by.
    """

    def __init__(self, data: bytes, version: int = 2) -> None:
        self.data, self.version, self.at = data, version, 0

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self.data) - self.at

    def take(self, n: int) -> bytes:
        if n > self.left:
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
            if shift > 63:
                raise ValueError("a number is too long")
        if value > limit:
            raise ValueError(f"a number is {value}, at most {limit} can be")
        return value

    def signed(self, limit: int) -> int:
        value = self.varint(2 * limit + 1)
        return value >> 1 if value % 2 == 0 else -(value >> 1) - 1

    def text(self, limit: int) -> str:
        return self.take(self.varint(limit)).decode()

    def name(self) -> str:
        name = self.text(MAX_NAME)
        if not name or not name.isprintable():
            raise ValueError("a name is empty or cannot be shown")
        return name

    def choice(self, table: tuple[str, ...]) -> str:
        """A name by its place in a frozen table, or from version 2 on, after 255, the name itself."""
        place = self.byte()
        if place == NAMED and self.version > 1:
            return self.name()
        if place >= len(table):
            raise ValueError(f"choice {place} is unknown")
        return table[place]

    def rest(self) -> bytes:
        return self.take(self.left)


NAMED = 255
"""The byte that stands for a name that follows."""


def varint(value: int) -> bytes:
    if value < 0:
        raise ValueError(f"a number is {value}, below 0")
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def signed(value: int) -> bytes:
    return varint(2 * value if value >= 0 else -2 * value - 1)


def text(value: str) -> bytes:
    data = value.encode()
    return varint(len(data)) + data


def name(value: str) -> bytes:
    """Raises ValueError for what is no name: nothing, more than 64 bytes of UTF-8, or what cannot be printed."""
    if not 1 <= len(value.encode()) <= MAX_NAME or not value.isprintable():
        raise ValueError(f"the name {value[:MAX_NAME]!r} should have 1 to {MAX_NAME} bytes, all of them printable")
    return text(value)


def choice(value: str, table: tuple[str, ...]) -> bytes:
    return bytes([table.index(value)]) if value in table else bytes([NAMED]) + name(value)
