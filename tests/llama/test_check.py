"""The self-check: it passes what the oracle covers and refuses what it cannot vouch for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ARCHITECTURES, PARALLEL
from helpers import tiny

import localprobe
from localprobe.errors import LocalprobeError, ModelError
from localprobe.llama import ggml
from localprobe.llama.check import check
from localprobe.llama.graph import Graph
from localprobe.llama.model import Model
from localprobe.llama.residual import ForwardPass
from localprobe.llama.verdict import Verdict
from localprobe.models.opening import choose_engine, judge, open_model

Files = Callable[[str], Path]


@pytest.mark.parametrize("arch", (*ARCHITECTURES, *PARALLEL))
def test_architectures_that_the_oracle_covers_pass(arch: str, tiny_file: Files) -> None:
    with Model(tiny_file(arch), threads=1) as model:
        assert check(model) == Verdict()


def test_what_cannot_be_done_is_refused_with_the_reason(tiny_file: Files) -> None:
    with Model(tiny_file("mamba"), threads=1) as model:
        # Its blocks are nothing but what mixes tokens.
        assert check(model) == Verdict(
            attention="without its attention nothing is left of its blocks"
        )
    with Model(tiny_file("jamba"), threads=1) as model:
        assert check(model) == Verdict()


@pytest.mark.parametrize(
    ("arch", "node"),
    [("llama", b"embd"), ("qwen2", b"embd"), ("gemma3", b"inp_scaled"), ("gpt2", b"inpL")],
)
def test_layer_0_is_found_by_its_place(arch: str, node: bytes, tiny_file: Files) -> None:
    with Model(tiny_file(arch)) as model:
        check(model)
        assert model._state_places().states[0] == (node, 0)


def test_a_wrong_node_for_layer_0_is_found_out(tiny_file: Files) -> None:
    with Model(tiny_file("llama")) as model:
        model.reserve(8)
        found = model._state_places()
        wrong = (b"attn_norm-0", 0)  # the residual stream goes past it
        model._places = replace(found, states=(wrong, *found.states[1:]))
        assert "layer 0 is not all" in check(model).writing


def test_what_blocks_are_given_beside_the_state_is_found(
    tiny_file: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_file("gemma4")
    with Model(path, threads=1) as model:
        # The last two of six blocks look at keys and values of the two before them.
        assert check(model) == Verdict(has_inputs=True, shared=3, unread=4)
    # Made of the state at layer 0, which is written: they must be those of the clean one.
    monkeypatch.setattr("localprobe.llama.aside.Guard.before", lambda *_: None)
    with Model(path, threads=1) as model:
        assert "apart from the inputs" in check(model).writing


def test_states_that_are_not_all_beside_the_inputs_are_found_out(
    tiny_file: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "at_inputs", lambda *_: lambda visitor: visitor)
    with Model(tiny_file("gemma4"), threads=1) as model:
        assert "layer 0 is not all" in check(model).writing


def test_a_write_that_does_not_arrive_is_found_out(
    tiny_file: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ggml, "write", lambda *_: None)
    with Model(tiny_file("llama")) as model:
        assert "layer 0 is not all" in check(model).writing


def test_a_read_that_is_wrong_is_found_out(
    tiny_file: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ggml.read

    def reversed_rows(address: int) -> np.ndarray:
        data = read(address)
        return data[::-1].copy() if data.ndim == 2 else data

    monkeypatch.setattr(ggml, "read", reversed_rows)
    with Model(tiny_file("llama")) as model, pytest.raises(ModelError):
        check(model)


def test_attention_that_stays_on_is_found_out(
    tiny_file: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave_on(self: ForwardPass, address: int) -> None:
        del self._off[address]

    monkeypatch.setattr(ForwardPass, "_drop_attention", leave_on)
    with Model(tiny_file("llama")) as model:
        found = check(model)
    assert "attention cannot be switched off" in found.attention
    assert not found.writing


@pytest.mark.parametrize(("arch", "block"), [("llama", 0), ("llama", 2), ("gemma3", 5)])
def test_attention_that_takes_the_residual_stream_with_it_is_found_out(
    arch: str, block: int, tiny_file: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is zeroed is the sum of both: no token is left on which the answer could depend."""
    made = Graph.__init__

    def with_the_sum(self: Graph, addresses: list[int], *rest: Any) -> None:
        made(self, addresses, *rest)
        found = self.contribution[block]
        self.contribution[block] = next(
            node
            for node in self.block(block)
            if found in self.sources(node) and ggml.at(addresses[node]).op == ggml.OP_ADD
        )

    monkeypatch.setattr(Graph, "__init__", with_the_sum)
    with Model(tiny_file(arch)) as model:
        assert "nothing is left of its last token" in check(model).attention


