"""The command line: parse, call, show. Heavy imports wait until a command needs them."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypeVar

import typer
from typer.core import TyperCommand

from localprobe.cli import completion
from localprobe.cli.options import (
    PROMPT_HELP,
    Batch,
    Chat,
    Devices,
    Json,
    Layers,
    MapOutput,
    MaxTokens,
    ModelChoice,
    ModelOption,
    Out,
    ProbePatches,
    Prompt,
    Prompts,
    Rpc,
    Runs,
    Seed,
    ShardOption,
    Shots,
    SweepPatches,
    Threads,
    TransitionPatches,
    choosing_a_model,
)
from localprobe.errors import LocalprobeError
from localprobe.files.foreign import printable
from localprobe.models.registry import DEFAULT_FILE, DEFAULT_MODEL

_Function = TypeVar("_Function", bound=Callable[..., Any])

_LONGEST_MESSAGE = 1900
_EXAMPLE_PROMPT = (
    r"Q: What is the capital of Spain?\nA: Madrid\nQ: What is the capital of France?\nA:"
)


def _example(line: str) -> str:
    # \b keeps click from wrapping: what is shown can be pasted.
    return f"\b\nExample:\n  {line}"


class _Command(TyperCommand):
    """Its help names what is registered, which is looked up only when that help is shown."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        from localprobe.engine import interventions
        from localprobe.runs import tally
        from localprobe.tasks import NAMES

        known = {
            "{all}": _listed(interventions.names()),
            "{donor}": _listed(set(interventions.names()) - set(tally.patches())),
            "{drawn}": _listed(interventions.drawn_names()),
            "{sweepable}": _listed(tally.patches()),
            "{undonated}": _listed(interventions.names(with_donor=False)),
            "{tasks}": _listed(NAMES),
        }
        for option in self.params:
            text = getattr(option, "help", None) or ""
            for place, names in known.items():
                text = text.replace(place, names)
            option.help = text  # type: ignore[attr-defined]
        super().format_options(ctx, formatter)


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


app = typer.Typer(
    name="localprobe",
    help="Overwrite what earlier tokens hold at a layer of a GGUF model; watch the answer change.",
    epilog=_example("localprobe demo"),
    invoke_without_command=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models_app = typer.Typer(no_args_is_help=False, rich_markup_mode=None)
app.add_typer(models_app, name="models")


def _command(
    example: str, name: str | None = None, group: typer.Typer = app
) -> Callable[[_Function], _Function]:
    """A command whose help ends with an example."""
    return group.command(name, cls=_Command, epilog=_example(example))


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
    offline: Annotated[
        bool,
        typer.Option(
            "--offline", help="Before the command: fetch nothing; also: LOCALPROBE_OFFLINE=1."
        ),
    ] = False,
    color: Annotated[
        Literal["auto", "always", "never"],
        typer.Option(
            "--color",
            help="Before the command: when to use colour; auto: on a terminal; also: NO_COLOR=1, "
            "FORCE_COLOR=1.",
        ),
    ] = "auto",
) -> None:
    if offline:
        os.environ["LOCALPROBE_OFFLINE"] = "1"
    if color != "auto":
        from localprobe.report.terminal import choose_color

        choose_color(color)
    if context.invoked_subcommand is None:
        print(context.get_help())


@_command("localprobe demo")
@choosing_a_model(without=("ctx", "engine"))
def demo(
    choice: ModelChoice = ModelChoice(),  # noqa: B008
    short: Annotated[bool, typer.Option("--short", help="Fewer layers and examples.")] = False,
) -> None:
    """Three experiments on a small model, explained: a map, a swap, a sweep."""
    from localprobe.cli import demo as show

    with choice.open() as opened:
        show.run(opened, short=short)


