"""The options that several commands have, each said once; and the model that they choose.

    @choosing_a_model()
    def command(prompt: Prompt, choice: ModelChoice, json: Json = False) -> None: ...

is a command with --model, --threads, --gpu-layers, --device, --rpc, --ctx and --engine.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from localprobe.cli import completion
from localprobe.models.registry import DEFAULT_MODEL

if TYPE_CHECKING:
    # Loading llama.cpp waits until a model is opened.
    from localprobe.api import Model

PROMPT_HELP = (
    r"The prompt; \n is a newline (\\n: no newline), @FILE reads a file, - reads standard input."
)

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="A name of `localprobe models [--local]`, or a .gguf file; @TYPE: as prepared.",
        autocompletion=completion.models,
    ),
]
Threads = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="CPU threads; 0: one a core. Take fewer if it is busy.",
        min=0,
        max=512,
    ),
]
GpuLayers = Annotated[
    Optional[str],
    typer.Option(
        metavar="N",
        help="Layers on the GPU, from the last (the output) on; -1: all; auto: what fits.",
    ),
]
Devices = Annotated[
    list[str],
    typer.Option(
        "--device",
        metavar="NAME",
        help="A device of `localprobe devices`, not all; may be repeated.",
        autocompletion=completion.devices,
    ),
]
Rpc = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT,...", help="Workers on other machines (see `localprobe worker`)."
    ),
]
Ctx = Annotated[
    int,
    typer.Option(
        metavar="N", help="Longest sequence in tokens; 0: as the model was trained.", min=0
    ),
]
Attention = Annotated[
    Optional[str],
    typer.Option(
        metavar="NAME",
        help="exact: in float32; flash: faster, keys and values in float16; auto, if not given: "
        "flash where the weights round as much anyway.",
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="resume: compute only what changes; full: whole passes.",
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of the random draws.", min=0)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Layers = Annotated[
    str,
    typer.Option(
        metavar="LAYERS",
        help="Layers: all, 12, 3,7,12, 0:30:2 (Python's slices) or -5: (the last).",
    ),
]
MaxTokens = Annotated[int, typer.Option(metavar="N", help="Longest answer in tokens.", min=1)]
ProbePatches = Annotated[
    list[str],
    typer.Option(
        "--patch",
        "-p",
        metavar="NAME",
        help="{all}, with commas; all but {donor} if not given.",
        autocompletion=completion.probed_patches,
    ),
]
SweepPatches = Annotated[
    list[str],
    typer.Option(
        "--patch",
        "-p",
        metavar="NAME",
        help="{sweepable}, with commas; all but swap if not given.",
        autocompletion=completion.swept_patches,
    ),
]
TransitionPatches = Annotated[
    list[str],
    typer.Option(
        "--patch",
        "-p",
        metavar="NAME",
        help="{undonated}, with commas; all if not given.",
        autocompletion=completion.swept_patches,
    ),
]
Shots = Annotated[
    Optional[int],
    typer.Option(
        metavar="N",
        help="Solved ones in front of the task's own prompt: capitals (1 if not given), math (4).",
        min=0,
    ),
]
Prompts = Annotated[
    str,
    typer.Option(
        metavar="WHOSE",
        help="paper: the task's own prompt; model: the one that models.toml has for the model.",
    ),
]
Chat = Annotated[
    bool,
    typer.Option("--chat", help="Put prompts through the model's own chat template."),
]
Batch = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Prompts in one decode, at most; 0: what is fast and, where rows are written down, "
        "changes no bit of them.",
        min=0,
        max=256,
    ),
]
Out = Annotated[
    Optional[Path],
    typer.Option(metavar="DIR", help="Write every row to this folder, or go on in it."),
]
ShardOption = Annotated[
    str,
    typer.Option("--shard", metavar="I/N", help="Do only every N-th example, from the I-th on."),
]
Runs = Annotated[
    list[Path], typer.Argument(metavar="DIR...", help="Folders that runs were written to.")
]
MapOutput = Annotated[
    Optional[Path],
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write it to a .png, .svg, .pdf, .html, .csv or .npz file.",
    ),
]
Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help=PROMPT_HELP)]


@dataclass(frozen=True)
class ModelChoice:
    """Which model to use, and how."""

    model: str = DEFAULT_MODEL
    threads: int = 0
    gpu_layers: str | int | None = None
    device: Sequence[str] = ()
    rpc: str = ""
    ctx: int = 0
    attention: str | None = None
    engine: str = "resume"

    def open(self) -> Model:
        from localprobe.api import Model
        from localprobe.report.terminal import say, say_on_terminal

        return Model(
            self.model,
            threads=self.threads,
            gpu_layers=self.gpu_layers,
            devices=self.device,
            rpc=self.rpc,
            ctx=self.ctx,
            attention=self.attention or "auto",
            engine=self.engine,
            warn=lambda message: say(f"localprobe: {message}"),
            tell=say_on_terminal,
        )


_OF_A_MODEL: dict[str, Any] = {
    "model": ModelOption,
    "threads": Threads,
    "gpu_layers": GpuLayers,
    "device": Devices,
    "rpc": Rpc,
    "ctx": Ctx,
    "attention": Attention,
    "engine": Engine,
}


def choosing_a_model(
    *, without: tuple[str, ...] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, in the place of its argument `choice`, the options of a ModelChoice."""

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        options = [name for name in _OF_A_MODEL if name not in without]

        @functools.wraps(command)
        def typed(**values: Any) -> None:
            chosen = {name: values.pop(name) for name in options}
            command(choice=ModelChoice(**chosen), **values)

        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            if parameter.name != "choice":
                parameters.append(parameter)
                continue
            for name in options:
                default = getattr(ModelChoice, name)
                parameters.append(
                    parameter.replace(name=name, annotation=_OF_A_MODEL[name], default=default)
                )
        typed.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return typed

    return decorated
