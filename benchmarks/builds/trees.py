"""Another build beside this one: its working tree, and its turn at a benchmark in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[2]


def check_out(ref: str, tree: Path) -> None:
    """Make a worktree of REF. Raises CalledProcessError."""
    command = ["git", "worktree", "add", "--force", "--detach", str(tree), ref]
    subprocess.run(command, cwd=HERE, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def take_away(tree: Path) -> None:
    """Remove a worktree, where there is one."""
    subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=HERE, check=False)


def played_by(
    tree: Path, script: str, given: object, environment: Mapping[str, str | None] | None = None
) -> Iterator[dict[str, Any]]:
    """The JSON lines that `script --play GIVEN` prints there. `environment`: variables besides; None: without it.

    Raises SystemExit: it failed.
    """
    source = tree / "src" if (tree / "src" / "thirdshift").exists() else tree
    changed = {"PYTHONPATH": str(source.resolve()), "OPENBLAS_NUM_THREADS": "1", **(environment or {})}
    variables = {name: value for name, value in (os.environ | changed).items() if value is not None}
    command = [sys.executable, "-W", "ignore", str(Path(script).resolve()), "--play", json.dumps(given)]
    with subprocess.Popen(command, cwd=tree, env=variables, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            yield json.loads(line)
    if process.returncode:
        raise SystemExit(f"{tree}: its nights could not be played (exit {process.returncode})")
