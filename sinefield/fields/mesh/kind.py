"""Packed meshes: all that the package knows of them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sinefield.compress.container import Packed
from sinefield.compress.mesh_code import mesh_in, mesh_out, most_faces
from sinefield.data.surfaces.sampling import JUDGED_SEED, REPORTED_SEED, heldout_points
from sinefield.data.surfaces.surface import Surface, load_surface
from sinefield.errors import SinefieldError
from sinefield.fields.base import Kind, Mesh, register_kind
from sinefield.fields.mesh.distance import MeshDistance
from sinefield.fields.mesh.field import MeshConfig, MeshField, MeshFieldConfig
from sinefield.fields.shape.painter import ShapePainter
from sinefield.fields.shape.scores import HELDOUT_POINTS, JUDGED_POINTS, PICTURE, shape_picture
from sinefield.fields.shape.surface import SLOPE, extract_shape
from sinefield.metrics.shapes import compare_meshes, iou
from sinefield.pictures import save_png


class MeshKind(Kind):
    """A mesh of few faces on a lattice, which `sinefield pack` makes of a mesh where it is the smaller answer."""

    name = "mesh"
    config = MeshConfig
    score = "iou"
    quick = "IoU, held-out points"
    colour = "#8b6f1f"
    affordable = 0.0025
    shows = "surface"
    instead = "sinefield mesh and sinefield video show it"
    pictures = "shape.png"
    legend = "Reference, prediction, error (red is 1 % of the box diagonal or more)."
    placed = {"aabb": (6,)}  # noqa: RUF012
    trains_rounded = False

    def read(self, config: MeshConfig) -> Surface:
        return load_surface(config.data.path)

    def task(self, config: MeshConfig, data: Surface, field: MeshField | None = None) -> NoReturn:
        raise SinefieldError("a mesh is not trained; make one with: sinefield pack MESH OUT.sine --max-bytes N")

    def blank(self, settings: MeshFieldConfig, placed: dict[str, Tensor]) -> MeshField:
        return MeshField(settings, placed["aabb"])

    def numbers(self, settings: MeshFieldConfig) -> int:
        return 3 * (settings.vertices + settings.faces)

    def check(self, tensors: dict[str, Tensor], where: str) -> None:
        box, nodes, faces = tensors["aabb"].double(), tensors["nodes"], tensors["faces"]
        side = float((box[3:] - box[:3]).max())
        whole = nodes.dtype == faces.dtype == torch.int64 and bool((box[3:] >= box[:3]).all())
        if not (
            whole and 0 < side < float("inf") and len(faces) and int(nodes.min()) >= 0 < int(nodes.max()) < 1 << 15
        ):
            raise SinefieldError(f"{where}: it holds no mesh; make the file again")
        if int(faces.min()) < 0 or int(faces.max()) >= len(nodes):
            raise SinefieldError(f"{where}: a face names a vertex that is not there; make the file again")

    def parts(self, field: MeshField) -> dict[str, Any]:
        code = mesh_out(field.nodes.cpu().numpy(), field.faces.cpu().numpy(), field.config.digits)
        if field.config.faces > most_faces(len(code), field.config.subdivisions):
            raise SinefieldError(
                f"a mesh of {field.config.faces:,} faces in {len(code):,} bytes is flat beyond what a file may hold; "
                "decimate it first"
            )
        return {"box": field.aabb.cpu().numpy(), "code": code}

    def from_parts(self, settings: MeshFieldConfig, packed: Packed) -> MeshField:
        assert packed.box is not None and packed.code is not None  # every file of a mesh has them
        try:
            if settings.faces > (most := most_faces(len(packed.code), settings.subdivisions)):
                raise ValueError(
                    f"{settings.faces:,} faces, {settings.subdivisions} times subdivided; at most {most:,}"
                )
            nodes, faces = mesh_in(packed.code, settings.faces, settings.digits)
        except ValueError as error:
            raise SinefieldError(f"its mesh is damaged ({error}); make the file again") from error
        if len(nodes) != settings.vertices:
            raise SinefieldError(f"says {settings.vertices} vertices and has {len(nodes)}; make the file again")
        field = self.blank(settings, {"aabb": torch.from_numpy(packed.box)}).filled(nodes, faces)
        self.check(field.state_dict(), "the file")
        return field

    def report(self, field: MeshField, config: MeshConfig, data: Surface, pictures: Path | None) -> dict[str, Any]:
        vertices, faces = field.surface.vertices, field.surface.mesh_faces()
        if pictures and data.faces is not None:
            save_png(pictures / "shape.png", shape_picture(data, vertices, faces, None, *PICTURE))
        scores: dict[str, Any] = {"iou": self.quality(field, data), "scores": "full", "points": HELDOUT_POINTS}
        scores["surface"] = {k: v for k, v in data.report.items() if isinstance(v, int | float | str | bool)}
        return scores | {"remarks": list(data.notes)} | compare_meshes(vertices, faces, data)

    def quality(self, field: MeshField, data: Surface) -> float:
        return _iou(field, data, HELDOUT_POINTS, REPORTED_SEED)

    def judge(self, data: Surface, apart: bool) -> tuple[Surface, Callable[[MeshField], float]]:
        return data, lambda field: _iou(field, data, JUDGED_POINTS, JUDGED_SEED)

    def extent(self, field: MeshField) -> tuple[dict[str, Any], str]:
        box, said = field.aabb.tolist(), field.config
        line = f"box {' '.join(f'{v:.5g}' for v in box)}, {said.vertices:,} vertices, {said.faces:,} faces"
        if said.subdivisions:
            line += f", subdivided {'once' if said.subdivisions == 1 else 'twice'}"
        numbers = {"vertices": said.vertices, "faces": said.faces, "subdivisions": said.subdivisions}
        return {"aabb": box, **numbers}, line

    def surface(
        self,
        field: MeshField,
        resolution: int,
        level: float | None = None,
        dense: bool = False,
        crop: Float[np.ndarray, "6"] | None = None,
    ) -> Mesh:
        """The mesh as it is, whatever the resolution; at another level or within a box extracted as a field's is."""
        if level or crop is not None:
            return extract_shape(field, resolution, level, dense, crop, SLOPE)
        begin = time.perf_counter()
        vertices, faces = field.surface.vertices, field.surface.mesh_faces()
        side = int(field.nodes.max())
        about: dict[str, Any] = {
            **{"shape": (field.nodes.max(0).values + 1).tolist(), "evaluations": 0, "minimum": 0.0, "maximum": 0.0},
            **{"pitch": float((field.aabb[3:] - field.aabb[:3]).max()) / side, "level": 0.0, "capped": False},
            **{"level_note": None, "bytes": vertices.nbytes + faces.nbytes},
            "seconds": time.perf_counter() - begin,
        }
        return vertices, faces, about

    def true_distance(self, field: MeshField) -> MeshDistance:
        return MeshDistance(field.surface)

    def painter(self, field: MeshField) -> ShapePainter:
        return ShapePainter(cast("Any", field))  # of a shape without colours it asks no more than a mesh answers


def _iou(field: MeshField, data: Surface, n: int, seed: int) -> float:
    points, inside = heldout_points(data, n, seed)
    return iou(field.inside(torch.from_numpy(points)).numpy(), inside)


register_kind(MeshKind())
