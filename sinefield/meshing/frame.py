"""Units and the axis that is up: how a file's coordinates come from the input's.

Without a wish nothing changes. With one, the file's numbers are in the unit and have the axis up that were asked for.
A GLB is in metres with y up by its specification (glTF 2.0, 3.4): there a node takes the numbers to that.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from sinefield.errors import SinefieldError

MICRONS = {"um": 1, "mm": 1_000, "cm": 10_000, "in": 25_400, "ft": 304_800, "m": 1_000_000}
"""Lengths of the units; whole numbers, so that quotients are exact."""
UNITS = ("m", "cm", "mm", "in", "ft")
AXES = ("y", "z")
USUAL_UNIT = "m"
"""Of an input whose unit nobody says: that of glTF."""
_TURNS = {
    ("y", "z"): np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
    ("z", "y"): np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
}


class Frame(NamedTuple):
    """What a user asks for.

    Attributes:
        unit, up: of the file; the input's when None.
        input_unit, input_up: of the input; when None what the field knows.
    """

    unit: str | None = None
    up: str | None = None
    input_unit: str | None = None
    input_up: str | None = None


@dataclass(frozen=True, eq=False)
class Placing:
    """How numbers get into a file.

    Attributes:
        unit, up: of the file's numbers, where they are known.
        scale, turn: what takes the input's numbers to the file's.
        node_scale, node_turned: what takes these to metres and y up, in a GLB.
        scaled, turned: the same in words; None where nothing is.
    """

    unit: str | None = None
    up: str | None = None
    scale: float = 1.0
    turn: Float[np.ndarray, "3 3"] = field(default_factory=lambda: np.eye(3))
    node_scale: float = 1.0
    node_turned: bool = False
    scaled: str | None = None
    turned: str | None = None

    @property
    def metres(self) -> float:
        """Metres in the unit of the file's numbers; where it is not known it counts as `USUAL_UNIT`."""
        return MICRONS[self.unit or USUAL_UNIT] / MICRONS["m"]

    def apply(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Numbers of the file for points of the input."""
        points = np.asarray(points, np.float64)
        return points if self.scaled is None and self.turned is None else points @ self.turn.T * self.scale

    def to_node(self, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """Where a GLB's node brings points of the file's numbers."""
        return self.node_scale * (points @ _TURNS["z", "y"].T if self.node_turned else points)

    def described(self) -> str:
        """For the file itself and its readers."""
        said = [f"scaled {self.scaled}"] if self.scaled else []
        said += [f"turned {self.turned}"] if self.turned else []
        return "; ".join(said)


def place(frame: Frame, glb: bool, unit: object = None, up: Float[np.ndarray, "3"] | None = None) -> Placing:
    """How the numbers get into a file.

    Arguments:
        glb: the file is a GLB.
        unit: of the input, where its field knows it; anything else counts as not known.
        up: the direction in the input that its field takes for up.

    Raises:
        SinefieldError: an unknown unit or axis; `frame.up` for an input whose up is neither y nor z.
    """
    for name, value, known in (
        ("unit", frame.unit, UNITS),
        ("input-unit", frame.input_unit, UNITS),
        ("up", frame.up, AXES),
        ("input-up", frame.input_up, AXES),
    ):
        if value is not None and value not in known:
            raise SinefieldError(f"--{name} {value}: is unknown; one of {' '.join(known)}")
    scale, file_unit, node_scale, scaled = _scaling(
        frame, glb, unit if isinstance(unit, str) and unit in MICRONS else None
    )
    turn, file_up, node_turned, turned = _turning(frame, glb, None if up is None else _axis(up))
    return Placing(file_unit, file_up, scale, turn, node_scale, node_turned, scaled, turned)


def _scaling(frame: Frame, glb: bool, known: str | None) -> tuple[float, str | None, float, str | None]:
    given = frame.input_unit or known
    if frame.unit is None and frame.input_unit is None:
        return 1.0, given, 1.0, None
    source = given or USUAL_UNIT
    target = frame.unit or source
    scale, node = MICRONS[source] / MICRONS[target], MICRONS[target] / MICRONS["m"] if glb else 1.0
    said = [f"by {scale:g}, {source} to {target}"] if target != source else []
    said += [f"by {node:g} in the node, to glTF's metres"] if node != 1 else []
    if said and given is None:
        said.append(f"the input's unit is not known and taken as {USUAL_UNIT}, --input-unit says otherwise")
    return scale, target, node, "; ".join(said) or None


def _turning(frame: Frame, glb: bool, known: str | None) -> tuple[np.ndarray, str | None, bool, str | None]:
    source = frame.input_up or known
    if frame.up is None and frame.input_up is None:
        return np.eye(3), source, False, None
    if source is None:
        raise SinefieldError(f"--up {frame.up}: in the input neither y nor z is up; say --input-up, or leave it out")
    target = frame.up or source
    said = [f"from {source} up to {target} up"] if target != source else []
    said += ["from z up to glTF's y up in the node"] if glb and target == "z" else []
    if said and frame.input_up is None:
        said.append(f"{source} up is what the field takes its input for, --input-up says otherwise")
    return _TURNS.get((source, target), np.eye(3)), target, glb and target == "z", "; ".join(said) or None


def _axis(up: Float[np.ndarray, "3"]) -> str | None:
    """The one of y and z that a direction is near to."""
    unit = np.asarray(up, np.float64) / max(float(np.linalg.norm(up)), 1e-30)
    return next((axis for axis, along in zip("yz", unit[1:], strict=True) if along > 0.9), None)
