"""localprobe devices, localprobe worker, and a model over two workers, as they are typed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.workers import Worker

import localprobe
from localprobe.cli import machines
from localprobe.cli.app import main
from localprobe.llama import rpc

PROMPT = "Q: What is the capital of France?\\nA:"


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(arguments) == 0
    return json.loads(capsys.readouterr().out)


def test_devices_of_a_machine_without_a_gpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [each for each in machines.own_devices() if each.kind == "cpu"]
    monkeypatch.setattr(machines, "own_devices", lambda: known)
    monkeypatch.setattr(machines, "backends", lambda: ["CPU"])
    monkeypatch.setattr(rpc, "_library", lambda: None)
    assert main(["devices"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[2].split()[:2] == ["CPU", "CPU"]
    assert "built for the CPU alone" in said.err and "manual" in said.err
    assert "no RPC" in said.err and "-DGGML_RPC=on" in said.err
    found = document(capsys, "devices", "--json")
    assert found["gpu"] is found["rpc"] is False and found["backends"] == ["CPU"]
    (cpu,) = found["devices"]
    assert cpu["usable"] is False and 0 < cpu["memory_free"] <= cpu["memory_total"]


def test_a_build_for_gpus_that_sees_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [each for each in machines.own_devices() if each.kind == "cpu"]
    monkeypatch.setattr(machines, "own_devices", lambda: known)
    monkeypatch.setattr(machines, "backends", lambda: ["CUDA", "CPU"])
    assert main(["devices"]) == 0
    assert "built for CUDA, and sees none" in capsys.readouterr().err


def test_devices_of_workers(
    capsys: pytest.CaptureFixture[str], two_workers: tuple[Worker, Worker]
) -> None:
    addresses = [worker.address for worker in two_workers]
    found = document(capsys, "devices", "--rpc", ",".join(addresses), "--json")
    assert found["gpu"] is found["rpc"] is True
    theirs = [each for each in found["devices"] if each["backend"] == "RPC"]
    assert [each["description"] for each in theirs] == addresses
    assert all(each["usable"] and each["kind"] == "gpu" for each in theirs)


def test_a_worker_says_where_it_is(two_workers: tuple[Worker, Worker]) -> None:
    taken = two_workers[0].address
    done = subprocess.run(
        [sys.executable, "-m", "localprobe", "worker", "--port", taken.partition(":")[2]],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"localprobe: cannot listen at {taken}: ")
    assert len(done.stderr.splitlines()) == 1 and not done.stdout


def test_a_worker_for_others_says_what_that_means(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[tuple[Any, ...]] = []

    def serve(*how: Any) -> None:
        served.append(how)
        raise KeyboardInterrupt

    monkeypatch.setattr(rpc, "serve", serve)
    monkeypatch.setattr(rpc, "free_port", lambda host, port: port)
    for host, lines in (("127.0.0.1", 1), ("192.0.2.7", 2)):
        assert main(["worker", "--host", host, "--port", "50052", "--threads", "1"]) == 130
        said = capsys.readouterr().err.splitlines()[:-1]
        assert len(said) == lines
        assert ("no authentication" in said[0]) == (lines == 2)
        assert f"a worker at {host}:50052, on " in said[-1]
    ((host, port, devices, threads), _) = served
    assert (host, port, threads) == ("127.0.0.1", 50052, 1) and devices


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_a_worker_ends_with_ctrl_c(rpc_library: None) -> None:
    import signal

    worker = Worker()
    try:
        worker.process.send_signal(signal.SIGINT)
        assert worker.process.wait(20) == 130
    finally:
        worker.kill()


def test_swap_probe_and_sweep_over_two_workers_are_those_of_the_cpu(
    capsys: pytest.CaptureFixture[str],
    two_workers: tuple[Worker, Worker],
    tiny_file: Callable[[str], Path],
) -> None:
    over = ["--rpc", ",".join(worker.address for worker in two_workers), "--gpu-layers", "4"]
    for command in (
        ["swap", PROMPT, "France", "Italy"],
        ["probe", PROMPT],
        ["sweep", "-n", "2", "--all-examples", "--patch", "random,freeze,skip", "--max-tokens=2"],
    ):
        typed = [*command, "-m", str(tiny_file("qwen3moe")), "--threads", "1", "--json"]
        ours, theirs = document(capsys, *typed), document(capsys, *typed, *over)
        # Two servers on one machine have as much memory, and get as many layers.
        assert theirs["model"].pop("blocks_on").split()[1::3] == ["RPC0", "RPC1"]
        assert ours == theirs


def test_the_head_of_a_table_says_where_blocks_are(
    capsys: pytest.CaptureFixture[str],
    two_workers: tuple[Worker, Worker],
    tiny_file: Callable[[str], Path],
) -> None:
    path, address = str(tiny_file("llama")), two_workers[0].address
    typed = ["probe", PROMPT, "-m", path, "--patch", "random", "--layers", "2", "--threads", "1"]
    assert main(typed) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith(", 4 blocks)")
    assert main([*typed, "--rpc", address, "--gpu-layers", "2"]) == 0
    head = capsys.readouterr().out.splitlines()[0]
    assert "4 blocks: 3 CPU + 1 RPC" in head
    # Workers are named to be used: as much as there is room for.
    assert main([*typed, "--rpc", address]) == 0
    said = capsys.readouterr()
    assert "4 blocks: 4 RPC" in said.out.splitlines()[0]
    assert "--gpu-layers auto: 5 of 5 layers" in said.err


def test_what_cannot_be_done_is_said_in_a_sentence(
    capsys: pytest.CaptureFixture[str],
    two_workers: tuple[Worker, Worker],
    tiny_file: Callable[[str], Path],
) -> None:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{line.getsockname()[1]}"
    path, address = str(tiny_file("llama")), two_workers[0].address
    for more, reason in (
        (["--rpc", nobody], f"no worker listens at {nobody}"),
        (["--rpc", "here"], "HOST:PORT"),
        (["--rpc", address, "--device", "RPC77"], "there is no device 'RPC77'"),
        (["--rpc", address, "--gpu-layers", "some"], "--gpu-layers must be"),
    ):
        assert main(["probe", PROMPT, "-m", path, *more]) == 2
        said = capsys.readouterr()
        assert said.out == "" and reason in said.err and len(said.err.splitlines()) == 1


def test_the_cpu_can_be_named(
    capsys: pytest.CaptureFixture[str], tiny_file: Callable[[str], Path]
) -> None:
    typed = ["probe", PROMPT, "-m", str(tiny_file("llama")), "--patch", "random", "--json"]
    assert document(capsys, *typed, "--device", "CPU") == document(capsys, *typed)


def test_from_python(two_workers: tuple[Worker, Worker], tiny_file: Callable[[str], Path]) -> None:
    addresses = [worker.address for worker in two_workers]
    where: dict[str, Any]
    found = []
    for where in ({}, {"rpc": addresses, "gpu_layers": -1}, {"rpc": addresses[1]}):
        with localprobe.Model(
            tiny_file("gemma2"), threads=1, warn=lambda _: None, **where
        ) as model:
            rows = localprobe.probe(model, "Q: one?", ["freeze", "skip"], max_tokens=2).rows
            found.append([(row.patch, row.layer, row.text) for row in rows])
    assert found[0] == found[1] == found[2]


def test_a_recipe_says_where(
    capsys: pytest.CaptureFixture[str],
    two_workers: tuple[Worker, Worker],
    tiny_file: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    recipe = tmp_path / "spread.toml"
    lines = [
        'description = "over a worker"',
        f"model = {str(tiny_file('llama'))!r}",
        f'rpc = "{two_workers[0].address}"',
        'gpu_layers = "auto"',
        'interventions = ["random"]',
        "all_examples = true",
        "[tasks.capitals]",
        "n = 1",
    ]
    recipe.write_text("\n".join(lines), encoding="utf-8")
    typed = ["run", str(recipe), "--threads", "1", "--json", "--out"]
    assert main([*typed, str(tmp_path / "spread")]) == 0
    said = capsys.readouterr()
    assert f"the recipe names workers: {two_workers[0].address} gets the model" in said.err
    found = json.loads(said.out)
    assert found["runs"][0]["model"]["blocks_on"].startswith("4 RPC")
    # What is typed wins.
    found = document(capsys, *typed, str(tmp_path / "here"), "--gpu-layers", "0")
    assert "blocks_on" not in found["runs"][0]["model"]
    recipe.write_text("\n".join(["gpu_layers = -2", *lines]).replace('gpu_layers = "auto"', ""))
    assert main(["run", str(recipe)]) == 2
    assert "gpu_layers must be at least -1" in capsys.readouterr().err
