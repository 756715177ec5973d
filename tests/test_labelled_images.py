"""Pictures with classes, from files written here byte by byte."""

import numpy as np
import pytest
import torch
from PIL import Image

from sinefield.data.labelled_images import BATCHES, load_labelled_images
from sinefield.errors import SinefieldError


def write_cifar(folder, each=3):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    labels, planes = [], []
    for name in (*BATCHES, "test_batch.bin"):
        rows = []
        for _ in range(each):
            labels.append(int(rng.integers(10)))
            planes.append(rng.integers(0, 256, (3, 32, 32), dtype=np.uint8))
            rows.append(bytes([labels[-1]]) + planes[-1].tobytes())
        (folder / name).write_bytes(b"".join(rows))
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    return labels, planes


@pytest.mark.parametrize("inner", ["", "cifar-10-batches-bin"])
def test_cifars_binary_version(tmp_path, inner):
    labels, planes = write_cifar(tmp_path / inner)
    data = load_labelled_images(tmp_path)
    assert data.labels.tolist() == labels and data.names == tuple("abcdefghij")
    assert data.test.tolist() == [False] * 15 + [True] * 3
    assert data.images.shape == (18, 32, 32, 3)
    assert all(
        data.images[i, y, x, c] == planes[i][c, y, x] for i, y, x, c in ((0, 0, 1, 2), (7, 31, 5, 0), (17, 9, 9, 1))
    )


def test_class_folders(tmp_path):
    for name, colour in (("red", (200, 10, 20)), ("blue", (10, 20, 200))):
        (tmp_path / name).mkdir()
        for i in range(5):
            pixels = np.zeros((20, 40, 3), np.uint8)
            pixels[:, 10:30] = colour  # the middle
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    (tmp_path / "red" / "notes.txt").write_text("not an image")
    data = load_labelled_images(tmp_path, side=8)
    assert data.names == ("blue", "red") and data.images.shape == (10, 8, 8, 3)
    assert data.labels.tolist() == [0] * 5 + [1] * 5 and data.test.tolist() == [False] * 4 + [True] + [False] * 4 + [
        True
    ]
    assert torch.equal(data.images[0], torch.tensor([10, 20, 200], dtype=torch.uint8).expand(8, 8, 3))
    assert torch.equal(data.images[9], torch.tensor([200, 10, 20], dtype=torch.uint8).expand(8, 8, 3))


def test_folders_of_a_split(tmp_path):
    for part, count in (("train", 2), ("val", 1)):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("L", (9, 9), 7).save(tmp_path / part / name / f"{i}.jpg")
    data = load_labelled_images(tmp_path, side=4)
    assert data.labels.tolist() == [0, 0, 1, 1, 0, 1] and data.test.tolist() == [False] * 4 + [True] * 2


def cut(folder):
    path = folder / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-1])


def strange(folder):
    path = folder / "data_batch_2.bin"
    path.write_bytes(b"\x0b" + path.read_bytes()[1:])


def missing(folder):
    (folder / "data_batch_4.bin").unlink()


def pickled(folder):
    for path in folder.iterdir():
        path.unlink()
    (folder / "data_batch_1").write_bytes(b"\x80\x02.")


def one_class(folder):
    for path in folder.iterdir():
        path.unlink()
    (folder / "only").mkdir()


def damaged(folder):
    one_class(folder)
    (folder / "other").mkdir()
    for i in range(5):
        (folder / "only" / f"{i}.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, "data_batch_2.bin: 9,218 bytes are no whole number"),
        (strange, "has a class 11"),
        (missing, "no such batch of CIFAR-10"),
        (pickled, "take the binary version"),
        (one_class, "has 1 class folders"),
        (damaged, "cannot be read"),
    ],
)
def test_refused(tmp_path, spoil, message):
    write_cifar(tmp_path)
    spoil(tmp_path)
    with pytest.raises(SinefieldError, match=message) as error:
        load_labelled_images(tmp_path)
    assert "\n" not in str(error.value)


def test_refused_sides_and_places(tmp_path):
    write_cifar(tmp_path)
    for path, side, message in (
        (tmp_path, 8, "32 pixels a side, not 8"),
        (tmp_path, 0, "between 1"),
        (tmp_path / "x", 32, "is no folder"),
    ):
        with pytest.raises(SinefieldError, match=message):
            load_labelled_images(path, side)
