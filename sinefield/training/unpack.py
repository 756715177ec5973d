"""A packed field back into a run folder."""

from pathlib import Path
from typing import Any

from sinefield.training.run import Run, save_field
from sinefield.training.sine_file import config_of, from_packed, load_packed


def unpack(file: str | Path, out: str | Path, overwrite: bool = False) -> dict[str, Any]:
    """Write config.yaml and field.safetensors (float32, as decoded) into `out`; returns run, kind, params, bytes.

    Where the file does not say what it was trained on, config.yaml names data called "unknown".

    Raises:
        SinefieldError: see `load_packed` and `Run.check`.
    """
    packed = load_packed(file)
    named = isinstance(packed.note.get("data"), dict) and "path" in packed.note["data"]
    config = config_of(packed, str(file), None if named else "unknown")
    field, note = from_packed(packed, str(file))
    with Run.prepare(out, config, overwrite=overwrite) as run:
        save_field(run.field_path, field, {key: note[key] for key in ("seed", "steps", "seconds") if key in note})
    return {
        "run": str(run.folder),
        "kind": field.kind,
        "params": sum(p.numel() for p in field.parameters()),
        "bytes": run.field_path.stat().st_size,
    }
