"""Arrays in files: what is written is what is read, by us and by others; damage is said."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localprobe.errors import LocalprobeError
from localprobe.files.tensors import Spool, read

ARRAYS = [np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.ones((1, 0, 4), np.float16)]


def write(path: Path) -> Path:
    with Spool(path, {"of": "this"}) as spool:
        for number, array in enumerate(ARRAYS):
            spool.add(f"states.{number}", array, {"prompt": "x" * number})
        spool.finish({"model": "m"})
    return path


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_what_is_written_is_read(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"found.{suffix}")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    found = read(path)
    assert found.names == ("states.0", "states.1")
    for number, array in enumerate(ARRAYS):
        assert found.shapes[f"states.{number}"] == array.shape
        np.testing.assert_array_equal(found[f"states.{number}"], array)
    assert found.about["model"] == "m"
    assert found.about["arrays"]["states.1"] == {"prompt": "x"}


def test_others_read_it(tmp_path: Path) -> None:
    with np.load(write(tmp_path / "found.npz")) as found:
        np.testing.assert_array_equal(found["states.0"], ARRAYS[0])
        assert found["states.1"].dtype == np.float16
    # By the format as it is published: length, header, data.
    data = write(tmp_path / "found.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    header = json.loads(data[8 : 8 + length])
    assert all(isinstance(value, str) for value in header["__metadata__"].values())
    assert header["states.0"]["dtype"] == "F32" and header["states.0"]["shape"] == [2, 3, 4]
    start, end = header["states.0"]["data_offsets"]
    values = np.frombuffer(data[8 + length + start : 8 + length + end], "<f4")
    np.testing.assert_array_equal(values, ARRAYS[0].ravel())
    assert header["states.1"]["data_offsets"] == [end, end]


def test_others_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "other.npz", h=ARRAYS[0], names=np.array(["a"]))
    found = read(tmp_path / "other.npz")
    assert found.names == ("h",) and not found.about
    np.testing.assert_array_equal(found["h"], ARRAYS[0])


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("cut", [0, 3, 10_000])
def test_one_that_was_left_is_gone_on_with(tmp_path: Path, suffix: str, cut: int) -> None:
    """cut: bytes that were lost of what was written last."""
    whole = write(tmp_path / f"whole.{suffix}").read_bytes()
    path = tmp_path / f"found.{suffix}"
    with Spool(path, {"of": "this"}) as spool:
        spool.add("states.0", ARRAYS[0], {"prompt": ""})
    part = path.with_name(path.name + ".part")
    part.write_bytes(
        part.read_bytes()[: max(0, len(part.read_bytes()) - cut)] + b"half" * (not cut)
    )
    with Spool(path, {"of": "this"}) as spool:
        assert spool.done == (0 if cut else 1)
        for number in range(spool.done, 2):
            spool.add(f"states.{number}", ARRAYS[number], {"prompt": "x" * number})
        spool.finish({"model": "m"})
    if suffix == "safetensors":
        assert path.read_bytes() == whole
    np.testing.assert_array_equal(read(path)["states.0"], ARRAYS[0])
    assert not list(tmp_path.glob("*.part*"))


def test_a_part_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "found.npz"
    with Spool(path, {"of": "this"}) as spool:
        spool.add("states.0", ARRAYS[0], {})
        with pytest.raises(LocalprobeError, match="being written"):
            Spool(path, {"of": "this"})
    with pytest.raises(LocalprobeError, match="something else"):
        Spool(path, {"of": "that"})
    with Spool(path, {"of": "this"}) as spool:
        assert spool.done == 1
    with pytest.raises(LocalprobeError, match="one of"):
        Spool(tmp_path / "found.txt", {})


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@given(st.data())
def test_damage_is_said_in_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    path = write(tmp_path_factory.mktemp("damaged") / f"found.{suffix}")
    whole = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[place] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    try:
        found = read(path)
        for name in found.names:
            assert found[name].shape == found.shapes[name]
    except LocalprobeError as error:
        assert str(path) in str(error)
