"""Models in several files: one of them is given, and all are read, hashed, vetted and loaded."""

from __future__ import annotations

import hashlib
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny

from localprobe.errors import ModelError
from localprobe.files.parts import joint_sha256, parts_of, total_size
from localprobe.llama.model import Model
from localprobe.models import opening as models
from localprobe.models.header import read_header
from localprobe.models.prepare import prepare

N_PARTS = 4


@pytest.fixture
def first(own_cache: Path, tmp_path: Path) -> Path:
    """The first part of the tiny llama."""
    return tiny.write(tiny.build("llama"), tmp_path / "m.gguf", part=12)


def part(first: Path, number: int) -> Path:
    return first.with_name(f"m-{number:05}-of-{N_PARTS:05}.gguf")


def test_a_model_in_parts_is_the_model(first: Path, tiny_file: Callable[[str], Path]) -> None:
    whole = tiny_file("llama")
    assert parts_of(first) == tuple(part(first, n) for n in range(1, N_PARTS + 1))
    assert total_size(first) > whole.stat().st_size
    found, expected = read_header(first), read_header(whole)
    assert {t.name: (t.kind, t.shape, t.size) for t in found.tensors} == {
        t.name: (t.kind, t.shape, t.size) for t in expected.tensors
    }
    name, path, digest = models.find(str(first))
    assert (name, path) == ("m", first)
    texts = [hashlib.sha256(each.read_bytes()).hexdigest() for each in parts_of(first)]
    assert digest == joint_sha256(texts) == hashlib.sha256("".join(texts).encode()).hexdigest()
    with Model(path, threads=1) as one, Model(whole, threads=1) as other:
        tokens = other.tokenize("one two")
        assert np.array_equal(one.plain_logits(tokens), other.plain_logits(tokens))


def test_any_part_stands_for_all(first: Path) -> None:
    assert models.find(str(part(first, 3))) == models.find(str(first))


def test_a_change_of_a_later_part_is_another_model(first: Path) -> None:
    before = models.locate(str(first))[2]
    last = part(first, N_PARTS)
    data = bytearray(last.read_bytes())
    data[-1] ^= 1
    last.write_bytes(data)
    assert models.locate(str(first))[2] != before


def test_prepared_it_is_one_file(first: Path) -> None:
    name, path = prepare(*models.find(str(first)), "q8_0")
    assert name == "m@q8_0"
    assert models.find(f"{part(first, 2)}@q8_0")[:2] == models.find(name)[:2] == (name, path)
    assert parts_of(path) == (path,)


def test_weights_of_later_parts_are_looked_at(own_cache: Path, tmp_path: Path) -> None:
    shape = tiny.build("llama")
    shape.weights["blk.3.ffn_up.weight"][3, 4] = np.nan
    first = tiny.write(shape, tmp_path / "m.gguf", part=12)
    with pytest.raises(ModelError, match=r"blk\.3\.ffn_up\.weight are finite"):
        models.find(str(first))


def number(key: bytes, value: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        at = data.index(key) + len(key) + 4
        data[at : at + 2] = struct.pack("<H", value)

    return change


@pytest.mark.parametrize(
    ("at", "change", "message"),
    [
        (2, lambda data: data.__delitem__(slice(len(data) - 100, None)), "m-00002.*truncated"),
        (3, number(b"split.no", 1), r"m-00003.*says that it is part 2, and its name says 3"),
        (4, number(b"split.count", 9), "m-00004.*one of 4 parts, and its header does not"),
        (1, lambda data: data.__setitem__(slice(0, 4), b"GGML"), "m-00001.*not a GGUF"),
    ],
)
def test_a_spoilt_part_is_named(
    at: int, change: Callable[[bytearray], None], message: str, first: Path
) -> None:
    data = bytearray(part(first, at).read_bytes())
    change(data)
    part(first, at).write_bytes(data)
    with pytest.raises(ModelError, match=message):
        models.find(str(first))


def test_parts_with_the_same_tensors_are_refused(first: Path) -> None:
    data = bytearray(part(first, 2).read_bytes())
    number(b"split.no", 2)(data)
    part(first, 3).write_bytes(data)
    with pytest.raises(ModelError, match=r"m-00003.*of an earlier part again"):
        models.find(str(first))


def test_missing_and_misnamed_parts(first: Path) -> None:
    alone = first.with_name("alone.gguf")
    shutil.copy(first, alone)
    with pytest.raises(ModelError, match=r"should be called NAME-00001-of-00004\.gguf"):
        models.find(str(alone))
    part(first, 3).unlink()
    for each in (first, part(first, 2)):
        with pytest.raises(ModelError, match=r"one of 4 parts, and m-00003-of-00004\.gguf is not"):
            models.find(str(each))
    with pytest.raises(ModelError, match="there is no model file"):
        models.find(str(part(first, 3)))
    odd = first.with_name("m-00007-of-00004.gguf")
    shutil.copy(first, odd)
    with pytest.raises(ModelError, match="part 7 of 4, which cannot be"):
        models.find(str(odd))


def test_a_model_called_its_only_part(
    own_cache: Path, tmp_path: Path, tiny_file: Callable[[str], Path]
) -> None:
    only = tmp_path / "m-00001-of-00001.gguf"
    shutil.copy(tiny_file("llama"), only)
    assert models.find(str(only))[:2] == ("m", only)
