"""The best mesh of few faces on a coarse lattice: decimated, then moved to the true surface, then put on the lattice.

A decimated mesh lies where its collapses left it. Moving its vertices so that the volume between it and the true
surface is least halves that volume; so does, once more, choosing the places on the lattice one vertex at a time.

The mesh may also be the control mesh of a subdivision surface (`meshing.subdivide`), which is then what is fitted:
smooth shapes need fewer vertices so, flat faces and edges more.
"""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from sinefield.data.surfaces.surface import Surface, signed_distance
from sinefield.errors import SinefieldError
from sinefield.kernels.cpu.mesh_fit import distances_at, settle, slopes
from sinefield.meshing.subdivide import edges_of, subdivided

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

NODES, NODES_A_SIDE = (112, 320), 3.6
"""Of the grid of distances along the longest side, at least and at most, and over the square root of the faces: of
11,000 faces the dragon has 0.008 less IoU with 160 nodes than with 320, the armadillo of 4,500 0.001 less with 112."""
BLOCK = 4
"""Nodes along a block of the grid, whose middle says whether its nodes are asked one by one."""
BAND = 0.02
"""Distance, in longest sides, within which every node has its own."""
SAMPLES = 16
SOFT = 0.004, 0.0005
"""Distance at which a point pulls at 0.7 of its full strength: at first, and in the end. In longest sides."""
LATTICE_SOFT = 0.001
STEPS, MOMENTUM = 150, 0.8
SMOOTH_STEPS, SMOOTH_GAIN, EVEN = 300, 3.0, 0.06
"""Of a subdivision surface: steps; how far they go, a vertex' pull being a mean over a wider part; and the share of a
vertex' way to where its parallelograms would be even, at first. On the armadillo of 2,000 faces without it 9 % more
bytes and no more IoU; on the fandisk's flat faces it does harm, so plain meshes go without."""
CHECKED, WORSE = 25, 1.15
"""Every so many steps the volume that is wrong is compared with the least so far: of so much more, as where thin parts
fold over, the best mesh is taken up again with steps half as long. The dragon of 7,000 faces needs it. Flat faces, as
the fandisk's, may be best as they were decimated."""
UNSHRINK = 10
"""Times that a control mesh is drawn back by what subdividing takes off it, at the start."""
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
        subdivisions: of it, which give the surface that is meant.
    """

    nodes: Int[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    low: Float[np.ndarray, "3"]
    cell: float
    subdivisions: int = 0

    @property
    def vertices(self) -> Float[np.ndarray, "v 3"]:
        """(v, 3) input coordinates."""
        return self.nodes * self.cell + self.low


class Target:
    """A surface to fit meshes to: its distances on a grid, found once.

    Lengths in it are in longest sides of the surface's box, whose centre is the origin.

    Args:
        surface: a mesh with an inside.
        faces: that the meshes will have, which says how fine the grid need be.

    Raises:
        SinefieldError: a point cloud; nothing is inside.
    """

    def __init__(self, surface: Surface, faces: float) -> None:
        nodes = round(min(max(NODES_A_SIDE * math.sqrt(faces), NODES[0]), NODES[1]))
        triangles = surface.mesh_faces()
        low, high = surface.aabb[:3], surface.aabb[3:]
        self.centre, self.side = (low + high) / 2, float((high - low).max())
        self.vertices, self.faces = (surface.vertices - self.centre) / self.side, triangles
        if surface.with_inside is not None:
            self.faces = triangles[surface.with_inside]
        self.pitch = 1 / (nodes - 1)
        self.low = (low - self.centre) / self.side - BLOCK * self.pitch
        blocks = np.ceil(((high - low) / self.side / self.pitch + 2 * BLOCK) / BLOCK).astype(int) + 1
        self.grid = self._distances(surface, blocks)
        if not (self.grid < 0).any():
            raise SinefieldError(
                f"{surface.source}: nothing is inside, so no mesh can be optimised for it; a field with "
                "field.represents sheet follows an open surface"
            )

    def at(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
        """Signed distance to the surface at input coordinates, input units, by the grid."""
        return distances_at(self.grid, (points - self.centre) / self.side, self.low, self.pitch) * self.side

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
        self, faces: int, steps: int | None = None, seed: int = 0, subdivisions: int = 0
    ) -> tuple[Float[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
        """A decimated mesh moved so that the volume between it and the surface is small.

        A vertex moves along the gradient of that volume, by as much as would take its mean distance to 0.

        Arguments:
            steps: `STEPS` when None, or `SMOOTH_STEPS` with subdivisions.
            subdivisions: what is fitted is the surface that the mesh becomes after so many.
        """
        vertices, triangles = self.decimated(faces)
        weights, finer = subdivided(len(vertices), triangles, subdivisions)
        pulled, uneven = weights.T.tocsr(), _unevenness(len(vertices), triangles)
        even, gain, usual = (EVEN, SMOOTH_GAIN, SMOOTH_STEPS) if subdivisions else (0.0, 1.0, STEPS)
        steps, first = usual if steps is None else steps, vertices
        for _ in range(UNSHRINK if subdivisions else 0):
            vertices = vertices + first - (weights @ vertices)[: len(first)]
        rng, speed = np.random.default_rng(seed), np.zeros_like(vertices)
        least, best = self._wrong(weights @ vertices, finer), vertices
        for step in range(steps):
            soft = SOFT[0] * (SOFT[1] / SOFT[0]) ** (step / steps)
            starts = rng.random((len(finer), 2))
            of_surface = finer, self.grid, self.low, self.pitch, _samples(subdivisions), soft, starts
            gradient, areas = slopes(weights @ vertices, *of_surface)
            speed = MOMENTUM * speed + (1 - MOMENTUM) * (pulled @ gradient) / np.maximum(pulled @ areas, 1e-12)[:, None]
            vertices = vertices - gain * soft * speed
            if even:
                vertices = vertices - even * (1 - step / steps) * (uneven @ vertices)
            if (step + 1) % CHECKED == 0 or step == steps - 1:
                wrong = self._wrong(weights @ vertices, finer)
                if wrong < least:
                    least, best = wrong, vertices
                elif wrong > WORSE * least:
                    vertices, gain, speed = best, gain / 2, np.zeros_like(vertices)
        return np.ascontiguousarray(best), triangles

    def _wrong(self, vertices: np.ndarray, faces: np.ndarray) -> float:
        """About the volume between a mesh and the surface."""
        a, b, c = (vertices[faces[:, k]] for k in range(3))
        off = distances_at(self.grid, (a + b + c) / 3, self.low, self.pitch)
        return float((np.abs(off) * np.linalg.norm(np.cross(b - a, c - a), axis=1)).sum() / 2)

    def on_lattice(
        self,
        vertices: Float[np.ndarray, "v 3"],
        faces: Int[np.ndarray, "f 3"],
        cells: int,
        sweeps: int = SWEEPS,
        seed: int = 0,
        subdivisions: int = 0,
    ) -> LatticeMesh:
        """The mesh of `fitted` on a lattice of `cells` along its longest side.

        Each vertex in turn goes to the neighbouring node that makes the volume between the mesh, or the surface that it
        becomes after so many subdivisions, and the true surface smallest, until none moves.
        """
        weights, finer = subdivided(len(vertices), faces, subdivisions)
        origin = vertices.min(axis=0)
        cell = float(np.ptp(vertices, axis=0).max()) / cells
        nodes = np.round((vertices - origin) / cell)
        a, b, c = ((weights @ vertices)[finer[:, k]] for k in range(3))
        normals = np.cross(b - a, c - a)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
        moved, rng, columns = weights @ (nodes * cell + origin), np.random.default_rng(seed), weights.tocsc()
        follow = columns.indices, columns.data, columns.indptr, *_changed(columns, finer)
        where = self.grid, self.low, self.pitch
        judged = where, cell, _samples(subdivisions), LATTICE_SOFT
        for _ in range(sweeps):
            turn = rng.permutation(len(nodes))
            if not settle(nodes, moved, finer, *follow, normals, turn, *judged):
                break
        least = nodes.min(axis=0)
        placed = (origin + least * cell) * self.side + self.centre
        return LatticeMesh((nodes - least).astype(np.int64), faces, placed, cell * self.side, subdivisions)


def _samples(subdivisions: int) -> int:
    """Points on each face of a surface."""
    return max(SAMPLES // 4**subdivisions, 1)


def _changed(columns: Any, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which faces each node changes: where its faces begin, the faces, and its weight in each of their corners."""
    from scipy.sparse import csr_matrix

    count = len(faces)
    corners = csr_matrix(
        (np.ones(3 * count), (faces.ravel(), np.repeat(np.arange(count), 3))), (columns.shape[0], count)
    )
    found = (abs(columns).T.tocsr() @ corners).tocsr()
    node, rows = np.repeat(np.arange(columns.shape[1]), np.diff(found.indptr)), columns.tocsr()
    shares = [np.asarray(rows[faces[found.indices, k], node]).ravel() for k in range(3)]
    return found.indptr, found.indices, np.stack(shares, 1)


def _unevenness(vertices: int, faces: np.ndarray) -> "csr_matrix":
    """(v, v) what takes each vertex towards where the parallelograms of its faces would be exact.

    Such a mesh is told in fewer bytes, since a vertex is told off the fourth corner of a parallelogram; and its
    triangles stay well shaped.
    """
    from scipy.sparse import csr_matrix

    edges = edges_of(vertices, faces)
    shared = edges.faces == 2
    sides = np.argsort(edges.of_side, kind="stable")
    beyond = edges.opposite[sides[shared[edges.of_side[sides]]]].reshape(-1, 2)
    quads = np.column_stack([edges.low[shared], edges.high[shared], beyond])
    signs = np.tile([1.0, 1.0, -1.0, -1.0], len(quads))
    off = csr_matrix((signs, (np.repeat(np.arange(len(quads)), 4), quads.ravel())), (len(quads), vertices))
    count = np.maximum(np.bincount(quads.ravel(), minlength=vertices), 1)
    return (off.T @ off).multiply(1 / (4 * count)[:, None]).tocsr()
