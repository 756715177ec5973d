"""Photographs as a camera left them, made ready for finding their poses: upright, of one size, with their masks."""

import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from sinefield.data.photographs.image_files import EXIF_ORIENTATION, FORMATS, MAX_BYTES, MAX_PIXELS, MAX_SIDE
from sinefield.data.photographs.shared import image_folders, image_names
from sinefield.errors import SinefieldError
from sinefield.files import open_file

HEIC = (".heic", ".heif")
HEIC_FORMATS = ("HEIF",)
MASKS = "masks"


@dataclass(frozen=True)
class Photographs:
    """The photographs of a folder.

    Attributes:
        folder: where they lie.
        names: relative to it, sorted; those that are used.
        size: (w, h) of each when it stands upright, or lies on its side like the most of them.
        turned: names of those to be turned, with the degrees (counter-clockwise) after their EXIF orientation.
        converted: names of HEIC files.
        left_out: name and why.
        masks: name and file of those that have one.
    """

    folder: Path
    names: list[str]
    size: tuple[int, int]
    turned: dict[str, int] = field(default_factory=dict)
    converted: set[str] = field(default_factory=set)
    left_out: dict[str, str] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether the files can be used as they are."""
        return not self.turned and not self.converted

    def said(self) -> str:
        """What keeps them from being used as they are."""
        parts = [f"{len(self.turned)} are turned by their EXIF orientation"] if self.turned else []
        parts += [f"{len(self.converted)} are HEIC files"] if self.converted else []
        return " and ".join(parts)


def find_photographs(folder: Path) -> Photographs:
    """The photographs in folder/images or in a folder itself, those in `masks` left out.

    A photograph that cannot be read, or of another size than most have, is left out; one that is turned by 90° against
    most is laid on its side, since all are taken to be of one camera.

    Raises:
        SinefieldError: no such folder, no photographs, HEIC files without the package that reads them.
    """
    if not folder.is_dir():
        raise SinefieldError(f"{folder}: no such folder; give one of photographs")
    folders = image_folders(folder)
    root = folders[min(folders)] if folders else folder / "images" if (folder / "images").is_dir() else folder
    heic = {file.relative_to(root).as_posix() for file in root.rglob("*") if file.suffix.lower() in HEIC}
    heic = {name for name in heic if not any(part.startswith(".") for part in name.split("/"))}
    names = sorted(name for name in {*image_names(root), *heic} if name.split("/")[0] != MASKS)
    if not names:
        raise SinefieldError(f"{folder}: has no photographs, nor a folder 'images' of them")
    if heic.intersection(names):
        register_heic(root / min(heic))
    headers, left_out = {}, {}
    for name in names:
        try:
            headers[name] = _header(root / name)
        except SinefieldError as error:
            left_out[name] = str(error)
    if not headers:
        raise SinefieldError(f"{root / names[0]}: {left_out[names[0]]}; and so none of {len(names)} photographs")
    size = Counter(size for size, _ in headers.values()).most_common(1)[0][0]
    kept, turned = [], {}
    for name, (own, orientation) in headers.items():
        if own not in (size, size[::-1]):
            left_out[name] = f"is {own[0]}x{own[1]}, most are {size[0]}x{size[1]}"
            continue
        kept.append(name)
        side = 90 if own != size else 0
        if orientation != 1 or side:
            turned[name] = side
    found = {name: mask for name in kept if (mask := _mask(folder, root, name))}
    return Photographs(root, kept, size, turned, heic.intersection(kept), left_out, found)


def write_upright(photographs: Photographs, folder: Path) -> list[str]:
    """Copy the photographs to `folder`, turned upright, HEIC as JPEG; returns the copies' names, one for each.

    Raises:
        SinefieldError: one cannot be decoded.
    """
    written: list[str] = []
    for name in photographs.names:
        source = photographs.folder / name
        copy = name
        if name in photographs.converted:
            copy = str(Path(name).with_suffix(".jpg"))
            if copy in photographs.names:
                copy = str(Path(name).with_suffix("")) + "_heic.jpg"
        target = folder / copy
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in photographs.turned or name in photographs.converted:
            options: dict[str, Any]
            image, options = upright(source, photographs.turned.get(name, 0))
            if target.suffix.lower() in (".jpg", ".jpeg"):
                image, options = image.convert("RGB"), {**options, "quality": 95, "subsampling": 0}
            image.save(target, **options)
        else:
            shutil.copyfile(source, target)
        written.append(copy)
    return written


def write_masks(photographs: Photographs, copies: list[str], folder: Path) -> None:
    """Write the masks to `folder` as COLMAP wants them: NAME.png for each copy NAME, or it reads none; black hides.

    A photograph without a mask gets a white one.

    Raises:
        SinefieldError: a mask has another size than its photograph.
    """
    for name, copy in zip(photographs.names, copies, strict=True):
        mask, file = Image.new("L", photographs.size, 255), photographs.masks.get(name)
        if file is not None:
            mask, _ = upright(file, photographs.turned.get(name, 0), mask=True)
        if mask.size != photographs.size:
            there, wanted = mask.size, photographs.size
            raise SinefieldError(
                f"{file}: is {there[0]}x{there[1]}, its photograph {wanted[0]}x{wanted[1]}; give masks of the "
                "photographs' size, or move the folder 'masks' away"
            )
        target = folder / f"{copy}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        mask.save(target)


def upright(file: Path, degrees: int, mask: bool = False) -> tuple[Image.Image, dict[str, Any]]:
    """A photograph turned by its EXIF orientation, then by `degrees`; and what to save along with it.

    The rest of its EXIF stays: the focal length is a good start for the lens.
    """
    try:
        with warnings.catch_warnings(), _opened(file) as image:
            warnings.simplefilter("ignore")
            turned = ImageOps.exif_transpose(image)
            exif, profile = turned.getexif(), image.info.get("icc_profile")
            turned = turned.convert("L" if mask else "RGBA" if image.has_transparency_data else "RGB")
    except Exception as error:  # damaged bytes make Pillow's readers raise nearly anything
        raise SinefieldError(f"{file}: cannot be read ({str(error)[:80]}); restore it, or take it out") from error
    exif.pop(EXIF_ORIENTATION, None)
    if degrees:
        turned = turned.transpose({90: Image.Transpose.ROTATE_90}[degrees])
    return turned, {} if mask else {"exif": exif, "icc_profile": profile}


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    with open_file(file, MAX_BYTES, "image") as stream, Image.open(stream, formats=(*FORMATS, *HEIC_FORMATS)) as image:
        yield image


def register_heic(file: Path) -> None:
    """Teach Pillow to read HEIC. Raises SinefieldError where the package for it is not installed."""
    try:
        import pillow_heif
    except ImportError as error:
        raise SinefieldError(
            f"{file}: HEIC needs another package: pip install 'sinefield[capture]', or save the photographs as JPEG"
        ) from error
    pillow_heif.register_heif_opener(thumbnails=False)


def _header(file: Path) -> tuple[tuple[int, int], int]:
    """((w, h) when upright, EXIF orientation) of an image, not decoded."""
    try:
        with warnings.catch_warnings(), _opened(file) as image:
            warnings.simplefilter("ignore")
            (width, height), orientation = image.size, image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception as error:
        reason = "not an image of a known kind" if isinstance(error, Image.UnidentifiedImageError) else str(error)[:80]
        raise SinefieldError(f"cannot be read ({reason})") from error
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise SinefieldError(f"claims {width}x{height} pixels, too many")
    orientation = orientation if orientation in range(2, 9) else 1
    return ((height, width) if orientation >= 5 else (width, height)), orientation


def _mask(folder: Path, root: Path, name: str) -> Path | None:
    """The mask of a photograph, in `masks` beside `images` or in `images`: NAME.png with or without NAME's suffix."""
    for masks in (folder / MASKS, root / MASKS, root.parent / MASKS if root != folder else folder / MASKS):
        for file in (masks / f"{name}.png", (masks / name).with_suffix(".png")):
            if file.is_file():
                return file
    return None
