"""models prepare, list, info and remove: through the command line, on tiny models."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from localprobe.cli.app import main

Command = Callable[..., tuple[int, str, str]]
KEPT = (
    r"on 200 tokens of plain text [\d.]+% of the likeliest next tokens stay, KL divergence [\d.e-]+"
)


@pytest.fixture
def command(
    own_cache: Path, tiny_file: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> Command:
    """command(*arguments) -> exit code, stdout, stderr. m.gguf is the tiny llama, in float32."""
    shutil.copy(tiny_file("llama"), "m.gguf")

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_prepare_says_what_changes_and_what_to_type(command: Command) -> None:
    code, out, err = command("models", "prepare", "m.gguf", "--type", "q8_0")
    assert (code, out) == (0, "")
    lines = err.splitlines()
    assert lines[0] == "converting m to q8_0 ..."
    assert re.fullmatch(f"m@q8_0 against m: {KEPT} nats a token", lines[-2])
    assert lines[-1] == "use it as -m m@q8_0"
    assert "restored" not in err
    assert "slightly" not in err
    assert command("tokens", "a", "-m", "m.gguf@q8_0")[0] == 0
    # A second time nothing is made, and the same is said.
    again = command("models", "prepare", "m.gguf", "--type", "q8_0")[2].splitlines()
    assert again == [line for line in lines if not line.endswith("...")]


def test_prepare_from_a_quantized_file_says_that_nothing_is_restored(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("models", "prepare", "m.gguf", "--type", "q4_0")
    err = command("models", "prepare", "m@q4_0", "--type", "q8_0")[2]
    note = "note: these weights were quantized before (Q4_0), and nothing of what that lost is "
    note += "restored; to compare weight types, prepare each from a file in F16 or F32 "
    note += "that was never quantized"
    assert err.splitlines()[-2:] == [note, "use it as -m m@q4_0@q8_0"]
    few = ["--all-examples", "--template", "{country}?", "-p", "skip", "-n", "2"]
    few += ["--max-tokens", "1", "--threads", "1"]
    for name in ("m.gguf@q4_0", "m@q4_0@q8_0"):
        assert command("sweep", *few, "-m", name, "--out", name)[0] == 0
    told = " ".join(command("compare", "m.gguf@q4_0", "m@q4_0@q8_0")[1].split())
    assert "[2] was made from weights that were Q4_0 already" in told
    assert "+0 says nothing about precision" in told
    assert "[1] was made" not in told
    # The manifest of a run is read wherever it is, and with suspicion.
    file = Path("m@q4_0@q8_0/manifest.json")
    data = json.loads(file.read_text(encoding="utf-8"))
    assert data["model"]["source"]["change"]["n"] == 200
    monkeypatch.setenv("COLUMNS", "120")
    assert "requantised from Q4_0" in command("show", "m@q4_0@q8_0")[1]
    for key, value in (("quantized", 4), ("change", {"n": 1}), ("change", [])):
        spoilt = {**data["model"], "source": {**data["model"]["source"], key: value}}
        file.write_text(json.dumps({**data, "model": spoilt}), encoding="utf-8")
        code, _, err = command("show", "m@q4_0@q8_0")
        assert (code, "is damaged" in err) == (2, True)
    # One of before it said what its model was made from goes on all the same.
    del data["model"]["source"]
    file.write_text(json.dumps({**data, "ended": None, "counts": None}), encoding="utf-8")
    assert command("sweep", *few, "-m", "m@q4_0@q8_0", "--out", "m@q4_0@q8_0")[0] == 0


def test_prepare_where_the_change_cannot_be_measured(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from localprobe.errors import LocalprobeError

    def fail(*_: object) -> None:
        raise LocalprobeError("it needs about 9.0 GB of memory")

    monkeypatch.setattr("localprobe.models.prepare.change", fail)
    code, _, err = command("models", "prepare", "m.gguf", "--type", "f16")
    assert code == 0
    assert "how much that changes could not be measured: it needs about 9.0 GB" in err
    assert err.endswith("use it as -m m@f16\n")


def test_the_lists_have_sizes_of_what_was_prepared(command: Command, own_cache: Path) -> None:
    assert "in the cache:" not in command("models")[1]
    command("models", "prepare", "m.gguf", "--type", "f16")
    out = command("models", "list")[1]
    assert re.search(r"^m@f16 +\d+ kB +yes +\d+\.\d% of next tokens as m \(all F32\)", out, re.M)
    assert re.search(r"^in the cache: \d+ kB; to free some: localprobe models remove", out, re.M)
    listed = json.loads(command("models", "--json")[1])
    assert [each["name"] for each in listed if each["prepared"]] == ["m@f16"]
    assert listed[-1]["size"] == (own_cache / "prepared/m@f16.gguf").stat().st_size
    assert {frozenset(each) for each in listed} == {frozenset(listed[0])}
    out = command("models", "info", "m.gguf@f16")[1]
    assert re.search(r"^made from +m \(all F32\)", out, re.M)
    assert "of the likeliest next tokens" in " ".join(out.split())
    info = json.loads(command("models", "info", "m.gguf@f16", "--json")[1])
    assert info["source"]["change"]["n"] == 200


def test_remove(command: Command, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("f16", "q8_0", "q4_0"):
        command("models", "prepare", "m.gguf", "--type", kind)
    # All or none, and by nobody's accident.
    code, out, err = command("models", "remove", "m@f16", "m@q8", "--yes")
    assert (code, out) == (2, "")
    assert "did you mean m@q8_0" in err
    code, out, err = command("models", "remove", "m@f16", "m.gguf@q8_0")
    assert (code, out) == (2, "")
    asked = r"nobody can be asked whether to remove m@f16 \(\d+ kB\), m@q8_0 \(\d+ kB\); say --yes"
    assert re.fullmatch(f"localprobe: {asked}\n", err)
    assert "m.gguf is a file of yours" in command("models", "remove", "m.gguf", "--yes")[2]

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert len(list((own_cache / "prepared").glob("*.gguf"))) == 3
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    code, out, err = command("models", "remove", "m@f16")
    assert (code, out.strip()) == (1, "")
    assert err.endswith("localprobe: nothing was removed\n")
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    code, _, err = command("models", "remove", "m@f16")
    assert code == 0
    assert re.search(r"removed m@f16: \d+ kB freed\n$", err)
    assert command("models", "remove", "m.gguf@q8_0", "m@q8_0", "-y")[0] == 0
    assert [path.name for path in (own_cache / "prepared").glob("*.gguf")] == ["m@q4_0.gguf"]
    assert Path("m.gguf").is_file()
