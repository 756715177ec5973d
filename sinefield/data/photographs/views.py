"""The images of one split in memory, one after the other as pixels, each of its own size, with their cameras."""

import math
import mmap
import os
import shutil
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from tqdm import tqdm

from sinefield.cameras.cameras import Cameras
from sinefield.cameras.pixel_rays import pixel_starts, seen_pixels
from sinefield.data.photographs.depths import read_distances
from sinefield.data.photographs.image_files import area_average, decoders, read_pixels
from sinefield.data.photographs.masks import read_kept
from sinefield.data.photographs.transforms import Frame
from sinefield.errors import SinefieldError
from sinefield.files import TEMPORARY, cache_folder, write_error

HELD = 1 << 29  # bytes of a split's images; more than that lie in a file


@dataclass(frozen=True, eq=False)
class Views:
    """The images of one split and the cameras that took them; each image has its own size and lens.

    Attributes:
        pixels: (p, c) uint8, image after image, row by row. c = 3: opaque sRGB. c = 4: sRGB premultiplied by alpha,
            then alpha. Large sets lie in a file (`room_for`) that is read as it is indexed.
        cameras: n cameras.
        names: n image files relative to the data folder.
        kept: (p,) which pixels count, in training and in scores; None where all do.
        distances: (p,) how far along its ray each pixel's surface is, world units, NaN where unknown; None where no
            depths were read.
    """

    pixels: UInt8[Tensor, "p c"]
    cameras: Cameras
    names: list[str]
    kept: Bool[Tensor, "p"] | None = None
    distances: Float[Tensor, "p"] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, chosen: Bool[Tensor, "n"]) -> "Views":
        """The views at which `chosen` is true."""
        names = [name for name, keep in zip(self.names, chosen.tolist(), strict=True) if keep]
        counts = self.cameras.every_size.prod(1).cpu()
        each = chosen.repeat_interleave(counts)
        parts = {key: value[each] for key in PER_PIXEL if (value := getattr(self, key)) is not None}
        return Views(cameras=self.cameras[chosen], names=names, **parts)

    def moved(self, by: Float[Tensor, "3"]) -> "Views":
        """The same views from cameras that stand elsewhere."""
        return replace(self, cameras=self.cameras.moved(by))

    @property
    def images(self) -> UInt8[Tensor, "n h w c"]:
        """All images as one array, without a copy.

        Raises:
            SinefieldError: they differ in size.
        """
        if self.cameras.sizes is not None:
            raise SinefieldError("these images differ in size; take them one by one, see Views.image")
        return self.pixels.view(len(self), self.cameras.height, self.cameras.width, -1)

    def image(self, index: int) -> UInt8[Tensor, "h w c"]:
        """One image."""
        return self._of(self.pixels, index)

    def kept_of(self, index: int) -> Bool[Tensor, "h w"] | None:
        """Which pixels of one image count; None where all do."""
        return None if self.kept is None else self._of(self.kept, index)

    def _of(self, values: Tensor, index: int) -> Tensor:
        first, last = self._starts[index : index + 2]
        width, height = self.cameras.size(index)
        return values[first:last].view(height, width, *values.shape[1:])

    @cached_property
    def _starts(self) -> list[int]:
        return pixel_starts(self.cameras).tolist()


PER_PIXEL = ("pixels", "kept", "distances")
"""Attributes of `Views` with an entry for each pixel."""


def kept_numbers(kept: Bool[Tensor, "p"], source: str) -> Int[Tensor, "k"]:
    """The numbers of the pixels that count, of four bytes each where these are enough.

    Raises:
        SinefieldError: there are none.
    """
    numbers = kept.nonzero()[:, 0]
    if not len(numbers):
        raise SinefieldError(f"{source}: no pixel is left to train on; look at the masks (white is what counts)")
    return numbers.int() if len(kept) < 2**31 else numbers


@dataclass(frozen=True)
class Reading:
    """How images are read: averaged over downscale² blocks, with alpha or without; pixels that are not opaque ignored
    instead; with depths."""

    downscale: int
    has_alpha: bool
    alpha_ignored: bool = False
    depths: bool = False


