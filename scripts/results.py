"""Which pages of docs/results are older than the code that they measure.

    python scripts/results.py [--json]      every page: made when, at which commit, and what has changed since
    python scripts/results.py index         write docs/results/README.md anew
    python scripts/results.py made PAGE…    note that pages were made with the code as it is committed now

docs/results/register.json names, for each page, its command, the parts of the package that its figures depend on, and
the commit with which the figures came. A page is *older than the code* if its script or one of these parts has changed.
That says nothing of how much figures would change. A report only: the exit code is 0 whatever it finds.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
FOLDER = Path("docs") / "results"
REGISTER = FOLDER / "register.json"


class State(NamedTuple):
    """What is known of a page: the day of its figures, and the files that have changed since; None without history."""

    page: str
    command: str
    commit: str
    date: str | None
    changed: list[str] | None

    def text(self) -> str:
        """The page's state in a few words."""
        if self.changed is None:
            return "its commit is not in this clone"
        return f"older than the code: {len(self.changed)} files have changed" if self.changed else "as the code is"


def git(*words: str, root: Path = ROOT) -> str | None:
    """What git says; None where it fails, as without a history."""
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def read(root: Path = ROOT) -> dict[str, Any]:
    """The register."""
    return json.loads((root / REGISTER).read_text())


def script_of(command: str) -> str:
    """The script that a command runs.

    >>> script_of("python scripts/tables/images.py --steps 500")
    'scripts/tables/images.py'
    """
    return command.split()[1]


def states(root: Path = ROOT) -> list[State]:
    """The state of every page, in the register's order."""
    register, found = read(root), []
    for page, entry in register["pages"].items():
        paths = [script_of(entry["command"]), *(path for part in entry["depends"] for path in register["parts"][part])]
        date = git("show", "-s", "--format=%cs", entry["commit"], root=root)
        changed = git("diff", "--name-only", entry["commit"], "HEAD", "--", *paths, root=root)
        found.append(
            State(page, entry["command"], entry["commit"], date, None if changed is None else changed.splitlines())
        )
    return found


def unlisted(root: Path = ROOT) -> list[str]:
    """Pages that the register does not have."""
    return sorted({path.stem for path in (root / FOLDER).glob("*.md")} - {"README", *read(root)["pages"]})


def title(page: str, root: Path = ROOT) -> str:
    """A page's heading."""
    return (root / FOLDER / f"{page}.md").read_text().splitlines()[0].removeprefix("# ")


def index(root: Path = ROOT) -> str:
    """The text of docs/results/README.md."""
    rows = "\n".join(
        f"| [{title(page, root)}]({page}.md) | {', '.join(entry['depends']) or 'its script alone'} "
        f"| `{entry['command']}` | {entry['commit'][:8]} |"
        for page, entry in read(root)["pages"].items()
    )
    return (
        "# Results\n\nEvery table and plot comes from a script. Each page names its settings, seed, machine and date; "
        "the command in its row makes\nit again. Data sets are found in the folder that `$SINEFIELD_DATA` names. "
        "The commit is the one with which the figures came.\n`python scripts/results.py` lists the pages that are "
        "older than the code that they measure.\n\n"
        f"| page | depends on | command | commit |\n|---|---|---|---|\n{rows}\n\n"
        "Written by `python scripts/results.py index`, from [register.json](register.json).\n"
    )


def note_made(pages: list[str], root: Path = ROOT) -> None:
    """Set pages' commit to the present one."""
    commit, register = git("rev-parse", "HEAD", root=root), read(root)
    text = (root / REGISTER).read_text()
    for page in pages:
        if page not in register["pages"]:
            raise SystemExit(f"no page {page}; one of {', '.join(register['pages'])}")
        line = next(line for line in text.splitlines() if line.startswith(f'  "{page}": {{'))
        text = text.replace(line, line.replace(register["pages"][page]["commit"], str(commit)))
    (root / REGISTER).write_text(text)


def main() -> None:
    words = sys.argv[1:]
    if words[:1] == ["made"]:
        note_made(words[1:])
    elif words == ["index"]:
        (ROOT / FOLDER / "README.md").write_text(index())
    elif words == ["--json"]:
        print(json.dumps([state._asdict() for state in states()]))
    elif words:
        raise SystemExit(__doc__)
    else:
        found = states()
        for state in found:
            print(f"{state.page:26} {state.date or '?':10} {state.commit[:8]} {state.text()}")
        for page in unlisted():
            print(f"{page:26} not in {REGISTER}: give it a line there")
        print(f"{sum(bool(state.changed) for state in found)} of {len(found)} pages are older than the code")


if __name__ == "__main__":
    main()
