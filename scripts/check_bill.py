"""Hold a CycloneDX bill of materials against .ci/constraints.txt: python scripts/check_bill.py BILL.json

Every package of the bill that is pinned has its pinned version, and what this environment has of sinefield's own
requirements is in the bill. A build of torch for the CPU alone, 2.13.0+cpu, is 2.13.0.
"""

import configparser
import json
import re
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def problems(bill: dict, pins: dict[str, str], required: set[str]) -> list[str]:
    """A line for each package that is missing or of another version."""
    listed = {canonicalize_name(each["name"]): each.get("version", "") for each in bill.get("components", [])}
    found = [f"{name} is not in the bill" for name in sorted(required - listed.keys())]
    for name in sorted(pins.keys() & listed.keys()):
        if listed[name].partition("+")[0] != pins[name]:
            found.append(f"{name} is {listed[name]} in the bill, the pin says {pins[name]}")
    return found


def pinned(text: str) -> dict[str, str]:
    """Versions by name in a file of constraints."""
    lines = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", text, re.M)
    return {canonicalize_name(name): version for name, version in lines}


def required() -> set[str]:
    """Names of what setup.cfg requires, as far as it is installed here."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    found = set()
    for line in config["options"]["install_requires"].splitlines():
        if line and not line.startswith("#"):
            name = canonicalize_name(Requirement(line).name)
            try:
                distribution(name)
            except PackageNotFoundError:
                continue
            found.add(name)
    return found


def main() -> None:
    (path,) = sys.argv[1:]
    bill = json.loads(Path(path).read_text(encoding="utf-8"))
    found = problems(bill, pinned((ROOT / ".ci/constraints.txt").read_text(encoding="utf-8")), required())
    if bill.get("bomFormat") != "CycloneDX" or found:
        sys.exit("\n".join(found or [f"{path}: is no CycloneDX bill"]))
    print(f"{path}: {len(bill['components'])} packages, all pinned ones as .ci/constraints.txt says")


if __name__ == "__main__":
    main()