@_command(f"localprobe probe '{_EXAMPLE_PROMPT}' --patch freeze --patch skip --layers 16:")
@choosing_a_model()
def probe(
    prompt: Prompt,
    patch: ProbePatches = [],  # noqa: B006
    layers: Layers = "all",
    max_tokens: MaxTokens = 8,
    donor: Annotated[
        Optional[str],
        typer.Option(help="For inject: the prompt, or file of `states`, to take from."),
    ] = None,
    at: Annotated[
        Optional[str],
        typer.Option(
            help="Write to this token alone, an index, or to all of a word (its last place); skip "
            "writes to none. For inject: where to."
        ),
    ] = None,
    donor_at: Annotated[
        Optional[str],
        typer.Option(
            help="For inject: the donor's token or word, whose states are injected, in "
            "pairs from the end."
        ),
    ] = None,
    choice: ModelChoice = ModelChoice(),  # noqa: B008
    seed: Seed = 0,
    seeds: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Draws of {drawn}: with this seed, the next one, and so on.",
            min=1,
            max=1000,
        ),
    ] = 1,
    chat: Chat = False,
    json: Json = False,
) -> None:
    """One prompt: the answer at each layer under each intervention.

    Each cell: the probability of the clean answer's first token, ✓ (*) where the whole answer is
    the clean one, token for token, and the answer. An intervention survives from the layer on from
    which every answer shown is the clean one.
    """
    from localprobe.cli import commands

    commands.probe(
        prompt=prompt,
        patches=_names(patch) if patch else None,
        layers=layers,
        max_tokens=max_tokens,
        donor=donor,
        at=at,
        donor_at=donor_at,
        model=choice,
        seed=seed,
        seeds=seeds,
        chat=chat,
        json=json,
    )


@_command(f"localprobe swap '{_EXAMPLE_PROMPT}' France Italy --layers 16:")
@choosing_a_model()
def swap(
    prompt: Prompt,
    old: Annotated[str, typer.Argument(metavar="OLD", help="A word of the prompt.")],
    new: Annotated[
        str, typer.Argument(metavar="NEW", help="What the donor prompt has in its place.")
    ],
    layers: Layers = "all",
    max_tokens: MaxTokens = 8,
    choice: ModelChoice = ModelChoice(),  # noqa: B008
    chat: Chat = False,
    json: Json = False,
) -> None:
    """Swap OLD for NEW at one layer: what does the answer follow?

    P is the probability of the first token of each clean answer, with OLD and with NEW; where both
    begin alike, of the first token in which they differ, after what they share. The answer follows
    the one whose way it goes up to that token, or neither. From the flip layer on, every answer
    shown follows OLD.
    """
    from localprobe.cli import commands

    commands.swap(
        prompt=prompt,
        old=old,
        new=new,
        layers=layers,
        max_tokens=max_tokens,
        model=choice,
        chat=chat,
        json=json,
    )


