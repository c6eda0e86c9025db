"""Maps and lenses as figures: tokens down, layers across. Needs matplotlib (the extra `plot`)."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from localprobe.errors import LocalprobeError
from localprobe.experiments.attention import Attention
from localprobe.experiments.lens import Lens
from localprobe.experiments.map import TokenMap
from localprobe.files.cache import write_atomically
from localprobe.report import maps_view
from localprobe.report.drawing import unstyled
from localprobe.report.map_words import (
    clean_line,
    explained,
    probability,
    share_of,
    what_the_lens_shows,
)
from localprobe.report.terminal import visible
from localprobe.runs.maps import Maps

Shown = TokenMap | Lens | Attention | Maps
FORMATS = (".png", ".svg", ".pdf")
_LONGEST = 24
_SHOWN = 0.1


def figure(found: Shown, path: Path | str | None = None) -> Any:
    """A matplotlib figure of a map or a lens; written to a file where a path is given.

    Raises LocalprobeError where matplotlib is not there, or the file is of another kind.
    """
    if path is not None:
        return save([found], Path(path))
    with unstyled():
        return _drawn([found])


def save(found: Sequence[Shown], path: Path) -> None:
    """All of them under each other in a file, of FORMATS."""
    if path.suffix.lower() not in FORMATS:
        raise LocalprobeError(f"{path}: the figure must be one of {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    with unstyled():
        drawing = _drawn(found)
        written = io.BytesIO()
        drawing.savefig(written, format=path.suffix.lower().lstrip("."), dpi=150)
        write_atomically(path, written.getvalue())


def _drawn(found: Sequence[Shown]) -> Any:
    from matplotlib.figure import Figure

    heights = [1.6 + 0.2 * len(_tokens(each)) for each in found]
    width = 3.2 + 0.2 * max(_shares(each).shape[0] for each in found)
    drawing = Figure(figsize=(max(6.4, width), sum(heights)), layout="constrained")
    axes = drawing.subplots(len(found), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, each in zip(axes, found, strict=True):
        _panel(drawing, axis, each)
    return drawing


def _panel(drawing: Any, axis: Any, found: Shown) -> None:
    shares = _shares(found)
    across = list(range(len(shares))) if isinstance(found, Attention) else found.layers.tolist()
    if isinstance(found, TokenMap):
        title = f"{explained(found)}\n{clean_line(found)}"
        bar = share_of(found)
        if bar.startswith("of "):
            bar = f"share {bar.replace(' is lost', ' that is lost')}"
    elif isinstance(found, Maps):
        done = maps_view.explained(found).replace("; ", "\n")
        title = f"{found.manifest.title}\n{done}\n{maps_view.clean_line(found)}"
        bar = maps_view.share_of(found)
        if bar.startswith("of "):
            bar = f"mean share {bar.replace(' is lost', ' that is lost')}"
    elif isinstance(found, Lens):
        bar = probability(found.token)
        title = what_the_lens_shows(found)
    else:
        bar, n_head = "attention weight", found.weights.shape[1]
        title = f"attention: mean over {len(found.layers)} layers and {n_head} heads"
    image = axis.imshow(
        shares.T, cmap="magma_r", vmin=0, vmax=1, aspect="auto", interpolation="none"
    )
    labels = [_plain(label) for label in _tokens(found)]
    axis.set_yticks(range(len(labels)), labels, family="monospace", fontsize="small")
    step = max(1, len(across) // 15)
    places = list(range(0, len(across), step))
    axis.set_xticks(places, [str(across[place]) for place in places])
    axis.set_xlabel("key token" if isinstance(found, Attention) else "layer k")
    axis.set_title(_plain(title, 200), fontsize="small", loc="left")
    colours = drawing.colorbar(image, ax=axis, pad=0.02)
    colours.set_label(_plain(bar, 60), fontsize="small")


def _shares(found: Shown) -> Any:
    """(across, down)"""
    if isinstance(found, TokenMap):
        return found.effect()
    if isinstance(found, Maps):
        return found.effects.mean
    if isinstance(found, Lens):
        return found.token_probs[:, found.where(_SHOWN)]
    return found.mean().T


def _tokens(found: Shown) -> list[str]:
    """Its rows; of a lens, the tokens on which there is something to see."""
    if isinstance(found, Lens):
        return [found.tokens[position] for position in found.where(_SHOWN)]
    if isinstance(found, Maps):
        return [f"{role} ({found.n_of(role)})" for role in found.roles]
    return list(found.tokens)


def _plain(text: str, most: int = _LONGEST) -> str:
    """Text that neither a control character nor matplotlib's mathtext does anything to."""
    lines = [visible(line) for line in text.split("\n")] if most > _LONGEST else [visible(text)]
    cut = [line if len(line) <= most else line[: most - 1] + "…" for line in lines]
    return "\n".join(cut).replace("$", r"\$")
