"""Trainings by one, two and three threads, of torch and of numba: the same field to the bit; slow."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest
import torch
from small import make_config, write_ball, write_photographs

from sinefield.kernels.cpu.slices import COUNTS, LEAST, room_of_slices, summed
from sinefield.learning.train import train
from sinefield.store.fields import load_field

SMALL_SHAPE = {"width": 64, "depth": 3, "rank": 4}
CASES = {
    "shape": ("ball.ply", SMALL_SHAPE, {}, {"points": 20_000}),
    "radiance": ("photographs", {"grid": 32, "steps": 64}, {"batch": 8192}, {}),
}
"""Of each kind: data, and settings of field, training and data."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_threads_do_not_matter(kind, tmp_path):
    done = subprocess.run(
        [sys.executable, __file__, kind, str(tmp_path)],
        env={**os.environ, "NUMBA_NUM_THREADS": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 3 and len(set(found)) == 1, found


def test_slices_depend_on_the_work_alone():
    for rows in (0, 1, 5 * LEAST, 12 * LEAST, 10**7):
        numba.set_num_threads(1)
        (one,) = room_of_slices(rows, 1000)
        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
        (many,) = room_of_slices(rows, 1000)
        assert one.shape == many.shape and not one.any()
        assert len(one) == 1 or (len(one) in COUNTS and rows // len(one) >= LEAST)
    assert [len(part) for part in room_of_slices(10**7, 1 << 22, 1 << 22)] == [6, 6]  # 192 MB


def test_a_sum_goes_from_the_first_slice_to_the_last(generator):
    for slices in (1, 2, 12, 24):
        parts = torch.randn(slices, 3001, generator=generator)
        total = parts[0].clone()
        for part in parts[1:]:
            total += part
        assert torch.equal(summed(parts), total)


def main() -> None:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    write_ball(folder)
    (folder / "photographs").mkdir()
    write_photographs(folder / "photographs")
    data, field, training, more = CASES[kind]
    settings = {"kind": kind, "data": {"path": str(folder / data), **more}, "field": field}
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        numba.set_num_threads(threads)
        config = make_config({**settings, "training": {"steps": 15, **training}}, "test")
        train(config, folder / str(threads))
        tensors = load_field(folder / str(threads))[0].state_dict()
        found.append(hashlib.sha256(b"".join(v.numpy().tobytes() for v in tensors.values())).hexdigest())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
