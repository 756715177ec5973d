"""Posed photographs: a dataset folder in, 8-bit premultiplied images with their cameras out."""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sinefield.cameras.cameras import LARGEST, check_downscale
from sinefield.cameras.pixel_rays import lens_notes
from sinefield.data.photographs.box import placed
from sinefield.data.photographs.depths import depth_note
from sinefield.data.photographs.image_files import (
    BAND,
    EXIF_ORIENTATION,
    FORMATS,
    MAX_BYTES,
    MAX_SIDE,
    oriented_size,
    read_header,
    straight,
)
from sinefield.data.photographs.listing import read_listing
from sinefield.data.photographs.masks import Covering, covered, ignored_note
from sinefield.data.photographs.origin import recentred
from sinefield.data.photographs.transforms import SPLITS, Frame, Listing, check_box
from sinefield.data.photographs.views import Reading, Views, load_views
from sinefield.errors import SinefieldError
from sinefield.files import open_file

WHITE = (1.0, 1.0, 1.0)
IGNORING = Covering()


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
        origin: what was taken off all positions, so that single precision holds them; world units.
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
    origin: tuple[float, ...] = (0.0, 0.0, 0.0)

    def seen_from(self, origin: Float[np.ndarray, "3"]) -> "PosedScene":
        """The same scene with another offset taken off, that of a field."""
        if (shift := np.asarray(self.origin) - origin).any():
            by = torch.from_numpy(shift).float()
            views = [view and view.moved(by) for view in (self.train, self.val, self.test)]
            boxes = [box if box is None else box + by.repeat(2) for box in (self.aabb, self.core)]
            train, val, test = views
            return replace(
                self, train=train, val=val, test=test, aabb=boxes[0], core=boxes[1], origin=tuple(origin.tolist())
            )
        return self

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
    origin: Float[np.ndarray, "3"] | None = None,
    covering: Covering = IGNORING,
    depths: bool = False,
) -> PosedScene:
    """Load a Blender (NeRF-synthetic), instant-ngp, nerfstudio, LLFF or DTU/IDR dataset, or images with a COLMAP model.

    Frames whose image file is missing are skipped and counted. Where the data name no test views, every `holdout`-th by
    sorted file name is one, as LLFF does. Camera poses stay in the data's own world units; of a scene far from the
    origin an offset is taken off in double precision (`PosedScene.origin`).

    Arguments:
        path: the folder, or the transforms JSON, poses_bounds.npy, cameras_sphere.npz or COLMAP model in it.
        downscale: average blocks of downscale x downscale pixels, cropping the right and bottom remainder. LLFF and
            COLMAP datasets may bring images so reduced (`images_4`): these are taken as they are, or averaged further.
        aabb: xmin ymin zmin xmax ymax zmax in world units; else the data's own, see the reader of each kind.
        holdout: see above; 0 keeps every view for training.
        splits: which of train, val, test to load.
        origin: the offset to take off, that of a field say; when None one that suits the scene, mostly zero.
        covering: what masks and alpha stand for.
        depths: read the training views' depth images.

    Raises:
        SinefieldError: a missing, malformed, truncated or unsupported file; a path out of the data folder; a pose that
            is no rigid motion; no usable frame.
    """
    if downscale != int(downscale) or downscale < 1:
        check_downscale(downscale, MAX_SIDE, MAX_SIDE)
    listing = read_listing(path, splits, holdout, downscale)
    if aabb is None:
        listing = placed(listing, straight)
    else:
        box = check_box([float(value) for value in aabb], "aabb").tolist()
        listing = replace(listing, aabb=box, core=None, rule=None)
    listing = recentred(listing, origin)
    box = listing.aabb
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
        listing = covered(uprighted(listing), covering)
        headers = {split: [read_header(f) for f in frames] for split, frames in listing.frames.items()}
        has_alpha = any(alpha for header in headers.values() for _, alpha in header)
        reading = Reading(downscale, has_alpha, has_alpha and covering.alpha == "ignore")
        hidden = total <= 20 or not sys.stderr.isatty()
        with tqdm(total=total, desc="images", unit="", leave=False, disable=hidden) as progress:
            views = {
                split: load_views(
                    frames, headers[split], replace(reading, depths=depths and split == "train"), progress
                )
                if frames
                else None
                for split, frames in listing.frames.items()
            }
    loaded = [each for each in views.values() if each is not None]
    kept = [None if each.kept is None else each.kept.numpy() for each in loaded]
    told = ignored_note(kept, [len(each.pixels) for each in loaded])
    return PosedScene(
        *(views.get(split) for split in SPLITS),
        aabb=torch.as_tensor(np.asarray(box), dtype=torch.float32),
        skipped=listing.skipped,
        has_alpha=has_alpha and not reading.alpha_ignored,
        unposed=listing.unposed,
        bounds=listing.bounds,
        notes=(*listing.notes, *lens_notes([each.cameras for each in loaded]), *told, *depth_note(listing, depths)),
        origin=listing.origin,
        core=torch.as_tensor(np.asarray(listing.core or box), dtype=torch.float32),
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
