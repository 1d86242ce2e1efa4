"""What imports what: the table of what may, and the reader of what does."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from tests.support.paths import ROOT

PACKAGES = ("flows", "engines", "warehouse", "router")

ROUTER = ["router"]
STORED = ["warehouse", *ROUTER]
FREE = {
    "flows": ("flows/errors", "flows/console", "flows/formats", "flows/verdicts"),
    "engines": ("engines/errors", "engines/direct"),
}
"""Modules that all of a package may import."""
TABLE: Mapping[str, list[str]] = {
    "flows/cli": [
        "flows/api", "flows/night", "flows/execution/stopping", "flows/orchestration", "flows/quality",
        "flows/dispatch", "flows/planning", "flows/report", "flows/init", "flows/runs", "flows/jobs", "flows/models",
        "engines", *STORED,
    ],
    "flows/api": [
        "flows/night", "flows/execution/sending", "flows/execution/stopping", "flows/orchestration",
        "flows/quality", "flows/dispatch", "flows/planning", "flows/runs",
        "flows/jobs", "flows/models", *STORED,
    ],
    "flows/night": ["flows/orchestration", "flows/execution", "flows/dispatch", "flows/runs", "warehouse"],
    "flows/orchestration": ["flows/execution", "flows/dispatch", "flows/report", "flows/runs", *STORED],
    "flows/execution": [
        "flows/quality", "flows/dispatch", "flows/planning", "flows/runs", "flows/jobs", "flows/telemetry",
        "engines/core", "engines/direct", *STORED,
    ],
    "flows/quality": ["flows/dispatch", "flows/planning", "flows/runs", "flows/jobs", "engines/core", *STORED],
    "flows/dispatch": [
        "flows/planning", "flows/runs", "flows/telemetry", "engines/registry", "engines/core", "engines/emulator", *STORED,
    ],
    "flows/planning": [
        "flows/runs", "engines/tokenizers", "engines/devices", "engines/metered", *STORED,
    ],
    "flows/telemetry": ROUTER,
    "flows/report": ["flows/runs", *STORED],
    "flows/init": ["flows/jobs", "flows/models", "engines/devices", "engines/direct", *STORED],
    "flows/runs": ["flows/jobs", "engines/vllm", "engines/ray", "engines/errors", *STORED],
    "flows/jobs": ["flows/models", "engines/registry", *STORED],
    "flows/models": ["engines/pricemap", "engines/registry", *ROUTER],
    "flows/console": [],
    "flows/errors": [],
    "flows/formats": [],
    "flows/verdicts": [],
    "engines/batch": ["engines/realtime", "engines/wires", "engines/core", "engines/registry", *ROUTER],
    "engines/realtime": ["engines/wires", "engines/core", *ROUTER],
    "engines/vllm": ["engines/metered", "engines/wires", "engines/core", "engines/devices", *ROUTER],
    "engines/ray": [
        "engines/vllm", "engines/metered", "engines/wires", "engines/core", "engines/devices", *ROUTER,
    ],
    "engines/server": ["engines/metered", "engines/wires", "engines/core", "engines/devices", *ROUTER],
    "engines/metered": ["engines/core", "engines/pricemap", *ROUTER],
    "engines/wires": ["engines/core", "engines/pricemap", *ROUTER],
    "engines/emulator": ["engines/core", "engines/pricemap", *ROUTER],
    "engines/core": ROUTER,
    "engines/registry": ROUTER,
    "engines/direct": [],
    "engines/errors": [],
    "engines/devices": ROUTER,
    "engines/tokenizers": ["engines/pricemap", *ROUTER],
    "engines/pricemap": ROUTER,
    "warehouse": ROUTER,
    "router": [],
}  # fmt: skip
"""What each part may import of ours besides itself. A name stands for what lies below it too."""

MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@cache
def tree(path: Path) -> ast.Module:
    """Parse a module."""
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    """The path from the project's root."""
    return str(path.relative_to(ROOT))


def dotted(path: Path) -> str:
    """The name that a module is imported by, without the leading `thirdshift.`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {dotted(path): path for path in MODULES}


def imported(path: Path) -> Iterator[str]:
    """Dotted names of what a module imports, wherever in it, typing and deferred imports too."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def ours(path: Path) -> set[str]:
    """The modules of ours that a module imports, without the leading `thirdshift.`."""
    modules = set()
    for full in imported(path):
        name = full.removeprefix("thirdshift.") if full.startswith("thirdshift.") else ""
        while name and name not in NAMES:
            name = name.rpartition(".")[0]
        if name and NAMES[name] != path:
            modules.add(name)
    return modules


def part_of(path: Path) -> str:
    """The line of TABLE that a module belongs to."""
    name = str(path.relative_to(ROOT).with_suffix(""))
    return max((part for part in TABLE if name == part or name.startswith(f"{part}/")), key=len, default=name)