@_command(f"localprobe map '{_EXAMPLE_PROMPT}' --lens", "map")
@choosing_a_model(without=("attention",))
def token_map(
    prompt: Annotated[
        Optional[str], typer.Argument(metavar="PROMPT", help=PROMPT_HELP, show_default=False)
    ] = None,
    patch: Annotated[
        str,
        typer.Option(
            "--patch",
            "-p",
            metavar="NAME",
            help="What is done to a token: knockout, random, shuffle, freeze or swap.",
            autocompletion=completion.mapped_patches,
        ),
    ] = "knockout",
    metric: Annotated[
        Optional[str],
        typer.Option(
            metavar="NAME",
            help="What a cell shows: prob, logit-diff, logprob, rank or kl; "
            "logit-diff where there are two answers, else prob.",
        ),
    ] = None,
    group: Annotated[
        str, typer.Option(metavar="NAME", help="Pieces of a word together, or not: words, tokens.")
    ] = "words",
    layers: Layers = "all",
    window: Annotated[
        Optional[int],
        typer.Option(
            metavar="W",
            help="For W layers from k on; knockout, freeze: to the last one, others: 1.",
            min=1,
        ),
    ] = None,
    against: Annotated[
        Optional[str],
        typer.Option(metavar="PROMPT2", help="For swap: the second prompt, of as many tokens."),
    ] = None,
    swap: Annotated[
        Optional[tuple[str, str]],
        typer.Option(metavar="OLD NEW", help="For swap: the second prompt has NEW for OLD."),
    ] = None,
    direction: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="For swap: noising (states of the second prompt into the first), or denoising.",
        ),
    ] = "noising",
    against_answer: Annotated[
        Optional[str],
        typer.Option(metavar="TEXT", help="The answer that logit-diff tells the clean one from."),
    ] = None,
    generated: Annotated[
        bool,
        typer.Option("--generated", help="A map for every token of the answer, not for the first."),
    ] = False,
    max_tokens: MaxTokens = 8,
    lens: Annotated[bool, typer.Option("--lens", help="The logit lens under the map.")] = False,
    task: Annotated[
        Optional[str],
        typer.Option(
            help="No PROMPT, but the mean over a task's examples, tokens aligned by role: "
            "capitals, jsonl.",
            autocompletion=completion.tasks,
        ),
    ] = None,
    n: Annotated[
        Optional[int],
        typer.Option("-n", metavar="N", help="With --task: the first N examples.", min=1),
    ] = None,
    data: Annotated[
        Optional[Path], typer.Option(metavar="FILE", help="With --task: its data.")
    ] = None,
    template: Annotated[
        Optional[str], typer.Option(help="With --task: another prompt, as of `sweep`.")
    ] = None,
    shots: Shots = None,
    prompts: Prompts = "paper",
    out: Out = None,
    shard: ShardOption = "1/1",
    output: MapOutput = None,
    choice: ModelChoice = ModelChoice(),  # noqa: B008
    seed: Seed = 0,
    chat: Chat = False,
    json: Json = False,
) -> None:
    """Which token is needed until which layer: layers x tokens.

    With --task, a swap or logit-diff needs a donor for each example: another one with as many
    tokens in its subject, that the clean model answers right and otherwise; the first such one in
    an order drawn by --seed. In jsonl it is the line's own prompt with its "new" for its "old".
    Examples without a donor are left out, and counted.
    """
    from localprobe.cli import maps

    if task is not None:
        for name, given in {
            "PROMPT": prompt is not None,
            "--group": group != "words",
            "--against": against is not None,
            "--swap": swap is not None,
            "--against-answer": against_answer is not None,
            "--generated": generated,
            "--max-tokens": max_tokens != 8,
            "--lens": lens,
        }.items():
            if given:
                raise LocalprobeError(f"{name} is for the map of one prompt, without --task")
        from localprobe.experiments.experiment import Experiment
        from localprobe.experiments.map import MapPlan
        from localprobe.prompts.encoder import unescape
        from localprobe.runs.shard import parse_shard

        experiment = Experiment(
            task,
            (patch.lower(),),
            layers,
            n=n,
            seed=seed,
            template=None if template is None else unescape(template),
            shots=shots,
            prompts=prompts.lower(),
            data=data,
            chat=chat,
            shard=parse_shard(shard),
        )
        plan = MapPlan(
            patch.lower(),
            metric and metric.lower(),
            window=window,
            seed=seed,
            direction=direction.lower(),
            over_task=True,
        )
        maps.map_task(experiment, choice, plan, out=out, output=output, json=json)
        return
    for name, given in {
        "-n": n is not None,
        "--data": data is not None,
        "--template": template is not None,
        "--shots": shots is not None,
        "--prompts": prompts != "paper",
        "--out": out is not None,
        "--shard": shard != "1/1",
    }.items():
        if given:
            raise LocalprobeError(f"{name} is for maps over a task: add --task capitals")
    if prompt is None:
        raise LocalprobeError("there is no PROMPT, and no --task; see localprobe map --help")
    maps.map_prompt(
        prompt,
        choice,
        patch=patch.lower(),
        metric=metric and metric.lower(),
        group=group.lower(),
        layers=layers,
        window=window,
        seed=seed,
        against=against,
        swap=swap,
        against_answer=against_answer,
        direction=direction.lower(),
        max_tokens=max_tokens if generated else 1,
        with_lens=lens,
        output=output,
        chat=chat,
        json=json,
    )


@_command(f"localprobe lens '{_EXAMPLE_PROMPT}' --token Paris")
@choosing_a_model(without=("attention",))
def lens(
    prompt: Prompt,
    layers: Layers = "all",
    token: Annotated[
        Optional[str],
        typer.Option(metavar="TEXT", help="The token to follow; the clean answer's if not given."),
    ] = None,
    top: Annotated[
        int, typer.Option(metavar="N", help="Of each state, the N likeliest next tokens.", min=1)
    ] = 1,
    output: MapOutput = None,
    choice: ModelChoice = ModelChoice(),  # noqa: B008
    chat: Chat = False,
    json: Json = False,
) -> None:
    """The logit lens: what each token would say next, read off each layer."""
    from localprobe.cli import maps

    maps.lens_prompt(
        prompt, choice, layers=layers, token=token, top=top, output=output, chat=chat, json=json
    )


