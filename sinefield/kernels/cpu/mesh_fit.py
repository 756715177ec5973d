"""The compiled loops of `meshing.optimised`: what moves the vertices of a mesh towards a surface."""

import numpy as np
from numba import njit

ALPHA, BETA = 0.7548776662466927, 0.5698402909980532
"""Steps of the sequence R2 (Roberts, 2018), whose points are spread evenly over a square."""
MIDDLE = 0.5, 0.5
TURN = 0.2
"""Cosine to its first normal below which no move may bring a face."""


@njit(cache=True, fastmath=True)
def distance_at(grid, x, y, z, low, pitch):
    """Trilinear value at a place; beyond the outermost nodes that of the nearest place on the wall."""
    x = min(max((x - low[0]) / pitch, 0.0), grid.shape[0] - 1.001)
    y = min(max((y - low[1]) / pitch, 0.0), grid.shape[1] - 1.001)
    z = min(max((z - low[2]) / pitch, 0.0), grid.shape[2] - 1.001)
    i, j, k = int(x), int(y), int(z)
    u, v, w = x - i, y - j, z - k
    a = (grid[i, j, k] * (1 - w) + grid[i, j, k + 1] * w) * (1 - v)
    a += (grid[i, j + 1, k] * (1 - w) + grid[i, j + 1, k + 1] * w) * v
    b = (grid[i + 1, j, k] * (1 - w) + grid[i + 1, j, k + 1] * w) * (1 - v)
    b += (grid[i + 1, j + 1, k] * (1 - w) + grid[i + 1, j + 1, k + 1] * w) * v
    return a * (1 - u) + b * u


@njit(cache=True)
def distances_at(grid, points, low, pitch):
    """(n,) trilinear values at (n, 3) places."""
    found = np.empty(len(points))
    for i in range(len(points)):
        found[i] = distance_at(grid, points[i, 0], points[i, 1], points[i, 2], low, pitch)
    return found


@njit(cache=True, fastmath=True)
def _pull_of_face(grid, low, pitch, a, b, c, samples, start, soft):
    """Area vector of a triangle of three places, and of each corner the mean of its barycentric weight times the
    squashed distance; without an array, which would cost more than the sum."""
    u0, u1, u2, v0, v1, v2 = b[0] - a[0], b[1] - a[1], b[2] - a[2], c[0] - a[0], c[1] - a[1], c[2] - a[2]
    area = (u1 * v2 - u2 * v1) / 2, (u2 * v0 - u0 * v2) / 2, (u0 * v1 - u1 * v0) / 2
    of_a, of_b, of_c = 0.0, 0.0, 0.0
    for k in range(samples):
        p, q = (start[0] + k * ALPHA) % 1.0, (start[1] + k * BETA) % 1.0
        if p + q > 1:
            p, q = 1 - p, 1 - q
        d = distance_at(grid, a[0] + p * u0 + q * v0, a[1] + p * u1 + q * v1, a[2] + p * u2 + q * v2, low, pitch)
        d = d / np.sqrt(soft * soft + d * d)
        of_a += d * (1 - p - q)
        of_b += d * p
        of_c += d * q
    return area, (of_a / samples, of_b / samples, of_c / samples)


@njit(cache=True)
def slopes(vertices, faces, grid, low, pitch, samples, soft, starts):
    """Gradient of the squashed distance's integral over the inside of a closed mesh, and areas of the vertices.

    The integral of h(d) over the inside changes by the integral over the faces of h(d) times how fast the face moves
    outwards; a corner moves the points of its faces by their barycentric weight. With h a sign it is the volume that
    the mesh has wrongly, up to a constant.

    Args:
        grid, low, pitch: signed distance at the nodes of a grid, negative inside; its first node; between two nodes.
        samples: points on each face.
        soft: distance at which h is 0.7.
        starts: (f, 2) where each face's sequence of points begins.

    Returns:
        (v, 3) gradients, and (v,) a third of the area of each vertex's faces.
    """
    gradient, areas = np.zeros_like(vertices), np.zeros(len(vertices))
    for f in range(len(faces)):
        a, b, c = vertices[faces[f, 0]], vertices[faces[f, 1]], vertices[faces[f, 2]]
        area, pull = _pull_of_face(grid, low, pitch, a, b, c, samples, starts[f], soft)
        third = np.sqrt(area[0] * area[0] + area[1] * area[1] + area[2] * area[2]) / 3
        for k in range(3):
            areas[faces[f, k]] += third
            for axis in range(3):
                gradient[faces[f, k], axis] += pull[k] * area[axis]
    return gradient, areas


