"""What a fleet has done so far, and the files that say so.

fleet.json         what kind of folder this is
manifest.parquet   a row an item: state, scores, size, cost, and in which shard its field is
data/*.parquet     the fields: id, score and the bytes of a `.sine` file
README.md          a data set card
base.sine          of a fleet of codes: the network that its shapes share
parts/*.parquet    results of the last minutes, not yet in a shard; gone when a fleet has finished

A part or shard is written whole, then the manifest, then what they replace is removed: whoever is killed between leaves
rows twice, never none, and reading takes each item once.
"""

import json
import re
import secrets
import time
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sinefield.errors import SinefieldError
from sinefield.fleet.card import card
from sinefield.fleet.items import Item
from sinefield.fleet.place import Place
from sinefield.json_text import from_json, to_json
from sinefield.store.run import Run
from sinefield.version import __version__

FORMAT = "sinefield fleet 1"
MARK, MANIFEST, CARD, BASE = "fleet.json", "manifest.parquet", "README.md", "base.sine"
WRITTEN = re.compile(r"(data/shard-|parts/)\d{10,}-[0-9a-f]{16}\.parquet")
Row = dict[str, Any]
SHARD_ROWS, SHARD_BYTES = 10_000, 256 << 20
FLUSH_SECONDS, FLUSH_ROWS, FLUSH_BYTES = 5.0, 2_000, 64 << 20
ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("key", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("kind", pa.string()),
        ("score", pa.float64()),
        ("scores", pa.string()),
        ("bytes", pa.int64()),
        ("seconds", pa.float64()),
        ("peak_mib", pa.int64()),
        ("seed", pa.int64()),
        ("path", pa.string()),
        ("tries", pa.int64()),
        ("node", pa.string()),
        ("versions", pa.string()),
        ("turn", pa.int64()),
        ("shard", pa.string()),
    ]
)
"""Of the manifest. `scores` and `versions` are JSON; `turn` counts up, and of two rows of one item the later counts."""
PART = ROWS.append(pa.field("sine", pa.binary()))
SHARD = pa.schema([(name, ROWS.field(name).type) for name in ("id", "key", "kind", "score", "bytes", "turn")])
SHARD = SHARD.append(pa.field("sine", pa.binary()))


@dataclass
class Result:
    """One item's row, and its file's bytes while they are in memory."""

    row: dict[str, Any]
    sine: bytes = field(default=b"", repr=False)


