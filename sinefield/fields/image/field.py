"""An image as a field: where to which colour."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sinefield.config import ImageFieldConfig
from sinefield.fields.base import Field
from sinefield.nn.encodings import position_encoding
from sinefield.nn.mlp import MLP
from sinefield.nn.weights import materialised

GREY = 0.5
"""The colour that a network of zeros is."""


class ImageField(Field):
    """sRGB at any place of one image, in field coordinates: (0, 0) its middle, x right, y down, ±1 along its longest
    side. The centre of pixel i of n along that side is at (2 i + 1) / n − 1.

    Arguments:
        width, height: pixels of the image it was made from: what it renders when no size is asked for.
    """

    kind = "image"

    size: Tensor

    def __init__(self, config: ImageFieldConfig, width: int, height: int) -> None:
        super().__init__()
        self.config = config
        self.encoding = position_encoding(config, dimensions=2)
        self.network = MLP.of(config, self.encoding.out_features, 3)
        self.register_buffer("size", torch.tensor([width, height]))

    @property
    def width(self) -> int:
        return int(self.size[0])

    @property
    def height(self) -> int:
        return int(self.size[1])

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Arithmetic of the hidden layers: torch.float32 or torch.bfloat16, or torch.float16 by tinycudann."""
        self.encoding.dtype = self.network.dtype = dtype

    def forward(self, x: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
        """sRGB at field coordinates, as the network has it: a little below 0 or above 1 here and there."""
        return self.network(self.encoding(x)) + GREY

    @torch.no_grad()
    def render(self, width: int | None = None, height: int | None = None, chunk: int = 32768) -> UInt8[Tensor, "h w 3"]:
        """The image at its own or another size, one sample in the middle of each pixel, rounded to 8 bits."""
        width, height = width or self.width, height or self.height
        out = torch.empty(height * width, 3, dtype=torch.uint8)
        with materialised(self):
            for first in range(0, height * width, chunk):
                pixels = torch.arange(first, min(first + chunk, height * width), device=self.size.device)
                colours = self(pixel_centres(pixels, width, height))
                out[first : first + chunk] = (colours.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        return out.view(height, width, 3)


def pixel_centres(pixels: Tensor, width: int, height: int) -> Float[Tensor, "n 2"]:
    """Field coordinates of the centres of pixels, counted row by row, of an image of this size."""
    x, y = pixels % width, pixels // width
    # Whole numbers until the last division, so that a pixel is at one place whatever the order.
    return torch.stack([2 * x + 1 - width, 2 * y + 1 - height], dim=1).float() / max(width, height)
