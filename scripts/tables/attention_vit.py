"""The vision transformer of attention.py: its variants, its training, and what is measured inside it."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sinefield.data.labelled_images import load_labelled_images
from sinefield.nn.mlp import count_parameters
from sinefield.nn.weights import WeightSpec
from sinefield.transformers.convert import GRAYINGS, convert
from sinefield.transformers.norms import attention_norms, condition_number

PHASE = 2.5  # of sine weights: what ω = 200 is at the first paper's ViT-S, give or take
CLIP, DECAY, WARM_UP = 1.0, 0.05, 0.1
PROBES = 32  # images of the validation set that are looked at inside the network
TIMED = 9  # steps with and without graying, in turns


@dataclass(frozen=True)
class Setup:
    """A network and its training, the same for all contenders."""

    data: str = "digits"
    side: int = 8
    channels: int = 1
    classes: int = 10
    patch: int = 2
    dim: int = 64
    depth: int = 6
    heads: int = 2
    steps: int = 200
    batch: int = 64
    looks: int = 5
    rates: tuple[float, ...] = (5e-4, 1.5e-3, 4.5e-3)

    @property
    def tokens(self) -> int:
        return (self.side // self.patch) ** 2 + 1

    def __str__(self) -> str:
        return (
            f"{self.data} {self.side}² patch {self.patch} dim {self.dim} depth {self.depth} heads {self.heads} "
            f"steps {self.steps} batch {self.batch}"
        )


@dataclass(frozen=True)
class Variant:
    """What differs from softmax attention with both skips, no graying and dense feed-forward layers of width 4·dim.

    Attributes:
        weights, rank: of the feed-forward layers; of all linear layers where `everywhere`.
        width, dim: of narrower feed-forward layers and of a network with fewer channels; 0 where they are the usual.
    """

    power: int | None = None
    over_root: bool | None = None  # divided by √N; by default powers are, softmax is not
    graying: str = ""
    epsilon: float = 1.0
    graying_at: str = "input"
    skip_attention: bool = True
    skip_feedforward: bool = True
    weights: str = "dense"
    rank: int = 0
    everywhere: bool = False
    width: int = 0
    dim: int = 0

    @property
    def divided(self) -> bool:
        return self.power is not None if self.over_root is None else self.over_root


@dataclass
class Split:
    """Images (n, c, side, side) float32 about 0, and classes (n,)."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def digits_setup(**changes) -> tuple[Setup, Callable[[int], Split]]:
    """scikit-learn's 1,797 digits: 60 % to train on, 20 % to choose rates by, 20 % for the score, drawn by the seed."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images / 8 - 1, dtype=torch.float32)[:, None]
    labels = torch.tensor(data.target, dtype=torch.int64)

    def split(seed: int) -> Split:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        parts = order.split([len(order) * 6 // 10, len(order) * 2 // 10, len(order) - len(order) * 8 // 10])
        return Split(*((images[p], labels[p]) for p in parts))

    return Setup(**changes), split


def folder_setup(path: str, side: int, patch: int, **changes) -> tuple[Setup, Callable[[int], Split]]:
    """CIFAR-10 or class folders; a tenth of the training images, drawn by the seed, chooses the rates."""
    from pathlib import Path

    data = load_labelled_images(path, side)
    places = torch.arange(len(data.labels))

    def taken(p: Tensor) -> tuple[Tensor, Tensor]:
        return data.images[p].permute(0, 3, 1, 2).float() / 127.5 - 1, data.labels[p]

    def split(seed: int) -> Split:
        train = places[~data.test]
        train = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))]
        cut = max(len(train) // 10, 1)
        return Split(taken(train[cut:]), taken(train[:cut]), taken(places[data.test]))

    sizes = {"side": side, "channels": 3, "classes": len(data.names), "patch": patch}
    return Setup(data=Path(path).name, **sizes, **changes), split


def make_vit(variant: Variant, setup: Setup) -> nn.Module:
    """Hugging Face's ViT with a class token; matrices drawn at 1/√dim: queries and keys begin near unit size."""
    import transformers

    dim = variant.dim or setup.dim
    config = transformers.ViTConfig(
        hidden_size=dim,
        num_hidden_layers=setup.depth,
        num_attention_heads=setup.heads,
        intermediate_size=variant.width or 4 * dim,
        image_size=setup.side,
        patch_size=setup.patch,
        num_channels=setup.channels,
        num_labels=setup.classes,
        initializer_range=dim**-0.5,
    )
    model = transformers.ViTForImageClassification(config)
    divisor = None if variant.power is None or variant.divided else 1.0
    convert(model, attention=variant.power or "softmax", divisor=divisor)
    if variant.graying:
        convert(model, graying=GRAYINGS[variant.graying](variant.epsilon), graying_at=variant.graying_at)
    if variant.weights != "dense":
        sine = {"phase": PHASE} if variant.weights == "sine" else {}
        spec = WeightSpec(variant.weights, variant.rank, **sine)
        convert(model, **{"linears" if variant.everywhere else "feedforward": spec}, keep=False)
    for layer in model.vit.layers:
        _skips(layer, variant.skip_attention, variant.skip_feedforward)
        if variant.power is None and variant.divided:
            root = math.sqrt(setup.tokens)
            layer.attention.o_proj.register_forward_pre_hook(lambda _, args, root=root: (args[0] / root,))
    return model


