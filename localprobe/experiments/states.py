"""Hidden states of prompts: kept, written to files, and read back as a donor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from localprobe.engine.full import FullEngine
from localprobe.engine.interventions import Donor, FloatArray
from localprobe.errors import LocalprobeError, did_you_mean
from localprobe.experiments.probe import Injection, find_position, named, paired, unequal
from localprobe.files import tensors
from localprobe.files.tensors import SUFFIXES, Spool
from localprobe.files.textfile import read_text
from localprobe.llama.residual import Keep
from localprobe.prompts.encoder import Encoder
from localprobe.prompts.words import occurrences, tokens_of

DTYPES = ("float32", "float16")
ALL, LAST = "all", "last"
PREFIX = "states"
_MOST_PROMPTS = 1 << 28


@dataclass(frozen=True, eq=False)
class States:
    """The hidden states of a prompt. values: (n_layers, n_positions, n_embd); the state at layer k
    is the input of block k. positions: of the tokens in the prompt, tokens: their ids, texts: as
    text.
    """

    prompt: str
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    values: FloatArray

    def about(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "positions": list(self.positions),
            "tokens": list(self.tokens),
            "texts": list(self.texts),
        }

    def __repr__(self) -> str:
        return f"<States of {self.prompt[:40]!r}: {self.values.shape}>"


def states_of(
    engine: FullEngine, encoder: Encoder, prompt: str, layers: Sequence[int], positions: str
) -> States:
    """One clean pass. positions: all, last, an index, or a word (its last place).

    Raises LocalprobeError for a position that the prompt has not.
    """
    model, tokens = engine.model, encoder.tokens(prompt)
    if positions == ALL:
        at = list(range(len(tokens)))
    elif positions == LAST:
        at = [len(tokens) - 1]
    else:
        at = find_position(encoder, positions, prompt, tokens, what="the prompt")
    keep = _KeepAt(layers, at)
    model.check_length(len(tokens))
    model.evaluate(tokens, 0, keep)
    chosen = [tokens[p] for p in at]
    pieces = [model.piece(token, control=True) for token in chosen]
    return States(
        prompt,
        tuple(layers),
        tuple(at),
        tuple(chosen),
        tuple(piece.decode(errors="replace") for piece in pieces),
        np.stack([keep.states[layer] for layer in layers]),
    )


class _KeepAt(Keep):
    """Keeps the states of some positions alone."""

    def __init__(self, layers: Sequence[int], at: Sequence[int]) -> None:
        super().__init__(layers)
        self._at = list(at)

    def apply(self, layer: int, states: FloatArray) -> None:
        self.states[layer] = states[self._at].copy()


def write_states(
    engine: FullEngine,
    encoder: Encoder,
    prompts: Sequence[str],
    path: Path,
    *,
    layers: Sequence[int],
    positions: str,
    dtype: str,
    model: Mapping[str, Any],
) -> Iterator[int]:
    """The states of prompts, one array a prompt: states.0, states.1, …; in memory, one at a time.

    Yields how many are done, those that an interrupted run has left included. model: its record.
    Raises LocalprobeError for what cannot be done; then what is done stays to be gone on with.
    """
    if dtype not in DTYPES:
        raise LocalprobeError(f"unknown type {dtype!r}; {did_you_mean(dtype, DTYPES)}")
    about = {
        "made_by": "localprobe states",
        "model": {key: model[key] for key in ("name", "sha256", "architecture", "n_layer")},
        "layers": list(layers),
        "dtype": dtype,
    }
    digest = hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()
    with Spool(path, {**about, "positions": positions, "prompts": digest}) as spool:
        yield spool.done
        for number in range(spool.done, len(prompts)):
            found = states_of(engine, encoder, prompts[number], layers, positions)
            with np.errstate(over="ignore"):
                values = found.values.astype(dtype)
            if not np.isfinite(values).all():
                why = "too large for float16" if dtype == "float16" else "not finite numbers"
                raise LocalprobeError(f"states of prompt {number + 1} are {why}")
            spool.add(f"{PREFIX}.{number}", values, found.about())
            yield spool.done
        spool.finish(about)


def read_prompts(path: Path) -> list[str]:
    """Prompts of a file: one a line, blank lines left out; of .jsonl, {"prompt": …} a line.

    Raises LocalprobeError, with the line, for what is none.
    """
    prompts = []
    for number, line in enumerate(read_text(path, _MOST_PROMPTS).split("\n"), 1):
        if not line.strip():
            continue
        if path.suffix.lower() != ".jsonl":
            prompts.append(line.removesuffix("\r"))
            continue
        try:
            prompt = json.loads(line)["prompt"]
        except (ValueError, TypeError, KeyError, RecursionError):
            prompt = None
        if not isinstance(prompt, str) or not prompt.strip():
            raise LocalprobeError(f'{path}, line {number}: not {{"prompt": "..."}}')
        prompts.append(prompt)
    return prompts


def is_states_file(donor: str) -> bool:
    """Whether what is given as a donor is a file of states, FILE or FILE#NUMBER."""
    return _file_and_number(donor)[0].suffix.lower() in SUFFIXES


