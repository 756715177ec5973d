"""A run is a folder that explains itself.

config.yaml        everything that was asked for
field.safetensors  the field; all that evaluation, mesh and video need
state/             what resuming needs
metrics.jsonl      a line each time the run was scored
report.json        final scores; scores.csv the same view by view
pictures/          curves, and reference / prediction / error side by side
report.html        all of that as one page, where `sinefield report` made it
"""

import fcntl
import fnmatch
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sinefield.config import Config, make_config
from sinefield.errors import SinefieldError
from sinefield.files import (
    TEMPORARY,
    atomic_folder,
    check_folder_place,
    check_output,
    foreign,
    read_bytes,
    read_text,
    write_error,
    write_text,
)
from sinefield.json_text import from_json, to_json
from sinefield.strict import dump_yaml, load_yaml, to_plain

MAY_CHANGE = {"seconds", "steps", "save_seconds", "score_seconds", "tensorboard"}
"""Training settings that a resumed run may change: they move the end, not the road."""
LEFT_TO_DATA = {"field.represents", "field.colours", "training.eikonal"}
"""Settings that the data decide where they are absent or auto."""

CURVES = "curves.png"
BOARD_FILES = "events.out.tfevents.*"
NEWER = 8
"""Settings that a run's config.yaml may lack: they came after it. What a person writes by hand lacks far more."""
MAX_TEXT = 256 << 20
"""Bytes of report.json and metrics.jsonl."""


