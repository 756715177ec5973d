"""One layer and the small trained deltas on its frozen weight."""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from sinefield.adapters.bases import adapted_output, check, device_of, effective_weight, held, merged_weight, readable
from sinefield.adapters.deltas import Adapter, AdapterSpec
from sinefield.adapters.layouts import Layout, layout_of
from sinefield.errors import SinefieldError

_OF_BASE = ("weight", "bias")


class Adapted(nn.Module):
    """A layer and the deltas on it, by name. Active ones add up; DoRA's can only be active alone.

    `weight` is the effective weight in the base's own shape, so that code which reads it in place of calling the layer
    (attention does) sees the adapter too. Setting `weight` or `bias` sets the base's, as tying weights does. Other
    attributes are those of the base, whose own forward is kept, see `bases`.

    Args:
        base: `nn.Linear`, `nn.Conv2d`, Hugging Face's `Conv1D`, or a subclass.
        bf16_gradient: round inputs and output gradients to bf16 for the gradient of the factors; the rest stays as it
            is. On a processor with bf16 products that makes a float32 step about a sixth shorter.

    Raises:
        SinefieldError: any other layer.
    """

    base: Any

    def __init__(self, base: nn.Module, bf16_gradient: bool = False) -> None:
        super().__init__()
        self.layout: Layout = layout_of(base)
        self.base = base
        self.adapters = nn.ModuleDict()
        self.active: tuple[str, ...] = ()
        self.bf16_gradient = bf16_gradient
        # In a tuple: nn.Module would make a parameter of it, which is trained, counted and saved.
        self._kept: tuple[nn.Parameter, ...] = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base" or name.startswith("_"):
                raise
            return getattr(self.base, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _OF_BASE:
            super().__setattr__(name, value)
            return
        old = getattr(self.base, name, None)
        if self.merged or (isinstance(old, Tensor) and isinstance(value, Tensor) and old.shape != value.shape):
            why = "adapters are merged into it" if self.merged else "an adapter on it has the old size"
            raise SinefieldError(f"the {name} of an adapted layer cannot be replaced: {why}; detach first, then attach")
        setattr(self.base, name, value)

    @property
    def merged(self) -> bool:
        return bool(self._kept)

    @property
    def weight(self) -> Tensor:
        chosen = self._chosen()
        if self.merged or not chosen:
            return self.base.weight
        return effective_weight(self.base, self.layout, chosen)

    def _chosen(self) -> list[Adapter]:
        """The active adapters.

        Raises:
            SinefieldError: the base has another size than it had, as a head has whose embeddings were resized.
        """
        chosen = [self.adapter(name) for name in self.active]
        if chosen and held(self.base):
            rows, columns = self.layout.matrix(self.base.weight).shape
            if (rows, columns) != (len(chosen[0].b), chosen[0].a.shape[1]):
                raise SinefieldError(
                    f"the base's weight is {rows}×{columns} now, the adapter on it is for "
                    f"{len(chosen[0].b)}×{chosen[0].a.shape[1]}; resize the model first, then attach"
                )
        return chosen

    def adapter(self, name: str) -> Adapter:
        """The adapter of that name; raises KeyError where there is none."""
        return cast(Adapter, self.adapters[name])

    def make(self, name: str, spec: AdapterSpec) -> Adapter:
        """A new adapter that leaves the layer as it is, for `adapters[name]`; not put there yet.

        Raises:
            SinefieldError: the name is taken or no identifier, the rank does not fit, the adapters are merged, or the
                base cannot be adapted so; see `bases.check`.
        """
        if not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise SinefieldError(f"{name!r} cannot name an adapter; use letters, digits and _")
        if name in self.adapters:
            raise SinefieldError(f"there is an adapter named {name} already; choose another name")
        if self.merged:
            raise SinefieldError("adapters are merged into the weight; unmerge them first")
        check(self.base, self.layout, spec.dora)
        device = device_of(self.base)
        if readable(self.base):
            return Adapter(spec, self.layout.matrix(self.base.weight), device)
        return Adapter(spec, torch.empty(self.layout.size(self.base), device="meta"), device)

    def activate(self, names: Iterable[str]) -> None:
        """Make these adapters the active ones; those a layer does not have are passed over.

        Raises:
            SinefieldError: adapters are merged, or DoRA would be active beside another.
        """
        if self.merged:
            raise SinefieldError("adapters are merged into the weight; unmerge them first")
        active = tuple(name for name in names if name in self.adapters)
        if len(active) > 1 and any(self.adapter(name).spec.dora for name in active):
            raise SinefieldError(
                f"DoRA sets the lengths of rows, so it is active alone; not {', '.join(active)} at once"
            )
        self.active = active

    def merge(self) -> None:
        """Put the effective weight in place of the base's, which is kept for `unmerge`.

        Raises:
            SinefieldError: this base takes no other weight; see `bases.merged_weight`.
        """
        if not self.merged and self.active:
            merged = merged_weight(self.base, self.layout, self._chosen())
            # A new parameter, not a change in place: a tied weight elsewhere must not change along.
            self._kept, self.base.weight = (self.base.weight,), nn.Parameter(merged, requires_grad=False)

    def unmerge(self) -> None:
        """Put the base's own weight back, to the bit."""
        if self.merged:
            (self.base.weight,), self._kept = self._kept, ()

    def _apply(self, fn, recurse=True):
        # The kept weight is nobody's parameter, yet must move along.
        self._kept = tuple(nn.Parameter(fn(kept.data), requires_grad=kept.requires_grad) for kept in self._kept)
        return super()._apply(fn, recurse)

    def forward(self, x: Tensor) -> Tensor:
        chosen = self._chosen()
        if self.merged or not chosen:
            return self.base(x)
        return adapted_output(self.base, self.layout, x, chosen, self.bf16_gradient)
