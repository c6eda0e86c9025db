"""A few of the architectures that `architectures.py` goes through, each in a process of its own."""

from __future__ import annotations

from pathlib import Path

import architectures
import pytest

ALL = {"random", "shuffle", "freeze", "skip", "inject"}


@pytest.mark.parametrize(
    ("arch", "engine"),
    [
        ("bloom", "resume"),  # norms its embedding
        ("step35", "resume"),  # has no node called l_out
        ("hy_v4", "resume"),  # has four streams
        ("chameleon", "resume"),  # cannot do without any output
        ("qwen35", "full"),  # linear attention
        ("nemotron_h", "full"),  # blocks of one kind each
        ("exaone4+scales", "resume"),  # weights with scales
        ("glm4moe+nextn", "resume"),  # a block more, which predicts the token after the next
    ],
)
def test_accepted_and_equal_to_whole_passes(arch: str, engine: str, tmp_path: Path) -> None:
    found = architectures.surveyed(arch, tmp_path)
    assert found.get("engine") == engine, found
    assert not found["unlike"]
    assert found["worst"] <= 1e-4
    assert ALL - set(found["refused"]) >= ALL - {"skip"}


def test_refused_rather_than_wrong(tmp_path: Path) -> None:
    found = architectures.surveyed("cogvlm", tmp_path)
    assert "does not give the logits of its last token" in found["error"]
    found = architectures.surveyed("rwkv7", tmp_path)
    assert "is not all that later blocks see" in found["error"]
    found = architectures.surveyed("gemma4", tmp_path)
    assert set(found["refused"]) == ALL - {"skip"}
    # Some blocks choose for others which tokens these attend to, 8 at most.
    found = architectures.surveyed("glm-dsa", tmp_path)
    assert found["longest"] == 8


def test_every_decoder_is_named_once() -> None:
    assert len(set(architectures.ARCHITECTURES)) == len(architectures.ARCHITECTURES) == 131