@_command(f"localprobe attention '{_EXAMPLE_PROMPT}' --to France")
@choosing_a_model(without=("attention",))
def attention(
    prompt: Prompt,
    layer: Annotated[
        Optional[int],
        typer.Option(metavar="LAYER", help="Of this block; the mean over all if not given.", min=0),
    ] = None,
    head: Annotated[
        Optional[int],
        typer.Option(metavar="HEAD", help="Of this head; the mean over all if not given.", min=0),
    ] = None,
    to: Annotated[
        Optional[str],
        typer.Option(
            metavar="TOKEN",
            help="The heads that look most at this one, an index or a word (its last place).",
        ),
    ] = None,
    output: MapOutput = None,
    choice: ModelChoice = ModelChoice(),  # noqa: B008
    chat: Chat = False,
    json: Json = False,
) -> None:
    """Attention weights: which token looks at which, by which head."""
    from localprobe.cli import maps

    maps.attention_prompt(
        prompt, choice, layer=layer, head=head, to=to, output=output, chat=chat, json=json
    )


@_command(f"localprobe states '{_EXAMPLE_PROMPT}' --positions France -o france.safetensors")
@choosing_a_model()
def states(
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="A .safetensors or .npz file, gone on with."
        ),
    ],
    prompts: Annotated[
        list[str], typer.Argument(metavar="[PROMPT...]", help=PROMPT_HELP, show_default=False)
    ] = [],  # noqa: B006
    file: Annotated[
        Optional[Path],
        typer.Option(
            "--prompts",
            metavar="FILE",
            help='Many prompts: one a line, or {"prompt": ...} a line in a .jsonl file.',
        ),
    ] = None,
    layers: Layers = "all",
    positions: Annotated[
        str,
        typer.Option(
            metavar="WHICH", help="Of which tokens: all, last, an index or a word (its last place)."
        ),
    ] = "all",
    dtype: Annotated[str, typer.Option(metavar="TYPE", help="float32 or float16.")] = "float32",
    choice: ModelChoice = ModelChoice(),  # noqa: B008
    chat: Chat = False,
) -> None:
    """Hidden states of prompts in a file: layers x tokens x n_embd."""
    from localprobe.cli import maps

    maps.write_states(
        prompts,
        file,
        choice,
        layers=layers,
        positions=positions,
        dtype=dtype.lower(),
        output=output,
        chat=chat,
    )


