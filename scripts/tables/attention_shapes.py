"""The shape transformer of attention.py: a small one, briefly trained, with norms of its attention on the way."""

import math
import time
from unittest.mock import patch

import numpy as np
import torch

from sinefield.config import ShapesConfig, make_config
from sinefield.data.shape_sets import ShapeSet
from sinefield.fields.latent import field as latent_shape
from sinefield.fields.latent.training import ShapesTask, mean_iou
from sinefield.learning.loop import make_optimizers, rate, step_generator
from sinefield.nn.mlp import count_parameters
from sinefield.transformers.norms import attention_norms

FAMILIES = "families:chair,vase,superquadric,blob"
LOOKS = 6
SCENE = {
    "kind": "shapes",
    "data": {"path": FAMILIES, "shapes": 200, "held_out": 6},
    "field": {"points": 256, "dim": 64, "tokens": 64, "heads": 4, "blocks": 3, "expand": 3},
    "training": {"steps": 250, "batch": 8, "queries": 256},
}


def scene(attention: str, factor: float, seed: int, **changes: dict) -> ShapesConfig:
    """The experiment's scene with one attention, both learning rates times a factor."""
    plain = {key: value | changes.get(key, {}) if isinstance(value, dict) else value for key, value in SCENE.items()}
    config = make_config(plain | {"seed": seed}, "attention_shapes")
    config.field.attention = attention
    config.training.lr *= factor
    config.training.adam_lr *= factor
    return config


def fit(config: ShapesConfig, shapes: ShapeSet, over_root: bool) -> dict[str, object]:
    """Train one; the first half of the held-out shapes chooses rates, the second is the score."""
    task = ShapesTask(config, shapes)
    if not over_root:
        for module in task.field.modules():
            if isinstance(module, latent_shape.PlacedAttention):
                module.project.divisor = 1.0
    training, half = config.training, len(task.probes) // 2
    optimizers = make_optimizers(task, training)
    base = [o.param_groups[0]["lr"] for o in optimizers]
    marks = sorted({round(i * training.steps / (LOOKS - 1)) for i in range(LOOKS)})
    cloud = task.draw(step_generator(config.seed, training.steps))[0]
    looks, spent, diverged = [], 0.0, False
    for step in range(training.steps + 1):
        if step in marks:
            looks.append(look(task.field, cloud))
        if step == training.steps:
            break
        begin = time.process_time()
        task.progress = step / training.steps
        for optimizer, lr in zip(optimizers, base, strict=True):
            optimizer.param_groups[0]["lr"] = lr * rate(task.progress, training)
            optimizer.zero_grad(set_to_none=True)
        if not math.isfinite(float(task.step(step, step_generator(config.seed, step)))):
            diverged = True
            break
        for optimizer in optimizers:
            optimizer.step()
        spent += time.process_time() - begin
    found = np.array(looks)
    scores = (0.0, 0.0) if diverged else (mean_iou(task.field, p) for p in (task.probes[:half], task.probes[half:]))
    validation, test = scores
    return {
        "params": count_parameters(task.field),
        "validation": validation,
        "validation_loss": math.nan,
        "test": test,
        "diverged": diverged,
        "ms_a_step": 1e3 * spent / (step or 1),
        "steps": marks[: len(looks)],
        **{name: found[:, i] for i, name in enumerate(("matrix", "matrix_max", "jacobian", "jacobian_max"))},
    }


@torch.no_grad()
def look(field: latent_shape.LatentShapeField, cloud: torch.Tensor) -> tuple[float, float, float, float]:
    """‖A‖_F and ‖∂A/∂x‖_F in the blocks of self-attention: mean, largest; mean, largest."""
    matrices, jacobians = [], []
    attention = latent_shape.attention

    def watched(q, k, v, power=None, **more):
        if q.shape[-2] == k.shape[-2]:  # not the reader, which has more keys
            norms = attention_norms(q, k, power, **more)
            matrices.append(norms.matrix)
            jacobians.append(norms.jacobian)
        return attention(q, k, v, power, **more)

    with patch.object(latent_shape, "attention", watched):
        field.encode(cloud)
    parts = torch.cat(matrices), torch.cat(jacobians)
    return tuple(float(value) for part in parts for value in (part.mean(), part.max()))
