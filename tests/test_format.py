"""What version 2 of the `.sine` file adds: names beside numbers, kinds that others register, notes, arrays, bounds."""

import itertools
import json
import math
import random
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import second_decoder
import torch
from test_compress import SMALL, quantised, radiance_field, sealed, shape_field

from sinefield.adapters.file import load_packed as load_adapter
from sinefield.compress.container import Packed, decode, encode
from sinefield.compress.note import NOTE_WORDS, note_in, note_out
from sinefield.compress.reader import Reader, name, text, varint
from sinefield.compress.settings import BASE, FORMS, settings_in, settings_out
from sinefield.compress.tensors import Coded, bf16_bytes, bf16_values, decode_uniform
from sinefield.compress.values import object_in, object_out
from sinefield.errors import SinefieldError
from sinefield.store.sine_files import _shapes, to_packed

GOLDEN = Path(__file__).parent / "golden"


# --- NumPy reads what torch wrote


def test_bfloat16_is_torch_s_bit_for_bit():
    rng = np.random.default_rng(0)
    bits = np.concatenate([rng.integers(0, 1 << 32, 100_000), np.arange(0, 1 << 32, 1 << 15)]).astype(np.uint32)
    values = bits.view(np.float32)
    values = values[~np.isnan(values)]
    rounded = torch.from_numpy(values).to(torch.bfloat16)
    assert bf16_bytes(values) == rounded.view(torch.int16).numpy().tobytes()
    assert bf16_values(bf16_bytes(values)).tobytes() == rounded.float().numpy().tobytes()


@pytest.mark.parametrize("per_row", [False, True])
def test_values_are_torch_s_bit_for_bit(per_row):
    rng = np.random.default_rng(1)
    levels = rng.integers(-(1 << 15), 1 << 15, (300, 40))
    steps = bf16_values(rng.integers(0, 1 << 15, 2 * 300, np.uint16).tobytes())
    steps = np.where(np.isfinite(steps), steps, 1).astype(np.float32).reshape(2, 300, 1)
    if not per_row:
        steps = steps[:, :1].reshape(2)
    step, offset = (np.asarray(part) for part in steps)
    expected = torch.from_numpy(levels).float() * torch.from_numpy(step.copy()) + torch.from_numpy(offset.copy())
    assert decode_uniform(levels, step, offset).tobytes() == expected.numpy().tobytes()


def test_reading_needs_no_torch(tmp_path):
    """Fields of NumPy alone: in a process that never imports torch, the values are those of this one."""
    field = radiance_field(width=12, rank=3, depth=3, frequencies=2, features=4, head_width=8, grid=12)
    data = encode(to_packed(field, quantised(field), {"seed": 1}))
    (tmp_path / "a.sine").write_bytes(data)
    code = """
import sys, zlib
sys.path.insert(0, sys.argv[1])
import second_decoder
from sinefield.compress.container import decode
packed = decode(open(sys.argv[2], "rb").read(), lambda kind, s: second_decoder.shapes_of(2, s)[0], "a.sine")
print(zlib.crc32(b"".join(coded.values().tobytes() for coded in packed.tensors.values())))
print([name for name in ("torch", "numba", "yaml", "sinefield.config") if name in sys.modules])
"""
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", code, here, tmp_path / "a.sine"], capture_output=True, text=True, cwd=Path(here).parent
    )
    tensors = decode(data, _shapes, "a.sine").tensors.values()
    assert done.stdout.split("\n")[:2] == [str(zlib.crc32(b"".join(c.values().tobytes() for c in tensors))), "[]"], done


# --- choices and settings


@pytest.mark.parametrize("setting", [key for key, form in FORMS.items() if isinstance(form, tuple)])
def test_a_choice_without_a_number_is_stored_by_its_name(setting):
    kind = next(kind for kind in BASE if setting in BASE[kind])
    settings = {**BASE[kind], setting: "Mine, für mich"}
    data = settings_out(kind, settings)
    assert settings_in(kind, Reader(data)) == settings
    number = {"shape": 1, "radiance": 2, "image": 3, "shapes": 5}[kind]
    base = {1: second_decoder.SHAPE, 2: second_decoder.RADIANCE, 3: second_decoder.IMAGE, 5: second_decoder.SHAPES}
    assert second_decoder.settings_of(second_decoder.Bytes(data), base[number]) == settings
    with pytest.raises(ValueError, match="choice 255 is unknown"):
        settings_in(kind, Reader(data, version=1))


