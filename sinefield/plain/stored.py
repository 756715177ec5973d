"""Stored shape fields, read by NumPy alone.

What NumPy cannot evaluate, and what is damaged, is left to `store.fields.load_field`, which says what is wrong.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sinefield.compress.container import MAX_FILE, decode
from sinefield.config import make_field_config
from sinefield.data.surfaces.placement import Normalisation
from sinefield.errors import SinefieldError
from sinefield.example_files import file_of, is_sine
from sinefield.files import read_bytes
from sinefield.json_text import from_json
from sinefield.plain.network import shape_parameters
from sinefield.tensor_bytes import read_arrays

Array = NDArray[Any]
PLACE: dict[str, tuple[int, ...]] = {"centre": (3,), "scale": (), "aabb": (6,)}


class StoredShape(dict[str, Array]):
    """The arrays of a stored shape field, by the names of its state dict.

    Attributes:
        config: its settings, a `ShapeFieldConfig`.
        note: what the file says of where it comes from.
    """

    def __init__(self, arrays: dict[str, Array], config: Any, note: dict[str, Any]) -> None:
        super().__init__(arrays)
        self.config, self.note = config, note


def stored_shape(path: str | Path) -> StoredShape | None:
    """The shape field of a run folder, its field.safetensors or a `.sine` file; None for what needs torch."""
    try:
        return _packed(path) if is_sine(path) else _saved(path)
    except (SinefieldError, _NeedsTorch):
        return None


def file_with(path: str | Path) -> Path:
    """The file that holds the field of a run folder or `.sine` file."""
    if is_sine(path):
        return file_of(path)
    return Path(path) / "field.safetensors" if Path(path).is_dir() else Path(path)


class _NeedsTorch(Exception):
    """Another kind of field, or one that is damaged."""


def _packed(path: str | Path) -> StoredShape:
    def shapes(kind: str, settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        if kind != "shape":
            raise _NeedsTorch
        return shape_parameters(make_field_config(kind, settings, str(path)))

    packed = decode(read_bytes(file_of(path), MAX_FILE, "packed field"), shapes, str(path))
    if packed.box is None:
        raise _NeedsTorch
    place = Normalisation.fit(packed.box)
    arrays = {name: coded.values() for name, coded in packed.tensors.items()}
    arrays |= {"centre": np.array(place.centre), "scale": np.array(place.scale), "aabb": packed.box}
    return _sound(StoredShape(arrays, make_field_config("shape", packed.settings, str(path)), packed.note))


def _saved(path: str | Path) -> StoredShape:
    try:
        arrays, texts = read_arrays(file_with(path), "field")
        note = from_json(texts["sinefield"])
        if note["kind"] != "shape":
            raise _NeedsTorch
    except (KeyError, ValueError, TypeError) as error:
        raise _NeedsTorch from error
    config = make_field_config("shape", note.get("field"), str(path))
    if shape_parameters(config) | PLACE != {name: array.shape for name, array in arrays.items()}:
        raise _NeedsTorch
    return _sound(StoredShape(arrays, config, note))


def _sound(shape: StoredShape) -> StoredShape:
    box = shape["aabb"]
    finite = all(array.dtype.kind == "f" and np.isfinite(array).all() for array in shape.values())
    if not finite or not (box[3:] >= box[:3]).all() or not (box[3:] > box[:3]).any() or not float(shape["scale"]) > 0:
        raise _NeedsTorch
    return shape
