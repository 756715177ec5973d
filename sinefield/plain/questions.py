"""Questions as people ask them, and answers alike: lists, NumPy arrays or torch tensors."""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sinefield.errors import SinefieldError

Array = NDArray[Any]


def numbers(points: Any) -> Array:
    """Points as a NumPy array, whatever they are."""
    if _is_tensor(points):
        return points.detach().cpu().numpy()
    try:
        return np.asarray(points)
    except ValueError as error:
        raise SinefieldError(f"points cannot be read ({error}); give numbers of shape (n, 3)") from error


def like(points: Any, found: Array) -> Any:
    """An answer as its question came: torch or NumPy, of the same precision."""
    if _is_tensor(points):
        import torch

        kind = points.dtype if points.is_floating_point() and found.dtype.kind == "f" else None
        return torch.from_numpy(found).to(points.device, kind)
    single = getattr(points, "dtype", None) == np.float32 and found.dtype.kind == "f"
    return found.astype(np.float32) if single else found


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def whole(name: str, value: Any) -> int:
    """A whole number of at least 1; raises SinefieldError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise SinefieldError(f"{name} is {value!r}; give a whole number, 1 or more")
    return int(value)
