"""Adapters on a whole model: chosen by name, trained alone, merged and taken off again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn

from sinefield.adapters.deltas import Adapter, AdapterSpec
from sinefield.adapters.layers import Adapted
from sinefield.adapters.layouts import supports
from sinefield.errors import SinefieldError
from sinefield.strict import nearest


@dataclass
class Attached:
    """What `attach` did.

    Attributes:
        name: of the adapter.
        targets: names of the layers it is on.
        passed_over: modules that a pattern matched but that cannot be adapted, with their type; also single
            parameters of matrices' shape (the `in_proj_weight` of attention, the experts of a mixture) with their
            module's.
        trainable, total: numbers that train, and all of the model's.
    """

    name: str
    targets: list[str]
    trainable: int
    total: int
    passed_over: dict[str, str] = field(default_factory=dict)

    @property
    def share(self) -> float:
        return self.trainable / self.total

    def __str__(self) -> str:
        return (
            f"adapter {self.name} on {len(self.targets)} layers; {self.trainable:,} of {self.total:,} numbers train "
            f"({100 * self.share:.3g} %)"
        )


def attach(
    model: nn.Module,
    targets: str | Sequence[str],
    spec: AdapterSpec | None = None,
    name: str = "default",
    exclude: Sequence[str] = (),
    bf16_gradient: bool = False,
) -> Attached:
    """Put an adapter on every layer of `model` that a pattern chooses, and make it all that trains.

    The model's layers are replaced by `Adapted` ones in place; what it computes does not change yet. Names are those
    of the model itself, whatever wraps it (torch.compile, DistributedDataParallel).

    Arguments:
        targets: patterns with * and ?; each is held against a layer's whole dotted name and against its ends, so that
            "q_proj" and "attn.*" find such layers anywhere, and "*" takes every linear layer and convolution.
        exclude: patterns of layers to leave alone.
        bf16_gradient: see `Adapted`.

    Raises:
        SinefieldError: a pattern matches no layer that can be adapted, or the name or the rank does not fit.
    """
    spec = spec or AdapterSpec()
    patterns = [targets] if isinstance(targets, str) else list(targets)
    chosen, passed_over = _match(model, patterns, list(exclude))
    attach_each(model, dict.fromkeys(chosen, spec), name, bf16_gradient)
    train_only(model, [name])
    trainable, total = count(model)
    return Attached(name, chosen, trainable, total, passed_over)


def attach_each(model: nn.Module, specs: dict[str, AdapterSpec], name: str, bf16_gradient: bool = False) -> None:
    """Put an adapter on layers by their exact names, each with its spec, and make it the active one.

    Nothing is changed where one does not fit. What trains besides the new adapter stays as it was.
    """
    layers = layers_by_name(model)
    wrapped: dict[int, Adapted] = {}
    made: dict[int, Adapter] = {}
    for target, spec in specs.items():
        layer = layers[target]
        if id(layer) not in wrapped:
            adapted = layer if isinstance(layer, Adapted) else Adapted(layer, bf16_gradient)
            try:
                made[id(layer)] = adapted.make(name, spec)
            except SinefieldError as error:
                raise SinefieldError(f"{target}: {error}") from error
            wrapped[id(layer)] = adapted
    for key, adapter in made.items():
        wrapped[key].adapters[name] = adapter
    _replace(model, wrapped)
    set_active(model, [name])


def adapted_layers(model: nn.Module) -> dict[str, Adapted]:
    """The adapted layers by their names; one that the model holds at several places comes once, under the first."""
    adapted = {target: layer for target, layer in layers_by_name(model).items() if isinstance(layer, Adapted)}
    first: dict[int, str] = {}
    for target, layer in adapted.items():
        first.setdefault(id(layer), target)
    return {target: layer for target, layer in adapted.items() if first[id(layer)] == target}


def set_active(model: nn.Module, names: Sequence[str]) -> None:
    """Make these adapters the active ones, [] for the base model.

    Raises:
        SinefieldError: the model has none of that name, adapters are merged, or DoRA would not be alone on a layer.
    """
    layers = adapted_layers(model).values()
    known = sorted({name for layer in layers for name in layer.adapters})
    for name in names:
        _require(name, known)
    before = [layer.active for layer in layers]
    try:
        for layer in layers:
            layer.activate(names)
    except SinefieldError:
        for layer, active in zip(layers, before, strict=True):
            layer.active = active
        raise


def train_only(model: nn.Module, names: Sequence[str]) -> list[nn.Parameter]:
    """Freeze the model but for these adapters; returns what trains, for the optimiser."""
    model.requires_grad_(False)
    trained = []
    for layer in adapted_layers(model).values():
        for name, adapter in layer.adapters.items():
            if name in names:
                trained += list(adapter.requires_grad_(True).parameters())
    return trained


def count(model: nn.Module) -> tuple[int, int]:
    """Numbers that train, and all."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)


