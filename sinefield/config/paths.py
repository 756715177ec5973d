"""Where data lie: names that mean the same on every machine, and the folders that they stand for."""

import importlib.util
import os
from pathlib import Path

from sinefield.errors import SinefieldError
from sinefield.files import with_home

FAMILIES = "families:"
"""What a `data.path` begins with that names no file but procedural families (`data.families`)."""


def data_folder() -> Path:
    """$SINEFIELD_DATA, or the folder shared/data beside the project's checkout."""
    return Path(os.environ.get("SINEFIELD_DATA") or Path(__file__).parents[3] / "shared" / "data")


def skimage_folder() -> Path:
    """Where scikit-image keeps the pictures it brings along; found without importing it."""
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise SinefieldError("skimage: is not installed; pip install scikit-image, or name a file of your own")
    return Path(found.origin).parent / "data"


FOLDERS = {"$SINEFIELD_DATA": data_folder, "${SINEFIELD_DATA}": data_folder, "skimage:": skimage_folder}
"""What a path may begin with, and the folder it stands for."""


def locate(path: str, base: Path | None = None) -> str:
    """A path as an absolute one, relative to `base` or the working directory, or to what it begins with (`FOLDERS`)."""
    if path.startswith(FAMILIES):
        return path
    for name, folder in FOLDERS.items():
        if path.startswith(name):
            return str((folder() / path[len(name) :].lstrip("/")).absolute())
    found = with_home(path)
    return str(found.absolute() if base is None else (base / found).resolve())


def portable(path: str) -> str | None:
    """An absolute path as one that means the same on another machine; None where there is none such."""
    if path.startswith(FAMILIES):
        return path
    for name, folder in FOLDERS.items():
        if Path(path).is_relative_to(folder().absolute()):
            inside = Path(path).relative_to(folder().absolute()).as_posix()
            return f"{name}{inside}" if name.endswith(":") else f"{name}/{inside}"
    return None