class Run:
    """The files of one run folder."""

    def __init__(self, folder: str | Path) -> None:
        self._lock: int | None = None
        self.folder = Path(folder)
        self.config_path = self.folder / "config.yaml"
        self.field_path = self.folder / "field.safetensors"
        self.state_path = self.folder / "state" / "state.safetensors"
        self.photographs_path = self.folder / "photographs.safetensors"
        self.metrics_path = self.folder / "metrics.jsonl"
        self.report_path = self.folder / "report.json"
        self.page_path = self.folder / "report.html"
        self.pictures = self.folder / "pictures"
        self.board = self.folder / "tensorboard"

    def parts(self) -> list[Path]:
        """All single files that a finished run consists of, whether they are there or not."""
        known = [self.config_path, self.field_path, self.photographs_path, self.metrics_path, self.report_path]
        return [*known, self.folder / "scores.csv"]

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()

    def lock(self) -> None:
        """Keep others from training into the folder, which exists, until `release`, or until this process ends.

        Raises:
            SinefieldError: another process, or another `Run` of this one, trains into it.
        """
        try:
            descriptor = os.open(self.folder, os.O_RDONLY)  # the folder's own lock: nothing is left of it after a crash
        except OSError as error:
            raise write_error(self.folder, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise SinefieldError(
                f"{self.folder}: another process is training into it; wait for it, or give another --out"
            ) from error
        except OSError:  # a file system without locks
            pass
        self._lock = descriptor

    def release(self) -> None:
        """Let others train into the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @classmethod
    def check(cls, folder: str | Path, config: Config, resume: bool = False, overwrite: bool = False) -> None:
        """Refuse a folder that `prepare` would refuse, before any long work; nothing is written.

        Raises:
            SinefieldError: the folder holds a run and neither `resume` nor `overwrite` was given, holds something
                else, cannot be written, another process trains into it, or a resumed run's settings differ.
        """
        run = cls(folder)
        if run.folder.exists() and not run.folder.is_dir():
            raise SinefieldError(f"{folder}: is a file; give a folder for --out")
        if run.folder.is_dir() and os.access(run.folder, os.R_OK):
            run.lock()
            run.release()
        cls._check(run, config, resume, overwrite)

    @staticmethod
    def _check(run: "Run", config: Config, resume: bool, overwrite: bool) -> None:
        folder = run.folder
        if resume:
            if not run.config_path.exists():
                raise SinefieldError(f"{folder}: holds no run to resume; leave --resume out or correct --out")
            _compare(run.config(), config, folder)
        elif run.config_path.exists():
            if not overwrite:
                raise SinefieldError(f"{folder}: holds a run already; use --overwrite, --resume or another --out")
            run.check_own()
        elif run.folder.exists() and not all(path.name.startswith(TEMPORARY) for path in run.folder.iterdir()):
            raise SinefieldError(f"{folder}: is not empty and holds no run; give another --out")
        for inner in (run.pictures, run.state_path.parent, run.board):
            if inner.is_symlink():
                raise SinefieldError(f"{inner}: is a link, which is not followed; remove it or give another --out")
        check_output(run.config_path)

    def check_own(self) -> Config:
        """The settings of the run in the folder, which is to be replaced.

        Raises:
            SinefieldError: the folder is a link, or its config.yaml is not one that a run writes: complete, but for
                settings that are newer than the run, and a file.
        """
        if self.folder.is_symlink():
            raise SinefieldError(f"{self.folder}: is a link, whose target is not overwritten; give the folder itself")
        hint = "so nothing in it is overwritten; give another --out, or delete the folder yourself"
        try:
            config = self.config()
            given = _flatten(load_yaml(self.config_path)).keys()
            whole = len(_flatten(to_plain(config)).keys() - given) <= NEWER
        except SinefieldError as error:
            raise SinefieldError(f"{self.folder}: its config.yaml is not readable as a run's, {hint}") from error
        if not whole or self.config_path.is_symlink():
            raise SinefieldError(f"{self.folder}: its config.yaml was not written by a run, {hint}")
        return config

    def strangers(self, drawn: str = "*.png") -> list[str]:
        """Names in the folder, and in those that runs make in it, that no run makes.

        Arguments:
            drawn: pattern of the pictures that a run of its kind draws.
        """
        own = [path.name for path in (*self.parts(), self.page_path)]
        own += [f"{path.name}/" for path in (self.state_path.parent, self.pictures, self.board)]
        own += ["state/state.safetensors", f"pictures/{drawn}", f"pictures/{CURVES}", f"tensorboard/{BOARD_FILES}"]
        own += [f"{TEMPORARY}*", f"*/{TEMPORARY}*"]
        return foreign(self.folder, re.compile("|".join(fnmatch.translate(pattern) for pattern in own)))

    def _clear(self, kind: Any) -> None:
        """Remove what the run in the folder made, by its names; what else is there stays."""
        drawn = [*self.pictures.glob(kind.pictures), self.pictures / CURVES, *self.board.glob(BOARD_FILES)]
        for path in (self.state_path, self.page_path, *drawn, *(p for p in self.parts() if p != self.config_path)):
            path.unlink(missing_ok=True)

    @classmethod
    def prepare(cls, folder: str | Path, config: Config, resume: bool = False, overwrite: bool = False) -> "Run":
        """Make or reopen the folder of a run, after all input was read, and lock it; raises as `check` does."""
        cls.check(folder, config, resume, overwrite)
        run = cls(folder)
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
            run.lock()
            cls._check(run, config, resume, overwrite)  # between the two checks another process may have made a run
            for where in (run.folder, run.state_path.parent, run.pictures):
                for path in where.glob(f"{TEMPORARY}*"):  # what a killed process was writing
                    path.unlink()
            if not resume and run.config_path.exists():
                from sinefield.fields.base import kind_of  # brings torch, which reading scores does not need

                run._clear(kind_of(run.check_own()))
            # First what makes the folder a run: killed after anything else, it could neither be resumed nor begun anew.
            run.write_config(config)
            run.pictures.mkdir(exist_ok=True)
            run.state_path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise write_error(run.folder, error) from error
        return run

    @classmethod
    @contextmanager
    def replacing(cls, folder: str | Path, config: Config, overwrite: bool = False) -> Iterator["Run"]:
        """A run to fill that takes the folder's place when it is filled, whole; until then what was there stays.

        Raises:
            SinefieldError: as `check`; the folder holds something that no run makes, and that would be lost.
        """
        run = cls(folder)
        cls.check(folder, config, overwrite=overwrite)
        check_folder_place(run.folder)
        if run.config_path.exists():
            from sinefield.fields.base import kind_of  # see `prepare`

            if others := run.strangers(kind_of(run.check_own()).pictures):
                raise SinefieldError(
                    f"{folder}: holds {others[0]!r}, which no run makes; move it away or give another name"
                )
        with atomic_folder(folder) as new:
            (new / run.pictures.name).mkdir()
            filled = cls(new)
            filled.write_config(config)
            yield filled

    def write_config(self, config: Config) -> None:
        """Write config.yaml, complete."""
        write_text(self.config_path, dump_yaml(to_plain(config)))

    def config(self) -> Config:
        """The run's complete configuration."""
        if not self.folder.is_dir():
            raise SinefieldError(f"{self.folder}: no such run folder or .sine file; give the --out of a training")
        return make_config(load_yaml(self.config_path), str(self.config_path))

    def read_report(self) -> dict[str, Any] | None:
        """The scores of the last evaluation; None where there was none. Raises SinefieldError if damaged."""
        if not self.report_path.exists():
            return None
        try:
            report = from_json(read_bytes(self.report_path, MAX_TEXT, "report"))
        except ValueError as error:
            raise SinefieldError(f"{self.report_path}: damaged ({error}); run `sinefield eval` again") from error
        if not isinstance(report, dict):
            raise SinefieldError(f"{self.report_path}: holds no report; run `sinefield eval` again")
        return report

    def append_metrics(self, line: dict[str, Any]) -> None:
        try:
            with self.metrics_path.open("a") as stream:
                stream.write(to_json(line) + "\n")
        except OSError as error:
            raise write_error(self.metrics_path, error) from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """All scored moments, each with its step; a line cut short or damaged by a crash is left out."""
        if not self.metrics_path.exists() or (self.metrics_path.is_file() and not self.metrics_path.stat().st_size):
            return []  # a full disk leaves an empty file
        lines = []
        for text in read_text(self.metrics_path, MAX_TEXT, "list of scores", errors="replace").splitlines():
            try:
                line = from_json(text)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
        return lines

    def cut_metrics(self, step: int) -> None:
        """Forget what was scored after `step`, which a resumed run scores again."""
        lines = [to_json(line) for line in self.read_metrics() if line["step"] <= step]
        write_text(self.metrics_path, "".join(line + "\n" for line in lines))


def _compare(old: Config, new: Config, folder: str | Path) -> None:
    before, after = _flatten(to_plain(old)), _flatten(to_plain(new))
    for key in before.keys() | after.keys():
        if key.rsplit(".", 1)[-1] in MAY_CHANGE and key.startswith("training."):
            continue
        if key in LEFT_TO_DATA and after.get(key) in (None, "auto"):
            continue
        if before.get(key) != after.get(key):
            raise SinefieldError(
                f"{folder}: cannot resume, {key} was {before.get(key)} and is now {after.get(key)}; "
                f"set it back, or train anew with --overwrite"
            )


def _flatten(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
