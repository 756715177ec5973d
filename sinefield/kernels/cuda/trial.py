"""Whether Triton kernels run here: found by trying them."""

import importlib
from collections.abc import Callable

import torch


def tried(kernels: str, trial: Callable[[torch.device], str | None]) -> str | None:
    """None where the kernels of a module do on CUDA what they should, else the reason in one line.

    Arguments:
        kernels: the module that defines them.
        trial: runs them on a device; returns what is wrong with what they gave, or None.
    """
    try:
        importlib.import_module(kernels)
    except ImportError as error:
        return f"not installed ({error})"
    if not torch.cuda.is_available():
        return "no CUDA device"
    try:
        with torch.enable_grad():  # the first call may come from rendering
            return trial(torch.device("cuda"))
    except Exception as error:  # the compiler's, the driver's and the launcher's failures are of many types
        return f"its kernels do not run ({' '.join(str(error).split())[:120]})"
