"""Scores of a shape field, and pictures of what is off.

IoU on points uniform in the object's box that training never saw; Chamfer distances, F-score and normal consistency
between the extracted surface and the given one, by `metrics.shapes.compare_meshes`.
"""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sinefield.cameras.cameras import look_at
from sinefield.data.made.synthetic import render_views
from sinefield.data.surfaces.painted import painted
from sinefield.data.surfaces.parts import CLAY, Paint, Part
from sinefield.data.surfaces.sampling import JUDGED_SEED, REPORTED_SEED, heldout_points, heldout_shell
from sinefield.data.surfaces.surface import Surface, distance_to_mesh
from sinefield.errors import SinefieldError
from sinefield.fields.shape.colours import ColourJudge, colour_rms, remarks
from sinefield.fields.shape.field import ShapeField
from sinefield.fields.shape.surface import extract_shape, extract_sheet
from sinefield.meshing.extract import strays_said
from sinefield.metrics.shapes import compare_meshes, iou
from sinefield.pictures import save_png

HELDOUT_POINTS, QUICK_POINTS = 300_000, 60_000
JUDGED_POINTS = 100_000
SURFACE_RESOLUTION, QUICK_RESOLUTION = 192, 96
PICTURE, QUICK_PICTURE = (320, 2), (200, 1)
"""Pixels along a view's side, and along each of a pixel's sides the rays."""
HEAT = 235 / 255
"""Brightness of a vertex without an error."""
QUICK = "quick scores, as training was short: fewer points and a coarser mesh; sinefield eval gives the full ones"
EMPTY = "nothing is inside, so it is learned as a sheet (field.represents: sheet)"


def score_shape(field: ShapeField, surface: Surface, pictures: Path | None, quick: bool = False) -> dict[str, Any]:
    """IoU on held-out points and surface distances of the extracted mesh; two shaded views as picture.

    Quick ones are of fewer points, of a coarser mesh and a smaller picture; the report says of how many.
    A sheet has no IoU but that of its shell; nor has what nothing is inside of, neither of the field nor of the data.
    """
    points = QUICK_POINTS if quick else HELDOUT_POINTS
    found = heldout_iou(field, surface, points)
    scores: dict[str, Any] = {"iou": None if field.sheet or math.isnan(found) else found}
    if field.sheet:
        scores["shell_iou"] = found
    scores["surface"] = {k: v for k, v in surface.report.items() if isinstance(v, int | float | str | bool)}
    remark = "learned as a sheet: its mesh follows the surface, and nothing is inside of it"
    scores["remarks"] = [*surface.notes, *[remark] * field.sheet, *remarks(field, surface)]
    scores |= {"scores": "quick" if quick else "full", "points": points}
    if quick:
        scores["remarks"].append(QUICK)
    if (error := colour_rms(field, surface)) is not None:
        scores["colour_rms"] = error
    empty = {"chamfer_l1": None, "chamfer_l2": None, "fscore": None, "normal_consistency": None}
    try:
        extracted = extract_sheet if field.sheet else extract_shape
        vertices, faces, about = extracted(field, QUICK_RESOLUTION if quick else SURFACE_RESOLUTION)
    except SinefieldError as error:  # an untrained field may have no surface at all; its IoU still counts
        return {**scores, **empty, "surface_note": str(error)}
    if strays := about.get("strays"):
        scores["remarks"].append(f"scores of the surface: {strays_said(strays)}")
    scores |= compare_meshes(vertices, faces, surface)  # of as many samples either way: its distances depend on them
    if surface.faces is not None and pictures:
        shown = QUICK_PICTURE if quick else PICTURE
        save_png(pictures / "shape.png", shape_picture(surface, vertices, faces, field, *shown))
    return scores


def heldout_iou(field: ShapeField, surface: Surface, n: int | None = None) -> float:
    """IoU on points uniform in the object's box that neither training nor any choice has seen; of a sheet that of its
    shell, on points around it. `HELDOUT_POINTS` of them unless told."""
    return _iou(field, *_held_out(surface, n or HELDOUT_POINTS, REPORTED_SEED, field.sheet))


@lru_cache(maxsize=1)  # packing scores twice, and labels take longer than a small field's answers
def _held_out(surface: Surface, n: int, seed: int, sheet: bool) -> tuple[np.ndarray, np.ndarray]:
    return (heldout_shell if sheet else heldout_points)(surface, n, seed)


class Judge:
    """IoU on held-out points other than those that are reported, less what the error of the colours counts."""

    def __init__(self, surface: Surface) -> None:
        self.surface, self.colours = surface, ColourJudge(surface)
        self.points: dict[bool, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, field: ShapeField) -> float:
        if field.sheet not in self.points:
            self.points[field.sheet] = _held_out(self.surface, JUDGED_POINTS, JUDGED_SEED, field.sheet)
        return _iou(field, *self.points[field.sheet]) - self.colours(field)


def _iou(field: ShapeField, points: np.ndarray, inside: np.ndarray) -> float:
    field.set_dtype(torch.float32)
    found = (field.shell if field.sheet else field.inside)(torch.from_numpy(points))
    return iou(found.cpu().numpy(), inside)


def shape_picture(
    surface: Surface,
    vertices: np.ndarray,
    faces: np.ndarray,
    field: ShapeField | None = None,
    size: int = PICTURE[0],
    samples: int = PICTURE[1],
) -> np.ndarray:
    """Two rows (front, back) of reference, prediction and error; red is 1 % of the box diagonal or more.

    Reference and prediction have the colours of the surface and of the field, or are of clay.
    """
    low, high = surface.aabb[:3], surface.aabb[3:]
    diagonal = float(np.linalg.norm(high - low))
    eyes = (low + high) / 2 + diagonal * np.array([[0.75, 0.45, 1.3], [-0.75, 0.45, -1.3]])
    poses = look_at(torch.from_numpy(eyes), torch.from_numpy((low + high) / 2), (0.0, 1.0, 0.0)).numpy()
    error = (distance_to_mesh(surface, vertices) / (0.01 * diagonal)).clip(0, 1)[:, None]
    heat = HEAT * np.concatenate([np.ones_like(error), 1 - error, 1 - error], axis=1)
    colours = np.tile(np.array(CLAY), (len(vertices), 1))
    if field is not None and field.colour_network is not None:
        colours = field.colours_at(torch.from_numpy(vertices)).double().cpu().numpy()
    columns = []
    for mesh in (
        painted(surface),
        *(Part("", vertices, faces, paint=Paint.of_vertices(shown, faces)) for shown in (colours, heat)),
    ):
        views = render_views(mesh, poses, size, size, focal=1.35 * size, samples=samples, up=(0, 1, 0))
        alpha = views[..., 3:].astype(np.float32) / 255
        columns.append((views[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8))
    return np.concatenate([np.concatenate(list(column), axis=0) for column in columns], axis=1)
