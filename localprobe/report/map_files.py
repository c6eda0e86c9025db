"""Maps and lenses as documents and files: JSON, CSV, npz, HTML, and figures."""

from __future__ import annotations

import csv
import errno
import html
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from localprobe.errors import LocalprobeError, did_you_mean
from localprobe.experiments.attention import Attention
from localprobe.experiments.lens import Lens
from localprobe.experiments.map import TokenMap
from localprobe.files.cache import write_atomically
from localprobe.files.foreign import escaped
from localprobe.report import map_words
from localprobe.report.terminal import visible

FIGURES = (".png", ".svg", ".pdf")
SUFFIXES = (*FIGURES, ".html", ".csv", ".npz")


def check_output(path: Path) -> None:
    """Raise LocalprobeError for a file that could not be written, before anything is computed."""
    if path.suffix.lower() not in SUFFIXES:
        known = did_you_mean(path.suffix.lower(), SUFFIXES)
        raise LocalprobeError(f"{path}: the output must be one of {', '.join(SUFFIXES)}; {known}")
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))


def write(path: Path, maps: Sequence[TokenMap], lens: Lens | None) -> None:
    """Maps, one a token of the answer, and a lens, in the form that the name asks for."""
    check_output(path)
    form = path.suffix.lower()
    if form in FIGURES:
        from localprobe.report.map_figure import save

        save([*maps, *([lens] if lens else [])], path)
    elif form == ".html":
        write_atomically(path, html_page(maps, lens))
    elif form == ".csv":
        write_atomically(path, csv_text(maps, lens))
    else:
        write_atomically(path, _npz(maps, lens))


def map_record(found: TokenMap) -> dict[str, Any]:
    """As JSON: `values` and the others by layer, then by token; null where not finite."""
    return {
        "patch": found.patch,
        "metric": found.metric,
        "window": found.window,
        "direction": found.direction if found.patch == "swap" else None,
        "n_layer": found.n_layer,
        "prompt": found.prompt,
        "token_ids": list(found.all_tokens),
        "tokens": [
            {"text": text, "positions": list(at)}
            for text, at in zip(found.tokens, found.positions, strict=True)
        ],
        "layers": found.layers.tolist(),
        "clean": {"answer": found.answer, "id": found.answer_id, "value": found.clean},
        "clean_prob": found.clean_prob,
        "other": None if found.other is None else {"answer": found.other, "id": found.other_id},
        "there": found.there,
        "values": _plain(found.values),
        "probs": _plain(found.probs),
        "effect": _plain(found.effect()),
        "top_ids": found.top_ids.tolist(),
        "top_probs": _plain(found.top_probs),
        "needed": [
            {"token": found.tokens[group], "group": group, "from": first, "until": until}
            for group, first, until in found.needed()
        ],
        "words": map_words.what_it_found(found),
    }


def lens_record(found: Lens) -> dict[str, Any]:
    return {
        "n_layer": found.n_layer,
        "prompt": found.prompt,
        "token_ids": list(found.all_tokens),
        "tokens": list(found.tokens),
        "layers": found.layers.tolist(),
        "token": {"text": found.token, "id": found.token_id},
        "token_probs": _plain(found.token_probs),
        "token_ranks": found.token_ranks.tolist(),
        "top_ids": found.top_ids.tolist(),
        "top_probs": _plain(found.top_probs),
        "texts": {str(token): text for token, text in sorted(found.vocabulary.items())},
        "appears": found.appears(),
    }


def attention_record(
    found: Attention, layer: int | None, head: int | None, to: Sequence[int] | None
) -> dict[str, Any]:
    """weights: by query token, then by key token. heads: that look most at `to`."""
    return {
        "n_layer": found.n_layer,
        "n_head": found.weights.shape[1],
        "prompt": found.prompt,
        "token_ids": list(found.all_tokens),
        "tokens": list(found.tokens),
        "layer": layer,
        "head": head,
        "weights": _plain(found.mean(layer, head)),
        "to": None if to is None else list(to),
        "heads": None if to is None else [asdict(look) for look in found.looks(to)],
    }


def write_attention(path: Path, found: Attention, layer: int | None, head: int | None) -> None:
    """All weights as .npz; else those of a layer and a head, or their means."""
    form, weights = path.suffix.lower(), found.mean(layer, head)
    if form in FIGURES:
        from localprobe.report.map_figure import save

        save([found if layer is None and head is None else found.only(layer, head)], path)
    elif form == ".npz":
        record = attention_record(found, layer, head, None)
        record.pop("weights")
        written = io.BytesIO()
        np.savez_compressed(
            written,
            weights=found.weights,
            layers=np.array(found.layers),
            about=np.array(json.dumps(record)),
        )
        write_atomically(path, written.getvalue())
    elif form == ".csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(["query", "query_token", "key", "key_token", "weight"])
        for query, key in np.ndindex(weights.shape):
            if key <= query:
                texts = found.tokens[query], found.tokens[key]
                writer.writerow([query, texts[0], key, texts[1], float(weights[query, key])])
        write_atomically(path, text.getvalue())
    else:

        def tip(key: int, query: int) -> str:
            one, other = (map_words.quoted(found.tokens[each]) for each in (query, key))
            return f"{one} to {other}: {weights[query, key]:.3f}"

        table = _table(found.tokens, np.arange(len(weights)), weights.T, tip)
        write_atomically(path, _page(f"<p>{_safe(visible(found.prompt))}</p>{table}"))


def _plain(values: np.ndarray) -> Any:
    if values.ndim > 1:
        return [_plain(row) for row in values]
    return [float(value) if np.isfinite(value) else None for value in values]


