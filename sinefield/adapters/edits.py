"""An edit: one packed adapter that turns a trained field into that of a changed scene.

It holds the fingerprint of the field that it was made for, and beside the factors only what they cannot say: the box of
a shape that is no longer the base's, and the cells of a radiance field's grid that filled or emptied.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sinefield.adapters.codes import coded
from sinefield.adapters.deltas import AdapterSpec
from sinefield.adapters.fields import adapt_field, adapted_weights, field_layers, fingerprint, settle
from sinefield.adapters.file import load_packed
from sinefield.compress.container import Packed
from sinefield.compress.quantize import Quantiser
from sinefield.errors import SinefieldError


def to_packed_edit(
    field: nn.Module,
    base: int,
    quantisers: Mapping[str, Quantiser],
    note: dict[str, Any],
    box: np.ndarray | None = None,
    cells: np.ndarray | None = None,
) -> Packed:
    """The edit that an adapted field is of its base, its factors as the quantisers have them.

    Arguments:
        base: the base's `fingerprint`.
        box: (6,) of the edited shape.
        cells: (levels · n, n, n) bool, cells of the grid that differ from the base's.
    """
    targets = {
        name: {**vars(layer.spec), "transposed": False, "rows": layer.b.shape[0], "columns": layer.a.shape[1]}
        for name, layer in adapted_weights(field).items()
    }
    grid = None if cells is None else cells.shape[:2]
    edit = {"of": field.kind, "base": base, "box": box, "grid": grid}
    coded = {f"{name}.{part}": quantisers[f"{name}.{part}"].coded() for name in targets for part in ("a", "b")}
    return Packed("adapter", {"targets": targets, "edit": edit}, None, coded, cells=cells, note=note)


def load_edit(path: str | Path, or_code: bool = False) -> Packed:
    """Read and check a `.sine` file that holds an edit; `or_code`: or the code of a shape of a set.

    Raises:
        SinefieldError: see `load_packed`; an adapter of some other model.
    """
    packed = load_packed(path, or_code)
    if packed.kind == "code":
        return packed
    if "edit" not in packed.settings:
        raise SinefieldError(f"{path}: is an adapter of a model, not an edit of a field; make one with sinefield adapt")
    if not all(np.isfinite(coded.values()).all() for coded in packed.tensors.values()):
        raise SinefieldError(f"{path}: has entries that are not finite; adapt the field again")
    return packed


def apply_edits(field: Any, paths: Sequence[str | Path], where: str | Path) -> Any:
    """Turn a field into the edited one, in place; its weights are dense from then on. Several edits add up.

    The first may be a code, which makes a new field of the network that a set of shapes shares.

    Arguments:
        where: the base, for messages.

    Raises:
        SinefieldError: no edit, or one of another base; a code that is not the first.
    """
    edits = [(str(path), load_edit(path, or_code=True)) for path in paths]
    if edits and edits[0][1].kind == "code":
        field = coded(field, edits[0][1], edits[0][0], str(where))
        edits = edits[1:]
    base, boxes, cells = fingerprint(field), [], []
    for path, packed in edits:
        _check(field, packed, base, path, str(where))
        adapt_field(field, {name: _spec(row) for name, row in packed.settings["targets"].items()})
        with torch.no_grad():
            for name, parameter in field.named_parameters():
                if name in packed.tensors:
                    parameter.copy_(torch.from_numpy(packed.tensors[name].values()))
        settle(field)
        field.config = replace(field.config, weights="dense")
        if packed.settings["edit"]["box"] is not None:
            boxes.append(packed.settings["edit"]["box"])
        if packed.cells is not None:
            cells.append(packed.cells)
    field.take_edit(boxes, cells)
    return field


def _spec(row: dict[str, Any]) -> AdapterSpec:
    return AdapterSpec(row["kind"], row["rank"], row["alpha"], row["omega"])


def _check(field: nn.Module, packed: Packed, base: int, path: str, where: str) -> None:
    if packed.kind == "code":
        raise SinefieldError(f"{path}: is a code, which comes before all edits, and alone; give one code at most")
    edit = packed.settings["edit"]
    if edit["of"] != field.kind:
        raise SinefieldError(f"{path}: edits a {edit['of']} field, {where} is a {field.kind} field; give its own base")
    if edit["base"] != base:
        raise SinefieldError(
            f"{path}: was made for another base than {where} (fingerprint {edit['base']:08x}, this one's {base:08x}); "
            "give the very run or file that it was adapted from"
        )
    layers = field_layers(field)
    for name, row in packed.settings["targets"].items():
        network, i = layers.get(name, (None, 0))
        if network is None or (row["rows"], row["columns"] - 1) != tuple(network.weights[i]().shape):
            raise SinefieldError(f"{path}: {where} has no layer {name} of its size; the file is damaged, adapt again")
    grid = None if packed.cells is None else tuple(packed.cells.shape)
    if (edit["box"] is not None and not field.has_own_box) or grid not in (None, field.cells_shape):
        raise SinefieldError(f"{path}: its box or grid is not that of {where}; the file is damaged, adapt again")
