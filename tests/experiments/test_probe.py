"""One prompt: what is written where, and what is said of the answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localprobe.api import Model, probe
from localprobe.engine.answers import softmax
from localprobe.engine.full import FullEngine
from localprobe.engine.interventions import Freeze, Inject, Intervention, Random, only_at
from localprobe.errors import LocalprobeError
from localprobe.experiments.probe import (
    Draw,
    ProbeRow,
    gathered,
    named,
    paired,
    survives_from,
)
from localprobe.llama.model import Model as LlamaModel
from localprobe.prompts.encoder import Encoder

TEXT = "in Chad now\nand:"
words = st.lists(st.integers(0, 99), min_size=1, max_size=6, unique=True).map(sorted)


@pytest.fixture(scope="module", params=["resume", "full"])
def model(request: pytest.FixtureRequest, tiny_file: Callable[[str], Path]) -> Model:
    return Model(tiny_file("llama"), threads=1, engine=request.param)


@given(words, words)
def test_words_are_paired_from_the_end_and_written_whole(at: list[int], donor: list[int]) -> None:
    pairs = paired(at, donor)
    n = min(len(at), len(donor))
    assert len(pairs) == len(at)
    assert pairs[-n:] == donor[-n:]
    assert set(pairs[:-n]) <= {donor[0]}
    if len(at) == len(donor):
        assert pairs == donor


def test_tokens_in_words(tiny_engine: Callable[[str], FullEngine]) -> None:
    encoder = Encoder(tiny_engine("llama").model)
    tokens = encoder.tokens(TEXT)
    assert named(encoder, tokens, [3, 4, 5, 6]) == "`C|h|a|d` (3–6)"
    assert named(encoder, tokens, [6, 0, 6]) == "`i` (0), `d` (6)"


def expected(
    model: Model, tokens: tuple[int, ...], kind: Intervention, layer: int, first: int
) -> tuple[str, float]:
    """What whole passes say."""
    engine = FullEngine(model.loaded.model)
    answer = engine.answer(tokens, max_tokens=3, intervention=kind, layer=layer)
    return answer.text, float(softmax(answer.logits)[first])


def test_inject_writes_the_whole_word(model: Model) -> None:
    found = probe(
        model, TEXT, "inject", donor="in Mali now", at="Chad", donor_at="Mali", max_tokens=3
    )
    engine = FullEngine(model.loaded.model)
    donor = engine.states(list(b"in Mali now"), range(model.n_layer))
    kind = Inject(donor, (3, 4, 5, 6), (3, 4, 5, 6))
    assert found.injected == "`C|h|a|d` (3–6) gets `M|a|l|i` (3–6)"
    for row in found.rows:
        text, p_clean = expected(model, found.tokens, kind, row.layer, found.clean.all_tokens[0])
        assert (row.text, row.p_clean) == (text, pytest.approx(p_clean, rel=1e-3))


@pytest.mark.parametrize(("at", "positions"), [("Chad", (3, 4, 5, 6)), (6, (6,)), ("-2", (14,))])
def test_damage_at_some_tokens_alone(at: str | int, positions: tuple[int], model: Model) -> None:
    found = probe(model, TEXT, ["random", "freeze"], at=at, seed=4, max_tokens=3)
    assert found.at == positions
    for row in found.rows:
        kind = only_at(Random(4) if row.patch == "random" else Freeze(), positions)
        text, p_clean = expected(model, found.tokens, kind, row.layer, found.clean.all_tokens[0])
        assert (row.text, row.p_clean) == (text, pytest.approx(p_clean, rel=1e-3))


def test_the_clean_answer_is_marked(model: Model) -> None:
    found = probe(model, TEXT, ["freeze", "skip"], max_tokens=1)
    first = found.clean.all_tokens[0]
    assert found.p_clean == pytest.approx(float(softmax(found.clean.logits).max()))
    for row in found.rows:
        assert row.is_clean == (row.top[0].id == first)
        assert row.draws == ()
        assert row.p_range == (row.p_clean, row.p_clean)
    assert any(row.is_clean for row in found.rows)
    assert not all(row.is_clean for row in found.rows)


def test_several_draws_are_those_of_the_seeds(model: Model) -> None:
    found = probe(model, TEXT, ["random", "freeze"], seed=5, seeds=4, max_tokens=3)
    alone = [probe(model, TEXT, ["random"], seed=seed, max_tokens=3) for seed in range(5, 9)]
    for i, row in enumerate(row for row in found.rows if row.patch == "random"):
        ones = [each.rows[i] for each in alone]
        assert [draw.seed for draw in row.draws] == [5, 6, 7, 8]
        assert [draw.text for draw in row.draws] == [one.text for one in ones]
        shares = [one.p_clean for one in ones if one.p_clean is not None]
        assert [draw.p_clean for draw in row.draws] == pytest.approx(shares, rel=1e-3)
        assert row.p_clean == pytest.approx(sum(shares) / 4, rel=1e-3)
        assert row.p_range == pytest.approx((min(shares), max(shares)), rel=1e-3)
        assert row.n_clean == sum(one.is_clean for one in ones)
        assert (row.text, row.is_clean) == (ones[0].text, row.n_clean == 4)
    assert [len(row.draws) for row in found.rows if row.patch == "freeze"] == [0] * 3


def test_draws_share_decodes(
    tiny_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    part, decodes = LlamaModel.decode_part, 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal decodes
        decodes += 1
        return part(*arguments, **named)

    with Model(tiny_file("llama"), threads=1) as model:
        probe(model, TEXT, "random", max_tokens=1)  # what is done once
        monkeypatch.setattr(LlamaModel, "decode_part", counted)
        probe(model, TEXT, "random", seeds=4, max_tokens=1)
        # One gives each draw its cells.
        assert decodes == model.n_layer + 1


def test_draws_that_are_not_finite_are_left_out_of_the_mean() -> None:
    def row(seed: int, p_clean: float | None) -> ProbeRow:
        is_clean = p_clean is not None
        return ProbeRow(
            "random", 1, "", (), p_clean, is_clean, (Draw(seed, "", p_clean, is_clean),)
        )

    (found,) = gathered([row(2, 0.5), row(1, None), row(0, 0.1)])
    assert (found.p_clean, found.p_range, found.n_clean) == (pytest.approx(0.3), (0.1, 0.5), 2)
    assert [draw.seed for draw in found.draws] == [0, 1, 2]
    (none,) = gathered([row(0, None), row(1, None)])
    assert (none.p_clean, none.p_range, none.is_clean) == (None, (None, None), False)


@given(st.lists(st.booleans()))
def test_what_survives_is_true_of_every_row_from_there_on(clean: list[bool]) -> None:
    rows = [ProbeRow("skip", layer, "", (), 0.5, each) for layer, each in enumerate(clean)]
    found = survives_from(rows)
    if found is None:
        assert not clean or not clean[-1]
    else:
        assert all(clean[found:])
        assert found == 0 or not clean[found - 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patches": "skip", "at": 3}, "skip writes to no tokens"),
        ({"patches": "freeze", "at": -1}, "last token of the prompt"),
        ({"patches": "freeze", "seeds": 2}, "is for random and shuffle"),
        ({"patches": "random", "seeds": 0}, "at least 1"),
        ({"patches": "freeze", "donor": "in Mali"}, "are for --patch inject"),
    ],
)
def test_what_is_refused(arguments: dict[str, object], message: str, model: Model) -> None:
    with pytest.raises(LocalprobeError, match=message):
        probe(model, TEXT, **arguments)  # type: ignore[arg-type]
