"""Radiance fields: all that the package knows of them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sinefield.cameras.orbits import Orbit
from sinefield.compress.container import Packed
from sinefield.config import RadianceConfig, RadianceFieldConfig, RadianceTrainingConfig
from sinefield.data.photographs.capture_settings import capture_settings
from sinefield.data.photographs.image_files import MAX_SIDE
from sinefield.data.photographs.images import PosedScene
from sinefield.errors import SinefieldError
from sinefield.fields.base import Kind, Mesh, network_numbers, register_kind
from sinefield.fields.origins import origin_note
from sinefield.fields.radiance.field import RadianceField
from sinefield.fields.radiance.mesh import extract_radiance, vertex_colours
from sinefield.fields.radiance.painter import RadiancePainter
from sinefield.fields.radiance.scores import JUDGED_VIEWS, divide, mean_psnr, score_radiance
from sinefield.fields.radiance.surface import SurfaceField, make_radiance_field
from sinefield.fields.radiance.training import RadianceTask, load_scene
from sinefield.plain.distance import TrueDistance

NETWORK = [f"field.{name}" for name in ("encoding", "width", "depth", "weights", "rank", "frequencies", "log2_table")]
"""Settings of the network, which leave its size to whoever gives one of them."""
WORTH = 0.3
"""dB that a grid of its own must bring, else an edit leaves the base's as it is."""


