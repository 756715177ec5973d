"""Shapes: all that the package knows of them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sinefield.compress.container import Packed
from sinefield.config import ShapeConfig, ShapeFieldConfig
from sinefield.data.surfaces.account import account, as_text
from sinefield.data.surfaces.split import load_part
from sinefield.data.surfaces.surface import Normalisation, Surface, load_surface
from sinefield.errors import SinefieldError
from sinefield.fields.base import Kind, Mesh, network_numbers, register_kind
from sinefield.fields.shape.distance_scores import distance_scores
from sinefield.fields.shape.field import ShapeField
from sinefield.fields.shape.painter import ShapePainter
from sinefield.fields.shape.scores import EMPTY, QUICK_POINTS, Judge, heldout_iou, score_shape
from sinefield.fields.shape.sheet_painter import SheetPainter
from sinefield.fields.shape.surface import SLOPE, extract_shape, extract_sheet
from sinefield.fields.shape.training import ShapeTask, packing, settled
from sinefield.plain.distance import TrueDistance
from sinefield.plain.distance_network import DistanceNetwork
from sinefield.plain.network import STORED
from sinefield.plain.sheet import SheetDistance, distances_of


class ShapeKind(Kind):
    """A mesh or an oriented point cloud, learned as a signed distance, an occupancy or a sheet."""

    name = "shape"
    config = ShapeConfig
    score = "iou"
    quick = "IoU, held-out points"
    colour = "#1f6f8b"
    affordable = 0.0025
    shows = "surface"
    instead = "sinefield mesh and sinefield video show it"
    pictures = "shape.png"
    legend = "Reference, prediction, error (red is 1 % of the box diagonal or more)."
    placed = {"centre": (3,), "scale": (), "aabb": (6,)}  # noqa: RUF012
    edits = True
    short_in_torch = True

    def of(self, settings: ShapeFieldConfig) -> Kind:
        return SHEET if settings.represents == "sheet" else self

    presets = {  # noqa: RUF012
        "small": {"field.width": 64, "field.rank": 8},
        "balanced": {},
        "best": {"field.width": 192, "field.rank": 24, "training.seconds": 180.0},
    }

    def read(self, config: ShapeConfig) -> Surface:
        data = config.data
        return load_surface(data.path) if data.part is None else load_part(data.path, data.part)

    def described(self, data: Surface) -> str:
        return as_text(account(data))

    def settled(self, config: ShapeConfig, data: Surface) -> ShapeConfig:
        return settled(config, data)

    def task(self, config: ShapeConfig, data: Surface, field: ShapeField | None = None) -> ShapeTask:
        return ShapeTask(config, data, field)

    def blank(self, settings: ShapeFieldConfig, placed: dict[str, Tensor]) -> ShapeField:
        return ShapeField(settings, placed["centre"], placed["scale"], placed["aabb"])

    def numbers(self, settings: ShapeFieldConfig) -> int:
        colours = settings.colour_network
        return network_numbers(settings) + (0 if colours is None else network_numbers(colours))

    def check(self, tensors: dict[str, Tensor], where: str) -> None:
        box = tensors["aabb"]
        extent = (box[3:] - box[:3]).double()
        if not bool((extent >= 0).all()) or not float(extent.max()) > 0 or not float(tensors["scale"]) > 0:
            raise SinefieldError(f"{where}: its box or scale is no box; the file is damaged, train again")

    def parts(self, field: ShapeField) -> dict[str, Any]:
        return {"box": field.aabb.cpu().numpy()}

    def from_parts(self, settings: ShapeFieldConfig, packed: Packed) -> ShapeField:
        """Centre and scale follow from the box."""
        assert packed.box is not None  # every file of a shape has it
        return self.blank(settings, placed_by(packed.box))

    def report(self, field: ShapeField, config: ShapeConfig, data: Surface, pictures: Path | None) -> dict[str, Any]:
        scores = score_shape(field, data, pictures)
        if "surface_note" in scores:  # an untrained field may have no surface, and so no distances
            return scores
        return scores | distance_scores(field, self.true_distance(field), data)

    def quick_report(
        self, field: ShapeField, config: ShapeConfig, data: Surface, pictures: Path | None
    ) -> dict[str, Any]:
        return score_shape(field, data, pictures, quick=True)

    def quality(self, field: ShapeField, data: Surface) -> float:
        return heldout_iou(field, data)

    def quick_quality(self, field: ShapeField, data: Surface) -> float:
        return heldout_iou(field, data, QUICK_POINTS)

    def judge(self, data: Surface, apart: bool) -> tuple[Surface, Callable[[ShapeField], float]]:
        return data, Judge(data)

    def packing(self, config: ShapeConfig, anew: bool = False) -> ShapeConfig:
        return packing(config, anew)

    def begin_edit(self, field: ShapeField, config: ShapeConfig, data: Surface, base: str) -> Float[np.ndarray, "6"]:
        """The changed shape's box, which must lie in the cube that the base was trained in."""
        normalisation = Normalisation(tuple(field.centre.tolist()), float(field.scale))
        reach = float(np.abs(normalisation.apply(data.aabb.reshape(2, 3))).max())
        if reach > 1:
            raise SinefieldError(
                f"{data.source}: reaches {100 * (reach - 1):.0f} % beyond the cube that {base} was trained in; "
                "move or shrink it, or train it anew"
            )
        return data.aabb

    def extent(self, field: ShapeField) -> tuple[dict[str, Any], str]:
        box, coloured = field.aabb.tolist(), field.colour_network is not None
        line = "box " + " ".join(f"{v:.5g}" for v in box) + ", with colours" * coloured
        return {"aabb": box, "colours": coloured}, line

    def surface(
        self,
        field: ShapeField,
        resolution: int,
        level: float | None = None,
        dense: bool = False,
        crop: Float[np.ndarray, "6"] | None = None,
    ) -> Mesh:
        if field.sheet:
            return extract_sheet(field, resolution, level, crop)
        return extract_shape(field, resolution, level, dense, crop, SLOPE if field.distance else None)

    def true_distance(self, field: ShapeField) -> TrueDistance:
        if field.config.encoding == "frequency" and field.config.weights in STORED:
            arrays = {name: t.cpu().numpy() for name, t in field.state_dict().items()}
            return distances_of(field.config, arrays)
        box = field.aabb.cpu().numpy()
        if field.sheet:
            return SheetDistance(partial(_side_and_beyond, field), box)
        return TrueDistance(partial(_signed, field), box, learned=field.distance)

    def distance_network(self, field: ShapeField) -> DistanceNetwork:
        arrays = {name: t.cpu().numpy() for name, t in field.state_dict().items()}
        return DistanceNetwork.of_arrays(field.config, arrays)

    def vertex_colours(
        self, field: ShapeField, vertices: np.ndarray, normals: np.ndarray
    ) -> UInt8[np.ndarray, "v 3"] | None:
        if field.colour_network is None:
            return None
        return (field.colours_at(torch.from_numpy(vertices)) * 255).round().to(torch.uint8).cpu().numpy()

    def colour_at(
        self, field: ShapeField, points: np.ndarray, directions: np.ndarray | None
    ) -> Float[np.ndarray, "n 3"]:
        if directions is not None:
            raise SinefieldError("a shape's colour is the same from everywhere; leave the directions out")
        return field.colours_at(torch.from_numpy(points)).double().cpu().numpy()

    def painter(self, field: ShapeField) -> ShapePainter:
        return SheetPainter(field) if field.sheet else ShapePainter(field)


class SheetKind(ShapeKind):
    """What differs where a shape's field is a sheet: no place is inside, so its shell is scored."""

    score = "shell_iou"
    quick = "IoU of shells 0.3 % of the diagonal around the sheets, held-out points"
    affordable = 0.005

    def chosen(self, config: ShapeConfig, data: Surface) -> str | None:
        return None if config.field.represents else f"{data.source}: {EMPTY}"


SHEET = SheetKind()


def _signed(field: ShapeField, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
    """Negative inside; of a distance in input units."""
    values = field.evaluate(torch.from_numpy(points)).double().cpu().numpy()
    return values if field.distance else field.default_level - values


def _side_and_beyond(field: ShapeField, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 2"]:
    return field.side_and_beyond(torch.from_numpy(points)).double().cpu().numpy()


def placed_by(box: Float[np.ndarray, "6"]) -> dict[str, Tensor]:
    """Centre, scale and box of a field whose object has this box."""
    normalisation = Normalisation.fit(box)
    centre, scale = (torch.tensor(v, dtype=torch.float64) for v in (normalisation.centre, normalisation.scale))
    return {"centre": centre, "scale": scale, "aabb": torch.from_numpy(np.asarray(box, np.float64))}


register_kind(ShapeKind())
