"""Settings by the data's kind and size: small, balanced or best fields."""

import sys
from collections.abc import Mapping
from typing import Any

from sinefield.data.photographs.capture_settings import PRESETS
from sinefield.errors import SinefieldError, harmless, shown
from sinefield.fields.base import kind_named
from sinefield.strict import nearest


def put_preset(content: dict[str, Any], name: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Put the settings that suit the data into a scene file's content, which names kind and `data.path`.

    Arguments:
        name: one of `PRESETS`; None for what is usual for data of this kind and size.
        given: settings by dotted name that will be put in afterwards.

    Returns:
        what was put in, by dotted name.

    Raises:
        SinefieldError: no such preset, or none of this kind of field; one of `given` asks for another network.
    """
    if name is not None and name not in PRESETS:
        raise SinefieldError(f"there is no preset {shown(name)}; {nearest(name, list(PRESETS))}")
    settings = kind_named(content["kind"]).preset(name, content["data"]["path"], given)
    for key, value in settings.items():
        if name is not None and key.startswith("field.") and given.get(key, value) != value:
            raise SinefieldError(
                f"the preset {name} sets {key} to {value}, and {given[key]} is asked for; leave out one of the two"
            )
        group, _, setting = key.partition(".")
        content.setdefault(group, {})[setting] = value
    if settings:
        told = ", ".join(f"{key.partition('.')[2]} {value}" for key, value in settings.items())
        print(harmless(f"note: settings that suit {content['data']['path']}: {told}"), file=sys.stderr)
    return settings
