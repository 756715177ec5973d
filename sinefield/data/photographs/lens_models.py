"""What a camera model's name and numbers mean, as transforms.json and COLMAP write them."""

import math
from collections.abc import Sequence
from typing import Any

from sinefield.cameras.lenses import COLUMNS, EQUIRECTANGULAR, FISHEYE, FOV, PERSPECTIVE
from sinefield.errors import SinefieldError

SHORTEST_FOCAL, LONGEST_FOCAL = 1e-3, 1e9  # pixels: beyond these, rays in float32 are no rays any more

# By COLMAP's number: name, and what its parameters are called in transforms.json; f stands for both focal lengths.
COLMAP_MODELS = {
    0: ("SIMPLE_PINHOLE", ("f", "cx", "cy")),
    1: ("PINHOLE", ("fl_x", "fl_y", "cx", "cy")),
    2: ("SIMPLE_RADIAL", ("f", "cx", "cy", "k1")),
    3: ("RADIAL", ("f", "cx", "cy", "k1", "k2")),
    4: ("OPENCV", ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2")),
    5: ("OPENCV_FISHEYE", ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "k3", "k4")),
    6: ("FULL_OPENCV", ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")),
    7: ("FOV", ("fl_x", "fl_y", "cx", "cy", "omega")),
    8: ("SIMPLE_RADIAL_FISHEYE", ("f", "cx", "cy", "k1")),
    9: ("RADIAL_FISHEYE", ("f", "cx", "cy", "k1", "k2")),
    10: (
        "THIN_PRISM_FISHEYE",
        ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "sx1", "sy1"),
    ),
    14: ("SIMPLE_FISHEYE", ("f", "cx", "cy")),
    15: ("FISHEYE", ("fl_x", "fl_y", "cx", "cy")),
    17: ("EQUIRECTANGULAR", ("w", "h")),
}
UNREAD_MODELS = {  # by number, name and count of parameters
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
    12: ("SIMPLE_DIVISION", 4),
    13: ("DIVISION", 5),
    16: ("EUCM", 6),
}
POLYNOMIAL = {name: name for name in ("k1", "k2", "k3", "k4", "p1", "p2")}
MODELS: dict[str, tuple[int, dict[str, str]]] = {
    # Projection, and which column of a distortion each number is. A perspective's k3 and k4 are nerfstudio's, factors
    # of r⁶ and r⁸; only FULL_OPENCV has OpenCV's k4 to k6, which divide.
    **dict.fromkeys(
        ("PERSPECTIVE", "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"), (PERSPECTIVE, POLYNOMIAL)
    ),
    "FULL_OPENCV": (
        PERSPECTIVE,
        {"k1": "k1", "k2": "k2", "p1": "p1", "p2": "p2", "k3": "k3", "k4": "d1", "k5": "d2", "k6": "d3"},
    ),
    **dict.fromkeys(
        ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "SIMPLE_FISHEYE", "FISHEYE"),
        (FISHEYE, {name: name for name in ("k1", "k2", "k3", "k4")}),
    ),
    "THIN_PRISM_FISHEYE": (FISHEYE, {**POLYNOMIAL, "sx1": "s1", "sy1": "s2"}),
    "FOV": (FOV, {"omega": "k1"}),
    "EQUIRECTANGULAR": (EQUIRECTANGULAR, {}),
}
NUMBERS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "sx1", "sy1", "omega")
FLAGS = {"is_fisheye": "OPENCV_FISHEYE", "equirectangular": "EQUIRECTANGULAR"}  # instant-ngp's
OTHER_FLAGS = ("ftheta_p0", "latlong", "orthographic")
FOCALS = ("camera_angle_x", "camera_angle_y", "fl_x", "fl_y", "cx", "cy")
LENS_KEYS = (*FOCALS, *NUMBERS, "w", "h", *FLAGS, *OTHER_FLAGS, "camera_model")
ADVICE = "undistort the images to PINHOLE, as 'colmap image_undistorter' does"


def model_of(lens: dict[str, Any], where: str) -> str:
    """The name in `MODELS` of a lens's camera model; OPENCV where it has none.

    Raises:
        SinefieldError: a model that is not read, or two that contradict each other.
    """
    name = lens.get("camera_model")
    if name is not None and (not isinstance(name, str) or name not in MODELS):
        raise SinefieldError(
            f"{where}: camera_model '{str(name)[:40]}' is not supported; {ADVICE} (docs/your_photographs.md lists them)"
        )
    for key in OTHER_FLAGS:
        if lens.get(key):
            raise SinefieldError(f"{where}: '{key}' lenses are not supported; {ADVICE}")
    for key, meant in FLAGS.items():
        if lens.get(key):
            if name is not None and MODELS[name][0] != MODELS[meant][0]:
                raise SinefieldError(f"{where}: camera_model {name}, but '{key}' is set; remove one of them")
            name = name or meant
    return name or "OPENCV"