def _skips(layer: nn.Module, attention: bool, feedforward: bool) -> None:
    """Let one of Hugging Face's ViT layers do without skip connections."""

    def forward(x: Tensor, attention_mask: Tensor | None = None, **more) -> Tensor:
        y, _ = layer.attention(layer.layernorm_before(x), attention_mask, **more)
        x = x + y if attention else y
        y = layer.mlp(layer.layernorm_after(x))
        return x + y if feedforward else y

    layer.forward = forward


@dataclass
class Look:
    """What is measured at one time, by layer.

    Attributes:
        matrix, jacobian: ‖A‖_F and ‖∂A/∂x‖_F, means over images and heads; the largest in `matrix_max`, `jacobian_max`.
        tokens, grayed, output, after: log10 of condition numbers, medians over images: of the normalised tokens before
            and after graying, of what attention gives, and of the tokens after its skip connection.
    """

    matrix: list[float] = field(default_factory=list)
    jacobian: list[float] = field(default_factory=list)
    matrix_max: list[float] = field(default_factory=list)
    jacobian_max: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    grayed: list[float] = field(default_factory=list)
    output: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)


@torch.no_grad()
def look(model: nn.Module, variant: Variant, images: Tensor) -> Look:
    """Run some images through in float64, where condition numbers are not those of rounding."""
    seen: dict[str, list[Tensor]] = {name: [] for name in ("tokens", "grayed", "output", "after", "q", "k")}
    hooks = []

    def keep(name: str, module: nn.Module, entering: bool = False) -> None:
        def after(_, args, out) -> None:
            found = args[0] if entering else out[0] if isinstance(out, tuple) else out
            seen[name].append(found)

        hooks.append(module.register_forward_hook(after))

    for layer in model.vit.layers:
        attend = layer.attention
        keep("tokens", layer.layernorm_before)
        keep("grayed", attend.q_proj, entering=True)
        keep("q", attend.q_proj)
        keep("k", attend.k_proj)
        keep("output", attend)
        keep("after", layer.layernorm_after, entering=True)
    model.double()
    try:
        model(images.double())
    finally:
        model.float()
        for hook in hooks:
            hook.remove()
    found = Look()
    root = math.sqrt(seen["q"][0].shape[1])
    factor = 1 / root if variant.power is None and variant.divided else 1.0
    divisor = None if variant.power is None or variant.divided else 1.0
    for q, k in zip(seen["q"], seen["k"], strict=True):
        q, k = (t.unflatten(-1, (model.config.num_attention_heads, -1)).transpose(1, 2) for t in (q, k))
        norms = attention_norms(q, k, variant.power, divisor=divisor)
        for name in ("matrix", "jacobian"):
            values = factor * getattr(norms, name)
            getattr(found, name).append(float(values.mean()))
            getattr(found, f"{name}_max").append(float(values.max()))
    for name in ("tokens", "grayed", "output", "after"):
        for x in seen[name]:
            finite = bool(x.isfinite().all())
            getattr(found, name).append(float(condition_number(x).log10().median()) if finite else math.nan)
    return found


