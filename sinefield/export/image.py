"""An image field as a picture file, at any size."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from sinefield.data.photographs.images import MAX_PIXELS, MAX_SIDE, area_average
from sinefield.errors import SinefieldError
from sinefield.fields.image.field import ImageField
from sinefield.files import check_output
from sinefield.pictures import save_png
from sinefield.store.run import load_field


def export_image(
    run: str | Path,
    out: str | Path,
    width: int | None = None,
    overwrite: bool = False,
    adapters: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Render an image field into a PNG; returns run, out, kind, width, height, seconds.

    Arguments:
        width: pixels; that of the image it was made from when None. The height follows.
        adapters: edits of the run's field, see `load_field`.

    Raises:
        SinefieldError: `out` is no .png or exists, a field of another kind, a size out of range; see `load_field`.
    """
    out = Path(out)
    if out.suffix.lower() != ".png":
        raise SinefieldError(f"{out}: an image is written as a .png; name it so")
    check_output(out, overwrite)
    begin = time.perf_counter()
    field, _ = load_field(run, adapters)
    if not isinstance(field, ImageField):
        raise SinefieldError(
            f"{run}: is a {field.kind} field, no image; see sinefield mesh, or of many shapes sinefield reconstruct"
        )
    pixels = scaled(field, field.width if width is None else width)
    save_png(out, pixels)
    return {
        "run": str(run),
        "out": str(out),
        "kind": field.kind,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "seconds": round(time.perf_counter() - begin, 2),
    }


def scaled(field: ImageField, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """The field as an image of this width and its own proportions; where that is smaller than its own size, the mean
    over samples no wider apart than the pixels that it was made from."""
    height = max(round(field.height * width / field.width), 1)
    if not 1 <= width <= MAX_SIDE or height > MAX_SIDE or width * height > MAX_PIXELS:
        raise SinefieldError(
            f"an image of {width}×{height} pixels; 1 to {MAX_SIDE:,} a side and {MAX_PIXELS // 10**6} million in all"
        )
    samples = -(-field.width // width)
    return area_average(field.render(samples * width, samples * height).numpy(), samples)
