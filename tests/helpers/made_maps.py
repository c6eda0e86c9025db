"""Maps over a task on disk that no model made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from localprobe.experiments.roles import ROLES
from localprobe.runs.folder import ROWS
from localprobe.runs.manifest import FORMAT, MAPS, Manifest, write_manifest
from localprobe.runs.maps import MapRow, Maps, read_maps, to_line

ROLES_THERE = ("first token", "subject last", "next to last")

Effect = Callable[[int, int, str], float]
"""Of an example, a layer and a role."""


def write(
    path: Path,
    effect: Effect = lambda example, layer, role: 0.5,
    *,
    n: int = 12,
    n_layer: int = 4,
    layers: list[int] | None = None,
    model: str = "made",
    ended: bool = True,
    data: str | None = None,
    accepted: str = "Paris",
    without: int = 0,
    **experiment: Any,
) -> Maps:
    """Examples 0 … n-1; of P = 0.8, what an effect leaves. without: answered wrongly, at the end.

    subject middle: that only examples below 3 have.
    """
    layers = list(range(n_layer)) if layers is None else layers
    about: dict[str, Any] = {
        "task": "capitals",
        "interventions": ["knockout"],
        "layers": "all",
        "n": None,
        "seed": 0,
        "metric": "prob",
        "shard": "1/1",
        "window": None,
        "data": data,
        **experiment,
    }
    counts = {"rows": n + without, "tried": n + without, "used": n}
    manifest = Manifest(
        {
            "kind": MAPS,
            "format": FORMAT,
            "localprobe": "0.3.0",
            "llama_cpp_python": "0.3.36",
            "numpy": "2.0",
            "engine": "resume",
            "devices": ["cpu"],
            "batch": 1,
            "model": {
                "name": model,
                "architecture": "llama",
                "file_type": "Q4_1",
                "n_layer": n_layer,
            },
            "experiment": about,
            "layers": layers,
            "roles": list(ROLES),
            "examples": 100,
            "started": "2025-01-01T00:00:00",
            "ended": "2025-01-01T01:00:00" if ended else None,
            "counts": counts if ended else None,
        }
    )
    rows = []
    for example in range(n + without):
        used = example < n
        row = MapRow(
            example=example,
            used=used,
            prompt=f"Q: what of {example}?\nA:",
            accepted=(accepted, "Paname"),
            subject=f"it {example}",
            answer=" Paris\n" if used else " Rome",
        )
        if used:
            roles = {role: (place,) for place, role in enumerate(ROLES_THERE)}
            if example < 3:
                roles = {"first token": (0,), "subject middle": (7,)} | roles
            effects = {
                role: tuple(effect(example, layer, role) for layer in layers) for role in roles
            }
            row = MapRow(
                **{
                    **vars(row),
                    "first": " Paris",
                    "clean": 0.8,
                    "roles": roles,
                    "effects": effects,
                    "values": {
                        role: tuple(0.8 * (1 - each) for each in some)
                        for role, some in effects.items()
                    },
                }
            )
        rows.append(row)
    path.mkdir(parents=True, exist_ok=True)
    write_manifest(path, manifest)
    (path / ROWS).write_text("".join(map(to_line, rows)), "utf-8")
    return read_maps(path)