class FleetStore:
    """The files of one fleet.

    Arguments:
        where: folder or URL.

    Attributes:
        rows: the last row of every item, by id.
    """

    def __init__(self, where: str) -> None:
        self.place = Place(where)
        self.rows: dict[str, dict[str, Any]] = {}
        self.waiting: list[Result] = []  # in memory
        self.held = 0  # bytes of them
        self.parts: list[str] = []  # written, not yet in a shard
        self.sizes = [0, 0]  # rows and bytes of the parts
        self.lock: Run | None = None
        self.turn, self.flushed, self.began = 0, time.monotonic(), secrets.token_hex(8)

    def begin(self, kind: str, overwrite: bool = False) -> None:
        """Take up what is there, or begin.

        Raises:
            SinefieldError: the folder is not empty and no fleet's, or a fleet's of another kind, or cannot be written.
        """
        if self.place.has(MARK):
            if overwrite:
                self._clear()
            else:
                self._check(kind)
                self._read()
        elif self.place.names() and not overwrite:
            raise SinefieldError(f"{self.place.where}: holds other things than a fleet; give another --out")
        self._hold()
        self.place.write(MARK, (to_json({"format": FORMAT, "kind": kind, "version": __version__}) + "\n").encode())

    def _hold(self) -> None:
        """Keep other processes on this machine from writing into the folder."""
        if self.place.local is not None:
            self.place.local.mkdir(parents=True, exist_ok=True)
            self.lock = Run(self.place.local)
            self.lock.lock()

    def close(self) -> None:
        """Let others write into the folder."""
        if self.lock is not None:
            self.lock.release()

    def _mark(self) -> tuple[str, str]:
        """Format and kind of the fleet in the folder."""
        try:
            mark = from_json(self.place.read(MARK))
            form, held = mark["format"], mark["kind"]
            if not str(form).startswith(FORMAT.rstrip("0123456789")):
                raise ValueError
        except (ValueError, KeyError, TypeError) as error:
            raise SinefieldError(
                f"{self.place.where}: {MARK} is damaged or no fleet's; give another --out, or delete it yourself"
            ) from error
        return form, held

    def _check(self, kind: str) -> None:
        form, held = self._mark()
        if form != FORMAT:
            raise SinefieldError(f"{self.place.where}: {MARK} is of another version; update sinefield")
        if held != kind:
            raise SinefieldError(
                f"{self.place.where}: belongs to another fleet, of kind {held}; give another --out, or --overwrite"
            )

    def _clear(self) -> None:
        self._mark()  # or it is somebody else's folder
        written = [*self.place.names("data"), *self.place.names("parts")]
        if odd := [name for name in written if not WRITTEN.fullmatch(name)]:
            raise SinefieldError(f"{self.place.where}: holds {odd[0]!r}, which no fleet makes; give another --out")
        for name in [MANIFEST, CARD, BASE, *written, MARK]:
            self.place.remove(name)

    def _read(self) -> None:
        self.rows, parts = read_rows(self.place)
        for name, part in parts.items():
            self.parts.append(name)
            self.sizes[0] += part.num_rows
            self.sizes[1] += part.nbytes
        self.turn = max((row["turn"] for row in self.rows.values()), default=0)

    def add(self, result: Result) -> None:
        """Take in a result; it is on the disk after the next `flush`."""
        self.turn += 1
        result.row["turn"] = self.turn
        self.waiting.append(result)
        self.rows[result.row["id"]] = result.row
        self.held += len(result.sine)
        if len(self.waiting) >= FLUSH_ROWS or self.held >= FLUSH_BYTES:
            self.flush()

    def tick(self) -> None:
        """Write what is in memory, if that was not done for some seconds."""
        if time.monotonic() - self.flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is in memory as a part; many parts become a shard."""
        self.flushed = time.monotonic()
        if not self.waiting:
            return
        name = f"parts/{self.turn:010d}-{self.began}.parquet"
        rows = [{**result.row, "sine": result.sine or None} for result in self.waiting]
        made = pa.Table.from_pylist(rows, PART)
        self.place.write(name, _bytes(made))
        for result in self.waiting:
            result.row["shard"] = name
        self.waiting.clear()
        self.held = 0
        self.parts.append(name)
        self.sizes[0] += made.num_rows
        self.sizes[1] += made.nbytes
        if self.sizes[0] >= SHARD_ROWS or self.sizes[1] >= SHARD_BYTES or len(self.parts) >= 500:
            self.gather()

    def gather(self) -> None:
        """Put all parts into a shard, write the manifest, remove the parts."""
        if not self.parts:
            return
        tables = [table(self.place, name, PART) for name in self.parts]
        self._shard(pa.concat_tables(tables).select(SHARD.names))
        self._write_manifest()
        for name in self.parts:
            self.place.remove(name)
        self.parts.clear()
        self.sizes = [0, 0]

    def _shard(self, found: pa.Table) -> None:
        """Write those rows that are the last of their items, sorted by id."""
        kept = [bool(sine) and self._last(i, turn) for i, turn, sine in _columns(found, "id", "turn", "sine")]
        found = found.filter(pa.array(kept, pa.bool_())).sort_by("id")
        name = f"data/shard-{self.turn:010d}-{self.began}.parquet"
        if found.num_rows:
            self.place.write(name, _bytes(found.cast(SHARD)))
        taken = set(found["id"].to_pylist())
        for row in self.rows.values():
            if row["id"] in taken:
                row["shard"] = name
            elif row["status"] != "ok" or row["shard"] in self.parts:
                row["shard"] = None

    def _last(self, name: str, turn: int) -> bool:
        return name in self.rows and self.rows[name]["turn"] == turn and self.rows[name]["status"] == "ok"

    def finish(self, title: str) -> None:
        """Leave shards without anything out of date, the manifest and the card."""
        self.flush()
        self.gather()
        for name in self.place.names("data"):
            held = table(self.place, name, SHARD)
            good = [self._last(i, turn) for i, turn in _columns(held, "id", "turn")]
            mine = [row for row, kept in zip(_columns(held, "id"), good, strict=True) if kept]
            if mine and self.rows[mine[0][0]]["shard"] != name:  # written twice by one who was killed
                self.place.remove(name)
            elif not all(good):
                self._thin(name, held.filter(pa.array(good, pa.bool_())))
        self._write_manifest()
        self.place.write(CARD, card(title, list(self.rows.values())).encode())

    def _thin(self, name: str, held: pa.Table) -> None:
        """A shard without its rows out of date, under a new name."""
        new = f"{name.removesuffix('.parquet')}-{self.began}.parquet"
        if held.num_rows:
            self.place.write(new, _bytes(held))
        for i in held["id"].to_pylist():
            self.rows[i]["shard"] = new
        self._write_manifest()
        self.place.remove(name)

    def _write_manifest(self) -> None:
        rows = sorted(self.rows.values(), key=lambda row: row["id"])
        written = [row for row in rows if row["status"] != "ok" or row["shard"]]
        self.place.write(MANIFEST, _bytes(pa.Table.from_pylist(written, ROWS)))


def read_rows(place: Place) -> tuple[dict[str, dict[str, Any]], dict[str, pa.Table]]:
    """The last row of every item, by id: of the manifest and of the parts that came after it; and the parts by name.

    Raises:
        SinefieldError: a file is damaged.
    """
    rows = table(place, MANIFEST, ROWS).to_pylist() if place.has(MANIFEST) else []
    parts = {name: table(place, name, PART) for name in place.names("parts")}
    for name, part in parts.items():
        rows += [{**row, "shard": name} for row in part.select(ROWS.names).to_pylist()]
    return {row["id"]: row for row in sorted(rows, key=lambda row: row["turn"])}, parts


def table(place: Place, name: str, schema: pa.Schema) -> pa.Table:
    """A parquet file with at least the columns of a schema, of its types.

    Raises:
        SinefieldError: missing, damaged, or of other columns.
    """
    content = place.read(name)
    try:
        found = pq.read_table(BytesIO(content), columns=schema.names)
        return found.cast(schema)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise SinefieldError(
            f"{place.where}: {name} is damaged ({str(error)[:120]}); remove it and give the command again"
        ) from error


def _columns(found: pa.Table, *names: str) -> list[tuple[Any, ...]]:
    return list(zip(*(found[name].to_pylist() for name in names), strict=True))


def _bytes(found: pa.Table) -> bytes:
    sink = BytesIO()
    # `.sine` bytes look random: dictionaries and statistics of them are wasted.
    pq.write_table(found, sink, compression="zstd", use_dictionary=False, write_statistics=False)
    return sink.getvalue()


@cache
def versions() -> dict[str, str]:
    """Of what decides a result's bytes."""
    from importlib.metadata import version

    names = ("torch", "numba", "numpy")
    return {"sinefield": __version__, **{name: version(name).partition("+")[0] for name in names}}


def row_of(
    item: Item, key: str, scene: dict[str, Any], report: dict[str, Any], size: int, tries: int
) -> dict[str, Any]:
    """A row of the manifest, from what a worker reported of an item with this key."""
    scores = report.get("scores") or {}
    return {
        "id": item.id,
        "key": key,
        "status": report["status"],
        "error": report.get("error"),
        "kind": scene["kind"],
        "score": next(iter(scores.values()), None),
        "scores": json.dumps(scores),
        "bytes": size,
        "seconds": report.get("seconds"),
        "peak_mib": report.get("peak"),
        "seed": scene.get("seed", 0) if item.seed is None else item.seed,
        "path": item.path,
        "tries": tries,
        "node": report.get("node"),
        "versions": json.dumps(report.get("versions") or {}),
        "turn": 0,
        "shard": None,
    }
