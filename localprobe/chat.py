"""A GGUF's own chat template: what stands around a prompt so that an instruct model answers it."""

from __future__ import annotations

import datetime

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from localprobe.errors import LocalprobeError
from localprobe.llama.model import Model


class ChatTemplate:
    """Renders one message of the user, with the opening of the answer behind it.

    The template is code of a stranger: it runs in Jinja's sandbox.
    Raises LocalprobeError where the model has none, or one that cannot be read.
    """

    def __init__(self, model: Model) -> None:
        source = model.chat_template()
        if not source:
            raise LocalprobeError("--chat: this model's file holds no chat template")
        self._begin, self._end = model.special_texts()
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols"],
        )
        environment.globals.update(raise_exception=_refuse, strftime_now=_today)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise _unusable(error) from None

    def render(self, prompt: str) -> str:
        """Raises LocalprobeError where the template fails, or drops the prompt."""
        try:
            text = self._template.render(
                messages=[{"role": "user", "content": prompt}],
                bos_token=self._begin,
                eos_token=self._end,
                add_generation_prompt=True,
            )
        except LocalprobeError:
            raise
        except Exception as error:  # whatever the template's code does
            raise _unusable(error) from None
        if prompt.strip() not in text:
            raise LocalprobeError("--chat: the model's chat template changes the prompt")
        return text


def _refuse(message: str) -> str:
    raise LocalprobeError(f"--chat: the model's chat template refuses the prompt: {message}")


def _today(form: str) -> str:
    # A fixed day: the same prompt must give the same numbers tomorrow.
    return datetime.datetime(2024, 1, 1).strftime(form)


def _unusable(error: Exception) -> LocalprobeError:
    return LocalprobeError(f"--chat: the model's chat template cannot be used: {error}")