def load_views(
    frames: list[Frame], headers: list[tuple[tuple[int, int], bool]], reading: Reading, progress: tqdm
) -> Views:
    """Decode one split's images into one array, two at a time, and gather their cameras."""
    sizes = [size for size, _ in headers]
    cameras = frame_cameras(frames, sizes, reading.downscale)
    starts = pixel_starts(cameras).tolist()
    channels = 4 if reading.has_alpha and not reading.alpha_ignored else 3
    pixels = room_for((starts[-1], channels), len(frames), reading.downscale)
    seen = seen_pixels(cameras)
    covers = reading.alpha_ignored or any(frame.cover for frame in frames)
    kept = seen if seen is not None or not covers else torch.ones(starts[-1], dtype=torch.bool)
    depths = reading.depths and any(frame.depth for frame in frames)
    distances = torch.full((starts[-1],), math.nan) if depths else None

    def decode(index: int) -> None:
        frame, size, part = frames[index], sizes[index], slice(starts[index], starts[index + 1])
        image = area_average(read_pixels(frame, size, reading.has_alpha), reading.downscale)
        pixels[part] = image[..., :channels].reshape(-1, channels)
        if kept is not None and reading.alpha_ignored:
            kept[part] &= torch.from_numpy(image[..., 3].reshape(-1) == 255)
        if kept is not None and frame.cover is not None:
            kept[part] &= torch.from_numpy(read_kept(frame, size, reading.downscale).reshape(-1))
        if distances is not None and frame.depth is not None:
            distances[part] = read_distances(frame, size, reading.downscale, cameras, index)
        progress.update()

    with ThreadPoolExecutor(min(map(decoders, sizes))) as pool:
        jobs = [pool.submit(decode, index) for index in range(len(frames))]
        try:
            for job in jobs:
                job.result()
        finally:
            pool.shutdown(cancel_futures=True)
    kept = None if kept is None or bool(kept.all()) else kept
    return Views(torch.from_numpy(pixels), cameras, [frame.name for frame in frames], kept, distances)


def room_for(shape: tuple[int, ...], images: int | None = None, downscale: int = 1) -> np.ndarray:
    """An uninitialised uint8 array: in memory, or above `HELD` bytes mapped from a nameless file in the cache folder.

    What is mapped is the system's to keep in memory or not, and the file goes with its process, however that ends.
    `images` is how many there are, where shape[0] does not say so; `downscale` that at which they have this size.

    Raises:
        SinefieldError: the cache folder cannot be written or has not so much room; which downscale would do.
    """
    size = math.prod(shape)
    if size <= HELD:
        return np.empty(shape, np.uint8)
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(prefix=TEMPORARY, dir=folder) as stream:
            stream.truncate(size)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(stream.fileno(), 0, size)  # a full disk would else be met as a crash, later
            mapped = mmap.mmap(stream.fileno(), size)
        if hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)  # single pixels are wanted, not what lies around them
        return np.frombuffer(mapped, np.uint8).reshape(shape)
    except OSError as error:
        reason = str(write_error(folder, error)).partition("; ")[0]
        raise SinefieldError(
            f"{reason}: {images or shape[0]:,} images need {size / 1e9:.1f} GB; {_remedy(folder, size, downscale)} "
            "$SINEFIELD_CACHE"
        ) from error


def _remedy(folder: Path, size: int, downscale: int) -> str:
    """The downscale at which so many bytes would fit where a folder is."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        free = 0
    if not 0 < free < size:  # something else is wrong
        return "use a larger downscale or other"
    larger = max(math.ceil(downscale * math.sqrt(size / free)), downscale + 1)
    return f"{free / 1e9:.1f} GB are free; use downscale {larger} or other"


def frame_cameras(frames: list[Frame], sizes: list[tuple[int, int]], downscale: int) -> Cameras:
    """The cameras of frames whose images have `sizes` (w, h) before they are averaged over downscale² blocks."""
    found = [frame.lens_for(*size) for frame, size in zip(frames, sizes, strict=True)]
    kinds, lenses = torch.tensor([kind for kind, _ in found]), torch.tensor([numbers for _, numbers in found])
    poses = torch.from_numpy(np.stack([frame.c2w for frame in frames])).float()
    plain = 4 if not lenses[:, 8:].any() else lenses.shape[1] - 4  # most lenses have no more than k1 k2 p1 p2
    return Cameras(
        poses,
        lenses[:, :2],
        lenses[:, 2:4],
        lenses[:, 4 : 4 + plain],
        *Counter(sizes).most_common(1)[0][0],
        projection=kinds if kinds.any() else None,
        sizes=torch.tensor(sizes) if len(set(sizes)) > 1 else None,
    ).downscaled(downscale)
