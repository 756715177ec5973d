"""Fields from one place to another, as they are."""

import shutil
from dataclasses import replace
from pathlib import Path

from sinefield.compress.container import MAX_FILE
from sinefield.errors import SinefieldError
from sinefield.files import atomic_folder, read_bytes, write_bytes
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
    old, new = Run(source), Run(path)
    config = old.config()
    if not old.field_path.exists():
        raise SinefieldError(f"{source}: holds no field.safetensors; train it to the end")
    new.check(path, config, overwrite=overwrite)
    if new.folder.is_dir() and (others := new.strangers()):
        raise SinefieldError(f"{path}: holds {others[0]!r}, which no run makes; move it away or give another name")
    with atomic_folder(path) as folder:
        for part in old.parts():
            if part.exists():
                shutil.copyfile(part, folder / part.name)
        (folder / old.pictures.name).mkdir()
        for picture in sorted(old.pictures.glob("*.png")):
            shutil.copyfile(picture, folder / old.pictures.name / picture.name)
        inside = Path(getattr(config.data, "path", ""))
        if inside.is_file() and inside.resolve().parent == old.folder.resolve():
            shutil.copyfile(inside, folder / inside.name)
            config = replace(config, data=replace(config.data, path=str(Path(path).absolute() / inside.name)))
        Run(folder).write_config(config)
