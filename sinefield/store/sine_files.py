"""Fields to and from `.sine` files."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sinefield.compress.container import MAX_FILE, Packed, decode, encode
from sinefield.compress.quantize import Quantiser
from sinefield.config import FAMILIES, FOLDERS, KINDS, Config, locate, make_config, make_field_config, portable
from sinefield.errors import SinefieldError
from sinefield.example_files import file_of
from sinefield.fields.base import Field, kind_named, kind_of
from sinefield.fields.origins import origin_note, take_origin
from sinefield.files import read_bytes, write_bytes
from sinefield.strict import to_plain

READING = ("downscale", 1), ("background", "white"), ("holdout", 8), ("held_out", 8), ("noise", 0.005)
"""How data are read, and the usual way, which a file need not say."""


def to_packed(field: Field, quantisers: Mapping[str, Quantiser], note: dict[str, Any]) -> Packed:
    """A field with its parameters as the quantisers have them."""
    coded = {name: quantiser.coded() for name, quantiser in quantisers.items()}
    note = {**note, **origin_note(field)}
    return Packed(field.kind, to_plain(field.config), tensors=coded, note=note, **kind_of(field).parts(field))


def save_sine(path: str | Path, packed: Packed, overwrite: bool = True) -> int:
    """Write a `.sine` file atomically; returns its size in bytes."""
    data = encode(packed)
    write_bytes(path, data, overwrite)
    return len(data)


def load_packed(path: str | Path) -> Packed:
    """Read and check a `.sine` file.

    Raises:
        SinefieldError: missing, too large, not such a file, damaged; see `container.decode`.
    """
    return decode(read_bytes(file_of(path), MAX_FILE, "packed field"), _shapes, str(path))


def from_packed(packed: Packed, where: str) -> tuple[Field, dict[str, Any]]:
    """The field, ready to evaluate in float32, and its note."""
    settings = make_field_config(packed.kind, packed.settings, where)
    kind = kind_named(packed.kind)
    try:
        field = kind.from_parts(settings, packed)
    except SinefieldError as error:
        raise SinefieldError(f"{where}: {error}") from error
    with torch.no_grad():
        for name, parameter in field.named_parameters():
            parameter.copy_(torch.from_numpy(packed.tensors[name].values()))
    kind.restored(field)
    take_origin(field, packed.note, where)
    return field.eval().requires_grad_(False), packed.note


def note_of(config: Config, note: dict[str, Any]) -> dict[str, Any]:
    """What a file says of where its field comes from: seed, steps, how its data are read; a path only where it means
    the same on another machine."""
    path = portable(config.data.path) if hasattr(config.data, "path") else None
    data: dict[str, Any] = {} if path is None else {"path": path}
    for name, usual in READING:
        if getattr(config.data, name, usual) != usual:
            data[name] = getattr(config.data, name)
    kept = {key: note[key] for key in ("seed", "steps") if note.get(key) is not None}
    if config.training.steps is None:  # else they would be all that differs between two trainings of one seed
        kept["seconds"] = round(note.get("seconds") or 0)
    return {**kept, "data": data}


def config_of(packed: Packed, where: str, data: str | None = None) -> Config:
    """The configuration of a packed field, to evaluate it against its data.

    Arguments:
        data: the mesh, the photographs or the image; when None, what the file names, within a folder of `FOLDERS`.

    Raises:
        SinefieldError: the file names no data and `data` is None.
    """
    hint = packed.note.get("data")
    hint = hint if isinstance(hint, dict) else {}
    named = hint.get("path")
    if data is None:
        if not isinstance(named, str) or not named.startswith((*FOLDERS, FAMILIES)) or ".." in re.split("[/:]", named):
            raise SinefieldError(f"{where}: does not say what it was trained on; give --data PATH")
        data = named
    settings = {k: v for k, v in hint.items() if k in dict(READING)}
    content = {"kind": packed.kind, "field": packed.settings, "data": {"path": locate(data), **settings}}
    return make_config(content, where)


def _shapes(kind: str, settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a field's parameters, without the memory for them."""
    if kind == "adapter":
        raise SinefieldError("holds an adapter, not a field; see sinefield adapter info")
    if kind == "code":
        raise SinefieldError(
            "holds the code of one shape; open its set's base with it: --adapter CODE, in Python sf.load(BASE, [CODE])"
        )
    if kind not in KINDS:
        raise SinefieldError(f"holds a field of the kind {kind}, which is not known here; import what registers it")
    return kind_named(kind).shapes(make_field_config(kind, settings, "its settings"))
