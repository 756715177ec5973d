"""Adapters to and from files: safetensors as trained, `.sine` quantised; and a base's files with one merged in."""

import dataclasses
import math
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from sinefield.adapters.attach import Attached, adapted_layers, attach_each, count, layers_by_name, unwrapped_name
from sinefield.adapters.deltas import AdapterSpec, effective
from sinefield.adapters.layers import Adapted
from sinefield.adapters.layouts import layout_of, supports
from sinefield.adapters.peft_files import is_peft, load_peft
from sinefield.adapters.targets import Target
from sinefield.compress.adapter_table import tensor_shapes
from sinefield.compress.container import MAX_FILE, Packed, decode, encode
from sinefield.compress.quantize import Codebook, Uniform
from sinefield.errors import SinefieldError
from sinefield.files import (
    atomic_folder,
    atomic_path,
    check_folder_place,
    check_output,
    foreign,
    read_bytes,
    require_file,
    write_bytes,
)
from sinefield.strict import build, nearest
from sinefield.tables import table
from sinefield.tensor_files import load_tensors, save_tensors

SUFFIX = ".sine"
QUANTISERS = ("kmeans", "uniform")
LARGEST = 60_000  # a codebook's entries are float16


@dataclass
class _Row:
    """A target's settings as a file has them."""

    kind: str
    rank: int
    alpha: float
    omega: float | None
    transposed: bool
    rows: int
    columns: int


def targets_of(model: nn.Module, name: str = "default") -> dict[str, Target]:
    """One adapter of a model as plain tensors on the CPU, by layer.

    Raises:
        SinefieldError: the model has no adapter of that name.
    """
    found = {}
    layers = adapted_layers(model)
    for target, layer in layers.items():
        if name in layer.adapters:
            adapter = layer.adapter(name)
            magnitude = None if adapter.magnitude is None else adapter.magnitude.detach().cpu()
            factors = adapter.a.detach().cpu(), adapter.b.detach().cpu()
            found[target] = Target(adapter.spec, layer.layout.transposed, *factors, magnitude)
    if not found:
        known = sorted({n for layer in layers.values() for n in layer.adapters})
        raise SinefieldError(f"no adapter named {name}; " + (nearest(name, known) if known else "the model has none"))
    return found


def save_adapter(
    model: nn.Module, path: str | Path, name: str = "default", overwrite: bool = True
) -> dict[str, Target]:
    """Write one adapter of a model as safetensors, atomically; tensors are LAYER.a, LAYER.b, LAYER.magnitude.

    Raises:
        SinefieldError: no such adapter, or the file cannot be written.
    """
    targets = targets_of(model, name)
    tensors = {f"{target}.{part}": t for target, found in targets.items() for part, t in found.tensors().items()}
    rows = {target: found.settings() for target, found in targets.items()}
    save_tensors(path, tensors, {"adapter": 1, "targets": rows}, overwrite)
    return targets


def load_adapter(path: str | Path) -> dict[str, Target]:
    """Read an adapter by layer, from safetensors, `.sine`, or what PEFT saved (the folder or its safetensors).

    Raises:
        SinefieldError: the file is missing, damaged, no adapter, or holds other tensors than it should.
    """
    if Path(path).suffix.lower() == SUFFIX:
        packed = load_packed(path)
        values = {name: torch.from_numpy(coded.values()) for name, coded in packed.tensors.items()}
        return _targets(packed.settings, values, str(path))
    if is_peft(path):
        settings, values = load_peft(path)
        return _targets(settings, values, str(path))
    tensors, note = load_tensors(path, "saved adapter")
    rows = note.get("targets") if isinstance(note, dict) and note.get("adapter") == 1 else None
    if not isinstance(rows, dict) or not rows:
        raise SinefieldError(f"{path}: holds no adapter; save one with sinefield.adapters.save_adapter")
    settings = {name: vars(build(_Row, row, f"{path}: {name}")) for name, row in rows.items()}
    return _targets({"targets": settings}, tensors, str(path))


