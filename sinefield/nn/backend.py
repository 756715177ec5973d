"""What a training runs on: device, arithmetic, points at once, and whose kernels."""

import torch
from torch import nn

from sinefield.config import Config, Schedule
from sinefield.errors import SinefieldError
from sinefield.kernels.choose import choose, why_not_bf16
from sinefield.nn.hashgrid import HashGrid
from sinefield.nn.mlp import MLP


def check_backend(config: Config) -> None:
    """Refuse a device or backend that training cannot use, before any long work.

    Raises:
        SinefieldError: as `training_device`; `training.backend` is tinycudann, and the settings do not suit it,
            training runs on the CPU, or it is not installed or does not work.
    """
    training, field = config.training, config.field
    device = training_device(training.device)
    if training.backend != "tinycudann":
        return
    if not hasattr(field, "encoding"):
        raise SinefieldError("training.backend is tinycudann, which has no transformers; use torch or auto")
    if field.encoding == "frequency" and field.frequencies == 0:
        raise SinefieldError(
            "training.backend is tinycudann, whose fp16 is too coarse for bare coordinates; "
            "set field.frequencies or field.encoding, or use torch or auto"
        )
    if training.precision != "auto":
        raise SinefieldError(
            f"training.backend is tinycudann, which computes in fp16, not training.precision {training.precision}; "
            "use torch or auto"
        )
    needs = frozenset({field.activation, "skips"} if field.skips else {field.activation})
    gradients = 2 if getattr(training, "eikonal", 0) else 1
    choose("network", device, torch.float16, gradients, training.backend, needs)


def use_backend(field: nn.Module, config: Schedule) -> None:
    """Let networks and hash grids of a field run by what `training.backend` names; `check_backend` first."""
    if config.backend != "tinycudann":
        return
    for module in field.modules():
        if isinstance(module, MLP | HashGrid):
            module.backend = config.backend


def training_device(asked: str) -> torch.device:
    """The device of `training.device`.

    Raises:
        SinefieldError: "cuda" where torch sees no CUDA device.
    """
    if asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = "sees no CUDA device" if torch.version.cuda else "was built without CUDA"
        raise SinefieldError(f"training.device is cuda, but torch {torch.__version__} {built}; use cpu or auto")
    return torch.device("cuda")


def hidden_dtype(precision: str, device: torch.device) -> torch.dtype:
    """bf16 where asked for or, with "auto", where the processor multiplies it in hardware."""
    if precision == "auto":
        return torch.float32 if why_not_bf16(device.type) else torch.bfloat16
    return torch.bfloat16 if precision == "bf16" else torch.float32


def chunk_for(width: int, device: torch.device) -> int:
    """Points at once: few calls of large products, buffers of at most 16 MB of bf16 a layer; a GPU wants many."""
    return min(max((1 << 23) // width, 4096), 1 << 16) if device.type == "cpu" else 1 << 19
