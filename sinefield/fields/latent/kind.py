"""Fields of many shapes: all that the package knows of them."""

from pathlib import Path
from typing import Any

from torch import Tensor

from sinefield.compress.container import Packed
from sinefield.config import ShapesConfig, ShapesFieldConfig
from sinefield.data.shape_sets import ShapeSet, shape_set
from sinefield.fields.base import Kind, register_kind
from sinefield.fields.latent.field import LatentShapeField
from sinefield.fields.latent.scores import score_shapes
from sinefield.fields.latent.training import ShapesTask, judged_iou


class ShapesKind(Kind):
    """Many shapes, learned by one transformer that finds the shape behind a cloud of points."""

    name = "shapes"
    config = ShapesConfig
    score = "iou"
    quick = "IoU, held-out shapes"
    colour = "#7a4a8c"
    affordable = 0.004
    instead = "it knows many shapes: sinefield reconstruct makes one from points"
    pictures = "shapes.png"
    legend = "Scan, shape found, truth."
    trains_rounded = False

    def read(self, config: ShapesConfig) -> ShapeSet:
        return shape_set(config.data)

    def task(self, config: ShapesConfig, data: ShapeSet, field: LatentShapeField | None = None) -> ShapesTask:
        return ShapesTask(config, data, field)

    def blank(self, settings: ShapesFieldConfig, placed: dict[str, Tensor]) -> LatentShapeField:
        return LatentShapeField(settings)

    def numbers(self, settings: ShapesFieldConfig) -> int:
        return 4 * settings.blocks * settings.dim**2  # of self-attention

    def parts(self, field: LatentShapeField) -> dict[str, Any]:
        return {"box": None}

    def from_parts(self, settings: ShapesFieldConfig, packed: Packed) -> LatentShapeField:
        return LatentShapeField(settings)

    def report(
        self, field: LatentShapeField, config: ShapesConfig, data: ShapeSet, pictures: Path | None
    ) -> dict[str, Any]:
        return score_shapes(field, config, data, pictures)

    def quality(self, field: LatentShapeField, data: ShapeSet) -> float:
        return judged_iou(field, data)

    def extent(self, field: LatentShapeField) -> tuple[dict[str, Any], str]:
        points, tokens = field.config.points, field.config.tokens
        return {"points": points, "tokens": tokens}, f"{points:,} points into {tokens:,} tokens"


register_kind(ShapesKind())
