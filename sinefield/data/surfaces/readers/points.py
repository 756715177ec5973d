"""Points as text: XYZ, TXT, CSV, ASC, PTS, with or without a header, a count, colours; any separator."""

import re

import numpy as np

from sinefield.data.surfaces.parts import ShapeFile
from sinefield.data.surfaces.readers.columns import cloud
from sinefield.data.surfaces.readers.source import Source
from sinefield.data.surfaces.readers.text import Words, name_of, numbers, plain, without_comments

NUMBER = rb"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf|infinity)"
ROW = re.compile(rb"(?i)\s*(?:%s)(?:[\s,;]+(?:%s))*[\s,;]*" % (NUMBER, NUMBER))
COMMAS = re.compile(rb"\s*[-+]?\d+(?:,\d+)?(?:[eE][-+]?\d+)?(?:[\s;]+[-+]?\d+(?:,\d+)?(?:[eE][-+]?\d+)?)*[\s;]*")
"""A row whose decimal points are commas: white space or semicolons lie between its numbers."""
LEAD = 20
"""Lines that may stand before the first point."""
SAMPLE = 50
"""Rows by which separators are told."""


def read_points(source: Source) -> ShapeFile:
    """One cloud; raises SinefieldError where rows are not of one length, or not of numbers."""
    text = plain(source.data)
    names = _commented_names(text)
    text = without_comments(text, rb"#|//|%|!")
    lines, at = _first_lines(text)
    head, start = _lead(source, lines)
    text = text[at[start] :]
    rows = [line for line in lines[start:] if line]
    if not rows:
        raise source.wrong("holds no points", "provide lines of x y z, and nx ny nz or r g b after them")
    text = _separated(source, text, rows)
    table = _table(source, text)
    if head and len(names_in := _split(head)) == table.shape[1]:
        names = names_in
    suffix = source.path.name.lower().removesuffix(".gz").rpartition(".")[2]
    part = cloud(source, table, names if names and len(names) == table.shape[1] else None, suffix == "pts")
    return ShapeFile([part], None, source.notes)


def _commented_names(text: bytes) -> list[str] | None:
    """Names of columns in a comment before the first row, as some writers have them."""
    for line in text[: 1 << 14].split(b"\n")[:LEAD]:
        found = re.match(rb"\s*(?:#|//)+\s*(.*)", line)
        if found and len(words := _split(found[1])) >= 3 and {"x", "y", "z"} <= {word.lower() for word in words}:
            return words
    return None


def _split(line: bytes) -> list[str]:
    text = name_of(line).strip().strip(";,\t ")
    for separator in (";", ",", "\t"):
        if separator in text:
            return [word.strip() for word in text.split(separator)]
    return text.split()


def _first_lines(text: bytes) -> tuple[list[bytes], list[int]]:
    """Some lines of the beginning, stripped, and where each begins."""
    lines, at, begin = [], [], 0
    while len(lines) < LEAD + SAMPLE and begin < len(text):
        end = text.find(b"\n", begin)
        end = len(text) if end < 0 else end
        lines.append(text[begin:end].strip())
        at.append(begin)
        begin = end + 1
    return lines or [b""], at or [0]


def _lead(source: Source, lines: list[bytes]) -> tuple[bytes, int]:
    """The header, if there is one, and the line of the first point; a count before the points is passed over."""
    head, start = b"", 0
    for number, line in enumerate(lines[:LEAD]):
        start = number
        if not line:
            continue
        if not (ROW.fullmatch(line) or COMMAS.fullmatch(line)):
            if head and not re.search(rb"[A-Za-z]", line):
                break
            head = line if len(_split(line)) >= 3 else head
            continue
        if re.fullmatch(rb"\d+", line):  # a row of one number is a count
            continue
        return head, start
    if any(lines):
        odd = next((line for line in lines if line), b"")
        raise source.wrong(f"has no rows of numbers but {odd[:40].decode('latin-1')!r}")
    return head, start


def _separated(source: Source, text: bytes, rows: list[bytes]) -> bytes:
    """The text with white space between its numbers, and points in them."""
    joined = b"\n".join(rows)
    if b"," in joined and b"." not in joined and all(COMMAS.fullmatch(row) for row in rows) and _wide(rows):
        source.note("Commas in its numbers are taken as decimal points.")
        return text.translate(bytes.maketrans(b",;", b". "))
    return text.translate(bytes.maketrans(b",;", b"  "))


def _wide(rows: list[bytes]) -> bool:
    return all(len(re.split(rb"[\s;]+", row.strip(b"; \t"))) >= 3 for row in rows)


def _table(source: Source, text: bytes) -> np.ndarray:
    words = Words(text)
    width = int(words.widths[0]) if len(words.widths) else 0
    if width < 3:
        raise source.wrong(f"has rows of {width} numbers", "provide lines of x y z, and nx ny nz or r g b after them")
    if (odd := np.flatnonzero(words.widths != width)).size:
        raise source.wrong(f"has {words.widths[odd[0]]} numbers in row {odd[0] + 1:,} of points, {width} in the first")
    return numbers(source, text).reshape(-1, width)
