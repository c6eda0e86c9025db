"""Renders a chat template, in a process of its own with bounds: it is code of a stranger.

Reads a line of JSON with the template, then one for every prompt; writes a line for each.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
from collections.abc import Callable
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

from localprobe.files.workers import bound

MOST_BYTES = 1 << 22
"""Of what a template renders, as JSON."""
_MEMORY = 1 << 30


class _RefusedError(Exception):
    """The template itself refuses the prompt."""


def _refuse(message: str) -> str:
    raise _RefusedError(message)


def _today(form: str) -> str:
    # A fixed day: the same prompt must give the same numbers tomorrow.
    return datetime.datetime(2024, 1, 1).strftime(form)


def _renderer(source: str, begin: str, end: str) -> Callable[[str], str]:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals.update(raise_exception=_refuse, strftime_now=_today)
    # Both draw at random.
    del environment.globals["lipsum"], environment.filters["random"]
    template = environment.from_string(source)
    return lambda prompt: template.render(
        messages=[{"role": "user", "content": prompt}],
        bos_token=begin,
        eos_token=end,
        add_generation_prompt=True,
    )


def _answer(make: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"text": make()}
    except _RefusedError as error:
        return {"error": f"refuses the prompt: {error}"}
    except MemoryError:
        return {"error": "takes too much memory"}
    except RecursionError:
        return {"error": "cannot be used: it is nested too deeply"}
    except Exception as error:  # whatever the template's code does
        return {"error": f"cannot be used: {error}"}


def _say(answer: dict[str, Any]) -> None:
    line = json.dumps(answer)
    if len(line) > MOST_BYTES:
        line = json.dumps({"error": f"writes more than {MOST_BYTES} characters"})
    print(line, flush=True)


def main() -> None:
    with contextlib.suppress(ValueError, OSError):  # macOS refuses some
        bound(AS=_MEMORY, CORE=0)
    render: Callable[[str], str] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if render is None:
            try:
                render = _renderer(request["source"], request["begin"], request["end"])
                _say({"text": ""})
            except Exception as error:  # what it compiles to may fail in any way
                _say({"error": f"cannot be used: {error or type(error).__name__}"})
        else:
            chosen = render
            _say(_answer(lambda: chosen(request["prompt"])))  # noqa: B023
