"""The library: Model, probe, swap, token_map, map_task, lens, attention, states, sweep, transition,
load_run. The command line is a thin layer over it.

from localprobe import Model, sweep

with Model("smollm2-135m") as model:
    run = sweep(model, "capitals", ["freeze"], n=5)
print(run.layers, run.scores("freeze"), run.transition("freeze"))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from localprobe.engine import interventions
from localprobe.engine.answers import softmax
from localprobe.engine.full import Answer, FullEngine
from localprobe.engine.interventions import Intervention, only_at
from localprobe.engine.layers import Layers, layers_text, parse_layers
from localprobe.engine.lens import by_head, by_whole_passes, check_head
from localprobe.engine.resume import BATCH_SIZE
from localprobe.engine.tokens import Resumed, WholePasses
from localprobe.errors import LocalprobeError, ModelError, NotFiniteError
from localprobe.experiments import attention as attending
from localprobe.experiments import lens as lenses
from localprobe.experiments import map as mapping
from localprobe.experiments import probe as probing
from localprobe.experiments import swap as swapping
from localprobe.experiments.attention import Attention
from localprobe.experiments.experiment import MODEL as MODEL_PROMPTS
from localprobe.experiments.experiment import Experiment, encoder
from localprobe.experiments.lens import Lens
from localprobe.experiments.map import MapPlan, TokenMap
from localprobe.experiments.map_sweep import MapSweep
from localprobe.experiments.probe import Injection, ProbeRow
from localprobe.experiments.roles import ROLES
from localprobe.experiments.states import States, donor_from_file, is_states_file, states_of
from localprobe.experiments.swap import Parting, SwapPlan, SwapRow
from localprobe.models.opening import (
    AUTO_ATTENTION,
    RESUME,
    LoadedModel,
    Where,
    choose_engine,
    exactly,
    known_prompts,
    model_record,
    open_model,
    why_not_hidden,
)
from localprobe.models.registry import DEFAULT_MODEL
from localprobe.runs.descent import PATIENCE
from localprobe.runs.display import shown_by
from localprobe.runs.folder import RunFolder
from localprobe.runs.frames import Framed
from localprobe.runs.manifest import Manifest, blocks, new_manifest, now
from localprobe.runs.maps import MapFolder, MapRow, Maps, rows_of
from localprobe.runs.maps import new_manifest as map_manifest
from localprobe.runs.results import Run, read_run
from localprobe.runs.rows import Row

_WORTH_SAYING = 2.5e8
"""Bytes."""

T = TypeVar("T")
Watch = Callable[[Iterator[T], int], Iterable[T]]


class Model:
    """A model that can be probed: a name of `localprobe models [--local]`, or a .gguf file's path.

    Use it in a `with` statement, or `close` it. threads: 0 for all cores. ctx: the longest
    sequence in tokens, 0 for that of the training.
    gpu_layers: layers, from the last one (the output) on, that are not on the CPU; -1: all; "auto":
    as many as there is room for. devices: where to, by the names of `localprobe devices`.
    rpc: workers on other machines, HOST:PORT, several with commas or as a list. Should one of them
    die, llama.cpp ends the whole process: it is said on stderr, and the exit code is 2.
    attention: "exact" in float32; "flash" is llama.cpp's flash attention, faster on long prompts,
    which rounds keys and values to float16; "auto" takes flash where it rounds no more than the
    weights do anyway.
    engine: "resume" computes only what changes, "full" makes whole passes.
    warn: is told, in a sentence, where resuming is not exact on this model and is not done.
    tell: is told what takes its time, at a model's first use or since other programs are at work.

    Raises LocalprobeError (ModelError, FetchError) when it cannot be had or cannot be probed.
    """

    def __init__(
        self,
        name: str | Path = DEFAULT_MODEL,
        *,
        threads: int = 0,
        gpu_layers: int | str | None = None,
        devices: Sequence[str] = (),
        rpc: str | Sequence[str] = "",
        ctx: int = 0,
        attention: str = AUTO_ATTENTION,
        engine: str = RESUME,
        warn: Callable[[str], object] = print,
        tell: Callable[[str], object] = lambda _message: None,
    ) -> None:
        self._stack = ExitStack()
        self._engine_name, self._warn, self._tell = engine, warn, tell
        self._warned = False
        names = (devices,) if isinstance(devices, str) else tuple(devices)
        where = Where(gpu_layers, names, rpc if isinstance(rpc, str) else ",".join(rpc))
        self.loaded: LoadedModel = self._stack.enter_context(
            open_model(
                str(name),
                threads=threads,
                where=where,
                ctx=ctx,
                attention=attention,
                warn=warn,
                tell=tell,
            )
        )

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {blocks(self.n_layer)})"

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory back. The model cannot be used afterwards."""
        self._stack.close()

    @property
    def name(self) -> str:
        return self.loaded.name

    @property
    def n_layer(self) -> int:
        """The number of blocks L; layers are 0 … L-1."""
        return self.loaded.model.n_layer

    def engine(self, batch: int | None = BATCH_SIZE) -> FullEngine:
        """What computes; batch: how many prompts share a decode, None: if it changes no bit."""
        engine, reason = choose_engine(self.loaded, self._engine_name, batch, tell=self._tell)
        if reason:
            self._say_slow(reason)
        return engine

    def prompt(
        self, tokens: Sequence[int], first: int | None = None, *, hides: bool = False
    ) -> WholePasses:
        """A prompt whose tokens can be touched one by one.

        first: the first row that will change, None for the last one alone. hides: whether tokens
        will be hidden from the last one. Raises ModelError where this model does not let them.
        """
        writing = self.loaded.model.verdict.writing
        if first is not None and writing:
            raise ModelError(f"states of {self.name} cannot be overwritten: {writing}")
        resuming = self.engine().name == RESUME
        if hides and (reason := why_not_hidden(self.loaded, resuming=False)):
            raise ModelError(f"tokens of {self.name} cannot be hidden: {reason}")
        if resuming and hides and (reason := why_not_hidden(self.loaded, resuming=True)):
            self._say_slow(reason)
            resuming = False
        if resuming:
            memory = Resumed.memory(self.loaded.model, len(tokens), first)
            if memory > _WORTH_SAYING:
                self._tell(
                    f"{len(tokens)} tokens need about {memory / 1e9:.1f} GB of memory "
                    "beside the model ..."
                )
            return Resumed(self.loaded.model, tokens, first)
        return WholePasses(self.loaded.model, tokens)

    def _say_slow(self, reason: str) -> None:
        if not self._warned:
            self._warn(
                f"computing whole passes, which is slower and gives the same results: {reason}"
            )
            self._warned = True

    def prompted(self, experiment: Experiment) -> Experiment:
        """With the prompt that models.toml has for this model, where the experiment asks for it.

        Where it has none for the task, that is said, and the task's own stays.
        """
        known = known_prompts(self.loaded)
        asked = experiment.prompted(known)
        as_ever = asked.shots is None and asked.template is None
        if as_ever and experiment.prompts == MODEL_PROMPTS:
            self._warn(
                f"models.toml has no prompt for {experiment.task} that suits {self.name}: its own "
                "is used"
            )
        return asked

    def possible(self, patches: Sequence[str], *, named: bool) -> tuple[str, ...]:
        """Those interventions that can be made with this model.

        named: whether somebody asked for just these; then ModelError is raised where one cannot.
        """
        found = FullEngine(self.loaded.model)
        if named:
            found.check_can(patches)
        able = [patch for patch in patches if not found.why_not(patch)]
        for patch in patches:
            if patch not in able:
                self._warn(f"without {patch}: {found.why_not(patch)}")
        found.check_can(able or patches)
        return tuple(able)


