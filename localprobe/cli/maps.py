"""`localprobe map`, `lens`, `attention` and `states`: compute, show, write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text
from tqdm import tqdm

from localprobe import api
from localprobe.cli.advice import Advice
from localprobe.cli.options import ModelChoice
from localprobe.engine.layers import parse_layers
from localprobe.errors import LocalprobeError
from localprobe.experiments.experiment import Experiment, encoder
from localprobe.experiments.lens import Lens
from localprobe.experiments.map import MapPlan, TokenMap
from localprobe.experiments.probe import find_position
from localprobe.experiments.states import read_prompts
from localprobe.experiments.states import write_states as write_states_of
from localprobe.files.tensors import SUFFIXES
from localprobe.models.opening import LoadedModel, model_record
from localprobe.prompts.encoder import read_prompt, unescape
from localprobe.report import map_files
from localprobe.report.map_view import (
    attention_text,
    lens_table,
    lens_text,
    looks_table,
    map_text,
    title_line,
)
from localprobe.report.map_words import quoted
from localprobe.report.maps_view import check_maps_output, maps_record, maps_text, write_maps
from localprobe.report.terminal import print_document, say, stdout_console, visible
from localprobe.runs.manifest import described


def map_prompt(
    prompt: str,
    choice: ModelChoice,
    *,
    patch: str,
    metric: str | None,
    group: str,
    layers: str,
    window: int | None,
    seed: int,
    against: str | None,
    swap: tuple[str, str] | None,
    against_answer: str | None,
    direction: str,
    max_tokens: int,
    with_lens: bool,
    output: Path | None,
    chat: bool,
    json: bool,
) -> None:
    """A map of the prompt; with max_tokens above 1, of every token of its answer."""
    text = read_prompt(prompt)
    second = None if against is None else read_prompt(against, "the second prompt")
    words = None if swap is None else (unescape(swap[0]), unescape(swap[1]))
    other = None if against_answer is None else unescape(against_answer)
    plan = MapPlan(patch, metric, group, window, seed, second, words, other, direction)
    if output is not None:
        map_files.check_output(output)
    with exact(choice).open() as opened:
        found = api.map_answer(
            opened, text, plan, layers=layers, max_tokens=max_tokens, chat=chat, progress=bar
        )
        seen = api.lens(opened, text, layers=layers, chat=chat) if with_lens else None
        _write(output, found, seen)
        if json:
            record: dict[str, object] = {"model": model_record(opened.loaded)}
            records = [map_files.map_record(each) for each in found]
            record |= {"maps": records} if max_tokens > 1 else records[0]
            if seen:
                record["lens"] = map_files.lens_record(seen)
            print_document(record)
            return
        console = stdout_console()
        _head(console, opened.loaded, text)
        for number, each in enumerate(found):
            if number:
                console.print()
            show_map(console, each)
        if seen:
            console.print()
            show_lens(console, seen, table=False)
            if title := title_line(found[0], seen):
                console.print(title)


def map_task(
    experiment: Experiment,
    choice: ModelChoice,
    plan: MapPlan,
    *,
    out: Path | None,
    output: Path | None,
    json: bool,
) -> None:
    """Maps of a task's examples, averaged."""
    experiment.build_task()
    if output is not None:
        check_maps_output(output)
    with exact(choice).open() as opened:
        with api.RunningMaps(opened, experiment, plan, out) as running:
            Advice(opened, choice).before(running.sweep.work_left, known=running.goes_on)
            shown = tqdm(
                total=running.sweep.expected,
                unit="example",
                leave=False,
                disable=None,
                dynamic_ncols=True,
                delay=1.0,
            )
            with shown:
                try:
                    for _ in running.rows():
                        shown.update(running.sweep.used - shown.n)
                except KeyboardInterrupt:
                    if out is not None:
                        say(f"what is done is in {out}; to go on, run it again with --out {out}")
                    raise
            found = running.found()
        if output is not None:
            write_maps(output, found)
            say(f"wrote {output}")
        if json:
            print_document(maps_record(found))
            return
        console = stdout_console()
        for line in maps_text(console, found):
            console.print(line)


