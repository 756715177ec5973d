"""The README's picture: frames of the demo's two videos side by side, docs/demo.png.

scripts/demo.sh && python scripts/tables/strip.py
"""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
FRAMES, SIDE = 4, 200


def frames(path: Path) -> list[np.ndarray]:
    """A few frames of a video, evenly spaced, SIDE pixels high."""
    every = list(iio.imiter(path))
    chosen = [every[i * len(every) // FRAMES] for i in range(FRAMES)]
    return [np.asarray(Image.fromarray(f).resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for f in chosen]


def main() -> None:
    rows = [np.concatenate(frames(ROOT / "runs" / name / "turn.mp4"), axis=1) for name in ("demo", "demo_shape")]
    Image.fromarray(np.concatenate(rows, axis=0)).save(ROOT / "docs" / "demo.png", optimize=True)


if __name__ == "__main__":
    main()
