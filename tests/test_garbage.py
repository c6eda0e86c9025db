"""Files of strangers but GGUFs: whatever is in them ends well or in one printable sentence.

Some 400 files here; `pytest tests/test_garbage.py --hypothesis-profile thorough` tries 10,500.
"""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from localprobe.api import Model, RunningSweep
from localprobe.cli.app import main
from localprobe.errors import LocalprobeError
from localprobe.experiments.experiment import Experiment
from localprobe.files.foreign import is_obeyed
from localprobe.runs.folder import ROWS
from localprobe.runs.manifest import MANIFEST
from localprobe.runs.shard import Shard
from localprobe.tasks.base import TaskOptions
from localprobe.tasks.cnn_dailymail import CnnDailymail

garbage_settings = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

EVIL = (
    *("", "\0", "\x1b[31mred", "\x9b31m", "\u202eabc", "[red]x[/red]", "[/]", "$x^{", "../../x"),
    *(
        "a" * 5000,
        "\ud800",
        "\u2028",
        "é",
        "-1",
        "nan",
        "1e999",
        "__class__",
        "clean",
        "=1+1",
        "%s",
    ),
)
NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**63), 2**64, 10**30, 10**400, 0.5, -0.0, 1e308)
NUMBERS += (float("nan"), float("inf"))
DEEP = (b"[" * 20_000, b'{"a":' * 20_000, b"\na = " + b"[" * 20_000, b"[a" + b".a" * 20_000)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.integers(-5, 40),
    st.floats(),
    st.sampled_from(EVIL),
    st.text(max_size=8),
)
values = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.dictionaries(st.sampled_from(EVIL) | st.text(max_size=5), scalars, max_size=3),
)