def test_a_setting_without_a_number_is_stored_by_its_name():
    settings = {**BASE["shape"], "blocks_of_mine": [3, 4.5, {"a": None}], "width": 7}
    data = settings_out("shape", settings)
    assert settings_in("shape", Reader(data)) == settings
    assert second_decoder.settings_of(second_decoder.Bytes(data), second_decoder.SHAPE) == settings
    with pytest.raises(ValueError, match="setting 0"):
        settings_in("shape", Reader(data, version=1))


def test_names_are_short_and_can_be_shown():
    assert Reader(name("é" * 32)).name() == "é" * 32
    for bad in ("", "é" * 33, "a\nb", "\x1b[2J"):
        with pytest.raises(ValueError, match="the name"):
            name(bad)
        with pytest.raises(ValueError):
            Reader(text(bad)).name()


def test_a_choice_that_is_unknown_here_is_named():
    field = shape_field(**SMALL)
    packed = to_packed(field, quantised(field), {})
    packed.settings["activation"] = "wobble"
    with pytest.raises(SinefieldError, match=r"^a\.sine.*activation is 'wobble'"):
        decode(encode(packed), _shapes, "a.sine")


# --- kinds that others register

ARRAYS = {
    "centre": np.array([1.5, -2.25, 1e-40], np.float64),
    "scale": np.array(0.1, np.float32),
    "order": np.arange(-3, 3).reshape(2, 3),
    "occupied": np.arange(33).reshape(3, 11) % 3 == 0,
    "nothing": np.zeros((0, 4), np.float32),
}
SETTINGS = {"levels": 3, "sides": [4, 5], "activation": "wobble", "how": {"a": 0.25, "b": None, "c": True}}
SHAPES = {"table": (5, 4), "bias": (4,), "gain": ()}


def custom(note=None):
    rng = np.random.default_rng(0)
    tensors = {key: Coded(rng.integers(-3, 4, shape), np.float32(0.5), np.float32(0)) for key, shape in SHAPES.items()}
    tensors["table"] = Coded(rng.integers(0, 3, (5, 4)), entries=np.array([-1, 0.5, 2], np.float32))
    note = {"seed": 3, "author": "Ä", "data": {"path": "skimage:cat.png"}} if note is None else note
    return Packed("toy/planes", dict(SETTINGS), None, tensors, note=note, arrays=ARRAYS)


def custom_shapes(kind, settings):
    if kind != "toy/planes":
        raise SinefieldError(f"holds a field of the kind {kind}")
    return SHAPES


def test_a_registered_kind_comes_back_whole():
    packed = custom()
    back = decode(encode(packed), custom_shapes, "a.sine")
    assert (back.kind, back.settings, back.note) == (packed.kind, SETTINGS, packed.note)
    assert back.arrays.keys() == ARRAYS.keys()
    for key, array in ARRAYS.items():
        assert back.arrays[key].dtype == array.dtype and back.arrays[key].shape == array.shape
        assert back.arrays[key].tobytes() == array.tobytes()
    for key, coded in packed.tensors.items():
        assert back.tensors[key].values().tobytes() == coded.values().tobytes()
    kind, settings, arrays, values, note = second_decoder.decode_registered(encode(packed), custom_shapes)
    assert (kind, settings, note) == (packed.kind, SETTINGS, packed.note)
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[key], array)
    for key in SHAPES:
        np.testing.assert_array_equal(values[key], packed.tensors[key].values())


def test_an_unknown_kind_is_refused_by_its_name():
    with pytest.raises(SinefieldError, match=r"^a\.sine.*toy/planes"):
        decode(encode(custom()), _shapes, "a.sine")


@pytest.mark.parametrize("array", [np.zeros(3, np.float16), np.zeros(2, np.complex64), np.array(["a"])])
def test_arrays_of_other_types_are_refused(array):
    packed = custom()
    packed.arrays = {"centre": array}
    with pytest.raises(SinefieldError, match=r"centre is .*; should be float32"):
        encode(packed)


# --- notes

NOTES = [
    {"seed": 0, "seconds": 60, "data": {"path": "$SINEFIELD_DATA/meshes/armadillo.obj"}, "iou": [0.9861, 0.9788]},
    {"seed": 0, "seconds": 180, "data": {"path": "$SINEFIELD_DATA/lego", "downscale": 2}, "psnr": [30.1512, 29.9876]},
    {"seed": 0, "seconds": 60, "data": {"path": "skimage:astronaut.png"}, "psnr": [30.3512, 30.2012]},
    {"seed": 0, "seconds": 2400, "data": {"path": "families:"}, "iou": [0.9012, 0.8923]},
    {"seed": 7, "steps": 1500, "seconds": 33, "data": {}, "iou": [0.9791, 0.9673]},
]


