"""A sheet as a camera sees it: clay of two sides, by rays against its mesh."""

import numpy as np
import torch
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Float
from torch import Tensor

from sinefield.fields.shape.field import ShapeField
from sinefield.fields.shape.painter import RESOLUTION, ShapePainter
from sinefield.fields.shape.surface import extract_sheet
from sinefield.render.surface import Hits

FINER = 1.5
"""Cells of the mesh along one of those that the surface of a body is looked for in."""
LIFT = 1e-3
"""How far above the sheet a look at the light begins, in units of half its longest side."""


class SheetPainter(ShapePainter):
    """Pictures of a sheet; up is y, and both sides look alike."""

    def _surface(self, field: ShapeField, box: Float[Tensor, "6"]) -> "CastMesh":
        vertices, faces, about = extract_sheet(field, round(FINER * RESOLUTION))
        return CastMesh(vertices, faces, about["pitch"])


class CastMesh:
    """A mesh to be met by rays: what `render.surface.CastSurface` is for functions.

    Args:
        vertices: (v, 3), world coordinates.
        faces: (f, 3).
        cell: a length that is small against the mesh.
    """

    def __init__(self, vertices: Float[np.ndarray, "v 3"], faces: np.ndarray, cell: float) -> None:
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        # Embree works in float32: give it a mesh of about unit size around 0.
        self.centre, self.half, self.cell = (low + high) / 2, float((high - low).max()) / 2, cell
        self.corners = ((vertices - self.centre) / self.half).astype(np.float32)[faces]
        self.scene = EmbreeScene()
        TriangleMesh(scene=self.scene, vertices=np.ascontiguousarray(self.corners))
        across = np.cross(self.corners[:, 1] - self.corners[:, 0], self.corners[:, 2] - self.corners[:, 0])
        at = np.zeros(vertices.shape)
        for i in range(3):
            np.add.at(at, faces[:, i], across)
        self.at_corners = (at / np.maximum(np.linalg.norm(at, axis=1, keepdims=True), 1e-300))[faces]
        self.met = np.zeros((0, 3))

    def cast(self, rays_o: Float[Tensor, "r 3"], rays_d: Float[Tensor, "r 3"]) -> Hits:
        """Where each ray first meets the mesh, in world units; `normals` then answers for the rays that do."""
        origins = (rays_o.double().cpu().numpy() - self.centre) / self.half
        directions = rays_d.double().cpu().numpy()
        found = self.scene.run(origins.astype(np.float32), directions.astype(np.float32), output=True)
        face, u, v = found["primID"], found["u"], found["v"]
        t = np.where(face >= 0, found["tfar"].astype(np.float64) * self.half, np.inf)
        hit = face >= 0
        weights = np.stack([1 - u - v, u, v], axis=1)[hit]
        met = np.einsum("nk,nkd->nd", weights, self.at_corners[face[hit]])
        met /= np.maximum(np.linalg.norm(met, axis=1, keepdims=True), 1e-300)
        facing = np.einsum("nd,nd->n", met, directions[hit]) > 0
        self.met = np.where(facing[:, None], -met, met)
        return Hits(torch.from_numpy(t), torch.from_numpy(hit))

    def normals(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Unit normals at the points that the last rays met, towards where the rays came from."""
        return torch.from_numpy(self.met)

    def shadow(self, points: Float[Tensor, "n 3"], toward: Float[Tensor, "3"]) -> Float[Tensor, "n"]:
        """1 where the points see a light in a direction, 0 where the mesh is in the way."""
        way = np.broadcast_to(toward.numpy().astype(np.float32), (len(points), 3)).copy()
        places = (points.double().numpy() - self.centre) / self.half + LIFT * way
        return torch.from_numpy(
            (self.scene.run(places.astype(np.float32), way, query="OCCLUDED") < 0).astype(np.float32)
        )

    def openness(self, points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """All of the sky: a sheet has no hollows that are worth the rays."""
        return torch.ones(len(points))
