"""Open thousands of broken GGUFs as a user would: each works, or is refused in one sentence.

    python tests/fuzz_gguf.py -n 10000 [--seed 1] [--workers 1] [--keep FOLDER] [--real]

A worker opens many files, one after another, so that whatever outlives a file is found too. It is
watched: where it dies, hangs, takes too much memory, or raises anything but one LocalprobeError
with one printable line, the file is kept and reported. Exit code 1 where that happened.

So that thousands take minutes, the trial's child is forked from a process that has its imports
done (`--spawn`: it is started as in use). Without fork, it always is.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from helpers import mutants

SECONDS_A_FILE = 40
TRIAL_SECONDS = 15
MEMORY = 3 << 30
"""Of a worker, in data."""
GROWTH = 1 << 30
"""Of a worker's resident memory, by one small file."""

OPENED, STATIC, TRIAL, CHECK, FINDING = "opened", "static", "trial", "check", "finding"
OUTCOMES = (OPENED, STATIC, TRIAL, CHECK, FINDING)
REAL = ("default model, cut", "default model, spoilt header")


@dataclass(frozen=True)
class Job:
    """One file to be made and opened. number: with the seed, it decides everything."""

    kind: str
    seed: int
    number: int

    def rng(self) -> random.Random:
        return random.Random(f"{self.seed}/{self.number}")

    def content(self) -> bytes:
        rng = self.rng()
        return mutants.make(self.kind, mutants.seed_file(rng.choice(mutants.ALL_SEEDS)), rng)


@dataclass(frozen=True)
class Result:
    """What came of a file. text: what the user was told, or what went wrong."""

    outcome: str
    text: str
    seconds: float = 0.0


# In a worker


class ForkedTrials:
    """The trial's children, forked from a process that has imported everything and used nothing."""

    def __init__(self, said: Path) -> None:
        import localprobe.llama.model  # noqa: F401  (before the fork)
        from localprobe.models import vetting

        self._requests, requests = os.pipe()[::-1]
        replies, self_replies = os.pipe()
        self._said = said
        said.touch()
        self._replies = replies
        if os.fork() == 0:
            os.close(self._requests)
            with os.fdopen(requests, "rb") as lines:
                for line in lines:
                    path, seconds = json.loads(line)
                    code = self._fork(vetting.main, path, seconds)
                    os.write(self_replies, struct.pack("<q", code))
            os._exit(0)
        os.close(requests)

    def __call__(self, path: Path, seconds: float) -> tuple[int, str]:
        """In the place of `vetting.run_child`."""
        from localprobe.models import vetting

        os.write(self._requests, json.dumps([str(path), seconds]).encode() + b"\n")
        code = struct.unpack("<q", os.read(self._replies, 8))[0]
        if code == 1 << 32:
            raise subprocess.TimeoutExpired("trial", seconds)
        return code, vetting.last_line(self._said.read_bytes())

    def _fork(self, main: Callable[[], int], path: str, seconds: float) -> int:
        child = os.fork()
        if child == 0:
            said = os.open(self._said, os.O_WRONLY | os.O_TRUNC)
            os.dup2(said, 1)
            os.dup2(said, 2)
            code = 1
            try:
                sys.argv = ["vetting", path]
                code = main()
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        end = time.monotonic() + seconds
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return 1 << 32
            time.sleep(0.001)


