"""Fields from one place to another, as they are."""

import shutil
from dataclasses import replace
from pathlib import Path

from sinefield.compress.container import MAX_FILE
from sinefield.errors import SinefieldError
from sinefield.files import read_bytes, write_bytes
from sinefield.store.run import Run


def copy_file(source: str | Path, path: str | Path, overwrite: bool = False) -> None:
    """A `.sine` file under another name, atomically.

    Raises:
        SinefieldError: `path` exists and `overwrite` is False, or cannot be written.
    """
    write_bytes(path, read_bytes(source, MAX_FILE, ".sine file"), overwrite)


def copy_run(source: str | Path, path: str | Path, overwrite: bool = False) -> None:
    """A run folder under another name, atomically: what it consists of, without the state that resuming needs.

    Data that lie in the run itself go along.

    Raises:
        SinefieldError: there is no finished run; something is at `path` already that is no run to be replaced, or it
            cannot be written.
    """
    old = Run(source)
    config = old.config()
    if not old.field_path.exists():
        raise SinefieldError(f"{source}: holds no field.safetensors; train it to the end")
    inside = Path(getattr(config.data, "path", ""))
    goes_along = inside.is_file() and inside.resolve().parent == old.folder.resolve()
    if goes_along:
        config = replace(config, data=replace(config.data, path=str(Path(path).absolute() / inside.name)))
    with Run.replacing(path, config, overwrite) as new:
        for part in old.parts():
            if part.exists() and part != old.config_path:
                shutil.copyfile(part, new.folder / part.name)
        for picture in sorted(old.pictures.glob("*.png")):
            shutil.copyfile(picture, new.pictures / picture.name)
        if goes_along:
            shutil.copyfile(inside, new.folder / inside.name)
