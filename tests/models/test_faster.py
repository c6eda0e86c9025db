"""The line that says that other weights would take half the time: when, and what is to be typed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from localprobe.cli import advice
from localprobe.cli.app import main
from localprobe.files.cache import sha256_of
from localprobe.llama import rearranged
from localprobe.llama.model import Model
from localprobe.models import faster as faster_weights
from localprobe.models import speed
from localprobe.models.faster import Faster, better_build, faster, remember
from localprobe.models.opening import LoadedModel
from localprobe.models.prepare import prepare, prepared_path
from localprobe.models.speed import TypeSpeed

N_LAYER = 4
MINUTE = 60_000.0
HALF = [TypeSpeed("bf16", 1.0, 400), TypeSpeed("f32", 4.0, 800)]


@pytest.fixture
def opened(tiny_file: Callable[[str], Path], own_cache: Path) -> LoadedModel:
    path = tiny_file("llama")
    return _loaded("llama", path)


def _loaded(name: str, path: Path) -> LoadedModel:
    """All that is asked of a model that is open."""
    model = SimpleNamespace(path=path, placement=None, n_layer=N_LAYER)
    return LoadedModel(name, sha256_of(path), cast(Model, model))


@pytest.fixture(autouse=True)
def whole_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 ms a row, multiplications and all."""
    monkeypatch.setattr(faster_weights, "_whole", lambda _model: 4.0)


def rows(minutes: float) -> float:
    """Rows through a block that take so long."""
    return minutes * MINUTE / 4.0 * N_LAYER


@pytest.mark.parametrize(
    ("file_type", "minutes", "said"),
    [("Q4_1", 2.0, True), ("Q4_1", 0.9, False), ("IQ4_XS", 2.0, True), ("BF16", 2.0, False)],
)
def test_another_build_is_named_before_what_it_would_shorten(
    opened: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    file_type: str,
    minutes: float,
    said: bool,
) -> None:
    monkeypatch.setattr(opened.model, "info", SimpleNamespace(file_type=file_type), raising=False)
    monkeypatch.setattr(rearranged, "advice", lambda: "build it so")
    assert better_build(opened, rows(minutes)) == ("build it so" if said else "")
    monkeypatch.setattr(rearranged, "advice", str)
    assert not better_build(opened, rows(minutes))


def test_no_whole_pass_is_timed_before_little_work(
    opened: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened.model, "info", SimpleNamespace(file_type="Q4_1"), raising=False)
    monkeypatch.setattr(rearranged, "advice", lambda: "build it so")
    monkeypatch.setattr(faster_weights, "_whole", never)
    assert not better_build(opened, 100 * speed.ROWS * N_LAYER - 1)


def never(*_: object, **__: object) -> float:
    raise AssertionError


def test_what_is_remembered_is_said_with_the_line_to_type(opened: LoadedModel) -> None:
    remember(opened.sha256, 1, 4.0, HALF)
    found = faster(opened, "x y.gguf", 1, rows(2), 0.0)
    assert found is not None
    assert found.times == pytest.approx(4.0)
    assert str(found) == (
        "with bf16 weights this would be about 4.0 times as fast here (other weights, other "
        'numbers): localprobe models prepare "x y.gguf" --type bf16, then -m "x y.gguf@bf16"'
    )


@pytest.mark.parametrize(
    ("minutes", "own", "share_of_few", "times"),
    [
        (0.9, 4.0, 0.0, None),  # less than a minute
        (2.0, 1.9, 0.0, None),  # less than twice as fast
        (2.0, 3.0, 0.0, 2.0),  # 1 ms of 4 is something else than multiplications
        (2.0, 2.9, 0.0, None),
        (2.0, 4.0, 0.3, 1 / (0.3 + 0.7 / 4)),  # what was not measured stays as it is
        (2.0, 4.0, 0.4, None),
    ],
)
def test_nothing_is_said_that_was_not_measured(
    minutes: float, own: float, share_of_few: float, times: float | None, opened: LoadedModel
) -> None:
    remember(opened.sha256, 1, own, HALF)
    found = faster(opened, "m", 1, rows(minutes), share_of_few * rows(minutes))
    if times is None:
        assert found is None
    else:
        assert found is not None
        assert found.times == pytest.approx(times)


