"""What a fleet works on: a folder, a glob, a manifest or a procedural family, as a list of items."""

import csv
import glob
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from sinefield.data.made.families import FAMILIES
from sinefield.data.surfaces.mesh_files import MESHES
from sinefield.errors import SinefieldError, shown
from sinefield.files import read_bytes, read_text, with_home
from sinefield.json_text import from_json

FAMILY = "family:"
"""What ITEMS begin with that name a procedural family and a range of its seeds."""
MANIFESTS = (".csv", ".jsonl", ".parquet")
COLUMNS = ("id", "path", "overrides", "seed")
MAX_MANIFEST = 1 << 30
MOST = 10_000_000
"""Items of one fleet."""
LONGEST_ID = 200
FEW_ROWS, ROWS_A_BYTE = 10_000, 16
"""A parquet file has at most so many rows, and so many a byte: rows differ in their ids, which take more."""


@dataclass(frozen=True)
class Item:
    """One field to be made.

    Attributes:
        id: its name, unique within a fleet.
        path: of its data: a file, a URL that fsspec reads, or `family:NAME:SEED`.
        overrides: settings of the scene file that it has of its own, by dotted name.
        seed: of its training; that of the scene file when None.
    """

    id: str
    path: str
    overrides: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None


def find_items(given: str) -> list[Item]:
    """The items that a folder, a glob, a manifest or a family names; no mesh is read yet.

    Arguments:
        given: a folder (its meshes, with those of its subfolders), a glob, a manifest `.csv`, `.jsonl` or `.parquet`
            with the columns `path` and if wanted `id`, `overrides` (a JSON object) and `seed`, or
            `family:chairs:0-999`.

    Raises:
        SinefieldError: nothing is found, an id stands twice, a manifest lacks its column or has a value of another
            kind.

    Examples:
        >>> [item.id for item in find_items("family:chairs:3-5")]
        ['chair-3', 'chair-4', 'chair-5']
    """
    if given.startswith(FAMILY):
        items = _family(given)
    elif Path(given).is_dir():
        items = _files(given, (p for p in Path(given).rglob("*") if p.suffix.lower() in MESHES), Path(given))
    elif Path(given).suffix.lower() in MANIFESTS and not _pattern(given):
        items = _manifest(Path(given))
    elif _pattern(given):
        items = _files(given, map(Path, glob.glob(given, recursive=True)), None)  # noqa: PTH207
    else:
        raise SinefieldError(f"{given}: no such folder; give a folder, a glob, a manifest, or {FAMILY}chairs:0-999")
    return _unique(items, given)


def _pattern(given: str) -> bool:
    return glob.has_magic(given) and not Path(given).exists()


def _files(given: str, paths: Iterable[Path], folder: Path | None) -> list[Item]:
    found = sorted(path for path in paths if path.is_file())
    if not found:
        raise SinefieldError(f"{given}: no mesh is there; endings are {' '.join(MESHES)}")
    names = [path.relative_to(folder).as_posix() if folder else path.as_posix() for path in found]
    return [Item(name, str(path.absolute())) for name, path in zip(names, found, strict=True)]


def _family(given: str) -> list[Item]:
    """`family:NAME:FIRST-LAST`, both ends included; `family:all:0-9` takes each family."""
    match = re.fullmatch(r"family:([a-z]+):([0-9]{1,9})(?:-([0-9]{1,9}))?", given)
    if match is None:
        raise SinefieldError(f"{given}: should read {FAMILY}NAME:FIRST-LAST, such as {FAMILY}chairs:0-999")
    names = list(FAMILIES) if match[1] == "all" else [_singular(match[1])]
    first, last = int(match[2]), int(match[3] or match[2])
    if last < first:
        raise SinefieldError(f"{given}: ends before it begins; give the smaller number first")
    if (last - first + 1) * len(names) > MOST:
        raise SinefieldError(f"{given}: more than {MOST:,} items; make several fleets of them")
    return [Item(f"{name}-{i}", f"{FAMILY}{name}:{i}") for i in range(first, last + 1) for name in names]


def _singular(name: str) -> str:
    for tried in (name, name.removesuffix("s"), name.removesuffix("ies") + "y"):
        if tried in FAMILIES:
            return tried
    raise SinefieldError(f"{FAMILY}{name}: no family has this name; one of {', '.join(FAMILIES)}, or all")


def _manifest(path: Path) -> list[Item]:
    rows = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}[path.suffix.lower()](path)
    if not rows:
        raise SinefieldError(f"{path}: has no row; give at least one")
    if len(rows) > MOST:
        raise SinefieldError(f"{path}: more than {MOST:,} items; make several fleets of them")
    return [_item(row, f"{path}, row {i}", path.parent) for i, row in enumerate(rows, 1)]


