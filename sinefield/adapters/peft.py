"""Sine adapters through Hugging Face PEFT: `SineLoraConfig` in place of `LoraConfig`.

Importing this makes `PeftModel.from_pretrained` know the saved configurations. PEFT's own files, names of tensors, and
merging are used; what changes is the delta. docs/adapters.md says what PEFT leaves no room for.
"""

from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from sinefield.adapters.bases import adapted_output, merged_weight, plain, readable
from sinefield.adapters.deltas import AdapterSpec, Part, delta
from sinefield.adapters.layouts import layout_of
from sinefield.errors import SinefieldError

try:
    from peft import LoraConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.tuners import lora
    from peft.utils.hotswap import CONFIG_KEYS_TO_CHECK
    from peft.utils.peft_types import PeftType
    from transformers.pytorch_utils import Conv1D
except ImportError as _error:
    raise SinefieldError(f"PEFT is not installed ({_error}); pip install 'sinefield[adapters]'") from _error

NAME = "SINELORA"
"""What a saved configuration calls itself. PEFT alone does not know it and refuses, rather than load plain LoRA."""


@dataclass
class SineLoraConfig(LoraConfig):
    """`LoraConfig` with ΔW = (α/r)·sin(ω·B A)/√in; r, lora_alpha, target_modules and the rest mean what they did.

    Raises:
        SinefieldError: an option that the sine cannot honour.
    """

    omega: float = field(default=50.0, metadata={"help": "ω of sin(ω·B A)"})

    def __post_init__(self) -> None:
        super().__post_init__()
        AdapterSpec("sine", self.r, self.lora_alpha, self.omega)  # its checks
        usually = {"use_dora": False, "lora_dropout": 0.0, "lora_bias": False, "target_parameters": None}
        for name, usual in usually.items():
            if getattr(self, name, usual) not in (usual, []):
                raise SinefieldError(f"SineLoraConfig takes no {name}; leave it at {usual} or use sinefield.adapters")
        if self.init_lora_weights not in (True, False):
            raise SinefieldError(f"SineLoraConfig: init_lora_weights is {self.init_lora_weights!r}; True or False")
        layers: Any = {nn.Linear: SineLinear, Conv1D: SineLinear, nn.Conv2d: SineConv2d, nn.Module: _refuse}
        self._register_custom_module(layers)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "peft_type": NAME}


def _refuse(target: nn.Module, *_: Any, **__: Any) -> nn.Module:
    """For any other layer: PEFT's own would be plain LoRA, saved under the sine's name."""
    kind = type(getattr(target, "base_layer", target)).__name__
    raise SinefieldError(f"a {kind} takes no sine adapter; leave it out of target_modules, or use LoraConfig")


if TYPE_CHECKING:
    _Layer = lora.Linear  # either of the two that it is mixed into
else:
    _Layer = object


class _Sine(_Layer):
    """What both layers share: the delta, and a forward pass with it folded into the weight."""

    omega: dict[str, float]
    lora_variants: Any = {(): None}  # noqa: RUF012  (PEFT reads it as a property; any variant asked for is an error there)

    def __init__(self, base_layer: nn.Module, adapter_name: str, *, config: SineLoraConfig, **kwargs) -> None:
        layer: Any = getattr(base_layer, "base_layer", base_layer)
        if not readable(layer) or getattr(layer, "groups", 1) > 1:
            raise SinefieldError(
                f"{type(layer).__name__} with quantised or offloaded weights or groups takes no sine adapter in PEFT"
            )
        object.__setattr__(
            self, "omega", {}
        )  # before nn.Module's own initialisation, within which the first adapter comes
        super().__init__(base_layer, adapter_name, config=config, **kwargs)

    def update_layer(self, adapter_name: str, r: int, lora_alpha: int, config: SineLoraConfig, **kwargs) -> None:
        if not isinstance(config, SineLoraConfig):
            raise SinefieldError(f"adapter {adapter_name} is no SineLoraConfig; mix them in models of their own")
        self.omega[adapter_name] = config.omega
        config.fan_in_fan_out = isinstance(self.get_base_layer(), Conv1D)  # as PEFT notes how a matrix is held
        super().update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config, **kwargs)

    def _part(self, adapter: str) -> Part:
        factors: Any = self.lora_A, self.lora_B
        a, b = (factor[adapter].weight.flatten(1) for factor in factors)
        a, b = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (a, b))
        scale = self.scaling[adapter]
        if scale < 0:  # PEFT's scale_layer takes an adapter away, too; the sine is odd
            scale, b = -scale, -b
        return Part(AdapterSpec("sine", len(a), scale * len(a), self.omega[adapter]), a, b)

    def _parts(self) -> list[Part]:
        """Of the active adapters; those that are scaled to nothing are none."""
        active = [name for name in self.active_adapters if name in self.lora_A]
        return [self._part(name) for name in active if self.scaling[name] != 0]

    def get_delta_weight(self, adapter: str) -> Tensor:
        """What PEFT adds to the weight in merging and takes off in unmerging."""
        layer = cast(Any, self.get_base_layer())
        if self.scaling[adapter] == 0:
            return torch.zeros_like(layer.weight)
        part = self._part(adapter)
        return layout_of(layer).shaped(delta(part.spec, part.a, part.b), layer.weight)

    def merge(self, *args: Any, **kwargs: Any) -> None:
        """PEFT's own, where merging into this base gives what the adapted layer gives.

        Raises:
            SinefieldError: it does not; see `bases.merged_weight`.
        """
        layer: Any = self.get_base_layer()
        parts = self._parts()
        if parts and not plain(layer):
            merged_weight(layer, layout_of(layer), parts)
        super().merge(*args, **kwargs)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if kwargs.get("adapter_names") is not None:
            raise SinefieldError("sine adapters cannot be mixed within a batch (adapter_names); run them one by one")
        if self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        parts, layer = self._parts(), cast(Any, self.get_base_layer())
        if not parts:
            return layer(x, *args, **kwargs)
        return adapted_output(layer, layout_of(layer), x, parts)


class SineLinear(_Sine, lora.Linear):
    """PEFT's layer for `nn.Linear` and `Conv1D`."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, *, config: SineLoraConfig, **kwargs) -> None:
        transposed = isinstance(getattr(base_layer, "base_layer", base_layer), Conv1D)
        kwargs["is_target_conv_1d_layer"] = transposed
        super().__init__(base_layer, adapter_name, config=config, **kwargs)
        self.fan_in_fan_out = transposed


class SineConv2d(_Sine, lora.Conv2d):
    """PEFT's layer for `nn.Conv2d`."""


PEFT_TYPE_TO_CONFIG_MAPPING[cast(Any, NAME)] = SineLoraConfig
CONFIG_KEYS_TO_CHECK[PeftType.LORA].append("omega")  # of swapping factors under a model: ω stays what it was

_weighted = lora.LoraModel.add_weighted_adapter


@wraps(_weighted)
def _add_weighted_adapter(self: Any, adapters: list[str], *args: Any, **kwargs: Any) -> None:
    """PEFT's own, which adds factors: right for plain LoRA alone."""
    if any(isinstance(self.peft_config.get(name), SineLoraConfig) for name in adapters):
        raise SinefieldError(
            "sine adapters cannot be added into one: a sum of sines is no sine of a sum; "
            "model.base_model.set_adapter([…]) has several at once"
        )
    _weighted(self, adapters, *args, **kwargs)


lora.LoraModel.add_weighted_adapter = _add_weighted_adapter
