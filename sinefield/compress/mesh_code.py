"""Triangle meshes on a lattice in few bytes. docs/format.md is the text of the format.

The mesh is grown from a triangle, one neighbour at a time, along the border of what is known (a cut-border machine,
Gumhold & Straßer, SIGGRAPH 1998). For each edge of the border, oldest first, it is said whether the triangle beyond it
brings a new vertex, goes to a vertex of the border, or is missing. A new vertex is coded as what it is off the fourth
corner of a parallelogram (Touma & Gotsman, Graphics Interface 1998). Both are coded by what the geometry known so far
makes likely.

One walk does both: with an encoder it is told what comes, with a decoder it finds out.
"""

from collections import deque
from typing import Any

import numpy as np
from jaxtyping import Int

from sinefield.compress.binary import BinaryDecoder, BinaryEncoder

Point = tuple[int, int, int]
Coder = BinaryEncoder | BinaryDecoder
MOST_DIGITS = 15
"""Of a node's coordinate in bits."""
FACES_A_BYTE = 4
"""A code holds at most so many faces a byte, and a few more: more than any real one."""
GRACE = 64
FINE_FACES_A_BYTE, FINE_GRACE = 24, 4096
"""The same for the faces that subdivisions make of them: 16 to 19 a byte of real ones, subdivided twice."""
LONGEST = 24
"""Digits of a number that is told by how many it has."""
LARGEST, SEED = 30, 31
"""Contexts of how far a vertex is off: by the digits of its triangle's squared sides, or the first triangle's."""
FAR = (2,)
LOOKS_A_FACE = 40
"""Edges of the border that are looked at in search of a far one, on average over the faces; 5 to 20 of a real mesh."""


