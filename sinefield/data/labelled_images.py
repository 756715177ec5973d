"""Pictures with classes: CIFAR-10's binary files, or a folder for each class as ImageNet has them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sinefield.data.photographs.image_files import read_header, read_pixels
from sinefield.data.photographs.transforms import Frame
from sinefield.data.photographs.views import room_for
from sinefield.errors import SinefieldError
from sinefield.files import read_bytes, read_text

CIFAR_SIDE, CIFAR_CLASSES = 32, 10
CIFAR_ROW = 1 + 3 * CIFAR_SIDE**2  # a label, then red, green and blue
BATCHES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
INNER = "cifar-10-batches-bin"  # what the archive unpacks to
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"}
TESTS = ("val", "valid", "validation", "test")
HELD_OUT = 5
"""Where there is no folder of test images, every so many-th image of a class is one."""
MAX_SIDE = 1024
MAX_BATCH = 1 << 30


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Square sRGB images and what is on them.

    Attributes:
        images: (n, side, side, 3); large sets lie in a file, see `views.room_for`.
        labels: (n,) places in `names`.
        test: (n,) whether an image is for the score only.
        names: of the classes.
    """

    images: UInt8[Tensor, "n side side 3"]
    labels: Int64[Tensor, "n"]
    test: Bool[Tensor, "n"]
    names: tuple[str, ...]


def load_labelled_images(path: str | Path, side: int = CIFAR_SIDE) -> LabelledImages:
    """CIFAR-10 in its binary version, or class folders: `train/CLASS/…` with `val` or `test` beside it, or `CLASS/…`.

    Images of folders are scaled until their shorter side has `side` pixels, and the middle is cut out.

    Raises:
        SinefieldError: no such data, damaged or truncated files, fewer than two classes, CIFAR's version for Python
            (a pickle, which could run anything), or another side than 32 for CIFAR.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise SinefieldError(f"{folder}: is no folder; give CIFAR-10's binary version or a folder of class folders")
    if not 1 <= side <= MAX_SIDE:
        raise SinefieldError(f"images of {side} pixels a side; the side lies between 1 and {MAX_SIDE}")
    for place in (folder, folder / INNER):
        if any((place / name).exists() for name in (*BATCHES, "test_batch.bin")):
            return _cifar(place, side)
    pickled = [p for p in (folder, folder / "cifar-10-batches-py") if (p / "data_batch_1").exists()]
    if pickled:
        raise SinefieldError(
            f"{pickled[0]}: is CIFAR-10 for Python, pickled files that could run anything; "
            "take the binary version (cifar-10-binary.tar.gz)"
        )
    return _folders(folder, side)


def _cifar(folder: Path, side: int) -> LabelledImages:
    if side != CIFAR_SIDE:
        raise SinefieldError(f"{folder}: CIFAR's images have {CIFAR_SIDE} pixels a side, not {side}")
    parts = []
    for name in (*BATCHES, "test_batch.bin"):
        data = read_bytes(folder / name, MAX_BATCH, "batch of CIFAR-10")
        if len(data) % CIFAR_ROW:
            raise SinefieldError(
                f"{folder / name}: {len(data):,} bytes are no whole number of images of {CIFAR_ROW:,}; download it anew"
            )
        parts.append(np.frombuffer(data, np.uint8).reshape(-1, CIFAR_ROW))
    rows = np.concatenate(parts)
    if rows[:, 0].max() >= CIFAR_CLASSES:
        raise SinefieldError(f"{folder}: has a class {rows[:, 0].max()}; CIFAR-10 has 0 to 9: download it anew")
    images = np.ascontiguousarray(rows[:, 1:].reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE).transpose(0, 2, 3, 1))
    test = np.arange(len(rows)) >= len(rows) - len(parts[-1])
    return LabelledImages(
        torch.from_numpy(images),
        torch.from_numpy(rows[:, 0].astype(np.int64)),
        torch.from_numpy(test),
        _cifar_names(folder / "batches.meta.txt"),
    )


def _cifar_names(path: Path) -> tuple[str, ...]:
    try:
        names = tuple(read_text(path, 1 << 16, "list of names").split())
    except SinefieldError:
        names = ()
    return names if len(names) == CIFAR_CLASSES else tuple(map(str, range(CIFAR_CLASSES)))


def _folders(folder: Path, side: int) -> LabelledImages:
    train = folder / "train"
    tests = [folder / name for name in TESTS if (folder / name).is_dir()]
    if train.is_dir() and not tests:
        raise SinefieldError(f"{folder}: has train, but no {' or '.join(TESTS)} beside it; add one")
    parts = [(train, False), (tests[0], True)] if train.is_dir() else [(folder, None)]
    names = tuple(sorted(p.name for p in parts[0][0].iterdir() if p.is_dir() and not p.name.startswith(".")))
    if len(names) < 2:
        raise SinefieldError(f"{parts[0][0]}: has {len(names)} class folders; classes are told apart from two on")
    listed = [
        (path, label, i % HELD_OUT == HELD_OUT - 1 if test is None else test)
        for place, test in parts
        for label, name in enumerate(names)
        for i, path in enumerate(_images(place / name))
    ]
    for wanted, what in ((False, "train on"), (True, "test on")):
        if not any(test == wanted for *_, test in listed):
            raise SinefieldError(f"{folder}: has no images to {what}; add some ({', '.join(sorted(SUFFIXES))})")
    images = room_for((len(listed), side, side, 3))

    def read(index: int) -> None:
        images[index] = _square(listed[index][0], side)

    with ThreadPoolExecutor(2) as pool:
        try:
            jobs = tqdm(pool.map(read, range(len(listed))), "images", len(listed), False, disable=None)
            for _ in jobs:
                pass
        finally:
            pool.shutdown(cancel_futures=True)
    _, labels, test = zip(*listed, strict=True)
    return LabelledImages(torch.from_numpy(images), torch.tensor(labels), torch.tensor(test), names)


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _square(path: Path, side: int) -> np.ndarray:
    """(side, side, 3) uint8: the middle of the image, its shorter side scaled to `side`."""
    frame = Frame(path.name, path, np.eye(4)[:3], {}, str(path))
    read_header(frame)  # refuses what claims to be enormous
    image = Image.fromarray(read_pixels(frame, None, False))
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    middle = image.crop((left, top, left + edge, top + edge))  # a box given to resize would let its surroundings in
    return np.asarray(middle.resize((side, side), Image.Resampling.LANCZOS))
