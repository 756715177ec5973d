"""The formats that tests/hostile.py tries, by name."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import hostile_absurd as absurd
import hostile_captures as captures
import hostile_codes as codes
import hostile_fields as fields
import hostile_fleet as fleet
import hostile_surfaces as surfaces
from hostile_format import Format
from hostile_surfaces import OTHERS

FORMATS: dict[str, Callable[[], Format]] = {
    **{kind: partial(surfaces.mesh, kind) for kind in ("obj", "ply", "stl", "off", "glb", "xyz")},
    **{kind: partial(surfaces.others, kind) for kind in OTHERS},
    **{kind: partial(captures.image, kind) for kind in ("png", "jpg", "tif", "webp", "bmp")},
    "transforms": captures.transforms,
    "camera_path": captures.camera_path,
    "yaml": fields.yaml,
    "llff": captures.llff,
    "dtu": captures.dtu,
    "colmap_binary": partial(captures.colmap, False),
    "colmap_text": partial(captures.colmap, True),
    "field": fields.field_file,
    "run": fields.run,
    "adapter": fields.adapter,
    "sine": fields.sine,
    **{f"manifest_{kind}": partial(fleet.manifest, kind) for kind in ("csv", "jsonl", "parquet")},
}
"""Sound files, to be damaged."""
MADE: dict[str, Callable[[], Format]] = {
    "absurd_field": absurd.absurd_field,
    "absurd_adapter": absurd.absurd_adapter,
    "absurd_code": codes.absurd_code,
    "absurd_manifest": fleet.absurd_manifest,
}
"""Files that are made absurd from the start."""


def examples(name: str) -> Format:
    """A format with its sound files, or what makes its files."""
    return replace((FORMATS | MADE)[name](), name=name)
