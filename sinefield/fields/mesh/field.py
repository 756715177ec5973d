"""A mesh on a lattice as a field: signed distances that are those of the mesh itself."""

from dataclasses import dataclass
from dataclasses import field as setting
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sinefield.compress.mesh_code import mesh_in, mesh_out
from sinefield.config import Schedule, ShapeDataConfig
from sinefield.data.surfaces.surface import Surface, signed_distance, winding_number
from sinefield.errors import SinefieldError
from sinefield.fields.base import Field
from sinefield.meshing.optimised import LatticeMesh
from sinefield.meshing.subdivide import subdivided

MOST_SUBDIVISIONS = 2


@dataclass
class MeshFieldConfig:
    """What a mesh has: it is made by `sinefield pack`, which finds these numbers."""

    vertices: int = 0  # how many
    faces: int = 0  # how many
    digits: int = 8  # binary digits of a vertex' coordinate on its lattice
    subdivisions: int = 0  # how often Loop's scheme refines it; 0 to 2

    def __post_init__(self) -> None:
        if not (
            0 <= self.vertices <= 3 * self.faces
            and 1 <= self.digits <= 15
            and 0 <= self.subdivisions <= MOST_SUBDIVISIONS
        ):
            raise SinefieldError(
                f"a mesh of {self.vertices} vertices, {self.faces} faces, {self.digits} digits a coordinate and "
                f"{self.subdivisions} subdivisions; at most three vertices a face, 1 to 15 digits, 0 to 2 subdivisions"
            )


@dataclass
class MeshConfig:
    """What scores a packed mesh: its data, as those of a shape."""

    kind: Literal["mesh"] = "mesh"
    seed: int = 0
    data: ShapeDataConfig = setting(default_factory=ShapeDataConfig)
    field: MeshFieldConfig = setting(default_factory=MeshFieldConfig)
    training: Schedule = setting(default_factory=Schedule)


class MeshField(Field):
    """A closed triangle mesh whose vertices are nodes of a lattice, or the smooth surface that it is a control mesh of.

    Nothing in it is learned by gradients.

    Attributes:
        nodes: (v, 3) int64 from 0.
        faces: (f, 3) int64, counter-clockwise seen from outside.
        aabb: (6,) float64, the mesh's box in input units, which places the lattice.
    """

    kind = "mesh"
    nodes: Tensor
    faces: Tensor
    aabb: Tensor

    def __init__(self, config: MeshFieldConfig, aabb: Float[Tensor, "6"]) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("nodes", torch.zeros(config.vertices, 3, dtype=torch.int64))
        self.register_buffer("faces", torch.zeros(config.faces, 3, dtype=torch.int64))
        self.register_buffer("aabb", torch.as_tensor(aabb, dtype=torch.float64))

    @classmethod
    def of(cls, mesh: LatticeMesh) -> "MeshField":
        """The field of a mesh, its vertices in the order in which a file has them."""
        digits = max(int(mesh.nodes.max()).bit_length(), 1)
        low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
        nodes, faces = mesh.nodes, mesh.faces
        # A vertex that joins several fans is told once for each; told again, it stays as it is.
        while True:
            told = mesh_in(mesh_out(nodes, faces, digits), len(faces), digits)
            if len(told[0]) <= len(nodes):
                break
            nodes, faces = told
        config = MeshFieldConfig(len(told[0]), len(told[1]), digits, mesh.subdivisions)
        return cls(config, torch.from_numpy(np.concatenate([low, high]))).filled(*told)

    def filled(self, nodes: Int[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]) -> "MeshField":
        """This field with these nodes and faces, of the numbers that its settings say."""
        self.nodes.copy_(torch.from_numpy(np.ascontiguousarray(nodes, np.int64)))
        self.faces.copy_(torch.from_numpy(np.ascontiguousarray(faces, np.int64)))
        return self

    def set_dtype(self, dtype: torch.dtype) -> None:
        """A mesh has no arithmetic to choose."""

    @property
    def distance(self) -> bool:
        return True

    @property
    def default_level(self) -> float:
        return 0.0

    @cached_property
    def surface(self) -> Surface:
        """The mesh in input coordinates, subdivided as often as its settings say."""
        nodes, faces, box = self.nodes.cpu().numpy(), self.faces.cpu().numpy(), self.aabb.double().cpu().numpy()
        cell = float((box[3:] - box[:3]).max()) / max(int(nodes.max()), 1)
        vertices = nodes * cell + box[:3]
        for _ in range(self.config.subdivisions):
            weights, faces = subdivided(len(vertices), faces)
            vertices = weights @ vertices
        return Surface(vertices, faces.astype(np.int32), None, None, "the mesh", {})

    def evaluate(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """Signed distance in input units at the input's coordinates, negative inside."""
        found = signed_distance(self.surface, points.double().cpu().numpy())
        return torch.from_numpy(found).to(torch.float32)

    def inside(self, points: Float[Tensor, "n 3"]) -> Bool[Tensor, "n"]:
        """Whether points at the input's coordinates are inside."""
        return torch.from_numpy(winding_number(self.surface, points.double().cpu().numpy()) > 0.5)
