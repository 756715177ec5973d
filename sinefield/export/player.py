"""What draws a field in a web page: the scripts of `sinefield/web`, and a field's bytes within a page."""

import base64
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from sinefield.adapters.edits import load_edit
from sinefield.compress.container import MAX_FILE, encode
from sinefield.compress.quantize import Quantiser, Uniform
from sinefield.errors import SinefieldError
from sinefield.example_files import file_of, is_sine
from sinefield.fields.base import Field
from sinefield.files import read_bytes
from sinefield.store.sine_files import to_packed

KINDS = ("shape", "radiance", "image", "mesh")
"""What the player draws."""
SOURCES = "'wasm-unsafe-eval'; worker-src blob:"
"""What a page's policy allows beside the script itself: its kernel, and workers that have its own text."""
HALF_STEPS = 2047
"""Of a run that is not packed: steps between 0 and the largest entry of a tensor, 12 bits in all."""
LEAN = {
    "encoding": ("frequency",),
    "activation": ("relu", "leaky_relu", "sine"),
    "represents": ("distance",),
    "space": ("box",),
    "grid_levels": (1,),
    "cone_angle": (0,),
    "density": ("free",),
}
"""Settings that the smaller scripts of shapes and radiance fields can draw: LEAN of web/src."""


def contents_of(run: str | Path, field: Field, adapters: Sequence[str | Path] = ()) -> list[bytes]:
    """The files that a page of a field holds: its own, as it is or with a run's parameters rounded, and its edits.

    Of a shape's code these are the base that its set shares, and the code.

    Raises:
        SinefieldError: a kind that the player does not draw; edits of a run that is not packed, or of a code's shape.
    """
    if field.kind not in KINDS:
        raise SinefieldError(f"{run}: a page cannot draw a field of kind {field.kind}; it draws {', '.join(KINDS)}")
    if adapters and not is_sine(run):
        raise SinefieldError(f"{run}: edits go into a page with a packed base; pack it and adapt the packed file")
    edits = [_edit_bytes(path) for path in adapters]
    if len(edits) > 1 and load_edit(adapters[0], or_code=True).kind == "code":
        raise SinefieldError(f"{adapters[1]}: a page takes a code alone; give its base and the code, without edits")
    return [_packed(run, field), *edits]


def _packed(run: str | Path, field: Field) -> bytes:
    """A `.sine` file's bytes; of a run its parameters rounded."""
    if is_sine(run):
        return read_bytes(file_of(run), MAX_FILE, "packed field")
    quantisers: dict[str, Quantiser] = {}
    for name, parameter in field.named_parameters():
        step = max(float(parameter.detach().abs().max()) / HALF_STEPS, 1e-12) if parameter.numel() else 1.0
        quantisers[name] = Uniform(parameter, step=step)
    return encode(to_packed(field, quantisers, {}))


def _edit_bytes(path: str | Path) -> bytes:
    load_edit(path, or_code=True)
    return read_bytes(path, MAX_FILE, "edit")


def script_for(field: Field, edited: bool = False) -> str:
    """The smallest script that draws a field. A browser hashes a text's line ends as they are read: one kind only."""
    settings = vars(getattr(field, "config", None))
    lean = all(settings.get(name, values[0]) in values for name, values in LEAN.items())
    kind = field.kind + (".lean" if lean and field.kind in ("shape", "radiance") else "")
    name = f"page.{'full' if edited else kind}.js"
    text = files("sinefield").joinpath("web", "made", name).read_text(encoding="utf-8")
    return "\n" + text.replace("\r\n", "\n")


def element_of(title: str, contents: Sequence[bytes]) -> list[str]:
    """The element that draws, and the files that it is given, as lines of HTML."""
    held = [f'<script type="text/plain" class="field">{base64.b64encode(c).decode()}</script>' for c in contents]
    label = f"{title}: drag or use the arrow keys to turn, + and - to zoom"
    return [f'<sine-field camera-controls alt="{escape(label)}"></sine-field>', *held]