class RadianceKind(Kind):
    """Posed photographs, learned as what light each point sends where; of free density, or that of a surface."""

    name = "radiance"
    config = RadianceConfig
    score = "psnr"
    quick = "PSNR (dB), one view"
    colour = "#b5482a"
    affordable = 0.15
    shows = "light"
    instead = "sinefield video shows it"
    pictures = "view_*.png"
    placed = {"grid.aabb": (6,)}  # noqa: RUF012
    unsaved = frozenset({"grid.occs", "grid.allowed"})
    bits = frozenset({"grid.binaries", "grid.solid"})
    edits = True
    beside = 1300  # the occupied cells, of Lego and the demo's toys
    has_photographs = True

    def preset(self, name: str | None, path: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those of `capture_settings`; where the network's size is given and no preset, that of the network is left."""
        network = name is None and any(key in given for key in NETWORK)
        downscale = given.get("data.downscale")
        chosen = capture_settings(
            path, given.get("field.space"), downscale if isinstance(downscale, int) and downscale > 0 else None,
            "small" if network else name,
        )  # fmt: skip
        flat = {
            f"{group}.{key}": value for group in ("data", "field", "training") for key, value in chosen[group].items()
        }
        flat.pop("data.path")
        return flat

    def read(self, config: RadianceConfig) -> PosedScene:
        return load_scene(config)

    def described(self, data: PosedScene) -> str | None:
        return "\n".join(f"note: {note}" for note in data.notes) or None

    def task(self, config: RadianceConfig, data: PosedScene, field: RadianceField | None = None) -> RadianceTask:
        return RadianceTask(config, data if field is None else data.seen_from(field.origin), field)

    def blank(self, settings: RadianceFieldConfig, placed: dict[str, Tensor]) -> RadianceField:
        return make_radiance_field(settings, placed["grid.aabb"])

    def numbers(self, settings: RadianceFieldConfig) -> int:
        head = settings.features * (settings.width + settings.head_width)
        head += (settings.head_depth - 1) * settings.head_width**2
        cells = 2 * (settings.grid**3 * settings.grid_levels // 8)  # as bits
        return network_numbers(settings) + head + cells

    def check(self, tensors: dict[str, Tensor], where: str) -> None:
        box, view = tensors["grid.aabb"], tensors["view"]
        if not float((box[3:] - box[:3]).min()) > 0:
            raise SinefieldError(f"{where}: its box is no box; the file is damaged, train again")
        orbit = Orbit.of(view)
        in_range = bool(((view[-2:] >= 1) & (view[-2:] <= MAX_SIDE)).all())
        if not (any(orbit.up) and orbit.distance > 0 and abs(orbit.elevation) < 90 and in_range):
            raise SinefieldError(f"{where}: its camera path cannot be flown; the file is damaged, train again")

    def parts(self, field: RadianceField) -> dict[str, Any]:
        own = {"background": field.background, "cells": field.grid.binaries, "view": field.view, "frame": field.frame}
        return {"box": field.aabb.double().cpu().numpy(), **{name: t.cpu().numpy() for name, t in own.items()}}

    def from_parts(self, settings: RadianceFieldConfig, packed: Packed) -> RadianceField:
        field = make_radiance_field(settings, torch.from_numpy(packed.box).float())
        field.background.copy_(torch.from_numpy(packed.background))
        field.view.copy_(torch.from_numpy(packed.view))
        if packed.frame is not None:
            field.frame.copy_(torch.from_numpy(packed.frame))
        field.grid.binaries.copy_(torch.from_numpy(packed.cells))
        return field

    def restored(self, field: RadianceField) -> None:
        """Solid cells follow from the density, when they are asked for."""
        field.grid.later = field.find_solid

    def report(
        self, field: RadianceField, config: RadianceConfig, data: PosedScene, pictures: Path | None
    ) -> dict[str, Any]:
        return score_radiance(field, config, data.seen_from(field.origin), pictures)

    def quality(self, field: RadianceField, data: PosedScene) -> float:
        return mean_psnr(field, data.seen_from(field.origin).scored_views)

    def judge(self, data: PosedScene, apart: bool) -> tuple[PosedScene, Callable[[RadianceField], float]]:
        refined, judging = divide(data, apart)

        def judged(field: RadianceField) -> float:
            views = judging.moved(torch.from_numpy(np.asarray(data.origin) - field.origin).float())
            return mean_psnr(field, views, JUDGED_VIEWS)

        return refined, judged

    def edit_training(self, training: RadianceTrainingConfig) -> RadianceTrainingConfig:
        return replace(training, marcher="auto", fit_poses=False, fit_exposure=False)

    def begin_edit(self, field: RadianceField, config: RadianceConfig, data: PosedScene, base: str) -> None:
        """Any photographs will do."""

    def edit_state(self, field: RadianceField) -> Tensor:
        return field.grid.binaries.clone()

    def settle_edit(self, task: RadianceTask, before: Tensor, data: PosedScene) -> np.ndarray | None:
        """Keep the base's grid where the pictures are as good with it: an edit that moves nothing need not say so."""
        field, cells = task.field, None
        data = data.seen_from(field.origin)
        views = data.val or data.training_views
        learned = field.grid.binaries.clone()
        own = mean_psnr(field, views, JUDGED_VIEWS)
        field.take_cells(before)
        if own > mean_psnr(field, views, JUDGED_VIEWS) + WORTH:
            cells = (learned ^ before).numpy()
            field.take_cells(learned)
        task.grid_moves = False
        return cells

    def extent(self, field: RadianceField) -> tuple[dict[str, Any], str]:
        box = (field.aabb.double().cpu() + torch.from_numpy(field.origin).repeat(2)).tolist()
        if field.origin.any():
            return {"aabb": box, **origin_note(field)}, "box " + " ".join(f"{v:.12g}" for v in box)
        return {"aabb": box}, "box " + " ".join(f"{v:.5g}" for v in box)

    def surface(
        self,
        field: RadianceField,
        resolution: int,
        level: float | None = None,
        dense: bool = False,
        crop: Float[np.ndarray, "6"] | None = None,
    ) -> Mesh:
        crop = None if crop is None else crop - np.tile(field.origin, 2)
        vertices, faces, about = extract_radiance(field, resolution, level, dense, crop)
        return vertices.astype(np.float64) + field.origin, faces, about

    def vertex_colours(
        self, field: RadianceField, vertices: np.ndarray, normals: np.ndarray
    ) -> UInt8[np.ndarray, "v 3"]:
        return vertex_colours(field, vertices - field.origin, normals)

    def colour_at(
        self, field: RadianceField, points: np.ndarray, directions: np.ndarray | None
    ) -> Float[np.ndarray, "n 3"]:
        if directions is None:
            raise SinefieldError("a radiance field's colour depends on where it is seen from; give directions too")
        length = np.linalg.norm(directions, axis=1, keepdims=True)
        if len(points) != len(directions) or not (length > 0).all():
            counts = f"{len(points)} points and {len(directions)} directions"
            raise SinefieldError(f"{counts}; give one direction, not zero, to each point")
        near = points - field.origin
        place, along = (torch.from_numpy(a).float().to(field.aabb.device) for a in (near, directions / length))
        with torch.no_grad():
            return field(field.place(place), along)[0].double().cpu().numpy()

    def up(self, field: RadianceField) -> Float[np.ndarray, "3"]:
        return np.array(Orbit.of(field.view).up)

    def true_distance(self, field: RadianceField) -> TrueDistance:
        if not isinstance(field, SurfaceField):
            self._cannot("has a signed distance only where field.density is distance")
        return TrueDistance(partial(_signed, field), field.aabb.double().cpu().numpy() + np.tile(field.origin, 2))

    def painter(self, field: RadianceField) -> RadiancePainter:
        return RadiancePainter(field)


def _signed(field: SurfaceField, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
    with torch.no_grad():
        return field.distance(torch.from_numpy(points - field.origin).float()).double().cpu().numpy()


register_kind(RadianceKind())
