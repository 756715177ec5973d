"""Tensors with a note as one safetensors file."""

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sinefield.errors import SinefieldError
from sinefield.files import atomic_path, require_file


def save_tensors(path: str | Path, tensors: dict[str, Tensor], note: dict[str, Any], overwrite: bool = True) -> None:
    """Write tensors and a JSON note as one safetensors file, atomically."""
    with atomic_path(path, overwrite) as temporary:
        contents = {name: t.detach().contiguous() for name, t in tensors.items()}
        try:
            save_file(contents, temporary, metadata={"sinefield": json.dumps(note, sort_keys=True)})
        except SafetensorError as error:
            # The library turns a full disk into its own error; ask the disk which it was.
            free = os.statvfs(temporary.parent)
            full = free.f_bavail * free.f_frsize < sum(t.nbytes for t in contents.values())
            problem = "the disk is full; free some space" if full else f"cannot be written ({error}); check the folder"
            raise SinefieldError(f"{path}: {problem} and run again") from error


def load_tensors(path: str | Path, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and note; raises SinefieldError if the file is missing, damaged or not ours."""
    path = require_file(path, what)
    try:
        with safe_open(path, framework="pt") as stream:
            note = json.loads((stream.metadata() or {})["sinefield"])
            if not isinstance(note, dict):
                raise ValueError("its note is no object")
            return {name: stream.get_tensor(name) for name in stream.keys()}, note  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, OSError, RecursionError) as error:
        raise SinefieldError(f"{path}: not a {what} of sinefield, or damaged ({error}); train again") from error