def deflated(note):
    """As version 1 has it."""
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=NOTE_WORDS)
    return squeezer.compress(json.dumps(note, separators=(",", ":"), sort_keys=True).encode()) + squeezer.flush()


@pytest.mark.parametrize("note", NOTES)
def test_a_usual_note_takes_no_more_than_in_version_1(note):
    data = note_out(note)
    assert len(data) <= len(deflated(note))
    assert note_in(data, 2) == note and note_in(deflated(note), 1) == note
    assert second_decoder.Bytes(data).object() == note


def any_value(rng, depth=0):
    kinds = ["null", "yes", "whole", "float", "decimal", "tiny", "text", "begun", "list", "object"]
    kind = rng.choice(kinds if depth < 4 else kinds[:8])
    return {
        "null": lambda: None,
        "yes": lambda: rng.random() < 0.5,
        "whole": lambda: rng.choice([0, 1, -1, 2**53, 2**63 - 1, -(2**63), rng.randrange(-(10**6), 10**6)]),
        "float": lambda: rng.choice([1, -1]) * math.ldexp(rng.random(), rng.randrange(-1070, 1024)),
        "decimal": lambda: round(rng.uniform(-1000, 1000), rng.randrange(8)),
        "tiny": lambda: rng.choice([0.0, -0.0, 5e-324, 1e22, 1e-7, 1e308, 1e15, 123456789012345.6]),
        "text": lambda: "".join(rng.choices('aé€𝄞 \n\0"', k=rng.randrange(9))),
        "begun": lambda: rng.choice(second_decoder.BEGINNINGS) + rng.choice(["", "a/b.obj"]),
        "list": lambda: [any_value(rng, depth + 1) for _ in range(rng.randrange(4))],
        "object": lambda: {rng.choice(["seed", "path", "a", "", "ö"]): any_value(rng, depth + 1) for _ in range(3)},
    }[kind]()


def test_plain_data_come_back_bit_for_bit():
    rng = random.Random(0)
    for _ in range(2000):
        content = {str(i): any_value(rng) for i in range(rng.randrange(4))}
        data = object_out(content)
        for found in (object_in(Reader(data)), second_decoder.Bytes(data).object()):
            assert repr(found) == repr(content)  # −0.0 and 1.0 are not 0 and 1


def test_numpy_s_float64_is_a_float():
    assert note_out({"iou": [np.float64(0.9946), 0.5]}) == note_out({"iou": [0.9946, 0.5]})


BAD = [
    ({"steps": 10**400}, "steps is a whole number beyond 64 bits"),
    ({"seed": 2**63}, "beyond 64 bits"),
    ({"data": {"noise": math.nan}}, "data.noise is nan"),
    ({"iou": [0.5, -math.inf]}, "iou is -inf"),
    ({"data": {"a": [[[[[[[[1]]]]]]]]}}, "nested too deep"),
    ({"author": b"x"}, "author is a bytes"),
    ({3: 1}, "key 3"),
    ({"title": "x" * 70_000}, "at most 65,536"),
]


@pytest.mark.parametrize(("note", "why"), BAD)
def test_what_no_note_can_hold_is_said(note, why):
    with pytest.raises(SinefieldError, match=why) as error:
        encode(custom(note))
    assert "toy/planes" in str(error.value)


