"""Many fields of one fleet, each read when it is asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from sinefield.api import Field
from sinefield.errors import SinefieldError, shown
from sinefield.files import Home

SHARDS = 8
"""Shards that are kept in memory; a shard has some megabytes."""


class FieldSet(Sequence[Field]):
    """The fields of a fleet, by `sinefield fleet`: finished, under way or interrupted.

    Fields count by place or by id, in the order of their ids; what failed is left out. A field is read when it is asked
    for.

    Arguments:
        path: the fleet's folder or URL.

    Attributes:
        rows: of the manifest, one a field: id, status, score, scores, bytes, seconds, seed, path and more.

    Raises:
        SinefieldError: there is no fleet, its manifest is damaged, or pyarrow is not installed.

    Examples:
        Where `sinefield fleet SCENE.yaml family:chairs:0-12 --out fleets/chairs` was run:

        >>> import numpy as np
        >>> import sinefield as sf
        >>> fields = sf.FieldSet("fleets/chairs")
        >>> len(fields), fields.ids[:3]
        (13, ['chair-0', 'chair-1', 'chair-10'])
        >>> good = fields.filter(0.92)  # of at least this score
        >>> type(good["chair-12"])
        <class 'sinefield.api.Field'>
        >>> points = np.random.default_rng(0).uniform(-1, 1, (100, 3))
        >>> good.batch(["chair-12", "chair-3"]).sdf(points).shape
        (2, 100)
    """

    def __init__(self, path: str | Path) -> None:
        try:
            from sinefield.fleet.place import Place
            from sinefield.fleet.store import MANIFEST, read_rows
        except ImportError as error:
            raise SinefieldError(f"a FieldSet needs pyarrow ({error}); pip install 'sinefield[fleet]'") from error
        self._place = Place(path)
        if not self._place.has(MANIFEST) and not self._place.names("parts"):
            raise SinefieldError(f"{path}: holds no fleet; make one with sinefield fleet")
        found, _ = read_rows(self._place)
        self.rows = sorted((row for row in found.values() if row["status"] == "ok"), key=lambda row: row["id"])
        self._number = {row["id"]: i for i, row in enumerate(self.rows)}
        self._home = Home()
        self._shard = lru_cache(SHARDS)(self._read_shard)

    def __repr__(self) -> str:
        return f"<sinefield.FieldSet {len(self):,} fields, {sum(self.sizes):,} bytes, {self._place.where}>"

    @property
    def ids(self) -> list[str]:
        """Of the fields, in order."""
        return [row["id"] for row in self.rows]

    @property
    def scores(self) -> NDArray[np.float64]:
        """Main scores (n,); NaN where there is none."""
        return np.array([np.nan if row["score"] is None else row["score"] for row in self.rows])

    @property
    def sizes(self) -> list[int]:
        """Bytes of the files."""
        return [row["bytes"] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, value: object) -> bool:
        return value in self._number

    @overload
    def __getitem__(self, index: int | str) -> Field: ...
    @overload
    def __getitem__(self, index: slice) -> FieldSet: ...

    def __getitem__(self, index: int | str | slice) -> Field | FieldSet:
        if isinstance(index, slice):
            return self._of(self.rows[index])
        row = self._row(index)
        file = Path(self._home.path) / f"{re.sub('[^A-Za-z0-9._-]', '_', row['id'])[:80]}-{row['turn']}.sine"
        if not file.exists():
            file.write_bytes(self.content(row["id"]))
        if row["kind"] == "shared":
            return Field(self._base(), [file], self._home)
        return Field(file, home=self._home)

    def _base(self) -> Path:
        """The network that the fleet's shapes share, of which the rows' files are codes."""
        from sinefield.fleet.store import BASE

        file = Path(self._home.path) / BASE
        if not file.exists():
            if not self._place.has(BASE):
                lacks = f"lacks {BASE}, without which its codes say nothing"
                raise SinefieldError(f"{self._place.where}: {lacks}; copy it from where the fleet was made")
            file.write_bytes(self._place.read(BASE))
        return file

    def __iter__(self) -> Iterator[Field]:
        return (self[i] for i in range(len(self)))

    def content(self, index: int | str) -> bytes:
        """A field's `.sine` file as bytes; of a fleet with a base, its code's."""
        row = self._row(index)
        name = str(row["shard"])
        if not re.fullmatch(r"(data|parts)/[A-Za-z0-9_-]+\.parquet", name):
            raise SinefieldError(f"{self._place.where}: {shown(name)} is no shard; the manifest is damaged")
        held = self._shard(name)
        if row["id"] not in held:
            raise SinefieldError(f"{self._place.where}: {name} lacks {row['id']}; give the fleet's command again")
        return held[row["id"]]

    def filter(self, score: float | None = None, where: Callable[[dict[str, Any]], bool] | None = None) -> FieldSet:
        """The fields of at least this main score, and whose row `where` is true of."""
        kept = [row for row in self.rows if score is None or (row["score"] is not None and row["score"] >= score)]
        return self._of(kept if where is None else [row for row in kept if where(row)])

    def batch(self, ids: Iterable[int | str]) -> Batch:
        """Some fields together, to be asked at once."""
        return Batch([self[i] for i in ids])

    def _of(self, rows: list[dict[str, Any]]) -> FieldSet:
        other = object.__new__(FieldSet)
        other._place, other._home, other._shard = self._place, self._home, self._shard
        other.rows, other._number = rows, {row["id"]: i for i, row in enumerate(rows)}
        return other

    def _row(self, index: int | str) -> dict[str, Any]:
        if isinstance(index, str):
            if index not in self._number:
                raise KeyError(f"no field has the id {shown(index)}")
            index = self._number[index]
        return self.rows[index]

    def _read_shard(self, name: str) -> dict[str, bytes]:
        from sinefield.fleet.store import SHARD, table

        found = table(self._place, name, SHARD)
        return {i: s for i, s in zip(found["id"].to_pylist(), found["sine"].to_pylist(), strict=True) if s is not None}


class Batch:
    """Several fields that answer together.

    Attributes:
        fields: in the order in which they were asked for.
    """

    def __init__(self, fields: list[Field]) -> None:
        self.fields = fields

    def __len__(self) -> int:
        return len(self.fields)

    def sdf(self, points: Any) -> Float[np.ndarray, "k n"]:
        """Signed distances: of each field to the same points (n, 3), or to its own of (k, n, 3); see `Field.sdf`.

        Raises:
            SinefieldError: points of another shape, or not as many sets of them as fields.
        """
        given = np.asarray(points)
        if given.ndim == 3 and len(given) != len(self.fields):
            raise SinefieldError(f"{len(given)} sets of points for {len(self.fields)} fields; give one for each")
        own = given if given.ndim == 3 else [given] * len(self.fields)
        if not self.fields:
            return np.empty((0, given.shape[-2] if given.ndim > 1 else 0))
        return np.stack([field.sdf(part) for field, part in zip(self.fields, own, strict=True)])
