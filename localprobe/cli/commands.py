"""What the commands do: open the model, compute, show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.text import Text

from localprobe import api
from localprobe.cli.advice import Advice
from localprobe.cli.options import ModelChoice
from localprobe.engine.full import FullEngine
from localprobe.engine.interventions import names
from localprobe.errors import LocalprobeError, did_you_mean
from localprobe.experiments import bench as benchmark
from localprobe.experiments.experiment import Experiment
from localprobe.experiments.recipe import recipe
from localprobe.experiments.states import is_states_file
from localprobe.experiments.sweep import NothingToProbeError
from localprobe.files.parts import parts_of, total_size
from localprobe.llama import rearranged
from localprobe.llama.memory import free_memory
from localprobe.llama.model import Model
from localprobe.llama.verdict import Verdict
from localprobe.models import faster, registry, speed
from localprobe.models import opening as model_files
from localprobe.models.changes import changes
from localprobe.models.fetch import fetch
from localprobe.models.opening import LoadedModel
from localprobe.models.prepare import (
    TYPES,
    check_type,
    manifest_of,
    measured,
    prepare,
    read_manifest,
)
from localprobe.models.stores import find_stored, is_stored_name
from localprobe.prompts.encoder import read_prompt, unescape
from localprobe.prompts.words import is_word
from localprobe.report import documents
from localprobe.report.probe_table import probe_legend, probe_summary, probe_table
from localprobe.report.sweep_view import SweepView, run_with_bar
from localprobe.report.tables import (
    bench_table,
    facts,
    shown_token,
    swap_legend,
    swap_summary,
    swap_table,
)
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
from localprobe.runs.manifest import Manifest, described
from localprobe.runs.tally import Tally
from localprobe.tasks.squad import plain_text

_GO_ON = "what is done is in {0}; to go on, run it again with --out {0}"


def probe(
    *,
    prompt: str,
    patches: Sequence[str] | None,
    layers: str,
    max_tokens: int,
    donor: str | None,
    at: str | None,
    donor_at: str | None,
    model: ModelChoice,
    seed: int,
    seeds: int,
    chat: bool,
    json: bool,
) -> None:
    text = read_prompt(prompt)
    donor_text = donor
    if donor is not None and not is_states_file(donor):
        donor_text = read_prompt(donor, "the donor")
    if patches is not None:
        api.check_patches(patches)
    with model.open() as opened:
        result = api.probe(
            opened,
            text,
            patches,
            layers=layers,
            max_tokens=max_tokens,
            seed=seed,
            seeds=seeds,
            donor=donor_text,
            at=at,
            donor_at=donor_at,
            chat=chat,
            watch=with_bar,
        )
        if json:
            print_document(documents.probe_document(opened.loaded, result))
            return
        stdout_console().print(_model_line(opened.loaded))
        show_probe(result, opened.n_layer)


def show_probe(result: api.Probe, n_layer: int) -> None:
    """The table of a probe with what it needs to be understood."""
    console = stdout_console()
    console.print(Text(f"prompt: {visible(result.prompt)}"))
    if result.injected:
        console.print(Text(f"injected: {visible(result.injected)}"))
    if result.written and set(result.patches) & set(names(with_donor=False)):
        console.print(Text(f"written to: {visible(result.written)} alone"))
    clean = answered(result.clean.text)
    console.print(
        Text.assemble("clean answer: ", clean, f" (P {result.p_clean:.2f})", style="bold")
    )
    first = shown_token(result.first_token)
    console.print(Text(probe_legend(console, result.rows, first)))
    console.print(probe_table(console, result.rows))
    console.print(probe_summary(result.rows, n_layer))


def swap(
    *,
    prompt: str,
    old: str,
    new: str,
    layers: str,
    max_tokens: int,
    model: ModelChoice,
    chat: bool,
    json: bool,
) -> None:
    text = read_prompt(prompt)
    with model.open() as opened:
        result = api.swap(
            opened,
            text,
            unescape(old),
            unescape(new),
            layers=layers,
            max_tokens=max_tokens,
            chat=chat,
            watch=with_bar,
        )
        if json:
            print_document(documents.swap_document(opened.loaded, result))
            return
        stdout_console().print(_model_line(opened.loaded))
        show_swap(result, opened.n_layer)


def show_swap(result: api.Swap, n_layer: int) -> None:
    """The table of a swap with what it needs to be understood."""
    old, new, plan = result.old, result.new, result.plan
    console = stdout_console()
    console.print(Text(f"prompt: {visible(result.prompt)}"))
    texts = [result.original.text, result.modified.text]
    first_lines = [text.partition("\n")[0] for text in texts]
    shown = texts if first_lines[0] == first_lines[1] else first_lines
    for word, text, name in zip((old, new), shown, ("original", "modified"), strict=True):
        console.print(Text.assemble(f"  with {visible(word)}: ", answered(text), f" ({name})"))
    if not is_word(old, result.prompt):
        console.print(Text(f"  note: {visible(old)} is a part of a longer word of the prompt"))
    how = (
        "token for token"
        if plan.token_for_token
        else "last token of the word only: the words have unequal numbers of tokens"
    )
    console.print(Text(f"  swapped {how}, at {', '.join(map(str, plan.at))}"))
    console.print(Text(f"  {swap_legend(result.parting)}"))
    console.print(swap_table(console, result.rows, old, new))
    console.print(
        Text(swap_summary(result.rows, result.flip_layer, old, new, n_layer), style="bold")
    )


def sweep(
    experiment: Experiment,
    model: ModelChoice,
    *,
    named: bool,
    batch: int,
    out: Path | None,
    json: bool,
) -> None:
    """named: whether its interventions were; else those that the model allows are taken."""
    experiment.build_task()
    with model.open() as opened:
        able = opened.possible(experiment.patches, named=named)
        experiment = replace(experiment, patches=able)
        try:
            manifest, tally = run_and_show(
                *(opened, experiment, out),
                batch=batch,
                recipe_name=None,
                json=json,
                advice=Advice(opened, model),
            )
        except KeyboardInterrupt:
            if out is not None:
                say(_GO_ON.format(out))
            raise
        if json:
            print_document(documents.sweep_document(manifest, tally))


def run_recipe(
    name: str,
    model_name: str | None,
    choice: ModelChoice,
    *,
    tasks: Sequence[str],
    changes: dict[str, Any],
    out: Path | None,
    batch: int,
    json: bool,
) -> None:
    """Every experiment of a recipe, each in a folder of its own if there are several."""
    chosen = recipe(name)
    experiments = [replace(each, **changes) for each in chosen.experiments]
    known = [each.task for each in experiments]
    for task in tasks:
        if task not in known:
            raise LocalprobeError(f"{name} has no task {task!r}; {did_you_mean(task, known)}")
    experiments = [each for each in experiments if not tasks or each.task in tasks]
    for experiment in experiments:
        experiment.build_task()
    target = out or Path("runs") / f"{chosen.name}-{datetime.now():%Y%m%d-%H%M%S}"
    problems = 0
    found: list[tuple[Manifest, Tally]] = []
    choice = replace(
        choice,
        model=model_name or chosen.model,
        gpu_layers=chosen.gpu_layers if choice.gpu_layers is None else choice.gpu_layers,
        device=choice.device or chosen.devices,
        rpc=choice.rpc or chosen.rpc,
        attention=choice.attention or chosen.attention,
    )
    if chosen.rpc and choice.rpc == chosen.rpc:
        # A recipe may come from a stranger.
        say(f"the recipe names workers: {choice.rpc} gets the model and the prompts")
    with choice.open() as opened:
        if len(experiments) > 1:
            _check(experiments, opened)
        say(f"writing to {target}")
        advice = Advice(opened, choice)
        for experiment in experiments:
            folder = target if len(chosen.experiments) == 1 else target / experiment.task
            if found and not json:
                print()
            try:
                done = run_and_show(
                    *(opened, experiment, folder),
                    batch=batch,
                    recipe_name=chosen.name,
                    json=json,
                    advice=advice,
                )
                found.append(done)
            except NothingToProbeError as error:
                say(f"localprobe: {experiment.task}: {error}")
                problems += 1
            except KeyboardInterrupt:
                say(_GO_ON.format(target))
                raise
    if json:
        documents_found = [documents.sweep_document(*each) for each in found]
        print_document({"out": str(target), "runs": documents_found})
    if problems:
        raise NothingToProbeError(f"{problems} of {len(experiments)} tasks could not be probed")


def _check(experiments: Sequence[Experiment], model: api.Model) -> None:
    """Nobody wants to learn after hours that the last of the tasks cannot be done."""
    for experiment in experiments:
        try:
            model.prompted(experiment).sweep(model.engine())
        except LocalprobeError as error:
            raise LocalprobeError(f"{experiment.task}: {error}") from None


def run_and_show(
    model: api.Model,
    experiment: Experiment,
    out: Path | None,
    *,
    batch: int,
    recipe_name: str | None,
    json: bool,
    advice: Advice | None = None,
) -> tuple[Manifest, Tally]:
    """Run a sweep to its end, with its table on stdout unless that is for JSON."""
    with api.RunningSweep(
        model, experiment, out, batch=batch or None, recipe=recipe_name, keep=False
    ) as running:
        task, most = running.sweep.task, experiment.max_tokens
        if task.has_right_answers and most is not None and most < task.max_tokens:
            say(
                f"note: {task.name} takes up to {task.max_tokens} tokens for an answer; one that "
                f"--max-tokens {most} cuts short counts as it stands"
            )
        if advice is not None:
            advice.before(running.sweep.work_left, known=running.sweep.goes_on)
        if json:
            run_with_bar(running.sweep, running.rows())
        else:
            view = SweepView(running.sweep, model.n_layer, running.manifest.title)
            view.run(running.rows(), lambda: running.manifest.so_far(running.sweep.tally))
        return running.manifest, running.sweep.tally


def run_bench(n_prompts: int, model: ModelChoice, *, json: bool) -> None:
    with model.open() as opened:
        loaded = opened.loaded
        result = benchmark.bench(loaded.model, n_prompts, say)
        size = total_size(loaded.model.path)
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
    if is_stored_name(name):
        say(f"{name} is on this machine: {find_stored(name).path}")
        return
    entry = registry.entry(name)
    if entry.path.exists():
        model_files.locate(name)
        say(f"{name} is in the cache already: {entry.path}")
        return
    say(f"{name} is in the cache: {fetch(entry)}")


def prepare_model(name: str, kind: str) -> None:
    if kind != speed.FASTEST:
        check_type(kind)
    known, path, digest = model_files.find(name)
    if kind == speed.FASTEST:
        kind = _fastest_type(known, path, digest)
    new_name, new_path = prepare(known, path, digest, kind, tell=say)
    say(f"{new_name} is in the cache: {new_path}")
    made = read_manifest(new_path)
    if made.change is None:
        say("measuring how much that changes ...")
        try:
            made = measured(new_path, path, plain_text(), partial(with_bar, unit="decode"))
        except LocalprobeError as error:
            say(f"how much that changes could not be measured: {error}")
    if made.change is not None:
        say(f"{new_name} against {known}: {made.change}")
    if made.quantized:
        say(
            f"note: these weights were quantized before ({made.quantized}), and nothing of what "
            "that lost is restored; to compare weight types, prepare each from a file in F16 or "
            "F32 that was never quantized"
        )
    typed = f'"{new_name}"' if " " in new_name else new_name
    say(f"use it as -m {typed}")


def _fastest_type(name: str, path: Path, digest: str) -> str:
    """What `models prepare --type fastest` makes, with the table that it is chosen from."""
    say(f"timing multiplications with weights of {len(TYPES)} types ...")
    in_turn = partial(with_bar, unit="type")
    found = speed.speeds(path, watch=lambda types, total: in_turn(iter(types), total))
    own = speed.own_speed(path)
    chosen = speed.fastest(found, free_memory())
    changed = changes(name, path, digest, plain_text(), keep=chosen.type, watch=in_turn, tell=say)
    table = new_table("type")
    for header in ("ms a row", "GB", "next tokens kept", "KL, nats"):
        table.add_column(header, justify="right", no_wrap=True)
    for each in found:
        change = changed.get(each.type)
        kept = ("–", "–") if change is None else (f"{change.kept:.1%}", f"{change.kl:.2g}")
        table.add_row(each.type, f"{each.ms:.2f}", f"{each.size / 1e9:.2f}", *kept)
    if own is not None:
        faster.remember(digest, 0, own, found)
        table.add_row("as it is", f"{own:.2f}", f"{total_size(path) / 1e9:.2f}", "", "")
    stdout_console().print(table)
    say(f"the fastest here that fits, and of types about as fast the most exact: {chosen.type}")
    if own is not None and own <= speed.AS_FAST * chosen.ms:
        say("the weights as they are multiply about as fast")
    if advice := rearranged.advice():
        say(advice)
    return chosen.type


def model_info(name: str, *, json: bool) -> None:
    known, path, digest = model_files.find(name)
    with Model(path) as model:
        verdict = model_files.judge(model, digest)
        loaded = LoadedModel(known, digest, model)
        record = model_files.model_record(loaded)
        info = model.info
        engine = FullEngine(model)
        reasons = {name: verdict.refused or engine.why_not(name) for name in (*names(), "swap")}
        by_whole_passes = model_files.why_whole_passes(model)
        prompts = model_files.known_prompts(loaded)
    if json:
        record |= {
            "n_head": info.n_head,
            "n_head_kv": info.n_head_kv,
            "n_vocab": info.n_vocab,
            "n_ctx_train": info.n_ctx_train,
            "n_params": info.n_params,
            "tokenizer": info.tokenizer,
            "can_probe": not verdict.refused,
            "reason": verdict.refused or None,
            "interventions": {name: reason or None for name, reason in reasons.items()},
            "longest": verdict.longest or None,
            "longest_since": verdict.longest_since or None,
            "whole_passes": by_whole_passes or None,
            "prompts": {task: asdict(each) for task, each in prompts.items()},
            "has_inputs": verdict.has_inputs,
        }
        print_document(record)
        return
    made = manifest_of(path)
    n_parts = len(parts_of(path))
    lineage = []
    if made is not None:
        source_type = made.source_type or "weight type not written down"
        lineage = [("made from", f"{made.source} ({source_type})")]
        lineage += [] if made.change is None else [("changed", str(made.change))]
    stdout_console().print(
        facts(
            [
                ("name", known),
                ("file", str(path)),
                *([("parts", f"{n_parts}; the hash is that of theirs")] if n_parts > 1 else []),
                ("sha256", digest),
                *lineage,
                ("architecture", info.architecture),
                ("file type", info.file_type),
                ("parameters", f"{info.n_params / 1e6:,.1f} M"),
                ("blocks", str(info.n_layer)),
                ("n_embd", str(info.n_embd)),
                ("heads", f"{info.n_head} (keys and values: {info.n_head_kv})"),
                ("tokenizer", f"{info.tokenizer}, {info.n_vocab:,} tokens"),
                ("context", f"{info.n_ctx_train:,} tokens in training"),
                ("can be probed", _what_can_be_done(verdict, reasons)),
                *((f"--prompts model, {task}", str(each)) for task, each in prompts.items()),
                *_beside_the_state(verdict),
                *([("computed", f"by whole passes: {by_whole_passes}")] if by_whole_passes else []),
            ]
        )
    )


def _beside_the_state(verdict: Verdict) -> list[tuple[str, str]]:
    """What overwriting states does not reach in this model."""
    said = []
    if verdict.has_inputs:
        said.append("the state alone: each block also has an input of its own, which stays")
    if verdict.shared is not None:
        said.append(
            f"from layer {verdict.shared} on, blocks also look at keys and values that were made "
            "below, which stay"
        )
    if verdict.unread is not None:
        said.append(
            f"from layer {verdict.unread} on, no block looks at the states of past tokens: "
            "overwriting them there changes nothing"
        )
    return [("written", "; ".join(said))] if said else []


def _what_can_be_done(verdict: Verdict, reasons: Mapping[str, str]) -> str:
    if verdict.refused:
        return f"no: {verdict.refused}"
    able = [name for name, reason in reasons.items() if not reason]
    said = "yes" if len(able) == len(reasons) else f"with {', '.join(able)}"
    for reason in dict.fromkeys(filter(None, reasons.values())):
        refused = [name for name, why in reasons.items() if why == reason]
        said += f"; not with {', '.join(refused)}, since {reason}"
    if verdict.longest:
        said += f"; up to {verdict.longest} tokens: {verdict.longest_since}"
    return said


def _model_line(loaded: LoadedModel) -> Text:
    return Text(visible(described(model_files.model_record(loaded))), style="bold")
