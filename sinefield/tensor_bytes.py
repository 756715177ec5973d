"""The bytes of a safetensors file as arrays of their own: nothing stays tied to the file. Needs NumPy alone.

The library's own opener maps the file into memory. Tensors read that way change when the file is written over, and end
the process when it is cut short.
"""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from sinefield.files import read_bytes
from sinefield.json_text import from_json

MAX_BYTES = 64 << 30


def read_arrays(path: str | Path, what: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays by name and the file's own texts.

    Raises:
        SinefieldError: see `files.read_bytes`.
        ValueError: no safetensors file, damaged, or with a type of number that NumPy lacks.
    """
    data = read_bytes(path, MAX_BYTES, what)
    texts = metadata(data)
    try:
        return load(data), texts
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(str(error)) from error


def metadata(data: bytes) -> dict[str, str]:
    """The texts that a safetensors file has beside its tensors; raises ValueError where its head is damaged."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise ValueError("its head is cut short")
    head = from_json(data[8 : 8 + length])
    texts = head.get("__metadata__", {}) if isinstance(head, dict) else None
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("its head is damaged")
    return texts
