"""Posed photographs: a dataset folder in, 8-bit premultiplied images with their cameras out."""

import math
import mmap
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageCms, ImageOps
from torch import Tensor
from tqdm import tqdm

from sinefield.cameras.cameras import LARGEST, Cameras, check_downscale
from sinefield.data.photographs.listing import read_listing
from sinefield.data.photographs.transforms import SPLITS, Frame, Listing, check_box
from sinefield.errors import SinefieldError
from sinefield.files import TEMPORARY, cache_folder, open_file, read_bytes, write_error

# Formats a camera or renderer writes; Pillow's others include some that start external programs.
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
MAX_SIDE = 16384
MAX_PIXELS = 100_000_000
MAX_BYTES = 1 << 30
MAX_SCANS = 100  # of a JPEG; progressive ones have about ten
MANY_PIXELS = 25_000_000  # an image of more is decoded alone: each pixel takes some 15 bytes on the way
BAND = 1 << 22  # values averaged at once
HELD = 1 << 29  # bytes of a split's images; more than that lie in a file
EXIF_ORIENTATION = 0x0112
WHITE = (1.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Views:
    """The images of one split and the cameras that took them.

    Attributes:
        images: (n, h, w, c) uint8. c = 3: opaque sRGB. c = 4: sRGB premultiplied by alpha, then alpha. Large sets lie
            in a file (`room_for`) that is read as it is indexed.
        cameras: n cameras of the same width and height.
        names: n image files relative to the data folder.
    """

    images: UInt8[Tensor, "n h w c"]
    cameras: Cameras
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, chosen: Bool[Tensor, "n"]) -> "Views":
        """The views at which `chosen` is true."""
        names = [name for name, keep in zip(self.names, chosen.tolist(), strict=True) if keep]
        return Views(self.images[chosen], self.cameras[chosen], names)


@dataclass(frozen=True, eq=False)
class PosedScene:
    """A photographed scene; a split that was not asked for, or that the data lack, is None.

    Attributes:
        aabb: (6,) float32 xmin ymin zmin xmax ymax zmax of the scene's box, world units.
        skipped: frames listed without an image file, over the splits read.
        has_alpha: whether images have 4 channels, in every split alike.
        unposed: image files beside the posed ones that have no pose.
        bounds: (near, far) depths along the viewing axes between which the scene lies, world units, where known.
        core: (6,) the part of `aabb` that a contraction should leave as it is.
        notes: lines for people on what was guessed or is not used.
    """

    train: Views | None
    val: Views | None
    test: Views | None
    aabb: Float[Tensor, "6"]
    skipped: int
    has_alpha: bool
    unposed: int = 0
    bounds: tuple[float, float] | None = None
    core: Float[Tensor, "6"] | None = None
    notes: tuple[str, ...] = ()

    @property
    def training_views(self) -> Views:
        """The views to train on. Raises SinefieldError where there are none."""
        if self.train is None:
            raise SinefieldError("the scene has no views to train on; provide training images")
        return self.train

    @property
    def scored_views(self) -> Views:
        """The views to score on: those of the test, of the validation or, where there are neither, of the training."""
        return self.test or self.val or self.training_views


