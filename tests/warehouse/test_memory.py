"""What DuckDB may take is a share of what this process may use, wherever its limit stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from thirdshift.warehouse import memory
from thirdshift.warehouse.memory import LEAST_BYTES, memory_limit, usable_bytes

GIB = 1 << 30


def group(folder: Path, place: str, text: str, name: str = "memory.max") -> None:
    path = folder / place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("own", "place", "name"),
    [
        ("0::/jobs/night\n", "jobs/night", "memory.max"),
        ("0::/jobs/night\n", "jobs", "memory.max"),
        ("12:cpu:/x\n5:memory:/jobs\n", "memory/jobs", "memory.limit_in_bytes"),
    ],
)
def test_the_limit_of_a_control_group_or_of_one_above_it_is_what_may_be_used(
    tmp_path: Path, own: str, place: str, name: str
) -> None:
    (tmp_path / "own").write_text(own)
    group(tmp_path / "groups", place, str(123 << 20), name)
    assert usable_bytes(tmp_path / "groups", tmp_path / "own") == 123 << 20


def test_a_group_without_a_limit_leaves_the_machine_s_memory(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/jobs\n")
    unlimited = usable_bytes(tmp_path / "groups", tmp_path / "missing")
    group(tmp_path / "groups", "jobs", "max\n")
    assert usable_bytes(tmp_path / "groups", tmp_path / "own") == unlimited > 0


@pytest.mark.parametrize(
    ("usable", "expected"), [(GIB, "512MiB"), (64 * GIB, "1024MiB"), (10 << 20, f"{LEAST_BYTES >> 20}MiB")]
)
def test_half_of_what_may_be_used_is_given_within_bounds(
    monkeypatch: pytest.MonkeyPatch, usable: int, expected: str
) -> None:
    monkeypatch.setattr(memory, "usable_bytes", lambda: usable)
    assert memory_limit(0.5, GIB) == expected


@pytest.mark.parametrize(
    ("chosen", "expected"), [({}, "system"), ({"ARROW_DEFAULT_MEMORY_POOL": "mimalloc"}, "mimalloc")]
)
def test_arrow_takes_the_systems_memory_unless_the_environment_names_an_allocator(
    chosen: dict[str, str], expected: str
) -> None:
    """An allocator is the whole process's: this one's stays as it is."""
    script = (
        "from thirdshift.warehouse.memory import hold_little; import pyarrow as pa; hold_little(); "
        "print(pa.default_memory_pool().backend_name)"
    )
    environ = {name: value for name, value in os.environ.items() if name != "ARROW_DEFAULT_MEMORY_POOL"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ | chosen, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected


def test_what_the_program_writes_takes_the_systems_memory_too() -> None:
    """Parquet's writers ask the environment alone, and that before Arrow is loaded."""
    script = """
import contextlib, sys, tempfile
from thirdshift.flows.cli.app import main
sys.argv = ["thirdshift", "--version"]
with contextlib.suppress(SystemExit):
    main()
import pyarrow as pa, pyarrow.parquet as pq
with tempfile.TemporaryFile() as file:
    pq.write_table(pa.table({"prompt": ["a letter %d" % n for n in range(100_000)]}), file)
own = [name for name in pa.supported_memory_backends() if name != "system"]
print([name for name in own if getattr(pa, f"{name}_memory_pool")().max_memory()])
"""
    environ = {name: value for name, value in os.environ.items() if name != "ARROW_DEFAULT_MEMORY_POOL"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