def test_of_another_number_of_threads_nothing_is_known(
    opened: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(opened.sha256, 1, 4.0, HALF)
    monkeypatch.setattr(faster_weights, "own_speed", lambda _path, _threads: None)
    assert faster(opened, "m", 2, rows(2), 0.0) is None
    assert faster(opened, "m", 1, rows(2), 0.0) is not None


def test_types_that_do_not_fit_into_memory_are_passed_over(
    opened: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(opened.sha256, 1, 4.0, [TypeSpeed("bf16", 1.0, 400), TypeSpeed("q4_0", 1.6, 100)])
    monkeypatch.setattr(faster_weights, "free_memory", lambda: 300.0)
    found = faster(opened, "m", 1, rows(2), 0.0)
    assert found is not None
    assert found.type == "q4_0"
    monkeypatch.setattr(faster_weights, "free_memory", lambda: 30.0)
    assert faster(opened, "m", 1, rows(2), 0.0) is None


def test_what_is_prepared_already_is_only_named(opened: LoadedModel) -> None:
    prepare(opened.name, opened.model.path, opened.sha256, "bf16")
    remember(opened.sha256, 1, 4.0, HALF)
    found = faster(opened, "m.gguf", 1, rows(2), 0.0)
    assert found is not None
    assert str(found).endswith("(other weights, other numbers): -m llama@bf16")


def test_of_prepared_weights_it_is_their_source_that_is_prepared_again(
    opened: LoadedModel,
) -> None:
    """Or nothing is said: nobody knows by what path the source was given."""
    prepare(opened.name, opened.model.path, opened.sha256, "q8_0")
    made = _loaded("llama@q8_0", prepared_path("llama@q8_0"))
    remember(made.sha256, 1, 4.0, HALF)
    assert faster(made, "llama@q8_0", 1, rows(2), 0.0) is None
    prepare(opened.name, opened.model.path, opened.sha256, "bf16")
    found = faster(made, "llama@q8_0", 1, rows(2), 0.0)
    assert found is not None
    assert (found.name, found.command) == ("llama@bf16", "")
    remember(made.sha256, 1, 4.0, [TypeSpeed("q8_0", 1.0, 100)])
    assert faster(made, "llama@q8_0", 1, rows(2), 0.0) is None


def test_it_is_measured_once_where_that_is_next_to_nothing(
    opened: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faster_weights, "own_speed", never)
    assert faster(opened, "m", 1, 30 * faster_weights._MEASURED_ROWS, 0.0) is None
    monkeypatch.setattr(faster_weights, "own_speed", lambda _path, _threads: 4.0)
    monkeypatch.setattr(faster_weights, "speeds", never)
    assert faster(opened, "m", 1, rows(0.4), 0.0) is None
    monkeypatch.setattr(faster_weights, "speeds", lambda _path, _threads: HALF)
    assert faster(opened, "m", 1, rows(2), 0.0) is not None
    monkeypatch.setattr(faster_weights, "own_speed", never)
    assert faster(opened, "m", 1, rows(2), 0.0) is not None


def test_a_broken_memory_is_none(opened: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faster_weights, "own_speed", lambda _path, _threads: None)
    for broken in ("", "[]", '{"own": 1}', '{"own": 4, "types": [[1]]}', '{"own": 0, "types": []}'):
        faster_weights.remember_of_file(opened.sha256, faster_weights._what(1), broken)
        assert faster(opened, "m", 1, rows(2), 0.0) is None


@pytest.mark.parametrize(
    "command",
    [
        ["sweep", "--task", "capitals", "--patch", "random"],
        ["map", "--task", "capitals", "--patch", "random"],
    ],
)
def test_commands_say_it_once_on_stderr(
    command: list[str],
    tiny_file: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = list[tuple[object, ...]]()

    def found(_loaded: object, *arguments: object) -> Faster:
        asked.append(arguments)
        return Faster("bf16", 2.5, "m@bf16", "localprobe models prepare m --type bf16")

    monkeypatch.setattr(advice, "faster", found)
    path = str(tiny_file("llama"))
    arguments = [
        "-m",
        path,
        "-n",
        "2",
        "--layers",
        "3",
        "--threads",
        "1",
        "--out",
        str(tmp_path / "run"),
    ]
    main([*command, *arguments])
    out, err = capsys.readouterr()
    assert err.count("localprobe: with bf16 weights this would be about 2.5 times as fast") == 1
    assert err.count("--type bf16, then -m m@bf16\n") == 1
    assert "weights" not in out
    ((typed, threads, work, few),) = asked
    assert (typed, threads) == (path, 1)
    assert isinstance(work, float)
    assert isinstance(few, float)
    assert 0 <= few < work
    # With other weights, what is there would be lost.
    main([*command, *arguments])
    assert len(asked) == 1


def test_prepare_fastest_is_remembered_and_says_what_there_is(
    tiny_file: Callable[[str], Path],
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    times = {0: 4.0, 1: 3.0, 2: 1.5, 8: 1.45, 30: 1.0}
    monkeypatch.setattr(speed, "_seconds", lambda kind, shape, threads: times[kind])
    path = str(tiny_file("llama"))
    assert main(["models", "prepare", path, "--type", "fastest"]) == 0
    out, err = capsys.readouterr()
    (line,) = (line for line in out.splitlines() if line.startswith("as it is"))
    # 4 s for each of 28 products, of 64 rows.
    own = 1000 * 4.0 * 28 / 64
    assert float(line.split()[3]) == pytest.approx(own)
    assert "as they are" not in err
    monkeypatch.setattr(faster_weights, "own_speed", never)
    monkeypatch.setattr(faster_weights, "_whole", lambda _model: own)
    found = faster(_loaded("llama", Path(path)), path, 0, 1e9, 0.0)
    assert found is not None
    assert (found.type, found.times, found.name) == ("bf16", pytest.approx(4.0), "llama@bf16")
    # Its change was measured as it was made, and is said.
    assert "of next tokens stay): -m llama@bf16" in str(found)


def test_weights_that_are_the_fastest_already(
    tiny_file: Callable[[str], Path],
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(speed, "_seconds", lambda kind, shape, threads: 1.0 if kind else 0.8)
    assert main(["models", "prepare", str(tiny_file("llama")), "--type", "fastest"]) == 0
    assert "the weights as they are multiply about as fast\n" in capsys.readouterr().err
