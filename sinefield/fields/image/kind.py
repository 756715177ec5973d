"""Images: all that the package knows of them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from sinefield.compress.container import Packed
from sinefield.config import ImageConfig, ImageFieldConfig
from sinefield.data.photographs.image_files import MAX_PIXELS, MAX_SIDE, area_average
from sinefield.data.picture import load_image
from sinefield.errors import SinefieldError
from sinefield.fields.base import Kind, network_numbers, register_kind
from sinefield.fields.image.field import ImageField
from sinefield.fields.image.training import ImageTask, image_psnr
from sinefield.metrics.images import SSIM_WINDOW, remarks, ssim
from sinefield.pictures import save_png, side_by_side

Pixels = UInt8[Tensor, "h w 3"]


class ImageKind(Kind):
    """One image. Nothing is held out: the pixels themselves are what is stored."""

    name = "image"
    config = ImageConfig
    score = "psnr"
    quick = "PSNR (dB)"
    colour = "#6b7f2a"
    affordable = 0.2
    shows = "picture"
    instead = "it is flat: sinefield image renders it"
    pictures = "image.png"
    placed = {"size": (2,)}  # noqa: RUF012
    edits = True
    presets = {  # noqa: RUF012
        "small": {"field.width": 96, "field.weights": "sine"},
        "balanced": {},
        "best": {"training.seconds": 180.0},
    }

    def read(self, config: ImageConfig) -> Pixels:
        return load_image(config.data.path, config.data.downscale, config.data.background)

    def task(self, config: ImageConfig, data: Pixels, field: ImageField | None = None) -> ImageTask:
        return ImageTask(config, data, field)

    def blank(self, settings: ImageFieldConfig, placed: dict[str, Tensor]) -> ImageField:
        width, height = (int(side) for side in placed["size"].tolist())
        return ImageField(settings, width, height)

    def check(self, tensors: dict[str, Tensor], where: str) -> None:
        size = tensors["size"]
        if size.dtype != torch.int64 or not bool(((size >= 1) & (size <= MAX_SIDE)).all()):
            raise SinefieldError(f"{where}: its image has no sensible size; the file is damaged, train again")

    def parts(self, field: ImageField) -> dict[str, Any]:
        return {"box": None, "size": (field.width, field.height)}

    def from_parts(self, settings: ImageFieldConfig, packed: Packed) -> ImageField:
        assert packed.size is not None  # every file of an image has it
        return ImageField(settings, *packed.size)

    def numbers(self, settings: ImageFieldConfig) -> int:
        return network_numbers(settings)

    def report(self, field: ImageField, config: ImageConfig, data: Pixels, pictures: Path | None) -> dict[str, Any]:
        """PSNR and SSIM over all pixels; the image, the field and the error as picture.

        Raises:
            SinefieldError: the image is not of the size that the field was made from.
        """
        size = (data.shape[1], data.shape[0])
        if size != (field.width, field.height):
            raise SinefieldError(
                f"{config.data.path}: is {size[0]}×{size[1]}, the field was made from {field.width}×{field.height} "
                "pixels; give the image that it was trained on"
            )
        rendered = field.render()
        if pictures:
            save_png(pictures / "image.png", side_by_side(data.float() / 255, rendered.float() / 255))
        similarity = None if min(size) < SSIM_WINDOW else float(ssim(rendered, data))
        return {
            "psnr": image_psnr(field, data),
            "ssim": similarity,
            "width": size[0],
            "height": size[1],
            "background": config.data.background,
            "downscale": config.data.downscale,
            "remarks": remarks(similarity),
        }

    def quality(self, field: ImageField, data: Pixels) -> float:
        return image_psnr(field, data)

    def begin_edit(self, field: ImageField, config: ImageConfig, data: Pixels, base: str) -> None:
        if data.shape[:2] != (field.height, field.width):
            raise SinefieldError(
                f"{config.data.path}: is not {field.width}×{field.height} pixels as {base} is; resize it"
            )

    def extent(self, field: ImageField) -> tuple[dict[str, Any], str]:
        return {"size": [field.width, field.height]}, f"size {field.width}×{field.height} pixels"

    def picture(self, field: ImageField, width: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
        """The image at its own proportions; smaller than it is, each pixel is the mean over samples no wider apart than
        the pixels that it was made from, where `MAX_PIXELS` samples are enough for that.

        Raises:
            SinefieldError: a size out of range.
        """
        if field.width * field.height > MAX_PIXELS:
            raise SinefieldError(
                f"the field says that its image has {field.width}×{field.height} pixels; at most "
                f"{MAX_PIXELS // 10**6} million are drawn: pack it again"
            )
        width = field.width if width is None else width
        height = max(round(field.height * width / field.width), 1)
        if not 1 <= width <= MAX_SIDE or height > MAX_SIDE or width * height > MAX_PIXELS:
            raise SinefieldError(
                f"an image of {width}×{height} pixels; 1 to {MAX_SIDE:,} a side and {MAX_PIXELS // 10**6} million in "
                "all"
            )
        samples = min(-(-field.width // width), math.isqrt(MAX_PIXELS // (width * height)))
        return area_average(field.render(samples * width, samples * height).numpy(), samples)


register_kind(ImageKind())