def lens_prompt(
    prompt: str,
    choice: ModelChoice,
    *,
    layers: str,
    token: str | None,
    top: int,
    output: Path | None,
    chat: bool,
    json: bool,
) -> None:
    text = read_prompt(prompt)
    followed = None if token is None else unescape(token)
    if output is not None:
        map_files.check_output(output)
    with exact(choice).open() as opened:
        seen = api.lens(
            opened, text, layers=layers, token=followed, top=top, chat=chat, progress=bar
        )
        _write(output, [], seen)
        if json:
            record = {"model": model_record(opened.loaded), **map_files.lens_record(seen)}
            print_document(record)
            return
        console = stdout_console()
        _head(console, opened.loaded, text)
        show_lens(console, seen)


def attention_prompt(
    prompt: str,
    choice: ModelChoice,
    *,
    layer: int | None,
    head: int | None,
    to: str | None,
    output: Path | None,
    chat: bool,
    json: bool,
) -> None:
    text = read_prompt(prompt)
    if output is not None:
        map_files.check_output(output)
    with exact(choice).open() as opened:
        found = api.attention(opened, text, layers="all" if layer is None else layer, chat=chat)
        weights = found.mean(layer, head)
        positions: list[int] | None = None
        if to is not None:
            encode = encoder(opened.engine(), chat=chat)
            wanted = unescape(to)
            positions = find_position(encode, wanted, text, found.all_tokens, what="the prompt")
        if output is not None:
            map_files.write_attention(output, found, layer, head)
            say(f"wrote {output}")
        if json:
            record = map_files.attention_record(found, layer, head, positions)
            print_document({"model": model_record(opened.loaded), **record})
            return
        console = stdout_console()
        _head(console, opened.loaded, text)
        if positions is None:
            for line in attention_text(console, found, weights, layer, head):
                console.print(line)
        else:
            name = "".join(found.tokens[p] for p in positions)
            console.print(Text(f"the heads by which the last token looks most at {quoted(name)}"))
            console.print(looks_table(console, found.looks(positions)))


def write_states(
    prompts: Sequence[str],
    file: Path | None,
    choice: ModelChoice,
    *,
    layers: str,
    positions: str,
    dtype: str,
    output: Path,
    chat: bool,
) -> None:
    texts = [read_prompt(prompt) for prompt in prompts]
    if file is not None:
        texts += read_prompts(file)
    if not texts:
        raise LocalprobeError("no prompt was given: write PROMPT, or --prompts FILE")
    if output.suffix.lower() not in SUFFIXES:
        raise LocalprobeError(f"{output}: the file must be one of {', '.join(SUFFIXES)}")
    if not output.parent.is_dir():
        raise LocalprobeError(f"there is no folder {output.parent}")
    with exact(choice).open() as opened:
        engine = opened.engine()
        chosen = parse_layers(layers, opened.n_layer)
        done = write_states_of(
            engine,
            encoder(engine, chat=chat),
            texts,
            output,
            layers=chosen,
            positions=unescape(positions),
            dtype=dtype,
            model=model_record(opened.loaded),
        )
        shown = tqdm(
            total=len(texts), unit="prompt", leave=False, disable=None, dynamic_ncols=True, delay=1
        )
        with shown:
            try:
                for number in done:
                    shown.update(number - shown.n)
            except KeyboardInterrupt:
                say(f"what is done is kept; to go on, write to {output} again")
                raise
    say(f"wrote the states of {len(texts)} prompt{'s' * (len(texts) > 1)} to {output}")


def exact(choice: ModelChoice) -> ModelChoice:
    """Where nothing else is asked for, attention in float32."""
    return replace(choice, attention=choice.attention or "exact")


def show_map(console: Console, found: TokenMap) -> None:
    for line in map_text(console, found):
        console.print(line)


def show_lens(console: Console, seen: Lens, *, table: bool = True) -> None:
    for line in lens_text(console, seen):
        console.print(line)
    if table:
        console.print()
        console.print(lens_table(console, seen))


def _head(console: Console, loaded: LoadedModel, text: str) -> None:
    console.print(Text(visible(described(model_record(loaded))), style="bold"))
    console.print(Text(f"prompt: {visible(text)}"))


def _write(output: Path | None, found: list[TokenMap], seen: Lens | None) -> None:
    if output is not None:
        map_files.write(output, found, seen)
        say(f"wrote {output}")


def bar(cells: Iterator[int], total: int) -> Iterable[int]:
    """A bar on stderr, where that is a terminal, if it takes more than a second."""
    shown = tqdm(total=total, unit="cell", leave=False, disable=None, dynamic_ncols=True, delay=1.0)
    with shown:
        for done in cells:
            shown.update(done)
            yield done
