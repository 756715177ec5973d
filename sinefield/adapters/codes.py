"""A code: what turns the network that a set of shapes shares into one of them. Files of it are read like edits."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from sinefield.adapters.fields import fingerprint
from sinefield.compress.code import LARGEST_SLOPE, base_of, code_in, code_out
from sinefield.compress.container import Packed
from sinefield.errors import SinefieldError


def to_packed_code(field: Any, levels: Int[np.ndarray, "m"], box: Float[np.ndarray, "6"]) -> Packed:
    """The file of a shape's code.

    Arguments:
        field: the base, a `SharedField` as its file has it.
        box: of the shape, input units.
    """
    code = code_out(fingerprint(field), levels, _slopes(field, "the base"))
    return Packed("code", {}, box, {}, code=code)


def coded(field: Any, packed: Packed, path: str, where: str) -> Any:
    """The shape field that a code makes of its base.

    Arguments:
        path, where: of code and base, for messages.

    Raises:
        SinefieldError: a base of another kind or of another set; a damaged code.
    """
    if field.kind != "shared":
        raise SinefieldError(f"{path}: is the code of a shape, {where} a {field.kind} field; give the code's own base")
    assert packed.code is not None and packed.box is not None  # every code's file has them
    try:
        made_for, own = base_of(packed.code), fingerprint(field)
    except ValueError as error:
        raise SinefieldError(f"{path}: its code is cut short; make it again") from error
    if made_for != own:
        raise SinefieldError(
            f"{path}: was made for another base than {where} (fingerprint {made_for:08x}, this one's {own:08x}); "
            "give the base of its own set"
        )
    levels = code_in(packed.code, _slopes(field, where), path)
    shape = field.shape_of(levels, packed.box)
    if not all(bool(torch.isfinite(p).all()) for p in shape.parameters()):
        raise SinefieldError(f"{where}: makes a shape whose numbers are not finite; make the base again")
    return shape


def _slopes(field: Any, where: str) -> Int[np.ndarray, "m"]:
    slopes = field.slopes.detach().cpu().numpy()
    if not ((slopes == np.round(slopes)) & (slopes >= 0) & (slopes <= LARGEST_SLOPE)).all():
        raise SinefieldError(f"{where}: its tables are none; make the base again")
    return slopes.astype(np.int64)