def load_packed(path: str | Path, or_code: bool = False) -> Packed:
    """Read and check a `.sine` file that holds an adapter; `or_code`: or the code of a shape of a set.

    Raises:
        SinefieldError: missing, too large, damaged, or a field's; see `container.decode`.
    """

    def shapes(kind: str, settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        if kind == "code" and or_code:
            return {}
        if kind == "code":
            raise SinefieldError(f"{path}: holds the code of one shape, not an adapter; open the set's base with it")
        if kind != "adapter":
            raise SinefieldError(f"{path}: holds a {kind} field, not an adapter; see sinefield info")
        return tensor_shapes(settings)

    return decode(read_bytes(path, MAX_FILE, "adapter"), shapes, str(path))


def _targets(settings: dict[str, Any], tensors: dict[str, Tensor], where: str) -> dict[str, Target]:
    """Tensors by layer, each of the shape that it must have, none missing and none left over."""
    shapes = tensor_shapes(settings)
    for what, names in (("lacks", shapes.keys() - tensors.keys()), ("has the unknown", tensors.keys() - shapes.keys())):
        if names:
            raise SinefieldError(f"{where}: {what} tensor {min(names)} ({len(names)} such); save the adapter again")
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            size = "×".join(map(str, tensor.shape[:8])) + "×…" * (tensor.dim() > 8)
            raise SinefieldError(f"{where}: {name} is {size} of {tensor.dtype}; should be {'×'.join(map(str, shape))}")
        if not torch.isfinite(tensor).all():
            raise SinefieldError(f"{where}: {name} has entries that are not finite; train the adapter again")
    found = {}
    for name, row in settings["targets"].items():
        own = unwrapped_name(name)
        if own in found:
            raise SinefieldError(f"{where}: {name} is there twice, but for torch's wrappers; save the adapter again")
        try:
            spec = AdapterSpec(row["kind"], row["rank"], row["alpha"], row["omega"])
        except SinefieldError as error:
            raise SinefieldError(f"{where}: {name}: {error}") from error
        found[own] = Target(
            spec, row["transposed"], tensors[f"{name}.a"], tensors[f"{name}.b"], tensors.get(f"{name}.magnitude")
        )
    return found


def restore(model: nn.Module, adapter: str | Path | dict[str, Target], name: str = "default") -> Attached:
    """Put a saved adapter on a model and make it the active one, to use or to train on: what else of the model trains
    stays as it was, see `train_only`.

    Arguments:
        adapter: file, or what `load_adapter` gave.
        name: what it is called from now on.

    Raises:
        SinefieldError: the model lacks one of its layers, or one is of another size; the model is then as it was.
    """
    where = "adapter" if isinstance(adapter, dict) else str(adapter)
    targets = adapter if isinstance(adapter, dict) else load_adapter(adapter)
    layers = layers_by_name(model)
    able = [target for target, layer in layers.items() if isinstance(layer, Adapted) or supports(layer)]
    if not any(target in able for target in targets):  # saved from within DistributedDataParallel or DataParallel
        targets = {target.removeprefix("module."): saved for target, saved in targets.items()}
    for target, saved in targets.items():
        if target not in able:
            raise SinefieldError(
                f"{where}: the model has no layer {target} that can be adapted; {nearest(target, able)}"
            )
        layer: Any = layers[target]
        layer = layer.base if isinstance(layer, Adapted) else layer
        layout = layout_of(layer)
        rows, columns = layout.size(layer)
        if (rows, columns) != (saved.rows, saved.columns) or layout.transposed != saved.transposed:
            raise SinefieldError(
                f"{where}: {target} is for a {_size(saved.rows, saved.columns, saved.transposed)} matrix, the model's "
                f"is {_size(rows, columns, layout.transposed)}; use the base model it was trained on"
            )
    attach_each(model, {target: saved.spec for target, saved in targets.items()}, name)
    with torch.no_grad():
        for target, saved in targets.items():
            adapted = layers_by_name(model)[target]
            assert isinstance(adapted, Adapted)
            for part, value in saved.tensors().items():
                getattr(adapted.adapter(name), part).copy_(value)
    return Attached(name, list(targets), *count(model))


def _size(rows: int, columns: int, transposed: bool) -> str:
    return f"{rows}×{columns}" + (" (held as its transpose)" if transposed else "")


def pack_adapter(
    path: str | Path, out: str | Path, bits: int, quantiser: str = "kmeans", overwrite: bool = False
) -> dict[str, Any]:
    """Quantise a saved adapter into one `.sine` file; the factors at `bits`, DoRA's lengths at 8.

    Arguments:
        bits: 1 to 8 an entry, before entropy coding.
        quantiser: "kmeans", a codebook a tensor, or "uniform", a step a tensor.

    Returns:
        out, bytes, float_bytes (float32), params, bits, quantiser, delta_error (‖ΔW − packed ΔW‖ / ‖ΔW‖ over all
        layers; None of a delta that is 0), seconds.

    Raises:
        SinefieldError: no adapter, bits outside 1 to 8, an unknown quantiser, or OUT exists.
    """
    begin = time.perf_counter()
    if quantiser not in QUANTISERS:
        raise SinefieldError(f"unknown quantiser {quantiser!r}; one of {', '.join(QUANTISERS)}")
    if not 1 <= bits <= 8:
        raise SinefieldError(f"{bits} bits; 1 to 8")
    if Path(out).suffix.lower() != SUFFIX:
        raise SinefieldError(f"{out}: a packed adapter ends in {SUFFIX}; give such a name")
    check_output(out, overwrite)
    targets = load_adapter(path)
    make = Codebook if quantiser == "kmeans" else Uniform
    coded = {}
    for name, target in tqdm(targets.items(), desc="quantising", unit="layer", disable=None, leave=False):
        for part, tensor in target.tensors().items():
            if tensor.abs().max() > LARGEST:
                raise SinefieldError(f"{path}: {name}.{part} has entries beyond ±{LARGEST:,}; train the adapter again")
            tensor = tensor.float()
            rounded = Uniform(tensor, bits=8, affine=True) if part == "magnitude" else make(tensor, bits=bits)
            coded[f"{name}.{part}"] = rounded.coded()
    settings = {"targets": {name: target.settings() for name, target in targets.items()}}
    data = encode(Packed("adapter", settings, None, coded))
    write_bytes(out, data, overwrite)
    error, size = 0.0, 0.0
    for name, packed in load_adapter(out).items():
        true, seen = (effective(None, [t.spec], None, [(t.a.float(), t.b.float())]) for t in (targets[name], packed))
        error, size = error + float((true - seen).square().sum()), size + float(true.square().sum())
    params = sum(t.numel() for target in targets.values() for t in target.tensors().values())
    return {
        **{"out": str(out), "bytes": len(data), "float_bytes": 4 * params, "params": params},
        **{"bits": bits, "quantiser": quantiser, "delta_error": math.sqrt(error / size) if size else None},
        "seconds": time.perf_counter() - begin,
    }


def describe_adapter(path: str | Path) -> tuple[dict[str, Any], str]:
    """Report and text: the layers, how each is stored, what it takes."""
    targets = load_adapter(path)
    rows, edit = [], None
    for name, target in targets.items():
        params = sum(t.numel() for t in target.tensors().values())
        spec = dataclasses.asdict(target.spec)
        rows.append({"layer": name, "matrix": [target.rows, target.columns], **spec, "params": params})
    if Path(path).suffix.lower() == SUFFIX:
        packed = load_packed(path)
        edit = packed.settings.get("edit")
        encode(packed)  # coding again is deterministic, and tells each part's share
        for row in rows:
            parts = {k: c for k, c in packed.tensors.items() if k.rpartition(".")[0] == row["layer"]}
            row["bytes"] = round(sum(c.bytes for c in parts.values()), 1)
            row["bits"] = round(8 * row["bytes"] / row["params"], 2)
    params = sum(row["params"] for row in rows)
    report = {"file": str(path), "kind": "adapter", "params": params, "bytes": Path(path).stat().st_size}
    columns = [c for c in rows[0] if any(row[c] is not None for row in rows)]
    head = f"{path}: adapter on {len(rows)} layers, {params:,} parameters in {report['bytes']:,} bytes"
    if edit is not None:
        changed = "" if packed.cells is None else f", {int(packed.cells.sum()):,} cells of its grid change"
        head += f"\nedit of a {edit['of']} field, fingerprint {edit['base']:08x}{changed}"
        scores = [f"{k} {a:.4g} before packing, {b:.4g} after" for k, (a, b) in _scores_of(packed.note)]
        head = ", ".join([head, *scores])
        report |= {"edit_of": edit["of"], "base": f"{edit['base']:08x}", "note": packed.note}
    return {**report, "layers": rows}, f"{head}\n\n{table(columns, rows)}"


def _scores_of(note: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(key, note[key]) for key in ("iou", "shell_iou", "psnr") if key in note]


def merge_files(adapter: str | Path, base: str | Path, out: str | Path, overwrite: bool = False) -> dict[str, Any]:
    """Write a base model's weights with an adapter merged in.

    Arguments:
        base: a safetensors file, or a folder of them (a Hugging Face model); a folder's other files are copied.
        out: file or folder, as `base` is.

    Raises:
        SinefieldError: a layer of the adapter is missing in the base or of another size, or OUT exists.
    """
    base, out = Path(base), Path(out)
    targets = load_adapter(adapter)
    if Path(adapter).suffix.lower() == SUFFIX and "edit" in load_packed(adapter).settings:
        raise SinefieldError(f"{adapter}: edits a field; sinefield unpack BASE OUT --adapter {adapter} merges it")
    if base.is_dir():
        files = sorted(base.glob("*.safetensors"))
        if not files:
            raise SinefieldError(f"{base}: holds no .safetensors file; give the model's folder or file")
        if out.exists() and not (out.is_dir() and (overwrite or not any(out.iterdir()))):
            raise SinefieldError(f"{out}: exists already; give another name or --overwrite")
        own = re.compile("|".join(re.escape(file.name) for file in base.iterdir() if file.is_file()))
        if odd := foreign(out, own):
            raise SinefieldError(f"{out}: holds {odd[0]!r}, which the base has not; give a new folder")
        check_folder_place(out)
        if out.resolve() == base.resolve() or base.resolve() in out.resolve().parents:
            raise SinefieldError(f"{out}: is the base's own folder or within it; give another")
    else:
        files = [require_file(base, "base model")]
        check_output(out, overwrite)
    keys = {key: file for file in files for key in _keys(file)}
    found = {_key_of(name, keys, str(adapter)): name for name in targets}
    if base.is_dir():
        with atomic_folder(out) as folder:
            for file in sorted(base.iterdir()):
                if file in files:
                    _merge_file(file, folder / file.name, found, targets, str(adapter))
                elif file.is_file():
                    shutil.copy2(file, folder / file.name)
    else:
        with atomic_path(out, overwrite) as temporary:
            _merge_file(base, temporary, found, targets, str(adapter))
    return {"out": str(out), "layers": len(found), "files": len(files)}


def _keys(file: Path) -> list[str]:
    require_file(file, "base model")
    try:
        with safe_open(file, framework="pt") as stream:
            return list(stream.keys())
    except (SafetensorError, OSError) as error:
        raise SinefieldError(
            f"{file}: is not a safetensors file, or is damaged ({error}); give the base model"
        ) from error


def _key_of(name: str, keys: dict[str, Path], where: str) -> str:
    """The base's key of a layer's weight: the same, or one with or without a prefix (`model.`) if there is just one."""
    wanted = f"{name}.weight"
    if wanted in keys:
        return wanted
    near = [
        key for key in keys if key.endswith(f".{wanted}") or (key.endswith(".weight") and wanted.endswith(f".{key}"))
    ]
    if len(near) != 1:
        if near:
            raise SinefieldError(
                f"{where}: {near[0]} and {near[1]} of the base both end like {wanted}; rename the layer"
            )
        raise SinefieldError(
            f"{where}: the base has no {wanted}; give the model it was trained on (a weight tied to another may be "
            f"stored only there: such a layer is merged in memory alone)"
        )
    return near[0]


def _merge_file(file: Path, out: Path, found: dict[str, str], targets: dict[str, Target], where: str) -> None:
    # Mapped, not copied: a base model may be larger than half the memory, and its tensors are dropped at the end.
    with safe_open(file, framework="pt") as stream:
        metadata = stream.metadata()
        tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
    for key in tensors.keys() & found.keys():
        target, weight = targets[found[key]], tensors[key]
        matrix = weight.T if target.transposed else weight.flatten(1) if weight.dim() > 1 else weight
        if tuple(matrix.shape) != (target.rows, target.columns):
            size = "×".join(map(str, weight.shape))
            raise SinefieldError(
                f"{where}: {found[key]} is for a {_size(target.rows, target.columns, target.transposed)} matrix, the "
                f"base's weight is {size}; use the base model it was trained on"
            )
        factors = [(target.a.float(), target.b.float())]
        magnitude = None if target.magnitude is None else target.magnitude.float()
        merged = effective(matrix, [target.spec], magnitude, factors, weight.dtype)
        tensors[key] = (merged.T if target.transposed else merged).reshape(weight.shape).contiguous()
    try:
        save_file(tensors, out, metadata=metadata)
    except SafetensorError as error:
        raise SinefieldError(f"{out.name}: cannot be written ({error}); free some space") from error
