"""Fields to and from `.sine` files."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sinefield.compress.container import MAX_FILE, Packed, decode, encode
from sinefield.compress.quantize import Quantiser
from sinefield.compress.settings import BASE
from sinefield.config import FAMILIES, FOLDERS, Config, locate, make_config, portable
from sinefield.data.surfaces.surface import Normalisation
from sinefield.errors import SinefieldError
from sinefield.fields.image.field import ImageField
from sinefield.fields.latent.field import LatentShapeField
from sinefield.fields.radiance.field import RadianceField
from sinefield.fields.radiance.surface import make_radiance_field
from sinefield.fields.shape.field import ShapeField
from sinefield.files import require_file, write_bytes

SUFFIX = ".sine"
READING = ("downscale", 1), ("background", "white"), ("holdout", 8), ("held_out", 8), ("noise", 0.005)
"""How data are read, and the usual way, which a file need not say."""
Field = ShapeField | RadianceField | ImageField | LatentShapeField


def is_sine(path: str | Path) -> bool:
    """Whether a path names a packed field rather than a run folder."""
    return Path(path).suffix.lower() == SUFFIX


def to_packed(field: Field, quantisers: dict[str, Quantiser], note: dict[str, Any]) -> Packed:
    """A field with its parameters as the quantisers have them."""
    packed = Packed(
        field.kind,
        {name: getattr(field.config, name) for name in BASE[field.kind]},
        None if isinstance(field, ImageField | LatentShapeField) else field.aabb.double().cpu().numpy(),
        {name: quantiser.coded() for name, quantiser in quantisers.items()},
        note=note,
    )
    if isinstance(field, ImageField):
        packed.size = field.width, field.height
    if isinstance(field, RadianceField):
        packed.background = field.background.cpu().numpy()
        packed.cells = field.grid.binaries.cpu().numpy()
        packed.view = field.view.cpu().numpy()
        packed.frame = field.frame.cpu().numpy()
    return packed


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
    path = require_file(path, "packed field")
    if path.stat().st_size > MAX_FILE:
        raise SinefieldError(f"{path}: larger than {MAX_FILE >> 20} MiB; it is no .sine file")
    return decode(path.read_bytes(), _shapes, str(path))


def from_packed(packed: Packed, where: str) -> tuple[Field, dict[str, Any]]:
    """The field, ready to evaluate in float32, and its note."""
    config = make_config({"kind": packed.kind, "field": packed.settings, "data": {"path": "-"}}, where)
    field = _build(packed, config)
    with torch.no_grad():
        for name, parameter in field.named_parameters():
            parameter.copy_(torch.from_numpy(packed.tensors[name].values()))
        if isinstance(field, RadianceField):
            field.background.copy_(torch.from_numpy(packed.background))
            field.view.copy_(torch.from_numpy(packed.view))
            if packed.frame is not None:
                field.frame.copy_(torch.from_numpy(packed.frame))
            field.grid.binaries.copy_(torch.from_numpy(packed.cells))
            field.find_solid()
    return field.eval().requires_grad_(False), packed.note


def note_of(config: Config, note: dict[str, Any]) -> dict[str, Any]:
    """What a file says of where its field comes from: seed, steps, how its data are read; a path only where it means
    the same on another machine."""
    path = portable(config.data.path)
    data: dict[str, Any] = {} if path is None else {"path": path}
    if config.kind != "shape":
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


def _build(packed: Packed, config: Config) -> Field:
    if packed.kind == "shapes":
        return LatentShapeField(config.field)
    if packed.kind == "image":
        return ImageField(config.field, *packed.size)
    if packed.kind == "radiance":
        return make_radiance_field(config.field, torch.from_numpy(packed.box).float())
    normalisation = Normalisation.fit(packed.box)
    centre, scale = (torch.tensor(v, dtype=torch.float64) for v in (normalisation.centre, normalisation.scale))
    return ShapeField(config.field, centre, scale, torch.from_numpy(packed.box))


def _shapes(kind: str, settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a field's parameters, without the memory for them."""
    if kind == "adapter":
        raise SinefieldError("holds an adapter, not a field; see sinefield adapter info")
    if kind not in BASE:
        raise SinefieldError(f"holds a field of the kind {kind}, which is not known here; import what registers it")
    config = make_config({"kind": kind, "field": settings, "data": {"path": "-"}}, "its settings")
    with torch.device("meta"):
        zero = torch.zeros((), dtype=torch.float64)
        if kind == "radiance":
            field: nn.Module = make_radiance_field(config.field, torch.zeros(6))
        elif kind == "shapes":
            field = LatentShapeField(config.field)
        elif kind == "image":
            field = ImageField(config.field, 1, 1)
        else:
            field = ShapeField(config.field, zero.expand(3), zero, zero.expand(6))
    return {name: tuple(p.shape) for name, p in field.named_parameters()}
