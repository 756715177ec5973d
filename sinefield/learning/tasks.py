"""What each kind of scene is read as, and fitted by."""

from typing import Any

from torch import nn

from sinefield.config import Config
from sinefield.fields.image.training import ImageTask, load_picture
from sinefield.fields.latent.training import ShapesTask, load_shapes
from sinefield.fields.radiance.training import RadianceTask, load_scene
from sinefield.fields.shape.training import ShapeTask, load_shape
from sinefield.learning.loop import Task

LOADERS = {
    "shape": lambda config: load_shape(config.data.path),
    "radiance": load_scene,
    "image": load_picture,
    "shapes": load_shapes,
}
TASKS = {"shape": ShapeTask, "radiance": RadianceTask, "image": ImageTask, "shapes": ShapesTask}


def load_data(config: Config) -> Any:
    """The mesh or point cloud, the photographs, the image or the shapes that a config names."""
    return LOADERS[config.kind](config)


def make_task(config: Config, data: Any, field: nn.Module | None = None) -> Task:
    """The field that a config describes, ready to be fitted to its data; or `field`, a trained one, to be fitted on."""
    return TASKS[config.kind](config, data, field)
