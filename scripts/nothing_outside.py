"""Run tests, and list each file that they left or changed outside pytest's own folder and the caches.

    python scripts/nothing_outside.py [OPTION OF PYTEST …]        without any, the quick suite

The tests get a home, a temporary folder, caches and a folder for pytest (--basetemp) of their own, all empty; a
NUMBA_CACHE_DIR that is set is kept. Compared before and after: that home and that temporary folder, the repository,
Python's environment, the folder of real data, the caches and settings of the real home; of /, /tmp, /var/tmp,
/dev/shm and the real home the names in it alone, as other processes write there too. Not looked into: __pycache__,
.pytest_cache, .hypothesis. A file that is gone at the end is not seen, unless it was there before. The exit code is
pytest's, or 3 where something was found.
"""

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHES = {"__pycache__", ".pytest_cache", ".hypothesis", ".git"}
SHARED = ("/", "/tmp", "/var/tmp", "/dev/shm")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="nothing-outside-") as scratch:
        own = {name: Path(scratch) / name for name in ("home", "temporary", "cache", "kernels", "pytest")}
        for folder in own.values():
            folder.mkdir()
        variables = {**os.environ, "HOME": str(own["home"]), "TMPDIR": str(own["temporary"])}
        variables |= {"SINEFIELD_CACHE": str(own["cache"])}
        variables.setdefault("NUMBA_CACHE_DIR", str(own["kernels"]))
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "MPLCONFIGDIR"):
            variables.pop(name, None)
        data = os.environ.get("SINEFIELD_DATA", str(ROOT.parent / "shared" / "data"))
        whole = [own["home"], own["temporary"], ROOT, Path(sys.prefix), Path(data)]
        whole += [Path.home() / name for name in (".cache", ".config", ".local")]
        shared = [Path(name) for name in SHARED] + [Path.home()]
        kept = [Path(variables["NUMBA_CACHE_DIR"])]
        before = state(whole, shared, kept)
        command = [sys.executable, "-m", "pytest", "--basetemp", str(own["pytest"] / "tests"), *sys.argv[1:]]
        code = subprocess.run(command, cwd=ROOT, env=variables).returncode
        after = state(whole, shared, kept)
        found = sorted(path for path, now in after.items() if before.get(path) != now)
        gone = sorted(set(before) - set(after))
        for path in found:
            print(f"{'changed' if path in before else 'new'}: {path}, {max(after[path][0], 0)} bytes")
        for path in gone:
            print(f"gone: {path}")
        print(f"{len(after)} files and folders compared: {len(found)} new or changed, {len(gone)} gone")
        return code or 3 * bool(found or gone)


def state(whole: list[Path], shared: list[Path], kept: list[Path]) -> dict[str, tuple[int, int, int]]:
    """Size, time and number of each file; of folders, and of names in the shared places, that they are there."""
    seen = {str(path): (-1, 0, 0) for folder in shared if folder.is_dir() for path in folder.iterdir()}
    for top in whole:
        for name, folders, files in os.walk(top):
            folder = Path(name)
            folders[:] = [name for name in folders if name not in CACHES and folder / name not in kept]
            seen |= {str(folder / name): (-1, 0, 0) for name in folders}
            for path in [folder / name for name in files]:
                with suppress(FileNotFoundError):  # another process's
                    about = path.lstat()
                    seen[str(path)] = (about.st_size, about.st_mtime_ns, about.st_ino)
    return seen


if __name__ == "__main__":
    sys.exit(main())