@dataclass(frozen=True, repr=False)
class Probe(Framed):
    """Answers to one prompt. tokens: of the prompt. rows: by intervention, layers ascending.

    at: the only positions that were written to; None for all past tokens. written: the same in
    words. injection: what was injected there, if anything.
    p_clean: the clean model's probability of the clean answer's first token, whose text is
    first_token; empty for an end token.
    In a data frame, a row for each of `rows`: patch, layer, text, p_clean, is_clean, clean_share.
    """

    prompt: str
    tokens: tuple[int, ...]
    clean: Answer
    rows: list[ProbeRow]
    at: tuple[int, ...] | None = None
    written: str | None = None
    injection: Injection | None = None
    p_clean: float = float("nan")
    first_token: str = ""

    def __repr__(self) -> str:
        return (
            f"<Probe {_cut(self.prompt)}, clean answer {_cut(self.clean.text)}: "
            f"{', '.join(self.patches)}; {len(self.rows)} rows>"
        )

    @property
    def injected(self) -> str | None:
        """In words, which tokens of the donor went where."""
        return None if self.injection is None else self.injection.text

    @property
    def patches(self) -> tuple[str, ...]:
        """The interventions that were made."""
        return tuple(dict.fromkeys(row.patch for row in self.rows))

    def survives_from(self, patch: str) -> int | None:
        """The layer from which on all rows of an intervention have the clean answer, if any."""
        return probing.survives_from([row for row in self.rows if row.patch == patch])

    _COLUMNS: ClassVar = ("patch", "layer", "text", "p_clean", "is_clean", "clean_share")

    def plot(self) -> Any:
        """P of the clean answer's first token against the layer: matplotlib's axes.

        Raises LocalprobeError where matplotlib is not installed.
        """
        return shown_by("notebook").plot_probe(self)

    def _repr_html_(self) -> str:
        return str(shown_by("notebook").probe_html(self))