def _csv(path: Path) -> list[dict[str, Any]]:
    reader = csv.DictReader(StringIO(read_text(path, MAX_MANIFEST, "manifest"), newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise SinefieldError(f"{path}, line {reader.line_num}: is no CSV ({error}); mend it") from error
    _need_path(path, reader.fieldnames or [])
    for row in rows:
        if None in row:
            raise SinefieldError(f"{path}: a row has more values than the first line has names; mend it")
    return [{key: value for key, value in row.items() if value not in ("", None)} for row in rows]


def _jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    for i, line in enumerate(read_text(path, MAX_MANIFEST, "manifest").splitlines(), 1):
        if not line.strip():
            continue
        row = _object(line, f"{path}, line {i}", "with path")
        _need_path(path, row)
        rows.append({key: value for key, value in row.items() if value is not None})
    return rows


def _parquet(path: Path) -> list[dict[str, Any]]:
    """Rows whose cost is that of the file: a value that stands in a million rows is held once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = read_bytes(path, MAX_MANIFEST, "manifest")
    try:
        leaves = pq.ParquetFile(BytesIO(content)).schema
        leaves = [leaves.column(i) for i in range(len(leaves.names))]
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and leaf.path in COLUMNS]
        file = pq.ParquetFile(BytesIO(content), read_dictionary=texts)
        _need_path(path, file.schema_arrow.names)
        if file.metadata.num_rows > min(MOST, FEW_ROWS + ROWS_A_BYTE * len(content)):
            raise SinefieldError(f"{path}: {file.metadata.num_rows:,} rows in {len(content):,} bytes; write it again")
        table = file.read(columns=[c for c in COLUMNS if c in file.schema_arrow.names])
        table.validate(full=True)  # numbers of values that are not there, too
        values = [_column(table[name]) for name in table.column_names]
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        raise SinefieldError(f"{path}: is no readable parquet file ({error}); write it again") from error
    names = table.column_names
    rows = zip(*values, strict=True)
    return [{key: value for key, value in zip(names, row, strict=True) if value is not None} for row in rows]


def _column(column: Any) -> list[Any]:
    """A column as a list; each value that is stored once is one object."""
    found: list[Any] = []
    for chunk in column.chunks:
        if hasattr(chunk, "dictionary"):
            known = chunk.dictionary.to_pylist()
            found += [None if at is None else known[at] for at in chunk.indices.to_pylist()]
        else:
            found += chunk.to_pylist()
    return found


def _need_path(path: Path, names: Iterable[str]) -> None:
    if "path" not in names:
        raise SinefieldError(f"{path}: has no column path; a manifest has {', '.join(COLUMNS)}, all but path optional")


def _item(row: dict[str, Any], where: str, folder: Path) -> Item:
    if not isinstance(row.get("path"), str):
        raise SinefieldError(f"{where}: path is {shown(row.get('path'))}; should be text")
    place = row["path"]
    if not place.startswith(FAMILY) and "://" not in place:
        place = str((folder / with_home(place)).absolute())
    name = row.get("id", row["path"])
    overrides, seed = _overrides(row.get("overrides", {}), where), row.get("seed")
    if seed is not None and not (re.fullmatch("[0-9]{1,18}", str(seed)) and not isinstance(seed, bool)):
        raise SinefieldError(f"{where}: seed is {shown(seed)}; should be a whole number of at least 0")
    return Item(str(name), place, overrides, None if seed is None else int(seed))


def _overrides(given: Any, where: str) -> dict[str, Any]:
    return _object(given, f"{where}, overrides", 'like {"field.width": 24}')


def _object(given: Any, where: str, like: str) -> dict[str, Any]:
    """A JSON object, from its text or as it is."""
    if isinstance(given, str):
        try:
            given = from_json(given)
        except ValueError as error:
            raise SinefieldError(f"{where}: is no JSON ({error}); mend it") from error
    if not isinstance(given, dict):
        raise SinefieldError(f"{where}: is {shown(given)}; should be an object {like}")
    return given


def _unique(items: list[Item], given: str) -> list[Item]:
    seen: set[str] = set()
    for item in items:
        if not item.id or len(item.id) > LONGEST_ID or not item.id.isprintable():
            raise SinefieldError(f"{given}: {shown(item.id)} is no id; use at most {LONGEST_ID} printable characters")
        if item.id in seen:
            raise SinefieldError(f"{given}: the id {item.id} stands twice; each item needs one of its own")
        seen.add(item.id)
    return items
