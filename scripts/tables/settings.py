"""Every setting of a scene file, its default and meaning, from the dataclasses and their comments: docs/settings.md.

python scripts/tables/settings.py
"""

import ast
import dataclasses
import inspect
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sinefield.config import KINDS, settings
from sinefield.files import write_text
from sinefield.tables import table

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
HEAD = """# Settings

A scene file is YAML: its `kind`, a `seed` (0), and the groups `data`, `field` and `training`. What it leaves
out has the default below. Every setting is also an option of `sinefield train` (`--field.rank 8`) and an
argument of `sinefield.fit` (`rank=8`, or `**{"field.rank": 8}`). Unknown names and wrong values are refused
in one line. A run's `config.yaml` holds all of them. Defaults are the best known values for shapes, radiance
fields and images of the usual size; `scenes/*.yaml` say only where they differ.

Made by `python scripts/tables/settings.py` from `sinefield/config/settings.py`.
"""
KIND_HEADS = {
    "shape": "a mesh or an oriented point cloud",
    "radiance": "posed photographs",
    "image": "one image",
    "shapes": "one transformer for many shapes",
}


def meanings() -> dict[str, dict[str, str]]:
    """By class and setting, the comment beside it."""
    source = inspect.getsource(settings)
    lines = source.splitlines()
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            told = found[node.name] = {}
            for item in node.body:
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    line = lines[(item.end_lineno or item.lineno) - 1].encode()[item.end_col_offset or 0 :].decode()
                    told[item.target.id] = line.partition("#")[2].strip()
    return found


def rows(group: type[Any]) -> list[dict[str, str]]:
    """One for each setting of a group, in the order of the file."""
    comments = meanings()
    classes = [cls.__name__ for cls in group.__mro__ if cls.__name__ in comments]
    made, hints = group(), get_type_hints(group)  # made: some defaults follow from others
    return [
        {
            "setting": f"`{field.name}`",
            "default": "required" if field.name == "path" else _shown(getattr(made, field.name)),
            "meaning": next(comments[name][field.name] for name in classes if comments[name].get(field.name)).replace(
                "|", "\\|"
            )
            + _choices(hints[field.name]),
        }
        for field in dataclasses.fields(group)
    ]


def page() -> str:
    """The text of docs/settings.md."""
    parts = [HEAD.rstrip("\n")]
    for kind, what in KIND_HEADS.items():
        parts.append(f"## `kind: {kind}`, {what}")
        hints = get_type_hints(KINDS[kind])
        for group in ("data", "field", "training"):
            text = table(["setting", "default", "meaning"], rows(hints[group]), markdown=True)
            parts.append(f"### `{group}`\n\n{text}")
    return "\n\n".join(parts) + "\n"


def _choices(hint: Any) -> str:
    """What a setting may be, where that is a choice."""
    for kind in (hint, *get_args(hint)):
        if get_origin(kind) is Literal:
            return f" ({', '.join(get_args(kind))})"
    return ""


def _shown(value: Any) -> str:
    if value in (None, ""):
        return "none"
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else f"{value}"


if __name__ == "__main__":
    write_text(PAGE, page())