def test_the_check_runs_once_per_file(
    tiny_file: Files, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(
        "localprobe.models.opening.check", lambda model: calls.append(model) or Verdict()
    )
    for _ in range(2):
        with open_model(str(tiny_file("llama"))):
            pass
    assert len(calls) == 1
    with open_model(str(tiny_file("qwen2"))):
        pass
    assert len(calls) == 2


def test_a_refusal_is_remembered_too(
    tiny_file: Files, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def refuse(model: Model) -> Verdict:
        calls.append(model)
        raise ModelError("it is no good")

    monkeypatch.setattr("localprobe.models.opening.check", refuse)
    for _ in range(2):
        with (
            pytest.raises(ModelError, match="cannot be probed: it is no good"),
            open_model(str(tiny_file("llama")), threads=1),
        ):
            pass
    assert len(calls) == 1


def test_one_intervention_is_refused_and_the_others_work(tiny_file: Files, own_cache: Path) -> None:
    warned: list[str] = []
    with localprobe.Model(tiny_file("mamba"), threads=1, warn=warned.append) as model:
        found = localprobe.probe(model, "a b", max_tokens=1)
        assert found.patches == ("random", "shuffle", "freeze")
        assert any("without skip: without its attention" in each for each in warned)
        assert any("it is recurrent" in each for each in warned)
        with pytest.raises(
            ModelError, match=r"skip cannot be made with mamba.gguf: .*\(these can: "
        ):
            localprobe.probe(model, "a b", ["random", "skip"])
        with pytest.raises(ModelError, match="skip cannot be made"):
            localprobe.sweep(model, "capitals", ["skip"], n=2, progress=False)


def test_what_is_recurrent_is_computed_by_whole_passes(tiny_file: Files, own_cache: Path) -> None:
    for arch in ("mamba", "jamba"):
        with open_model(str(tiny_file(arch)), threads=1) as loaded:
            engine, reason = choose_engine(loaded)
            assert (engine.name, loaded.model.is_recurrent) == ("full", True)
            assert "skip switches off all that mixes tokens" in reason


def test_a_sequence_too_long_for_what_was_found_is_refused(tiny_file: Files) -> None:
    with Model(tiny_file("llama"), threads=1) as model:
        model.verdict = Verdict(longest=3, longest_since="beyond 3 tokens it is another")
        model.check_length(3)
        with pytest.raises(ModelError, match=r"need 4 tokens, .*: beyond 3 tokens it is another"):
            model.check_length(4)


def test_logits_of_another_token_than_the_last_are_found_out(
    tiny_file: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of CogVLM, whose graph makes logits of all rows, of which the first is taken."""
    evaluate = Model.evaluate

    def of_the_first(self: Model, tokens: list[int], start: int, *edit: Any) -> np.ndarray:
        whole = evaluate(self, tokens, start, *edit)
        return whole if start else evaluate(self, tokens[:1], 0, *edit)

    with Model(tiny_file("llama"), threads=1) as model:
        monkeypatch.setattr(Model, "evaluate", of_the_first)
        with pytest.raises(ModelError, match="logits of its last token"):
            check(model)


def test_a_row_alone_may_be_rounded_otherwise(
    tiny_file: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in BF16, whose single rows go through other kernels."""
    evaluate = Model.evaluate

    def rounded(self: Model, tokens: list[int], start: int, *edit: Any) -> np.ndarray:
        logits = evaluate(self, tokens, start, *edit)
        draw = np.random.default_rng(0).uniform(-1, 1, len(logits)).astype(np.float32)
        return logits + (draw if start else 0) * np.float32(0.05 * np.ptp(logits))

    with Model(tiny_file("llama"), threads=1) as model:
        monkeypatch.setattr(Model, "evaluate", rounded)
        assert not check(model).attention


def test_what_was_judged_is_read_back(tiny_file: Files, own_cache: Path) -> None:
    for _ in range(2):
        with Model(tiny_file("mamba"), threads=1) as model:
            assert judge(model, "digest").attention
            assert model.verdict == judge(model, "digest")


@pytest.mark.parametrize(("trained", "asked"), [(512, 4), (8, 0)])
def test_a_short_context_is_no_reason_to_refuse(
    trained: int, asked: int, own_cache: Path, tmp_path: Path
) -> None:
    file = tiny.write(replace(tiny.build("llama"), n_ctx=trained), tmp_path / "short.gguf")
    with localprobe.Model(file, threads=1, ctx=asked) as model:
        found = localprobe.probe(model, "a b", ["skip"], max_tokens=1)
        assert len(found.rows) == model.n_layer
        assert model.engine().name == "resume"
        assert model.loaded.model.ctx == (asked or trained)
        with pytest.raises(LocalprobeError, match=f"the context holds {asked or trained}"):
            localprobe.probe(model, "a b c d e f g h", ["skip"])


@pytest.mark.parametrize(
    ("arch", "like"), [("gemma-embedding", "gemma3"), ("llama-embed", "llama")]
)
def test_embedding_models_are_called_so(
    arch: str, like: str, own_cache: Path, tmp_path: Path
) -> None:
    file = tiny.write(replace(tiny.build(like), arch=arch), tmp_path / "embeds.gguf")
    with (
        pytest.raises(ModelError, match="cannot be probed: it is an embedding model"),
        open_model(str(file)),
    ):
        pass