def load_posed(
    path: str | Path,
    downscale: int = 1,
    aabb: Sequence[float | int] | None = None,
    holdout: int = 8,
    splits: Sequence[str] = SPLITS,
) -> PosedScene:
    """Load a Blender (NeRF-synthetic), instant-ngp, nerfstudio, LLFF or DTU/IDR dataset, or images with a COLMAP model.

    Frames whose image file is missing are skipped and counted. Where the data name no test views, every `holdout`-th by
    sorted file name is one, as LLFF does. Camera poses stay in the data's own world units.

    Arguments:
        path: the folder, or the transforms JSON, poses_bounds.npy, cameras_sphere.npz or COLMAP model in it.
        downscale: average blocks of downscale x downscale pixels, cropping the right and bottom remainder. LLFF and
            COLMAP datasets may bring images so reduced (`images_4`): these are taken as they are, or averaged further.
        aabb: xmin ymin zmin xmax ymax zmax in world units; else the data's own, see the reader of each kind.
        holdout: see above; 0 keeps every view for training.
        splits: which of train, val, test to load.

    Raises:
        SinefieldError: a missing, malformed, truncated or unsupported file; image sizes that disagree; a path out of
            the data folder; a pose that is no rigid motion; no usable frame.
    """
    if downscale != int(downscale) or downscale < 1:
        check_downscale(downscale, MAX_SIDE, MAX_SIDE)
    listing = read_listing(path, splits, holdout, downscale)
    box = listing.aabb if aabb is None else check_box([float(value) for value in aabb], "aabb")
    if box is None:
        raise SinefieldError(f"{listing.source}: has too few sparse points to place the scene's box; give data.aabb")
    downscale //= listing.reduction
    corners = np.asarray(box, np.float64).clip(-LARGEST, LARGEST).astype(np.float32).reshape(2, 3)
    if not (np.abs(corners) < LARGEST).all() or not (corners[0] < corners[1]).all():  # as single precision has them
        raise SinefieldError(f"{listing.source}: its box {list(box)} is too large or too thin; give data.aabb")
    total = sum(map(len, listing.frames.values()))
    if not total or ("train" in listing.frames and not listing.frames["train"]):
        hint = "add the image files" if not total else "use more images, or holdout 0"
        raise SinefieldError(f"{listing.source}: no usable frames ({listing.skipped} lack their image file); {hint}")
    with warnings.catch_warnings():
        # Sizes are checked here, by our own limit; and Pillow's remarks on odd metadata are not the user's business.
        warnings.simplefilter("ignore")
        listing = uprighted(listing)
        headers = {split: [read_header(f) for f in frames] for split, frames in listing.frames.items()}
        has_alpha = any(alpha for header in headers.values() for _, alpha in header)
        hidden = total <= 20 or not sys.stderr.isatty()
        with tqdm(total=total, desc="images", unit="", leave=False, disable=hidden) as progress:
            views = {
                split: load_views(frames, headers[split], downscale, has_alpha, progress) if frames else None
                for split, frames in listing.frames.items()
            }
    return PosedScene(
        *(views.get(split) for split in SPLITS),
        aabb=torch.as_tensor(np.asarray(box), dtype=torch.float32),
        skipped=listing.skipped,
        has_alpha=has_alpha,
        unposed=listing.unposed,
        bounds=listing.bounds,
        notes=listing.notes,
        core=torch.as_tensor(np.asarray(box if aabb is not None else listing.core or box), dtype=torch.float32),
    )


def on_background(
    images: UInt8[Tensor, "*n c"], background: Sequence[float | int] | Float[Tensor, "*#n 3"] = WHITE
) -> Float[Tensor, "*n 3"]:
    """Images over a background: premultiplied colour + (1 - alpha) * background, in sRGB as NeRF's benchmarks do.

    Arguments:
        images: (..., 4) premultiplied with alpha, or (..., 3) opaque, which the background leaves as they are.
        background: three numbers from 0 to 1, or a tensor broadcastable to (..., 3).

    Returns:
        (..., 3) float32 from 0 to 1.
    """
    values = images.float() / 255
    if images.shape[-1] == 3:
        return values
    background = torch.as_tensor(background, dtype=torch.float32, device=images.device)
    return values[..., :3] + (1 - values[..., 3:]) * background


