"""Text as numbers and names, whatever its encoding: whole arrays at a time, since files have millions of lines."""

import codecs
import contextlib
import re
import warnings
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from sinefield.data.surfaces.readers.source import Source

NEWLINE, SPACE = 10, 32


def plain(data: bytes) -> bytes:
    """Text without a byte-order mark, UTF-16 as UTF-8, lines that end in a line feed."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16", "replace").encode()
    data = data.removeprefix(codecs.BOM_UTF8)
    return data.replace(b"\r", b"\n") if b"\r" in data and b"\n" not in data else data


def name_of(data: bytes) -> str:
    """A name as text: UTF-8, else GBK where its letters come in pairs, else Latin-1."""
    data = data.strip()
    with contextlib.suppress(UnicodeDecodeError):
        return data.decode()
    if re.fullmatch(rb"(?:[\0-\x7f]|[\xa1-\xfe]{2})*", data):
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode("gbk")
    return data.decode("latin-1")


def numbers(source: Source, text: bytes) -> Float[np.ndarray, "n"]:
    """All numbers of a text, split by white space.

    Raises:
        SinefieldError: something in it is no number.
    """
    if not text.strip():
        return np.empty(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return np.fromstring(text, np.float64, sep=" ")
    except (ValueError, DeprecationWarning) as error:
        raise source.wrong(f"has {_odd(text)!r} where a number should be") from error


def _odd(text: bytes) -> str:
    for word in re.finditer(rb"\S+", text):
        try:
            float(word[0])
        except ValueError:
            return word[0][:40].decode("latin-1")
    return text[-40:].decode("latin-1")


def without_comments(text: bytes, marks: bytes = rb"#") -> bytes:
    """The lines without what follows a mark that begins a word."""

    def emptied(found: re.Match[bytes]) -> bytes:
        before = found.string[max(found.start() - 1, 0) : found.start()]
        return b"" if before in (b"", b"\n", b" ", b"\t", b"\r", b",", b";") else found[0]

    return re.sub(rb"(?:" + marks + rb")[^\n]*", emptied, text)


class Words:
    """Where the words of a text begin, and in which lines."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.bytes = np.frombuffer(text, np.uint8)
        blank = self.bytes <= SPACE
        first = ~blank
        first[1:] &= blank[:-1]
        self.starts = np.flatnonzero(first)
        self.ends = np.flatnonzero(blank)  # of lines, and of all else
        self.breaks = self.ends[self.bytes[self.ends] == NEWLINE]
        self.line = np.searchsorted(self.breaks, self.starts)
        """Of each word."""

    @cached_property
    def rows(self) -> Int[np.ndarray, "l"]:
        """The number of the first word of each line that has one."""
        return np.flatnonzero(np.diff(self.line, prepend=-1))

    @cached_property
    def widths(self) -> Int[np.ndarray, "l"]:
        """How many words each of these lines has."""
        return np.diff(self.rows, append=len(self.starts))

    def begin_with(self, word: bytes) -> np.ndarray:
        """Of each line that has a word, whether the first is this one."""
        at, end = self.starts[self.rows], len(self.bytes) - 1
        same = at + len(word) <= end + 1
        for i, letter in enumerate(word):
            same &= self.bytes[np.minimum(at + i, end)] == letter
        after = at + len(word)
        return same & ((after > end) | (self.bytes[np.minimum(after, end)] <= SPACE))

    def span(self, row: int) -> tuple[int, int]:
        """From where to where the line reaches whose first word is number `row` of `rows`."""
        line = self.line[self.rows[row]]
        return int(self.starts[self.rows[row]]), int(self.breaks[line]) if line < len(self.breaks) else len(self.text)

    def cut(self, chosen: np.ndarray, skip: int) -> bytes:
        """The text of the chosen lines with their first `skip` bytes blank."""
        lines = self.line[self.rows[chosen]]
        wanted = np.zeros(len(self.breaks) + 1, bool)
        wanted[lines] = True
        lengths = np.diff(np.concatenate([[0], self.breaks + 1, [len(self.bytes)]]))
        kept = self.bytes.copy()
        for i in range(skip):
            kept[self.starts[self.rows[chosen]] + i] = SPACE
        return kept[np.repeat(wanted, lengths)].tobytes()
