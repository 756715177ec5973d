"""Coverage-guided fuzzing of the readers, by atheris (libFuzzer): whatever a file holds, a reader ends with one line.

    pip install atheris
    python scripts/fuzz.py FORMAT [--seconds 600] [--corpus FOLDER]     FORMAT: a name of tests/hostile_formats.py

A finding is any exception but SinefieldError, more than 10 s for one input, or more than 2 GiB. libFuzzer then writes
the input to the working folder, named crash-…, timeout-… or oom-…, and the exit code is not 0. The corpus begins with
the sound files of the tests. One file of a folder is damaged, and compression or checksums are made good afterwards, so
that what lies behind them is reached.
"""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path
from random import Random

import atheris

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]
SECONDS, MEBIBYTES, LONGEST = 10, 2048, 1 << 16

with atheris.instrument_imports(include=["sinefield"], enable_loader_override=False):
    from hostile_formats import FORMATS, examples

    from sinefield.errors import SinefieldError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=sorted(FORMATS))
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--corpus", help="folder that is read and grows; a temporary one by default")
    options = parser.parse_args()
    form = examples(options.format)
    name = form.damaged[0]
    example = next(one for one in form.examples if name in one)
    scratch = tempfile.TemporaryDirectory()
    corpus = Path(options.corpus or Path(scratch.name) / "corpus")
    folder = Path(scratch.name) / "try"
    for place in (corpus, folder):
        place.mkdir(parents=True, exist_ok=True)
    sound = form.open([one[name] for one in form.examples if name in one])
    for number, good in enumerate(sound):
        (corpus / f"sound-{number}").write_bytes(good)
    for file, content in example.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)

    def attempt(data: bytes) -> None:
        (folder / name).write_bytes(form.mend(data, Random(0)))
        with contextlib.suppress(SinefieldError):
            form.load(folder)

    for good in sound:  # kernels are compiled now, not in a try
        attempt(good)
    limits = [f"-max_total_time={options.seconds}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEBIBYTES}"]
    atheris.Setup([sys.argv[0], str(corpus), *limits, f"-max_len={LONGEST}", "-print_final_stats=1"], attempt)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
