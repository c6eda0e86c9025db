"""Flash attention beside exact one: what is proved, promised and chosen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ARCHITECTURES

import localprobe
from localprobe.cli.app import main
from localprobe.engine.interventions import by_name, names
from localprobe.engine.proof import check_resume, moved_by_flash
from localprobe.engine.resume import ResumeEngine
from localprobe.errors import LocalprobeError
from localprobe.llama.check import check
from localprobe.llama.model import EXACT, FLASH, Model
from localprobe.llama.quantizing import quantize
from localprobe.models import opening

Files = Callable[[str], Path]
PROMPTS = [[11, 42, 7, 99, 3, 14, 15], [11, 42, 7, 92, 65, 35, 89, 79, 32], [200, 7, 5]]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_what_is_checked_and_proved_of_exact_attention_holds_of_flash(
    arch: str, tiny_file: Files
) -> None:
    with Model(tiny_file(arch), threads=1, attention=FLASH) as model:
        check(model)
        assert check_resume(model) < 0.1
        assert 0 < moved_by_flash(model) < 0.1
        assert model.attention == FLASH


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gemma3", "gpt2"])
def test_both_engines_are_equal(arch: str, tiny_file: Files) -> None:
    """As near as float16 keys and values allow in decodes of other shapes."""
    with Model(tiny_file(arch), threads=1, attention=FLASH) as model:
        engine = ResumeEngine(model)
        layers = range(model.n_layer)
        runs = engine.clean(PROMPTS, layers, max_tokens=1, stops=[None] * 3)
        for name in names(with_donor=False):
            kind = by_name(name, 0)
            for i, layer, answer in list(
                engine.run(
                    runs,
                    [kind] * 3,
                    layers[kind.first_layer :],
                    max_tokens=1,
                    examples=range(3),
                    stops=[None] * 3,
                )
            ):
                whole = engine.answer(
                    PROMPTS[i], max_tokens=1, intervention=kind, layer=layer, example=i
                )
                np.testing.assert_allclose(answer.logits, whole.logits, atol=0.05)


def test_the_way_may_be_changed_and_changed_back(tiny_file: Files) -> None:
    with Model(tiny_file("llama"), threads=1) as model:
        exact = model.plain_logits(PROMPTS[0])
        model.attention = FLASH
        flash = model.plain_logits(PROMPTS[0])
        model.attention = EXACT
        assert np.array_equal(model.plain_logits(PROMPTS[0]), exact)
        assert not np.array_equal(flash, exact)
        np.testing.assert_allclose(flash, exact, atol=0.05)


@pytest.fixture(scope="module")
def bf16_file(tiny_file: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bf16") / "half.gguf"
    quantize(tiny_file("llama"), path, "bf16")
    return path


@pytest.mark.parametrize("way", [EXACT, FLASH])
def test_written_rows_are_the_same_for_any_threads_layers_and_shards(
    way: str, bf16_file: Path, own_cache: Path, tmp_path: Path
) -> None:
    def rows(name: str, threads: int = 1, **settings: object) -> list[str]:
        with localprobe.Model(bf16_file, threads=threads, attention=way) as model:
            localprobe.sweep(
                model,
                "capitals",
                ["random", "freeze"],
                out=tmp_path / name,
                all_examples=True,
                n=4,
                max_tokens=3,
                progress=False,
                **settings,
            )
        return (tmp_path / name / "rows.jsonl").read_text("utf-8").splitlines()

    whole = rows("one")
    assert rows("two", threads=2) == whole
    assert set(rows("some", layers="2:")) <= set(whole)
    shards = [rows(f"shard{i}", shard=localprobe_shard(i)) for i in (1, 2)]
    assert sorted(row for shard in shards for row in shard) == sorted(whole)


def localprobe_shard(number: int) -> object:
    from localprobe.runs.shard import parse_shard

    return parse_shard(f"{number}/2")


@pytest.mark.parametrize(
    ("noise", "moved", "way"), [(0.2, 0.1, FLASH), (0.1, 0.2, EXACT), (0.1, 0.1, FLASH)]
)
def test_auto_is_flash_where_it_rounds_no_more_than_the_weights_do(
    noise: float,
    moved: float,
    way: str,
    bf16_file: Path,
    tiny_file: Files,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(opening, "check_resume", lambda model: noise)
    monkeypatch.setattr(opening, "moved_by_flash", lambda model: moved)
    with localprobe.Model(bf16_file, threads=1) as model:
        assert model.loaded.model.attention == way
        assert opening.model_record(model.loaded).get("attention", EXACT) == way
    with localprobe.Model(tiny_file("llama"), threads=1) as model:
        assert model.loaded.model.attention == EXACT, "float32 weights round nothing"


def test_runs_of_another_way_are_told_apart(
    bf16_file: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ["sweep", "-p", "skip", "-n", "2", "--all-examples", "--max-tokens", "1"]
    sweep += ["-m", str(bf16_file), "--threads", "1", "--out", "run"]
    assert main([*sweep, "--attention", "flash"]) == 0
    assert "4 blocks, flash attention)" in capsys.readouterr().out
    assert main([*sweep, "--attention", "exact"]) == 2
    assert "attention" in capsys.readouterr().err


def test_an_unknown_way(tiny_file: Files, own_cache: Path) -> None:
    with pytest.raises(LocalprobeError, match="unknown attention 'flsh'; did you mean flash"):
        localprobe.Model(tiny_file("llama"), attention="flsh")
