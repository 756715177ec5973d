"""`attention` within models of other libraries: Hugging Face's by their register of attention functions, timm's blocks
by what they consist of. Neither library is imported unless a model of its own is given."""

import inspect
import re
import sys
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sinefield.errors import SinefieldError
from sinefield.transformers.attention import attention

NAME = "sinefield"
"""Of our attention in Hugging Face's register, and in `config._attn_implementation` of converted models."""
HIDDEN = -50.0
"""Scores with this much added are hidden ones: Swin's windows add −100, others −∞ or the least number there is."""
PACKED = {"qkv", "proj", "q_norm", "k_norm", "attn_drop", "norm", "gate", "proj_drop", "softmax", "gray"}
"""Children that timm's `Attention` and Swin's `WindowAttention` may have; `gray` is ours."""
GIVEN = {"dropout", "scaling", "is_causal", "output_attentions"}
"""What Hugging Face's attentions may hand to their function; `attend` knows the meaning of nothing else."""
VARIANTS = {"softcap": "attn_logit_softcapping", "sliding_window": "sliding_window", "s_aux": "sinks"}
"""Names of further arguments, and of the attention's or configuration's attribute that is None without them."""
TABLE, INDEX = "relative_position_bias_table", "relative_position_index"


def dispatches(module: nn.Module) -> bool:
    """Whether it is one of Hugging Face's attentions that look their function up in the register."""
    home = sys.modules.get(type(module).__module__)
    config = getattr(module, "config", None)
    ours = hasattr(config, "_attn_implementation") and hasattr(module, "is_causal")
    return ours and hasattr(home, "ALL_ATTENTION_FUNCTIONS")


def variant_of(module: nn.Module) -> str | None:
    """What such a module's attention is beyond scores and masks, by name; None where it is plain.

    Read from the call in its forward, so that a model is refused before it is changed, not at its first pass.
    """
    try:
        source = inspect.getsource(type(module).forward)
    except (OSError, TypeError):
        return "a source that cannot be read"
    calls = re.findall(r"= attention_interface\((.*?)\n\s*\)\n", source, re.DOTALL)
    if not calls:
        return "no call of an attention function"
    for name in sorted(set(re.findall(r"^\s*(\w+)=", "\n".join(calls), re.MULTILINE)) - GIVEN):
        attribute = VARIANTS.get(name)
        holder = module if attribute is None or hasattr(module, attribute) else getattr(module, "config", None)
        if attribute is None or getattr(holder, attribute, None) is not None:
            return name
    return None


