"""The live view and Ctrl-C in a real pseudo-terminal."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import made_runs

pty = pytest.importorskip("pty", reason="pseudo-terminals are a POSIX thing")
fcntl = pytest.importorskip("fcntl")
termios = pytest.importorskip("termios")

SHOW_CURSOR, HIDE_CURSOR = b"\x1b[?25h", b"\x1b[?25l"
SWEEP = ["sweep", "--all-examples", "--template", "{country}?"]


def hears_ctrl_c() -> None:
    """A shell has what it starts in the background ignore SIGINT, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A command in a pseudo-terminal of 80 x 24, or as many columns."""

    def __init__(self, *arguments: str, columns: int = 80, **environment: str) -> None:
        self._leader, follower = pty.openpty()
        self.resize(follower, 24, columns)
        self.settings = termios.tcgetattr(follower)
        kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "localprobe", *arguments],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env={**kept, "TERM": "xterm-256color", **environment},
            start_new_session=True,
            preexec_fn=hears_ctrl_c,
        )
        self._follower = follower
        self.output = b""

    def resize(self, follower: int | None, lines: int, columns: int) -> None:
        """As a window does it: the size is set, then the command is told."""
        at = self._follower if follower is None else follower
        fcntl.ioctl(at, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        if follower is None:
            self.process.send_signal(signal.SIGWINCH)

    def read_until(self, pattern: bytes, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not re.search(pattern, self.output):
            assert time.monotonic() < end, self.output
            self._read()

    def finish(self) -> int:
        while self.process.poll() is None:
            self._read()
        self._read()
        assert termios.tcgetattr(self._follower) == self.settings
        return self.process.returncode

    def _read(self) -> None:
        import select

        while select.select([self._leader], [], [], 0.1)[0]:
            self.output += os.read(self._leader, 65536)


def test_the_live_view(tiny_file: Callable[[str], Path], own_cache: Path) -> None:
    terminal = Terminal(*SWEEP, "-n", "12", "-m", str(tiny_file("llama")))
    code = terminal.finish()
    assert code == 0, terminal.output
    # While it ran: a view that was redrawn, with the time, on one screen.
    assert HIDE_CURSOR in terminal.output
    assert re.search(rb"example \d+ of about 12", terminal.output)
    assert re.search(rb"about \d+:\d\d left", terminal.output)
    assert terminal.output.rindex(SHOW_CURSOR) > terminal.output.rindex(HIDE_CURSOR)
    # At the end: the whole table, within the width, and the summary.
    final = terminal.output[terminal.output.rindex(SHOW_CURSOR) :].decode()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", final)
    lines = [line.rstrip() for line in plain.splitlines()]
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if re.match(r" +\d+  ", line)] == list("0123")
    assert any(line.startswith("skip ") for line in lines)


def shown_lines(output: bytes) -> list[str]:
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode())
    return [line.rstrip() for line in plain.splitlines()]


def test_a_window_that_changes_its_size(tiny_file: Callable[[str], Path], own_cache: Path) -> None:
    terminal = Terminal(*SWEEP, "-n", "40", "--threads", "1", "-m", str(tiny_file("gemma3")))
    terminal.read_until(rb"example [5-9] of about")
    terminal.resize(None, 12, 40)
    seen = len(terminal.output)
    assert terminal.finish() == 0
    # The first view after it may still be one of the old size.
    views = terminal.output[seen:].split(b"clean model")[2:]
    assert len(views) >= 2
    assert max(len(line) for view in views for line in shown_lines(view)) <= 40
    for view in views:
        # As low as it is, the last layer is there.
        assert re.match(r" +6  0\.00", [line for line in shown_lines(view) if "0.00" in line][-1])


@pytest.mark.parametrize("columns", [40, 200])
def test_a_dumb_terminal(columns: int, tiny_file: Callable[[str], Path], own_cache: Path) -> None:
    """No colour, nothing redrawn but a bar's line, and no line longer than the terminal is wide."""
    arguments = [*SWEEP, "-n", "2", "--layers", "3", "-m", str(tiny_file("llama"))]
    terminal = Terminal(*arguments, columns=columns, TERM="dumb")
    assert terminal.finish() == 0
    assert b"\x1b[3" not in terminal.output
    assert HIDE_CURSOR not in terminal.output
    assert max(map(len, shown_lines(terminal.output))) <= columns


