"""The commands, and how their help shows an example."""

from __future__ import annotations

import re

COMMANDS = (
    "demo",
    "probe",
    "swap",
    "sweep",
    "transition",
    "run",
    "recipes",
    "bench",
    "tokens",
    "models",
)
COMMANDS += ("devices", "worker")
COMMANDS += ("map", "lens", "attention", "states")
READERS = ("show", "export", "compare", "plot", "report", "browse", "merge")
"""Commands that read runs."""

COMMANDS += READERS
COMMANDS += ("models list", "models pull", "models prepare", "models info", "models remove")
EXAMPLE = re.compile(r"^    (localprobe .*)$", re.MULTILINE)
