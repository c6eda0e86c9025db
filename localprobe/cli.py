"""The command line: parse, call, show. Heavy imports wait until a command needs them."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Optional

import typer

from localprobe.errors import LocalprobeError
from localprobe.registry import DEFAULT_MODEL

_ALL = ("random", "shuffle", "freeze", "skip")
_PROMPT_HELP = (
    r"The prompt; \n is a newline (\\n: no newline), @FILE reads a file, - reads standard input."
)
_EXAMPLE_PROMPT = (
    r"Q: What is the capital of Spain?\nA: Madrid\nQ: What is the capital of France?\nA:"
)


def _example(line: str) -> str:
    # \b keeps click from wrapping: what is shown can be pasted.
    return f"\b\nExample:\n  {line}"


app = typer.Typer(
    name="localprobe",
    help="Overwrite what earlier tokens hold at a layer of a GGUF model; watch the answer change.",
    epilog=_example("localprobe demo"),
    invoke_without_command=True,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models_app = typer.Typer(no_args_is_help=False, rich_markup_mode=None)
app.add_typer(models_app, name="models")

ModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", metavar="MODEL", help="A name of `localprobe models`, or a .gguf file."
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
    int, typer.Option(metavar="N", help="Blocks to place on the GPU; -1: all.", min=-1)
]
Ctx = Annotated[
    int,
    typer.Option(
        metavar="N", help="Longest sequence in tokens; 0: as the model was trained.", min=0
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
        help="random, shuffle, freeze, skip or inject, with commas; all but inject if not given.",
    ),
]
SweepPatches = Annotated[
    list[str],
    typer.Option(
        "--patch",
        "-p",
        metavar="NAME",
        help="random, shuffle, freeze, skip or swap, with commas; all but swap if not given.",
    ),
]
Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help=_PROMPT_HELP)]


def _version(wanted: bool) -> None:
    if wanted:
        from localprobe import __version__

        print(f"localprobe {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(epilog=_example("localprobe demo"))
def demo(
    model: ModelOption = DEFAULT_MODEL,
    threads: Threads = 0,
    gpu_layers: GpuLayers = 0,
    short: Annotated[bool, typer.Option("--short", help="Fewer layers and examples.")] = False,
) -> None:
    """Two experiments on a small model, explained: a swap, then a sweep."""
    from localprobe import demo as show
    from localprobe.models import open_model

    with open_model(model, threads=threads, gpu_layers=gpu_layers) as loaded:
        show.run(loaded, short=short)


@app.command(
    epilog=_example(
        f"localprobe probe '{_EXAMPLE_PROMPT}' --patch freeze --patch skip --layers 16:"
    )
)
def probe(
    prompt: Prompt,
    patch: ProbePatches = [],  # noqa: B006
    layers: Layers = "all",
    max_tokens: MaxTokens = 8,
    donor: Annotated[
        Optional[str], typer.Option(help="For inject: the prompt whose states are injected.")
    ] = None,
    at: Annotated[
        Optional[str],
        typer.Option(help="For inject: the token written to, an index or a word (its last place)."),
    ] = None,
    donor_at: Annotated[
        Optional[str],
        typer.Option(help="For inject: the donor's token, an index or a word (its last place)."),
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    threads: Threads = 0,
    gpu_layers: GpuLayers = 0,
    ctx: Ctx = 0,
    engine: Engine = "resume",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """One prompt: the answer at each layer under each intervention."""
    from localprobe import commands

    commands.probe(
        prompt=prompt,
        patches=_names(patch),
        layers=layers,
        max_tokens=max_tokens,
        donor=donor,
        at=at,
        donor_at=donor_at,
        model=commands.ModelChoice(model, threads, gpu_layers, ctx, engine),
        seed=seed,
        json=json,
    )


@app.command(epilog=_example(f"localprobe swap '{_EXAMPLE_PROMPT}' France Italy --layers 16:"))
def swap(
    prompt: Prompt,
    old: Annotated[str, typer.Argument(metavar="OLD", help="A word of the prompt.")],
    new: Annotated[
        str, typer.Argument(metavar="NEW", help="What the donor prompt has in its place.")
    ],
    layers: Layers = "all",
    max_tokens: MaxTokens = 8,
    model: ModelOption = DEFAULT_MODEL,
    threads: Threads = 0,
    gpu_layers: GpuLayers = 0,
    ctx: Ctx = 0,
    engine: Engine = "resume",
    json: Json = False,
) -> None:
    """Swap OLD for NEW at one layer: what does the answer follow?"""
    from localprobe import commands

    commands.swap(
        prompt=prompt,
        old=old,
        new=new,
        layers=layers,
        max_tokens=max_tokens,
        model=commands.ModelChoice(model, threads, gpu_layers, ctx, engine),
        json=json,
    )


@app.command(
    epilog=_example("localprobe sweep --task capitals --patch freeze,skip --layers 16: -n 5")
)
def sweep(
    patch: SweepPatches = [],  # noqa: B006
    task: Annotated[str, typer.Option(help="What to ask: capitals.")] = "capitals",
    layers: Layers = "all",
    n: Annotated[
        Optional[int],
        typer.Option("-n", metavar="N", help="Use the first N examples; all if not given.", min=1),
    ] = None,
    template: Annotated[
        Optional[str],
        typer.Option(help=r"Another prompt, with {country} where the country goes; \n: newline."),
    ] = None,
    all_examples: Annotated[
        bool,
        typer.Option("--all-examples", help="Also use examples that the clean model gets wrong."),
    ] = False,
    batch: Annotated[
        int,
        typer.Option(
            metavar="N", help="Prompts in one decode, at most; 0: what is fast.", min=0, max=256
        ),
    ] = 0,
    model: ModelOption = DEFAULT_MODEL,
    threads: Threads = 0,
    gpu_layers: GpuLayers = 0,
    ctx: Ctx = 0,
    engine: Engine = "resume",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Many examples: the score at each layer under each intervention."""
    from localprobe import commands

    commands.sweep(
        task=task,
        template=template,
        patches=_names(patch),
        layers=layers,
        n=n,
        all_examples=all_examples,
        model=commands.ModelChoice(model, threads, gpu_layers, ctx, engine, batch),
        seed=seed,
        json=json,
    )