LIES = {  # a count, then members
    "a key twice": varint(2) + b"\1\0\1\0",
    "key 99": varint(1) + b"\x63\0",
    "tag 9": varint(1) + b"\1\x09",
    "beginning 40": varint(1) + bytes([1, 32 + 40]) + text("x"),
    "too deep": varint(1) + b"\4\7" + b"\1\5\6\1" * 9 + b"\0",
    "many lists": varint(1) + b"\5\6" + b"\1\6" * 30_000 + b"\0",
    "a long text": varint(1) + b"\5\5" + varint(1 << 60),
    "a long list": varint(1) + b"\5\6" + varint(1 << 60),
    "not finite": varint(1) + b"\1\4" + np.float64(np.inf).tobytes(),
    "not a number": varint(1) + b"\1\4" + np.float64(np.nan).tobytes(),
    "beyond 64 bits": varint(1) + b"\1\3" + b"\xff" * 9 + b"\x7f",
    "a digit more": varint(1) + b"\1\3" + b"\xff" * 10 + b"\1",
    "bytes left over": varint(1) + b"\1\0\0",
    "no UTF-8": varint(1) + b"\5\5" + b"\1\xff",
    "seconds of text": varint(1) + b"\3" + b"\5" + text("long"),
    "data of numbers": varint(1) + b"\4" + b"\3\1",
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_in_a_note_are_one_line(lie):
    body = bytearray(encode(custom({}))[9:])
    at = body.index(b"nothing") + len("nothing") + 4  # type, axes, lengths; then the note's length
    assert body[at] == 0
    note = LIES[lie]
    body[at : at + 1] = varint(len(note)) + note
    refused(sealed(body))


@pytest.mark.parametrize("digits", ["1" + "0" * 400, "1e999", "NaN", "-Infinity", "9" * 5000, "18446744073709551616"])
def test_odd_numbers_in_a_note_of_version_1_are_one_line(digits):
    for note in ('{"steps":%s}', '{"data":{"a":[%s]}}'):
        squeezer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=NOTE_WORDS)
        data = squeezer.compress((note % digits).encode()) + squeezer.flush()
        with pytest.raises(ValueError, match=r"its note has (the number|a whole number beyond)"):
            note_in(data, 1)


# --- whoever damages files


def refused(data, shapes=custom_shapes):
    with pytest.raises(SinefieldError, match=r"^bad\.sine") as error:
        decode(data, shapes, "bad.sine")
    assert "\n" not in str(error.value) and len(str(error.value)) <= 600


def survives(data, shapes=custom_shapes):
    try:
        decode(data, shapes, "bad.sine")
    except SinefieldError as error:
        assert str(error).startswith("bad.sine") and "\n" not in str(error)


def named_field():
    """A known kind with a choice, a setting and a note that are stored by name."""
    field = shape_field(**SMALL)
    packed = to_packed(field, quantised(field), {"title": "a", "steps": 3, "iou": [0.5, 0.25]})
    packed.settings |= {"activation": "wobble", "mine": 0.5}
    shapes = _shapes("shape", field_settings(field))
    return encode(packed), lambda kind, settings: shapes


def field_settings(field):
    return {key: getattr(field.config, key) for key in BASE["shape"]}


