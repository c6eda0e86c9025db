"""How results show themselves in a notebook: as tables, and as figures of matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from localprobe.report.drawing import loaded
from localprobe.report.page import Cell, Section, Table, fragment
from localprobe.report.run_sections import run_section
from localprobe.report.terminal import visible

if TYPE_CHECKING:
    from localprobe.api import Probe, Swap
    from localprobe.runs.results import Run

_LONGEST = 60


def run_html(run: Run) -> str:
    return fragment(run_section(0, run, None))


def probe_html(probe: Probe) -> str:
    """Layers down, interventions across: P of the clean answer's first token, and the answer."""
    layers = sorted({row.layer for row in probe.rows})
    found = {(row.patch, row.layer): row for row in probe.rows}
    rows: list[list[Cell | str]] = []
    for layer in layers:
        cells: list[Cell | str] = [str(layer)]
        for patch in probe.patches:
            row = found.get((patch, layer))
            if row is None:
                cells.append("–")
                continue
            share = row.p_clean
            mark = " ✓" if row.is_clean else ""
            number = "not finite" if share is None else f"{share:.2f}"
            cells.append(Cell(f"{number}{mark}", _cut(row.text), share))
        rows.append(cells)
    claims = [
        f"{patch}: "
        + (f"survives from layer {layer} on" if layer is not None else "does not survive")
        + ", of the layers shown"
        for patch in probe.patches
        for layer in [probe.survives_from(patch)]
    ]
    table = Table(
        f"P of the clean answer's first token, `{visible(probe.first_token)}`; ✓: the whole answer "
        "is the clean one",
        ["layer", *probe.patches],
        rows,
    )
    lines = [
        f"prompt: {visible(probe.prompt)}",
        f"clean answer: {visible(probe.clean.text)} (P {probe.p_clean:.2f})",
    ]
    return fragment(Section("Probe", lines=lines, tables=[table], claims=claims))


def swap_html(swap: Swap) -> str:
    rows: list[list[Cell | str]] = [
        [
            str(row.layer),
            _cut(row.text),
            Cell(f"{row.p_original:.2f}", share=row.p_original),
            Cell(f"{row.p_modified:.2f}", share=row.p_modified),
            row.follows,
        ]
        for row in swap.rows
    ]
    table = Table(
        f"{swap.old} swapped for {swap.new}, at one layer at a time",
        ["layer", "answer", "P(original)", "P(modified)", "follows"],
        rows,
    )
    layer = swap.flip_layer
    flip = (
        "no flip" if layer is None else f"flip layer {layer}: from there on all follow {swap.old}"
    )
    lines = [
        f"prompt: {visible(swap.prompt)}",
        f"with {swap.old}: {visible(swap.original.text)} (original)",
        f"with {swap.new}: {visible(swap.modified.text)} (modified)",
    ]
    return fragment(
        Section("Swap", lines=lines, tables=[table], claims=[f"{flip}, of the layers shown"])
    )


def _cut(text: str) -> str:
    line = visible(text.strip(" "))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def plot_run(run: Run) -> Any:
    """The figure of `localprobe plot`: its axes, or an array of two where there are swaps, too."""
    pyplot = _pyplot()
    from localprobe.report.plot import panels

    return _on_axes(pyplot, panels(run))


def plot_probe(probe: Probe) -> Any:
    """P of the clean answer's first token against the layer, of several draws with their range."""

    def draw(axis: Any) -> None:
        from localprobe.report.plot import style_of

        for patch in probe.patches:
            rows = [row for row in probe.rows if row.patch == patch and row.p_clean is not None]
            layers, style = [row.layer for row in rows], style_of(patch)
            axis.plot(layers, [row.p_clean for row in rows], label=patch, **style)
            low, high = zip(*(row.p_range for row in rows), strict=True) if rows else ((), ())
            axis.fill_between(layers, low, high, color=style["color"], alpha=0.12, linewidth=0)
        axis.axhline(probe.p_clean, color="black", linewidth=1, label="clean model")
        axis.set_ylabel(_plain(f"P(`{visible(probe.first_token)}`)"))
        _finish(axis)

    return _on_axes(_pyplot(), [draw])


def plot_swap(swap: Swap) -> Any:
    """P(original) and P(modified) against the layer; the flip layer, where there is one."""

    def draw(axis: Any) -> None:
        from localprobe.report.plot import style_of

        layers = [row.layer for row in swap.rows]
        for name, word, style in (
            ("original", swap.old, style_of("random")),
            ("modified", swap.new, style_of("shuffle")),
        ):
            shares = [getattr(row, f"p_{name}") for row in swap.rows]
            axis.plot(layers, shares, label=_plain(f"P({name}), {visible(word)}"), **style)
        if swap.flip_layer is not None:
            axis.axvline(swap.flip_layer, color="grey", linewidth=1, label="flip layer")
        axis.set_ylabel("probability")
        _finish(axis)

    return _on_axes(_pyplot(), [draw])


def _finish(axis: Any) -> None:
    axis.set_xlabel("layer k")
    axis.set_ylim(-0.02, 1.02)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(fontsize="small", frameon=False)


def _plain(text: str) -> str:
    """Without what matplotlib takes for a formula."""
    return text.replace("$", r"\$")


def _pyplot() -> Any:
    loaded()
    from matplotlib import pyplot

    return pyplot


def _on_axes(pyplot: Any, drawers: Sequence[Callable[[Any], None]]) -> Any:
    """On a new figure, which notebooks show by themselves: its axes, or an array of them."""
    size = (5.2 * len(drawers), 3.8)
    _, axes = pyplot.subplots(1, len(drawers), figsize=size, squeeze=False, layout="constrained")
    for axis, draw in zip(axes.flat, drawers, strict=True):
        draw(axis)
    return axes[0, 0] if len(drawers) == 1 else axes[0]
