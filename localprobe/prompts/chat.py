"""A GGUF's own chat template: what stands around a prompt so that an instruct model answers it."""

from __future__ import annotations

import json
import subprocess
import threading
import weakref
from typing import Any

from localprobe.errors import LocalprobeError
from localprobe.files import workers
from localprobe.files.foreign import printable
from localprobe.llama.model import Model
from localprobe.prompts.chat_worker import MOST_BYTES

_MOST_SOURCE = 1 << 20
_SECONDS = 10.0


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
        # Two, which must agree: what a template says may depend on addresses or hashes, and then
        # is something else in the next run.
        self._workers = [workers.start("localprobe.prompts.chat_worker") for _ in range(2)]
        for worker in self._workers:
            weakref.finalize(self, workers.end, worker)
        begin, end = model.special_texts()
        self._ask({"source": source, "begin": begin, "end": end})

    def render(self, prompt: str) -> str:
        """Raises LocalprobeError where the template fails, or drops the prompt."""
        text = self._ask({"prompt": prompt})
        if prompt.strip() not in text:
            raise LocalprobeError("--chat: the model's chat template changes the prompt")
        return text

    def _ask(self, request: dict[str, str]) -> str:
        answers = [self._answer(worker, request) for worker in self._workers]
        if answers[0] != answers[1]:
            raise LocalprobeError("--chat: the model's chat template says now this, now that")
        return answers[0]

    def _answer(self, worker: subprocess.Popen[str], request: dict[str, str]) -> str:
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
