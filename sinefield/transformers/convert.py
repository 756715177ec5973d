"""Other people's transformers with this package's parts: powers in softmax's place, token graying, sine low rank.

`convert` changes a model in place: Hugging Face's whose attention is scores, a mask and softmax (ViT, Swin, BERT,
Llama, GPT-2, Whisper, …), and blocks that are built like timm's. docs/attention.md shows it.
"""

import copy
import inspect
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sinefield.errors import SinefieldError
from sinefield.nn.weights import LowRank, SineLowRank, Weight, WeightSpec
from sinefield.tables import table
from sinefield.transformers.attention import POWERS
from sinefield.transformers.foreign import PackedAttention, dispatches, is_packed, use_ours, variant_of
from sinefield.transformers.graying import DCTGraying, SVDGraying

GRAYINGS = {"dct": DCTGraying, "svd": SVDGraying}
PLACES = "input", "attention"
KNOWN = "Hugging Face's ViT, DeiT and Swin, others with plain attention, and blocks like timm's are"


@dataclass
class Change:
    """One layer that `convert` changed.

    Attributes:
        layer: dotted name.
        part: "attention", "graying", "feed-forward" or "linear".
        before, after: what it was and is.
        numbers_before, numbers_after: its parameters.
        error: ‖W − new W‖/‖W‖ of a factored weight that was kept, else None.
        clipped: share of that weight's entries beyond the sine's reach.
    """

    layer: str
    part: str
    before: str
    after: str
    numbers_before: int
    numbers_after: int
    error: float | None = None
    clipped: float | None = None


@dataclass
class Converted:
    """What `convert` did; as text a table.

    Attributes:
        changes: one a layer and part.
        numbers_before, numbers_after: parameters of the whole model.
    """

    numbers_before: int
    numbers_after: int
    changes: list[Change] = field(default_factory=list)

    def count(self, part: str) -> int:
        """Layers of which this part was changed."""
        return sum(change.part == part for change in self.changes)

    def __str__(self) -> str:
        rows = [asdict(change) for change in self.changes]
        columns = [c for c in rows[0] if any(row[c] is not None for row in rows)]
        return f"{table(columns, rows)}\n\n{self.numbers_before:,} → {self.numbers_after:,} numbers in all"