def donor_from_file(
    encoder: Encoder,
    tokens: Sequence[int],
    donor: str,
    at: Sequence[int],
    donor_at: str,
    layers: Sequence[int],
) -> Injection:
    """What is injected from a file of states. donor: FILE, or FILE#NUMBER for one of several.

    tokens, at: of the prompt, and which are written to. donor_at: of the file's tokens, an index,
    or a word. Raises LocalprobeError where the file lacks a layer or a token, or is of another
    width.
    """
    path, which = _file_and_number(donor)
    arrays = tensors.read(path)
    array = f"{PREFIX}.{which}"
    if array not in arrays.names:
        # Of another program: the only one that it holds.
        if len(arrays.names) != 1 or which:
            raise LocalprobeError(f"{path} has no array {array}; it has {_few(arrays.names)}")
        array = arrays.names[0]
    shape, n_embd = arrays.shapes[array], encoder.model.n_embd
    if len(shape) != 3 or shape[2] != n_embd:
        raise LocalprobeError(
            f"{array} of {path} has the shape {shape}; layers x tokens x {n_embd} is needed"
        )
    kept = arrays.about.get("layers", list(range(shape[0])))
    if not isinstance(kept, list) or len(kept) != shape[0]:
        raise LocalprobeError(f"{path} does not say which layers its {shape[0]} states are of")
    missing = [layer for layer in layers if layer not in kept]
    if missing:
        raise LocalprobeError(f"{path} has no states at layer {missing[0]}; choose --layers")
    ids = _tokens(arrays.about, array, shape[1], encoder.model.info.n_vocab)
    pieces = [encoder.model.piece(token, control=True) for token in ids]
    whole = _places(donor_at, shape[1], pieces, path)
    pairs = paired(at, whole)
    values = arrays[array]
    if not np.isfinite(values).all():
        raise LocalprobeError(f"{array} of {path} holds numbers that are not finite")
    states = {layer: values[kept.index(layer)] for layer in layers}
    given = named(encoder, ids, pairs) if ids else f"token {', '.join(map(str, pairs))}"
    text = f"{named(encoder, tokens, at)} gets {given} of {path.name}{unequal(len(at), len(whole))}"
    return Injection(
        Donor(states, tuple(at), tuple(pairs)), donor, ids, len(at) == len(whole), text
    )


def _file_and_number(donor: str) -> tuple[Path, int]:
    """FILE#2 -> FILE, 2; FILE -> FILE, 0."""
    name, _, number = donor.rpartition("#")
    if number.isdecimal() and Path(name).suffix.lower() in SUFFIXES:
        return Path(name), int(number[:9])
    return Path(donor), 0


def _tokens(about: Mapping[str, Any], array: str, n_tokens: int, n_vocab: int) -> tuple[int, ...]:
    """The ids of the tokens that the states are of; none where the file does not say them."""
    each = about.get("arrays")
    each = each.get(array) if isinstance(each, dict) else None
    ids = each.get("tokens") if isinstance(each, dict) else None
    if not isinstance(ids, list) or len(ids) != n_tokens:
        return ()
    if not all(type(token) is int and 0 <= token < n_vocab for token in ids):
        return ()
    return tuple(ids)


def _places(donor_at: str, n_tokens: int, pieces: Sequence[bytes], path: Path) -> list[int]:
    """Positions in the file of an index, or of the last place of a word."""
    try:
        index = int(donor_at)
    except ValueError:
        # As in a prompt, a whole word first; pieces may hold parts of a character.
        text = b"".join(pieces).decode(errors="surrogateescape")
        places = occurrences(donor_at, text) if donor_at else []
        if places:
            ends = list(accumulate(map(len, pieces)))
            spans = list(zip([0, *ends], ends, strict=False))
            return tokens_of(places[-1], text, spans)
        raise LocalprobeError(f"{donor_at!r} is neither a position nor a word of {path}") from None
    if not -n_tokens <= index < n_tokens:
        raise LocalprobeError(f"position {index} is outside {path}, which has {n_tokens} tokens")
    return [index % n_tokens]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "") or "none"
