"""A GGUF's own chat template: what stands around a prompt so that an instruct model answers it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

from localprobe.chat_worker import MOST_BYTES
from localprobe.errors import LocalprobeError
from localprobe.foreign import printable
from localprobe.llama.model import Model

_MOST_SOURCE = 1 << 20
_SECONDS = 10.0

# Not `-m`, which would look for modules in the working directory first.
_START = "import sys; sys.path[:] = filter(None, sys.path); "
_START += "from localprobe.chat_worker import main; main()"


class ChatTemplate:
    """Renders one message of the user, with the opening of the answer behind it.

    The template is code of a stranger: it runs in Jinja's sandbox, in a process of its own with
    little memory and little time. seconds: for each prompt.
    Raises LocalprobeError where the model has none, or one that cannot be used.
    """

    def __init__(self, model: Model, seconds: float = _SECONDS) -> None:
        source = model.chat_template()
        if not source:
            raise LocalprobeError("--chat: this model's file holds no chat template")
        if len(source) > _MOST_SOURCE:
            raise LocalprobeError("--chat: the model's chat template is longer than 1 MB")
        self._seconds = seconds
        here = str(Path(__file__).parent.parent)
        paths = filter(None, [here, os.environ.get("PYTHONPATH")])
        self._worker = subprocess.Popen(
            [sys.executable, "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        weakref.finalize(self, _end, self._worker)
        begin, end = model.special_texts()
        self._ask({"source": source, "begin": begin, "end": end})

    def render(self, prompt: str) -> str:
        """Raises LocalprobeError where the template fails, or drops the prompt."""
        text = self._ask({"prompt": prompt})
        if prompt.strip() not in text:
            raise LocalprobeError("--chat: the model's chat template changes the prompt")
        return text

    def _ask(self, request: dict[str, str]) -> str:
        worker = self._worker
        assert worker.stdin is not None
        assert worker.stdout is not None
        timer = threading.Timer(self._seconds, worker.kill)
        timer.start()
        try:
            worker.stdin.write(json.dumps(request) + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline(MOST_BYTES + 2)
        except OSError:
            line = ""
        finally:
            timer.cancel()
        answer: dict[str, Any] = (
            json.loads(line)
            if line.endswith("\n")
            else {"error": f"takes more than {self._seconds:g} seconds, or too much memory"}
        )
        if "error" in answer:
            reason = printable(str(answer["error"]))
            raise LocalprobeError(f"--chat: the model's chat template {reason}")
        return str(answer["text"])


def _end(worker: subprocess.Popen[str]) -> None:
    worker.kill()
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            pipe.close()
    worker.wait()
