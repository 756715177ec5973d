"""Tensors with a note as one safetensors file."""

import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save, save_file
from torch import Tensor

from sinefield.errors import SinefieldError
from sinefield.files import atomic_path, read_bytes
from sinefield.json_text import from_json, to_json
from sinefield.tensor_bytes import MAX_BYTES, metadata


def save_tensors(path: str | Path, tensors: dict[str, Tensor], note: dict[str, Any], overwrite: bool = True) -> None:
    """Write tensors and a JSON note as one safetensors file, atomically."""
    with atomic_path(path, overwrite) as temporary:
        contents = {name: t.detach().contiguous() for name, t in tensors.items()}
        try:
            save_file(contents, temporary, metadata={"sinefield": to_json(note, sort_keys=True)})
        except SafetensorError as error:
            # The library turns a full disk into its own error; ask the disk which it was.
            free = os.statvfs(temporary.parent)
            full = free.f_bavail * free.f_frsize < sum(t.nbytes for t in contents.values())
            problem = "the disk is full; free some space" if full else f"cannot be written ({error}); check the folder"
            raise SinefieldError(f"{path}: {problem} and run again") from error


def packed_tensors(tensors: dict[str, Tensor], note: dict[str, Any]) -> bytes:
    """The bytes of what `save_tensors` writes."""
    contents = {name: t.detach().contiguous().cpu() for name, t in tensors.items()}
    return save(contents, metadata={"sinefield": to_json(note, sort_keys=True)})


def unpacked_tensors(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `packed_tensors` was given."""
    return load(data), from_json(metadata(data)["sinefield"])


def read_tensors(path: str | Path, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, copied out of the file, and its own texts.

    Raises:
        SinefieldError: see `files.read_bytes`.
        ValueError: no safetensors file, or damaged.
    """
    data = read_bytes(path, MAX_BYTES, what)
    texts = metadata(data)
    try:
        return load(data), texts
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(str(error)) from error


def load_tensors(path: str | Path, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and note; raises SinefieldError if the file is missing, damaged or not ours."""
    try:
        tensors, texts = read_tensors(path, what)
        note = from_json(texts["sinefield"])
        if not isinstance(note, dict):
            raise ValueError("its note is no object")
        return tensors, note
    except (KeyError, ValueError) as error:
        raise SinefieldError(f"{path}: not a {what} of sinefield, or damaged ({error}); train again") from error
