"""A GGUF is vetted before it is loaded: read with suspicion, then tried in a process that may die.

llama.cpp aborts the whole process on some broken files, and what a file does to it cannot be known
without trying. So a file that was never seen here is first read (see `header`), then loaded and
used a little in a child process (`python -m localprobe.models.vetting FILE`), with limits of time
and memory; only then in ours. A good verdict is remembered with the file's hash, a bad one is not.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from localprobe.errors import LocalprobeError, ModelError
from localprobe.files import workers
from localprobe.files.cache import remembered_of_file
from localprobe.files.foreign import printable
from localprobe.files.parts import total_size
from localprobe.models.header import Header, read_header

_REFUSED = 2
_SECONDS, _BYTES_A_SECOND = 60, 50_000_000
_SPARE_MEMORY = 2 << 30
_TAIL = 64 << 10

_THE_FILE = "(the file)"
"""What the child calls it: it knows the file by another path."""
_TEXTS = ("The capital of France is", "".join(map(chr, range(128))), "é ∑ 漢 😀")


def vet(path: Path, digest: str) -> None:
    """Raise ModelError, in one sentence, where llama.cpp cannot use a file, or dies of it.

    digest: its SHA-256. What was found good is not tried again.
    """

    def run() -> str:
        read_header(path)
        _try_in_child(path)
        return "good"

    remembered_of_file(digest, "vetted", run)


def _try_in_child(path: Path) -> None:
    seconds = _limit(path)
    try:
        code, said = run_child(path.absolute(), seconds)
    except subprocess.TimeoutExpired:
        raise ModelError(
            f"{path} cannot be used: llama.cpp did not come to an end with it in {seconds} s"
        ) from None
    if code == 0:
        return
    if code == _REFUSED:
        raise ModelError(printable(said).replace(_THE_FILE, str(path)))
    raise ModelError(f"{path} cannot be used: llama.cpp aborts on it ({_cause(code, said)})")


def _limit(path: Path) -> int:
    return _SECONDS + total_size(path) // _BYTES_A_SECOND


def run_child(path: Path, seconds: float) -> tuple[int, str]:
    """The trial's exit code, and the last line that it wrote.

    Raises subprocess.TimeoutExpired. The child never outlives this call.
    """
    environment = {
        **os.environ,
        # The same packages as here, and none that lies in the working directory by chance.
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONUTF8": "1",
        "PYTHONFAULTHANDLER": "",
        "GGML_NO_BACKTRACE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, "-m", "localprobe.models.vetting", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=Path(__file__).parents[2],
        )
        try:
            code = child.wait(seconds)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        said.seek(max(0, said.seek(0, os.SEEK_END) - _TAIL))
        return code, last_line(said.read())


def last_line(said: bytes) -> str:
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _cause(code: int, said: str) -> str:
    """Why the child died: in llama.cpp's words, or by the name of the signal."""
    # An assertion starts with the place in llama.cpp's source, an exception with "what():".
    words = printable(re.sub(r"^(\S+:\d+:|\s*what\(\):)\s*", "", said), 200)
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return words or f"exit code {code:#x}"
    return words if words and name == "SIGABRT" else name


# The child


def main() -> int:
    """Try the file that is named on the command line; 2, and a sentence, where it is refused."""
    path = Path(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is the parent's to answer
    _limit_resources(path)
    try:
        _try(path, read_header(path))
    except LocalprobeError as error:
        said = str(error).replace(str(path), _THE_FILE)
        print(printable(said if _THE_FILE in said else f"{_THE_FILE} cannot be used: {said}"))
        return _REFUSED
    return 0


def _limit_resources(path: Path) -> None:
    if sys.platform == "win32":
        import ctypes

        ctypes.windll.kernel32.SetErrorMode(0x3)  # no dialogue when it crashes
        return
    # What is written to, not what is mapped: a GPU's driver reserves addresses without bound. The
    # file itself is mapped, and may be copied once, for a faster layout of its weights.
    workers.bound(
        DATA=2 * total_size(path) + _SPARE_MEMORY,
        CPU=_limit(path) + 5,  # should the parent be killed
        CORE=0,
    )


def _try(path: Path, header: Header) -> None:
    """Load a model, look at every weight, and use it a little. Raises LocalprobeError."""
    from localprobe.llama.model import Model

    with Model(path, threads=1) as model:
        _check_weights(path, header)
        for text in _TEXTS:
            tokens = model.tokenize(text)
            model.detokenize(tokens)
        model.special_texts()
        if model.unsupported() is None:
            model.plain_logits([0, model.info.n_vocab - 1])


def _check_weights(path: Path, header: Header) -> None:
    """Raise ModelError for weights that are not finite: sorted or compared, they lead anywhere."""
    import numpy as np

    from localprobe.llama import ggml

    files = {tensor.file for tensor in header.tensors}
    parts = {file: np.memmap(file, np.uint8, "r") for file in files}
    for tensor in header.tensors:
        data = parts[tensor.file]
        if not ggml.all_finite(tensor.kind, data.ctypes.data + tensor.start, tensor.size):
            raise ModelError(
                f"{path} cannot be used: not all weights of {tensor.name} are finite numbers"
            )


if __name__ == "__main__":
    sys.exit(main())
