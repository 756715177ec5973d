"""How soon the viewer's page shows a picture, and how it answers while it renders; docs/results/viewer.*.

    python scripts/benchmarks/viewer.py RUN [--pages 5]      some seconds; needs Chromium and the extra `view`

A headless Chromium, already running, opens the page five times. Two moments are timed from there: the first picture
sent, and the first screenshot in which it stands. Then the camera is turned for a while, so that pictures are always
in work, and the page's own address is asked for meanwhile.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from sinefield.errors import SinefieldError
from sinefield.files import write_text
from sinefield.machine import describe_machine
from sinefield.tables import table
from sinefield.viewer.server import Viewer

ROOT = Path(__file__).parents[2]
STORE = ROOT / "docs" / "results" / "viewer.json"
sys.path.insert(0, str(ROOT / "tests"))


def main() -> None:
    from browser import Browser, wait_for

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder or .sine file of a radiance field")
    parser.add_argument("--pages", type=int, default=5)
    options = parser.parse_args()
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise SinefieldError("no Chromium on this machine; install the package chromium")
    rows = []
    with Viewer(options.run, port=0) as viewer, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Browser(program, Path(folder))
        try:
            for _ in range(options.pages):
                browser.open("about:blank")
                time.sleep(1)
                sent, begin = viewer.scene.sent, time.perf_counter()
                browser.open(viewer.url)
                wait_for(lambda: viewer.scene.sent > sent)  # noqa: B023
                first = time.perf_counter() - begin
                wait_for(lambda: browser.picture()[100:-100, 100:600].std() > 8)
                rows.append({"first picture sent, s": round(first, 2)})
                rows[-1]["on the screen, s"] = round(time.perf_counter() - begin, 2)
            answers, pictures, begin = [], viewer.scene.sent, time.perf_counter()
            while time.perf_counter() - begin < 8:
                browser.drag((300, 300), (330, 310))
                asked = time.perf_counter()
                with urllib.request.urlopen(viewer.url) as answer:
                    answer.read()
                answers.append(time.perf_counter() - asked)
            seconds, pictures = time.perf_counter() - begin, viewer.scene.sent - pictures
        finally:
            browser.close()
    found = {
        "run": Path(options.run).name,
        "pages": rows,
        "answer_ms_median": round(1000 * statistics.median(answers), 1),
        "answer_ms_worst": round(1000 * max(answers), 1),
        "pictures_a_second": round(pictures / seconds, 1),
        "machine": describe_machine(),
        "date": time.strftime("%Y-%m-%d"),
    }
    write_text(STORE, json.dumps(found, indent=1) + "\n")
    machine = found["machine"]
    text = (
        "# The viewer\n\n"
        + table(list(rows[0]), rows, markdown=True)
        + f"\n\nWhile the camera is turned, {found['pictures_a_second']} pictures a second; the page's address answers "
        f"in {found['answer_ms_median']} ms (median; {found['answer_ms_worst']} ms at worst).\n\n"
        f"Made by `python scripts/benchmarks/viewer.py {found['run']}`; {machine['cpu']}, {machine['threads']} threads "
        f"that the browser shares, {found['date']}.\n"
        "The first page is the browser's first too. These are wall-clock times of that machine in that minute.\n"
    )
    write_text(STORE.with_suffix(".md"), text)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