def intrinsics(lens: dict[str, Any], width: int, height: int, where: str) -> tuple[int, list[float]]:
    """A lens for an image of this size.

    Arguments:
        lens: `LENS_KEYS` of transforms.json, None where absent.
        width, height: pixels, before any reduction.

    Returns:
        Its projection, a number of `cameras.lenses.PROJECTIONS`; then fx, fy, cx, cy in pixels and the eleven numbers
        of `cameras.lenses.COLUMNS`.

    Raises:
        SinefieldError: no focal length, a value that is no number, a model that is not read, or a number that the
            model does not have.
    """
    model = model_of(lens, where)
    projection, names = MODELS[model]
    get = {key: number(lens, key, where) for key in (*FOCALS, *NUMBERS)}
    if strange := [key for key in NUMBERS if get[key] and key not in names]:
        raise SinefieldError(
            f"{where}: {model} lenses have no '{strange[0]}'; set camera_model to one that has (FULL_OPENCV has k1 to "
            "k6, THIN_PRISM_FISHEYE has k1 to k4, p1, p2, sx1, sy1), or remove it"
        )
    if projection == EQUIRECTANGULAR:
        if abs(width - 2 * height) > 1:
            raise SinefieldError(
                f"{where}: an equirectangular picture of {width}x{height} pixels; one of the whole sphere is twice as "
                "wide as high"
            )
        return projection, [width / (2 * math.pi), height / math.pi, width / 2, height / 2, *[0.0] * len(COLUMNS)]
    focal = _focal(get, width, height, where, projection != PERSPECTIVE)
    cx = width / 2 if get["cx"] is None else get["cx"]
    cy = height / 2 if get["cy"] is None else get["cy"]
    values = {column: get[key] or 0.0 for key, column in names.items()}
    if projection == FOV and not 0 <= values["k1"] < math.pi:
        raise SinefieldError(f"{where}: omega {values['k1']:g}; it must be radians between 0 and pi")
    return projection, [*focal, cx, cy, *(values.get(column, 0.0) for column in COLUMNS)]


def _focal(get: dict[str, float | None], width: int, height: int, where: str, wide: bool) -> tuple[float, float]:
    fx, fy = get["fl_x"], get["fl_y"]
    if fx is None and wide:
        raise SinefieldError(f"{where}: has no 'fl_x', which this lens needs; add the focal length in pixels")
    if fx is None:
        fx = focal_from_angle(get["camera_angle_x"], width, where)
        if fy is None and get["camera_angle_y"] is not None:
            fy = focal_from_angle(get["camera_angle_y"], height, where)
    fy = fx if fy is None else fy
    if not all(SHORTEST_FOCAL < f < LONGEST_FOCAL for f in (fx, fy)):
        raise SinefieldError(
            f"{where}: focal length {fx:g}, {fy:g}; fl_x and fl_y must be pixels between {SHORTEST_FOCAL:g} "
            f"and {LONGEST_FOCAL:g}"
        )
    return fx, fy


def named(projection: int, values: Sequence[float]) -> dict[str, Any]:
    """What transforms.json says of a lens: the inverse of `intrinsics`, for fx, fy, cx, cy and the columns."""
    if projection == EQUIRECTANGULAR:
        return {"camera_model": "EQUIRECTANGULAR"}
    held = {column for column, value in zip(COLUMNS, values[4:], strict=True) if value}
    least = {FISHEYE: ("OPENCV_FISHEYE", "THIN_PRISM_FISHEYE"), FOV: ("FOV",), PERSPECTIVE: ("OPENCV", "FULL_OPENCV")}
    model = next(m for m in least[projection] if held <= set(MODELS[m][1].values()))
    found: dict[str, float] = dict(zip(COLUMNS, values[4:], strict=True))
    focal = dict(zip(("fl_x", "fl_y", "cx", "cy"), values[:4], strict=True))
    numbers = {key: found[column] for key, column in MODELS[model][1].items()}
    plain = {key: value for key, value in numbers.items() if value or key in ("k1", "k2", "p1", "p2")}
    return {"camera_model": model, **focal, **plain}


def focal_from_angle(angle: float | None, pixels: int, where: str) -> float:
    """Focal length in pixels from a field of view in radians across `pixels`."""
    if angle is None:
        raise SinefieldError(f"{where}: has neither 'fl_x' nor 'camera_angle_x'; add the focal length in pixels")
    if not 0 < angle < math.pi:
        raise SinefieldError(f"{where}: camera angle {angle:g}; it must be radians between 0 and pi")
    return 0.5 * pixels / math.tan(0.5 * angle)


def number(values: dict[str, Any], key: str, where: str) -> float | None:
    """values[key] as a finite float; None where absent or null."""
    value = values.get(key)
    if value is None:
        return None
    if not is_number(value):
        raise SinefieldError(f"{where}: '{key}' is {repr(value)[:40]}; expected a finite number")
    return float(value)


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number small enough for float32 arithmetic on it."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e9 < value < 1e9