def _cut(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")


def probe(
    model: Model,
    prompt: str,
    patches: str | Sequence[str] | None = None,
    *,
    layers: Layers = "all",
    max_tokens: int = 8,
    seed: int = 0,
    seeds: int = 1,
    donor: str | None = None,
    at: str | int | None = None,
    donor_at: str | int | None = None,
    chat: bool = False,
    watch: Watch[ProbeRow] = lambda rows, total: rows,
) -> Probe:
    """The answers to a prompt under each intervention at each layer.

    patches: names of interventions; all that need no donor if None, of which those that write to
    tokens where `at` says to which.
    layers: "all", "12", "3,7,12", "0:30:2", "-5:", or numbers.
    seeds: how many draws there are of interventions that are drawn: seed, seed + 1, …
    at: the only token that is written to, an index, or a word for all of its tokens; inject needs
    it, a donor (a text, or a file of `states`: FILE, or FILE#2 for its third prompt), and donor_at,
    a position in that.
    watch: given the rows as they come, one a draw, and their number, shows progress.
    Raises LocalprobeError for anything that cannot be done.
    """
    if patches is None and at is not None:
        patches = [
            kind.name
            for kind in interventions.kinds()
            if not (kind.needs_donor or kind.attention_off)
        ]
    named = patches is not None
    patches = _several(patches)
    check_patches(patches)
    injects = [patch for patch in patches if patch not in interventions.names(with_donor=False)]
    if injects and None in (donor, at, donor_at):
        raise LocalprobeError(
            f"{injects[0]} needs --donor TEXT, --at POSITION and --donor-at POSITION"
        )
    if not injects and (donor, donor_at) != (None, None):
        raise LocalprobeError("--donor and --donor-at are for --patch inject")
    if seeds < 1:
        raise LocalprobeError(f"seeds must be at least 1, not {seeds}")
    patches = model.possible(patches, named=named)
    engine = model.engine()
    encode = encoder(engine, chat=chat)
    tokens = encode.tokens(prompt)
    engine.model.check_length(len(tokens) + max_tokens)
    chosen = parse_layers(layers_text(layers), model.n_layer)
    positions, injection = None, None
    if at is not None:
        positions = tuple(probing.find_past(encode, str(at), prompt, tokens))
    if injects and donor is not None and positions and is_states_file(donor):
        injection = donor_from_file(encode, tokens, donor, positions, str(donor_at), chosen)
    elif injects and donor is not None:
        injection = probing.find_donor(
            engine, encode, prompt, donor, str(at), str(donor_at), chosen
        )
    wanted = _drawn(patches, range(seed, seed + seeds), injection, positions)
    n_cells = sum(len(interventions.defined_layers(each, chosen)) for each, _ in wanted)
    (run,) = engine.clean([tokens], chosen, max_tokens=max_tokens, stops=[None])
    if not run.answer.is_finite:
        raise NotFiniteError("the model's logits after the prompt are not finite numbers")
    found = probing.probe(engine, run, wanted, chosen, max_tokens=max_tokens)
    rows = probing.gathered(watch(found, n_cells))
    rows.sort(key=lambda row: (patches.index(row.patch), row.layer))
    first = run.answer.all_tokens[0]
    return Probe(
        prompt,
        tuple(tokens),
        run.answer,
        rows,
        positions,
        None if positions is None else probing.named(encode, tokens, positions),
        injection,
        float(softmax(run.answer.logits)[first]),
        engine.model.detokenize([first]),
    )


def _drawn(
    patches: Sequence[str],
    seeds: Sequence[int],
    injection: Injection | None,
    at: Sequence[int] | None,
) -> list[tuple[Intervention, int | None]]:
    """The interventions, those that are drawn once for each seed; at: restricted to positions."""
    wanted: list[tuple[Intervention, int | None]] = []
    for patch in patches:
        for seed in seeds:
            each = interventions.by_name(
                patch, seed, None if injection is None else injection.donor
            )
            if at is not None and not each.needs_donor:
                each = only_at(each, at)
            wanted.append((each, seed if each.is_drawn else None))
            if not each.is_drawn:
                break
    if len(seeds) > 1 and not any(each.is_drawn for each, _ in wanted):
        drawn = " and ".join(interventions.drawn_names())
        raise LocalprobeError(f"--seeds is for {drawn}: nothing else is drawn")
    return wanted


def _several(patches: str | Sequence[str] | None) -> tuple[str, ...]:
    if patches is None:
        return interventions.names(with_donor=False)
    return (patches,) if isinstance(patches, str) else tuple(patches)


def check_patches(patches: Sequence[str]) -> None:
    """Raise LocalprobeError for interventions that one prompt cannot be given."""
    if not patches:
        raise LocalprobeError(
            f"no intervention was named; known: {', '.join(interventions.names())}"
        )
    for patch in patches:
        if patch == "swap":
            raise LocalprobeError("a swap has a command of its own: localprobe swap PROMPT OLD NEW")
        if patches.count(patch) > 1:
            raise LocalprobeError(f"the intervention {patch} was named twice")
        interventions.check_name(patch)


@dataclass(frozen=True, repr=False)
class Swap(Framed):
    """A swap on one prompt. original, modified: the clean answers to the prompt and the donor.

    parting: the tokens in which they part, whose probabilities the rows give.
    flip_layer: from there on, up to the last row, every row follows the original; None if nowhere.
    In a data frame, a row for each of `rows`: layer, text, p_original, p_modified, follows.
    """

    prompt: str
    old: str
    new: str
    plan: SwapPlan
    original: Answer
    modified: Answer
    rows: list[SwapRow]
    parting: Parting

    def __repr__(self) -> str:
        return (
            f"<Swap {_cut(self.prompt)}, {_cut(self.old)} for {_cut(self.new)}: "
            f"{len(self.rows)} rows, flip layer {self.flip_layer}>"
        )

    @property
    def flip_layer(self) -> int | None:
        return swapping.flip_layer(self.rows)

    _COLUMNS: ClassVar = ("layer", "text", "p_original", "p_modified", "follows")

    def plot(self) -> Any:
        """P(original) and P(modified) against the layer: matplotlib's axes.

        Raises LocalprobeError where matplotlib is not installed.
        """
        return shown_by("notebook").plot_swap(self)

    def _repr_html_(self) -> str:
        return str(shown_by("notebook").swap_html(self))


def swap(
    model: Model,
    prompt: str,
    old: str,
    new: str,
    *,
    layers: Layers = "all",
    max_tokens: int = 8,
    chat: bool = False,
    watch: Watch[tuple[int, Answer]] = lambda rows, total: rows,
) -> Swap:
    """What the answer follows when the word `old` is swapped for `new` at one layer at a time.

    Raises LocalprobeError where the word is not in the prompt, or both answers are the same.
    """
    model.possible(["swap"], named=True)
    engine = model.engine()
    chosen = parse_layers(layers_text(layers), model.n_layer)
    plan = swapping.plan_swap(encoder(engine, chat=chat), prompt, old, new)
    engine.model.check_length(max(len(plan.prompt), len(plan.donor)) + max_tokens)
    found = swapping.Swap(engine, plan, chosen, max_tokens)
    rows = found.rows(watch)
    return Swap(prompt, old, new, plan, found.original, found.modified, rows, found.parting)


def token_map(
    model: Model,
    prompt: str,
    patch: str = mapping.KNOCKOUT,
    metric: str | None = None,
    group: str = "words",
    *,
    layers: Layers = "all",
    window: int | None = None,
    seed: int = 0,
    against: str | None = None,
    swap: tuple[str, str] | None = None,
    against_answer: str | None = None,
    direction: str = mapping.NOISING,
    chat: bool = False,
    progress: mapping.Progress = lambda cells, total: cells,
) -> TokenMap:
    """Which token is needed until which layer: a cell for every layer and every past token.

    patch: knockout (from layer k on the last token does not attend to the token), random, shuffle
    or freeze (on that token alone), swap (its state is that of the same token of `against`, or of
    the prompt with the word swap[0] replaced by swap[1]; direction "noising", or "denoising": of
    the first prompt, brought into the second one).
    metric: prob, logit-diff, logprob, rank or kl; logit-diff where there are two answers, else
    prob. group: words or tokens. window: for how many layers from k on; to the last one if None
    for knockout and freeze, one for the others.
    Raises LocalprobeError for anything that cannot be done.
    """
    plan = MapPlan(patch, metric, group, window, seed, against, swap, against_answer, direction)
    (found,) = map_answer(model, prompt, plan, layers=layers, chat=chat, progress=progress)
    return found


def map_answer(
    model: Model,
    prompt: str,
    plan: MapPlan,
    *,
    layers: Layers = "all",
    max_tokens: int = 1,
    chat: bool = False,
    progress: mapping.Progress = lambda cells, total: cells,
) -> list[TokenMap]:
    """The map of each token of the clean answer, what it wrote before taken as prompt."""
    with exactly(model.loaded):
        return _map_answer(model, prompt, plan, layers, max_tokens, chat, progress)


def _map_answer(
    model: Model,
    prompt: str,
    plan: MapPlan,
    layers: Layers,
    max_tokens: int,
    chat: bool,
    progress: mapping.Progress,
) -> list[TokenMap]:
    engine = model.engine()
    encode = encoder(engine, chat=chat)
    chosen = parse_layers(layers_text(layers), model.n_layer)
    written: tuple[int, ...] = ()
    if max_tokens > 1:
        if plan.patch == mapping.SWAP:
            raise LocalprobeError("--generated is not for --patch swap: there are two answers")
        answer = engine.answer(encode.tokens(prompt), max_tokens=max_tokens)
        written = answer.all_tokens[:-1]

    def opened(tokens: Sequence[int], first: int | None) -> WholePasses:
        return model.prompt(tokens, first, hides=plan.patch == mapping.KNOCKOUT)

    return [
        mapping.make_map(opened, encode, prompt, plan, chosen, progress, written[:n_written])
        for n_written in range(len(written) + 1)
    ]


def lens(
    model: Model,
    prompt: str,
    *,
    layers: Layers = "all",
    token: str | None = None,
    top: int = 1,
    chat: bool = False,
    progress: lenses.Progress = lambda cells, total: cells,
) -> Lens:
    """The logit lens: the likeliest next tokens by the final norm and the output matrix on the
    state of every token at every layer.

    token: which to follow (its first token); the clean answer's if None. top: how many to keep.
    Raises LocalprobeError for anything that cannot be done.
    """
    engine = model.engine()
    encode = encoder(engine, chat=chat)
    tokens = encode.tokens(prompt)
    chosen = parse_layers(layers_text(layers), model.n_layer)
    with exactly(model.loaded):
        opened = WholePasses(model.loaded.model, tokens)
        answer = int(mapping.finite(opened.clean).argmax())
        followed = answer if token is None else mapping.first_token(encode.model, token, answer)
        by = by_head if engine.name == RESUME else by_whole_passes
        states = opened.states()
        check_head(model.loaded.model, by)
        return lenses.look(
            model.loaded.model,
            by,
            states,
            prompt=prompt,
            tokens=tokens,
            layers=chosen,
            token=followed,
            top=top,
            progress=progress,
        )


def states(
    model: Model,
    prompt: str,
    *,
    layers: Layers = "all",
    positions: str | int = "all",
    chat: bool = False,
) -> States:
    """The clean hidden states of a prompt, (n_layers, n_positions, n_embd).

    positions: "all", "last", an index, or a word, which is looked for from the end.
    Raises LocalprobeError for anything that cannot be done.
    """
    engine = model.engine()
    chosen = parse_layers(layers_text(layers), model.n_layer)
    with exactly(model.loaded):
        return states_of(engine, encoder(engine, chat=chat), prompt, chosen, str(positions))


def attention(
    model: Model, prompt: str, *, layers: Layers = "all", chat: bool = False
) -> Attention:
    """The attention weights of a prompt, (n_layers, n_heads, n_tokens, n_tokens).

    Raises LocalprobeError for anything that cannot be done.
    """
    encode = encoder(model.engine(), chat=chat)
    chosen = parse_layers(layers_text(layers), model.n_layer)
    with exactly(model.loaded):
        return attending.attend(model.loaded.model, prompt, encode.tokens(prompt), chosen)


class RunningMaps:
    """Maps over a task set going on a model, written to a folder if one is given.

    with RunningMaps(model, task, plan, …) as running:
        for row in running.rows(): …      # MapRow, or None where one was tried for another shard
        maps = running.found()

    experiment: the task, layers, n, seed, data, template, chat and shard; its patches and metric
    are taken from the plan, which is one made `over_task`.
    """

    def __init__(
        self, model: Model, experiment: Experiment, plan: MapPlan, out: Path | None = None
    ) -> None:
        default = "logit-diff" if plan.patch == mapping.SWAP else "prob"
        plan = replace(plan, metric=plan.metric or default, seed=experiment.seed, over_task=True)
        experiment = model.prompted(experiment)
        experiment = replace(experiment, patches=(plan.patch,), metric=plan.metric)
        self._stack = ExitStack()
        self._folder: MapFolder | None = None
        self._found = list[MapRow]()
        self._stack.enter_context(exactly(model.loaded))
        try:
            # Other batches would round differently, and so be other rows.
            engine = model.engine(1)
            self.sweep = MapSweep(
                engine,
                partial(model.prompt, hides=plan.patch == mapping.KNOCKOUT),
                encoder(engine, chat=experiment.chat),
                experiment.build_task(),
                plan,
                parse_layers(experiment.layers, model.n_layer),
                n=experiment.n,
                shard=experiment.shard,
            )
            self.manifest: Manifest = map_manifest(
                model_record(model.loaded),
                {
                    **experiment.record(),
                    "window": plan.window,
                    **({"direction": plan.direction} if plan.patch == mapping.SWAP else {}),
                },
                engine=engine,
                layers=self.sweep.layers,
                roles=ROLES,
                n_examples=self.sweep.n_examples,
            )
            if out is not None:
                self._folder = MapFolder(out, self.manifest)
                self._stack.callback(self._folder.close)
                self.manifest = self._folder.manifest
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> RunningMaps:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def goes_on(self) -> bool:
        """Whether rows of it were there already."""
        return self._folder is not None and bool(self._folder.known)

    def rows(self) -> Iterator[MapRow | None]:
        """Every row as it is found, those that were there already first."""
        known = () if self._folder is None else self._folder.known
        for row in rows_of(self._folder, self.sweep.run(known)):
            if row is not None:
                self._found.append(row)
            yield row
        tried, used = self.sweep.tried, self.sweep.used
        if self._folder is not None:
            self._folder.end(tried=tried, used=used)
        else:
            counts = {"rows": len(self._found), "tried": tried, "used": used}
            self.manifest.data.update(ended=now(), counts=counts)

    def found(self) -> Maps:
        """What was found so far."""
        path = None if self._folder is None else self._folder.path
        return Maps(self.manifest, self._found, path)


def map_task(
    model: Model,
    task: str,
    patch: str = mapping.KNOCKOUT,
    metric: str | None = None,
    *,
    direction: str = mapping.NOISING,
    window: int | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> Maps:
    """Maps of a task's examples, averaged: their tokens are aligned by their role to the subject.

    The examples are those that the clean model answers right. patch: knockout, random, shuffle,
    freeze or swap (in a direction, as of `token_map`). metric: prob, logit-diff, logprob, rank or
    kl; logit-diff of a swap, else prob. Swaps and logit-diff tell each example from a donor, see
    `localprobe map --help`; without one it is not used. settings: those of `Experiment` that ask
    for layers, n, seed, template, shots, prompts, data, chat or shard. out: a folder to write to,
    or to go on in.
    Raises LocalprobeError for anything that cannot be done.
    """
    from tqdm.auto import tqdm

    if settings.get("data") is not None:
        settings["data"] = Path(settings["data"])
    if "layers" in settings:
        settings["layers"] = layers_text(settings["layers"])
    experiment = Experiment(task, (patch,), **settings)
    plan = MapPlan(patch, metric, window=window, direction=direction, over_task=True)
    with (
        RunningMaps(model, experiment, plan, None if out is None else Path(out)) as running,
        tqdm(total=running.sweep.expected, desc=f"map {task}", disable=not progress) as bar,
    ):
        for _ in running.rows():
            bar.update(running.sweep.used - bar.n)
        return running.found()


class RunningSweep:
    """A sweep set going on a model, written to a folder, or kept in memory, or neither.

    with RunningSweep(model, experiment, out) as running:
        for row in running.rows(): …
        run = running.found()
    """

    def __init__(
        self,
        model: Model,
        experiment: Experiment,
        out: Path | None = None,
        *,
        batch: int | None = None,
        recipe: str | None = None,
        keep: bool = True,
    ) -> None:
        # What is written down must not depend on what happened to share its decodes.
        engine = model.engine(batch or (BATCH_SIZE if out is None else None))
        experiment = model.prompted(experiment)
        self.sweep = experiment.sweep(engine)
        self.manifest: Manifest = new_manifest(
            model_record(model.loaded),
            experiment.record(),
            self.sweep.tally,
            engine=engine,
            recipe=recipe,
            n_examples=self.sweep.n_examples,
        )
        self._folder: RunFolder | None = None
        self._keep, self._found = keep, list[Row]()
        if out is not None:
            self._folder = RunFolder.open(out, self.manifest)
            self.manifest = self._folder.manifest
            self.sweep.tally.knows_near_ties = self.manifest.noise is not None
            try:
                self.sweep.go_on_from(self._folder.known)
            except BaseException:
                self._folder.close()
                raise

    def __enter__(self) -> RunningSweep:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            self._folder.close()

    def rows(self) -> Iterator[Row | None]:
        """The rows as they are found, written down as their examples are whole; see Sweep.run."""
        if self._folder is not None:
            # What is on disk need not be held in memory.
            yield from self._folder.written(self.sweep.run())
            self._folder.end(tried=self.sweep.tried, used=self.sweep.used)
            return
        for row in self.sweep.run():
            if row is not None and self._keep:
                self._found.append(row)
            yield row
        tally, counts = self.sweep.tally, {"tried": self.sweep.tried, "used": self.sweep.used}
        self.manifest.data.update(ended=now(), counts={"rows": tally.n_rows, **counts})

    def found(self) -> Run:
        """What was found so far; where it is written down, of examples that are whole."""
        if self._folder is not None:
            return read_run(self._folder.path)
        place = {cell: number for number, cell in enumerate(self.manifest.cells)}
        rows = sorted(
            self._found,
            key=lambda row: (row.example, place.get((row.patch, row.layer or 0), -1)),
        )
        return Run(self.manifest, rows)


def sweep(
    model: Model,
    task: str,
    patches: str | Sequence[str] | None = None,
    *,
    out: str | Path | None = None,
    batch: int | None = None,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Mean scores over a task's examples under each intervention at each layer.

    patches: interventions that need no donor, and swap; all but swap if None.
    settings: those of `Experiment`: layers, n, seed, metric, all_examples, max_tokens,
    max_prompt_tokens, template, shots, prompts, data, digits, chat; adaptive=True (layers get
    examples only until their 95 % interval is at most `width` wide, 0.2 if not given).
    out: a folder to write to, or to go on in. batch: prompts in one decode.
    Raises LocalprobeError for anything that cannot be done.
    """
    from tqdm.auto import tqdm

    if settings.get("data") is not None:
        settings["data"] = Path(settings["data"])
    if "layers" in settings:
        settings["layers"] = layers_text(settings["layers"])
    able = model.possible(_several(patches), named=patches is not None)
    experiment = Experiment(task, able, **settings)
    steps = 1000
    with (
        RunningSweep(model, experiment, None if out is None else Path(out), batch=batch) as running,
        tqdm(total=steps, desc=f"sweep {task}", disable=not progress, leave=False) as bar,
    ):
        for _ in running.rows():
            bar.update(max(0, round(running.sweep.done * steps) - bar.n))
        return running.found()


def transition(
    model: Model,
    task: str,
    patches: str | Sequence[str] | None = None,
    *,
    patience: int = PATIENCE,
    **settings: Any,
) -> Run:
    """From which layer on answers survive, with far fewer passes than `sweep`.

    Each example's layers are tried from the last one down, until its answer is lost at `patience`
    of them in a row; it then counts as lost at every lower one.
    settings: those of `sweep`, and check (the share of the layers below that is tried all the
    same), keep (the share of the baseline that survives, 0.9), until_width (go on with examples
    until every 95 % interval is at most so many layers wide).

        run = transition(model, "capitals", ["freeze"], n=60)
        run.transition("freeze"), run.limits("freeze"), run.own_transitions("freeze")

    Raises LocalprobeError for anything that cannot be done, and where answers have degrees.
    """
    return sweep(model, task, patches, patience=patience, **settings)


def load_run(path: str | Path) -> Run:
    """A run that was written to a folder; of an unfinished one, the examples that are whole.

    Raises LocalprobeError where there is none, or it is damaged.
    """
    return read_run(Path(path))