def merge(model: nn.Module) -> None:
    """Put the active adapters into the weights: the speed of the base model. `unmerge` gives the bits back.

    Raises:
        SinefieldError: a layer takes no other weight (quantised, offloaded, computed from others, or used otherwise
            than to multiply by); the model is then as it was.
    """
    done: list[Adapted] = []
    for target, layer in adapted_layers(model).items():
        try:
            if not layer.merged:
                layer.merge()
                done.append(layer)
        except SinefieldError as error:
            for merged in done:
                merged.unmerge()
            raise SinefieldError(f"{target}: {error}") from error


def unmerge(model: nn.Module) -> None:
    """Undo `merge`."""
    for layer in adapted_layers(model).values():
        layer.unmerge()


def detach(model: nn.Module) -> None:
    """Take the adapters off and put the layers back: with merged weights after `merge`, else the base's own."""
    _replace(model, {id(layer): layer.base for layer in adapted_layers(model).values()})


def remove(model: nn.Module, name: str) -> None:
    """Delete one adapter; layers left with none become plain again.

    Raises:
        SinefieldError: there is none of that name, or adapters are merged.
    """
    layers = {t: layer for t, layer in adapted_layers(model).items() if name in layer.adapters}
    if not layers:
        _require(name, sorted({n for layer in adapted_layers(model).values() for n in layer.adapters}))
    for layer in layers.values():
        layer.activate([n for n in layer.active if n != name])  # refuses while merged, and merging is of all layers
    for layer in layers.values():
        del layer.adapters[name]
    _replace(model, {id(layer): layer.base for layer in layers.values() if not layer.adapters})


def _require(name: str, known: list[str]) -> None:
    if name not in known:
        raise SinefieldError(f"no adapter named {name}; " + (nearest(name, known) if known else "the model has none"))


def layers_by_name(model: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """All modules by dotted name, each as often as it occurs; what is within an adapted layer is not shown.

    Wrappers have no name: a model that is compiled, or trained on several devices, has the names it has without.
    """
    found: dict[str, nn.Module] = {}
    model = _unwrapped(model)
    for name, given in model._modules.items():
        if given is not None:
            child = _unwrapped(given)
            found[prefix + name] = child
            if not isinstance(child, Adapted):
                found |= layers_by_name(child, f"{prefix}{name}.")
    return found


_WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
}
"""Torch's classes that hold a model and compute what it does, and under which name they hold it."""


def unwrapped_name(name: str) -> str:
    """A layer's name without what wrappers that hold it add, where that is no name that a model would give."""
    return ".".join(part for part in name.split(".") if part == "module" or part not in _WRAPPERS.values())


def _unwrapped(module: nn.Module) -> nn.Module:
    while (name := _WRAPPERS.get(type(module).__name__)) in module._modules and type(module).__module__.startswith(
        "torch."
    ):
        module = module.get_submodule(str(name))
    return module


def _match(model: nn.Module, patterns: list[str], exclude: list[str]) -> tuple[list[str], dict[str, str]]:
    """Names of the layers that can be adapted and are chosen; and of matched modules without children that cannot."""
    chosen: dict[str, None] = {}
    passed_over = {}
    layers = list(layers_by_name(model).items())
    for pattern in patterns:
        found = [(n, m) for n, m in layers if _fits(n, pattern) and not any(_fits(n, e) for e in exclude)]
        able = [n for n, m in found if isinstance(m, Adapted) or supports(m)]
        unable = {n: type(m).__name__ for n, m in found if n not in able and not m._modules}
        for n, m in layers:
            whole = n in dict(found) and bool(m._modules)  # a matched module that is no leaf: its own matrices
            for part, parameter in () if n in unable or n in able else m._parameters.items():
                if parameter is not None and parameter.dim() > 1 and (whole or _fits(f"{n}.{part}", pattern)):
                    unable[f"{n}.{part}"] = type(m).__name__
        if not able:
            ends = sorted({n.rpartition(".")[2] for n, m in layers if isinstance(m, Adapted) or supports(m)})
            why = f"only {', '.join(sorted(set(unable.values())))}" if unable else "no layer"
            raise SinefieldError(
                f"{pattern!r} matches {why}; layers that can be adapted end in: {', '.join(ends[:20]) or 'nothing'}"
            )
        chosen |= dict.fromkeys(able)
        passed_over |= unable
    return list(chosen), passed_over


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def _replace(model: nn.Module, new: Mapping[int, nn.Module]) -> None:
    """Put `new` in place of the modules with these ids, wherever they occur."""
    for module in list(model.modules()):
        if isinstance(module, Adapted):
            continue
        for name, child in module._modules.items():
            if child is None:
                continue
            # A single layer that is compiled calls what it was made of: then the wrapper goes too.
            inner = child if id(child) in new else _unwrapped(child)
            if id(inner) in new:
                module._modules[name] = new[id(inner)]
