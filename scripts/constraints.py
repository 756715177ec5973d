"""Pin what this environment has of sinefield's dependencies: python scripts/constraints.py .ci/constraints.txt

Pinned is what `.[test,view,adapters,bench,lpips,docs]` asks for, directly or not, as far as it is installed here.
Left free: what exists for a part of the platforms only (nvidia-*), and on Pythons that a pinned version does
not run on, that pin.
"""

import configparser
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
EXTRAS = ("test", "view", "adapters", "bench", "lpips", "docs")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")  # from the least that setup.cfg allows to the newest tried
PLATFORM = re.compile(r"nvidia-|cuda-")
HEAD = """\
# Versions that the commands in README.md install; `pip install -c .ci/constraints.txt -e .`
# Refresh: scripts/refresh_constraints.sh, then .ci/run. Written by scripts/constraints.py but for torch and triton.
{torch}
# The one that torch 2.13.0 for CUDA asks for: another would make the two conflict.
{triton}
"""


def asked_for() -> list[str]:
    """What setup.cfg requires, with every extra of EXTRAS."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lists = [config["options"]["install_requires"], *(config["options.extras_require"][extra] for extra in EXTRAS)]
    return [line for text in lists for line in text.splitlines() if line and not line.startswith("#")]


def closure(requirements: list[str], extras: tuple[str, ...], seen: set[str]) -> Iterator[tuple[str, str]]:
    """Every installed package behind some requirements, by name and version; again where it comes with other extras."""
    for text in requirements:
        need = Requirement(text)
        key = canonicalize_name(need.name)
        wanted = need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras))
        if not wanted or (asked := f"{key}[{sorted(need.extras)}]") in seen or PLATFORM.match(key):
            continue
        try:
            version = distribution(key).version.partition("+")[
                0
            ]  # a build of torch for the CPU calls itself 2.13.0+cpu
        except PackageNotFoundError:
            continue
        seen.add(asked)
        yield key, version
        yield from closure(distribution(key).requires or [], tuple(need.extras), seen)


def pin(name: str, version: str) -> str:
    """A line of the file, for those Pythons alone that the version runs on."""
    allowed = SpecifierSet(distribution(name).metadata["Requires-Python"] or "")
    fitting = [python for python in PYTHONS if Version(f"{python}.99") in allowed or Version(f"{python}.0") in allowed]
    first = "" if fitting == list(PYTHONS) else f' ; python_version >= "{fitting[0]}"'
    return f"{name}=={version}{first}"


def main() -> None:
    (target,) = sys.argv[1:]
    path = Path(target)
    kept = dict(re.findall(r"^(torch|triton)(==\S+)$", path.read_text(), re.M))
    pins = dict(closure(asked_for(), (), set()))
    head = HEAD.format(**{name: name + version for name, version in kept.items()})
    path.write_text(head + "".join(pin(*each) + "\n" for each in sorted(pins.items()) if each[0] not in kept))


if __name__ == "__main__":
    main()