def csv_text(maps: Sequence[TokenMap], lens: Lens | None) -> str:
    """A line for every cell; of the lens only where there is no map."""
    records = [record for found in maps for record in _map_cells(found)]
    if lens and not maps:
        records = list(_lens_cells(lens))
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list(records[0]), lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC
    )
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _map_cells(found: TokenMap) -> Iterator[dict[str, Any]]:
    effect = found.effect()
    for group, label in enumerate(found.tokens):
        for row, layer in enumerate(found.layers):
            yield {
                "answer": found.answer,
                "patch": found.patch,
                "metric": found.metric,
                "token": label,
                "positions": " ".join(map(str, found.positions[group])),
                "layer": int(layer),
                "value": float(found.values[row, group]),
                "effect": float(effect[row, group]),
                "p_answer": float(found.probs[row, group]),
                "top_id": int(found.top_ids[row, group]),
                "top_p": float(found.top_probs[row, group]),
            }


def _lens_cells(found: Lens) -> Iterator[dict[str, Any]]:
    for position, label in enumerate(found.tokens):
        for row, layer in enumerate(found.layers):
            token = int(found.ids[row, position])
            yield {
                "token": label,
                "position": position,
                "layer": int(layer),
                "top": found.vocabulary[token],
                "top_id": token,
                "top_p": float(found.probs[row, position]),
                "p_token": float(found.token_probs[row, position]),
                "rank": int(found.token_ranks[row, position]),
            }


def _npz(maps: Sequence[TokenMap], lens: Lens | None) -> bytes:
    arrays: dict[str, Any] = {}
    for number, found in enumerate(maps):
        end = f"_{number}" if len(maps) > 1 else ""
        record = map_record(found)
        for name in ("values", "probs", "top_ids", "top_probs", "layers"):
            arrays[name + end] = getattr(found, name)
            record.pop(name)
        arrays["effect" + end] = found.effect()
        record.pop("effect")
        arrays["about" + end] = np.array(json.dumps(record))
    if lens:
        record = lens_record(lens)
        for name in ("token_probs", "token_ranks", "top_ids", "top_probs", "layers"):
            arrays["lens_" + name] = getattr(lens, name)
            record.pop(name)
        arrays["lens_about"] = np.array(json.dumps(record))
    written = io.BytesIO()
    np.savez_compressed(written, **arrays)
    return written.getvalue()


_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; }
table { border-collapse: collapse; }
th { font-weight: normal; text-align: right; white-space: pre; padding-right: .6em; }
thead th { color: #777; font-size: 11px; padding: 0 2px; text-align: center; }
td { width: 18px; height: 18px; border: 1px solid #fff; }
"""


def html_page(maps: Sequence[TokenMap], lens: Lens | None) -> str:
    """A page of its own: hold the mouse over a cell for its numbers."""
    body = "".join(map_html(found) for found in maps) + (lens_html(lens) if lens else "")
    return _page(body)


def _page(body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>localprobe</title>'
        f"<style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


def map_html(found: TokenMap) -> str:
    """The map as a table, for pages and notebooks."""

    def tip(row: int, group: int) -> str:
        return (
            f"{map_words.measured(found)} = {map_words.number(found, found.values[row, group])}, "
            f"{map_words.quoted(found.tokens[group])} at layer {found.layers[row]}"
        )

    words = "".join(f"<li>{_safe(line)}</li>" for line in map_words.what_it_found(found))
    head = (
        f"<p>{_safe(map_words.explained(found))}<br><b>{_safe(map_words.clean_line(found))}</b></p>"
    )
    table = _table(found.tokens, found.layers, found.effect(), tip)
    return f"<p>{_safe(visible(found.prompt))}</p>{head}{table}<ul>{words}</ul>"


def lens_html(found: Lens) -> str:
    def tip(row: int, token: int) -> str:
        said = found.texts[row][token]
        return (
            f"says {map_words.quoted(said)} ({found.probs[row, token]:.2f}); "
            f"{map_words.probability(found.token)} = {found.token_probs[row, token]:.2f}, "
            f"rank {found.token_ranks[row, token]}; "
            f"{map_words.quoted(found.tokens[token])} at layer {found.layers[row]}"
        )

    table = _table(found.tokens, found.layers, found.token_probs, tip)
    head = f"logit lens: {map_words.probability(found.token)}"
    return f"<p>{_safe(head)}</p>{table}<p>{_safe(map_words.what_the_lens_shows(found))}</p>"


def _table(
    labels: Sequence[str], layers: np.ndarray, shares: np.ndarray, tip: Callable[[int, int], str]
) -> str:
    head = "".join(f"<th>{int(layer)}</th>" for layer in layers)
    rows = []
    for token, label in enumerate(labels):
        cells = "".join(
            f'<td title="{_safe(tip(row, token))}" '
            f'style="background:{_colour(float(shares[row, token]))}"></td>'
            for row in range(len(layers))
        )
        rows.append(f"<tr><th>{_safe(visible(label))}</th>{cells}</tr>")
    top = f"<thead><tr><th>layer</th>{head}</tr></thead>"
    return f"<table>{top}<tbody>{''.join(rows)}</tbody></table>"


def _colour(share: float) -> str:
    if not np.isfinite(share):
        return "repeating-linear-gradient(45deg,#ccc,#ccc 3px,#fff 3px,#fff 6px)"
    low, high = np.array([242, 242, 245]), np.array([72, 40, 120])
    red, green, blue = (low + (high - low) * share).round().astype(int)
    return f"rgb({red},{green},{blue})"


def _safe(text: str) -> str:
    return html.escape(escaped(text))
