"""What is said of a model whose blocks are given more than the state."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from localprobe.cli.app import main
from localprobe.runs.manifest import described


def test_it_is_said_where_overwriting_changes_nothing(
    tiny_file: Callable[[str], Path], own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tiny_file("gemma4"))
    assert main(["models", "info", path]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "can be probed yes written the state alone: each block also has an input" in told
    assert "from layer 4 on, no block looks at the states of past tokens" in told

    asked = ["probe", "one two three", "-m", path, "-p", "random", "--max-tokens", "1", "--json"]
    assert main(asked) == 0
    document = json.loads(capsys.readouterr().out)
    model = document["model"]
    assert model["written"] == "state, not per-layer inputs"
    assert (model["past_shared_from"], model["past_unread_from"]) == (3, 4)
    assert "nothing looks at past tokens from layer 4 on" in described(model)
    rows = {row["layer"]: row["p_clean"] for row in document["rows"]}
    clean = document["baseline"]["p_clean"] if "p_clean" in document["baseline"] else rows[5]
    assert rows[4] == rows[5] == clean
    assert rows[0] != clean


def test_nothing_is_said_of_other_models(
    tiny_file: Callable[[str], Path], own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "info", str(tiny_file("llama")), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert not {"written", "past_shared_from", "past_unread_from"} & record.keys()
    assert record["has_inputs"] is False
