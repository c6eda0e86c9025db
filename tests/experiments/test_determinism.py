"""The same rows again: on the quantized default model, as they are written down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from localprobe.api import Model, RunningSweep
from localprobe.experiments.experiment import Experiment
from localprobe.llama.model import FLASH
from localprobe.runs.rows import Row
from localprobe.runs.shard import Shard

BASE = Experiment(
    "capitals",
    ("random", "shuffle", "freeze", "skip", "swap"),
    "2,14,23,29",
    n=3,
    all_examples=True,
    max_tokens=6,
)
Rows = dict[tuple[int, str, int | None], Row]


def rows(model: Model, batch: int = 1, **changes: Any) -> Rows:
    experiment = Experiment(**{**vars(BASE), **changes})
    with RunningSweep(model, experiment, batch=batch) as running:
        found = [row for row in running.rows() if row is not None]
    return {(row.example, row.patch, row.layer): row for row in found}


# Exact is what this model is given by itself; flash on a tiny one: engine/test_attention_ways.py.
@pytest.fixture(
    scope="module", params=["exact", pytest.param("flash", marks=pytest.mark.exhaustive)]
)
def model(default_model: Path, request: pytest.FixtureRequest) -> Iterator[Model]:
    with Model(default_model, attention=request.param) as opened:
        yield opened


@pytest.fixture(scope="module")
def whole(model: Model) -> Rows:
    return rows(model)


@pytest.mark.parametrize(
    "other",
    [
        lambda model: rows(model),
        lambda model: rows(model, layers="14"),
        lambda model: rows(model, layers="2,29"),
        lambda model: rows(model, patches=("swap", "freeze")),
        lambda model: rows(model, shard=Shard(2, 2)) | rows(model, shard=Shard(1, 2)),
    ],
    ids=["rerun", "one layer", "two layers", "two interventions", "shards"],
)
def test_every_bit_is_the_same(other: Callable[[Model], Rows], model: Model, whole: Rows) -> None:
    found = other(model)
    assert len(found) >= 3 * (1 + 2 * 2)
    for key, row in found.items():
        assert row == whole[key]


def test_with_another_number_of_threads(default_model: Path, model: Model, whole: Rows) -> None:
    with Model(default_model, threads=1, attention=model.loaded.model.attention) as single:
        assert rows(single) == whole


@pytest.mark.usefixtures("default_model")
def test_the_default_model_as_it_ships_writes_the_same_rows_in_any_company(tmp_path: Path) -> None:
    """With flash attention; where prompts and neighbouring layers share decodes."""

    def written(model: Model, **changes: Any) -> Rows:
        experiment = Experiment(**{**vars(BASE), "layers": "14,22:25,29", **changes})
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        with RunningSweep(model, experiment, out) as running:
            found = [row for row in running.rows() if row is not None]
        return {(row.example, row.patch, row.layer): row for row in found}

    with Model() as model, Model(threads=1) as single:
        assert model.loaded.model.attention == FLASH
        whole = written(model)
        assert len(whole) == 3 * (1 + 5 * 5)
        assert written(single) == whole
        others = [
            written(model, layers="23"),
            written(model, patches=("skip", "freeze"), layers="23:25"),
            written(model, shard=Shard(2, 2)) | written(model, shard=Shard(1, 2)),
        ]
        for other in others:
            assert other and all(row == whole[key] for key, row in other.items())


@pytest.mark.parametrize(
    "layers", ["10::6", pytest.param("1::3", marks=pytest.mark.exhaustive)], ids=["few", "many"]
)
def test_what_another_batch_turns_is_marked(layers: str, model: Model) -> None:
    """Other batches round otherwise, which in quantized models can turn an answer."""
    some = {"n": 4, "layers": layers}
    alone, together = rows(model, **some), rows(model, batch=4, **some)
    turned = [key for key, row in alone.items() if row.answer != together[key].answer]
    if not turned:
        pytest.skip("on this processor every batch gives the same bits: nothing to be seen")
    assert [key for key in turned if not (alone[key].near_tie or together[key].near_tie)] == []
    for key in turned:
        # And the scores of what it turned into were said to be possible.
        for metric, score in together[key].scores.items():
            low, high = alone[key].could_score(metric)
            least, most = together[key].could_score(metric)
            assert low <= score <= high or least <= alone[key].scores[metric] <= most
    assert sum(row.near_tie for row in alone.values()) < len(alone) / 2
