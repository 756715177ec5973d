"""A run is a folder that explains itself.

config.yaml        everything that was asked for
field.safetensors  the field; all that evaluation, mesh and video need
state/             what resuming needs
metrics.jsonl      a line each time the run was scored
report.json        final scores; scores.csv the same view by view
pictures/          curves, and reference / prediction / error side by side
report.html        all of that as one page, where `sinefield report` made it
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sinefield import __version__
from sinefield.adapters.edits import apply_edits, load_edit
from sinefield.compress.container import Packed
from sinefield.compress.header import BASE
from sinefield.config import Config, make_config
from sinefield.data.images import MAX_SIDE
from sinefield.errors import SinefieldError
from sinefield.fields.image import ImageField
from sinefield.fields.latent_shape import LatentShapeField
from sinefield.fields.shape import ShapeField
from sinefield.fields.surface import make_radiance_field
from sinefield.files import check_output, require_file, write_error, write_text
from sinefield.strict import dump_yaml, load_yaml, to_plain
from sinefield.tensor_files import load_tensors, save_tensors
from sinefield.training.sine_file import config_of, from_packed, is_sine, load_packed

MAY_CHANGE = {"seconds", "steps", "save_seconds", "score_seconds"}
"""Training settings that a resumed run may change: they move the end, not the road."""


class Run:
    """The files of one run folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config_path = self.folder / "config.yaml"
        self.field_path = self.folder / "field.safetensors"
        self.state_path = self.folder / "state" / "state.safetensors"
        self.photographs_path = self.folder / "photographs.safetensors"
        self.metrics_path = self.folder / "metrics.jsonl"
        self.report_path = self.folder / "report.json"
        self.page_path = self.folder / "report.html"
        self.pictures = self.folder / "pictures"

    @classmethod
    def check(cls, folder: str | Path, config: Config, resume: bool = False, overwrite: bool = False) -> None:
        """Refuse a folder that `prepare` would refuse, before any long work; nothing is written.

        Raises:
            SinefieldError: the folder holds a run and neither `resume` nor `overwrite` was given, holds something
                else, cannot be written, or a resumed run's settings differ.
        """
        run = cls(folder)
        if run.folder.exists() and not run.folder.is_dir():
            raise SinefieldError(f"{folder}: is a file; give a folder for --out")
        if resume:
            if not run.config_path.exists():
                raise SinefieldError(f"{folder}: holds no run to resume; leave --resume out or correct --out")
            _compare(run.config(), config, folder)
        elif run.config_path.exists():
            if not overwrite:
                raise SinefieldError(f"{folder}: holds a run already; use --overwrite, --resume or another --out")
        elif run.folder.exists() and any(run.folder.iterdir()):
            raise SinefieldError(f"{folder}: is not empty and holds no run; give another --out")
        check_output(run.config_path)

    @classmethod
    def prepare(cls, folder: str | Path, config: Config, resume: bool = False, overwrite: bool = False) -> "Run":
        """Make or reopen the folder of a run, after all input was read; raises as `check` does."""
        cls.check(folder, config, resume, overwrite)
        run = cls(folder)
        try:
            if not resume:
                old = [run.state_path, run.metrics_path, run.report_path, run.page_path, run.field_path]
                for path in [*old, run.photographs_path, run.folder / "scores.csv", *run.pictures.glob("*.png")]:
                    path.unlink(missing_ok=True)
            run.pictures.mkdir(parents=True, exist_ok=True)
            run.state_path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise write_error(run.folder, error) from error
        write_text(run.config_path, dump_yaml(to_plain(config)))
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
        """All scored moments; a line cut short by a crash is left out."""
        if not self.metrics_path.exists():
            return []
        lines = []
        for text in self.metrics_path.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
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
    field = _blank(note, tensors, path)
    state = field.state_dict()
    for name in _GRID_BITS & tensors.keys():
        if tensors[name].dtype != torch.uint8 or tensors[name].numel() * 8 < state[name].numel():
            raise SinefieldError(f"{path}: {name} does not fit its grid; the file is damaged, train again")
        tensors[name] = unpack_bits(tensors[name], state[name].shape)
    for name, tensor in tensors.items():
        if name in state and tensor.shape != state[name].shape:
            raise SinefieldError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, its settings say {tuple(state[name].shape)}; "
                "the file is damaged, train again"
            )
    missing = state.keys() - tensors.keys() - _GRID_STATE
    unknown = tensors.keys() - state.keys()
    if missing or unknown:
        raise SinefieldError(f"{path}: tensors do not fit the settings ({sorted(missing | unknown)}); train again")
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
    field = _blank({"kind": config.kind, "field": to_plain(config.field)}, tensors, run.state_path)
    try:
        field.load_state_dict(tensors)
    except RuntimeError as error:
        raise SinefieldError(f"{run.state_path}: does not fit {run.config_path}; train again") from error
    return field.eval().requires_grad_(False), note


def _size_of(size: Tensor, path: Path) -> tuple[int, int]:
    """Width and height of an image field, which has to be one that an image can have."""
    width, height = (int(side) for side in size.tolist()) if size.shape == (2,) else (0, 0)
    if not 1 <= min(width, height) <= max(width, height) <= MAX_SIDE:
        raise SinefieldError(f"{path}: its image has no sensible size; the file is damaged, train again")
    return width, height


def _blank(note: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> nn.Module:
    kind = note.get("kind")
    config = make_config({"kind": kind, "field": note.get("field"), "data": {"path": "-"}}, str(path)).field
    try:
        if kind == "shape":
            return ShapeField(config, tensors["centre"], tensors["scale"], tensors["aabb"])
        if kind == "shapes":
            return LatentShapeField(config)
        if kind == "image":
            return ImageField(config, *_size_of(tensors["size"], path))
        return make_radiance_field(config, tensors["grid.aabb"])
    except KeyError as error:
        raise SinefieldError(f"{path}: {error} is missing; the file is damaged, train again") from error
