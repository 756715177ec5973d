"""The pixels of one image into a field."""

from collections.abc import Callable

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from sinefield.config import ImageConfig
from sinefield.fields.base import Task, kept
from sinefield.fields.image.field import GREY, ImageField, pixel_centres
from sinefield.metrics.images import psnr
from sinefield.nn.backend import chunk_for, training_device
from sinefield.nn.point_error import error_sum
from sinefield.nn.weights import materialised

PROBED_PIXELS = 16384


class ImageTask(Task):
    """One image field being fitted to random pixels. Nothing is held out: the pixels themselves are what is stored.

    Arguments:
        field: the one to be fitted, as it is; a new one when None.
    """

    shares = True

    def __init__(self, config: ImageConfig, image: UInt8[Tensor, "h w 3"], field: ImageField | None = None) -> None:
        self.config = config
        self.device = training_device(config.training.device)
        self.image = image
        self.pixels = image.flatten(0, 1).to(self.device)
        self.progress = 0.0
        torch.manual_seed(config.seed)
        made = ImageField(config.field, image.shape[1], image.shape[0]) if field is None else field
        self.field = made.to(self.device)

    def hidden_matrices(self) -> list[nn.Parameter]:
        return self.field.network.hidden_matrices()

    def points(self, pixels: Tensor) -> Tensor:
        """Field coordinates of pixels counted row by row."""
        return pixel_centres(pixels, self.image.shape[1], self.image.shape[0])

    def step(self, index: int, generator: torch.Generator) -> float | Tensor:
        """Accumulate the gradient of the mean square error over random pixels; on CUDA nothing waits for the device."""
        training = self.config.training
        chosen = torch.randint(len(self.pixels), (training.batch,), generator=generator, device=self.device)
        chosen, total = chosen[self.team.part(training.batch)], 0.0
        with materialised(self.field):
            for part in chosen.split(training.chunk or chunk_for(self.config.field.width, self.device)):
                seen, colours = self.field.encoding(self.points(part)), self.pixels[part].float() / 255
                loss = error_sum(self.field.network, seen, colours - GREY, "mse") / (3 * training.batch)
                loss.backward()
                total += kept(loss)
        return total

    def probe(self) -> Callable[[], Tensor]:
        pixels = torch.randint(len(self.pixels), (PROBED_PIXELS,), generator=torch.Generator().manual_seed(0))
        points = self.points(pixels.to(self.device))
        return lambda: self.field(points)

    def quick_score(self) -> dict[str, float]:
        """PSNR of the whole image."""
        return {"psnr": image_psnr(self.field, self.image)}


def image_psnr(field: ImageField, image: UInt8[Tensor, "h w 3"]) -> float:
    """PSNR in dB of the image as the field renders it, 8 bits against 8 bits, which tell no more than 100 dB apart."""
    field.set_dtype(torch.float32)
    return min(float(psnr(field.render(), image)), 100.0)