@torch.no_grad()
def scores(model: nn.Module, data: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Accuracy and cross-entropy."""
    logits = torch.cat([model(x).logits for x in data[0].split(256)])
    accuracy = float((logits.argmax(1) == data[1]).double().mean())
    return accuracy, float(F.cross_entropy(logits, data[1]))


def fit(variant: Variant, setup: Setup, split: Split, lr: float, seed: int) -> dict[str, object]:
    """Train one network; its scores and what was seen inside at evenly spaced steps."""
    torch.manual_seed(seed)
    model = make_vit(variant, setup)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=DECAY)
    marks = sorted({round(i * setup.steps / (setup.looks - 1)) for i in range(setup.looks)})
    probes, looks, spent, diverged = split.validation[0][:PROBES], [], 0.0, False
    for step in range(setup.steps + 1):
        if step in marks:
            looks.append(look(model, variant, probes))
        if step == setup.steps:
            break
        begin = time.process_time()
        optimizer.param_groups[0]["lr"] = lr * _rate(step, setup.steps)
        loss = _step(model, optimizer, split.train, setup.batch, generator)
        spent += time.process_time() - begin
        if not math.isfinite(loss):
            diverged = True
            break
    validation, validation_loss = (1 / setup.classes, math.nan) if diverged else scores(model, split.validation)
    return {
        "params": count_parameters(model),
        "validation": validation,
        "validation_loss": validation_loss,
        "test": 1 / setup.classes if diverged else scores(model, split.test)[0],
        "diverged": diverged,
        "ms_a_step": 1e3 * spent / (step or 1),
        "graying_share": graying_share(model, optimizer, split.train, setup.batch) if variant.graying else "",
        "steps": marks[: len(looks)],
        **{name: [float(np.mean(getattr(x, name))) for x in looks] for name in ("matrix", "jacobian")},
        **{name: [float(np.max(getattr(x, name))) for x in looks] for name in ("matrix_max", "jacobian_max")},
        **{f"{name}_first": getattr(looks[0], name) for name in ("tokens", "grayed", "output", "after")},
        **{f"{name}_last": getattr(looks[-1], name) for name in ("tokens", "grayed", "output", "after")},
    }


def _rate(step: int, steps: int) -> float:
    rise = max(round(WARM_UP * steps), 1)
    return min((step + 1) / rise, 0.5 + 0.5 * math.cos(math.pi * step / steps))


def _step(model: nn.Module, optimizer, data: tuple[Tensor, Tensor], batch: int, generator: torch.Generator) -> float:
    chosen = torch.randint(0, len(data[0]), (batch,), generator=generator)
    loss = F.cross_entropy(model(data[0][chosen]).logits, data[1][chosen])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    return float(loss.detach())


def graying_share(model: nn.Module, optimizer, data: tuple[Tensor, Tensor], batch: int) -> float:
    """Share of a step's processor time that graying takes: steps with and without it in turns, medians."""
    places = {module: module.gray for module in model.modules() if hasattr(module, "gray")}
    state, taken = copy.deepcopy(model.state_dict()), {True: [], False: []}
    for i in range(2 * TIMED):
        on = i % 2 == 0
        for module, gray in places.items():
            module.gray = gray if on else nn.Identity()
        begin = time.process_time()
        _step(model, optimizer, data, batch, torch.Generator().manual_seed(i // 2))
        taken[on].append(time.process_time() - begin)
    for module, gray in places.items():
        module.gray = gray
    model.load_state_dict(state)
    return 1 - float(np.median(taken[False])) / float(np.median(taken[True]))
