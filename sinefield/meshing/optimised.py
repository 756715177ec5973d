"""The best mesh of few faces on a coarse lattice: decimated, then moved to the true surface, then put on the lattice.

A decimated mesh lies where its collapses left it. Moving its vertices so that the volume between it and the true
surface is least halves that volume; so does, once more, choosing the places on the lattice one vertex at a time.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from sinefield.data.surfaces.surface import Surface, signed_distance
from sinefield.errors import SinefieldError
from sinefield.kernels.cpu.mesh_fit import settle, slopes

NODES = 160
"""Of the grid of distances along the longest side: at 112 the armadillo of 4,500 faces has 0.001 less IoU."""
BLOCK = 4
"""Nodes along a block of the grid, whose middle says whether its nodes are asked one by one."""
BAND = 0.02
"""Distance, in longest sides, within which every node has its own."""
SAMPLES = 16
SOFT = 0.004, 0.0005
"""Distance at which a point pulls at 0.7 of its full strength: at first, and in the end. In longest sides."""
LATTICE_SOFT = 0.001
STEPS, MOMENTUM = 150, 0.8
SWEEPS = 12
FAST_SIDE = 50.0
"""Longest side for fast-simplification, which takes collapses below an absolute error."""


class LatticeMesh(NamedTuple):
    """A mesh whose vertices are nodes of a lattice.

    Attributes:
        nodes: (v, 3) from 0 to `cells`.
        faces: (f, 3) counter-clockwise seen from outside.
        low: (3,) place of node 0, input coordinates.
        cell: between two nodes, input units.
    """

    nodes: Int[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    low: Float[np.ndarray, "3"]
    cell: float

    @property
    def vertices(self) -> Float[np.ndarray, "v 3"]:
        """(v, 3) input coordinates."""
        return self.nodes * self.cell + self.low


class Target:
    """A surface to fit meshes to: its distances on a grid, found once.

    Lengths in it are in longest sides of the surface's box, whose centre is the origin.

    Args:
        surface: a mesh with an inside.

    Raises:
        SinefieldError: a point cloud; nothing is inside.
    """

    def __init__(self, surface: Surface, nodes: int = NODES) -> None:
        faces = surface.mesh_faces()
        low, high = surface.aabb[:3], surface.aabb[3:]
        self.centre, self.side = (low + high) / 2, float((high - low).max())
        self.vertices, self.faces = (surface.vertices - self.centre) / self.side, faces
        if surface.with_inside is not None:
            self.faces = faces[surface.with_inside]
        self.pitch = 1 / (nodes - 1)
        self.low = (low - self.centre) / self.side - BLOCK * self.pitch
        blocks = np.ceil(((high - low) / self.side / self.pitch + 2 * BLOCK) / BLOCK).astype(int) + 1
        self.grid = self._distances(surface, blocks)
        if not (self.grid < 0).any():
            raise SinefieldError(
                f"{surface.source}: nothing is inside, so no mesh can be optimised for it; a field with "
                "field.represents sheet follows an open surface"
            )

    def _distances(self, surface: Surface, blocks: np.ndarray) -> Float32[np.ndarray, "x y z"]:
        """Near the surface exact at every node, further away that of the middle of its block."""
        every = np.stack(np.meshgrid(*map(np.arange, blocks), indexing="ij"), -1).reshape(-1, 3)
        middle = self._asked(surface, every * BLOCK + (BLOCK - 1) / 2)
        grid = middle.reshape(blocks)
        for axis in range(3):
            grid = grid.repeat(BLOCK, axis)
        near = np.abs(middle) < (BLOCK - 1) / 2 * 3**0.5 * self.pitch + BAND
        inner = np.stack(np.meshgrid(*[np.arange(BLOCK)] * 3, indexing="ij"), -1).reshape(-1, 3)
        own = (every[near][:, None] * BLOCK + inner).reshape(-1, 3)
        grid[tuple(own.T)] = self._asked(surface, own)
        return np.ascontiguousarray(grid)

    def _asked(self, surface: Surface, nodes: np.ndarray) -> Float32[np.ndarray, "n"]:
        places = (self.low + nodes * self.pitch) * self.side + self.centre
        return (signed_distance(surface, places) / self.side).astype(np.float32)

    def decimated(self, faces: int) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
        """A mesh of about so many faces, or as few as can be, by quadric edge collapse.

        Raises:
            SinefieldError: nothing is left.
        """
        vertices, triangles = self.vertices, self.faces.astype(np.int32)
        if faces < len(triangles):
            import fast_simplification

            near = np.ascontiguousarray(vertices * FAST_SIDE)
            vertices, triangles = fast_simplification.simplify(near, triangles, target_count=max(faces, 4))[:2]
            vertices = vertices.astype(np.float64) / FAST_SIDE
        a, b, c = triangles.T
        triangles = triangles[(a != b) & (b != c) & (c != a)]
        used, triangles = np.unique(triangles, return_inverse=True)
        triangles = triangles.reshape(-1, 3).astype(np.int64)
        if len(triangles) < 4:
            raise SinefieldError(f"a mesh of {len(self.faces):,} faces cannot be decimated to {faces:,}; allow more")
        return np.ascontiguousarray(vertices[used]), triangles

    def fitted(
        self, faces: int, steps: int = STEPS, seed: int = 0
    ) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
        """A decimated mesh moved so that the volume between it and the surface is small.

        A vertex moves along the gradient of that volume, by as much as would take its mean distance to 0.
        """
        vertices, triangles = self.decimated(faces)
        rng, speed = np.random.default_rng(seed), np.zeros_like(vertices)
        for step in range(steps):
            soft = SOFT[0] * (SOFT[1] / SOFT[0]) ** (step / steps)
            starts = rng.random((len(triangles), 2))
            gradient, areas = slopes(vertices, triangles, self.grid, self.low, self.pitch, SAMPLES, soft, starts)
            speed = MOMENTUM * speed + (1 - MOMENTUM) * gradient / np.maximum(areas, 1e-12)[:, None]
            vertices -= soft * speed
        return vertices, triangles

    def on_lattice(
        self,
        vertices: Float[np.ndarray, "v 3"],
        faces: Int[np.ndarray, "f 3"],
        cells: int,
        sweeps: int = SWEEPS,
        seed: int = 0,
    ) -> LatticeMesh:
        """The mesh of `fitted` on a lattice of `cells` along its longest side.

        Each vertex in turn goes to the neighbouring node that makes the volume between mesh and surface smallest, until
        none moves.
        """
        origin = vertices.min(axis=0)
        cell = float(np.ptp(vertices, axis=0).max()) / cells
        nodes = np.round((vertices - origin) / cell)
        order = np.argsort(faces.ravel(), kind="stable")
        starts = np.searchsorted(faces.ravel()[order], np.arange(len(vertices) + 1))
        a, b, c = (vertices[faces[:, k]] for k in range(3))
        normals = np.cross(b - a, c - a)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
        rng = np.random.default_rng(seed)
        where = self.grid, self.low, self.pitch, origin, cell
        for _ in range(sweeps):
            turn = rng.permutation(len(nodes))
            if not settle(nodes, faces, starts, order // 3, normals, turn, *where, SAMPLES, LATTICE_SOFT):
                break
        least = nodes.min(axis=0)
        placed = (origin + least * cell) * self.side + self.centre
        return LatticeMesh((nodes - least).astype(np.int64), faces, placed, cell * self.side)
