"""A few of the architectures that `architectures.py` goes through, each in a process of its own."""

from __future__ import annotations

from pathlib import Path

import architectures
import pytest

from localprobe.models.known import KNOWN

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
        ("gemma4", "resume"),  # inputs of each block beside the state
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
    # Some blocks choose for others which tokens these attend to, 8 at most.
    found = architectures.surveyed("glm-dsa", tmp_path)
    assert found["longest"] == 8


def test_gemma3n_is_written_in_all_its_streams(tmp_path: Path) -> None:
    found = architectures.surveyed("gemma3n", tmp_path)
    assert found.get("engine") == "resume", found
    assert not (found["unlike"] or found["refused"]) and found["worst"] <= 1e-3
    # Blocks from 20 on have no keys of their own: they look at those of 18 and 19.
    assert (found["has_inputs"], found["shared"], found["unread"]) == (True, 19, 20)


def test_what_is_known_to_work_is_a_part_of_it() -> None:
    assert set(architectures.ARCHITECTURES) > KNOWN


def test_every_decoder_is_named_once() -> None:
    assert len(set(architectures.ARCHITECTURES)) == len(architectures.ARCHITECTURES) == 131
