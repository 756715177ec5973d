"""A packed field back into a run folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sinefield.adapters.edits import load_edit
from sinefield.store.fields import edited_config, load_field, save_field
from sinefield.store.run import Run
from sinefield.store.sine_files import config_of, from_packed, load_packed


def unpack(
    file: str | Path, out: str | Path, overwrite: bool = False, adapters: Sequence[str | Path] = ()
) -> dict[str, Any]:
    """Write config.yaml and field.safetensors (float32, as decoded) into `out`; returns run, kind, params, bytes.

    Where the file does not say what it was trained on, config.yaml names data called "unknown".

    Arguments:
        adapters: edits of the field, which go into its weights, dense from then on; `file` may be a run folder then.

    Raises:
        SinefieldError: see `load_packed` and `Run.replacing`.
    """
    if adapters:
        note = load_edit(adapters[-1], or_code=True).note
        field, _ = load_field(file, adapters)
        config = edited_config(file, adapters, None if _named(note) else "unknown")
        config.field = field.config
    else:
        packed = load_packed(file)
        config = config_of(packed, str(file), None if _named(packed.note) else "unknown")
        field, note = from_packed(packed, str(file))
    with Run.replacing(out, config, overwrite) as run:
        save_field(run.field_path, field, {key: note[key] for key in ("seed", "steps", "seconds") if key in note})
    run = Run(out)
    return {
        "run": str(run.folder),
        "kind": field.kind,
        "params": sum(p.numel() for p in field.parameters()),
        "bytes": run.field_path.stat().st_size,
    }


def _named(note: dict[str, Any]) -> bool:
    """Whether a note says what its field was trained on."""
    return isinstance(note.get("data"), dict) and "path" in note["data"]