def places(tree: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to every node below the top."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in inner:
        yield (*place, key)
        if isinstance(value, dict | list):
            yield from places(value, (*place, key))


@st.composite
def spoilt_trees(draw: st.DrawFn, good: Any) -> Any:
    """JSON with one to three things in it replaced, dropped, renamed or doubled."""
    tree = json.loads(json.dumps(good))
    for _ in range(draw(st.integers(1, 3))):
        known = list(places(tree))
        assume(known)
        *path, key = draw(st.sampled_from(known))
        parent = tree
        for step in path:
            parent = parent[step]
        match draw(st.sampled_from(["replace", "replace", "replace", "drop", "rename", "double"])):
            case "replace":
                parent[key] = draw(values)
            case "drop":
                del parent[key]
            case "rename" if isinstance(parent, dict):
                parent[draw(st.sampled_from(EVIL))] = parent.pop(key)
            case _ if isinstance(parent, list):
                parent.insert(key, parent[key])
    return tree


@st.composite
def spoilt_bytes(draw: st.DrawFn, text: str) -> bytes:
    """A text as bytes, as they should be or in one of the ways that texts go wrong."""
    data = text.encode("utf-8", "surrogatepass")
    kind = draw(
        st.sampled_from(("whole", "whole", "cut", "flip", "insert", "coding", "crlf", "deep"))
    )
    at = draw(st.integers(0, len(data)))
    match kind:
        case "cut":
            data = data[:at]
        case "flip":
            data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
        case "insert":
            data = data[:at] + draw(st.binary(max_size=9)) + data[at:]
        case "coding":
            coding = draw(st.sampled_from(("utf-8-sig", "utf-16", "latin-1")))
            data = text.encode(coding, "replace")
        case "deep":
            data = data[:at] + draw(st.sampled_from(DEEP)) + data[at:]
        case "crlf":
            data = data.replace(b"\n", draw(st.sampled_from((b"\r\n", b"\r"))))
    return data


def ends_well(arguments: list[str]) -> int:
    """The exit code of a command; it has said nothing that a terminal obeys, and no traceback."""
    out, said = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(said):
        code = main(arguments)
    assert code in (0, 1, 2), (arguments, code)
    lines = said.getvalue().splitlines()
    if code == 2:
        errors = [line for line in lines if line.startswith("localprobe: ")]
        assert len(errors) >= 1, lines
        assert lines[-1] == errors[-1]
        assert len(lines[-1]) <= 2000
    shown = said.getvalue() + ("" if "csv" in arguments else out.getvalue())
    obeyed = {char for char in shown if is_obeyed(char) and char != "\n"}
    assert not obeyed, (arguments, obeyed)
    assert "Traceback" not in shown
    assert "out of memory" not in shown
    if "--json" in arguments and code == 0:
        json.loads(out.getvalue())
    return code


# Runs


@pytest.fixture(scope="module")
def runs(model: Model, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two shards of a run."""
    folder = tmp_path_factory.mktemp("runs")
    base = Experiment("capitals", ("freeze", "swap"), "1:", n=3, all_examples=True, max_tokens=2)
    for number in (1, 2):
        shard = Experiment(**{**vars(base), "shard": Shard(number, 2)})
        with RunningSweep(model, shard, folder / str(number)) as running:
            list(running.rows())
    return [folder / "1", folder / "2"]


READERS = (
    ["show"],
    ["show", "--json"],
    ["export", "--format", "csv"],
    ["export", "--format", "md", "--rows"],
    ["export", "--format", "jsonl", "--rows"],
)


def spoilt_run(tmp_path: Path, runs: list[Path], name: str, data: bytes) -> Path:
    spoilt = tmp_path / "spoilt"
    spoilt.mkdir(exist_ok=True)
    for file in (MANIFEST, ROWS):
        (spoilt / file).write_bytes(data if file == name else (runs[0] / file).read_bytes())
    return spoilt


def read_in_every_way(spoilt: Path, other: Path, tmp_path: Path) -> None:
    codes = {ends_well([*reader, str(spoilt)]) for reader in READERS}
    assert len(codes) == 1
    for merged in (tmp_path / "merged" / MANIFEST, tmp_path / "merged" / ROWS):
        merged.unlink(missing_ok=True)
    ends_well(["merge", str(other), str(spoilt), "-o", str(tmp_path / "merged")])
    assert (tmp_path / "merged" / MANIFEST).exists() == (tmp_path / "merged" / ROWS).exists()
    for json_too in ([], ["--json"]):
        ends_well(["compare", *json_too, str(other), str(spoilt)])


@garbage_settings
@given(data=st.data())
def test_manifests(data: st.DataObject, runs: list[Path], tmp_path: Path) -> None:
    good = json.loads((runs[0] / MANIFEST).read_text(encoding="utf-8"))
    text = json.dumps(data.draw(spoilt_trees(good)))
    spoilt = spoilt_run(tmp_path, runs, MANIFEST, data.draw(spoilt_bytes(text)))
    read_in_every_way(spoilt, runs[1], tmp_path)


@garbage_settings
@given(data=st.data())
def test_rows(data: st.DataObject, runs: list[Path], tmp_path: Path) -> None:
    lines = (runs[0] / ROWS).read_text(encoding="utf-8").splitlines()
    text = "".join(
        json.dumps(row) + "\n"
        for row in data.draw(spoilt_trees([json.loads(line) for line in lines]))
    )
    spoilt = spoilt_run(tmp_path, runs, ROWS, data.draw(spoilt_bytes(text)))
    read_in_every_way(spoilt, runs[1], tmp_path)


@settings(parent=garbage_settings, max_examples=10)
@given(data=st.data())
def test_figures(data: st.DataObject, runs: list[Path], tmp_path: Path) -> None:
    good = json.loads((runs[0] / MANIFEST).read_text(encoding="utf-8"))
    good["model"]["name"] = data.draw(st.sampled_from(EVIL) | st.text())
    text = json.dumps(good)
    spoilt = spoilt_run(tmp_path, runs, MANIFEST, text.encode())
    assert ends_well(["plot", str(spoilt), "-o", str(tmp_path / "figure.svg")]) == 0


# Data of tasks

JSONL = [
    {"prompt": f"say {word} now:", "answers": ["x"], "old": word, "new": "zz", "new_answers": ["y"]}
    for word in ("AA", "BB")
]
SQUAD = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": "Ann is here.",
                    "qas": [{"question": "Who?", "answers": [{"text": "Ann"}]}],
                }
            ]
        }
    ]
}
CSV = 'article,highlights\n"Ann, it is said, is here.",Ann is here.\nBob was here.,Bob was.\n'


def sweep_of(model: Model, task: str, file: Path) -> int:
    """A sweep of very little on a tiny model, or what is said of the data."""
    few = ["--all-examples", "-n", "2", "--layers", "3", "--max-tokens", "1", "--threads", "1"]
    asked = ["sweep", "--task", task, "--data", str(file), "-p", "freeze", *few, "--json"]
    return ends_well([*asked, "-m", str(model.loaded.model.path)])


@garbage_settings
@given(data=st.data())
def test_jsonl(data: st.DataObject, model: Model, tmp_path: Path) -> None:
    records = data.draw(spoilt_trees(JSONL))
    text = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "own.jsonl").write_bytes(data.draw(spoilt_bytes(text)))
    sweep_of(model, "jsonl", tmp_path / "own.jsonl")


@garbage_settings
@given(data=st.data())
def test_squad(data: st.DataObject, model: Model, tmp_path: Path) -> None:
    text = json.dumps(data.draw(spoilt_trees(SQUAD)))
    (tmp_path / "own.json").write_bytes(data.draw(spoilt_bytes(text)))
    sweep_of(model, "squad", tmp_path / "own.json")


@garbage_settings
@given(data=st.data())
def test_csv(data: st.DataObject, model: Model, tmp_path: Path) -> None:
    at = data.draw(st.integers(0, len(CSV)))
    text = CSV[:at] + data.draw(st.sampled_from((*EVIL, ",", '"', "\n", "\r"))) + CSV[at:]
    (tmp_path / "own.csv").write_bytes(data.draw(spoilt_bytes(text)))
    sweep_of(model, "cnn_dailymail", tmp_path / "own.csv")


# TOML


def toml_value(value: Any) -> str:
    """A value as TOML has it, near enough; some are none in TOML."""
    if isinstance(value, dict):
        inner = ", ".join(f"{json.dumps(k)} = {toml_value(v)}" for k, v in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)


def toml(tables: dict[str, Any]) -> str:
    """Every table as one line with inline tables below it."""
    return "".join(f"{json.dumps(key)} = {toml_value(value)}\n" for key, value in tables.items())


MODELS = {
    "mine": {
        **{"architecture": "llama", "wheel": "some==1.0", "member": "some/model.gguf"},
        **{"sha256": "0" * 64, "license": "MIT", "size": 5, "note": "of my own"},
    },
    "hub": {
        **{"architecture": "llama", "hf": "a/b", "revision": "main", "file": "c.gguf"},
        **{"sha256": "1" * 64, "license": "MIT", "size": 5, "note": "of another"},
    },
}


@garbage_settings
@given(data=st.data())
def test_models_toml(data: st.DataObject, own_cache: Path) -> None:
    text = toml(data.draw(spoilt_trees(MODELS)))
    Path("models.toml").write_bytes(data.draw(spoilt_bytes(text)))
    for arguments in (["models"], ["models", "--json"], ["--offline", "models", "pull", "mine"]):
        ends_well(arguments)


@garbage_settings
@given(data=st.data())
def test_recipes(data: st.DataObject, model: Model, tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text(
        "".join(json.dumps(record) + "\n" for record in JSONL), encoding="utf-8"
    )
    small = {"n": 1, "max_tokens": 1, "all_examples": True}
    recipe = {
        **{"description": "of my own", "model": "no-such-model", "seed": 1, "layers": "3"},
        "interventions": ["freeze", "swap"],
        "tasks": {"jsonl": {"data": "own.jsonl", **small}, "math": {"digits": 1, **small}},
    }
    text = toml(data.draw(spoilt_trees(recipe)))
    (tmp_path / "own.toml").write_bytes(data.draw(spoilt_bytes(text)))
    if (tmp_path / "out").exists():
        for file in (tmp_path / "out").rglob("*.*"):
            file.unlink()
    path = str(model.loaded.model.path)
    # Few examples and tokens, whatever the recipe says: it is what is said of it that matters.
    few = ["-n", "1", "--max-tokens", "1", "--threads", "1", "--out", str(tmp_path / "out")]
    ends_well(["run", str(tmp_path / "own.toml"), "-m", path, *few])


@pytest.mark.parametrize(
    "head",
    [
        "[" + "a." * 50_000 + "a]\n",
        "[[" + "'a' . " * 50_000 + "a]]\n",
        "a." * 50_000 + "a = 1\n",
        "a = 1\n" + " " * 200_000 + "\n",
        (" " * 1_000 + "\n") * 200,
    ],
)
def test_keys_without_end(head: str, tmp_path: Path) -> None:
    """tomllib takes time by the square of a key's parts: hours for a file of a megabyte."""
    lines = "".join(f"k{number} = 1\n" for number in range(50_000))
    (tmp_path / "own.toml").write_text(head + lines, encoding="utf-8")
    assert ends_well(["run", str(tmp_path / "own.toml")]) == 2
    (tmp_path / "own.toml").write_text("# " + "a" * (1 << 20), encoding="utf-8")
    assert ends_well(["run", str(tmp_path / "own.toml")]) == 2


posix = pytest.mark.skipif(sys.platform == "win32", reason="links and modes are otherwise there")


@posix
def test_odd_files(runs: list[Path], model: Model, tmp_path: Path) -> None:
    """Links to nowhere and to themselves, folders, devices without an end."""
    loop, nowhere, folder = tmp_path / "loop", tmp_path / "nowhere", tmp_path / "folder.jsonl"
    loop.symlink_to(loop)
    nowhere.symlink_to(tmp_path / "gone")
    folder.mkdir()
    odd = [loop, nowhere, folder, tmp_path / "none"]
    odd += [device for device in (Path("/dev/null"), Path("/proc/self/mem")) if device.exists()]
    for file in odd:
        for arguments in (
            ["show", str(file)],
            ["merge", str(file), str(runs[0]), "-o", str(tmp_path / "merged")],
            ["probe", f"@{file}", "-m", str(model.loaded.model.path)],
            ["tokens", "a b", "-m", str(file)],
            ["run", str(file)],
            ["sweep", "--task", "squad", "--data", str(file), "-m", str(model.loaded.model.path)],
        ):
            assert ends_well(arguments) == 2, arguments
        spoilt = tmp_path / f"run-{file.name}"
        spoilt.mkdir()
        (spoilt / MANIFEST).write_bytes((runs[0] / MANIFEST).read_bytes())
        (spoilt / ROWS).symlink_to(file)
        assert ends_well(["show", str(spoilt)]) == 2


@posix
def test_a_link_in_a_run_folder_is_not_followed(
    runs: list[Path], model: Model, tmp_path: Path
) -> None:
    """A run of a stranger, let go on, must not write elsewhere."""
    few = ["-n", "1", "--layers", "3", "--max-tokens", "1", "--threads", "1", "--all-examples"]
    out = tmp_path / "out"
    command = ["sweep", *few, "-m", str(model.loaded.model.path), "--out", str(out)]
    assert ends_well(command) == 0
    manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    (out / MANIFEST).write_text(json.dumps({**manifest, "ended": None, "counts": None}))
    precious = tmp_path / "precious"
    precious.write_text("no newline", encoding="utf-8")
    (out / ROWS).unlink()
    for target in (precious, tmp_path / "new"):
        (out / ROWS).symlink_to(target)
        assert ends_well(command) == 2
        (out / ROWS).unlink()
    assert precious.read_text(encoding="utf-8") == "no newline"
    assert not (tmp_path / "new").exists()
    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger" / ROWS).write_bytes(b"")
    (tmp_path / "stranger" / MANIFEST).symlink_to(runs[0] / MANIFEST)
    assert ends_well(["show", str(tmp_path / "stranger")]) == 2
    # Nor is anything else taken for a row that was cut off.
    (out / ROWS).write_bytes(precious.read_bytes())
    assert ends_well(command) == 2
    assert (out / ROWS).read_bytes() == precious.read_bytes()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_that_nobody_writes_to(runs: list[Path], model: Model, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    path = str(model.loaded.model.path)
    for name in (MANIFEST, ROWS):
        folder = tmp_path / f"with-{name}"
        folder.mkdir()
        (folder / MANIFEST).write_bytes((runs[0] / MANIFEST).read_bytes())
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
        assert ends_well(["show", str(folder)]) == 2
        assert ends_well(["sweep", "-m", path, "--out", str(folder)]) == 2
    assert ends_well(["sweep", "--task", "jsonl", "--data", str(pipe), "-m", path]) == 2
    os.mkfifo(tmp_path / "pipe.toml")
    assert ends_well(["run", str(tmp_path / "pipe.toml")]) == 2


@pytest.mark.parametrize(
    "column",
    [
        {"type": "timestamp[ns]", "values": [10**17 + 1]},
        {"type": "date32", "values": [2**30]},
        {"type": "duration[s]", "values": [2**62]},
    ],
)
def test_parquet_columns_of_no_concern(
    column: dict[str, Any], model: Model, tmp_path: Path
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    kinds = {
        "timestamp[ns]": pyarrow.timestamp("ns"),
        "date32": pyarrow.date32(),
        "duration[s]": pyarrow.duration("s"),
    }
    table = pyarrow.table(
        {
            "article": ["Ann is here."],
            "highlights": ["Ann."],
            "other": pyarrow.array(column["values"], kinds[column["type"]]),
        }
    )
    parquet.write_table(table, tmp_path / "own.parquet")
    assert sweep_of(model, "cnn_dailymail", tmp_path / "own.parquet") == 0


def test_parquet_that_unpacks_to_far_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text is packed to next to nothing where it is much of the same, or there many times."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("localprobe.tasks.datafile._LONGEST_FIELD", 1 << 20)
    monkeypatch.setattr("localprobe.tasks.datafile._MOST_CHARACTERS", 4 << 20)
    long = "a" * (2 << 20)
    half = "a" * (1 << 19)
    task = CnnDailymail(TaskOptions(data=tmp_path / "own.parquet"))
    for articles, message in (
        ([long] * 16, "a text has 2097152 bytes, more than 1048576"),
        ([f"{n}{long}" for n in range(16)], "a text has 209715"),
        ([half] * 16, "its texts have more than 4194304 characters"),
        ([["a"]] * 16, "the column 'article' does not hold texts"),
        ([1] * 16, "the column 'article' does not hold texts"),
    ):
        table = pyarrow.table({"article": articles, "highlights": ["x"] * 16})
        parquet.write_table(table, tmp_path / "own.parquet", compression="zstd")
        with pytest.raises(LocalprobeError, match=message):
            task.examples()
    # What is not read may be as large as it likes.
    monkeypatch.undo()
    table = pyarrow.table({"article": ["b"], "highlights": ["x"], "more": [long * 4]})
    parquet.write_table(table, tmp_path / "own.parquet")
    assert [example.body for example in task.examples()]


def test_parquet_in_every_way_that_it_is_written(tmp_path: Path) -> None:
    """Nor does reading take time by the square of the rows of a group, as it did."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = [f"Ann is {number}." for number in range(30_000)]
    task = CnnDailymail(TaskOptions(data=tmp_path / "own.parquet", template="{article}"))
    for kind, how in (
        (pyarrow.string(), {}),
        (pyarrow.large_string(), {"compression": "zstd", "row_group_size": 1_000}),
        (pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), {}),
        (
            pyarrow.string(),
            {
                "use_dictionary": False,
                "column_encoding": {
                    "article": "DELTA_BYTE_ARRAY",
                    "highlights": "DELTA_LENGTH_BYTE_ARRAY",
                },
            },
        ),
    ):
        column = pyarrow.array(texts).cast(kind) if how else pyarrow.array(texts, kind)
        table = pyarrow.table({"article": column, "highlights": column})
        parquet.write_table(table, tmp_path / "own.parquet", **how)
        assert [example.prompt for example in task.examples()] == texts


def test_parquet_that_breaks_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "own.parquet").write_bytes(b"PAR1")
    # pyarrow aborts on some files, on which depends on its version.
    monkeypatch.setattr("localprobe.files.workers.start", lambda _: start_dying())
    with pytest.raises(LocalprobeError, match="the library that reads it broke down"):
        CnnDailymail(TaskOptions(data=tmp_path / "own.parquet")).examples()


def start_dying() -> subprocess.Popen[str]:
    code = "import os; input(); os.abort()"
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
    )


def test_spoilt_parquet(model: Model, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = {"article": ["Ann is here."] * 3, "highlights": ["Ann."] * 3}
    parquet.write_table(pyarrow.table(texts), tmp_path / "good.parquet")
    good = (tmp_path / "good.parquet").read_bytes()
    rng = random.Random(0)
    codes = set()
    for _ in range(20):
        data = bytearray(good)
        for _ in range(rng.choice((1, 3))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "own.parquet").write_bytes(data)
        codes.add(sweep_of(model, "cnn_dailymail", tmp_path / "own.parquet"))
    assert codes == {0, 2}


@posix
def test_folders_that_may_not_be_written(model: Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    few = ["-n", "1", "--layers", "3", "--max-tokens", "1", "--threads", "1", "--all-examples"]
    for out in (tmp_path / "file", tmp_path / "file" / "in", Path("/proc/nothing")):
        arguments = ["sweep", *few, "-m", str(model.loaded.model.path), "--out", str(out)]
        assert ends_well(arguments) == 2


@posix
@pytest.mark.parametrize(
    "name", ["a\x1b[31mb", "[red]x", "[@click=x]y", "\u202eabc", "a\udcffb", "$x^{"]
)
def test_names_of_files_are_shown_and_not_obeyed(
    name: str, tiny_file: Callable[[str], Path], own_cache: Path
) -> None:
    Path(f"{name}.gguf").write_bytes(tiny_file("llama").read_bytes())
    Path(f"{name}.jsonl").write_text(json.dumps(JSONL[0]) + "\n" + json.dumps(JSONL[1]) + "\n")
    few = ["--threads", "1", "--layers", "3", "--max-tokens", "1", "-m", f"{name}.gguf"]
    swept = ["--task", "jsonl", "--data", f"{name}.jsonl", "--all-examples", "--out", f"run {name}"]
    assert ends_well(["probe", "in Chad", *few]) == 0
    assert ends_well(["models", "info", f"{name}.gguf"]) == 0
    assert ends_well(["sweep", *few, *swept]) == 0
    assert ends_well(["show", f"run {name}"]) == 0
    assert ends_well(["show", "--json", f"run {name}"]) == 0
    assert ends_well(["plot", f"run {name}", "-o", f"{name}.svg"]) == 0
    assert ends_well(["probe", "in Chad", "-m", f"no {name}.gguf"]) == 2
    assert ends_well(["show", f"no {name}"]) == 2