@app.command(epilog=_example("localprobe bench -n 8"))
def bench(
    n: Annotated[
        int, typer.Option("-n", metavar="N", help="How many prompts to time.", min=2, max=64)
    ] = 16,
    model: ModelOption = DEFAULT_MODEL,
    threads: Threads = 0,
    gpu_layers: GpuLayers = 0,
    json: Json = False,
) -> None:
    """Time both engines on this machine, against what it could reach."""
    from localprobe import commands

    commands.run_bench(n, commands.ModelChoice(model, threads, gpu_layers, 0), json=json)


@app.command(epilog=_example(r"localprobe tokens 'Q: What is the capital of France?\nA:'"))
def tokens(prompt: Prompt, model: ModelOption = DEFAULT_MODEL, json: Json = False) -> None:
    """How the model cuts a prompt into tokens: index, id, text."""
    from localprobe import commands

    commands.tokens(prompt, model, json=json)


@models_app.callback(invoke_without_command=True, epilog=_example("localprobe models"))
def models(ctx: typer.Context, json: Json = False) -> None:
    """The models known by name: list, pull, info."""
    if ctx.invoked_subcommand is not None and json:
        raise LocalprobeError(f"--json goes after {ctx.invoked_subcommand}")
    if ctx.invoked_subcommand is None:
        from localprobe import listing

        listing.list_models(json=json)


@models_app.command("list", epilog=_example("localprobe models list"))
def models_list(json: Json = False) -> None:
    """List the known models."""
    from localprobe import listing

    listing.list_models(json=json)


@models_app.command("pull", epilog=_example(f"localprobe models pull {DEFAULT_MODEL}"))
def models_pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of `localprobe models`.")],
) -> None:
    """Fetch a model into the cache."""
    from localprobe import commands

    commands.pull_model(name)


@models_app.command(
    "prepare", epilog=_example(f"localprobe models prepare {DEFAULT_MODEL} --type q8_0")
)
def models_prepare(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A name of `localprobe models`, or a .gguf file."),
    ],
    kind: Annotated[
        str, typer.Option("--type", metavar="TYPE", help="q8_0, q4_0, bf16, f16 or f32.")
    ],
) -> None:
    """Convert the weights: MODEL@TYPE is then a model of its own."""
    from localprobe import commands

    commands.prepare_model(model, kind.lower())


@models_app.command("info", epilog=_example(f"localprobe models info {DEFAULT_MODEL}"))
def models_info(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A name of `localprobe models`, or a .gguf file.")
    ],
    json: Json = False,
) -> None:
    """Architecture, sizes, tokenizer, and whether localprobe can probe it."""
    from localprobe import commands

    commands.model_info(model, json=json)


def _names(values: Sequence[str]) -> list[str]:
    """--patch a,b --patch c -> a, b, c; those that damage all past tokens when none is named."""
    names = [name.strip().lower() for value in values or _ALL for name in value.split(",")]
    return [name for name in names if name]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. Errors are one sentence on stderr.

    0: ok. 1: a problem was found. 2: wrong use or bad input. 130: Ctrl-C.
    """
    from typer.exceptions import TyperException

    for stream in (sys.stdout, sys.stderr):
        # What a terminal or a pipe cannot encode is written out instead.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(args=arguments, prog_name="localprobe", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        # typer turns Ctrl-C into this code by itself.
        return _fail("interrupted", 130) if code == 130 else int(code or 0)
    except LocalprobeError as error:
        return _fail(str(error), error.exit_code)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context else ""
        return _fail(error.format_message().rstrip(".") + hint, 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except (BrokenPipeError, SystemExit):  # typer makes the second of the first
        # The reader has gone (| head): nobody is left to tell. As a shell sees it: SIGPIPE.
        _give_up_stdout()
        return 141
    except OSError as error:
        _give_up_stdout()
        where = f": {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}", 2)
    except MemoryError:
        return _fail("out of memory; use a smaller model, --ctx or fewer layers", 2)


def _give_up_stdout() -> None:
    """Keep the interpreter's exit from flushing to it once more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> int:
    print(f"localprobe: {' '.join(message.split())}", file=sys.stderr)
    return code
