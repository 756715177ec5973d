"""Fields to and from files: the one place that saves and loads them."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sinefield.adapters.edits import apply_edits, load_edit
from sinefield.compress.container import Packed
from sinefield.config import Config, make_field_config
from sinefield.errors import SinefieldError
from sinefield.example_files import is_sine
from sinefield.fields.base import Field, Kind, kind_named, kind_of
from sinefield.fields.origins import origin_note, take_origin
from sinefield.store.run import Run
from sinefield.store.sine_files import config_of, from_packed, load_packed
from sinefield.strict import to_plain
from sinefield.tensor_files import load_tensors, save_tensors
from sinefield.version import __version__

AGAIN = "the file is damaged, train again"


def save_field(path: str | Path, field: Field, note: dict[str, Any] | None = None) -> None:
    """Write a field's file: parameters, box, normalisation, occupied cells as bits."""
    kind = kind_of(field)
    tensors = {name: t.cpu() for name, t in field.state_dict().items() if name not in kind.unsaved}
    for name in kind.bits & tensors.keys():
        tensors[name] = pack_bits(tensors[name])
    about = {**(note or {}), **origin_note(field), "version": __version__, "kind": field.kind}
    about["field"] = to_plain(field.config)
    save_tensors(path, tensors, about)


def load_field(path: str | Path, adapters: Sequence[str | Path] = ()) -> tuple[Field, dict[str, Any]]:
    """A field from a run folder, its field.safetensors or a `.sine` file, ready to evaluate in float32; and its note.

    Arguments:
        path: or `example:NAME`, one of those that the package brings.
        adapters: files of `sinefield adapt`, whose edits are applied; the note stays the base's.

    Raises:
        SinefieldError: missing or damaged, a kind or setting that is not known, tensors that do not fit; an adapter of
            another base.
    """
    field, note = from_packed(load_packed(path), str(path)) if is_sine(path) else _load_tensors(Path(path))
    if adapters:
        field = apply_edits(field, adapters, path)
    return field, note


def load_state_field(run: Run) -> tuple[Field, dict[str, Any]]:
    """The field of a run's last saved state, finished or not, ready to evaluate in float32; and the state's note.

    Returns:
        the field, and {"step", "seconds"} of its training.

    Raises:
        SinefieldError: there is no state, it is damaged, or it does not fit the run's settings.
    """
    tensors, note = load_tensors(run.state_path, "state")
    tensors = {name[6:]: tensor for name, tensor in tensors.items() if name.startswith("field.")}
    config = run.config()
    return _filled(kind_of(config), config.field, tensors, run.state_path, complete=True), note


def edited_config(base: str | Path, adapters: Sequence[str | Path], data: str | None = None) -> Config:
    """What an edited field is scored against: the base's settings, and the data that the last edit names.

    With a code it is a shape, of the settings that the code's base says.

    Arguments:
        data: the changed mesh, photographs or image, where the edit does not name them.

    Raises:
        SinefieldError: no base, no edit, or an edit that does not name its data while `data` is None.
    """
    if load_edit(adapters[0], or_code=True).kind == "code":
        shape, _ = load_field(base, adapters[:1])
        packed = Packed(shape.kind, to_plain(shape.config), None, {})
    elif is_sine(base):
        packed = load_packed(base)
    else:
        config = Run(Path(base).parent if Path(base).is_file() else base).config()
        packed = Packed(config.kind, to_plain(config.field), None, {})
    packed.note = load_edit(adapters[-1], or_code=True).note
    return config_of(packed, str(adapters[-1]), data)


def pack_bits(mask: Tensor) -> Tensor:
    """A bool tensor as bytes, eight to one."""
    flat = torch.nn.functional.pad(mask.flatten(), (0, -mask.numel() % 8)).view(-1, 8)
    return (flat.to(torch.uint8) << torch.arange(8, dtype=torch.uint8, device=mask.device)).sum(1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, shape: torch.Size) -> Tensor:
    """Inverse of `pack_bits`."""
    bits = (packed[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.flatten()[: shape.numel()].bool().view(shape)


def _load_tensors(path: Path) -> tuple[Field, dict[str, Any]]:
    """Of a run folder or its file of tensors."""
    if path.is_dir():
        if not (path / "field.safetensors").exists():
            hint = "training has not finished; go on with --resume" if (path / "state").is_dir() else "not a run folder"
            raise SinefieldError(f"{path}: holds no field.safetensors ({hint})")
        path = path / "field.safetensors"
    tensors, note = load_tensors(path, "field")
    for key in ("seed", "steps", "seconds"):
        if not isinstance(note.get(key), int | float | None):
            raise SinefieldError(f"{path}: its note's {key} is no number; {AGAIN}")
    settings = make_field_config(note.get("kind"), note.get("field"), str(path))
    field = _filled(kind_named(note["kind"]), settings, tensors, path)
    take_origin(field, note, str(path))
    return field, note


def _filled(kind: Kind, settings: Any, tensors: dict[str, Tensor], path: Path, complete: bool = False) -> Field:
    """The field that stored tensors are of; refused before it takes more memory than they fill.

    Arguments:
        complete: they are a state's, which holds what training alone needs too, bits as they are.
    """
    least, there = kind.numbers(settings), sum(t.numel() for t in tensors.values())
    if least > there:
        raise SinefieldError(f"{path}: its settings say at least {least:,} numbers, it holds {there:,}; {AGAIN}")
    for name, shape in kind.placed.items():
        if name not in tensors or tensors[name].shape != shape:
            raise SinefieldError(f"{path}: {name} is missing or of a wrong shape; {AGAIN}")
    try:
        field = kind.blank(settings, {name: tensors[name] for name in kind.placed})
    except SinefieldError as error:
        raise SinefieldError(f"{path}: {error}") from error
    shapes = {name: t.shape for name, t in field.state_dict().items()}
    if not complete:
        for name in kind.bits & tensors.keys() & shapes.keys():
            if tensors[name].dtype != torch.uint8 or tensors[name].numel() * 8 < shapes[name].numel():
                raise SinefieldError(f"{path}: {name} does not fit its grid; {AGAIN}")
            tensors[name] = unpack_bits(tensors[name], shapes[name])
    _check_tensors(tensors, shapes, path, () if complete else kind.unsaved)
    kind.check(tensors, str(path))
    field.load_state_dict(tensors, strict=False)
    return field.eval().requires_grad_(False)


def _check_tensors(
    tensors: dict[str, Tensor], shapes: dict[str, torch.Size], path: Path, optional: Collection[str] = ()
) -> None:
    """Refuse tensors that are not those of a field, or hold what no field does."""
    for name, tensor in tensors.items():
        if name in shapes and tensor.shape != shapes[name]:
            raise SinefieldError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, its settings say {tuple(shapes[name])}; {AGAIN}"
            )
    wrong = (shapes.keys() - tensors.keys() - set(optional)) | (tensors.keys() - shapes.keys())
    if wrong:
        raise SinefieldError(f"{path}: tensors do not fit the settings ({sorted(wrong)}); train again")
    for name, tensor in tensors.items():
        if tensor.is_complex() or (tensor.is_floating_point() and not bool(tensor.float().isfinite().all())):
            raise SinefieldError(f"{path}: {name} holds what is no finite number; {AGAIN}")
