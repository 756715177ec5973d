"""What an installation of the package takes: bytes of each package that it needs, as installed here.

    python scripts/install_size.py

Sizes are those that the packages' own lists of files state; compiled bytecode is not among them.
"""

import configparser
from importlib.metadata import distribution

from constraints import ROOT, closure


def main() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config["options"]["install_requires"].splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    names = {name for name, _ in closure(wanted, (), set())}
    sizes = {name: sum(file.size or 0 for file in distribution(name).files or []) for name in names}
    for name in sorted(sizes, key=lambda name: -sizes[name])[:8]:
        print(f"{name:24} {sizes[name] / 1e6:8.0f} MB  {distribution(name).version}")
    print(f"{len(sizes)} packages {sum(sizes.values()) / 1e6:14.0f} MB")


if __name__ == "__main__":
    main()
