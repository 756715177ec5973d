"""Strict YAML into dataclasses: every key known, every value of its type, every error one line."""

import dataclasses
import difflib
import math
import re
import types
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from sinefield.errors import SinefieldError, shown
from sinefield.files import read_text

MAX_YAML_BYTES = 50_000  # a scene file has some thousand; the worst of this size takes two seconds
T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """Plain data only: no tags, no aliases (they can grow without bound), no key twice.

    Words are read as YAML 1.2 does. By 1.1, `1:2:3` is 3,723, `010` is 8, `no` is false and `2024-01-01` a day: here
    these are texts, and refused where a number is wanted.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(
                None, None, "aliases are not supported", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        keys = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
            if key in keys:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            keys.add(key)
        return super().construct_mapping(node, deep)


_SIGN, _DIGITS = "[-+]?", "(0|[1-9][0-9]*)"
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", f"{_SIGN}{_DIGITS}", list("-+0123456789")),
    ("float", rf"{_SIGN}({_DIGITS}(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?", list("-+0123456789.")),
    ("float", rf"{_SIGN}\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})\\Z"), _first)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises:
        SinefieldError: missing, empty, too large, not UTF-8, a syntax error (with its line), or not a mapping.
    """
    text = read_text(path, MAX_YAML_BYTES, "scene file")
    try:
        content = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}" if mark else "somewhere"
        raise SinefieldError(f"{path}: YAML error in {where}: {error.problem or error.context}; mend it") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SinefieldError(f"{path}: not a readable YAML text file ({error}); mend it") from error
    if not isinstance(content, dict):
        raise SinefieldError(f"{path}: should hold 'key: value' lines, holds {type(content).__name__}; see scenes/")
    return content


def build(cls: type[T], content: dict[str, Any], where: str) -> T:
    """Make a dataclass (with nested dataclasses) from plain data.

    `where` names the source in errors. Raises SinefieldError on unknown or missing keys and wrong types.
    """
    return _convert(content, cls, where, "")


def set_dotted(content: dict[str, Any], key: str, text: str) -> None:
    """Put one command-line override, `key` dotted and its value as text, into plain data."""
    try:
        value = yaml.load(text, Loader=_Loader) if text else ""
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SinefieldError(f"--{key} {text}: the value cannot be read; quote it") from error
    *parents, last = key.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise SinefieldError(f"--{key}: {parent} is a value, not a group of settings")
    content[last] = value


def to_plain(config: Any) -> dict[str, Any]:
    """A dataclass as plain data that `build` turns back into the same."""
    return dataclasses.asdict(config)


def dump_yaml(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def nearest(name: str, known: list[str]) -> str:
    """', did you mean …?' or the list of what there is."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    more = f", … ({len(known)} in all)" if len(known) > 60 else ""
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known[:60])}{more}"


def _convert(value: Any, kind: Any, where: str, key: str) -> Any:
    name = f"{where}: {key}" if key else where
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _dataclass(value, kind, where, key)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (kind,) = [a for a in arguments if a is not type(None)]
        return _convert(value, kind, where, key)
    if origin is Literal:
        if isinstance(value, bool) and {"yes", "no"} <= set(arguments):
            return "yes" if value else "no"  # YAML takes the bare words for true and false
        if value not in arguments:
            raise SinefieldError(f"{name} is {shown(value)}; should be one of {', '.join(map(str, arguments))}")
        return value
    if origin is list:
        if not isinstance(value, list):
            raise SinefieldError(f"{name} is {shown(value)}; should be a list like [1, 2]")
        return [_convert(v, arguments[0], where, f"{key}[{i}]") for i, v in enumerate(value)]
    if kind is float:
        value = _number(value)
        if not isinstance(value, float) or not math.isfinite(value):
            raise SinefieldError(f"{name} is {shown(value)}; should be a number")
        return value
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        expected = {int: "a whole number", str: "text", bool: "true or false"}[kind]
        raise SinefieldError(f"{name} is {shown(value)}; should be {expected}")
    if kind is int and not -(2**63) <= value < 2**63:
        raise SinefieldError(f"{name} is {shown(value)}, too large; give a smaller whole number")
    return value


def _number(value: Any) -> Any:
    """A whole number as a float, where one holds it; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    try:
        return float(value)
    except OverflowError:
        return value


def _dataclass(value: Any, kind: type, where: str, key: str) -> Any:
    if not isinstance(value, dict):
        raise SinefieldError(f"{where}: {key or 'content'} is {shown(value)}; should be a group of settings")
    hints = get_type_hints(kind)
    fields = [f for f in dataclasses.fields(kind) if f.init]
    prefix = f"{key}." if key else ""
    for name in value:
        if name not in hints:
            raise SinefieldError(f"{where}: unknown key {prefix}{name}; {nearest(name, [f.name for f in fields])}")
    arguments = {}
    for field in fields:
        if field.name in value:
            arguments[field.name] = _convert(value[field.name], hints[field.name], where, prefix + field.name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SinefieldError(f"{where}: {prefix}{field.name} is missing; add it")
    try:
        return kind(**arguments)
    except SinefieldError as error:
        raise SinefieldError(f"{where}: {prefix}{error}") from error
