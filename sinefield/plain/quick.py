"""The compiled twin of a stored shape field's distances, taken once enough is asked to be worth its making."""

import numpy as np

from sinefield.errors import SinefieldError
from sinefield.kernels.choose import Choice
from sinefield.plain.distance import HALF_DIAGONAL, SLOPES, TRUSTED, VALUES, TrueDistance
from sinefield.plain.network import BETA, LEAK

BENDS = {"relu": 0.0, "leaky_relu": float(LEAK), "softplus": float(BETA)}
"""What the activations need that the settings do not say."""


def quicken(distance: TrueDistance, choice: Choice, threads: int | None = None) -> int:
    """Have a field's distances found by compiled kernels from now on.

    Args:
        choice: of the operation "true_distance", see `kernels.choose`.
        threads: that are wished for.

    Returns:
        how many threads it will be.

    Raises:
        SinefieldError: a number of threads that is none; see `TrueDistance.surface`.
    """
    if threads is not None and threads < 1:
        raise SinefieldError(f"threads is {threads}; give 1 or more")
    if choice.function is None or distance.behind is None:
        return 1
    if distance.quick is None:
        distance.quick = choice.function(*made_of(distance))
    import numba

    return threads or numba.get_num_threads()


def made_of(distance: TrueDistance) -> tuple:
    """What `kernels.cpu.distance.Distances` is made of."""
    from sinefield.kernels.cpu.distance import Place

    behind, surface = distance.behind, distance.surface
    assert behind is not None
    config, network = behind.config, behind.network
    place = Place(
        distance.low,
        distance.high,
        distance.centre,
        distance.unit,
        surface.origin,
        surface.pitch,
        np.ascontiguousarray(surface.negative),
        behind.centre,
        behind.scale,
        behind.level,
        behind.factor / distance.unit,
        distance.learned,
        HALF_DIAGONAL * surface.pitch,
        TRUSTED,
        VALUES,
        SLOPES,
    )
    bends = BENDS | {"gaussian": -0.5 / config.sigma**2, "sine": config.omega0}
    activation = config.activation
    layers = network.matrices, network.biases, network.skips, len(network.scales), activation, bends[activation]
    return surface.vertices, surface.faces, place, layers
