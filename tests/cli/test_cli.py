"""The command line through its runner, on a tiny model."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny
from helpers.helps import COMMANDS, EXAMPLE

from localprobe.api import Model, swap
from localprobe.cli.app import main
from localprobe.cli.commands import show_swap
from localprobe.errors import ModelError
from localprobe.llama.check import check

Run = Callable[..., tuple[int, str, str]]
TEXT = r"in Chad now\nand:"
ESCAPE = "\x1b"


@pytest.fixture
def run(
    own_cache: Path,
    tiny_file: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """run(*arguments, model="llama") -> exit code, stdout, stderr, with the tiny model."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)

    def call(*arguments: str, model: str | None = "llama") -> tuple[int, str, str]:
        chosen = ["-m", str(tiny_file(model))] if model else []
        code = main([*arguments, *chosen])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def document(result: tuple[int, str, str]) -> Any:
    code, out, _ = result
    assert code == 0
    return json.loads(out)


# What works


def test_probe_json(run: Run) -> None:
    result = document(run("probe", TEXT, "--patch", "random,freeze", "--layers", "0,2", "--json"))
    assert result["prompt"] == "in Chad now\nand:"
    assert [token["text"] for token in result["tokens"]][:3] == ["i", "n", " "]
    assert set(result["model"]) == {
        "name",
        "path",
        "sha256",
        "architecture",
        "n_layer",
        "n_embd",
        "file_type",
    }
    assert (result["model"]["architecture"], result["model"]["n_layer"]) == ("llama", 4)
    places = [(row["patch"], row["layer"]) for row in result["rows"]]
    assert places == [("random", 0), ("random", 2), ("freeze", 2)]
    for row in [result["baseline"], *result["rows"]]:
        assert len(row["top"]) == 5
        assert set(row["top"][0]) == {"id", "text", "logit", "prob"}
        assert isinstance(row["text"], str)


def test_probe_json_says_what_survives_and_what_was_written(run: Run) -> None:
    result = document(
        run("probe", TEXT, "-p", "random,freeze", "--at", "Chad", "--seeds", "3", "--json")
    )
    assert result["at"] == [3, 4, 5, 6]
    assert result["injected"] is None
    assert set(result["survives_from"]) == {"random", "freeze"}
    assert result["first_token"]["id"] == result["baseline"]["top"][0]["id"]
    assert result["baseline"]["p_clean"] == pytest.approx(result["baseline"]["top"][0]["prob"])
    for row in result["rows"]:
        assert [draw["seed"] for draw in row["draws"]] == (
            [0, 1, 2] if row["patch"] == "random" else []
        )
        assert 0 <= row["p_low"] <= row["p_clean"] <= row["p_high"] <= 1
        clean = [draw["is_clean"] for draw in row["draws"]] or [row["is_clean"]]
        assert row["clean_share"] == pytest.approx(sum(clean) / len(clean))
        assert row["is_clean"] == all(clean)


def test_probe_json_names_what_was_injected(run: Run) -> None:
    words = shlex.split("-p inject --donor 'in Mali now' --at Chad --donor-at ali --json")
    injected = document(run("probe", TEXT, *words))["injected"]
    assert (injected["at"], injected["donor_at"]) == ([3, 4, 5, 6], [4, 4, 5, 6])
    assert injected["token_for_token"] is False
    assert [token["text"] for token in injected["donor_tokens"]] == list("in Mali now")
    assert injected["text"] == (
        "`C|h|a|d` (3–6) gets `a|l|i` (4–6); 3 tokens for 4: paired from the end, "
        "the first 2 get the same"
    )


def test_an_index_is_one_token(run: Run) -> None:
    words = shlex.split("-p inject --donor 'in Mali now' --at 6 --donor-at Mali --json")
    injected = document(run("probe", TEXT, *words))["injected"]
    assert (injected["at"], injected["donor_at"]) == ([6], [6])
    assert injected["text"] == "`d` (6) gets `i` (6); 4 tokens for 1: only the last of them"


