"""A short form of tests/fuzz_gguf.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fuzz_gguf import FINDING, fuzz, report
from helpers.mutants import MUTATIONS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="without fork each file takes a second")
@pytest.mark.parametrize(
    "each", [3, pytest.param(16, marks=pytest.mark.exhaustive)], ids=["few", "many"]
)
def test_spoilt_files_work_or_are_refused_in_one_sentence(each: int, tmp_path: Path) -> None:
    table, findings = fuzz(each * len(MUTATIONS), seed=11, folder=tmp_path)
    assert findings == [], report(table)
    assert set(table) == set(MUTATIONS)
    total = {outcome for counts in table.values() for outcome in counts}
    assert FINDING not in total
    assert {"opened", "static", "trial"} <= total
