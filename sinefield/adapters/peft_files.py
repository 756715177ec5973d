"""Adapters that Hugging Face PEFT saved, as this package's own: LoRA, DoRA, and the sine of `SineLoraConfig`.

PEFT itself is not needed. Whatever of a configuration changes the model beyond the deltas is refused by name.
"""

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from sinefield.errors import SinefieldError
from sinefield.files import read_bytes
from sinefield.json_text import finite_number, from_json
from sinefield.tensor_files import read_tensors

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
MAX_CONFIG = 1 << 20  # bytes
PARTS = {"lora_A.weight": "a", "lora_B.weight": "b", "lora_magnitude_vector": "magnitude"}
UNLIKE = {
    "bias": ("none",),
    "modules_to_save": (None, []),
    "layer_replication": (None, []),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "lora_bias": (False,),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
}
"""Settings that must have one of these values: with others the model is more than its base and the deltas."""


def is_peft(path: str | Path) -> bool:
    """Whether a folder, or the folder that a file is in, has PEFT's configuration beside PEFT's tensors."""
    path = Path(path)
    return (path / CONFIG).is_file() or (path.name == TENSORS and (path.parent / CONFIG).is_file())


def load_peft(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings as `adapter_table` has them, and tensors LAYER.a, LAYER.b, LAYER.magnitude.

    Raises:
        SinefieldError: missing, damaged, another method than LoRA, or a setting that has no counterpart here.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    config = _config(folder / CONFIG)
    read, _ = _tensors(folder / TENSORS)
    tensors: dict[str, Tensor] = {}
    for key, tensor in read.items():
        name = key.removeprefix(PREFIX)
        part = next((p for p in PARTS if name.endswith(f".{p}")), None)
        if part is None or not key.startswith(PREFIX):
            raise SinefieldError(f"{folder}: {key} is no factor of a linear layer or convolution; leave it out")
        if not tensor.is_floating_point() or tensor.dim() < 1:
            raise SinefieldError(f"{folder}: {key} is of {tensor.dtype}; an adapter's factors are floats")
        flat = tensor.flatten() if PARTS[part] == "magnitude" else tensor.flatten(1)
        tensors[f"{name.removesuffix('.' + part)}.{PARTS[part]}"] = flat
    layers = sorted({key.rpartition(".")[0] for key in tensors})
    if not layers:
        raise SinefieldError(f"{folder}: holds no factors; train the adapter again")
    targets = {}
    for layer in layers:
        a, b = tensors.get(f"{layer}.a"), tensors.get(f"{layer}.b")
        if a is None or b is None or b.shape[1:] != a.shape[:1]:
            raise SinefieldError(f"{folder}: {layer} has no two factors that fit each other; train the adapter again")
        targets[layer] = _settings(config, layer, a, b, f"{layer}.magnitude" in tensors, str(folder))
    return {"targets": targets}, {k: v for layer in layers for k, v in _ordered(layer, tensors)}


def _ordered(layer: str, tensors: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    return [(k, tensors[k]) for part in PARTS.values() if (k := f"{layer}.{part}") in tensors]


def _config(path: Path) -> dict[str, Any]:
    try:
        config = from_json(read_bytes(path, MAX_CONFIG, "configuration of an adapter"))
    except ValueError as error:
        raise SinefieldError(f"{path}: cannot be read ({error}); save the adapter again") from error
    if not isinstance(config, dict) or config.get("peft_type") not in ("LORA", "SINELORA"):
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise SinefieldError(f"{path}: is of the kind {kind}; only LORA and SINELORA can be read")
    for name, usual in UNLIKE.items():
        value = config.get(name, usual[0])
        if not any(value == u and type(value) is type(u) for u in usual):
            raise SinefieldError(f"{path}: {name} is {value!r}, which changes more than deltas do; merge it in PEFT")
    return config


def _tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        return read_tensors(path, "adapter that PEFT saved")
    except ValueError as error:
        raise SinefieldError(f"{path}: cannot be read ({error}); save the adapter again") from error


def _settings(config: dict[str, Any], layer: str, a: Tensor, b: Tensor, dora: bool, where: str) -> dict[str, Any]:
    rank = len(a)
    alpha = finite_number(_by_pattern(config.get("alpha_pattern"), layer, config.get("lora_alpha")))
    if alpha is None:
        raise SinefieldError(f"{where}: {layer} has no alpha that is a number; save the adapter again")
    if config.get("use_rslora"):
        alpha *= math.sqrt(rank)  # α/√r there, α/r here
    sine = config["peft_type"] == "SINELORA"
    omega = finite_number(config.get("omega")) if sine else None
    if sine and (omega is None or dora):
        raise SinefieldError(f"{where}: a sine adapter of PEFT has an omega and no magnitudes; save it again")
    sizes = {"transposed": bool(config.get("fan_in_fan_out")), "rows": len(b), "columns": a.shape[1]}
    kind = "sine" if sine else "dora" if dora else "lora"
    return {"kind": kind, "rank": rank, "alpha": alpha, "omega": omega, **sizes}


def _by_pattern(patterns: Any, layer: str, usual: Any) -> Any:
    """PEFT's own rule, without its regular expressions: a pattern is a layer's whole name or its end."""
    for pattern, value in (patterns or {}).items():
        if layer == pattern or layer.endswith(f".{pattern}"):
            return value
        if not all(c.isalnum() or c in "._" for c in pattern):
            raise SinefieldError(f"{layer}: the alpha pattern {pattern!r} is a regular expression; name the layers")
    return usual
