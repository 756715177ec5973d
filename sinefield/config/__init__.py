"""Scene files: read, checked, and turned into the settings of their kind."""

from dataclasses import Field
from pathlib import Path
from typing import Any, ClassVar, Protocol, get_type_hints, runtime_checkable

from sinefield.config.paths import FAMILIES, FOLDERS, data_folder, locate, portable, skimage_folder
from sinefield.config.settings import (
    Activation,
    ImageConfig,
    ImageDataConfig,
    ImageFieldConfig,
    ImageTrainingConfig,
    NetworkConfig,
    RadianceConfig,
    RadianceDataConfig,
    RadianceFieldConfig,
    RadianceTrainingConfig,
    Schedule,
    ShapeConfig,
    ShapeDataConfig,
    ShapeFieldConfig,
    ShapesConfig,
    ShapesDataConfig,
    ShapesFieldConfig,
    ShapesTrainingConfig,
    ShapeTrainingConfig,
    TrainingConfig,
)
from sinefield.errors import SinefieldError, shown
from sinefield.strict import build, load_yaml, nearest, set_dotted

__all__ = [
    "FAMILIES",
    "FOLDERS",
    "KINDS",
    "Activation",
    "Config",
    "ImageConfig",
    "ImageDataConfig",
    "ImageFieldConfig",
    "ImageTrainingConfig",
    "NetworkConfig",
    "RadianceConfig",
    "RadianceDataConfig",
    "RadianceFieldConfig",
    "RadianceTrainingConfig",
    "Schedule",
    "ShapeConfig",
    "ShapeDataConfig",
    "ShapeFieldConfig",
    "ShapeTrainingConfig",
    "ShapesConfig",
    "ShapesDataConfig",
    "ShapesFieldConfig",
    "ShapesTrainingConfig",
    "TrainingConfig",
    "data_folder",
    "load_config",
    "locate",
    "make_config",
    "make_field_config",
    "portable",
    "skimage_folder",
]


@runtime_checkable
class Config(Protocol):
    """A scene file of any kind, a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    kind: Any
    seed: int
    data: Any
    field: Any
    training: Any


KINDS: dict[str, type[Any]] = {
    "shape": ShapeConfig,
    "radiance": RadianceConfig,
    "image": ImageConfig,
    "shapes": ShapesConfig,
}
"""Scene files' kinds and what they hold; `fields.base.register_kind` adds to them."""


def load_config(path: str | Path, overrides: dict[str, str] | None = None) -> Config:
    """Read a scene file, apply dotted overrides, check everything.

    A relative `data.path` in the file is relative to the file, one given as override to the working directory, and
    `$SINEFIELD_DATA/…` to the data folder (see `FOLDERS`). The result holds absolute paths.

    Raises:
        SinefieldError: see `load_yaml` and `build`; unknown kind; `data.path` missing.
    """
    content = load_yaml(path)
    data = content.get("data")
    if isinstance(data, dict) and isinstance(data.get("path"), str):
        data["path"] = locate(data["path"], Path(path).resolve().parent)
    for key, text in (overrides or {}).items():
        value = locate(str(text)) if key == "data.path" else text
        set_dotted(content, key, value)
    return make_config(content, str(path))


def make_field_config(kind: Any, content: Any, where: str) -> Any:
    """The group `field` of a scene file of some kind, from plain data."""
    return build(get_type_hints(_config_class(kind, where))["field"], content, where)


def make_config(content: dict[str, Any], where: str) -> Config:
    """Plain data into the config of its kind."""
    config = build(_config_class(content.get("kind"), where), content, where)
    if config.seed < 0:
        raise SinefieldError(f"{where}: seed is {config.seed}; should be at least 0")
    if not getattr(config.data, "path", "-"):
        raise SinefieldError(f"{where}: data.path is missing; add it or give --data.path")
    return config


def _config_class(kind: Any, where: str) -> type[Any]:
    if not isinstance(kind, str) or kind not in KINDS:
        problem = "has no kind" if kind is None else f"kind is {shown(kind)}"
        raise SinefieldError(f"{where}: {problem}; {nearest(kind if isinstance(kind, str) else '', list(KINDS))}")
    return KINDS[kind]
