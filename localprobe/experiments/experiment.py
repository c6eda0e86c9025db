"""An experiment: everything that the numbers of a sweep depend on, but the model and its engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from localprobe.engine.full import FullEngine
from localprobe.engine.layers import parse_layers
from localprobe.errors import LocalprobeError, did_you_mean
from localprobe.experiments.sweep import Sweep
from localprobe.files.cache import sha256_of
from localprobe.prompts.chat import ChatTemplate
from localprobe.prompts.encoder import Encoder
from localprobe.runs.adaptive import WIDTH, Adaptive
from localprobe.runs.descent import Descent
from localprobe.runs.shard import WHOLE, Shard
from localprobe.runs.tally import KEPT
from localprobe.tasks import NAMES, task_by_name
from localprobe.tasks.base import FIRST_TOKEN, Task, TaskOptions
from localprobe.tasks.first_token import FirstToken

PROMPTS = PAPER, MODEL = "paper", "model"
"""Whose prompts: the task's own, which are the paper's, or what models.toml has for the model."""


class Prompting(Protocol):
    """A prompt of models.toml."""

    @property
    def template(self) -> str | None: ...

    @property
    def shots(self) -> int | None: ...


@dataclass(frozen=True)
class Experiment:
    """One sweep to be. None: as the task has it. layers: as on the command line.

    shots: solved ones in front of the task's own prompt. prompts: "paper", the task's own, or
    "model", what models.toml has for the model; see `prompted`.

    patience: of a transition, whose layers go down until the answer was lost at so many in a row;
    None: all layers. check, keep, until_width: of a transition, see `Sweep`.

    adaptive: whether a layer gets examples only until its 95 % interval is at most `width` wide.
    """

    task: str
    patches: tuple[str, ...]
    layers: str = "all"
    n: int | None = None
    seed: int = 0
    metric: str | None = None
    all_examples: bool = False
    max_tokens: int | None = None
    max_prompt_tokens: int | None = None
    template: str | None = None
    shots: int | None = None
    prompts: str = PAPER
    data: Path | None = None
    digits: int | None = None
    chat: bool = False
    shard: Shard = WHOLE
    patience: int | None = None
    check: float = 0.0
    keep: float | None = None
    until_width: int | None = None
    adaptive: bool = False
    width: float | None = None

    def __post_init__(self) -> None:
        if self.prompts not in PROMPTS:
            hint = did_you_mean(str(self.prompts), PROMPTS)
            raise LocalprobeError(f"unknown prompts {self.prompts!r}; {hint}")

    def build_task(self) -> Task:
        options = TaskOptions(self.template, self.data, self.digits, self.seed, self.shots)
        task = task_by_name(self.task, options)
        return FirstToken(task) if self.metric == FIRST_TOKEN else task

    def prompted(self, known: Mapping[str, Prompting]) -> Experiment:
        """With the prompt that is known to suit the model, where that is asked for.

        known: by task. What is said by `template` or `shots` wins, and what none is known for is
        asked as ever. Raises LocalprobeError for a prompt that its task does not take.
        """
        own = replace(self, prompts=PAPER)
        if self.prompts == PAPER or (self.template, self.shots) != (None, None):
            return own
        for task in known:
            if task not in NAMES:
                raise LocalprobeError(
                    f"models.toml has prompts for the unknown task {task!r}; "
                    f"{did_you_mean(task, NAMES)}"
                )
        if self.task not in known:
            return own
        own = replace(own, template=known[self.task].template, shots=known[self.task].shots)
        try:
            own.build_task()
        except LocalprobeError as error:
            raise LocalprobeError(f"the prompt for {self.task} in models.toml: {error}") from None
        return own

    def sweep(self, engine: FullEngine) -> Sweep:
        """The sweep on a model."""
        descent = None
        if self.patience is not None:
            self._check_numbers(self.patience)
            descent = Descent(self.patience, self.check, self.seed)
        elif (self.check, self.keep, self.until_width) != (0.0, None, None):
            raise LocalprobeError("check, keep and until_width are for a transition: give patience")
        adaptive = self._rule()
        return Sweep(
            engine,
            self.build_task(),
            self.patches,
            parse_layers(self.layers, engine.model.n_layer),
            n=self.n,
            seed=self.seed,
            all_examples=self.all_examples,
            metric=self.metric,
            max_tokens=self.max_tokens,
            max_prompt_tokens=self.max_prompt_tokens,
            encoder=encoder(engine, chat=self.chat),
            shard=self.shard,
            descent=descent,
            keep=KEPT if self.keep is None else self.keep,
            until_width=self.until_width,
            adaptive=adaptive,
        )

    def _rule(self) -> Adaptive | None:
        if not self.adaptive:
            if self.width is not None:
                raise LocalprobeError("width is for a sweep that is adaptive")
            return None
        if self.patience is not None:
            raise LocalprobeError(
                "a transition leaves layers out by itself, and cannot be adaptive"
            )
        width = WIDTH if self.width is None else self.width
        if not 0 < width < 1:
            raise LocalprobeError(f"width must be above 0 and below 1, not {width}")
        return Adaptive(width)

    def _check_numbers(self, patience: int) -> None:
        if patience < 1:
            raise LocalprobeError(f"patience must be at least 1, not {patience}")
        if not 0 <= self.check <= 1:
            raise LocalprobeError(f"check must be a share, 0 to 1, not {self.check}")
        if self.keep is not None and not 0 < self.keep < 1:
            raise LocalprobeError(f"keep must be a share above 0 and below 1, not {self.keep}")
        if self.until_width is not None and self.until_width < 0:
            raise LocalprobeError(f"until_width must be at least 0, not {self.until_width}")

    def record(self) -> dict[str, Any]:
        """As JSON; a data file by its name and its hash."""
        return {
            "task": self.task,
            "interventions": list(self.patches),
            "layers": self.layers,
            "n": self.n,
            "seed": self.seed,
            "metric": self.metric,
            "all_examples": self.all_examples,
            "max_tokens": self.max_tokens,
            "max_prompt_tokens": self.max_prompt_tokens,
            "template": self.template,
            "shots": self.shots,
            "data": self.data and {"file": self.data.name, "sha256": _hash(self.data)},
            "digits": self.digits,
            "chat": self.chat,
            "shard": str(self.shard),
            **self._record_of_a_transition(),
            **self._record_of_a_rule(),
        }

    def _record_of_a_rule(self) -> dict[str, Any]:
        rule = self._rule()
        return {} if rule is None else {"adaptive": True, "width": rule.width}

    def _record_of_a_transition(self) -> dict[str, Any]:
        if self.patience is None:
            return {}
        return {
            "patience": self.patience,
            "check": self.check,
            "keep": KEPT if self.keep is None else self.keep,
            "until_width": self.until_width,
        }


def encoder(engine: FullEngine, *, chat: bool) -> Encoder:
    return Encoder(engine.model, ChatTemplate(engine.model) if chat else None)


def _hash(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise LocalprobeError(f"cannot read {path}: {error.strerror}") from None