def most_faces(length: int, subdivisions: int = 0) -> int:
    """How many faces a code of so many bytes may have; after subdivisions fewer, as these make four of each."""
    finest = FINE_GRACE + FINE_FACES_A_BYTE * length
    return min(GRACE + FACES_A_BYTE * length, finest // 4**subdivisions)


def mesh_out(nodes: Int[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], digits: int) -> bytes:
    """A mesh's bytes. Vertices that no face has are left out; one that joins several fans may be told twice.

    Arguments:
        nodes: 0 … 2^digits − 1.
        faces: counter-clockwise, none with two corners at one vertex.
    """
    walk = _Walk(BinaryEncoder(), digits, len(faces), _Oracle(nodes, faces))
    walk.run()
    assert isinstance(walk.coder, BinaryEncoder)
    return walk.coder.finish()


def mesh_in(data: bytes, faces: int, digits: int) -> tuple[Int[np.ndarray, "v 3"], Int[np.ndarray, "f 3"]]:
    """Nodes and faces that `mesh_out` wrote, in the walk's order.

    Raises:
        ValueError: more faces than the bytes can be of, bytes that are not needed, or what no mesh is.
    """
    if faces > most_faces(len(data)):
        raise ValueError(f"it claims {faces:,} faces in {len(data):,} bytes")
    walk = _Walk(BinaryDecoder(data), digits, faces, None)
    walk.run()
    assert isinstance(walk.coder, BinaryDecoder)
    walk.coder.finish()
    return np.array(walk.nodes, np.int64).reshape(-1, 3), np.array(walk.faces, np.int64).reshape(-1, 3)


class _Oracle:
    """What an encoder knows: which faces are left, by their directed edges."""

    def __init__(self, nodes: np.ndarray, faces: np.ndarray) -> None:
        self.nodes: list[Point] = [(int(x), int(y), int(z)) for x, y, z in nodes]
        self.left: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        self.order = deque((int(a), int(b), int(c)) for a, b, c in faces)
        for face in self.order:
            for k in range(3):
                self.left.setdefault((face[k], face[(k + 1) % 3]), []).append(face)
        self.given: list[int] = []
        """The own number of each vertex of the walk."""
        self.told: dict[int, list[int]] = {}
        """The walk's vertices of each own number."""

    def beyond(self, start: int, end: int) -> int | None:
        """Third corner of a face left that has the edge from end to start, walk's numbers; the corner's own number."""
        edge = self.given[end], self.given[start]
        found = self.left.get(edge)
        if not found:
            return None
        face = found[0]
        self._take(face)
        return face[(face.index(edge[0]) + 2) % 3]

    def seed(self) -> tuple[int, int, int]:
        while True:
            face = self.order.popleft()
            if face in self.left.get((face[0], face[1]), ()):
                self._take(face)
                return face

    def _take(self, face: tuple[int, int, int]) -> None:
        for k in range(3):
            self.left[face[k], face[(k + 1) % 3]].remove(face)


class _Walk:
    """The walk over a mesh, and the border of what is known of it.

    An edge of the border goes from `start` to the start of `after`; `apex` is the third corner of its face.
    """

    def __init__(self, coder: Coder, digits: int, count: int, oracle: _Oracle | None) -> None:
        if not 1 <= digits <= MOST_DIGITS:
            raise ValueError(f"{digits} binary digits a coordinate, 1 to {MOST_DIGITS} can be")
        self.coder, self.digits, self.count, self.oracle = coder, digits, count, oracle
        self.nodes: list[Point] = []
        self.faces: list[tuple[int, int, int]] = []
        self.start: list[int] = []
        self.apex: list[int] = []
        self.after: list[int] = []
        self.before: list[int] = []
        self.there: list[bool] = []
        self.fans: list[set[int]] = []
        """Of each vertex the edges of the border that start there."""
        self.border: dict[int, None] = {}
        self.looks = LOOKS_A_FACE * count
        self.degree: list[int] = []
        self.open: deque[int] = deque()

    def run(self) -> None:
        while len(self.faces) < self.count:
            while self.open and not self.there[self.open[-1]]:
                self.open.pop()
            if self.open:
                self._cross(self.open.pop())
            else:
                self._seed()

    def _seed(self) -> None:
        own = self.oracle.seed() if self.oracle else (0, 0, 0)
        corners = []
        for k in range(3):
            near = self.nodes[corners[-1]] if corners else None
            corners.append(self._plain(own[k], near))
        a, b, c = corners
        self._face(a, b, c)
        edges = [self._edge(a, c), self._edge(b, a), self._edge(c, b)]
        for k in range(3):
            self._link(edges[k], edges[(k + 1) % 3])
        self.open.extend(edges)

    def _cross(self, gate: int) -> None:
        """The face beyond an edge of the border."""
        after, before = self.after[gate], self.before[gate]
        a, b = self.start[gate], self.start[after]
        last, first = self.after[after], before
        own = self.oracle.beyond(a, b) if self.oracle else None
        joined, new, missing = None, False, False
        if self.oracle:
            missing = own is None
            if own is not None:
                joined = self._chosen(own, last, first)
                new = joined is None
        shape = self._shape(gate)
        if self.coder.bit(int(new), *(("new", *s) for s in shape)):
            tip = self._corner(own, gate)
            joined = None
        elif self.coder.bit(int(joined == last), *(("after", *s) for s in shape)):
            joined, tip = last, self.start[last]
        elif self.coder.bit(int(joined == first), *(("before", *s) for s in shape)):
            joined, tip = first, self.start[first]
        elif self.coder.bit(int(missing), "missing"):
            return
        else:
            joined = self._far(joined, gate)
            tip = self.start[joined]
        if tip in (a, b):
            raise ValueError("a face has two corners at one vertex")
        self._face(b, a, tip)
        one, two = self._edge(a, b), self._edge(tip, a)
        self.apex[two] = a
        self._drop(gate)
        if joined is None:
            self._link(before, one)
            self._link(one, two)
            self._link(two, after)
        else:
            behind = self.before[joined]
            self._link(before, one)
            self._link(one, joined)
            self._link(behind, two)
            self._link(two, after)
        for edge in (one, two):
            if self.there[edge] and not self._zipped(edge):
                self.open.append(edge)

    def _chosen(self, own: int, last: int, first: int) -> int | None:
        """The edge of the border that starts at an own vertex, the neighbours' first; None for a vertex to be told."""
        assert self.oracle
        given = self.oracle.given
        for edge in (last, first):
            if given[self.start[edge]] == own:
                return edge
        found = [edge for v in self.oracle.told.get(own, ()) for edge in self.fans[v]]
        return min(found) if found else None

    # ---- the border

    def _edge(self, start: int, apex: int) -> int:
        self.start.append(start)
        self.apex.append(apex)
        self.after.append(-1)
        self.before.append(-1)
        self.there.append(True)
        self.border[len(self.start) - 1] = None
        self.fans[start].add(len(self.start) - 1)
        return len(self.start) - 1

    def _link(self, edge: int, after: int) -> None:
        self.after[edge], self.before[after] = after, edge

    def _drop(self, edge: int) -> None:
        self.there[edge] = False
        del self.border[edge]
        self.fans[self.start[edge]].discard(edge)

    def _zipped(self, edge: int) -> bool:
        """Take an edge and its neighbour from the border where they are one edge, walked both ways."""
        for one, two in ((edge, self.after[edge]), (self.before[edge], edge)):
            if self.start[one] == self.start[self.after[two]]:
                self._link(self.before[one], self.after[two])
                self._drop(one)
                self._drop(two)
                return True
        return False

    def _face(self, a: int, b: int, c: int) -> None:
        self.faces.append((a, b, c))
        for corner in (a, b, c):
            self.degree[corner] += 1

    # ---- what is said

    def _shape(self, gate: int) -> tuple[tuple[int, ...], ...]:
        """Contexts of what is beyond an edge: how full its ends are, and how the border turns there."""
        after, before = self.after[gate], self.before[gate]
        a, b = self.start[gate], self.start[after]
        full = min(self.degree[a], 7), min(self.degree[b], 7)
        x, y = self.start[before], self.start[self.after[after]]
        turns = _turn(self.nodes[x], self.nodes[a], self.nodes[b]), _turn(self.nodes[a], self.nodes[b], self.nodes[y])
        return (0, *full), (1, *turns)

    def _far(self, joined: int | None, gate: int) -> int:
        """One of all edges of the border, by how many of them start nearer to where a new vertex would be."""
        if len(self.border) > self.looks:  # what the geometry says would take too long
            found = self._bits(joined or 0, len(self.start).bit_length())
            if found not in self.border:
                raise ValueError("it goes on at an edge that is no border")
            return found
        self.looks -= len(self.border)
        guess = self._guess(gate)
        near = [
            (sum((x - y) ** 2 for x, y in zip(self.nodes[self.start[e]], guess, strict=True)), e) for e in self.border
        ]
        near.sort()
        place = next(i for i, (_, edge) in enumerate(near) if edge == joined) if joined is not None else 0
        place = self._size(place, (FAR,))
        if place >= len(near):
            raise ValueError("it goes on at an edge that is not there")
        return near[place][1]

    def _bits(self, value: int, digits: int) -> int:
        found = 0
        for k in reversed(range(digits)):
            found = found << 1 | self.coder.bit(value >> k & 1)
        return found

    def _plain(self, own: int, near: Point | None) -> int:
        """A vertex of a seed."""
        told = self.oracle.nodes[own] if self.oracle else (0, 0, 0)
        if near is None:
            found: Any = tuple(self._bits(told[k], self.digits) for k in range(3))
        else:
            found = self._off(told, near, SEED)
        return self._vertex(own, found)

    def _corner(self, own: int | None, gate: int) -> int:
        """A new vertex beyond an edge of the border."""
        told = self.oracle.nodes[own] if self.oracle and own is not None else (0, 0, 0)
        a, b = self.nodes[self.start[gate]], self.nodes[self.start[self.after[gate]]]
        o = self.nodes[self.apex[gate]]
        sides = sum((a[k] - b[k]) ** 2 + (b[k] - o[k]) ** 2 + (o[k] - a[k]) ** 2 for k in range(3))
        return self._vertex(own, self._off(told, self._guess(gate), min(sides.bit_length(), LARGEST)))

    def _guess(self, gate: int) -> Point:
        """The fourth corner of the parallelogram beyond an edge of the border."""
        a, b = self.nodes[self.start[gate]], self.nodes[self.start[self.after[gate]]]
        o = self.nodes[self.apex[gate]]
        return a[0] + b[0] - o[0], a[1] + b[1] - o[1], a[2] + b[2] - o[2]

    def _vertex(self, own: int | None, node: Point) -> int:
        if not all(0 <= x < 1 << self.digits for x in node):
            raise ValueError("a vertex is outside of its lattice")
        self.nodes.append(node)
        self.fans.append(set())
        self.degree.append(0)
        if self.oracle and own is not None:
            self.oracle.given.append(own)
            self.oracle.told.setdefault(own, []).append(len(self.nodes) - 1)
        return len(self.nodes) - 1

    def _off(self, told: Point, guess: Point, scale: int) -> Point:
        """A node by how far it is off a guess; `scale` says how far that might be."""
        found, size = [], 0
        for k in range(3):
            beside = min(size.bit_length(), 5) if k else -1
            off = self._signed(told[k] - guess[k], ((0, scale), (1, scale // 2, beside)))
            size = max(size, abs(off))
            found.append(guess[k] + off)
        return found[0], found[1], found[2]

    def _signed(self, value: int, where: tuple[tuple[int, ...], ...]) -> int:
        size = self._size(abs(value), where)
        return -size if size and self.coder.bit(int(value < 0)) else size

    def _size(self, size: int, where: tuple[tuple[int, ...], ...]) -> int:
        """A whole number: zero or not; how many digits; the digits, the first of them learned."""
        if not self.coder.bit(int(size > 0), *(("some", *w) for w in where)):
            return 0
        digits = 1
        while digits < LONGEST and self.coder.bit(
            int(size.bit_length() > digits), *(("more", digits, *w) for w in where)
        ):
            digits += 1
        found = 1
        for k in reversed(range(digits - 1)):
            contexts = [("digit", digits, k, *where[0])] if k >= digits - 3 else []
            found = found << 1 | self.coder.bit(size >> k & 1, *contexts)
        return found


def _turn(x: Point, a: Point, y: Point) -> int:
    """How sharply the border turns at a, by whole numbers: 0 for about straight, 4 where x and y are close."""
    u, v = [x[k] - a[k] for k in range(3)], [y[k] - a[k] for k in range(3)]
    along = sum(p * q for p, q in zip(u, v, strict=True))
    if along <= 0:
        return int(4 * along * along < sum(p * p for p in u) * sum(q * q for q in v))
    square = 16 * along * along // max(sum(p * p for p in u) * sum(q * q for q in v), 1)
    return 2 + int(square >= 4) + int(square >= 9)
