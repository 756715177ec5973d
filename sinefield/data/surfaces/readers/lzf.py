"""LZF, the compression of PCD files, bounded by the size that is expected."""

MAX_GROWTH = 90
"""Bytes from each packed one, at most: three make 264."""


def unpack(data: bytes, size: int) -> bytes | None:
    """`size` bytes from packed ones; None where these are damaged."""
    found, at, end = bytearray(), 0, len(data)
    while at < end and len(found) <= size:
        control = data[at]
        at += 1
        if control < 32:  # so many plain bytes follow, less one
            found += data[at : at + control + 1]
            at += control + 1
            continue
        length = control >> 5
        if length == 7:
            if at >= end:
                return None
            length += data[at]
            at += 1
        if at >= end:
            return None
        start = len(found) - ((control & 31) << 8) - data[at] - 1
        at += 1
        if start < 0:
            return None
        length += 2
        piece = found[start : start + length]
        while len(piece) < length:  # it may reach into what it makes
            piece += piece[: length - len(piece)]
        found += piece
    return bytes(found) if at == end and len(found) == size else None
