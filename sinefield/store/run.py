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
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sinefield import __version__
from sinefield.adapters.edits import apply_edits, load_edit
from sinefield.compress.container import Packed
from sinefield.compress.settings import BASE
from sinefield.config import Config, ShapesFieldConfig, make_config
from sinefield.data.photographs.images import MAX_SIDE
from sinefield.errors import SinefieldError
from sinefield.fields.image.field import ImageField
from sinefield.fields.latent.field import LatentShapeField
from sinefield.fields.radiance.surface import make_radiance_field
from sinefield.fields.shape.field import ShapeField
from sinefield.files import TEMPORARY, check_output, require_file, write_error, write_text
from sinefield.store.sine_files import config_of, from_packed, is_sine, load_packed
from sinefield.strict import dump_yaml, load_yaml, to_plain
from sinefield.tensor_files import load_tensors, save_tensors

MAY_CHANGE = {"seconds", "steps", "save_seconds", "score_seconds"}
"""Training settings that a resumed run may change: they move the end, not the road."""


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
        elif run.folder.exists() and not all(path.name.startswith(TEMPORARY) for path in run.folder.iterdir()):
            raise SinefieldError(f"{folder}: is not empty and holds no run; give another --out")
        check_output(run.config_path)

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
            if not resume:
                old = [run.state_path, run.metrics_path, run.report_path, run.page_path, run.field_path]
                for path in [*old, run.photographs_path, run.folder / "scores.csv", *run.pictures.glob("*.png")]:
                    path.unlink(missing_ok=True)
            # First what makes the folder a run: killed after anything else, it could neither be resumed nor begun anew.
            write_text(run.config_path, dump_yaml(to_plain(config)))
            run.pictures.mkdir(exist_ok=True)
            run.state_path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise write_error(run.folder, error) from error
        return run

    def config(self) -> Config:
        """The run's complete configuration."""
        if not self.folder.is_dir():
            raise SinefieldError(f"{self.folder}: no such run folder; give the --out of a training")
        return make_config(load_yaml(self.config_path), str(self.config_path))

    def read_report(self) -> dict[str, Any] | None:
        """The scores of the last evaluation; None where there was none. Raises SinefieldError if damaged."""
        if not self.report_path.exists():
            return None
        try:
            report = json.loads(require_file(self.report_path, "report").read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise SinefieldError(f"{self.report_path}: damaged ({error}); run `sinefield eval` again") from error
        if not isinstance(report, dict):
            raise SinefieldError(f"{self.report_path}: holds no report; run `sinefield eval` again")
        return report

    def append_metrics(self, line: dict[str, Any]) -> None:
        try:
            with self.metrics_path.open("a") as stream:
                stream.write(json.dumps(line) + "\n")
        except OSError as error:
            raise write_error(self.metrics_path, error) from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """All scored moments, each with its step; a line cut short or damaged by a crash is left out."""
        if not self.metrics_path.exists():
            return []
        lines = []
        for text in self.metrics_path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
        return lines

    def cut_metrics(self, step: int) -> None:
        """Forget what was scored after `step`, which a resumed run scores again."""
        lines = [json.dumps(line) for line in self.read_metrics() if line["step"] <= step]
        write_text(self.metrics_path, "".join(line + "\n" for line in lines))


def _compare(old: Config, new: Config, folder: str | Path) -> None:
    before, after = _flatten(to_plain(old)), _flatten(to_plain(new))
    for key in before.keys() | after.keys():
        if key.rsplit(".", 1)[-1] in MAY_CHANGE and key.startswith("training."):
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


def pack_bits(mask: Tensor) -> Tensor:
    """A bool tensor as bytes, eight to one."""
    flat = torch.nn.functional.pad(mask.flatten(), (0, -mask.numel() % 8)).view(-1, 8)
    return (flat.to(torch.uint8) << torch.arange(8, dtype=torch.uint8, device=mask.device)).sum(1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, shape: torch.Size) -> Tensor:
    """Inverse of `pack_bits`."""
    bits = (packed[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.flatten()[: shape.numel()].bool().view(shape)


def save_field(path: str | Path, field: nn.Module, note: dict[str, Any] | None = None) -> None:
    """Write a field's file: parameters, box, normalisation, occupied cells as bits."""
    tensors = {name: t.cpu() for name, t in field.state_dict().items() if name not in _GRID_STATE}
    for name in _GRID_BITS & tensors.keys():
        tensors[name] = pack_bits(tensors[name])
    about = {**(note or {}), "version": __version__, "kind": field.kind, "field": to_plain(field.config)}
    save_tensors(path, tensors, about)


_GRID_STATE = {"grid.occs", "grid.allowed"}  # needed to go on training, not to render
_GRID_BITS = {"grid.binaries", "grid.solid"}


def load_field(path: str | Path, adapters: Sequence[str | Path] = ()) -> tuple[nn.Module, dict[str, Any]]:
    """A field from a run folder, its field.safetensors or a .sine file, ready to evaluate in float32; and its note.

    Arguments:
        adapters: files of `sinefield adapt`, whose edits are applied; the note stays the base's.

    Raises:
        SinefieldError: missing or damaged, a kind or setting that is not known, tensors that do not fit; an adapter of
            another base.
    """
    field, note = _load_field(Path(path))
    if adapters:
        apply_edits(field, adapters, path)
    return field, note


def _load_field(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    if is_sine(path):
        return from_packed(load_packed(path), str(path))
    if path.is_dir():
        if not (path / "field.safetensors").exists():
            hint = "training has not finished; go on with --resume" if (path / "state").is_dir() else "not a run folder"
            raise SinefieldError(f"{path}: holds no field.safetensors ({hint})")
        path = path / "field.safetensors"
    tensors, note = load_tensors(path, "field")
    for key in ("seed", "steps", "seconds"):
        if not isinstance(note.get(key), int | float | None):
            raise SinefieldError(f"{path}: its note's {key} is no number; the file is damaged, train again")
    field = _blank(note, tensors, path)
    shapes = {name: t.shape for name, t in field.state_dict().items()}
    for name in _GRID_BITS & tensors.keys() & shapes.keys():
        if tensors[name].dtype != torch.uint8 or tensors[name].numel() * 8 < shapes[name].numel():
            raise SinefieldError(f"{path}: {name} does not fit its grid; the file is damaged, train again")
        tensors[name] = unpack_bits(tensors[name], shapes[name])
    _check_tensors(tensors, shapes, path, _GRID_STATE)
    field.load_state_dict(tensors, strict=False)
    return field.eval().requires_grad_(False), note


def edited_config(base: str | Path, adapters: Sequence[str | Path], data: str | None = None) -> Config:
    """What an edited field is scored against: the base's settings, and the data that the last edit names.

    Arguments:
        data: the changed mesh, photographs or image, where the edit does not name them.

    Raises:
        SinefieldError: no base, no edit, or an edit that does not name its data while `data` is None.
    """
    if is_sine(base):
        packed = load_packed(base)
    else:
        config = Run(Path(base).parent if Path(base).is_file() else base).config()
        packed = Packed(config.kind, {name: getattr(config.field, name) for name in BASE[config.kind]}, None, {})
    packed.note = load_edit(adapters[-1]).note
    return config_of(packed, str(adapters[-1]), data)


def load_state_field(run: Run) -> tuple[nn.Module, dict[str, Any]]:
    """The field of a run's last saved state, finished or not, ready to evaluate in float32; and the state's note.

    Returns:
        the field, and {"step", "seconds"} of its training.

    Raises:
        SinefieldError: there is no state, it is damaged, or it does not fit the run's settings.
    """
    tensors, note = load_tensors(run.state_path, "state")
    tensors = {name[6:]: tensor for name, tensor in tensors.items() if name.startswith("field.")}
    config = run.config()
    about = {"kind": config.kind, "field": to_plain(config.field)}
    field = _blank(about, tensors, run.state_path)
    _check_tensors(tensors, {name: t.shape for name, t in field.state_dict().items()}, run.state_path)
    field.load_state_dict(tensors)
    return field.eval().requires_grad_(False), note


def _size_of(size: Tensor, path: Path) -> tuple[int, int]:
    """Width and height of an image field, which has to be one that an image can have."""
    width, height = (
        (int(side) for side in size.tolist()) if size.shape == (2,) and size.dtype == torch.int64 else (0, 0)
    )
    if not 1 <= min(width, height) <= max(width, height) <= MAX_SIDE:
        raise SinefieldError(f"{path}: its image has no sensible size; the file is damaged, train again")
    return width, height


def _blank(note: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> nn.Module:
    """The field that a file describes, without its numbers; refused before it takes more memory than they fill."""
    kind = note.get("kind")
    config = make_config({"kind": kind, "field": note.get("field"), "data": {"path": "-"}}, str(path)).field
    least, there = _least_numbers(config), sum(t.numel() for t in tensors.values())
    if least > there:
        raise SinefieldError(
            f"{path}: its settings say at least {least:,} numbers, it holds {there:,}; the file is damaged, train again"
        )
    if kind == "shapes":
        return LatentShapeField(config)
    for name, shape in {"shape": PLACES, "image": {"size": (2,)}, "radiance": {"grid.aabb": (6,)}}[kind].items():
        if name not in tensors or tensors[name].shape != shape:
            raise SinefieldError(f"{path}: {name} is missing or of a wrong shape; the file is damaged, train again")
    if kind == "shape":
        return ShapeField(config, *(tensors[name] for name in PLACES))
    if kind == "image":
        return ImageField(config, *_size_of(tensors["size"], path))
    return make_radiance_field(config, tensors["grid.aabb"])


PLACES: dict[str, tuple[int, ...]] = {"centre": (3,), "scale": (), "aabb": (6,)}
"""What a shape's field keeps of its place."""


def _least_numbers(config: Any) -> int:
    """How many numbers a field of these settings has at least."""
    if isinstance(config, ShapesFieldConfig):
        return 4 * config.blocks * config.dim**2  # of self-attention
    square = config.width if config.weights == "dense" else 2 * config.rank
    least = (config.depth - 1) * config.width * square
    if config.encoding == "hash":
        least += 2 * min((config.finest + 1) ** 3, 1 << config.log2_table)  # of its largest table
    if hasattr(config, "grid"):
        least += config.features * (config.width + config.head_width) + (config.head_depth - 1) * config.head_width**2
        least += 2 * (config.grid**3 * config.grid_levels // 8)  # cells, as bits
    return least


def _check_tensors(
    tensors: dict[str, Tensor], shapes: dict[str, torch.Size], path: Path, optional: Collection[str] = ()
) -> None:
    """Refuse tensors that are not those of a field, or hold what no field does."""
    for name, tensor in tensors.items():
        if name in shapes and tensor.shape != shapes[name]:
            raise SinefieldError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, its settings say {tuple(shapes[name])}; "
                "the file is damaged, train again"
            )
    wrong = (shapes.keys() - tensors.keys() - set(optional)) | (tensors.keys() - shapes.keys())
    if wrong:
        raise SinefieldError(f"{path}: tensors do not fit the settings ({sorted(wrong)}); train again")
    for name, tensor in tensors.items():
        if tensor.is_complex() or (tensor.is_floating_point() and not bool(tensor.float().isfinite().all())):
            raise SinefieldError(f"{path}: {name} holds what is no finite number; the file is damaged, train again")
    box = tensors.get("aabb", tensors.get("grid.aabb"))
    if box is not None:
        extent = (box[3:] - box[:3]).double()
        sound = bool((extent >= 0).all()) and float(extent.min() if "grid.aabb" in tensors else extent.max()) > 0
        if not sound or not float(tensors.get("scale", torch.ones(()))) > 0:
            raise SinefieldError(f"{path}: its box or scale is no box; the file is damaged, train again")
    view = tensors.get("view")
    if view is not None and not (view[3:6].any() and view[6] > 0 and view[7].abs() < 90 and _in_range(view[9:])):
        raise SinefieldError(f"{path}: its camera path cannot be flown; the file is damaged, train again")


def _in_range(sides: Tensor) -> bool:
    return bool(((sides >= 1) & (sides <= MAX_SIDE)).all())
