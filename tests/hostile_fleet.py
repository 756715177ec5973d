"""Manifests of fleets for tests/hostile.py: small sound ones in the three formats, and ones whose values are absurd."""

import csv
import datetime
import decimal
import io
import json
import math
from pathlib import Path
from random import Random

from hostile_format import Example, Format, words_of

from sinefield.fleet.items import find_items

ROWS = [
    {"id": "a", "path": "a.obj", "overrides": {"field.width": 24}, "seed": 3},
    {"id": "b", "path": "/x/b.ply", "overrides": {"training.steps": 50, "field.weights": "lowrank"}, "seed": None},
    {"id": "c", "path": "family:chairs:7", "overrides": None, "seed": 0},
]
WORDS = words_of("id path overrides seed family:chairs:0-9 ~nobody/x ~/x s3://a/b {} [] null true NaN -1 1e9")
WORDS += [b'"', b'""', b",", b"\r\n", b'{"a":' * 60, b"a" * 140_000]


def _csv(rows: list[dict]) -> bytes:
    stream = io.StringIO()
    names = sorted({str(name) for row in rows for name in row}) or ["path"]
    writer = csv.DictWriter(stream, names)
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {str(k): json.dumps(v, default=str) if isinstance(v, dict | list) else v for k, v in row.items()}
        )
    return stream.getvalue().encode("utf-8", "replace")


def _jsonl(rows: list[dict]) -> bytes:
    return "\n".join(json.dumps(row, default=str) for row in rows).encode()


def _parquet(rows: list[dict], **options: object) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, **options)
    return sink.getvalue()


def _texts(rows: list[dict]) -> list[dict]:
    """With settings as text, as a column of parquet has them."""
    return [{**row, "overrides": row["overrides"] and json.dumps(row["overrides"])} for row in rows]


def _read(folder: Path) -> None:
    (file,) = folder.iterdir()
    for item in find_items(str(file)):
        assert isinstance(item.path, str) and isinstance(item.overrides, dict)


def manifest(kind: str) -> Format:
    """Sound manifests, to be damaged."""
    if kind == "parquet":
        options = ({"compression": "none"}, {"compression": "zstd"}, {"use_dictionary": False, "compression": "none"})
        files = [_parquet(_texts(ROWS), **each) for each in options]
    else:
        files = [{"csv": _csv, "jsonl": _jsonl}[kind](rows) for rows in (ROWS, ROWS[:1])]
    return Format("", [{f"a.{kind}": file} for file in files], [f"a.{kind}"], _read, WORDS)


# ---- absurd values


TEXTS = [
    "",
    "a",
    "a" * 201,
    "x" * 5000,
    "é",
    "\0",
    "\x1b[2J",
    "\n",
    "~nobody-here/x",
    "~",
    "../../x",
    "\u202e",
    "family:",
]
TEXTS += [
    "family:chairs:0-99999",
    "s3://",
    "://",
    "{}",
    "[]",
    '{"a": NaN}',
    '{"a": 1e999}',
    '{"a": {"b": ' * 2000,
    "-0",
]
TEXTS += ["٣", "0" * 5000, "9" * 18, "9" * 19, "1_0", " 1", "+1", "nan", '{"a": 1, "a": 2}', "\ufeff", "," * 50]
OTHERS = [None, True, False, 0, -1, 3.5, math.nan, math.inf, 1 << 62, -(1 << 63), [], [1], {}, {"a": None}, [[[[1]]]]]
OTHERS += [{"field": {"width": [1]}}, {"": ""}, {"a.b.c.d": "x" * 3000}]
COLUMNS = ["id", "path", "overrides", "seed", "path ", "Path", "", "x" * 3000, "\0", "é"]


def _value(rng: Random) -> object:
    return rng.choice(TEXTS) if rng.random() < 0.5 else rng.choice(OTHERS)


def _absurd_rows(rng: Random) -> list[dict]:
    rows = []
    for number in range(rng.choice((0, 1, 1, 2, 3, 40))):
        row: dict[str, object] = {"id": f"i{number}", "path": "a.obj"}
        for _ in range(rng.choice((0, 1, 1, 2, 4))):
            row[rng.choice(COLUMNS[:4] if rng.random() < 0.8 else COLUMNS)] = _value(rng)
        if rng.random() < 0.1:
            row.pop("path", None)
        rows.append(row)
    return rows


def _absurd_parquet(rng: Random) -> bytes:
    """Columns of any type, sometimes very many rows of one value, which take few bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = rng.choice((0, 1, 2, 5, 1000, 1_000_000) if rng.random() < 0.5 else (1, 2, 3))
    value: list[object] = [
        *TEXTS, *OTHERS[1:], b"\xff\xfe", datetime.datetime(9999, 12, 31), datetime.date(1, 1, 1),
        datetime.timedelta(days=9999), decimal.Decimal("1e30"), datetime.time(23), "x" * 40_000,
    ]  # fmt: skip
    columns: dict[str, object] = {}
    for name in ("path", *rng.sample(COLUMNS, rng.choice((0, 1, 2, 4)))):
        if name == "path" and rng.random() < 0.6:
            one: object = "a.obj"
        elif name == "id" and rng.random() < 0.5 and count <= 1000:
            columns[name] = [f"i{number}" for number in range(count)]
            continue
        else:
            one = rng.choice(value)
        try:
            column = pa.array([one])
            columns[name] = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), column)
        except (pa.ArrowException, OverflowError, ValueError, TypeError):
            columns[name] = [None] * count
        if count < 10 and rng.random() < 0.5 and isinstance(columns[name], pa.DictionaryArray):
            columns[name] = columns[name].dictionary_decode()
    sink = io.BytesIO()
    try:
        pq.write_table(pa.table(columns), sink, compression=rng.choice(("none", "zstd", "snappy")))
    except (pa.ArrowException, OverflowError, ValueError, TypeError, OSError):
        return _parquet([{"path": "a.obj", "seed": -1}])
    return sink.getvalue()


def _absurd(rng: Random) -> Example:
    kind = rng.randrange(3)
    if kind == 2:
        return {"a.parquet": _absurd_parquet(rng)}
    try:
        return {"a.csv": _csv(_absurd_rows(rng))} if kind == 0 else {"a.jsonl": _jsonl(_absurd_rows(rng))}
    except csv.Error:
        return {"a.csv": b"path\n\0"}


def _prepare() -> None:
    import pyarrow.parquet  # noqa: F401


def absurd_manifest() -> Format:
    return Format("", [], [], _read, [], prepare=_prepare, make=_absurd)