def work(jobs: Connection, results: Connection, folder: Path, *, spawn: bool, real: str) -> None:
    """A worker: jobs in, results out, until there are no more."""
    os.environ |= {"LOCALPROBE_CACHE": str(folder), "GGML_NO_BACKTRACE": "1"}
    folder.mkdir(parents=True, exist_ok=True)
    sys.stderr = (folder / "stderr").open("w", encoding="utf-8", errors="replace")
    os.dup2(sys.stderr.fileno(), 2)
    _limit_memory()
    from localprobe.models import vetting

    vetting._SECONDS = TRIAL_SECONDS
    if hasattr(os, "fork") and not spawn:
        vetting.run_child = ForkedTrials(folder / "said")
    path = folder / "mutant.gguf"
    whole = Path(real).read_bytes() if real else b""
    while (job := jobs.recv()) is not None:
        if job.kind in REAL:
            _write_real(job, whole, path)
        else:
            path.write_bytes(job.content())
        (folder / "hashes.json").unlink(missing_ok=True)
        (folder / "checks.json").unlink(missing_ok=True)
        started, before = time.monotonic(), _peak_memory()
        result = open_and_use(path, job.rng())
        if job.kind not in REAL and _peak_memory() - before > GROWTH:
            result = Result(
                FINDING, f"memory: {(_peak_memory() - before) >> 20} MB ({result.text})"
            )
        results.send(Result(result.outcome, result.text, time.monotonic() - started))


def _write_real(job: Job, whole: bytes, path: Path) -> None:
    rng, header = job.rng(), 2_000_000
    if job.kind == REAL[0]:
        path.write_bytes(whole[: rng.choice((rng.randrange(header), rng.randrange(len(whole))))])
        return
    spoilt = bytearray(whole)
    for _ in range(rng.choice((1, 1, 3))):
        at, count = rng.choice((rng.randrange(2000), rng.randrange(header))), rng.choice((1, 4, 8))
        spoilt[at : at + count] = rng.choice((bytes(count), b"\xff" * count, rng.randbytes(count)))
    path.write_bytes(spoilt)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _peak_memory() -> int:
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak << 10)


def open_and_use(path: Path, rng: random.Random) -> Result:
    """What a user meets who opens this file, probes it, and asks for its facts."""
    from localprobe.errors import LocalprobeError, ModelError
    from localprobe.models.header import read_header

    stage = STATIC
    try:
        read_header(path)
        stage = TRIAL
        from localprobe.models import opening as models

        models.find(str(path))
        stage = CHECK
        use(path, rng)
    except LocalprobeError as error:
        message = str(error)
        if not message.isprintable() or not 0 < len(message) < 1000:
            return Result(FINDING, f"not one printable line: {message!r}")
        if stage != CHECK and not isinstance(error, ModelError):
            return Result(FINDING, f"not a ModelError: {error!r}")
        return Result(stage, message)
    except BaseException:
        return Result(FINDING, traceback.format_exc())
    return Result(OPENED, "")


def use(path: Path, rng: random.Random) -> None:
    from localprobe import api
    from localprobe.llama.quantizing import quantize
    from localprobe.report.documents import probe_document, token_records

    with api.Model(path, threads=1, warn=lambda _message: None) as model:
        loaded = model.loaded.model
        prompt = rng.choice(("The capital of France is", "é漢😀 a\n\tb\0c", "ab" * 20))
        token_records(loaded, loaded.tokenize(prompt))
        chat = bool(loaded.chat_template())
        layers = rng.choice(("all", "1", "-1:"))
        found = api.probe(model, prompt, layers=layers, max_tokens=3, chat=chat)
        json.dumps(probe_document(model.loaded, found), allow_nan=False)
    if rng.random() < 0.3:
        quantize(path, path.with_suffix(".other"), rng.choice(("q8_0", "q4_0", "f16", "f32")))


# In the process that watches


