"""How a base layer's own computation is kept: an adapted layer starts as its base, whatever class that is of.

Layers that compute as torch's `Linear` and `Conv2d` do have the delta folded into their weight. Of others (subclasses
with a forward of their own, hooks, quantised or offloaded weights) the layer's own forward runs: with the effective
weight in its weight's place, or, of linear ones, as it is, with the delta's output added.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import UninitializedTensorMixin  # pyright: ignore[reportAttributeAccessIssue]

from sinefield.adapters.deltas import Adapter, Part, effective, folded, parts_of, whole
from sinefield.adapters.layouts import Layout, usual_class
from sinefield.errors import SinefieldError

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def readable(layer: Any) -> bool:
    """Whether the numbers of its weight are there, as floats: not quantised, not offloaded."""
    weight: Any = getattr(layer, "weight", None)
    return (
        type(weight) in (Tensor, nn.Parameter)
        and weight.is_floating_point()
        and weight.layout == torch.strided
        and not weight.is_meta
    )


def held(layer: Any) -> bool:
    """Whether its weight is also a parameter of its own: one computed from others (weight_norm) cannot be replaced."""
    return layer._parameters.get("weight") is not None and readable(layer)


def plain(layer: nn.Module) -> bool:
    """Whether it computes as torch's (or Hugging Face's) own class does; what hooks do is another question."""
    usual, kind = usual_class(layer), type(layer)
    parts = ("forward", "_conv_forward", "__call__")
    return "forward" not in vars(layer) and all(
        getattr(kind, part, None) is getattr(usual, part, None) for part in parts
    )


def device_of(layer: Any) -> torch.device | str | int:
    """Where its weight is when it runs: of an offloaded one, where accelerate brings it.

    Raises:
        SinefieldError: it is on the meta device, and nothing brings it elsewhere.
    """
    if not layer.weight.is_meta:
        return layer.weight.device
    hook = getattr(layer, "_hf_hook", None)
    for part in getattr(hook, "hooks", [hook]):
        if getattr(part, "execution_device", None) is not None:
            return part.execution_device
    raise SinefieldError("its weight is on the meta device, without numbers; load the model first")


def check(layer: Any, layout: Layout, dora: bool) -> None:
    """Refuse what an adapter cannot be put on.

    Raises:
        SinefieldError: see the messages.
    """
    if isinstance(getattr(layer, "weight", None), UninitializedTensorMixin):
        raise SinefieldError(f"a {type(layer).__name__} has no size yet; run a batch through the model first")
    if not layout.factored and not held(layer):
        raise SinefieldError(
            f"a {type(layer).__name__} whose weight is {_state(layer)} cannot be adapted; leave it out"
        )
    if dora and not readable(layer):
        raise SinefieldError(
            f"DoRA reads the lengths of rows, and the weight of this {type(layer).__name__} is {_state(layer)}; "
            "take sine or lora"
        )


def _state(layer: Any) -> str:
    weight = getattr(layer, "weight", None)
    if readable(layer):
        return "computed from other parameters"
    if isinstance(weight, Tensor) and weight.is_meta:
        return "offloaded"
    return "quantised, or in a form of its own"


def effective_weight(layer: Any, layout: Layout, parts: Sequence[Adapter | Part]) -> Tensor:
    """W + Σ ΔW in the base's shape and dtype, differentiable.

    Raises:
        SinefieldError: the base's weight cannot be read.
    """
    if not readable(layer):
        raise SinefieldError(
            f"the weight of a {type(layer).__name__} is {_state(layer)}, so that there is none with the adapter in it; "
            "what reads it must call the layer instead, or leave the layer out"
        )
    matrix = whole(layout.matrix(layer.weight), parts)
    return layout.shaped(matrix.to(layer.weight.dtype), layer.weight)


def adapted_output(
    layer: Any, layout: Layout, x: Tensor, parts: Sequence[Adapter | Part], low_gradient: bool = False
) -> Tensor:
    """The layer's output with the deltas, in the cheapest way that keeps what the layer does.

    Arguments:
        low_gradient: see `folded`.
    """
    own, replaceable = plain(layer), held(layer)
    if own and replaceable:
        if not any(getattr(layer, hooks) for hooks in _HOOKS):
            return _inside(layer, layout, x, parts, low_gradient)
        return torch.func.functional_call(layer, {"weight": effective_weight(layer, layout, parts)}, (x,))
    if not layout.factored:
        return torch.func.functional_call(layer, {"weight": effective_weight(layer, layout, parts)}, (x,))
    y = layer(x)
    return y + _added(layer, layout, x.to(parts[0].a.device), parts, y.dtype).to(y.device)


def _inside(layer: Any, layout: Layout, x: Tensor, parts: Sequence[Adapter | Part], low_gradient: bool) -> Tensor:
    if layout.factored and all(part.spec.kind == "lora" for part in parts):
        y = layer(x)
        return y + _low_rank(x.to(y.dtype), parts)
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else layer.weight.dtype
    bias = None if layer.bias is None else layer.bias.to(dtype)
    return folded(x.to(dtype), layer.weight, bias, parts, layout, low_gradient=low_gradient, dtype=dtype)


def _low_rank(x: Tensor, parts: Sequence[Adapter | Part]) -> Tensor:
    """Σ (α/r)·x Aᵀ Bᵀ."""
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for part in parts:
        scale = part.spec.scale(int(x.shape[-1]))
        total = total + F.linear(F.linear(x, part.a.to(x.dtype)), part.b.to(x.dtype) * scale)
    return total


def _added(layer: Any, layout: Layout, x: Tensor, parts: Sequence[Adapter | Part], dtype: torch.dtype) -> Tensor:
    """x·(V − W)ᵀ, whatever the layer computes with W itself."""
    x = x.to(dtype)
    if parts[0].magnitude is not None:
        matrix = layout.matrix(layer.weight)
        return F.linear(x, (whole(matrix, parts) - matrix).to(dtype))
    if all(part.spec.kind == "lora" for part in parts):
        return _low_rank(x, parts)
    # The layout of nn.Linear: a delta is (out, in) however the layer holds its weight.
    return folded(x, None, None, parts, Layout(), dtype=dtype)


@torch.no_grad()
def merged_weight(layer: Any, layout: Layout, parts: Sequence[Adapter | Part]) -> Tensor:
    """The effective weight, rounded once, for the base's place.

    Raises:
        SinefieldError: the weight cannot be replaced, or the layer does something else with it than multiply.
    """
    if not held(layer):
        raise SinefieldError(
            f"the weight of a {type(layer).__name__} is {_state(layer)}, so that nothing can be merged into it; "
            "run it unmerged"
        )
    merged = effective(layout.matrix(layer.weight), *parts_of(parts), layer.weight.dtype)
    merged = layout.shaped(merged, layer.weight)
    if layout.factored and not plain(layer):
        trial = copy.deepcopy(layer)  # what observes its inputs is to see no trial
        sample = torch.randn(16, layout.size(layer)[1], dtype=merged.dtype, device=merged.device)
        wanted = adapted_output(trial, layout, sample, parts)
        trial.weight = nn.Parameter(merged, requires_grad=False)
        limit = max(1e-4, 4 * torch.finfo(merged.dtype).eps)
        if float((trial(sample) - wanted).norm()) > limit * float(wanted.norm()):
            raise SinefieldError(
                f"a {type(layer).__name__} does more with its weight than multiply by it, so that the merged layer "
                "would differ from the adapted one; run it unmerged"
            )
    return merged