@pytest.mark.parametrize("which", ["custom", "named"])
def test_cut_or_flipped_with_a_checksum_that_holds(which):
    data, shapes = (encode(custom()), custom_shapes) if which == "custom" else named_field()
    body = data[9:]
    for end in range(1, len(body)):
        if (len(body) - end) % 4 == 0:  # the coder's words that are left may be other levels'
            survives(sealed(body[:end]), shapes)
        else:
            refused(sealed(body[:end]), shapes)
    for at in range(8 * len(body)):
        flipped = bytearray(body)
        flipped[at // 8] ^= 1 << at % 8
        survives(sealed(flipped), shapes)


def test_arrays_are_bounded_by_the_file():
    head = b"\xff" + name("toy/planes") + object_out({})
    tracemalloc.start()
    long = 1 << 31
    for kind, axes in itertools.product(range(5), ([long] * 8, [long], [long, long, 1], [long] * 7 + [0])):
        refused(sealed(head + varint(1) + name("a") + bytes([kind]) + varint(len(axes)) + b"".join(map(varint, axes))))
    refused(sealed(head + varint(1) + name("a") + b"\0" + varint(9) + b"\1" * 9))
    refused(sealed(head + varint(1 << 40)))
    refused(sealed(head + varint(2) + 2 * (name("a") + b"\0\0" + bytes(4))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_kind_with_a_number_is_not_named():
    refused(sealed(b"\xff" + name("shape") + varint(0)))


# --- what a file may cost


def test_tables_are_bounded_by_the_file():
    """Each of 200 tensors claims 65,536 levels in eleven bytes."""
    shapes = {f"t{i}": (1,) for i in range(200)}
    row = bytes([0]) + bf16_bytes(np.float32(1)) + b"\0" + varint(65535) + varint(0) + bytes([127, 255])
    body = b"\xff" + name("toy/planes") + object_out({}) + varint(0) + varint(0) + row * 200
    tracemalloc.start()
    with pytest.raises(SinefieldError, match=r"its tables have 786,432 levels in 2,024 bytes"):
        decode(sealed(body), lambda kind, settings: shapes, "bad.sine")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_steps_too_fine_for_a_file_are_said():
    rng = np.random.default_rng(0)
    levels = rng.integers(-(1 << 15), 1 << 15, 3)
    levels[:2] = -(1 << 15), (1 << 15) - 1
    tensors = {f"t{i}": Coded(levels, np.float32(1), np.float32(0)) for i in range(8)}
    with pytest.raises(SinefieldError, match="take larger steps"):
        encode(Packed("toy/planes", {}, None, tensors))
    tensors = {"t": Coded(np.array([-(1 << 15), 1 << 15]), np.float32(1), np.float32(0))}
    with pytest.raises(SinefieldError, match=r"65,537 levels"):
        encode(Packed("toy/planes", {}, None, tensors))


def edit_of(cells):
    target = {"kind": "sine", "rank": 1, "alpha": 1.0, "omega": 2.0, "transposed": False, "rows": 3, "columns": 4}
    edit = {"of": "radiance", "base": 7, "box": None, "grid": cells.shape[:2]}
    tensors = {
        "network.weights.0.a": Coded(np.ones((1, 4), int), np.float32(1), np.float32(0)),
        "network.weights.0.b": Coded(np.ones((3, 1), int), np.float32(1), np.float32(0)),
    }
    return Packed("adapter", {"targets": {"network.weights.0": target}, "edit": edit}, None, tensors, cells=cells)


@pytest.mark.parametrize("change", ["none", "one", "block", "corners"])
def test_an_edit_of_a_large_grid_codes_the_block_that_changes(change, tmp_path):
    cells = np.zeros((512, 64, 64), bool)
    if change == "one":
        cells[511, 0, 63] = True
    if change == "block":
        cells[40:60, 50:53, 30:58] = np.random.default_rng(0).random((20, 3, 28)) < 0.3
    if change == "corners":
        cells[0, 0, 0] = cells[-1, -1, -1] = True
        with pytest.raises(SinefieldError, match="too large for a file of"):
            encode(edit_of(cells))  # all of it in some hundred bytes, which no reader would take
        return
    data = encode(edit_of(cells))
    (tmp_path / "a.sine").write_bytes(data)
    np.testing.assert_array_equal(load_adapter(tmp_path / "a.sine").cells, cells)
    np.testing.assert_array_equal(second_decoder.decode(data)[3], cells)
    assert len(data) < 500


def test_a_grid_is_bounded_by_the_file():
    packed = edit_of(np.ones((8192, 8, 8), bool))
    with pytest.raises(SinefieldError, match="524,288 cells in 8,192 planes"):
        encode(packed)
    data = bytearray(encode(edit_of(np.ones((4, 4, 4), bool))))
    body = data[9:].replace(varint(4) + varint(4) + b"\1\0", varint(8192) + varint(512) + b"\1\0", 1)
    block = b"\0\4\0\4\0\4"
    assert body.count(block) == 1
    body = body.replace(block, b"\0" + varint(8192) + b"\0" + varint(512) + b"\0" + varint(512))
    with pytest.raises(SinefieldError, match=r"claims .* 2,147,483,648 cells"):
        decode(sealed(body), adapter, "bad")


def adapter(kind, settings):
    return {"network.weights.0.a": (1, 4), "network.weights.0.b": (3, 1)}


def test_a_block_lies_within_its_grid():
    data = encode(edit_of(np.ones((4, 4, 4), bool)))
    block = b"\0\4\0\4\0\4"
    for lie in (b"\1\4\0\4\0\4", b"\5\0\0\4\0\4", b"\0\4\0\4\0\5"):
        refused(sealed(data[9:].replace(block, lie)), adapter)


# --- files of version 1


FIRST = sorted(path for path in GOLDEN.glob("*.sine") if path.read_bytes()[4] == 1)


@pytest.mark.parametrize("path", FIRST, ids=lambda path: path.name)
def test_a_file_of_version_1_becomes_one_of_version_2(path):
    data = path.read_bytes()
    assert len(FIRST) >= 23
    read = lambda data: decode(data, lambda k, s: shapes_of(k, s), "a.sine")  # noqa: E731
    old = read(data)
    new_data = encode(old)
    new = read(new_data)
    assert new_data[4] == 2 and len(new_data) <= len(data) + 10
    assert (new.kind, repr(new.settings), new.note, new.size) == (old.kind, repr(old.settings), old.note, old.size)
    for part in ("box", "cells", "view", "frame", "background"):
        np.testing.assert_array_equal(getattr(new, part), getattr(old, part))
    for key, coded in old.tensors.items():
        assert coded.values().tobytes() == new.tensors[key].values().tobytes()


def shapes_of(kind, settings):
    from sinefield.compress.adapter_table import tensor_shapes

    return tensor_shapes(settings) if kind == "adapter" else _shapes(kind, settings)