def test_no_color_is_plain_on_a_terminal_too(
    tiny_file: Callable[[str], Path], own_cache: Path
) -> None:
    arguments = [*SWEEP, "-n", "2", "--layers", "3", "-m", str(tiny_file("llama"))]
    terminal = Terminal(*arguments, NO_COLOR="1")
    assert terminal.finish() == 0
    # tqdm's bar, which is on stderr, moves with carriage returns alone.
    assert b"\x1b[3" not in terminal.output
    assert b"\x1b[1m" not in terminal.output
    assert HIDE_CURSOR not in terminal.output


def test_asked_by_a_signal_a_sweep_says_where_it_is(
    tiny_file: Callable[[str], Path], own_cache: Path
) -> None:
    arguments = [*SWEEP, "-m", str(tiny_file("gemma3")), "-n", "60"]
    terminal = Terminal(*arguments)
    terminal.read_until(rb"example [3-9] of about")
    terminal.process.send_signal(signal.SIGUSR1)
    terminal.read_until(rb"sweep capitals: example \d+ of about 60")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.finish() == 130
    assert b"Traceback" not in terminal.output


def test_asked_by_a_signal_where_it_is_piped(
    tiny_file: Callable[[str], Path], own_cache: Path
) -> None:
    command = [sys.executable, "-m", "localprobe", *SWEEP, "-m", str(tiny_file("gemma3"))]
    process = subprocess.Popen(
        [*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    said = ""
    # Whenever it comes, once Python is up, it does not kill; once there are rows, it is answered.
    while not own_cache.exists():
        assert process.poll() is None
        time.sleep(0.02)
    while not said.startswith("sweep capitals: example"):
        time.sleep(0.2)
        process.send_signal(signal.SIGUSR1)
        if select.select([process.stderr], [], [], 0.2)[0]:
            said = process.stderr.readline()
            assert said, "it has ended"
    process.terminate()
    process.communicate()
    assert process.returncode == 143


def test_a_run_is_followed_to_its_end(tmp_path: Path) -> None:
    """Its table grows as rows are written; once it has ended, what is left is its whole table."""
    done = made_runs.write(tmp_path / "done", n=4, n_layer=5)
    run = tmp_path / "run"
    made_runs.write(run, n=4, n_layer=5, ended=False)
    text = (run / "rows.jsonl").read_bytes()
    lines = text.splitlines(keepends=True)
    per_example = len(lines) // 4
    (run / "rows.jsonl").write_bytes(b"".join(lines[:per_example]))
    terminal = Terminal("show", str(run), "--follow")
    terminal.read_until(rb"unfinished: 1 of 4 examples so far")
    # Two more, and the half of a line.
    (run / "rows.jsonl").write_bytes(b"".join(lines[: 3 * per_example]) + lines[-1][:10])
    terminal.read_until(rb"unfinished: 3 of 4 examples so far")
    (run / "rows.jsonl").write_bytes(text)
    shutil.copy(tmp_path / "done" / "manifest.json", run)
    assert terminal.finish() == 0
    final = terminal.output[terminal.output.rindex(SHOW_CURSOR) :]
    shown = shown_lines(final)
    assert "baseline: 1.00 on the 4 examples used" in shown
    assert not any("unfinished" in line for line in shown)
    assert done.transition("freeze") is not None
    (claim,) = [line for line in shown if line.startswith("freeze ")]
    assert f"from layer {done.transition('freeze')} on" in claim


def test_ctrl_c_ends_following(tmp_path: Path) -> None:
    made_runs.write(tmp_path / "run", n=4, n_layer=5, ended=False)
    terminal = Terminal("show", str(tmp_path / "run"), "-f")
    terminal.read_until(rb"last written")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.finish() == 130
    assert b"Traceback" not in terminal.output
    shown = shown_lines(terminal.output[terminal.output.rindex(SHOW_CURSOR) :])
    assert any(line.startswith("unfinished: 4 of 4 examples") for line in shown)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_the_terminal_sane(
    number: signal.Signals, code: int, tiny_file: Callable[[str], Path], own_cache: Path
) -> None:
    terminal = Terminal(*SWEEP, "-m", str(tiny_file("gemma3")))
    terminal.read_until(rb"example \d+ of about")
    terminal.process.send_signal(number)
    assert terminal.finish() == code
    assert b"localprobe: interrupted" in terminal.output
    assert b"Traceback" not in terminal.output
    assert terminal.output.rindex(SHOW_CURSOR) > terminal.output.rindex(HIDE_CURSOR)


@pytest.mark.parametrize("out", [[], ["--out", "own"]])
def test_ctrl_c_leaves_the_table_as_it_stood(
    out: list[str], tiny_file: Callable[[str], Path], own_cache: Path
) -> None:
    terminal = Terminal(*SWEEP, "-m", str(tiny_file("gemma3")), "-n", "150", *out)
    terminal.read_until(rb"example [3-9] of about 150")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.finish() == 130
    final = terminal.output[terminal.output.rindex(SHOW_CURSOR) :]
    lines = shown_lines(final)
    assert any(re.match(r"unfinished: \d+ of 150 examples so far", line) for line in lines)
    assert [line.split()[0] for line in lines if re.match(r" +\d+  ", line)] == list("0123456")
    assert any(line.startswith("skip     so far ") for line in lines) or "baseline is 0" in "".join(
        lines
    )
    assert any(line.startswith("answers behind each score: ") for line in lines)
    assert lines[-1] == "localprobe: interrupted"
    if out:
        assert any("to go on, run it again with --out own" in line for line in lines)
        from localprobe import load_run

        assert (load_run("own").so_far or "").endswith(" of 150 examples")


def test_the_live_view_says_what_it_rests_on(
    tiny_file: Callable[[str], Path], own_cache: Path
) -> None:
    arguments = [*SWEEP, "-n", "20", "-m", str(tiny_file("gemma3"))]
    terminal = Terminal(*arguments, columns=80)
    terminal.read_until(rb"example [3-9] of about")
    assert re.search(rb"answers behind each score: \d+", terminal.output)
    assert b"layer shown" not in terminal.output
    terminal.resize(None, 14, 80)
    terminal.read_until(rb"every [23](nd|rd) layer shown|only layer 6 shown")
    assert terminal.finish() == 0
    final = terminal.output[terminal.output.rindex(SHOW_CURSOR) :]
    assert b"layer shown" not in final


@pytest.mark.parametrize("wait", [0.02, 0.05, 0.1, 0.2, 0.4, 0.8])
def test_ctrl_c_at_any_moment_is_130_and_nothing_is_remembered(
    wait: float, tiny_file: Callable[[str], Path], own_cache: Path
) -> None:
    """Also inside a callback that llama.cpp makes, where a Python exception would be lost."""
    script = (
        "import sys; import localprobe.cli.commands; from localprobe.__main__ import run; "
        "print('ready', flush=True); sys.exit(run())"
    )
    # A sweep over all countries lasts far longer than any of the waits.
    arguments = [*SWEEP, "-m", str(tiny_file("gemma3"))]
    with subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=hears_ctrl_c,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert (process.returncode, said) == (130, b"localprobe: interrupted\n")
    checks = own_cache / "checks.json"
    assert not checks.exists() or "graph" not in checks.read_text(encoding="utf-8")


def test_output_that_cannot_be_written(tiny_file: Callable[[str], Path], own_cache: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with full.open("w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "localprobe", "tokens", "a b", "-m", str(tiny_file("llama"))],
            stdout=out,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 2
    assert done.stderr == b"localprobe: No space left on device\n"


def test_a_reader_that_goes_away(tiny_file: Callable[[str], Path], own_cache: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "localprobe", "tokens", "a b", "-m", str(tiny_file("llama"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (141, b"")


@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2), (0, 1, 2)])
def test_streams_that_are_closed(
    closed: tuple[int, ...], tiny_file: Callable[[str], Path], own_cache: Path
) -> None:
    """Nothing is written into a file that got the number of a closed stream."""

    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    few = ["-n", "2", "--layers", "3", "--max-tokens", "1", "--out", "run"]
    done = subprocess.run(
        [sys.executable, "-m", "localprobe", *SWEEP, *few, "-m", str(tiny_file("llama"))],
        preexec_fn=close,
    )
    assert done.returncode == 0
    from localprobe import load_run

    assert load_run("run").is_finished


def test_errors_that_cannot_be_said(own_cache: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with full.open("w") as out:
        done = subprocess.run([sys.executable, "-m", "localprobe", "show", "none"], stderr=out)
    assert done.returncode == 2


def test_a_terminal_without_columns(tiny_file: Callable[[str], Path], own_cache: Path) -> None:
    few = ["-n", "2", "--layers", "3", "--max-tokens", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "localprobe", *SWEEP, *few, "-m", str(tiny_file("llama"))],
        env={**os.environ, "COLUMNS": "0"},
        capture_output=True,
    )
    assert done.returncode == 0
    assert re.search(rb"^ *3 +0\.00", done.stdout, re.MULTILINE)
