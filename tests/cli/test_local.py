"""models --local and -m ollama:…: what is said, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import home as homes

from localprobe.cli import completion
from localprobe.cli.app import main

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(
    own_cache: Path,
    tmp_path: Path,
    tiny_file: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> Command:
    homes.fill(tmp_path / "home", tiny_file("llama"), tiny_file("qwen2"))

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_the_list_says_what_can_be_probed(command: Command) -> None:
    assert (
        command("probe", "one two", "-m", "ollama:tiny", "-p", "skip", "--max-tokens", "1")[0] == 0
    )
    code, out, err = command("models", "--local")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["arch", "size", "type", "probed", "name"]
    rows = {line.split()[-1]: " ".join(line.split()[:-1]) for line in lines[1:]}
    assert rows["ollama:tiny:latest"] == "llama 197 kB all F32 yes"
    assert rows["ollama:tiny:1b"] == "qwen2 167 kB all F32 likely"
    assert rows["lmstudio:publisher/tiny-GGUF/no.gguf"] == "? 0 kB ? no"
    assert "lmstudio:publisher/tiny-GGUF/no.gguf: it is not a GGUF file" in out
    assert lines[-1].startswith("likely: ")
    skipped = err.splitlines()
    assert all(line.startswith("localprobe: ") and " is skipped: " in line for line in skipped)
    troubled = 18 if homes.LINKS else 11
    assert len(skipped) == troubled
    assert command("models", "list", "--local") == (code, out, err)


def test_the_list_as_json(command: Command) -> None:
    code, out, err = command("models", "--local", "--json")
    assert code == 0
    records = {record["name"]: record for record in json.loads(out)}
    assert len(records) == 13
    tiny = records["hf:owner/tiny-GGUF/tiny.gguf"]
    assert Path(tiny.pop("path")).is_file()
    assert tiny == {
        "name": "hf:owner/tiny-GGUF/tiny.gguf",
        "architecture": "llama",
        "file_type": "all F32",
        "size": 196864,
        "can_probe": None,
        "reason": None,
        "known": True,
    }
    assert records["lmstudio:publisher/tiny-GGUF/half.gguf"]["can_probe"] is False
    assert "ollama:half:latest is skipped" in err


def test_where_there_is_nothing(own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--local"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("no GGUF was found in Ollama's store, LM Studio's folder")
    assert main(["models", "--local", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_runs_say_which_model_it_was(command: Command) -> None:
    few = ["--all-examples", "-p", "skip", "-n", "1", "--max-tokens", "1", "--layers", "1"]
    few += ["--template", "{country}?", "--threads", "1", "--out", "run"]
    assert command("sweep", "-m", "ollama:tiny:1b", *few)[0] == 0
    head = "capitals, another template · tiny:1b (qwen2, all F32, 3 blocks)\n"
    assert command("show", "run")[1].startswith(head)
    # The same weights by another name go on with it.
    assert command("sweep", "-m", "hf:owner/tiny-GGUF/sub/other.gguf", *few)[0] == 0


def test_pull_and_prepare_take_such_names(command: Command, tmp_path: Path) -> None:
    code, _, err = command("models", "pull", "ollama:tiny")
    assert code == 0
    assert err.startswith("ollama:tiny is on this machine: ")
    assert command("models", "pull", "ollama:other")[0] == 2
    err = command("models", "prepare", "lmstudio:big", "--type", "q8_0")[2]
    assert err.splitlines()[-1] == "use it as -m big@q8_0"
    assert command("tokens", "a", "-m", "lmstudio:big@q8_0")[0] == 0
    code, out, _ = command("models", "info", "lmstudio:big")
    assert code == 0
    assert "4; the hash is that of theirs" in out
    code, _, err = command("models", "--local", "info", "ollama:tiny")
    assert (code, "--local lists models" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-m", "ollama", ":", "ti"], ["tiny:1b", "tiny:latest"]),
        (["-m", "ollama", ":", "tiny", ":", ""], ["1b", "latest"]),
        (["-m", "ollama", ":"], ["hf.co/owner/repo-GGUF:Q4_K_M"]),
        (["-m", "hf", ":", "gp"], ["gpt2/gpt2.gguf"]),
        (["-m", "smol"], ["smollm2-135m"]),
    ],
)
def test_bash_cuts_words_at_colons(
    words: list[str], expected: list[str], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["localprobe", "tokens", "x", *words]
    monkeypatch.setenv("_LOCALPROBE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "\n".join(line))
    monkeypatch.setenv("COMP_CWORD", str(len(line) - 1))
    assert command()[1].split()[: len(expected)] == expected


def test_names_in_stores_are_completed(command: Command) -> None:
    assert completion.models("ollama:ti") == ["ollama:tiny:1b", "ollama:tiny:latest"]
    assert "ollama:half:latest" not in completion.models("ollama:")
    assert "smollm2-135m" in completion.models("")