def test_without_a_name_what_writes_to_tokens_is_made_at_them(run: Run) -> None:
    result = document(run("probe", TEXT, "--at", "3", "--layers", "2", "--json"))
    assert [row["patch"] for row in result["rows"]] == ["random", "shuffle", "freeze"]
    _, out, _ = run("probe", TEXT, "--at", "Chad", "--layers", "2")
    assert "written to: `C|h|a|d` (3–6) alone" in out


def test_swap_says_what_p_and_follows_are(run: Run) -> None:
    result = document(run("swap", TEXT, "Chad", "Mali", "--json"))
    assert set(result["parting"]) == {"shared", "original", "modified"}
    _, out, _ = run("swap", TEXT, "Chad", "Mali")
    said = " ".join(out.split())
    assert "P: of `" in said
    assert "follows: whose" in said
    help_ = " ".join(run("swap", "--help", model=None)[1].split())
    assert "From the flip layer on, every answer shown follows OLD" in help_


def test_the_seed_moves_the_random_draws_and_nothing_else(run: Run) -> None:
    def rows(seed: str) -> Any:
        arguments = ["probe", TEXT, "-p", "random,skip", "--layers", "1", "--seed", seed]
        return document(run(*arguments, "--json"))["rows"]

    first, again, other = rows("0"), rows("0"), rows("1")
    assert first == again
    assert first[0]["top"] != other[0]["top"]
    assert first[1] == other[1]


def test_probe_table_is_plain_when_piped(run: Run) -> None:
    code, out, _ = run("probe", TEXT, "--max-tokens", "2")
    assert code == 0
    assert ESCAPE not in out
    header = next(line for line in out.splitlines() if "layer" in line)
    assert header.split() == ["layer", "random", "shuffle", "freeze", "skip"]
    assert max(map(len, out.splitlines())) <= 80


def test_inject_by_word_and_by_index_is_the_same(run: Run) -> None:
    by_word = document(
        run(
            "probe",
            TEXT,
            *shlex.split("-p inject --donor 'in Mali now' --at Chad --donor-at Mali --json"),
        )
    )
    by_index = document(
        run("probe", TEXT, *shlex.split("-p inject --donor 'in Mali' --at 6 --donor-at -1 --json"))
    )
    assert len(by_word["rows"]) == len(by_index["rows"]) == 4
    # Mali's last token saw the same words before it in both donors, but one swap has four tokens.
    assert by_word["rows"][3] != by_index["rows"][3]


def test_swap_json(run: Run) -> None:
    result = document(run("swap", TEXT, "Chad", "Mali", "--json", "--max-tokens", "2"))
    assert [row["layer"] for row in result["rows"]] == [0, 1, 2, 3]
    for row in result["rows"]:
        assert set(row) == {"layer", "text", "p_original", "p_modified", "follows", "top"}
        assert 0 <= row["p_original"] <= 1
        assert row["follows"] in ("original", "modified", "neither")
    assert result["token_for_token"] is True
    assert result["flip_layer"] in (None, 0, 1, 2, 3)


def test_swap_says_how_unequal_words_were_swapped(run: Run) -> None:
    _, equal, _ = run("swap", TEXT, "Chad", "Mali")
    _, unequal, _ = run("swap", TEXT, "Chad", "Benin")
    assert "swapped token for token, at 3, 4, 5, 6" in equal
    assert "last token of the word only" in " ".join(unequal.split())


