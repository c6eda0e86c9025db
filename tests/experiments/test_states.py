"""Hidden states in files, and back from them as a donor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from localprobe import LocalprobeError, Model, probe, states
from localprobe.cli.app import main
from localprobe.engine.full import FullEngine
from localprobe.files.tensors import Spool, read

PROMPTS = ("in Chad, now", "by Peru, now")


def run(tiny_file: Callable[[str], Path], *arguments: str) -> int:
    return main(["states", *arguments, "-m", str(tiny_file("llama")), "--threads", "1"])


def test_they_are_those_of_the_engine(model: Model) -> None:
    found = states(model, PROMPTS[0])
    tokens = model.loaded.model.tokenize(PROMPTS[0])
    clean = FullEngine(model.loaded.model).states(tokens, range(4))
    assert found.values.shape == (4, len(tokens), 32)
    for layer in range(4):
        np.testing.assert_array_equal(found.values[layer], clean[layer])
    last = states(model, PROMPTS[0], layers=[1, 3], positions="last")
    assert last.layers == (1, 3) and last.positions == (len(tokens) - 1,)
    np.testing.assert_array_equal(last.values[1, 0], clean[3][-1])
    word = states(model, PROMPTS[0], positions="Chad")
    assert word.texts == ("C", "h", "a", "d") and word.positions == (3, 4, 5, 6)
    np.testing.assert_array_equal(word.values[2], clean[2][3:7])


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_many_prompts_in_a_file(
    tiny_file: Callable[[str], Path], model: Model, tmp_path: Path, suffix: str
) -> None:
    path, prompts = tmp_path / f"found.{suffix}", tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "by Peru, now"}\n\n{"prompt": "x\\ny"}\n', "utf-8")
    assert run(tiny_file, PROMPTS[0], "--prompts", str(prompts), "-o", str(path)) == 0
    found = read(path)
    assert found.names == ("states.0", "states.1", "states.2")
    for number, prompt in enumerate((*PROMPTS, "x\ny")):
        expected = states(model, prompt)
        np.testing.assert_array_equal(found[f"states.{number}"], expected.values)
        about = found.about["arrays"][f"states.{number}"]
        assert about["prompt"] == prompt and about["tokens"] == list(expected.tokens)
    assert found.about["layers"] == [0, 1, 2, 3]
    assert found.about["model"]["sha256"] == model.loaded.sha256


def test_float16_is_half_as_large(
    tiny_file: Callable[[str], Path], model: Model, tmp_path: Path
) -> None:
    path = tmp_path / "found.safetensors"
    assert run(tiny_file, PROMPTS[0], "--dtype", "float16", "-o", str(path)) == 0
    expected = states(model, PROMPTS[0]).values
    assert expected.nbytes // 2 < path.stat().st_size < expected.nbytes
    np.testing.assert_allclose(read(path)["states.0"], expected, rtol=1e-3, atol=1e-4)


def test_an_interrupted_one_is_gone_on_with(
    tiny_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole = tmp_path / "found.safetensors", tmp_path / "whole.safetensors"
    assert run(tiny_file, *PROMPTS, "-o", str(whole)) == 0
    add, added = Spool.add, []

    def interrupted(self: Spool, name: str, *rest: object) -> None:
        if added:
            raise KeyboardInterrupt
        added.append(name)
        add(self, name, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Spool, "add", interrupted)
        assert run(tiny_file, *PROMPTS, "-o", str(path)) == 130
    assert not path.exists()
    monkeypatch.setattr(
        Spool, "add", lambda self, name, *rest: (added.append(name), add(self, name, *rest))
    )
    assert run(tiny_file, *PROMPTS, "-o", str(path)) == 0
    assert added == ["states.0", "states.1"]
    assert path.read_bytes() == whole.read_bytes()


def test_states_of_a_file_are_injected_as_those_of_the_prompt(
    tiny_file: Callable[[str], Path], model: Model, tmp_path: Path
) -> None:
    path = tmp_path / "donor.safetensors"
    assert run(tiny_file, "zz", PROMPTS[1], "-o", str(path)) == 0
    for layer in range(4):
        by_text = probe(
            model, PROMPTS[0], "inject", donor=PROMPTS[1], at=4, donor_at=5, layers=layer
        )
        by_file = probe(
            model, PROMPTS[0], "inject", donor=f"{path}#1", at=4, donor_at=5, layers=layer
        )
        assert [row.top for row in by_file.rows] == [row.top for row in by_text.rows]
    # Changed in numpy, by another program, and put back.
    steered = read(path)["states.1"].copy()
    steered[2, 5] = 0
    np.savez(tmp_path / "steered.npz", steered)
    donor = str(tmp_path / "steered.npz")
    other = probe(model, PROMPTS[0], "inject", donor=donor, at=4, donor_at=5, layers=2)
    assert (
        other.rows[0].top
        != probe(model, PROMPTS[0], "inject", donor=PROMPTS[1], at=4, donor_at=5, layers=2)
        .rows[0]
        .top
    )


@pytest.mark.parametrize("word", ["Rome", "an", "Q", "é", ":", "Rome\nQ"])
def test_a_word_of_a_file_is_found_where_it_is_in_the_text(
    word: str, tiny_file: Callable[[str], Path], model: Model, tmp_path: Path
) -> None:
    """Without the newline behind it, and as a whole word before a part of another."""
    path, donor = tmp_path / "donor.npz", "A: é an Rome\nQ: romance Romeo is"
    assert run(tiny_file, donor, "-o", str(path)) == 0
    by_text, by_file = (
        probe(model, PROMPTS[0], "inject", donor=each, at="Chad", donor_at=word, layers=1)
        for each in (donor, str(path))
    )
    assert by_text.injection is not None and by_file.injection is not None
    assert by_file.injection.donor.donor_at == by_text.injection.donor.donor_at
    assert [row.top for row in by_file.rows] == [row.top for row in by_text.rows]
    assert by_file.injection.text.replace(" of donor.npz", "") == by_text.injection.text


def test_what_cannot_be_done_is_said(
    tiny_file: Callable[[str], Path],
    model: Model,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "donor.safetensors"
    assert run(tiny_file, PROMPTS[1], "--layers", "1,2", "-o", str(path)) == 0
    np.savez(tmp_path / "wide.npz", np.zeros((4, 3, 33), np.float32))
    np.savez(tmp_path / "nan.npz", np.full((4, 3, 32), np.nan, np.float32))
    (tmp_path / "no.npz").write_bytes(b"none")
    for donor, place, said in (
        (str(path), 5, "no states at layer 0"),
        (f"{path}#1", 5, "no array states.1"),
        (str(tmp_path / "wide.npz"), 0, "tokens x 32"),
        (str(tmp_path / "nan.npz"), 0, "not finite"),
        (str(tmp_path / "no.npz"), 0, "damaged"),
        (str(tmp_path / "nowhere.npz"), 0, "cannot read"),
    ):
        with pytest.raises(LocalprobeError, match=said):
            probe(model, PROMPTS[0], "inject", donor=donor, at=4, donor_at=place)
    with pytest.raises(LocalprobeError, match="position 99 is outside"):
        probe(model, PROMPTS[0], "inject", donor=str(path), at=4, donor_at=99, layers=[1, 2])
    with pytest.raises(LocalprobeError, match="never written to"):
        probe(model, PROMPTS[0], "inject", donor=str(path), at=-1, donor_at=0, layers=[1, 2])
    capsys.readouterr()
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a b"}\n{"promt": "a b"}\n', "utf-8")
    for arguments, said in (
        ((PROMPTS[0], "-o", str(tmp_path / "found.txt")), ".safetensors"),
        ((PROMPTS[0], "-o", str(tmp_path / "no" / "found.npz")), "no folder"),
        (("-o", str(tmp_path / "found.npz")), "no prompt"),
        ((PROMPTS[0], "--dtype", "float61", "-o", str(tmp_path / "found.npz")), "float16"),
        ((PROMPTS[0], "--positions", "Peru", "-o", str(tmp_path / "found.npz")), "Peru"),
        (("--prompts", str(bad), "-o", str(tmp_path / "found.npz")), "line 2"),
    ):
        assert run(tiny_file, *arguments) == 2
        out, err = capsys.readouterr()
        assert said in err and err.count("\n") == 1 and out == ""