def reference(
    images: UInt8[Tensor, "*n c"], background: Sequence[float | int] | Float[Tensor, "*#n 3"] = WHITE
) -> UInt8[Tensor, "*n 3"]:
    """The 8-bit images that predictions are scored against: composited in bands, to save memory, and rounded to 8 bits.
    Opaque images are returned as they are."""
    if images.shape[-1] == 3:
        return images
    flat = images.reshape(-1, 4)
    over = torch.as_tensor(background, dtype=torch.float32, device=images.device)
    over = over if over.ndim == 1 else over.expand(*images.shape[:-1], 3).reshape(-1, 3)
    out = torch.empty(len(flat), 3, dtype=torch.uint8, device=images.device)
    for first in range(0, len(flat), BAND // 4):
        band = slice(first, first + BAND // 4)
        colours = on_background(flat[band], over if over.ndim == 1 else over[band])
        out[band] = (colours * 255).round().clamp(0, 255).to(torch.uint8)
    return out.view(*images.shape[:-1], 3)


def load_views(
    frames: list[Frame], headers: list[tuple[tuple[int, int], bool]], downscale: int, has_alpha: bool, progress: tqdm
) -> Views:
    """Decode one split's images into one array, two at a time, and gather their cameras."""
    width, height = size = headers[0][0]
    for frame, (other, _) in zip(frames, headers, strict=True):
        if other != size:
            raise SinefieldError(
                f"{frame.where}: image is {other[0]}x{other[1]}, '{frames[0].name}' {width}x{height}; "
                "one dataset must have one image size"
            )
    cameras = frame_cameras(frames, size, downscale)
    shape = len(frames), cameras.height, cameras.width, 4 if has_alpha else 3
    images = room_for(shape)

    def decode(index: int) -> None:
        images[index] = area_average(read_pixels(frames[index], size, has_alpha), downscale)
        progress.update()

    with ThreadPoolExecutor(decoders(size)) as pool:
        jobs = [pool.submit(decode, index) for index in range(len(frames))]
        try:
            for job in jobs:
                job.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return Views(torch.from_numpy(images), cameras, [frame.name for frame in frames])


def room_for(shape: tuple[int, int, int, int]) -> np.ndarray:
    """An uninitialised uint8 array: in memory, or above `HELD` bytes mapped from a nameless file in the cache folder.

    What is mapped is the system's to keep in memory or not, and the file goes with its process, however that ends.

    Raises:
        SinefieldError: the cache folder cannot be written or has not so much room.
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
            f"{reason}: {shape[0]:,} images need {size / 1e9:.1f} GB; use a larger downscale or other $SINEFIELD_CACHE"
        ) from error


def decoders(size: tuple[int, int]) -> int:
    """How many images of a size (w, h) to decode at once."""
    return 2 if size[0] * size[1] <= MANY_PIXELS else 1


def frame_cameras(frames: list[Frame], size: tuple[int, int], downscale: int) -> Cameras:
    """The cameras of frames whose images have `size` (w, h) before they are averaged over downscale² blocks."""
    lenses = torch.tensor([frame.intrinsics(*size) for frame in frames])
    poses = torch.from_numpy(np.stack([frame.c2w for frame in frames])).float()
    return Cameras(poses, lenses[:, :2], lenses[:, 2:4], lenses[:, 4:], *size).downscaled(downscale)


def read_header(frame: Frame) -> tuple[tuple[int, int], bool]:
    """((w, h), has alpha) of a frame's image, without decoding it; its size must be sane and the declared one."""
    try:
        with open_file(frame.file, MAX_BYTES, "image") as stream, Image.open(stream, formats=FORMATS) as image:
            (width, height), alpha = image.size, image.has_transparency_data
    except SinefieldError:
        raise
    except Exception as error:  # damaged bytes make Pillow's readers raise nearly anything
        raise unreadable(frame, error) from error
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise SinefieldError(
            f"{frame.file}: claims {width}x{height} pixels, above the limit of {MAX_SIDE} a side and "
            f"{MAX_PIXELS // 10**6} megapixels; shrink it"
        )
    if frame.mask is not None:
        alpha = True
        if (size := read_header(replace(frame, file=frame.mask, mask=None))[0]) != (width, height):
            raise SinefieldError(
                f"{frame.mask}: is {size[0]}x{size[1]}, its image {width}x{height}; provide masks of the images' size"
            )
    declared, reduction = frame.declared_size(), frame.reduction
    if declared and reduction > 1:
        if any(abs(a * reduction - b) >= reduction for a, b in zip((width, height), declared, strict=True)):
            raise SinefieldError(
                f"{frame.where}: image {frame.name} is {width}x{height}, not {declared[0]}x{declared[1]} reduced "
                f"{reduction} times; reduce it anew or use the full images"
            )
        return (width, height), alpha
    if declared and declared != (width, height) and declared != oriented_size(frame):
        raise SinefieldError(
            f"{frame.where}: image is {width}x{height}, but the pose file says {declared[0]}x{declared[1]}; "
            "use the images the poses were made for"
        )
    return declared or (width, height), alpha


def read_pixels(frame: Frame, size: tuple[int, int] | None, has_alpha: bool) -> np.ndarray:
    """(h, w, 3) or (h, w, 4) uint8 sRGB with straight alpha, from whatever mode the file has.

    Turned by its EXIF orientation where it is not of the given size without, or no size is given.
    """
    try:
        # From a file, Pillow would ask for as many bytes as a chunk claims to have.
        data = read_bytes(frame.file, MAX_BYTES, "image")
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            check_scans(frame.file, image, data)
            image.load()
            if frame.upright or image.size != size:  # read_header saw that turning mends this
                image = ImageOps.exif_transpose(image)
            image, mode = to_srgb(image), "RGBA" if has_alpha else "RGB"
            pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    except SinefieldError:
        raise
    except Exception as error:
        raise unreadable(frame, error) from error
    if frame.mask is None:
        return pixels
    mask = read_pixels(replace(frame, file=frame.mask, mask=None), size, False)
    return np.concatenate([pixels[..., :3], mask.max(-1, keepdims=True)], -1)


def check_scans(file: Path, image: Image.Image, data: bytes) -> None:
    """Refuse a JPEG of thousands of scans, each some bytes long, and each a walk through the whole image."""
    if image.format in ("JPEG", "MPO") or image.info.get("compression") == "jpeg":
        scans = data.count(b"\xff\xda")  # in coded data no other byte but zero follows 255
        if scans > MAX_SCANS:
            raise SinefieldError(f"{file}: has {scans:,} scans, more than {MAX_SCANS}; save the image anew")


def to_srgb(image: Image.Image) -> Image.Image:
    """8-bit sRGB from 16-bit grey, which Pillow would clip, and from images with a colour profile of their own."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.uint32)
        values += 128
        values //= 257
        return Image.fromarray(values.astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("RGB", "RGBA", "CMYK"):
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            if "sRGB" not in ImageCms.getProfileDescription(source):
                mode = "RGBA" if image.mode == "RGBA" else "RGB"
                converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode)
                return converted or image
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # a broken profile: other software shows such an image unconverted too
    return image


def area_average(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Premultiply and average factor x factor blocks exactly, rounding once.

    Arguments:
        pixels: (h, w, c) uint8, straight alpha if c = 4.

    Returns:
        (h // factor, w // factor, c) uint8, premultiplied if c = 4.
    """
    height, width, channels = pixels.shape[0] // factor, pixels.shape[1] // factor, pixels.shape[2]
    pixels = pixels[: height * factor, : width * factor]
    if channels == 3 and factor == 1:
        return pixels
    averaged, rows = np.empty((height, width, channels), np.uint8), max(BAND // (width * factor**2 * channels), 1)
    for first in range(0, height, rows):  # a band at a time: the sums take many times the image's memory
        band = slice(first, min(first + rows, height))
        averaged[band] = _averaged(pixels[first * factor : band.stop * factor], factor)
    return averaged


def _averaged(pixels: np.ndarray, factor: int) -> np.ndarray:
    """`area_average` of whole blocks, all at once."""
    height, width, channels = pixels.shape[0] // factor, pixels.shape[1] // factor, pixels.shape[2]
    unit = 1
    if channels == 4:  # in units of 1/255, to stay whole
        unit = 255
        weights = np.concatenate([np.repeat(pixels[..., 3:], 3, -1), np.full_like(pixels[..., 3:], 255)], -1)
        pixels = np.multiply(pixels, weights, dtype=np.uint16)
    rows = pixels.reshape(height, factor, -1).sum(1, dtype=np.uint32)
    sums = rows.reshape(height, width, factor, channels).sum(2, dtype=np.uint64)
    divisor = unit * factor * factor
    return ((2 * sums + divisor) // (2 * divisor)).astype(np.uint8)


def uprighted(listing: Listing) -> Listing:
    """The listing with all of its frames turned by their EXIF orientation, where one of them is of the size that the
    poses say only when it is turned: a set is treated alike. Where none is turned although some say so, a note."""

    def turned(frame: Frame) -> bool:
        declared = frame.declared_size()
        if declared is None or frame.reduction > 1 or declared[0] == declared[1]:
            return False
        try:
            with open_file(frame.file, MAX_BYTES) as stream, Image.open(stream, formats=FORMATS) as image:
                size = image.size
        except Exception:  # whoever reads it next says what is wrong
            return False
        return size == declared[::-1] and oriented_size(frame) == declared

    every = [frame for frames in listing.frames.values() for frame in frames]
    if not any(turned(frame) for frame in every):
        if not (count := sum(map(_says_turned, every))):
            return listing
        note = f"{count} images have an EXIF orientation, which is not applied: their size is that of the poses without"
        return replace(listing, notes=(*listing.notes, note))
    frames = {split: [replace(f, upright=True) for f in frames] for split, frames in listing.frames.items()}
    note = "images are turned by their EXIF orientation, since their poses are for upright ones"
    return replace(listing, frames=frames, notes=(*listing.notes, note))


def _says_turned(frame: Frame) -> bool:
    """Whether an image, of a kind whose head tells without decoding, has an EXIF orientation other than upright."""
    try:
        with open_file(frame.file, MAX_BYTES) as stream, Image.open(stream, formats=("JPEG", "TIFF")) as image:
            return image.getexif().get(EXIF_ORIENTATION, 1) not in (0, 1)
    except Exception:  # another kind, or whoever reads it next says what is wrong
        return False


def oriented_size(frame: Frame) -> tuple[int, int]:
    """(w, h) after applying the EXIF orientation, which cameras leave to the viewer and pose software ignores."""
    try:
        data = BytesIO(read_bytes(frame.file, MAX_BYTES, "image"))
        with Image.open(data, formats=FORMATS) as image:  # asked rarely: for its EXIF a PNG is decoded whole
            width, height = image.size
            return (height, width) if image.getexif().get(EXIF_ORIENTATION) in (5, 6, 7, 8) else (width, height)
    except Exception as error:
        raise unreadable(frame, error) from error


def unreadable(frame: Frame, error: Exception) -> SinefieldError:
    """The one line for an image Pillow cannot read."""
    if isinstance(error, Image.DecompressionBombError):
        return SinefieldError(f"{frame.file}: claims far more than {MAX_PIXELS // 10**6} megapixels; shrink it")
    reason = "not an image of a known kind" if isinstance(error, Image.UnidentifiedImageError) else str(error)[:80]
    return SinefieldError(f"{frame.file}: cannot be read ({reason}); restore the image as PNG or JPEG")
