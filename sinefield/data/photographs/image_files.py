"""One image file: its size without decoding it, its pixels as sRGB, averaged over blocks."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from sinefield.data.photographs.transforms import Frame
from sinefield.errors import SinefieldError
from sinefield.files import open_file, read_bytes

# Formats a camera or renderer writes; Pillow's others include some that start external programs.
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
MAX_SIDE = 16384
MAX_PIXELS = 100_000_000
MAX_BYTES = 1 << 30
MAX_SCANS = 100  # of a JPEG; progressive ones have about ten
MANY_PIXELS = 25_000_000  # an image of more is decoded alone: each pixel takes some 15 bytes on the way
BAND = 1 << 22  # values averaged at once
EXIF_ORIENTATION = 0x0112


def image_size(file: Path) -> tuple[int, int]:
    """(w, h) as the file has them, without decoding it; (1, 1) of what is no image, which its reader says."""
    try:
        with open_file(file, MAX_BYTES, "image") as stream, Image.open(stream, formats=FORMATS) as image:
            return image.size
    except SinefieldError:
        raise
    except Exception:
        return 1, 1


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


def straight(frame: Frame) -> np.ndarray:
    """(h, w, 4) uint8 sRGB and straight alpha of a photograph, 255 where it has none."""
    return read_pixels(frame, read_header(frame)[0], True)


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


def decoders(size: tuple[int, int]) -> int:
    """How many images of a size (w, h) to decode at once."""
    return 2 if size[0] * size[1] <= MANY_PIXELS else 1
