"""Meshes of fewer triangles."""

import numpy as np
from jaxtyping import Float, Int

from sinefield.errors import SinefieldError

FEWEST = 4
"""Faces of the simplest closed surface."""


def check_budget(faces: int) -> None:
    """Refuse, before a long evaluation, a number of faces that `decimate` cannot bring a mesh to.

    Raises:
        SinefieldError: fewer than `FEWEST`, or fast-simplification is not installed.
    """
    if faces < FEWEST:
        raise SinefieldError(f"--faces {faces}; at least {FEWEST}, which a closed surface needs")
    try:
        import fast_simplification  # noqa: F401
    except ImportError as error:
        raise SinefieldError("--faces needs fast-simplification; run: pip install fast-simplification") from error


def decimate(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], budget: int
) -> tuple[Float[np.ndarray, "w 3"], Int[np.ndarray, "g 3"]]:
    """A mesh of at most about `budget` faces, by quadric edge collapse; the same one where it has no more.

    Raises:
        SinefieldError: see `check_budget`; nothing is left, or far more than asked for.
    """
    check_budget(budget)
    if len(faces) <= budget:
        return vertices, faces
    import fast_simplification

    # It computes in single precision: give it a mesh of about unit size around 0.
    low, high = vertices.min(0), vertices.max(0)
    centre, scale = (low + high) / 2, float((high - low).max()) / 2 or 1.0
    unit = ((vertices - centre) / scale).astype("float32", order="C")
    points, triangles = fast_simplification.simplify(unit, faces.astype(np.int32), target_count=budget)[:2]
    if len(triangles) == 0:
        raise SinefieldError(f"--faces {budget}: nothing is left of the surface; allow more faces")
    return points.astype(np.float64) * scale + centre, triangles.astype(np.int32)