def test_answers_that_begin_with_the_same_line_are_shown_whole(
    tiny_file: Callable[[str], Path], own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Model(str(tiny_file("llama"))) as model:
        found = swap(model, "in Chad now\nand:", "Chad", "Mali", max_tokens=2)
        for texts, shown in (
            (("a\nb", "a\nc"), ("a\\nb", "a\\nc")),
            (("a\nb", "c\nb"), ("a", "c")),
        ):
            answers = (replace(found.original, text=text) for text in texts)
            show_swap(replace(found, original=next(answers), modified=next(answers)), 4)
            out = capsys.readouterr().out
            assert f"with Chad: {shown[0]} (original)" in out
            assert f"with Mali: {shown[1]} (modified)" in out


def test_answers_that_may_be_cut_short_are_said(run: Run) -> None:
    sweep = ("sweep", "--task", "math", "--all-examples", "-n", "2", "-p", "skip")
    assert "--max-tokens 2 cuts short" in run(*sweep, "--max-tokens", "2")[2]
    assert "cuts short" not in run(*sweep)[2]


def test_sweep_json(run: Run) -> None:
    result = document(
        run("sweep", "-p", "skip,freeze", "--all-examples", "-n", "3", "--seed", "5", "--json")
    )
    assert (result["task"], result["n"], result["seed"]) == ("capitals", 3, 5)
    assert (result["baseline"]["score"], result["baseline"]["n"]) == (0, 3)
    assert [(row["patch"], row["layer"]) for row in result["rows"]] == [
        *[("skip", layer) for layer in range(4)],
        *[("freeze", layer) for layer in range(1, 4)],
    ]
    row = result["rows"][0]
    assert set(row) == {
        "patch",
        "layer",
        "metric",
        "score",
        "relative",
        "low",
        "high",
        "n",
        "interval",
        "ties_low",
        "ties_high",
        "assumed",
    }
    assert row["ties_low"] <= row["score"] <= row["ties_high"]
    assert (row["score"], row["relative"], row["n"], row["metric"]) == (0, None, 3, "exact_match")
    assert set(result["transitions"]) == {"skip", "freeze"}


def test_the_batch_size_changes_nothing(run: Run) -> None:
    arguments = ("sweep", "--all-examples", "-n", "5", "-p", "random,freeze", "--json")
    one, five = (document(run(*arguments, "--batch", size)) for size in ("1", "5"))
    assert one == five


def test_sweep_table(run: Run) -> None:
    code, out, _ = run("sweep", "--all-examples", "-n", "2", "--layers", "2:")
    assert code == 0
    assert ESCAPE not in out
    assert "clean model: 0.00 on the 2 examples tried (95 % 0–66 %)" in out
    assert re.search(r"^ +2  0\.00", out, re.MULTILINE)
    assert re.search(r"^freeze +there is nothing to lose", out, re.MULTILINE)


def test_sweep_without_a_right_answer_is_a_problem_found(run: Run) -> None:
    code, out, err = run("sweep", "-p", "skip", "--template", r"{country}\n")
    assert (code, out) == (1, "")
    assert "none of the 195 examples right" in err


def test_bench(run: Run) -> None:
    result = document(run("bench", "-n", "2", "--json"))
    assert [each["patch"] for each in result["interventions"]] == [
        *("random", "shuffle", "freeze", "skip", "swap")
    ]
    for each in [*result["interventions"], result["total"]]:
        assert each["ratio"] == pytest.approx(each["full_s"] / each["resume_s"])
        assert each["efficiency"] == pytest.approx(each["floor_s"] / each["resume_s"])
    assert all(each["ms_per_token"] > 0 for each in result["prefill"])
    _, out, _ = run("bench", "-n", "2")
    assert re.search(r"^together +\d", out, re.MULTILINE)


def test_both_engines_say_the_same(run: Run) -> None:
    """Through the command line: the same rows, but for the last digits of the logits."""

    def texts(engine: str, *arguments: str) -> Any:
        rows = document(run(*arguments, "--engine", engine, "--json"))["rows"]
        return [{k: v for k, v in row.items() if k in ("layer", "text", "score")} for row in rows]

    for arguments in (
        ("probe", TEXT),
        ("swap", TEXT, "Chad", "Mali"),
        ("sweep", "--all-examples", "-n", "3", "-p", "random,shuffle,freeze,skip,swap"),
    ):
        assert texts("full", *arguments) == texts("resume", *arguments)


def test_where_resuming_is_not_exact_whole_passes_are_made_and_said(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_model: object) -> None:
        raise ModelError("other logits")

    monkeypatch.setattr("localprobe.models.opening.check_resume", fail)
    code, _, err = run("probe", TEXT, "-p", "skip", "--layers", "3")
    assert (code, err.count("\n")) == (0, 1)
    assert "computing whole passes, which is slower and gives the same results: other logits" in err


def test_tokens(run: Run) -> None:
    code, out, _ = run("tokens", r"[red]a\n" + "\x1b[1m")
    assert code == 0
    assert "'\\n'" in out
    assert "'\\x1b'" in out
    assert ESCAPE not in out
    tokens = document(run("tokens", "ab", "--json"))["tokens"]
    assert tokens == [{"id": 256, "text": "ab"}]


def test_prompt_from_a_file_and_from_standard_input(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "prompt.txt"
    path.write_bytes("in Chad\r\nnow\n".encode("utf-8-sig"))
    assert document(run("tokens", f"@{path}", "--json"))["prompt"] == "in Chad\nnow"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"from a pipe\n")))
    assert document(run("tokens", "-", "--json"))["prompt"] == "from a pipe"


