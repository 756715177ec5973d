"""The README's moving picture: example fields, each turning once; docs/fields.webp.

    python scripts/moving_picture.py [FIELD ...] [--frames 40] [--width 240] [--out docs/fields.webp]

Background is transparent, so that it suits light and dark pages. Two and a half minutes of one core.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import sinefield as sf

ROOT = Path(__file__).parents[1]


def turn(name: str, frames: int, width: int) -> np.ndarray:
    """One turn around a field, (frames, width, width, 4) uint8."""
    field = sf.load(name)
    return field.render(field.orbit(frames, width, width, 20.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fields", nargs="*", default=["example:knot", "example:toys", "example:spot"])
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--width", type=int, default=240, help="of one field in pixels")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "fields.webp")
    options = parser.parse_args()
    rows = np.concatenate([turn(name, options.frames, options.width) for name in options.fields], axis=2)
    first, *rest = [Image.fromarray(row) for row in rows]
    shown = {"save_all": True, "append_images": rest, "duration": 100, "loop": 0}
    first.save(options.out, quality=70, method=6, **shown)
    print(options.out, options.out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