class Worker:
    """A worker that is started again where it had to be given up."""

    def __init__(self, folder: Path, *, spawn: bool, real: str) -> None:
        self._folder, self._options = folder, {"spawn": spawn, "real": real}
        self._process: Any = None
        self.job: Job | None = None
        self._started = 0.0

    def give(self, job: Job) -> None:
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            theirs, self._jobs = context.Pipe(duplex=False)
            self.results, results = context.Pipe(duplex=False)
            self._process = context.Process(
                target=work, args=(theirs, results, self._folder), kwargs=self._options
            )
            self._process.start()
            theirs.close()
            results.close()
        self.job, self._started = job, time.monotonic()
        self._jobs.send(job)

    def result(self) -> Result | None:
        """What came of the job, where something did by now."""
        try:
            if self.results.poll(0.02):
                return self._answer(self.results.recv())
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            said = (self._folder / "stderr").read_text(errors="replace")[-2000:]
            return self._given_up(f"the worker died with {code}\n{said}")
        if time.monotonic() - self._started > SECONDS_A_FILE:
            return self._given_up(f"no end after {SECONDS_A_FILE} s")
        return None

    def _answer(self, result: Result) -> Result:
        self.job = None
        return result

    def _given_up(self, why: str) -> Result:
        self.stop()
        return self._answer(Result(FINDING, why))

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def jobs(count: int, seed: int, *, real: bool) -> Iterator[Job]:
    kinds = [*mutants.MUTATIONS]
    for number in range(count):
        kind = kinds[number % len(kinds)]
        if real and number % 250 == 0:
            kind = REAL[number // 250 % 2]
        yield Job(kind, seed, number)


def fuzz(
    count: int,
    seed: int = 0,
    *,
    folder: Path,
    workers: int = 1,
    spawn: bool = False,
    real: str = "",
    keep: Path | None = None,
    progress: Callable[[int, list[str]], object] = lambda _done, _findings: None,
) -> tuple[dict[str, Counter[str]], list[str]]:
    """Outcomes by kind of mutation, and the findings. Files of findings are kept in `keep`."""
    table: dict[str, Counter[str]] = {}
    findings: list[str] = []
    todo = jobs(count, seed, real=bool(real))
    team = [
        Worker(folder / f"worker-{number}", spawn=spawn, real=real) for number in range(workers)
    ]
    done = 0
    try:
        while done < count:
            for worker in team:
                if worker.job is None:
                    job = next(todo, None)
                    if job is None:
                        continue
                    worker.give(job)
                job = worker.job
                assert job is not None
                result = worker.result()
                if result is None:
                    continue
                done += 1
                table.setdefault(job.kind, Counter())[result.outcome] += 1
                if result.outcome == FINDING:
                    findings.append(f"{job}: {result.text}")
                    if keep is not None and job.kind not in REAL:
                        keep.mkdir(parents=True, exist_ok=True)
                        name = keep / f"{job.seed}-{job.number}"
                        name.with_suffix(".gguf").write_bytes(job.content())
                        name.with_suffix(".txt").write_text(findings[-1], encoding="utf-8")
                progress(done, findings)
    finally:
        for worker in team:
            worker.stop()
    return table, findings


def report(table: dict[str, Counter[str]]) -> str:
    heads = ("tried", *OUTCOMES)
    total: Counter[str] = sum(table.values(), Counter())
    lines = [f"{'':28}" + "".join(f"{head:>9}" for head in heads)]
    for kind, counts in [*sorted(table.items()), ("all", total)]:
        numbers = (counts.total(), *(counts[outcome] for outcome in OUTCOMES))
        lines.append(f"{kind:28}" + "".join(f"{number:>9}" for number in numbers))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-n", type=int, default=1000, help="how many files (default 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--spawn", action="store_true", help="start each trial as in use")
    parser.add_argument("--real", action="store_true", help="the default model too, spoilt")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    real = ""
    if options.real:
        from localprobe.models.opening import locate
        from localprobe.models.registry import DEFAULT_FILE

        real = str(locate(DEFAULT_FILE)[1])
    started = time.monotonic()

    def progress(done: int, findings: list[str]) -> None:
        if done % 100 == 0:
            seconds = time.monotonic() - started
            print(f"{done} files, {seconds:.0f} s, {len(findings)} findings", file=sys.stderr)

    with tempfile.TemporaryDirectory() as folder:
        table, findings = fuzz(
            options.n,
            options.seed,
            folder=Path(folder),
            workers=options.workers,
            spawn=options.spawn,
            real=real,
            keep=options.keep,
            progress=progress,
        )
    print(report(table))
    for finding in findings:
        print(f"\n{finding}")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
