"""An image field as a picture file, at any size."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sinefield.errors import SinefieldError
from sinefield.fields.base import kind_of
from sinefield.files import check_output
from sinefield.pictures import save_png
from sinefield.store.fields import load_field


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
    kind = kind_of(field)
    if kind.shows != "picture":
        raise SinefieldError(f"{run}: is a field of kind {kind.name}, no image; {kind.instead}")
    pixels = kind.picture(field, width)
    save_png(out, pixels)
    return {
        "run": str(run),
        "out": str(out),
        "kind": field.kind,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "seconds": round(time.perf_counter() - begin, 2),
    }