def test_models(run: Run, tiny_file: Callable[[str], Path]) -> None:
    code, out, _ = run("models", model=None)
    assert code == 0
    assert re.search(r"^smollm2-135m +llama +98 MB +no ", out, re.MULTILINE)
    listed = document(run("models", "list", "--json", model=None))
    assert {"name", "architecture", "size", "cached"} <= set(listed[0])
    info = document(run("models", "info", str(tiny_file("gemma3")), "--json", model=None))
    assert (info["architecture"], info["n_layer"], info["can_probe"]) == ("gemma3", 7, True)
    assert info["interventions"] == dict.fromkeys(
        ("random", "shuffle", "freeze", "skip", "inject", "swap")
    )
    _, out, _ = run("models", "info", str(tiny_file("mamba")), model=None)
    assert "with random, shuffle, freeze, inject, swap; not with skip, since without" in " ".join(
        out.split()
    )
    info = document(run("models", "info", str(tiny_file("mamba")), "--json", model=None))
    assert "nothing is left" in info["interventions"].pop("skip")
    assert set(info["interventions"].values()) == {None}
    assert "recurrent" in info["whole_passes"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_one_example(command: str, run: Run) -> None:
    code, out, _ = run(*command.split(), "--help", model=None)
    assert code == 0
    (example,) = EXAMPLE.findall(out)
    assert shlex.split(example)[1:][: len(command.split())] == command.split()


def test_no_arguments_is_help(run: Run) -> None:
    code, out, err = run(model=None)
    assert (code, err) == (0, "")
    assert "Commands:" in out


def test_json_before_a_subcommand(run: Run) -> None:
    result = run("models", "--json", "list", model=None)
    assert_one_sentence(result, "--json goes after list")


def test_a_backslash_and_an_n(run: Run) -> None:
    given = run("tokens", r"\\nabla\n", "--json")
    assert document(given)["prompt"] == "\\nabla\n"
    _, out, _ = run("probe", r"\\nabla\n", "--layers", "3", "--max-tokens", "1")
    assert r"prompt: \\nabla\n" in out


def test_injection_says_which_tokens(run: Run) -> None:
    _, out, _ = run(
        *("probe", "is it is so", "-p", "inject", "--layers", "3"),
        *("--donor", "it was", "--at", "is", "--donor-at", "it"),
    )
    assert "injected: `i|s` (6–7) gets `i|t` (0–1)\n" in out


def test_a_part_of_a_word_is_said(run: Run) -> None:
    assert "is a part of a longer word" in run("swap", TEXT, "ha", "ei")[1]
    assert "is a part of a longer word" not in run("swap", TEXT, "Chad", "Mali")[1]


@pytest.mark.parametrize("columns", ["30", "40", "60", "80", "200"])
def test_no_line_is_wider_than_the_terminal(
    columns: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for arguments, model in (
        (["swap", TEXT, "Chad", "Mali"], "llama"),
        (["probe", TEXT], "llama"),
        (["sweep", "--all-examples", "-n", "1", "-p", "skip,swap"], "llama"),
        (["sweep", "--all-examples", "-n", "2"], "llama"),
        (["models"], None),
    ):
        code, out, _ = run(*arguments, model=model)
        if code == 0:
            assert max(map(len, out.splitlines())) <= int(columns), arguments
            assert "…" not in next(line for line in out.splitlines() if "─" in line)


def test_version(run: Run) -> None:
    code, out, _ = run("--version", model=None)
    assert (code, out.split()[0]) == (0, "localprobe")


def test_a_file_of_the_same_size_and_time_is_another_file(
    run: Run, tmp_path: Path, tiny_file: Callable[[str], Path]
) -> None:
    """As cp -p and tar leave them: what was found of one must not be said of the other."""
    path = tmp_path / "m.gguf"
    digests = set()
    for last in (0, 1):
        path.write_bytes(tiny_file("llama").read_bytes()[:-1] + bytes([last]))
        os.utime(path, ns=(0, 0))
        code, out, _ = run("models", "info", str(path), "--json", model=None)
        assert code == 0
        digests.add(json.loads(out)["sha256"])
    assert len(digests) == 2


@pytest.mark.parametrize("name", ["checks.json", "hashes.json"])
def test_broken_memories_are_empty_ones(name: str, run: Run, own_cache: Path) -> None:
    assert run("probe", TEXT, "--layers", "3", "-p", "skip")[0] == 0
    good = json.loads((own_cache / name).read_text(encoding="utf-8"))
    for broken in (5, [], {}, {"noise": "x"}, None, [1, 2], {"state": []}):
        text = json.dumps(dict.fromkeys(good, broken))
        (own_cache / name).write_text(text, encoding="utf-8")
        assert run("probe", TEXT, "--layers", "3", "-p", "skip")[0] == 0
    for text in ("[" * 100_000, "[]", "{", "\0"):
        (own_cache / name).write_text(text, encoding="utf-8")
        assert run("probe", TEXT, "--layers", "3", "-p", "skip")[0] == 0
    assert json.loads((own_cache / name).read_text(encoding="utf-8")).keys() == good.keys()


@pytest.mark.parametrize("noise", ["0x1p99999", "nan"])
def test_a_noise_that_is_none_is_not_believed(noise: str, run: Run, own_cache: Path) -> None:
    sweep = ("sweep", "-n", "2", "--all-examples", "--layers", "3", "-p", "skip", "--json")
    assert document(run(*sweep))["near_ties"] is not None
    file = own_cache / "checks.json"
    known = json.loads(file.read_text(encoding="utf-8"))
    (key,) = (key for key in known if "noise" in key)
    file.write_text(json.dumps({**known, key: noise}), encoding="utf-8")
    assert document(run(*sweep, "--out", "own"))["near_ties"] is None
    assert run("show", "own", model=None)[0] == 0


@pytest.mark.parametrize("digest", [None, 5, "../x", "A" * 64])
def test_a_digest_that_is_none_is_not_believed(digest: object, run: Run, own_cache: Path) -> None:
    tokens = ("probe", TEXT, "--layers", "3", "-p", "skip", "--json")
    expected = document(run(*tokens))
    file = own_cache / "hashes.json"
    known = json.loads(file.read_text(encoding="utf-8"))
    spoilt = {key: {**value, "sha256": digest} for key, value in known.items()}
    file.write_text(json.dumps(spoilt), encoding="utf-8")
    assert document(run(*tokens)) == expected
    assert json.loads(file.read_text(encoding="utf-8")) == known


@pytest.mark.parametrize(
    "settings",
    [
        {"COLUMNS": "²", "LINES": "²"},
        {"COLUMNS": "-3"},
        {"COLUMNS": "9" * 5000},
        {"TQDM_MININTERVAL": "abc", "TQDM_NCOLS": "abc"},
    ],
)
def test_odd_settings_of_the_environment(
    settings: dict[str, str], own_cache: Path, tiny_file: Callable[[str], Path]
) -> None:
    for arguments in (["models"], ["tokens", "a b", "-m", str(tiny_file("llama"))]):
        done = subprocess.run(
            [sys.executable, "-m", "localprobe", *arguments],
            env={**os.environ, "LOCALPROBE_CACHE": str(own_cache), **settings},
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        assert done.returncode == 0
        assert done.stderr == ""


def test_where_there_is_no_home(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(_: str) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("LOCALPROBE_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_path", nowhere)
    assert_one_sentence(run("tokens", "a b"), "set HOME")


# What does not work: one sentence, exit code 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["probe", ""], "the prompt is empty"),
        (["probe", "a \udcff b"], "not valid text"),
        (["probe", "@~no-such-user/x"], "no such user's folder"),
        (["probe", TEXT, "-p", "swap"], "localprobe swap PROMPT OLD NEW"),
        (["probe", TEXT, "-p", "skip,skip"], "named twice"),
        (["probe", TEXT, *shlex.split("-p inject --donor '' --at 0 --donor-at 0")], "donor is"),
        (["probe", TEXT, "--threads", "513"], "--threads"),
        (["probe", TEXT, "--threads", "512"], "512 threads are too many for the"),
        (["probe", TEXT, "--max-tokens", "9" * 30], "shorten the prompt or the answer"),
        (["probe", TEXT, "--seed", "9" * 5000], "--seed"),
        (["probe", TEXT, "--layers", "9" * 5000], "cannot read the layers"),
        (["tokens", "hi", "--offline"], "before the command: localprobe --offline"),
        (["sweep", "--shard", "1/" + "9" * 5000], "--shard must be like"),
        (["sweep", "--batch", "257"], "--batch"),
        (["probe", TEXT, "--engine", "resum"], "did you mean resume"),
        (["probe", TEXT, "--ctx", "513"], "more than the 512"),
        (["probe", TEXT, "--gpu-layers", "1"], "built for a GPU"),
        (["probe", r" \n "], "the prompt is empty"),
        (["probe", "x"], "single token"),
        (["probe", "@nowhere.txt"], "cannot read the prompt nowhere.txt"),
        (["probe", TEXT, "-p", "noise"], "unknown intervention 'noise'"),
        (["probe", TEXT, "-p", "frezee"], "did you mean freeze"),
        (["probe", TEXT, "-p", ","], "no intervention was named"),
        (["probe", TEXT, "--layers", "4"], "no layer 4: the model has layers 0 to 3"),
        (["probe", TEXT, "--layers", "x"], "cannot read the layers 'x'"),
        (["probe", TEXT, "-p", "freeze", "--layers", "0"], "freeze is defined from layer 1"),
        (["probe", TEXT, "--ctx", "8"], "the context holds 8"),
        (["probe", "a" * 600], "the context holds 512"),
        (["probe", "a" * 2_000_000], "far too long for a context of 512"),
        (["probe", TEXT, "--ctx", "-1"], "--ctx"),
        (["probe", TEXT, "--max-tokens", "0"], "--max-tokens"),
        (["probe", TEXT, "-p", "inject"], "inject needs --donor"),
        (["probe", TEXT, "--donor-at", "3"], "are for --patch inject"),
        (["probe", TEXT, "-p", "skip", "--at", "3"], "skip writes to no tokens"),
        (["probe", TEXT, "-p", "freeze", "--at", "15"], "last token of the prompt"),
        (["probe", TEXT, "--at", "chad"], "did you mean 'Chad'?"),
        (["probe", TEXT, "-p", "freeze", "--seeds", "2"], "--seeds is for random and shuffle"),
        (["probe", TEXT, "--seeds", "0"], "--seeds"),
        (["swap", TEXT, "Peru", "Mali"], "'Peru' is not in the prompt"),
        (["swap", TEXT, "chad", "Mali"], "not in the prompt; did you mean 'Chad'?"),
        (["swap", TEXT, "and:", "x"], "last token"),
        (["swap", TEXT, "Chad", "Chad"], "same word"),
        (["sweep", "--task", "capital"], "did you mean capitals"),
        (["sweep", "-p", "swop"], "did you mean swap"),
        (["sweep", "-n", "0"], "-n"),
        (["sweep", "--template", "x"], "{country}"),
        (["sweep", "--shots", "9"], "--shots must be 0 to 8, not 9"),
        (["sweep", "--shots", "2", "--template", "{country}"], "write the solved ones out"),
        (["sweep", "--prompts", "modle"], "unknown prompts 'modle'; did you mean model"),
        (["map", TEXT, "--shots", "2"], "--shots is for maps over a task"),
        (["sweep", "--template", "{country}" + "a" * 600], "the context holds 512"),
        (["tokens", ""], "the prompt is empty"),
        (["prob", TEXT], "Did you mean 'probe'"),
        (["probe", TEXT, "--layer", "3"], "--layers"),
    ],
)
def test_wrong_use(arguments: list[str], message: str, run: Run) -> None:
    assert_one_sentence(run(*arguments), message)


@pytest.mark.parametrize(
    ("at", "donor_at", "message"),
    [
        ("99", "0", "position 99 is outside the prompt, whose tokens are 0 to 15"),
        ("-1", "0", "last token of the prompt"),
        ("15", "0", "last token of the prompt"),
        ("and:", "0", "last token of the prompt"),
        ("0", "11", "position 11 is outside the donor"),
        ("0", "Peru", "neither a position nor a word of the donor"),
        ("", "0", "neither a position nor a word of the prompt"),
    ],
)
def test_positions_outside(at: str, donor_at: str, message: str, run: Run) -> None:
    result = run(
        *("probe", TEXT, "-p", "inject", "--donor", "in Mali now"),
        *("--at", at, "--donor-at", donor_at),
    )
    assert_one_sentence(result, message)


def test_bad_model_files(run: Run, tmp_path: Path, tiny_file: Callable[[str], Path]) -> None:
    def bad(name: str, data: bytes) -> str:
        path = tmp_path / name
        path.write_bytes(data)
        return str(path)

    good = tiny_file("llama").read_bytes()
    for model, message in (
        ("smollm-135m", "did you mean smollm2-135m"),
        ("missing.gguf", "no model file missing.gguf"),
        (bad("text.gguf", b"no model at all"), "is not a GGUF file"),
        (bad("empty.gguf", b""), "is not a GGUF file"),
        (bad("short.gguf", good[:-1000]), "it is truncated"),
        (bad("header.gguf", good[:500]), "it is truncated"),
        (bad("magic.gguf", good[:6]), "it is truncated"),
    ):
        assert_one_sentence(run("probe", TEXT, "-m", model, model=None), message)
    result = run("probe", TEXT, "-p", "skip", "-m", str(tiny_file("mamba")), model=None)
    assert_one_sentence(result, "skip cannot be made with mamba.gguf: without its attention")


def test_a_folder_is_not_a_model(run: Run, tmp_path: Path) -> None:
    (tmp_path / "folder.gguf").mkdir()
    result = run("probe", TEXT, "-m", str(tmp_path / "folder.gguf"), model=None)
    assert_one_sentence(result, "no model file")


def test_broken_models_toml(run: Run) -> None:
    Path("models.toml").write_text("[mine]\nsize = ", encoding="utf-8")
    assert_one_sentence(run("models", model=None), "models.toml, line 2: not valid TOML")


def assert_one_sentence(result: tuple[int, str, str], message: str) -> None:
    code, out, err = result
    assert code == 2, err
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("localprobe: ")
    assert "Traceback" not in err
    assert re.search(message, err), err


def test_the_installed_module_runs(own_cache: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "localprobe", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_tiny_model_has_what_these_tests_rely_on(tiny_file: Callable[[str], Path]) -> None:
    from localprobe.llama.model import Model

    with Model(tiny_file("llama")) as model:
        check(model)
        assert model.info.n_vocab == tiny.N_VOCAB
        assert len(model.tokenize("in Chad now\nand:")) == 16
