"""What the commands do: open the model, compute, show."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from rich.text import Text

from localprobe import bench as benchmark
from localprobe import interventions, registry
from localprobe import models as model_files
from localprobe import probe as probing
from localprobe import swap as swapping
from localprobe.engine.full import FullEngine
from localprobe.engine.resume import BATCH_SIZE
from localprobe.errors import LocalprobeError
from localprobe.fetch import fetch
from localprobe.layers import parse_layers
from localprobe.llama.model import Model
from localprobe.models import RESUME, LoadedModel, choose_engine, open_model
from localprobe.prepare import prepare
from localprobe.prompts import read_prompt, tokenize_prompt, unescape
from localprobe.report import documents
from localprobe.report.sweep_view import SweepView, run_with_bar
from localprobe.report.tables import bench_table, facts, probe_table, swap_table
from localprobe.report.terminal import (
    answered,
    clipped,
    new_table,
    print_document,
    say,
    stdout_console,
    visible,
    with_bar,
)
from localprobe.sweep import Sweep
from localprobe.tasks import task_by_name
from localprobe.words import is_word


@dataclass(frozen=True)
class ModelChoice:
    """The options that say which model to use and how."""

    name: str
    threads: int
    gpu_layers: int
    ctx: int
    engine_name: str = RESUME
    batch_size: int = 0

    def engine(self, loaded: LoadedModel) -> FullEngine:
        engine, reason = choose_engine(loaded, self.engine_name, self.batch_size or BATCH_SIZE)
        if reason:
            say(f"localprobe: computing whole passes, which is slower: {reason}")
        return engine

    def open(self) -> AbstractContextManager[LoadedModel]:
        return open_model(self.name, threads=self.threads, gpu_layers=self.gpu_layers, ctx=self.ctx)


def probe(
    *,
    prompt: str,
    patches: Sequence[str],
    layers: str,
    max_tokens: int,
    donor: str | None,
    at: str | None,
    donor_at: str | None,
    model: ModelChoice,
    seed: int,
    json: bool,
) -> None:
    text = read_prompt(prompt)
    for patch in patches:
        if patch == "swap":
            raise LocalprobeError("a swap has a command of its own: localprobe swap PROMPT OLD NEW")
        if patches.count(patch) > 1:
            raise LocalprobeError(f"the intervention {patch} was named twice")
        if patch != interventions.Inject.name:
            interventions.by_name(patch, seed)
    if not patches:
        raise LocalprobeError(f"no intervention was named; known: {', '.join(interventions.NAMES)}")
    injects = interventions.Inject.name in patches
    if injects and None in (donor, at, donor_at):
        raise LocalprobeError("inject needs --donor TEXT, --at POSITION and --donor-at POSITION")
    if not injects and (donor, at, donor_at) != (None, None, None):
        raise LocalprobeError("--donor, --at and --donor-at are for --patch inject")
    with model.open() as loaded:
        engine = model.engine(loaded)
        tokens = tokenize_prompt(loaded.model, text)
        loaded.model.check_length(len(tokens) + max_tokens)
        chosen = parse_layers(layers, loaded.model.n_layer)
        wanted: list[interventions.Intervention] = []
        for patch in patches:
            if patch == interventions.Inject.name:
                assert donor is not None and at is not None and donor_at is not None
                donor_text = read_prompt(donor, "the donor")
                given = (donor_text, tokenize_prompt(loaded.model, donor_text))
                wanted.append(
                    probing.injection(engine, (text, tokens), given, at, donor_at, chosen)
                )
            else:
                wanted.append(interventions.by_name(patch, seed))
        n_cells = sum(len(probing.defined_layers(each, chosen)) for each in wanted)
        (run,) = engine.clean([tokens], chosen, max_tokens=max_tokens, stops=[None])
        baseline = run.answer
        found = probing.probe(engine, run, wanted, chosen, max_tokens=max_tokens)
        order = {each.name: place for place, each in enumerate(wanted)}
        rows = sorted(with_bar(found, n_cells), key=lambda row: (order[row.patch], row.layer))
        if json:
            print_document(documents.probe_document(loaded, text, tokens, baseline, rows))
            return
        console = stdout_console()
        console.print(_model_line(loaded))
        console.print(Text(f"prompt: {visible(text)}"))
        for each in wanted:
            if isinstance(each, interventions.Inject):
                console.print(Text(f"injected: {probing.describe(each)}"))
        console.print(Text.assemble("clean answer: ", answered(baseline.text), style="bold"))
        console.print(probe_table(console, rows, baseline.text))


def swap(
    *,
    prompt: str,
    old: str,
    new: str,
    layers: str,
    max_tokens: int,
    model: ModelChoice,
    json: bool,
) -> None:
    text = read_prompt(prompt)
    words = unescape(old), unescape(new)
    with model.open() as loaded:
        chosen = parse_layers(layers, loaded.model.n_layer)
        plan = swapping.plan_swap(loaded.model, text, *words)
        loaded.model.check_length(max(len(plan.prompt), len(plan.donor)) + max_tokens)
        result = swapping.Swap(model.engine(loaded), plan, chosen, max_tokens)
        rows = result.rows(with_bar)
        if json:
            print_document(documents.swap_document(loaded, text, words, result, rows))
            return
        console = stdout_console()
        console.print(_model_line(loaded))
        show_swap(text, words, result, rows, loaded.model.n_layer)


def show_swap(
    text: str,
    words: tuple[str, str],
    result: swapping.Swap,
    rows: Sequence[swapping.SwapRow],
    n_layer: int,
) -> None:
    """The table of a swap with what it needs to be understood."""
    old, new = words
    console = stdout_console()
    console.print(Text(f"prompt: {visible(text)}"))
    for word, answer, name in (
        (old, result.original, "original"),
        (new, result.modified, "modified"),
    ):
        first_line = answered(answer.text.partition("\n")[0])
        console.print(Text.assemble(f"  with {visible(word)}: ", first_line, f" ({name})"))
    if not is_word(old, text):
        console.print(Text(f"  note: {visible(old)} is a part of a longer word of the prompt"))
    how = (
        "token for token"
        if result.plan.token_for_token
        else "last token of the word only: the words have unequal numbers of tokens"
    )
    console.print(Text(f"  swapped {how}, at {', '.join(map(str, result.plan.at))}"))
    console.print(swap_table(console, rows, old, new))
    flip = swapping.flip_layer(rows)
    console.print(
        Text(
            f"flip layer: {flip} ({flip / n_layer:.0%} of depth); from there on the prompt's own "
            f"{visible(old)} wins"
            if flip is not None
            else f"no flip: at the last layer shown {visible(new)} still wins",
            style="bold",
        )
    )


def sweep(
    *,
    task: str,
    template: str | None,
    patches: Sequence[str],
    layers: str,
    n: int | None,
    all_examples: bool,
    model: ModelChoice,
    seed: int,
    json: bool,
) -> None:
    chosen_task = task_by_name(task, None if template is None else unescape(template))
    with model.open() as loaded:
        run = Sweep(
            model.engine(loaded),
            chosen_task,
            patches,
            parse_layers(layers, loaded.model.n_layer),
            n=n,
            seed=seed,
            all_examples=all_examples,
        )
        if json:
            run_with_bar(run)
            print_document(documents.sweep_document(loaded, run))
        else:
            SweepView(run, loaded.model.n_layer, f"{task} · {_describe(loaded)}").run()


def run_bench(n_prompts: int, model: ModelChoice, *, json: bool) -> None:
    with model.open() as loaded:
        result = benchmark.bench(loaded.model, n_prompts, say)
        size = loaded.model.path.stat().st_size
        if json:
            print_document(documents.bench_document(loaded, result, size))
            return
        console = stdout_console()
        console.print(_model_line(loaded))
        console.print(
            f"{result.n_prompts} prompts, next token at all layers; seconds a prompt, "
            f"medians of {benchmark.RUNS} runs"
        )
        console.print(bench_table(result))
        rates = ", ".join(
            f"{rows}: {1000 * result.prefill[rows]:.2f}" for rows in benchmark.PREFILL_ROWS
        )
        console.print(f"prefill, ms a token by rows in a decode: {rates}")
        if result.peak_memory is not None:
            above = (result.peak_memory - size) / 1e6
            console.print(
                f"peak memory: {result.peak_memory / 1e6:.0f} MB, the file's size + {above:.0f} MB"
            )


def tokens(prompt: str, name: str, *, json: bool) -> None:
    text = read_prompt(prompt)
    with Model(model_files.find(name)[1]) as model:
        records = documents.token_records(model, model.tokenize(text))
    if json:
        print_document({"prompt": text, "tokens": records})
        return
    table = new_table()
    for header in ("index", "id"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("text", no_wrap=True)
    for index, record in enumerate(records):
        table.add_row(str(index), str(record["id"]), clipped(f"'{record['text']}'", 60))
    stdout_console().print(table)


def pull_model(name: str) -> None:
    entry = registry.entry(name)
    if entry.path.exists():
        model_files.find(name)
        say(f"{name} is in the cache already: {entry.path}")
        return
    say(f"{name} is in the cache: {fetch(entry)}")


def prepare_model(name: str, kind: str) -> None:
    known, path, digest = model_files.find(name)
    say(f"converting {known} to {kind} ...")
    new_name, new_path = prepare(known, path, digest, kind)
    say(f"{new_name} is in the cache: {new_path}")
    say("its weights are not those of the original any more: numbers change slightly")


def model_info(name: str, *, json: bool) -> None:
    known, path, digest = model_files.find(name)
    with Model(path) as model:
        reason = model_files.why_not(model, digest)
        loaded = LoadedModel(known, digest, model)
        record = documents.model_record(loaded)
        info = model.info
    if json:
        record |= {
            "n_head": info.n_head,
            "n_head_kv": info.n_head_kv,
            "n_vocab": info.n_vocab,
            "n_ctx_train": info.n_ctx_train,
            "n_params": info.n_params,
            "tokenizer": info.tokenizer,
            "can_probe": not reason,
            "reason": reason or None,
        }
        print_document(record)
        return
    stdout_console().print(
        facts(
            [
                ("name", known),
                ("file", str(path)),
                ("sha256", digest),
                ("architecture", info.architecture),
                ("file type", info.file_type),
                ("parameters", f"{info.n_params / 1e6:,.1f} M"),
                ("blocks", str(info.n_layer)),
                ("n_embd", str(info.n_embd)),
                ("heads", f"{info.n_head} (keys and values: {info.n_head_kv})"),
                ("tokenizer", f"{info.tokenizer}, {info.n_vocab:,} tokens"),
                ("context", f"{info.n_ctx_train:,} tokens in training"),
                ("can be probed", f"no: {reason}" if reason else "yes"),
            ]
        )
    )


def _describe(loaded: LoadedModel) -> str:
    info = loaded.model.info
    about = f"{loaded.name} ({info.architecture}, {info.file_type}, {info.n_layer} blocks)"
    return f"{about}, requantised" if "@" in loaded.name else about


def _model_line(loaded: LoadedModel) -> Text:
    return Text(_describe(loaded), style="bold")