def use_ours(module: Any, power: int | None, divisor: float | None) -> None:
    """Let such a module, and all that share its configuration, compute by `attention`; others of them by softmax."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
    module.sinefield_attention = power, divisor
    module.config._attn_implementation = NAME


def attend(
    module: nn.Module,
    query: Float[Tensor, "b h n d"],
    key: Float[Tensor, "b g m d"],
    value: Float[Tensor, "b g m c"],
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[Float[Tensor, "b n h c"], None]:
    """`attention` as Hugging Face's models call their functions: masks boolean (True = attend) or added to scores.

    Raises:
        SinefieldError: dropout on the attention, or a variant of it that is not ours.
    """
    strange = [k for k in ("softcap", "s_aux", "sliding_window", "position_bias") if more.get(k) is not None]
    if strange:
        raise SinefieldError(f"{type(module).__name__} wants {strange[0]}, which converted attention has not")
    power, divisor = getattr(module, "sinefield_attention", (None, None))
    causal = bool(module.is_causal) if is_causal is None else is_causal
    causal = causal and attention_mask is None and query.shape[2] > 1
    out = _attended(module, query, key, value, attention_mask, causal, scaling, dropout, power, divisor)
    return out.transpose(1, 2).contiguous(), None


def is_packed(module: nn.Module) -> bool:
    """Whether it is an attention like timm's with one `qkv` layer.

    Raises:
        SinefieldError: it has such a layer, but also parts or inputs that are not known here.
    """
    if isinstance(module, PackedAttention):
        return True
    if not isinstance(getattr(module, "qkv", None), nn.Linear) or not hasattr(module, "num_heads"):
        return False
    own = {name for name, _ in module.named_parameters(recurse=False)}
    inputs = set(inspect.signature(module.forward).parameters)
    strange = sorted({n for n, c in module.named_children() if c is not None} - PACKED)
    strange += sorted(own - {TABLE}) + sorted(inputs - {"x", "attn_mask", "is_causal", "mask"})
    if strange or not isinstance(getattr(module, "proj", None), nn.Linear):
        raise SinefieldError(
            f"{type(module).__name__} has qkv like timm's attention, but also {strange[0] if strange else 'no proj'}; "
            "that structure cannot be converted"
        )
    return True


class PackedAttention(nn.Module):
    """In place of timm's `Attention` or `WindowAttention`, with that one's layers, under the same names."""

    qkv: nn.Linear
    num_heads: int
    proj: nn.Linear
    norm: nn.Module
    gate: nn.Module
    proj_drop: nn.Module

    def __init__(self, old: Any, power: int | None, divisor: float | None) -> None:
        super().__init__()
        self.num_heads = old.num_heads
        self.scale = getattr(old, "scale", None)
        self.power, self.divisor = power, divisor
        for name, child in old.named_children():
            self.add_module(name, child)
        for name, parameter in old.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in old.named_buffers(recurse=False):
            self.register_buffer(name, buffer, persistent=name not in old._non_persistent_buffers_set)
        self.train(old.training)

    def forward(
        self,
        x: Float[Tensor, "b *n dim"],
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        mask: Tensor | None = None,
    ) -> Float[Tensor, "b *n dim"]:
        if x.dim() != 3:  # which of a map's tokens see each other cannot be known here
            raise SinefieldError(
                f"converted attention takes tokens (b, n, dim), and is given {tuple(x.shape)}; models whose attention "
                "takes maps, as VOLO's, cannot be converted"
            )
        parts: dict[str, Any] = dict(self._modules)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = (parts[n](t) if parts.get(n) is not None else t for n, t in (("q_norm", q), ("k_norm", k)))
        given = attn_mask if mask is None else mask
        if given is not None and given.dim() == 3:  # one for each window of an image
            given = given.repeat(len(x) // len(given), 1, 1)[:, None]
        elif given is not None:
            given = given.expand(*(1,) * (4 - given.dim()), *given.shape)
        if TABLE in self._parameters:
            places = self.get_parameter(TABLE)[self.get_buffer(INDEX).flatten()]
            bias = places.unflatten(0, (x.shape[1], x.shape[1])).permute(2, 0, 1)[None]
            given = bias if given is None else bias + given
        dropout = parts["attn_drop"].p if self.training and parts.get("attn_drop") is not None else 0.0
        causal = is_causal and given is None
        y = _attended(self, q, k, v, given, causal, self.scale, dropout, self.power, self.divisor)
        y = y.transpose(1, 2).flatten(2)
        if parts.get("norm") is not None:
            y = self.norm(y)
        if parts.get("gate") is not None:
            y = y * self.gate(x).sigmoid()
        y = self.proj(y)
        return self.proj_drop(y) if parts.get("proj_drop") is not None else y

    def extra_repr(self) -> str:
        return f"heads={self.num_heads}, power={self.power}, divisor={self.divisor}"


def _attended(
    module: nn.Module,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    given: Tensor | None,
    causal: bool,
    scale: float | None,
    dropout: float,
    power: int | None,
    divisor: float | None,
) -> Tensor:
    if dropout:
        raise SinefieldError(
            f"{type(module).__name__} drops {100 * dropout:g} % of its attention, which converted attention cannot; "
            "set that dropout to 0"
        )
    mask = bias = None
    if given is not None and given.dtype == torch.bool:
        mask = given
    elif given is not None and power is None:
        bias = given
    elif given is not None:
        mask = given > HIDDEN
        bias = given.masked_fill(~mask, 0.0)
    return attention(q, k, v, power, mask, None, causal, bias, scale, divisor)
