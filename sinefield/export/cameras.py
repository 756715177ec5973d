"""The cameras of a run's photographs as a transforms.json, the pose file of instant-ngp and nerfstudio."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sinefield.data.photographs.image_files import read_header
from sinefield.data.photographs.lens_models import named
from sinefield.data.photographs.placing import read_placed
from sinefield.data.photographs.transforms import SPLITS, Frame
from sinefield.errors import SinefieldError
from sinefield.export.flight import photographed
from sinefield.files import check_output, write_text
from sinefield.json_text import to_json
from sinefield.store.fields import load_field


def export_cameras(
    run: str | Path, out: str | Path, data: str | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Write the cameras of a run's photographs; returns run, out, views (a count for each split), downscale and notes.

    Poses are camera to world in the data's own world units, axes OpenGL's, in double precision. Lenses are in pixels of
    the image files as they are. Each view stays in its split.

    Arguments:
        run: run folder or .sine file of a field with photographs.
        out: the .json, in the folder of the images or above it.
        data: the photographs of a `.sine` file that does not name them.

    Raises:
        SinefieldError: `out` is no such file, has a name that is read as one split's, or exists; an image is not
            below its folder; a field without photographs; see `read_listing`.
    """
    out = Path(out)
    if out.suffix.lower() != ".json":
        raise SinefieldError(f"{out}: cameras are written as a .json; name it so")
    if out.name in [f"transforms_{split}.json" for split in SPLITS]:
        raise SinefieldError(f"{out}: that name is for the views of one split; name it transforms.json")
    check_output(out, overwrite)
    trained: Any = load_field(run)[0]
    config: Any = photographed(run, trained, data, (), "cameras are those of photographs", "there is nothing to write")
    source = config.data
    listing = read_placed(source.path, SPLITS, source.holdout, source.downscale, source.aabb is not None)
    frames = {split: found for split, found in listing.frames.items() if found}
    if not frames:
        raise SinefieldError(f"{listing.source}: no view has an image file; add the image files")
    names = {split: [_name(frame, out) for frame in found] for split, found in frames.items()}
    box = source.aabb or listing.aabb or (trained.aabb.double().numpy() + np.tile(trained.origin, 2)).tolist()
    entries = [
        _entry(frame, name) for split, found in frames.items() for frame, name in zip(found, names[split], strict=True)
    ]
    models = {entry["camera_model"] for entry in entries}
    if len(models) == 1:  # nerfstudio looks for it here only
        entries = [{key: value for key, value in entry.items() if key != "camera_model"} for entry in entries]
    content = {
        **({"camera_model": models.pop()} if len(models) == 1 else {}),
        "aabb_scale": 1,
        "aabb": [list(map(float, box[:3])), list(map(float, box[3:]))],
        **{f"{split}_filenames": found for split, found in names.items()},
        "frames": entries,
    }
    write_text(out, to_json(content, indent=1) + "\n", overwrite)
    masks = sum(frame.mask is not None for found in frames.values() for frame in found)
    downscale = source.downscale // listing.reduction
    return {
        "run": str(run),
        "out": str(out),
        "views": {split: len(found) for split, found in frames.items()},
        "downscale": downscale,
        "notes": _notes(box, listing.skipped, masks, downscale),
    }


def _entry(frame: Frame, name: str) -> dict[str, Any]:
    width, height = read_header(frame)[0]
    lens = named(*frame.lens_for(width, height))
    matrix = [*frame.c2w.tolist(), [0.0, 0.0, 0.0, 1.0]]
    return {"file_path": name, "w": width, "h": height, **lens, "transform_matrix": matrix}


def _name(frame: Frame, out: Path) -> str:
    """The image relative to the folder of `out`; one outside is refused, as every reader does."""
    try:
        return frame.file.resolve().relative_to(out.resolve().parent).as_posix()
    except ValueError as error:
        folder = frame.file.resolve().parent
        raise SinefieldError(
            f"{out}: the images are in {folder}; write the file there, or in a folder above"
        ) from error


def _notes(box: Sequence[float], skipped: int, masks: int, downscale: int) -> list[str]:
    """What a reader of the file has to know, in lines for people."""
    notes = []
    sides = [box[i + 3] - box[i] for i in range(3)]
    if max(sides) - min(sides) > 1e-6 * max(sides):
        corners = " ".join(f"{value:.6g}" for value in box)
        notes.append(f"readers make a cube of the box; give data.aabb {corners} to keep it")
    if skipped:
        notes.append(f"{skipped} views without an image file were left out")
    if masks:
        notes.append(f"the masks of {masks} views were left out: the file has no place for them")
    if downscale > 1:
        notes.append(f"lenses are those of the image files; give data.downscale {downscale} to train as before")
    return notes
