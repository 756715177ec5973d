"""Small trained deltas on the frozen weights of any torch model; docs/adapters.md shows how they are used."""

from sinefield.adapters.attach import (
    Attached,
    adapted_layers,
    attach,
    count,
    detach,
    merge,
    remove,
    set_active,
    train_only,
    unmerge,
)
from sinefield.adapters.deltas import Adapter, AdapterSpec
from sinefield.adapters.file import load_adapter, restore, save_adapter
from sinefield.adapters.layers import Adapted

__all__ = [
    "Adapted",
    "Adapter",
    "AdapterSpec",
    "Attached",
    "adapted_layers",
    "attach",
    "count",
    "detach",
    "load_adapter",
    "merge",
    "remove",
    "restore",
    "save_adapter",
    "set_active",
    "train_only",
    "unmerge",
]
