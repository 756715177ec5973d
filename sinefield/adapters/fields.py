"""Adapters on a field's own networks, whatever its weights are stored as.

A field's layers are weights that hand out a matrix, not `nn.Linear`; so the delta goes on that matrix, and on the bias
as one more column: [W | b] + ΔW, ΔW (out, in + 1). Nothing else about a field changes: trainer, grid and packing see a
network whose only parameters are the factors.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sinefield.adapters.deltas import Adapter, AdapterSpec, delta
from sinefield.errors import SinefieldError
from sinefield.nn.mlp import MLP
from sinefield.nn.weights import Dense, Weight


class AdaptedWeight(Weight):
    """A layer's frozen matrix and bias with a trained delta on both.

    Args:
        matrix: (out, in) as the base's weight hands it out.
        bias: (out,).
        spec: of the delta; its rank is lowered where the layer is smaller.

    Raises:
        SinefieldError: a kind with DoRA, whose lengths would mix a row's matrix and bias.
    """

    whole: Tensor

    def __init__(self, matrix: Float[Tensor, "out in"], bias: Float[Tensor, "out"], spec: AdapterSpec) -> None:
        super().__init__(*matrix.shape)
        if spec.dora:
            raise SinefieldError(f"a field takes no {spec.kind} adapter; sine or lora")
        whole = torch.cat([matrix, bias[:, None]], dim=1).detach().clone()
        self.spec = replace(spec, rank=min(spec.rank, *whole.shape))
        self.register_buffer("whole", whole)
        made = Adapter(self.spec, whole)
        self.a, self.b = made.a, made.b

    def matrix(self) -> Tensor:
        return self.whole[:, :-1] + delta(self.spec, self.a, self.b)[:, :-1]

    def bias(self) -> Float[Tensor, "out"]:
        """The bias with its column of the delta."""
        product = self.b @ self.a[:, -1]
        moved = product if self.spec.omega is None else torch.sin(self.spec.omega * product)
        return self.whole[:, -1] + self.spec.scale(self.a.shape[1]) * moved


class AdaptedBiases(nn.Module):
    """What stands in for a network's list of biases: adapted ones from their layers, the others as they were."""

    def __init__(self, biases: Sequence[Tensor], layers: Sequence[Weight]) -> None:
        super().__init__()
        self.count = len(biases)
        for i, (bias, layer) in enumerate(zip(biases, layers, strict=True)):
            if not isinstance(layer, AdaptedWeight):
                self.register_buffer(f"bias_{i}", bias.detach().clone())
        self._layers = list(layers)  # a plain list: their parameters belong to the network's weights alone

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Tensor:
        layer = self._layers[i]
        return layer.bias() if isinstance(layer, AdaptedWeight) else getattr(self, f"bias_{i}")

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(self.count))


class _Frozen(Weight):
    """A matrix that does not train, of a layer that is not adapted."""

    whole: Tensor

    def __init__(self, matrix: Float[Tensor, "out in"]) -> None:
        super().__init__(*matrix.shape)
        self.register_buffer("whole", matrix.detach().clone())

    def matrix(self) -> Tensor:
        return self.whole


def fingerprint(field: nn.Module) -> int:
    """CRC-32 of a field's kind and of its parameters' names, shapes and float32 values: what an edit is an edit of."""
    found = zlib.crc32(cast("str", field.kind).encode())
    for name, parameter in field.named_parameters():
        values = parameter.detach().cpu().float().contiguous()
        found = zlib.crc32(f"{name}{tuple(values.shape)}".encode(), found)
        found = zlib.crc32(values.numpy().astype("<f4").tobytes(), found)
    return found


def field_layers(field: nn.Module) -> dict[str, tuple[MLP, int]]:
    """Every layer of a field's networks by its weight's dotted name: the network and the layer's number."""
    return {
        f"{name}.weights.{i}": (network, i)
        for name, network in field.named_modules()
        if isinstance(network, MLP)
        for i in range(len(network.weights))
    }


def choose_layers(field: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Names of the layers that patterns with * and ? choose, by a whole name or its ends.

    Raises:
        SinefieldError: a pattern chooses none.
    """
    kept = getattr(field, "not_edited", ())
    names = [name for name in field_layers(field) if not name.startswith(kept)]
    chosen: dict[str, None] = {}
    for pattern in patterns:
        found = [n for n in names if fnmatchcase(n, pattern) or fnmatchcase(n, f"*.{pattern}")]
        if not found:
            raise SinefieldError(f"{pattern!r} matches no layer of the field; it has {', '.join(names)}")
        chosen |= dict.fromkeys(found)
    return [name for name in names if name in chosen]


def adapt_field(field: nn.Module, specs: dict[str, AdapterSpec]) -> None:
    """Put a new adapter on the named layers, in place; the factors are all that the field's networks train.

    What the field computes does not change. Its parameters are NAME.a and NAME.b from now on.
    """
    layers = field_layers(field)
    field.requires_grad_(False)
    for network in {id(network): network for network, _ in layers.values()}.values():
        matrices, biases = _numbers(network)
        made: list[Weight] = [_Frozen(matrix) for matrix in matrices]
        for name, (owner, i) in layers.items():
            if owner is network and name in specs:
                made[i] = AdaptedWeight(matrices[i], biases[i], specs[name])
        network.weights = nn.ModuleList(made)
        del network.biases
        network.biases = cast("nn.ParameterList", AdaptedBiases(biases, made))  # read as one, and no more
    for module in field.modules():  # what is left, a hash grid's table, is nobody's to train or to round
        own = {} if isinstance(module, AdaptedWeight) else module._parameters
        held = {name: parameter for name, parameter in own.items() if parameter is not None}
        for name, parameter in held.items():
            del module._parameters[name]
            module.register_buffer(name, parameter.detach())
        module.__dict__["_held"] = list(held)


@torch.no_grad()
def _numbers(network: MLP) -> tuple[list[Tensor], list[Tensor]]:
    """The matrices and biases of a network."""
    return [cast("Weight", weight).matrix() for weight in network.weights], list(network.biases)


def adapted_weights(field: nn.Module) -> dict[str, AdaptedWeight]:
    """The adapted layers by name."""
    layers = {name: network.weights[i] for name, (network, i) in field_layers(field).items()}
    return {name: layer for name, layer in layers.items() if isinstance(layer, AdaptedWeight)}


def settle(field: nn.Module) -> None:
    """Turn a field that `adapt_field` changed into a plain one with dense weights, in place: the same values."""
    for network, _ in {id(network): (network, i) for network, i in field_layers(field).values()}.values():
        matrices, biases = _numbers(network)
        dense = []
        for matrix in matrices:
            weight = Dense(*matrix.shape)
            weight.weight = nn.Parameter(matrix.clone(), requires_grad=False)
            dense.append(weight)
        network.weights = nn.ModuleList(dense)
        del network.biases
        network.biases = nn.ParameterList(nn.Parameter(b.clone(), requires_grad=False) for b in biases)
    for module in field.modules():
        for name in module.__dict__.pop("_held", []):
            values = module.get_buffer(name)
            del module._buffers[name]
            module.register_parameter(name, nn.Parameter(values, requires_grad=False))