@njit(cache=True)
def _work(vertices, faces, fans, weights, begin, end, move, grid, low, pitch, samples, soft):
    """How much `slopes`' integral changes as what moves these faces is moved: its gradient half way."""
    total, corners = 0.0, np.empty((3, 3))
    for i in range(begin, end):
        for k in range(3):
            for axis in range(3):
                corners[k, axis] = vertices[faces[fans[i], k], axis] + 0.5 * weights[i, k] * move[axis]
        area, pull = _pull_of_face(grid, low, pitch, corners[0], corners[1], corners[2], samples, MIDDLE, soft)
        share = pull[0] * weights[i, 0] + pull[1] * weights[i, 1] + pull[2] * weights[i, 2]
        total += share * (area[0] * move[0] + area[1] * move[1] + area[2] * move[2])
    return total


@njit(cache=True)
def _turned(vertices, faces, fans, weights, begin, end, move, normals):
    """How many of these faces, so moved, look too far away from where they looked at first, or have no area."""
    turned, corners = 0, np.empty((3, 3))
    for i in range(begin, end):
        for k in range(3):
            for axis in range(3):
                corners[k, axis] = vertices[faces[fans[i], k], axis] + weights[i, k] * move[axis]
        a, b, c, normal = corners[0], corners[1], corners[2], normals[fans[i]]
        u0, u1, u2, v0, v1, v2 = b[0] - a[0], b[1] - a[1], b[2] - a[2], c[0] - a[0], c[1] - a[1], c[2] - a[2]
        n0, n1, n2 = u1 * v2 - u2 * v1, u2 * v0 - u0 * v2, u0 * v1 - u1 * v0
        along = n0 * normal[0] + n1 * normal[1] + n2 * normal[2]
        if along <= TURN * np.sqrt(n0 * n0 + n1 * n1 + n2 * n2):
            turned += 1
    return turned


@njit(cache=True)
def settle(
    nodes, vertices, faces, moves, shares, moved_by, starts, fans, weights, normals, order, where, cell, samples, soft
):
    """Move each node of a lattice, in place and in order, to whichever of its six neighbours is best, if one is.

    Vertex j of the mesh goes along by its share of the move: all of it if the nodes are the vertices themselves, less
    where the mesh is a subdivision of theirs.

    Args:
        nodes: (v, 3) float64, whole numbers.
        vertices, faces: (w, 3), (f, 3) of the mesh; the vertices are moved in place too.
        moves, shares, moved_by: node i moves the vertices moves[k] by shares[k], k from moved_by[i] to moved_by[i + 1].
        starts, fans, weights: it changes the faces fans[k], k from starts[i] to starts[i + 1], whose corners it moves
            by weights[k] (3,).
        normals: (f, 3) unit, where each face should look.
        where: grid, low and pitch as `slopes` takes them.
        cell: between two nodes of the lattice.
        samples, soft: see `slopes`.

    Returns:
        how many have moved.
    """
    grid, low, pitch = where
    moved, move, still = 0, np.zeros(3), np.zeros(3)
    for at in order:
        begin, end = starts[at], starts[at + 1]
        best, chosen = 0.0, -1
        turned = _turned(vertices, faces, fans, weights, begin, end, still, normals)
        for way in range(6):
            move[:] = 0.0
            move[way // 2] = cell * (1.0 - 2.0 * (way % 2))
            gain = _work(vertices, faces, fans, weights, begin, end, move, grid, low, pitch, samples, soft)
            if gain < best and _turned(vertices, faces, fans, weights, begin, end, move, normals) <= turned:
                best, chosen = gain, way
        if chosen >= 0:
            axis, by = chosen // 2, 1.0 - 2.0 * (chosen % 2)
            nodes[at, axis] += by
            for k in range(moved_by[at], moved_by[at + 1]):
                vertices[moves[k], axis] += shares[k] * by * cell
            moved += 1
    return moved