class FactoredLinear(nn.Module):
    """A linear layer over any weight: x (…, in) → (…, out). Parameters are `weight.u`, `weight.v` and `bias`."""

    bias: nn.Parameter | None

    def __init__(self, weight: Weight, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight = weight
        self.register_parameter("bias", bias)

    def forward(self, x: Float[Tensor, "*b in"]) -> Float[Tensor, "*b out"]:
        return F.linear(x, self.weight(), self.bias)


def convert(
    model: nn.Module,
    attention: str | int | None = None,
    graying: str | nn.Module | None = None,
    feedforward: str | WeightSpec | None = None,
    divisor: float | None = None,
    keep: bool = True,
    graying_at: str = "input",
    linears: str | WeightSpec | None = None,
) -> Converted:
    """Change a transformer's parts in place; what is None stays as it is.

    Names and shapes in the state dict stay the same but for layers that are factored, whose `weight` becomes
    `weight.u` and `weight.v`. A saved one loads into another model converted with the same arguments.

    Arguments:
        attention: "softmax", or the power 1, 2 or 3 of x^p/√N.
        graying: "dct", "svd", or a module such as `DCTGraying(0.9)`; one that was put there before makes room. ε = 1
            changes nothing but rounding.
        feedforward: "sine" (rank 8), or a `WeightSpec` of kind "sine" or "lowrank", for both linear layers of each MLP.
        divisor: fixed number in √N's place, see `nn.attention`.
        keep: start factored weights from the model's: the truncated SVD of arcsin(gW)/ω, with gW clipped to ±1
            (of W itself for "lowrank"), and its biases. Else they start anew.
        graying_at: "input", once, of the tokens that enter the first block of each stack of blocks (the paper's token
            graying is of the input tokens); or "attention", of those that enter each attention, after the norm before
            it: the cost is then that of graying times the number of layers. In Swin each window is then grayed by
            itself.
        linears: as `feedforward`, for every linear layer of the blocks: attention's projections and the MLPs.

    Raises:
        SinefieldError: nothing to do, no part of the wanted kind in a structure that is known, graying where tokens
            must not see each other, a layer to factor that is no plain linear one, or settings that do not fit. The
            model is then as it was.
    """
    power = _power(attention)
    if divisor is not None and power is None:
        raise SinefieldError("a divisor needs attention=1, 2 or 3; softmax has none")
    if divisor is not None and not 0 < divisor < math.inf:
        raise SinefieldError(f"a divisor of attention is positive, got {divisor}")
    gray = _graying(graying)
    if graying_at not in PLACES:
        raise SinefieldError(f"no place {graying_at!r} to gray at; one of {', '.join(PLACES)}")
    if feedforward is not None and linears is not None:
        raise SinefieldError("feedforward is within linears; give one of them")
    spec = _spec(feedforward, "feedforward") if linears is None else _spec(linears, "linears")
    if attention is None and gray is None and spec is None:
        raise SinefieldError("nothing to convert; give attention, graying, feedforward or linears")
    attentions = _attentions(model) if attention is not None or gray is not None or linears is not None else {}
    if gray is not None:
        _refuse_causal(model, attentions)
    layers = {} if spec is None else _layers(model) if linears is None else _inner_layers(model, attentions)
    part = "feed-forward" if linears is None else "linear"
    made = {} if spec is None else {name: _factored(name, layer, spec, keep, part) for name, layer in layers.items()}

    report = Converted(_count(model), 0)
    grayed = {
        name: m.get_submodule("gray")
        for name, m in model.named_modules()
        if _gray_first in m._forward_pre_hooks.values()
    }
    for name, module in attentions.items():
        if attention is not None:
            after = "softmax" if power is None else f"x^{power}/" + ("√N" if divisor is None else f"{divisor:g}")
            report.changes.append(Change(name, "attention", _was(module), after, *[_count(module)] * 2))
            if dispatches(module):
                use_ours(module, power, divisor)
            else:
                new = PackedAttention(module, power, divisor)
                _put(model, module, new)
                if name in grayed:
                    _put_gray(new, grayed[name])
    if gray is not None:
        for name in grayed:
            _take_gray(model.get_submodule(name))
        for name in list(attentions) if graying_at == "attention" else _first_blocks(attentions):
            module = model.get_submodule(name)
            before = repr(grayed[name]) if name in grayed else "none"
            _put_gray(module, copy.deepcopy(gray))
            report.changes.append(Change(name, "graying", before, repr(gray), *[_count(module)] * 2))
    for name, (new, change) in made.items():
        _put(model, layers[name], new)
        report.changes.append(change)
    report.numbers_after = _count(model)
    return report


def _power(attention: str | int | None) -> int | None:
    if attention in (None, "softmax"):
        return None
    if isinstance(attention, bool) or attention not in POWERS:
        raise SinefieldError(f"no attention {attention!r}; softmax, or a power: {', '.join(map(str, POWERS))}")
    return attention


def _graying(graying: str | nn.Module | None) -> nn.Module | None:
    if graying is None or isinstance(graying, nn.Module):
        return graying
    if graying not in GRAYINGS:
        raise SinefieldError(f"no graying {graying!r}; one of {', '.join(GRAYINGS)}, or a module")
    return GRAYINGS[graying]()


def _spec(given: str | WeightSpec | None, part: str) -> WeightSpec | None:
    spec = WeightSpec(given) if isinstance(given, str) else given
    if spec is not None and spec.kind not in ("sine", "lowrank"):
        raise SinefieldError(f"no {part} {spec.kind!r}; sine or lowrank")
    return spec


def _attentions(model: nn.Module) -> dict[str, nn.Module]:
    found = {name: m for name, m in model.named_modules() if name and (dispatches(m) or is_packed(m))}
    if not found:
        raise SinefieldError(f"{type(model).__name__} has no attention of a structure that is known; {KNOWN}")
    for name, module in found.items():
        if dispatches(module) and (variant := variant_of(module)) is not None:
            raise SinefieldError(
                f"{name}: {type(module).__name__} has {variant}, which converted attention has not; {KNOWN} known"
            )
    return found


def _refuse_causal(model: nn.Module, attentions: dict[str, nn.Module]) -> None:
    """Graying mixes all tokens with each other: where a token must not see later ones, it would."""
    for name, module in attentions.items():
        parts = name.split(".")
        around = [model, *(model.get_submodule(".".join(parts[: i + 1])) for i in range(len(parts)))]
        masks = [m for m in around if "create_causal_mask" in _source(m) and not _may_be_either(m)]
        if getattr(module, "is_causal", False) or masks:
            raise SinefieldError(
                f"{name} is causal, and graying would show each token those that come later; gray a model, or the "
                "part of one, in which all tokens see each other"
            )


def _source(module: nn.Module) -> str:
    try:
        return inspect.getsource(type(module).forward)
    except (OSError, TypeError):
        return ""


def _may_be_either(module: nn.Module) -> bool:
    """BERT's kind makes a causal mask only as a decoder; then its attentions say that they are causal."""
    return "create_bidirectional_mask" in _source(module)


def _layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of all MLPs: those called fc1 and fc2 on one module."""
    found = {}
    for name, module in model.named_modules():
        pair = [getattr(module, part, None) for part in ("fc1", "fc2")]
        if all(isinstance(layer, nn.Linear) for layer in pair):
            found |= {f"{name}.{part}".lstrip("."): layer for part, layer in zip(("fc1", "fc2"), pair, strict=True)}
    if not found:
        raise SinefieldError(f"{type(model).__name__} has no MLP of linear layers fc1 and fc2; {KNOWN} known")
    return _plain(found)


def _inner_layers(model: nn.Module, attentions: Iterable[str]) -> dict[str, nn.Linear]:
    """The linear layers of all blocks that hold an attention."""
    inside = tuple(f"{block}.".lstrip(".") for block in {_block_of(name) for name in attentions})
    found = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.startswith(inside)}
    if not found:
        raise SinefieldError(f"{type(model).__name__} has no linear layer in its blocks")
    return _plain(found)


def _plain(layers: dict[str, nn.Linear]) -> dict[str, nn.Linear]:
    """The layers; SinefieldError where one computes something else than its weight and bias say."""
    for name, layer in layers.items():
        if type(layer).forward is not nn.Linear.forward or layer._forward_hooks or layer._forward_pre_hooks:
            raise SinefieldError(f"{name}: {type(layer).__name__} is no plain linear layer and cannot be factored")
    return layers


def _factored(name: str, layer: nn.Linear, spec: WeightSpec, keep: bool, part: str) -> tuple[FactoredLinear, Change]:
    try:
        weight = spec.make(layer.out_features, layer.in_features, "relu", 1.0)
    except SinefieldError as error:
        raise SinefieldError(f"{name}: {error}") from error
    error = clipped = None
    bias = layer.bias
    if keep:
        assert isinstance(weight, LowRank)  # `_spec` lets no other pass
        error, clipped = _imitate(weight, layer.weight.detach())
    elif bias is not None:
        bound = 1 / math.sqrt(layer.in_features)
        bias = nn.Parameter(torch.empty_like(bias).uniform_(-bound, bound))
    weight = weight.to(layer.weight.device, layer.weight.dtype)
    after = f"{spec.kind}, rank {spec.rank}" + (f", ω {weight.omega:g}" if isinstance(weight, SineLowRank) else "")
    new = FactoredLinear(weight, bias).train(layer.training)
    return new, Change(name, part, "linear", after, _count(layer), _count(new), error, clipped)


@torch.no_grad()
def _imitate(weight: LowRank, wanted: Float[Tensor, "out in"]) -> tuple[float, float | None]:
    """Set the factors so that the weight comes near `wanted`; returns the relative error and the share clipped."""
    exact = wanted.to("cpu", torch.float64)
    clipped = None
    if isinstance(weight, SineLowRank):
        scaled = weight.gain * exact
        clipped = float((scaled.abs() > 1).double().mean())
        inner = torch.asin(scaled.clamp(-1, 1)) / weight.omega
    else:
        inner = exact / weight.scale
    u, s, vh = torch.linalg.svd(inner, full_matrices=False)
    root = s[: weight.rank].sqrt()
    weight.u.copy_(u[:, : weight.rank] * root)
    weight.v.copy_(root[:, None] * vh[: weight.rank])
    size = float(exact.norm())
    return (float((weight().double() - exact).norm()) / size if size else 0.0), clipped


def _first_blocks(attentions: Iterable[str]) -> list[str]:
    """The block that holds the first attention of each stack: the innermost one counted in a list, or what holds it.

    A stack is an outermost list; CLIP has two, one for each of its towers.
    """
    first: dict[str, str] = {}
    for attention in attentions:
        parts = attention.split(".")
        counted = [i for i, part in enumerate(parts) if part.isdecimal()]
        first.setdefault(".".join(parts[: counted[0]] if counted else parts[:-1]), _block_of(attention))
    return list(first.values())


def _block_of(attention: str) -> str:
    """The innermost one around an attention that is counted in a list, or what holds the attention."""
    parts = attention.split(".")
    counted = [i for i, part in enumerate(parts) if part.isdecimal()]
    return ".".join(parts[: counted[-1] + 1] if counted else parts[:-1])


def _gray_first(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Before a block's or an attention's forward: gray what comes first, by position or as Hugging Face calls it.

    Raises:
        SinefieldError: some tokens are hidden from others (padding), which graying would show.
    """
    _refuse_hidden(args, kwargs)
    if args:
        return (_grayed(module.get_submodule("gray"), args[0]), *args[1:]), kwargs
    key = "hidden_states" if "hidden_states" in kwargs else "x"
    return args, kwargs | {key: _grayed(module.get_submodule("gray"), kwargs[key])}


def _refuse_hidden(args: tuple, kwargs: dict) -> None:
    # Swin's windows come with −100 between parts of one picture: positions, not tokens that are to stay unknown.
    mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
    hidden = isinstance(mask, Tensor) and mask.dim() == 4 and mask.dtype == torch.bool and not bool(mask.all())
    hidden = hidden or (isinstance(mask, Tensor) and mask.dim() == 4 and mask.is_floating_point() and bool(mask.any()))
    if hidden or kwargs.get("is_causal"):
        raise SinefieldError(
            "graying mixes all tokens of a sequence, and the mask hides some of them from others; give sequences of "
            "one length without padding, to a model that is not causal"
        )


def _grayed(gray: nn.Module, x: Tensor) -> Tensor:
    """timm's Swin keeps its tokens as a map (b, height, width, d)."""
    return gray(x.flatten(1, 2)).view_as(x) if x.ndim == 4 else gray(x)


def _put_gray(module: nn.Module, gray: nn.Module) -> None:
    # A hook, and a child without parameters: the names in the state dict stay.
    module.gray = gray
    module.register_forward_pre_hook(_gray_first, with_kwargs=True)


def _take_gray(module: nn.Module) -> None:
    hooks = [key for key, hook in module._forward_pre_hooks.items() if hook is _gray_first]
    for key in hooks:
        del module._forward_pre_hooks[key], module._forward_pre_hooks_with_kwargs[key]
    del module.gray


def _put(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace a module wherever it occurs."""
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is old:
                module._modules[name] = new


def _was(module: nn.Module) -> str:
    power = module.power if isinstance(module, PackedAttention) else getattr(module, "sinefield_attention", (None,))[0]
    return "softmax" if power is None else f"x^{power}"


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
