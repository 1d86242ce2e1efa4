"""The main path of a night takes time, chance and the durability of files from the world that it was given."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.imports import MODULES, name_of, tree
from tests.support.paths import ROOT

OUTSIDE = {
    ("time", "time"), ("time", "monotonic"), ("time", "sleep"), ("datetime", "now"), ("os", "urandom"), ("os", "fsync"),
    ("secrets", "token_hex"), ("threading", "Thread"), ("aiohttp", "ClientSession"),
}  # fmt: skip
"""Calls that reach for the world directly."""
MAIN_PATH = (
    "engines/core", "engines/batch", "engines/realtime", "engines/emulator", "flows/dispatch", "flows/execution/pilot.py",
    "flows/execution/run.py", "flows/execution/serving.py", "flows/execution/waiting.py", "flows/execution/lateness.py",
    "warehouse/journal",
)  # fmt: skip
ELSEWHERE = {
    "engines/batch/http.py": "when a batch was made, where its provider tells no instant",
    "engines/realtime/http.py": "makes the session that the world hands out",
    "engines/emulator/__main__.py": "ends the emulator's process",
    "engines/emulator/anthropic_wire.py": "a header that nobody acts upon",
    "flows/dispatch/rows.py": "rows of the warehouse's tables",
}
"""Modules that do it all the same, and what for."""
PATHS = [path for path in MODULES if name_of(path).startswith(MAIN_PATH)]


def reached_for(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Name) and (owner.id, node.func.attr) in OUTSIDE:
                yield f"{owner.id}.{node.func.attr}, line {node.lineno}"


@pytest.mark.parametrize("path", PATHS, ids=name_of)
def test_a_module_of_the_main_path_asks_its_world(path: Path) -> None:
    assert bool(list(reached_for(path))) == (name_of(path) in ELSEWHERE), list(reached_for(path))


def test_the_world_imports_nothing_of_ours() -> None:
    world = ast.parse((ROOT / "src/thirdshift/world.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(world) if isinstance(node, ast.ImportFrom)]
    assert [node.module for node in imports if (node.module or "").startswith("thirdshift")] == []
