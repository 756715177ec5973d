"""Nearest points on several threads that an interruption waits for."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree


def nearest(tree: KDTree, points: Float[np.ndarray, "n d"], k: int | list[int] = 1) -> tuple[np.ndarray, np.ndarray]:
    """Distances and indices as `tree.query(points, k)` gives them.

    scipy's own threads (`workers`) go on after Ctrl-C or SIGTERM, in memory that was given back: the process crashes.
    """
    query: Callable[..., Any] = tree.query  # whose types know no list of k
    threads = min(os.cpu_count() or 1, max(len(points) // 1000, 1))
    with ThreadPoolExecutor(threads) as pool:  # whatever ends this block, its threads end before
        found = list(pool.map(lambda part: query(part, k), np.array_split(points, threads)))
    distances, indices = zip(*found, strict=True)
    return np.concatenate(distances), np.concatenate(indices)
