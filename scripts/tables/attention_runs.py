"""What the experiments in attention.py share: finished runs in a CSV, and learning rates chosen alike for all."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sinefield.errors import SinefieldError
from sinefield.files import require_file, write_text

KEYS = ("contender", "lr", "seed")
Row = dict[str, str]


class Store:
    """Finished runs, one a row; what was measured at several steps or layers is a list in one cell, spaces between.

    Arguments:
        path: of the CSV; read where it exists, written anew with every run.
        setup: what all runs have in common, kept in each row.

    Raises:
        SinefieldError: the file holds runs of another setup, or is no such CSV.
    """

    def __init__(self, path: Path, setup: str) -> None:
        self.path, self.setup = path, setup
        self.rows: list[Row] = []
        if path.exists():
            self.rows = list(csv.DictReader(io.StringIO(require_file(path, "CSV").read_text())))
            if any(row.get("setup") != setup or None in row or None in row.values() for row in self.rows):
                raise SinefieldError(f"{path}: holds runs with other settings than {setup}; delete it, or give --out")

    def find(self, contender: str, lr: float, seed: int) -> Row | None:
        wanted = contender, f"{lr:g}", str(seed)
        return next((row for row in self.rows if tuple(row[k] for k in KEYS) == wanted), None)

    def add(self, contender: str, lr: float, seed: int, found: dict[str, object]) -> Row:
        """Keep a finished run; killed at any time, the file is as it was before or as it is after."""
        row = {"contender": contender, "lr": f"{lr:g}", "seed": str(seed)}
        row |= {key: cell(value) for key, value in found.items()} | {"setup": self.setup}
        self.rows.append(row)
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, stream.getvalue())
        return row


def cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return " ".join(f"{x:.4g}" for x in value) if isinstance(value, list | tuple | np.ndarray) else str(value)


def listed(row: Row, column: str) -> np.ndarray:
    """The numbers in one cell; none where it is empty."""
    return np.array([float(x) for x in row[column].split()])


Runner = Callable[[str, float, int], dict[str, object]]


def swept(store: Store, contender: str, rates: Sequence[float], seeds: Sequence[int], run: Runner | None) -> list[Row]:
    """Rows of all seeds at the learning rate that is best for the first seed by `validation`; what lacks is run.

    Of equal rates the one with the smaller validation loss wins. Without `run` nothing is computed, and what is not
    finished yet is left out.
    """

    def row(lr: float, seed: int) -> Row | None:
        found = store.find(contender, lr, seed)
        if found is None and run is not None:
            found = store.add(contender, lr, seed, run(contender, lr, seed))
        return found

    first = [row(lr, seeds[0]) for lr in rates]
    if None in first:
        return []
    best = max(first, key=lambda r: (float(r["validation"]), -np.nan_to_num(float(r["validation_loss"]), nan=np.inf)))
    rows = [row(float(best["lr"]), seed) for seed in seeds]
    return [r for r in rows if r is not None]


def mean_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and standard error of it; NaN of fewer than two."""
    values = np.asarray(values, float)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return float(values.mean()), float(error)
