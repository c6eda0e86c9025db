"""GGUFs are read with suspicion, then tried in a process that may die."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny

from localprobe.cli.app import main
from localprobe.errors import ModelError
from localprobe.llama import ggml
from localprobe.llama.quantizing import type_name
from localprobe.models import opening as models
from localprobe.models import vetting
from localprobe.models.header import BLOCKS, FILE_TYPES, read_header


def spoilt(path: Path, change: Callable[[bytearray], None], tmp_path: Path) -> Path:
    data = bytearray(path.read_bytes())
    change(data)
    out = tmp_path / "spoilt.gguf"
    out.write_bytes(data)
    return out


def place(data: bytearray, text: bytes) -> tuple[int, int]:
    start = data.index(text)
    return start, start + len(text)


def test_blocks_are_those_of_the_library() -> None:
    block_size = ggml.function("ggml_blck_size", ctypes.c_int64, ctypes.c_int)
    type_size = ggml.function("ggml_type_size", ctypes.c_size_t, ctypes.c_int)
    assert {kind: (block_size(kind), type_size(kind)) for kind in BLOCKS} == BLOCKS


def test_file_types_are_those_of_the_library() -> None:
    known = {number: type_name(number) for number in range(100)}
    assert {n: name for n, name in known.items() if not name.startswith("unknown")} == FILE_TYPES


def test_what_a_header_says(tiny_file: Callable[[str], Path]) -> None:
    path = tiny_file("llama")
    header = read_header(path)
    shape = tiny.build("llama")
    assert len(header.tensors) == len(shape.weights)
    assert sum(tensor.size for tensor in header.tensors) == 4 * sum(
        weight.size for weight in shape.weights.values()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.__setitem__(slice(0, 4), b"GGML"), "not a GGUF"),
        (lambda data: data.__setitem__(slice(4, 8), b"\1\0\0\0"), "version 1"),
        (lambda data: data.__setitem__(slice(8, 16), b"\xff" * 8), "tensors"),
        (lambda data: data.__setitem__(slice(16, 24), b"\xff" * 8), "keys"),
        (lambda data: data.__delitem__(slice(len(data) // 2, None)), "truncated|bytes"),
        (lambda data: data.__delitem__(slice(30, None)), "truncated|end"),
        (
            lambda data: data.__setitem__(slice(*place(data, b"gpt2")), b"rwkv"),
            "of the kind 'rwkv'",
        ),
    ],
)
def test_a_spoilt_header_is_refused_in_one_sentence(
    change: Callable[[bytearray], None],
    message: str,
    tiny_file: Callable[[str], Path],
    own_cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = spoilt(tiny_file("llama"), change, tmp_path)
    assert main(["probe", "one two", "-m", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert re.search(message, err), err


def test_weights_that_are_not_finite_are_refused(own_cache: Path, tmp_path: Path) -> None:
    shape = tiny.build("llama")
    shape.weights["blk.1.ffn_up.weight"][3, 4] = np.nan
    path = tiny.write(shape, tmp_path / "nan.gguf")
    with pytest.raises(ModelError, match=r"blk\.1\.ffn_up\.weight are finite"):
        models.find(str(path))


def test_what_kills_llama_kills_only_the_trial(
    tiny_file: Callable[[str], Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        vetting, "run_child", lambda _path, _seconds: (-6, "ggml.c:5: GGML_ASSERT(x) failed")
    )
    with pytest.raises(ModelError, match=r"llama.cpp aborts on it \(GGML_ASSERT\(x\) failed\)"):
        models.find(str(tiny_file("llama")))

    def hangs(_path: Path, seconds: float) -> tuple[int, str]:
        raise subprocess.TimeoutExpired("python", seconds)

    monkeypatch.setattr(vetting, "run_child", hangs)
    with pytest.raises(ModelError, match="did not come to an end"):
        models.find(str(tiny_file("llama")))


@pytest.mark.parametrize("letter", ["1", "漢"])
def test_a_tokenizer_that_recurses_for_every_character(
    letter: str, tiny_file: Callable[[str], Path], own_cache: Path, tmp_path: Path
) -> None:
    """llama.cpp reads these tokenizers' patterns by std::regex, which overflowed the stack."""

    def change(data: bytearray) -> None:
        _, key = place(data, b"tokenizer.ggml.pre")
        start, end = place(data[key:], b"gpt-2")
        data[key + start : key + end] = b"bloom"

    model = spoilt(tiny_file("llama"), change, tmp_path)
    prompt = tmp_path / "prompt.txt"
    for length, message in ((150_000, "the context holds"), (500_001, "far too long|in a row")):
        prompt.write_text("b" + length * letter, encoding="utf-8")
        command = [sys.executable, "-m", "localprobe", "probe", f"@{prompt}", "-m", str(model)]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60)
        assert done.returncode == 2, done.stderr[-500:]
        assert done.stderr.count("\n") == 1
        assert re.search(message, done.stderr)


def test_a_good_file_is_tried_once(
    tiny_file: Callable[[str], Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.find(str(tiny_file("llama")))
    monkeypatch.setattr(vetting, "run_child", None)
    models.find(str(tiny_file("llama")))