@_command("localprobe sweep --task capitals --patch freeze,skip --layers 16: --adaptive")
@choosing_a_model()
def sweep(
    patch: SweepPatches = [],  # noqa: B006
    task: Annotated[
        str, typer.Option(help="What to ask: {tasks}.", autocompletion=completion.tasks)
    ] = "capitals",
    layers: Layers = "all",
    n: Annotated[
        Optional[int],
        typer.Option("-n", metavar="N", help="Use the first N examples; all if not given.", min=1),
    ] = None,
    data: Annotated[
        Optional[Path],
        typer.Option(metavar="FILE", help="The task's data: SQuAD's JSON; JSONL, CSV, parquet."),
    ] = None,
    digits: Annotated[
        Optional[int], typer.Option(metavar="N", help="For math: digits of the numbers.", min=1)
    ] = None,
    template: Annotated[
        Optional[str],
        typer.Option(help=r"Another prompt, with {country}, say, where it goes; \n: newline."),
    ] = None,
    shots: Shots = None,
    prompts: Prompts = "paper",
    all_examples: Annotated[
        bool,
        typer.Option("--all-examples", help="Also use examples that the clean model gets wrong."),
    ] = False,
    metric: Annotated[
        Optional[str],
        typer.Option(
            help="The score that counts: f1, rougeL; first_token (capitals, jsonl): no generation."
        ),
    ] = None,
    max_tokens: Annotated[
        Optional[int],
        typer.Option(metavar="N", help="Longest answer in tokens; the task's if not given.", min=1),
    ] = None,
    max_prompt_tokens: Annotated[
        Optional[int],
        typer.Option(metavar="N", help="For cnn_dailymail: cut articles to this.", min=1),
    ] = None,
    adaptive: Annotated[
        bool,
        typer.Option(
            "--adaptive",
            help="Fewer examples for layers whose score is surely low or high: each gets some "
            "until its 95 % interval is --width wide.",
        ),
    ] = False,
    width: Annotated[
        Optional[float],
        typer.Option(metavar="W", help="For --adaptive, of scores 0 to 1; 0.2 if not given."),
    ] = None,
    chat: Chat = False,
    out: Out = None,
    shard: ShardOption = "1/1",
    batch: Batch = 0,
    choice: ModelChoice = ModelChoice(),  # noqa: B008
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Many examples: the score at each layer under each intervention.

    With --adaptive, layers are looked at after 15 examples, 31, 63 and so on; one that is known
    well enough gets no more. The 95 % intervals allow for that. The table has n for each layer.
    """
    from localprobe.cli import commands
    from localprobe.experiments.experiment import Experiment
    from localprobe.prompts.encoder import unescape
    from localprobe.runs.shard import parse_shard

    experiment = Experiment(
        task,
        tuple(_names(patch)),
        layers,
        n=n,
        seed=seed,
        metric=metric,
        all_examples=all_examples,
        max_tokens=max_tokens,
        max_prompt_tokens=max_prompt_tokens,
        template=None if template is None else unescape(template),
        shots=shots,
        prompts=prompts.lower(),
        data=data,
        digits=digits,
        chat=chat,
        shard=parse_shard(shard),
        adaptive=adaptive,
        width=width,
    )
    commands.sweep(experiment, choice, named=bool(patch), batch=batch, out=out, json=json)


@_command("localprobe transition --task capitals --patch freeze,skip -n 5")
@choosing_a_model()
def transition(
    patch: TransitionPatches = [],  # noqa: B006
    task: Annotated[
        str, typer.Option(help="What to ask: {tasks}.", autocompletion=completion.tasks)
    ] = "capitals",
    layers: Layers = "all",
    n: Annotated[
        Optional[int],
        typer.Option("-n", metavar="N", help="Use the first N examples; all if not given.", min=1),
    ] = None,
    patience: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="An answer lost at N layers in a row, going down, counts as lost below.",
            min=1,
        ),
    ] = 3,
    check: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Try this share of the layers below all the same: how many answers come back?",
            min=0,
            max=1,
        ),
    ] = 0.0,
    keep: Annotated[
        float,
        typer.Option(metavar="SHARE", help="The share of the baseline that is to survive."),
    ] = 0.9,
    until_width: Annotated[
        Optional[int],
        typer.Option(
            metavar="W",
            help="End once every 95 % interval is at most W layers wide.",
            min=0,
        ),
    ] = None,
    data: Annotated[
        Optional[Path],
        typer.Option(metavar="FILE", help="The task's data: SQuAD's JSON; JSONL, CSV."),
    ] = None,
    digits: Annotated[
        Optional[int], typer.Option(metavar="N", help="For math: digits of the numbers.", min=1)
    ] = None,
    template: Annotated[
        Optional[str],
        typer.Option(help=r"Another prompt, with {country}, say, where it goes; \n: newline."),
    ] = None,
    shots: Shots = None,
    prompts: Prompts = "paper",
    metric: Annotated[
        Optional[str],
        typer.Option(help="The score that counts, right or wrong; first_token: no generation."),
    ] = None,
    max_tokens: Annotated[
        Optional[int],
        typer.Option(metavar="N", help="Longest answer in tokens; the task's if not given.", min=1),
    ] = None,
    chat: Chat = False,
    out: Out = None,
    shard: ShardOption = "1/1",
    batch: Batch = 0,
    choice: ModelChoice = ModelChoice(),  # noqa: B008
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """From which layer on do answers survive? As a sweep, with about a tenth of the work.

    Each example's layers are tried from the last one down, until its answer is lost at --patience
    of them in a row; it then counts as lost at all lower ones. Its own layer is the lowest that
    held. The transition is the layer from which on --keep of the baseline survives; its 95 %
    interval has every layer that a binomial test of the share (mid-p) does not rule out.
    """
    from localprobe.cli import commands
    from localprobe.experiments.experiment import Experiment
    from localprobe.prompts.encoder import unescape
    from localprobe.runs.shard import parse_shard

    experiment = Experiment(
        task,
        tuple(_names(patch)),
        layers,
        n=n,
        seed=seed,
        metric=metric,
        max_tokens=max_tokens,
        template=None if template is None else unescape(template),
        shots=shots,
        prompts=prompts.lower(),
        data=data,
        digits=digits,
        chat=chat,
        shard=parse_shard(shard),
        patience=patience,
        check=check,
        keep=keep,
        until_width=until_width,
    )
    commands.sweep(experiment, choice, named=bool(patch), batch=batch, out=out, json=json)


@_command("localprobe run quick")
@choosing_a_model(without=("model",))
def run(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A name of `localprobe recipes`, or a .toml.",
            autocompletion=completion.recipes,
        ),
    ],
    model: Annotated[
        Optional[str],
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Instead of the recipe's model.",
            autocompletion=completion.models,
        ),
    ] = None,
    task: Annotated[
        list[str],
        typer.Option(
            help="Of the recipe's tasks, only this one; may be repeated.",
            autocompletion=completion.tasks,
        ),
    ] = [],  # noqa: B006
    patch: Annotated[
        list[str],
        typer.Option(
            "--patch",
            "-p",
            metavar="NAME",
            help="Instead of its interventions.",
            autocompletion=completion.swept_patches,
        ),
    ] = [],  # noqa: B006
    layers: Annotated[
        Optional[str], typer.Option(metavar="LAYERS", help="Instead of the recipe's layers.")
    ] = None,
    n: Annotated[
        Optional[int],
        typer.Option("-n", metavar="N", help="Examples of each task, instead of its own.", min=1),
    ] = None,
    seed: Annotated[
        Optional[int], typer.Option(metavar="N", help="Instead of the recipe's seed.", min=0)
    ] = None,
    max_tokens: Annotated[
        Optional[int],
        typer.Option(metavar="N", help="Longest answer in tokens, instead of its own.", min=1),
    ] = None,
    shots: Shots = None,
    prompts: Annotated[
        Optional[str],
        typer.Option(metavar="WHOSE", help="paper or model, instead of the recipe's; see `sweep`."),
    ] = None,
    chat: Chat = False,
    out: Annotated[
        Optional[Path],
        typer.Option(metavar="DIR", help="The folder to write to or go on in; else a fresh one."),
    ] = None,
    shard: ShardOption = "1/1",
    batch: Batch = 0,
    choice: ModelChoice = ModelChoice(),  # noqa: B008
    json: Json = False,
) -> None:
    """A whole experiment from a recipe, written to a folder as it goes."""
    from localprobe.cli import commands
    from localprobe.runs.shard import parse_shard

    changes = {
        "patches": tuple(_names(patch)) if patch else None,
        "layers": layers,
        "n": n,
        "seed": seed,
        "max_tokens": max_tokens,
        "shots": shots,
        "prompts": prompts and prompts.lower(),
        "chat": chat or None,
        "shard": parse_shard(shard),
    }
    commands.run_recipe(
        recipe,
        model,
        choice,
        tasks=task,
        changes={key: value for key, value in changes.items() if value is not None},
        out=out,
        batch=batch,
        json=json,
    )


@_command("localprobe recipes")
def recipes(json: Json = False) -> None:
    """The recipes that come with localprobe."""
    from localprobe.cli import listing

    listing.list_recipes(json=json)


@_command("localprobe show runs/quick")
def show(
    runs: Runs,
    metric: Annotated[
        Optional[str], typer.Option(help="Another of the task's scores: f1, rougeL.")
    ] = None,
    misses: Annotated[
        bool,
        typer.Option(
            "--misses", help="The wrong answers: asked, right, said; the clean model's, or --patch."
        ),
    ] = False,
    patch: Annotated[
        Optional[str],
        typer.Option(
            "--patch",
            "-p",
            metavar="NAME",
            help="With --misses: under this one.",
            autocompletion=completion.swept_patches,
        ),
    ] = None,
    layers: Annotated[
        Optional[str],
        typer.Option(metavar="LAYERS", help="With --misses and --patch: at these layers."),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Of a run that is going on, as it grows, to its end."),
    ] = False,
    json: Json = False,
) -> None:
    """The table of a run, again; or, with --misses, what was answered wrongly."""
    from localprobe.cli import reading

    if follow:
        if misses or json:
            raise LocalprobeError("--follow is for the table, not for --misses or --json")
        reading.follow(runs, metric)
        return
    reading.show(runs, metric, only_misses=misses, patch=patch, layers=layers, json=json)


@_command("localprobe export runs/quick --format md")
def export(
    runs: Runs,
    form: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="csv, jsonl or md.")
    ] = "csv",
    rows: Annotated[
        bool, typer.Option("--rows", help="What was found of every example, not means.")
    ] = False,
) -> None:
    """A run's scores, or a task's maps, for other programs, on standard output."""
    from localprobe.cli import reading

    reading.export(runs, form.lower(), rows=rows)


@_command("localprobe compare runs/q4 runs/bf16")
def compare(runs: Runs, json: Json = False) -> None:
    """Runs side by side: scores by layer, and how far the transition moves.

    Models with unlike numbers of blocks are compared by depth, the share of blocks below.

    Of maps over a task, the examples that both runs use are paired, and only roles and layers are
    marked that surely differ.
    """
    from localprobe.cli import reading

    reading.compare(runs, json=json)


@_command("localprobe plot runs/quick -o quick.png")
def plot(
    runs: Runs,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="A .png, .svg or .pdf file.")
    ],
    metric: Annotated[
        Optional[str], typer.Option(help="Another of the task's scores: f1, rougeL.")
    ] = None,
    transitions: Annotated[
        bool,
        typer.Option(
            "--transitions", help="Where all runs' transitions are, with their 95 % intervals."
        ),
    ] = False,
) -> None:
    """Score against layer, as a figure; or transitions. Needs: pip install 'localprobe[plot]'."""
    from localprobe.cli import reading

    reading.plot(runs, output, metric, transitions=transitions)


@_command("localprobe report runs/quick -o report.html")
def report(
    runs: Runs,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The .html file to write.")
    ],
    maps: Annotated[
        list[Path],
        typer.Option(
            "--map",
            metavar="FILE",
            help="Also a map, as `localprobe map --json` writes it; may be repeated.",
        ),
    ] = [],  # noqa: B006
    title: Annotated[
        Optional[str], typer.Option(help="Its title; tasks and models if not given.")
    ] = None,
    metric: Annotated[
        Optional[str], typer.Option(help="Another of the task's scores: f1, rougeL.")
    ] = None,
    examples: Annotated[
        int,
        typer.Option(
            "--examples",
            metavar="N",
            help="The first N examples of each run are in it, as far as there is room.",
            min=0,
        ),
    ] = 50,
) -> None:
    """Runs as one HTML file to send: curves, heat maps, tables, and the answers behind each number.

    It needs no network and opens from disk. Several runs of a task are compared.
    """
    from localprobe.cli import reading

    reading.report(runs, output, maps=maps, title=title, metric=metric, examples=examples)


@_command("localprobe browse runs")
def browse(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[DIR|FILE]...",
            help="Folders with runs in or below them, and maps of `localprobe map --json`; the "
            "working directory if not given.",
        ),
    ] = [],  # noqa: B006
) -> None:
    """Walk through runs in the terminal. Needs: pip install 'localprobe[browse]'.

    The table of a run is moved over with the arrows, or h, j, k, l; Enter opens the examples behind
    a cell, and an example's answers through all layers; / searches, e writes what is seen to a CSV
    file, Escape goes back, q ends. In the list of runs, Space marks those to be seen side by side.
    """
    from localprobe.cli import reading

    reading.browse(paths)


@_command("localprobe merge shard-1 shard-2 -o whole")
def merge(
    runs: Runs,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write.")],
) -> None:
    """Join the shards of a run."""
    from localprobe.cli import reading

    reading.merge(runs, out)


@_command("localprobe bench -n 8")
@choosing_a_model(without=("ctx", "engine"))
def bench(
    n: Annotated[
        int, typer.Option("-n", metavar="N", help="How many prompts to time.", min=2, max=64)
    ] = 16,
    choice: ModelChoice = ModelChoice(),  # noqa: B008
    json: Json = False,
) -> None:
    """Time both engines on this machine, against what it could reach."""
    from localprobe.cli import commands

    commands.run_bench(n, choice, json=json)


@_command(r"localprobe tokens 'Q: What is the capital of France?\nA:'")
def tokens(prompt: Prompt, model: ModelOption = DEFAULT_MODEL, json: Json = False) -> None:
    """How the model cuts a prompt into tokens: index, id, text."""
    from localprobe.cli import commands

    commands.tokens(prompt, model, json=json)


@_command("localprobe devices")
def devices(rpc: Rpc = "", json: Json = False) -> None:
    """What this llama.cpp can compute on, and how much memory is free there."""
    from localprobe.cli import machines

    machines.list_devices(rpc, json=json)


@_command("localprobe worker --port 50052")
def worker(
    host: Annotated[
        str,
        typer.Option(metavar="HOST", help="Where to listen; 127.0.0.1: for this one alone."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="PORT", help="0: one that is free.", min=0, max=65535)
    ] = 50052,
    device: Devices = [],  # noqa: B006
    threads: Threads = 0,
) -> None:
    """Compute for other machines that name this one with --rpc, until Ctrl-C."""
    from localprobe.cli import machines

    machines.work(host, port, device, threads)


Local = Annotated[
    bool,
    typer.Option(
        "--local", help="What Ollama, LM Studio, llama.cpp and the Hugging Face cache have here."
    ),
]


@models_app.callback(invoke_without_command=True, epilog=_example("localprobe models"))
def models(ctx: typer.Context, local: Local = False, json: Json = False) -> None:
    """The models known by name: list, pull, prepare, info, remove."""
    if ctx.invoked_subcommand is not None and local:
        raise LocalprobeError("--local lists models: localprobe models --local, or models list")
    if ctx.invoked_subcommand is not None and json:
        raise LocalprobeError(f"--json goes after {ctx.invoked_subcommand}")
    if ctx.invoked_subcommand is None:
        models_list(local=local, json=json)


@_command("localprobe models list", "list", models_app)
def models_list(local: Local = False, json: Json = False) -> None:
    """List the known models, or those that other programs keep on this machine."""
    from localprobe.cli import listing

    (listing.list_local if local else listing.list_models)(json=json)


@_command(f"localprobe models pull {DEFAULT_FILE}", "pull", models_app)
def models_pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A name of `localprobe models`, or hf:OWNER/REPO/FILE.gguf.",
            autocompletion=completion.models,
        ),
    ],
) -> None:
    """Fetch a model into the cache."""
    from localprobe.cli import commands

    commands.pull_model(name)


@_command(f"localprobe models prepare {DEFAULT_FILE} --type q8_0", "prepare", models_app)
def models_prepare(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A name of `localprobe models [--local]`, or a .gguf file.",
            autocompletion=completion.models,
        ),
    ],
    kind: Annotated[
        str,
        typer.Option(
            "--type",
            metavar="TYPE",
            help="q8_0, q4_0, bf16, f16, f32; or fastest: what this machine multiplies fastest.",
        ),
    ],
) -> None:
    """Convert the weights: MODEL@TYPE is then a model of its own.

    How much that changes is measured. Nothing that a quantized MODEL lost is restored: to compare
    weight types, prepare each from a file in F16 or F32 that was never quantized.
    """
    from localprobe.cli import commands

    commands.prepare_model(model, kind.lower())


@_command(f"localprobe models remove {DEFAULT_FILE}@q8_0 --yes", "remove", models_app)
def models_remove(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Names of `localprobe models`, MODEL@TYPE or FILE.gguf@TYPE.",
            autocompletion=completion.cached_models,
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete models from the cache, and nothing that lies elsewhere."""
    from localprobe.cli import listing

    listing.remove_models(names, yes=yes)


@_command(f"localprobe models info {DEFAULT_FILE}", "info", models_app)
def models_info(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A name of `localprobe models [--local]`, or a .gguf file.",
            autocompletion=completion.models,
        ),
    ],
    json: Json = False,
) -> None:
    """Architecture, sizes, tokenizer, and whether localprobe can probe it."""
    from localprobe.cli import commands

    commands.model_info(model, json=json)


def _names(values: Sequence[str]) -> list[str]:
    """--patch a,b --patch c -> a, b, c; all that need no donor when none is named."""
    if not values:
        from localprobe.engine import interventions

        return list(interventions.names(with_donor=False))
    names = [name.strip().lower() for value in values for name in value.split(",")]
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
        with completion.joined_at_colons():
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
        if (option := getattr(error, "option_name", "")) in ("--offline", "--color"):
            hint = f"; it goes before the command: localprobe {option} ..."
        return _fail(error.format_message().rstrip(".") + hint, 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except (BrokenPipeError, SystemExit) as error:  # typer makes the second of the first
        if isinstance(error, SystemExit) and not error.code:
            return 0  # what a shell had asked for, to complete a word, is said
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
    with contextlib.suppress(OSError):
        print(f"localprobe: {printable(message, _LONGEST_MESSAGE)}", file=sys.stderr, flush=True)
    return code
